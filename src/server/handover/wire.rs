//! What two processes say to each other when one takes over: frames on a socket in the directory of
//! their state, and once the listening sockets themselves.
//!
//! Both are this program, of versions that need not be the same: what changes in meaning needs another
//! [`VERSION`], and then the new process is told so and starts when the old one has gone.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::limit::Cost;
use crate::store::history::{Counts, UsageRow};

/// The version of what is said here.
pub(super) const VERSION: u32 = 1;

/// The longest frame: what a tenth of a second's journal of a thousand pools comes to, many times over.
const LONGEST: u32 = 64 << 20;

/// What stands beside the sockets: a message cannot be empty.
const SOCKETS: u8 = b'S';

/// The sockets that are handed over: those of the API and of the admin port.
const COUNT: usize = 2;

/// One thing said.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) enum Frame {
    /// The new process asks.
    TakeOver { version: u32 },
    /// The state is free, but for what is set aside by pool: what those cost that wait, and how many they
    /// are.
    Yours { set_aside: Vec<([u8; 16], Cost, u32)> },
    /// What has happened to the requests that are left.
    Said { journals: Vec<([u8; 16], Vec<u8>)>, usage: Vec<Row> },
    /// None is left.
    Bye,
}

/// Usage of a minute, by tenant and model.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Row {
    at: u64,
    tenant: String,
    model: String,
    counts: [u64; 9],
}

impl From<UsageRow> for Row {
    fn from(row: UsageRow) -> Self {
        let Counts { completed, failed, refused, gone, prompt, completion, cached, .. } =
            row.counts;
        let Counts { waited, longest_wait, .. } = row.counts;
        Self {
            at: row.at,
            tenant: (*row.tenant).to_owned(),
            model: (*row.model).to_owned(),
            counts: [
                completed,
                failed,
                refused,
                gone,
                prompt,
                completion,
                cached,
                waited,
                longest_wait,
            ],
        }
    }
}

impl From<Row> for UsageRow {
    fn from(row: Row) -> Self {
        let [completed, failed, refused, gone, prompt, completion, cached, waited, longest_wait] =
            row.counts;
        let counts = Counts {
            completed,
            failed,
            refused,
            gone,
            prompt,
            completion,
            cached,
            waited,
            longest_wait,
        };
        Self { at: row.at, tenant: Arc::from(row.tenant), model: Arc::from(row.model), counts }
    }
}

/// A frame as bytes: its length, and itself.
pub(super) fn bytes(frame: &Frame) -> io::Result<Vec<u8>> {
    let body = rmp_serde::to_vec_named(frame).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or(io::ErrorKind::InvalidData)?.to_be_bytes();
    Ok([&length[..], &body].concat())
}

/// Says something.
pub(super) fn send(mut stream: &UnixStream, frame: &Frame) -> io::Result<()> {
    stream.write_all(&bytes(frame)?)
}

/// What is said next.
pub(super) fn receive(mut stream: &UnixStream) -> io::Result<Frame> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    let read = stream.take(length.into()).read_to_end(&mut body)?;
    if u32::try_from(read) != Ok(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    rmp_serde::from_slice(&body).map_err(io::Error::other)
}

/// Hands the sockets over: the other process gets descriptors of its own, and what waits to be
/// accepted is theirs together.
pub(super) fn send_sockets(stream: &UnixStream, sockets: &[TcpListener; COUNT]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(COUNT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [sockets[0].as_fd(), sockets[1].as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(&[SOCKETS])], &mut control, SendFlags::empty())?;
    if sent == 1 { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Takes the sockets that are handed over.
pub(super) fn receive_sockets(stream: &UnixStream) -> io::Result<[TcpListener; COUNT]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(COUNT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let read =
        recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut taken: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            taken.extend(descriptors);
        }
    }
    if read.bytes != 1 || byte != [SOCKETS] {
        let refused = "the process that runs is of a version that cannot hand over to this one";
        return Err(io::Error::new(io::ErrorKind::Unsupported, refused));
    }
    let sockets: [OwnedFd; COUNT] =
        taken.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(sockets.map(TcpListener::from))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn frames_and_sockets_arrive_as_they_were_sent() {
        let (old, new) = UnixStream::pair().expect("a pair");
        let row = Row { at: 60, tenant: "a".into(), model: "m".into(), counts: [1; 9] };
        let frames = [
            Frame::TakeOver { version: VERSION },
            Frame::Yours { set_aside: vec![([7; 16], Cost::new(1, 2), 3)] },
            Frame::Said { journals: vec![([7; 16], vec![1, 2, 3])], usage: vec![row] },
            Frame::Bye,
        ];
        for frame in &frames {
            send(&old, frame).expect("room");
        }
        for frame in frames {
            assert_eq!(receive(&new).expect("a frame"), frame);
        }
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let sockets = [listen(), listen()];
        let addrs = sockets.each_ref().map(|it| it.local_addr().expect("bound"));
        send_sockets(&old, &sockets).expect("room");
        let taken = receive_sockets(&new).expect("two sockets");
        // Who connects while both have them, and the first lets go, is the other's.
        let waiting = TcpStream::connect(addrs[0]).expect("it listens");
        drop(sockets);
        assert_eq!(taken.each_ref().map(|it| it.local_addr().expect("bound")), addrs);
        let (_, peer) = taken[0].accept().expect("it waits");
        assert_eq!(peer, waiting.local_addr().expect("connected"));
        drop(old);
        assert!(receive(&new).is_err(), "an end is no frame");
    }

    #[test]
    fn usage_is_the_same_on_the_other_side() {
        let counts = Counts { completed: 1, prompt: 2, longest_wait: 3, ..Counts::default() };
        let row = UsageRow { at: 60, tenant: "a".into(), model: "m".into(), counts };
        assert_eq!(UsageRow::from(Row::from(row.clone())), row);
    }
}
