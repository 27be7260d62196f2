//! As much of HTTP/2 as an upstream needs that breaks its rules: frames, written by hand.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::relay::{End, Play, Real};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Stands for the request's own stream in frames that are still to be sent.
const THIS: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113, 7).
pub(super) const NO_ERROR: u32 = 0;
pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a 200 of this type, whose body follows.
pub(super) fn head(kind: &str) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).expect("below 127");
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    // 0x88 is ":status: 200" in the static table.
    frame(HEADERS, END_HEADERS, THIS, &[vec![0x88], literal("content-type", kind)].concat())
}

pub(super) fn data(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, THIS, bytes)
}

pub(super) fn end() -> Vec<u8> {
    frame(DATA, END_STREAM, THIS, b"")
}

pub(super) fn reset(code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, THIS, &code.to_be_bytes())
}

/// Says goodbye; the request's own stream is the last one or, if not `included`, already beyond it.
pub(super) fn goodbye(included: bool, code: u32) -> Vec<u8> {
    let last = if included { u32::MAX >> 1 } else { 0 };
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A frame of a stream that nobody has opened.
pub(super) fn nonsense() -> Vec<u8> {
    frame(DATA, 0, 0x7fff_ffff, b"?")
}

/// The answer as it should be.
pub(super) fn whole(real: &Real) -> Play {
    let pieces = [head(real.kind()), data(&real.body), end()].concat();
    Play::of(pieces, End::Keep).with(real.body.clone())
}

/// Serves a connection: a request after the other, each answered as `answer` says.
pub(super) async fn serve<F>(mut socket: TcpStream, answer: impl Fn(Vec<u8>) -> F)
where
    F: Future<Output = Play>,
{
    let mut preface = [0; PREFACE.len()];
    if socket.read_exact(&mut preface).await.is_err() || preface != *PREFACE {
        return;
    }
    if socket.write_all(&frame(SETTINGS, 0, 0, b"")).await.is_err() {
        return;
    }
    while let Ok(Some((stream, body))) = request(&mut socket).await {
        let window = u32::try_from(body.len()).expect("short").max(1).to_be_bytes();
        let play = answer(body).await;
        let mut bytes = frame(WINDOW_UPDATE, 0, 0, &window);
        for piece in play.pieces {
            bytes.extend(on_stream(piece, stream));
        }
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
        match play.end {
            End::Keep => {}
            End::Close | End::Reset => return,
            // What comes is read, so that the gateway's own frames find room.
            End::Stall => while matches!(request(&mut socket).await, Ok(Some(_))) {},
        }
    }
}

/// The frames with their stream's own number.
fn on_stream(mut frames: Vec<u8>, stream: u32) -> Vec<u8> {
    let mut at = 0;
    while let Some(&[a, b, c, _, _, s1, s2, s3, s4]) = frames.get(at..at + 9) {
        if u32::from_be_bytes([s1, s2, s3, s4]) == THIS {
            frames[at + 5..at + 9].copy_from_slice(&stream.to_be_bytes());
        }
        at += 9 + u32::from_be_bytes([0, a, b, c]) as usize;
    }
    frames
}

/// The next request: its stream and its body; `None` if the gateway resets one first.
async fn request(socket: &mut TcpStream) -> std::io::Result<Option<(u32, Vec<u8>)>> {
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, s1, s2, s3, s4] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        socket.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([s1, s2, s3, s4]);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                socket.write_all(&frame(SETTINGS, ACK, 0, b"")).await?;
            }
            PING if flags & ACK == 0 => socket.write_all(&frame(PING, ACK, 0, &payload)).await?,
            DATA => body.extend(payload),
            RST_STREAM => return Ok(None),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(Some((stream, body)));
        }
    }
}
