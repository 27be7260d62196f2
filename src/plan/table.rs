//! Tables of text: columns as wide as what stands in them, numbers to the right.

use std::fmt::{self, Display};

/// A table; the first column is text, the others are numbers.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Whether the last column is text as well.
    says: bool,
}

impl Table {
    /// A table with these headings.
    pub(super) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).into()], says: false }
    }

    /// The same, with text in its last column.
    pub(super) fn saying(mut self) -> Self {
        self.says = true;
        self
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let is_text = column == 0 || (self.says && column + 1 == columns);
                line.push_str(if column == 0 { " " } else { "  " });
                line.push_str(&if is_text {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// An integer with a comma after every three digits.
pub(super) fn grouped(number: impl Display) -> String {
    let text = number.to_string();
    let (whole, part) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let mut grouped = String::with_capacity(text.len() + text.len() / 3);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(part) = part {
        grouped.push('.');
        grouped.push_str(part);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_in_groups() {
        let groups = [(0, "0"), (999, "999"), (1_000, "1,000"), (172_800, "172,800")];
        for (number, expected) in groups {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(grouped("1234567.891"), "1,234,567.891");
        let mut table = Table::new(["what", "jobs", "why"]).saying();
        table.row(["a day".to_owned(), "48,000".to_owned(), "because".to_owned()]);
        assert_eq!(table.to_string(), "  what     jobs  why\n  a day  48,000  because\n");
    }
}
