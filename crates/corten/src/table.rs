//! Tables in crictl's form: columns of at least 20 characters, three spaces
//! between them, no lines.

use std::io::{self, Write};

/// The least width of a column with its gap.
const MIN_WIDTH: usize = 20;
/// The spaces after the widest cell of a column.
const GAP: usize = 3;

/// Rows of cells, the first of which is the heading.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading.
    #[must_use]
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self::with_heading(heading.to_vec())
    }

    /// A table with a heading whose columns depend on the options.
    #[must_use]
    pub fn with_heading(heading: Vec<&str>) -> Self {
        Self { rows: vec![heading.into_iter().map(str::to_owned).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes the table. The last cell of a row is not padded.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                line.push_str(&cell.replace(char::is_control, " "));
                if i + 1 < row.len() {
                    let used = cell.chars().count();
                    line.extend(std::iter::repeat_n(' ', widths[i].saturating_sub(used)));
                }
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |i: usize| {
            self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max()
        };
        (0..columns).map(|i| (widest(i).unwrap_or(0) + GAP).max(MIN_WIDTH)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "B", "C"]);
        table.row(vec!["short".into(), "a cell wider than the least".into(), "x".into()]);
        table.row(vec!["tab\there".into(), "é".into(), "y".into()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("written");
        let expected = "\
A                   B                             C
short               a cell wider than the least   x
tab here            é                             y
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
