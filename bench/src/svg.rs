//! Charts that are read at a glance: horizontal bars on one scale, and lines against size.

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
    let mut svg = head(title, subtitle, height);
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

/// Height of the area in which lines are drawn.
const PLOT: u32 = 320;
/// Left of it, for its axis.
const AXIS: u32 = 60;
/// Right of it, for the names of lines.
const NAMES: u32 = 250;

pub(crate) struct Line {
    pub(crate) label: String,
    /// Both above 0; others are left out.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: &'static str,
}

/// Each line as multiples of its first value, against `x_axis`; both axes logarithmic.
pub(crate) fn lines(title: &str, subtitle: &str, x_axis: &str, lines: &[Line]) -> String {
    let multiples: Vec<Vec<(f64, f64)>> = lines.iter().map(|line| multiples(&line.points)).collect();
    let all = || multiples.iter().flatten();
    let range = |pick: fn(&(f64, f64)) -> f64| {
        let (least, most) = all()
            .map(pick)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        // Whole decades, at least one.
        let least = if least.is_finite() { least.floor() } else { 0.0 };
        let most = if most.is_finite() { most.ceil() } else { 1.0 };
        (least, most.max(least + 1.0))
    };
    let ((left, right), (bottom, top)) = (range(|point| point.0), range(|point| point.1));
    let width = f64::from(WIDTH - AXIS - NAMES);
    let x = |value: f64| f64::from(AXIS) + (value - left) / (right - left) * width;
    let y = |value: f64| f64::from(HEAD + PLOT) - (value - bottom) / (top - bottom) * f64::from(PLOT);
    let mut svg = head(title, subtitle, HEAD + PLOT + 48);
    let mut decade = bottom;
    while decade <= top {
        let at = y(decade);
        let _ = writeln!(
            svg,
            "<line x1=\"{AXIS}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">x{}</text>",
            f64::from(AXIS) + width,
            AXIS - 6,
            at + 4.0,
            10_f64.powf(decade),
        );
        decade += 1.0;
    }
    for (line, points) in lines.iter().zip(&multiples) {
        let path: Vec<String> = points
            .iter()
            .map(|(h, v)| format!("{:.1},{:.1}", x(*h), y(*v)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            line.colour
        );
    }
    for (row, line) in (0..).zip(lines) {
        let middle = HEAD + 12 + row * ROW;
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"14\" height=\"4\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            WIDTH - NAMES + 12,
            middle - 2,
            line.colour,
            WIDTH - NAMES + 32,
            middle + 4,
            escaped(&line.label)
        );
    }
    let mut sizes: Vec<f64> = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|point| point.0))
        .collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for size in sizes.into_iter().filter(|size| *size > 0.0) {
        let (at, below) = (x(size.log10()), HEAD + PLOT + 18);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\" fill=\"#555\">{size}</text>"
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
        f64::from(AXIS) + width / 2.0,
        HEAD + PLOT + 38,
        escaped(x_axis)
    );
    svg.push_str("</svg>\n");
    svg
}

/// Logarithms of sizes, and of values as multiples of the first one.
fn multiples(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let good = points.iter().filter(|(size, value)| *size > 0.0 && *value > 0.0);
    let first = good.clone().next().map_or(1.0, |point| point.1);
    good.map(|(size, value)| (size.log10(), (value / first).log10()))
        .collect()
}

fn head(title: &str, subtitle: &str, height: u32) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"16\" font-weight=\"bold\">{}</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#555\">{}</text>\n",
        escaped(title),
        escaped(subtitle)
    )
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

    #[test]
    fn lines_begin_together_and_leave_out_what_has_no_logarithm() {
        let line = |points: &[(f64, f64)]| Line {
            label: "cost".to_owned(),
            points: points.to_vec(),
            colour: "#123456",
        };
        assert_eq!(multiples(&[(10.0, 5.0), (100.0, 50.0)]), [(1.0, 0.0), (2.0, 1.0)]);
        assert_eq!(multiples(&[(10.0, 0.0), (100.0, 50.0)]), [(2.0, 0.0)]);
        let svg = lines("t", "", "size", &[line(&[(10.0, 5.0), (100.0, 50.0)]), line(&[])]);
        // From the lower left to the upper right corner.
        assert!(svg.contains("points=\"60.0,376.0 650.0,56.0\""), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
