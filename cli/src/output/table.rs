//! Aligned columns. Cells hold no line ends: what would break a row is shown as a space.

/// Between two columns.
const GAP: usize = 3;

pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Of what was printed before, where a table grows while it is watched.
    widths: Vec<usize>,
}

impl Table {
    #[must_use]
    pub fn new(header: Vec<&'static str>) -> Self {
        let widths = header.iter().map(|title| title.len()).collect();
        Self {
            header,
            rows: Vec::new(),
            widths,
        }
    }

    /// `cells` in the order of the header.
    pub fn push(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.header.len());
        let cells: Vec<String> = cells
            .into_iter()
            .map(|cell| cell.replace(|c: char| c.is_control(), " "))
            .collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Titles and all rows.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.titles();
        for row in &self.rows {
            text.push_str(&self.line(row));
        }
        text
    }

    /// The line of titles alone.
    #[must_use]
    pub fn titles(&self) -> String {
        let titles: Vec<String> = self.header.iter().map(|title| (*title).to_owned()).collect();
        self.line(&titles)
    }

    /// The rows since the last call, without titles, as wide as all before.
    #[must_use]
    pub fn take_rows(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            line.push_str(cell);
            let fill = width.saturating_sub(cell.chars().count()) + GAP;
            line.extend(std::iter::repeat_n(' ', fill));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}
