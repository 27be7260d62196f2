//! Finds the true usage in a response while its bytes stream by.
//!
//! The life of a meter: made from the response's head, fed every piece of the body as it passes,
//! told of the end, asked at any time what it has seen. It only looks: bytes are neither changed
//! nor kept waiting, and a body it cannot read is none of its business.
//!
//! # Invariants
//!
//! - How a body is cut into pieces does not change what is seen.
//! - A value fully received counts, even if what follows it is cut off.
//! - Memory is bounded: at most one captured value, and the window of a decompressor.

use std::io::{self, Write};

use flate2::write::{MultiGzDecoder, ZlibDecoder};

use super::details::{Details, DetailsWatch};
use super::encoding::is_json;
use super::finish::LengthWatch;
use super::report::{Report, StreamError, Usage};
use super::scan::Scanner;
use super::sse::Sse;

/// Most bytes read of a compressed body once unpacked, so that a hostile one cannot keep the
/// gateway busy: ten times a completion of 100,000 tokens, streamed at 250 bytes a token.
const DECODED_MAX: usize = 256 << 20;

/// What a meter has seen of a response.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// The usage reported; the last one if there are several.
    pub usage: Option<Usage>,
    /// The error reported in the body; the first one if there are several.
    pub error: Option<StreamError>,
    /// Whether the answer came to its own end: `[DONE]`, or a complete JSON document.
    pub done: bool,
    /// Events with data, `[DONE]` not counted; 0 if the response is no event stream.
    pub events: u64,
    /// Whether a choice has come: an event, or a document, with a non-empty `choices`.
    pub first_content: bool,
    /// Whether a choice ended because of the output limit; looked for if [`Meter::watch_length`]
    /// says so.
    pub cut: bool,
}

impl Seen {
    /// Adds what one document showed.
    pub(super) fn take(&mut self, report: &Report) {
        self.usage = report.usage.or(self.usage);
        self.error = self.error.take().or_else(|| report.error());
        self.first_content |= report.choices;
    }
}

/// Watches one response body.
#[derive(Debug)]
pub struct Meter {
    decoder: Decoder,
}

/// What the bytes go through before they are looked at.
#[derive(Debug)]
enum Decoder {
    Identity(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Deflate(Box<ZlibDecoder<Sink>>),
    /// What was seen before the body turned out not to be readable.
    Opaque(Seen),
}

/// The reader of the decoded bytes.
#[derive(Debug)]
struct Sink {
    frames: Frames,
    length: Option<LengthWatch>,
    details: Option<Box<DetailsWatch>>,
    /// Bytes that may still come.
    room: usize,
}

/// How documents are laid out in the body.
#[derive(Debug)]
enum Frames {
    Json(Scanner, Report),
    Sse(Sse),
}

impl Meter {
    /// A meter for a response with these values of `Content-Type` and `Content-Encoding`.
    ///
    /// JSON and event streams are read, as they are or packed with gzip or deflate. Of any other
    /// body nothing is seen.
    #[must_use]
    pub fn new(content_type: Option<&str>, content_encoding: Option<&str>) -> Self {
        let decoder = Frames::named(content_type.unwrap_or(""))
            .map(|frames| Sink { frames, length: None, details: None, room: usize::MAX })
            .and_then(|sink| Decoder::named(content_encoding.unwrap_or(""), sink));
        Self { decoder: decoder.unwrap_or_else(|| Decoder::Opaque(Seen::default())) }
    }

    /// Looks for `finish_reason: length` from now on. Costs a little more for each piece.
    #[must_use]
    pub fn watch_length(mut self) -> Self {
        if let Some(sink) = self.decoder.sink() {
            sink.length = Some(LengthWatch::default());
        }
        self
    }

    /// Looks for what [`Self::details`] tells from now on. Costs a little more for each piece.
    #[must_use]
    pub fn watch_details(mut self) -> Self {
        if let Some(sink) = self.decoder.sink() {
            sink.details = Some(Box::default());
        }
        self
    }

    /// Looks at the next piece of the body, as it was received.
    pub fn feed(&mut self, bytes: &[u8]) {
        let read = match &mut self.decoder {
            Decoder::Identity(sink) => {
                sink.feed(bytes);
                return;
            }
            // Flushed, so that what has been received is seen now and not with the next piece.
            Decoder::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Deflate(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Opaque(_) => return,
        };
        if read.is_err() {
            self.decoder = Decoder::Opaque(self.seen());
        }
    }

    /// Whether it can tell anything of the body at all.
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        !matches!(self.decoder, Decoder::Opaque(_))
    }

    /// Whether the usage seen so far is that of the whole answer, even if the body breaks off here.
    #[must_use]
    pub fn is_usage_final(&self) -> bool {
        match self.decoder.sink_ref() {
            Some(Sink { frames: Frames::Sse(sse), .. }) => sse.is_usage_final(),
            // A document has one.
            Some(_) => true,
            // Whatever came after it could not be read.
            None => false,
        }
    }

    /// Takes note that the body has ended.
    pub fn finish(&mut self) {
        if let Some(Sink { frames: Frames::Sse(sse), .. }) = self.decoder.sink() {
            sse.finish();
        }
    }

    /// What the answer has said of itself so far, if that is looked for.
    #[must_use]
    pub fn details(&self) -> Option<&Details> {
        self.decoder.sink_ref()?.details.as_ref().map(|watch| watch.found())
    }

    /// What has been seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let sink = match &self.decoder {
            Decoder::Identity(sink) => sink,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Deflate(decoder) => decoder.get_ref(),
            Decoder::Opaque(seen) => return seen.clone(),
        };
        let cut = sink.length.as_ref().is_some_and(LengthWatch::found);
        match &sink.frames {
            Frames::Sse(sse) => Seen { cut, ..sse.seen().clone() },
            Frames::Json(scanner, report) => {
                let mut seen = Seen { done: scanner.is_complete(), cut, ..Seen::default() };
                seen.take(report);
                seen
            }
        }
    }
}

impl Decoder {
    /// The decoder for a content encoding, if there is one.
    fn named(content_encoding: &str, mut sink: Sink) -> Option<Self> {
        let name = content_encoding.trim().to_ascii_lowercase();
        if !matches!(name.as_str(), "" | "identity") {
            sink.room = DECODED_MAX;
        }
        match name.as_str() {
            "" | "identity" => Some(Self::Identity(sink)),
            "gzip" | "x-gzip" => Some(Self::Gzip(Box::new(MultiGzDecoder::new(sink)))),
            "deflate" => Some(Self::Deflate(Box::new(ZlibDecoder::new(sink)))),
            _ => None,
        }
    }

    fn sink_ref(&self) -> Option<&Sink> {
        match self {
            Self::Identity(sink) => Some(sink),
            Self::Gzip(decoder) => Some(decoder.get_ref()),
            Self::Deflate(decoder) => Some(decoder.get_ref()),
            Self::Opaque(_) => None,
        }
    }

    fn sink(&mut self) -> Option<&mut Sink> {
        match self {
            Self::Identity(sink) => Some(sink),
            Self::Gzip(decoder) => Some(decoder.get_mut()),
            Self::Deflate(decoder) => Some(decoder.get_mut()),
            Self::Opaque(_) => None,
        }
    }
}

impl Frames {
    /// The layout a content type stands for, if it is one that is read.
    fn named(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or("").trim();
        if essence.eq_ignore_ascii_case("text/event-stream") {
            Some(Self::Sse(Sse::new()))
        } else {
            is_json(essence).then(|| Self::Json(Scanner::default(), Report::default()))
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        match self {
            Self::Sse(sse) => sse.feed(bytes),
            Self::Json(scanner, report) => scanner.feed(bytes, |key, raw| report.note(key, raw)),
        }
    }
}

impl Sink {
    fn feed(&mut self, bytes: &[u8]) {
        self.frames.feed(bytes);
        if let Some(length) = &mut self.length {
            length.feed(bytes);
        }
        if let Some(details) = &mut self.details {
            details.feed(bytes);
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self
            .room
            .checked_sub(bytes.len())
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
