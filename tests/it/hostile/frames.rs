//! A peer that speaks HTTP/2 frame by frame, as wrongly as it likes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::PATIENCE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITISED: u8 = 32;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it stands on the wire.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A setting of a SETTINGS frame.
pub(super) fn setting(key: u16, value: u32) -> Vec<u8> {
    [&key.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// Fields as HPACK has them when it compresses nothing.
pub(super) fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            number(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// A number with a prefix of seven bits (RFC 7541, 5.1).
fn number(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).expect("below 127"));
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).expect("seven bits") | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).expect("seven bits"));
}

/// A frame that came.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The code of a `RST_STREAM` or `GOAWAY`.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        let code = self.payload.get(at..at + 4).and_then(|it| it.try_into().ok());
        u32::from_be_bytes(code.expect("a code"))
    }

    /// The status of an answer: the first field, in one of the forms that our peer writes.
    pub(super) fn status(&self) -> u16 {
        let block = &self.payload[..];
        // The table was set to nothing, and its encoder says so.
        let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
        match block[0] {
            short @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(short - 0x88)],
            literal => {
                // By name 8, with, without or never an index; the value in Huffman's code or not.
                assert!([0x48, 0x08, 0x18].contains(&literal), "another form: {literal:#x}");
                digits(&block[1..])
            }
        }
    }
}

/// A number of three digits as a text of HPACK.
fn digits(text: &[u8]) -> u16 {
    let length = usize::from(text[0] & 0x7f);
    let bytes = &text[1..=length];
    if text[0] & 0x80 == 0 {
        return std::str::from_utf8(bytes).ok().and_then(|it| it.parse().ok()).expect("digits");
    }
    let bits = bytes.iter().fold(0_u64, |bits, &byte| (bits << 8) | u64::from(byte));
    let mut left = 8 * bytes.len();
    let mut take = |count: usize| {
        left -= count;
        (bits >> left) & ((1 << count) - 1)
    };
    let mut value = 0;
    for _ in 0..3 {
        // 0, 1 and 2 have five bits, the others six, from 0x19 (RFC 7541, appendix B).
        let five = take(5);
        let digit = if five < 3 { five } else { ((five << 1) | take(1)) - 0x19 + 3 };
        value = 10 * value + digit;
    }
    u16::try_from(value).expect("three digits")
}

/// A connection over HTTP/2.
pub(super) struct Peer {
    pub(super) socket: TcpStream,
    read: Vec<u8>,
}

impl Peer {
    /// A connection whose preface has been sent, with these settings.
    pub(super) async fn open(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let socket = TcpStream::connect(addr).await.expect("it listens");
        socket.set_nodelay(true).expect("an open socket");
        let mut peer = Self { socket, read: Vec::new() };
        // No table for names and values, so that each answer can be read by itself.
        let mut payload = setting(1, 0);
        payload.extend(settings.iter().flat_map(|&(key, value)| setting(key, value)));
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()).await;
        peer
    }

    /// Writes, unless the other side has gone.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(3 * PATIENCE, self.socket.write_all(bytes)).await;
        sent.expect("it takes what is sent, or closes").is_ok()
    }

    /// The next frame; `None` at the end, however it ends.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        self.fill(9).await?;
        let length = [0, self.read[0], self.read[1], self.read[2]];
        let length = usize::try_from(u32::from_be_bytes(length)).expect("small");
        self.fill(9 + length).await?;
        let rest = self.read.split_off(9 + length);
        let bytes = std::mem::replace(&mut self.read, rest);
        let stream = u32::from_be_bytes(bytes[5..9].try_into().expect("four")) & 0x7fff_ffff;
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    async fn fill(&mut self, length: usize) -> Option<()> {
        while self.read.len() < length {
            let read = timeout(3 * PATIENCE, self.socket.read_buf(&mut self.read)).await;
            if read.expect("it answers or closes").ok()? == 0 {
                return None;
            }
        }
        Some(())
    }

    /// The next frame that is about requests: pings are answered, settings acknowledged, and
    /// windows nothing to us.
    pub(super) async fn event(&mut self) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            match next.kind {
                SETTINGS if next.flags & ACK == 0 => {
                    self.send(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                PING if next.flags & ACK == 0 => {
                    self.send(&frame(PING, ACK, 0, &next.payload)).await;
                }
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(next),
            }
        }
    }

    /// Waits until the other side has read everything up to here.
    pub(super) async fn sync(&mut self) -> bool {
        let payload = b"in sync?";
        if !self.send(&frame(PING, 0, 0, payload)).await {
            return false;
        }
        while let Some(next) = self.next().await {
            if next.kind == PING && next.flags & ACK != 0 && next.payload == payload {
                return true;
            }
        }
        false
    }

    /// Waits for the end; the code of the last GOAWAY, if one came.
    pub(super) async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(event) = self.event().await {
            if event.kind == GOAWAY {
                code = Some(event.code());
            }
        }
        code
    }
}
