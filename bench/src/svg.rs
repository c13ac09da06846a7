//! A chart of horizontal bars, one scale for all: enough to see at a glance who is how fast.

use std::fmt::Write;

const WIDTH: u32 = 900;
const LABELS: u32 = 330;
/// Right of the bars, for the figure.
const FIGURES: u32 = 110;
const ROW: u32 = 24;
const HEAD: u32 = 56;

pub(crate) struct Bar {
    pub(crate) label: String,
    /// The bar's length.
    pub(crate) value: f64,
    /// A thin line beyond it, such as to a 95th percentile.
    pub(crate) whisker: f64,
    pub(crate) colour: &'static str,
}

/// `unit` follows each figure.
pub(crate) fn bars(title: &str, subtitle: &str, unit: &str, bars: &[Bar]) -> String {
    let longest = bars
        .iter()
        .map(|bar| bar.value.max(bar.whisker))
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH - LABELS - FIGURES) / longest;
    let height = HEAD + ROW * u32::try_from(bars.len()).unwrap_or(u32::MAX / ROW) + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#555\">{}</text>\n",
        escaped(title),
        escaped(subtitle)
    );
    let mut y = HEAD;
    for bar in bars {
        let middle = y + ROW / 2;
        let (length, whisker) = (bar.value * scale, bar.whisker.max(bar.value) * scale);
        let (left, text) = (f64::from(LABELS), middle + 5);
        // Writing to a String can't fail.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <line x1=\"{left}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#777\"/>\
             <rect x=\"{left}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{text}\" fill=\"#333\">{:.1} {unit}</text>",
            LABELS - 8,
            escaped(&bar.label),
            left + whisker,
            y + 4,
            ROW - 8,
            bar.colour,
            left + whisker + 6.0,
            bar.value,
        );
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_has_a_bar_for_each_value_and_escapes_labels() {
        let bar = |label: &str, value| Bar {
            label: label.to_owned(),
            value,
            whisker: value * 2.0,
            colour: "#123456",
        };
        let svg = bars("a & b", "", "ms", &[bar("<x>", 5.0), bar("y", 10.0)]);
        assert_eq!(svg.matches("#123456").count(), 2);
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;x&gt;"), "{svg}");
        assert!(
            svg.contains("width=\"230.0\""),
            "half of the bars' width belongs to half of the longest: {svg}"
        );
    }
}
