//! Puts an answer's frames on the wire: as they are, compressed, or in tiny pieces.

use std::io::{self, Write};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use futures_util::{Stream, future};

/// Small enough to split every token and most line ends.
const TINY_BYTES: usize = 3;

/// How a body is put on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wire {
    pub(super) gzip: bool,
    pub(super) tiny_frames: bool,
}

/// A body of these frames.
pub(super) fn body<S>(wire: Wire, frames: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    match (wire.gzip, wire.tiny_frames) {
        (false, false) => Body::from_stream(frames),
        (false, true) => Body::from_stream(tiny(frames)),
        (true, false) => Body::from_stream(gzip(frames)),
        (true, true) => Body::from_stream(tiny(gzip(frames))),
    }
}

fn tiny<S>(frames: S) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    frames.flat_map(|frame| {
        let mut pieces = Vec::new();
        match frame {
            Ok(mut bytes) => {
                while !bytes.is_empty() {
                    pieces.push(Ok(bytes.split_to(bytes.len().min(TINY_BYTES))));
                }
            }
            Err(error) => pieces.push(Err(error)),
        }
        stream::iter(pieces)
    })
}

/// Compresses, flushing after each frame, so that a reader keeps the pace of the writer.
fn gzip<S>(frames: S) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    let end = stream::once(future::ready(None));
    let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    frames.map(Some).chain(end).scan(encoder, |encoder, frame| {
        future::ready(match frame {
            Some(Ok(bytes)) => encoder.as_mut().map(|encoder| Ok(flush(encoder, &bytes)?)),
            Some(Err(error)) => Some(Err(error)),
            None => encoder.take().map(|encoder| Ok(encoder.finish()?.into())),
        })
    })
}

fn flush(encoder: &mut GzEncoder<Vec<u8>>, bytes: &[u8]) -> io::Result<Bytes> {
    encoder.write_all(bytes)?;
    encoder.flush()?;
    Ok(std::mem::take(encoder.get_mut()).into())
}
