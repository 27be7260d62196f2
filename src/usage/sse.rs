//! Reads server-sent events, as far as they carry usage and errors.
//!
//! Lines, fields and events are told apart as the format's standard says; the data of an event
//! goes straight into a [`Scanner`] and is never gathered.

use memchr::memchr2;

use super::meter::Seen;
use super::report::Report;
use super::scan::{Scanner, may_tell};

/// The only field that matters, with its colon.
const DATA: &[u8; 5] = b"data:";
/// The data that says a stream is over.
const DONE: &[u8; 6] = b"[DONE]";

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// In the field's name, so many bytes of which are those of [`DATA`].
    Name(usize),
    /// After the colon, where one space does not count.
    Colon,
    /// In the data.
    Data,
    /// In a comment or another field.
    Other,
}

/// The state of an event stream.
#[derive(Debug)]
pub(super) struct Sse {
    line: Line,
    /// Whether this is the first line, which may begin with a byte order mark.
    first: bool,
    /// Whether a line feed would belong to the line just ended.
    after_return: bool,
    /// Whether the event has a data line.
    has_data: bool,
    /// The first bytes of the event's data, enough to know [`DONE`].
    head: [u8; DONE.len()],
    head_len: usize,
    pub(super) scanner: Scanner,
    report: Report,
    seen: Seen,
    /// Events that told a usage.
    usages: u64,
    /// Whether the last event did.
    told: bool,
}

impl Sse {
    pub(super) fn new() -> Self {
        Self {
            line: Line::Name(0),
            first: true,
            after_return: false,
            has_data: false,
            head: [0; DONE.len()],
            head_len: 0,
            scanner: Scanner::default(),
            report: Report::default(),
            seen: Seen::default(),
            usages: 0,
            told: false,
        }
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                at += 1;
                continue;
            }
            match self.line {
                Line::Name(known) => match byte {
                    b'\n' | b'\r' => self.end_line(byte),
                    _ if DATA.get(known) == Some(&byte) => {
                        let known = known + 1;
                        self.line =
                            if known == DATA.len() { Line::Colon } else { Line::Name(known) };
                    }
                    0xEF | 0xBB | 0xBF if self.first && known == 0 => {}
                    _ => self.line = Line::Other,
                },
                Line::Colon => {
                    self.line = Line::Data;
                    self.begin_data();
                    if byte != b' ' {
                        continue;
                    }
                }
                Line::Data | Line::Other => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let run = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    let (text, end) = rest.split_at(run);
                    if matches!(self.line, Line::Data) {
                        if self.tells_nothing(text, end) {
                            self.begin(text);
                        } else {
                            self.data(text);
                        }
                    }
                    at += run;
                    let Some(&end) = end.first() else { return };
                    self.end_line(end);
                }
            }
            at += 1;
        }
    }

    /// Takes the end of the stream for the end of the event.
    pub(super) fn finish(&mut self) {
        self.end_event();
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether the usage is that of the whole answer, though the stream may have broken off behind it:
    /// only the last event had it, and it was not the first. Some upstreams tell in every event what it is so far.
    pub(super) fn is_usage_final(&self) -> bool {
        self.seen.done || (self.usages == 1 && self.told && self.seen.events > 1)
    }

    fn end_line(&mut self, end: u8) {
        match self.line {
            Line::Name(0) => self.end_event(),
            // A field without a colon has an empty value.
            Line::Name(4) | Line::Colon => self.begin_data(),
            _ => {}
        }
        self.first = false;
        self.after_return = end == b'\r';
        self.line = Line::Name(0);
    }

    /// Begins a data line: the lines of one event are joined by line feeds.
    fn begin_data(&mut self) {
        if self.has_data {
            self.data(b"\n");
        }
        self.has_data = true;
    }

    fn data(&mut self, text: &[u8]) {
        if self.head_len < DONE.len() {
            self.begin(text);
        }
        let report = &mut self.report;
        self.scanner.feed(text, |key, raw| report.note(key, raw));
    }

    /// Whether this is all the data of an event, and nothing in it is looked for: most events are a word
    /// of the answer each, and a search is a tenth of a scan.
    fn tells_nothing(&self, text: &[u8], end: &[u8]) -> bool {
        let whole = end.starts_with(b"\n\n") || end.starts_with(b"\r\n\r\n");
        whole && self.head_len == 0 && self.seen.first_content && !may_tell(text)
    }

    /// Keeps the first bytes of the event's data.
    fn begin(&mut self, text: &[u8]) {
        for (slot, byte) in self.head.iter_mut().skip(self.head_len).zip(text) {
            *slot = *byte;
            self.head_len += 1;
        }
    }

    fn end_event(&mut self) {
        if self.head_len > 0 {
            if self.head == *DONE {
                self.seen.done = true;
            } else {
                self.seen.events += 1;
            }
            self.told = self.report.usage.is_some();
            self.usages += u64::from(self.told);
            self.seen.take(&self.report);
        }
        self.has_data = false;
        self.head = [0; DONE.len()];
        self.head_len = 0;
        self.scanner.reset();
        self.report = Report::default();
    }
}
