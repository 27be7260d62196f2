//! Reads a file of requests line by line, a bounded piece at a time.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A piece is complete when it has this many bytes or lines, whichever comes first: enough that a
/// piece is read in one go, and that all batches together do not need much.
const PIECE_BYTES: usize = 256 << 10;
const PIECE_LINES: usize = 256;

const BUFFER: usize = 32 << 10;

/// A line's number is kept in 24 bits.
pub(super) const MOST_LINES: u32 = (1 << 24) - 1;

/// A line that is not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    /// Its number in the file, from 0.
    pub(super) number: u32,
    /// Its text without what ends it; `None` if it is too long.
    pub(super) text: Option<Bytes>,
}

/// A file being read.
#[derive(Debug)]
pub(super) struct Lines<R = BufReader<File>> {
    source: R,
    next: u32,
    longest: usize,
}

impl Lines {
    /// Opens a file; lines of more than `longest` bytes are skipped.
    pub(super) fn open(path: &Path, longest: usize) -> io::Result<Self> {
        Ok(Self::new(BufReader::with_capacity(BUFFER, File::open(path)?), longest))
    }

    /// [`Self::piece`], off the threads that serve.
    pub(super) async fn next_piece(mut self) -> io::Result<(Vec<Line>, Self)> {
        let read = move || Ok((self.piece()?, self));
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(source: R, longest: usize) -> Self {
        Self { source, next: 0, longest }
    }

    /// The next lines; none at the end of the file.
    pub(super) fn piece(&mut self) -> io::Result<Vec<Line>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES && lines.len() < PIECE_LINES {
            let Some(line) = self.line()? else { break };
            bytes += line.text.as_ref().map_or(0, Bytes::len);
            lines.push(line);
        }
        Ok(lines)
    }

    /// The next line that is not empty.
    fn line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let (mut text, mut whole, mut ended) = (Vec::new(), true, false);
            while !ended {
                let buffer = match self.source.fill_buf() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    buffer => buffer?,
                };
                if buffer.is_empty() {
                    break;
                }
                let end = memchr::memchr(b'\n', buffer);
                let part = &buffer[..end.unwrap_or(buffer.len())];
                whole &= text.len() + part.len() <= self.longest;
                if whole {
                    text.extend_from_slice(part);
                }
                let used = part.len() + usize::from(end.is_some());
                ended = end.is_some();
                self.source.consume(used);
            }
            if !ended && text.is_empty() && whole {
                return Ok(None);
            }
            let number = self.next;
            self.next += 1;
            if number == MOST_LINES {
                return Err(io::Error::other("the file has too many lines"));
            }
            // Some editors put a mark at the beginning.
            let start = if number == 0 && text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            let trimmed = text[start..].trim_ascii();
            if !whole {
                return Ok(Some(Line { number, text: None }));
            }
            if !trimmed.is_empty() {
                let text = Bytes::copy_from_slice(trimmed);
                return Ok(Some(Line { number, text: Some(text) }));
            }
        }
    }
}

/// A line's parts, as they stand.
#[derive(Debug, Deserialize)]
pub(super) struct Request<'a> {
    #[serde(borrow, default)]
    pub(super) custom_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) body: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// The parts of a line.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        // A list of four would do for the parser.
        if text.first() != Some(&b'{') {
            return Err(serde::de::Error::custom("no object"));
        }
        serde_json::from_slice(text)
    }

    /// A part that has to be text, if it is.
    pub(super) fn text(part: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Text<'b>(#[serde(borrow)] Cow<'b, str>);
        serde_json::from_str::<Text<'_>>(part?.get()).ok().map(|Text(text)| text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &[u8], longest: usize, buffer: usize) -> Vec<(u32, Option<String>)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text), longest);
        let mut all = Vec::new();
        loop {
            let piece = lines.piece().unwrap();
            if piece.is_empty() {
                return all;
            }
            let text = |it: Bytes| String::from_utf8(it.to_vec()).unwrap();
            all.extend(piece.into_iter().map(|line| (line.number, line.text.map(text))));
        }
    }

    fn some(number: u32, text: &str) -> (u32, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does_and_empty_ones_skipped() {
        for (text, expected) in [
            (&b""[..], vec![]),
            (b"\n\n", vec![]),
            (b"a", vec![some(0, "a")]),
            (b"a\nb\n", vec![some(0, "a"), some(1, "b")]),
            (b"\xef\xbb\xbfa\r\n\r\n  \n b \n", vec![some(0, "a"), some(3, "b")]),
            (b"a\n12345\n123456\nb", vec![some(0, "a"), some(1, "12345"), (2, None), some(3, "b")]),
            (b"123456", vec![(0, None)]),
        ] {
            for buffer in [1, 3, 100] {
                assert_eq!(all(text, 5, buffer), expected, "{text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_between_pieces(
            lines in prop::collection::vec("[a-z]{0,2000}", 0..600),
            buffer in 1_usize..5_000,
        ) {
            let expected: Vec<_> = lines.iter().zip(0..).filter(|(line, _)| !line.is_empty())
                .map(|(line, number)| some(number, line)).collect();
            prop_assert_eq!(all(lines.join("\n").as_bytes(), 10_000, buffer), expected);
        }
    }

    #[test]
    fn parts_are_text_or_not() {
        let line = br#"{"custom_id":"a\u00e9","method":"POST","url":7,"body":{"x": 1},"more":[]}"#;
        let request = Request::parse(line).unwrap();
        assert_eq!(Request::text(request.custom_id).unwrap(), "aé");
        assert_eq!(Request::text(request.method).unwrap(), "POST");
        assert_eq!((Request::text(request.url), Request::text(None)), (None, None));
        assert_eq!(request.body.unwrap().get(), r#"{"x": 1}"#);
        assert!(Request::parse(b"{\"body\":{}").is_err());
        assert!(Request::parse(br#"["id","POST","/",{}]"#).is_err());
        assert!(Request::parse(br#"{"body":{},"body":{}}"#).is_err(), "which one?");
    }
}
