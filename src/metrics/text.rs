//! Families that are written into a scrape as they are, without being kept between two scrapes.
//!
//! What has a series for each pool or tenant is thousands of lines. The registry would make an object
//! with labels of its own for each, twice, and take several times as long.

use std::fmt::Write;

/// The text of a scrape, family by family.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// One family; what is written to it gets its name.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// The labels of a series, as they stand between the braces.
#[derive(Clone, Debug)]
pub(super) struct Labels(String);

impl Text {
    /// A scrape that begins with what is there.
    pub(super) const fn after(text: String) -> Self {
        Self(text)
    }

    /// The whole.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Begins a family, of this type; the series that `write` adds are all that it has. Without any
    /// it is left out.
    pub(super) fn family(
        &mut self,
        (name, kind, help): (&'static str, &str, &str),
        write: impl FnOnce(&mut Family<'_>),
    ) {
        let before = self.0.len();
        // Writing into memory does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let head = self.0.len();
        write(&mut Family { text: &mut self.0, name });
        if self.0.len() == head {
            self.0.truncate(before);
        }
    }
}

impl Family<'_> {
    /// Adds a series.
    pub(super) fn add(&mut self, labels: &Labels, value: impl Value) {
        self.text.push_str(self.name);
        if !labels.0.is_empty() {
            self.text.push('{');
            self.text.push_str(&labels.0);
            self.text.push('}');
        }
        self.text.push(' ');
        value.write(self.text);
        self.text.push('\n');
    }
}

impl Labels {
    /// These labels, with their values as they are meant.
    pub(super) fn new<const N: usize>(labels: [(&str, &str); N]) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    plain => text.push(plain),
                }
            }
            text.push('"');
        }
        Self(text)
    }
}

/// A number as the format has it.
pub(super) trait Value {
    /// Appends it.
    fn write(self, text: &mut String);
}

impl Value for i64 {
    fn write(self, text: &mut String) {
        text.push_str(itoa::Buffer::new().format(self));
    }
}

impl Value for u64 {
    fn write(self, text: &mut String) {
        text.push_str(itoa::Buffer::new().format(self));
    }
}

impl Value for bool {
    fn write(self, text: &mut String) {
        text.push(if self { '1' } else { '0' });
    }
}

impl Value for f64 {
    fn write(self, text: &mut String) {
        // Writing into memory does not fail; infinity is written in its own way.
        let _ = match self {
            Self::INFINITY => text.write_str("+Inf"),
            Self::NEG_INFINITY => text.write_str("-Inf"),
            finite => write!(text, "{finite}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_the_format_has_them() {
        let mut text = Text::after("# before\n".to_owned());
        text.family(("empty", "gauge", "Nothing."), |_| {});
        text.family(("some", "gauge", "Some."), |family| {
            family.add(&Labels::new([("a", "x"), ("b", "quoted \" \\ \n")]), -5_i64);
            family.add(&Labels::new([("a", "y")]), u64::MAX);
            family.add(&Labels::new([("a", "z")]), 0.25);
            family.add(&Labels::new([("a", "i")]), f64::INFINITY);
            family.add(&Labels::new([]), true);
        });
        let expected = "# before\n# HELP some Some.\n# TYPE some gauge\n\
            some{a=\"x\",b=\"quoted \\\" \\\\ \\n\"} -5\nsome{a=\"y\"} 18446744073709551615\n\
            some{a=\"z\"} 0.25\nsome{a=\"i\"} +Inf\nsome 1\n";
        assert_eq!(text.into_string(), expected);
    }
}
