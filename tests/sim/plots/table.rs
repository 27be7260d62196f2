//! A file of comma-separated values.

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::{fs, io};

/// Rows under a header, as text.
pub(crate) struct Table {
    columns: usize,
    text: String,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.len(), text: columns.join(",") + "\n" }
    }

    /// Adds a row of as many values as there are columns.
    pub(crate) fn row(&mut self, values: &[&dyn Display]) {
        assert_eq!(values.len(), self.columns, "a value for each column");
        for (index, value) in values.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(self.text, "{comma}{value}").expect("a string takes it");
        }
        self.text.push('\n');
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> io::Result<()> {
        fs::write(folder.join(name).with_extension("csv"), &self.text)
    }
}
