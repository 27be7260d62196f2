//! The socket of a connection: gives up on a peer that takes nothing, and does not hang up on one
//! that is still talking.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::watch::Peer;

/// How long a peer may pause that is still sending what nobody will read, and how long it may send.
/// nginx lingers for 5 and 30 seconds; whoever pauses for two has seen the answer.
const LINGER_PAUSE: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(30);

/// How much it may send: over HTTP/1 a large body, sent whole before its client looks for an answer;
/// over HTTP/2 somewhat more than its windows had room for, and as much where no request was made out.
const LINGER_BYTES: usize = 64 << 20;
const LINGER_BYTES_NO_BODY: usize = 2 << 20;

/// A stream with a limit on the time for which the peer may take nothing.
///
/// It is shut down with care: a socket closed with bytes unread resets the connection, and a reset
/// takes the answer away from a peer that has not read it yet. So what is still coming is read and
/// thrown away, for a while.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    peer: Arc<Peer>,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    until: Instant,
    pause: Pin<Box<Sleep>>,
    /// Bytes that it may still send.
    room: usize,
}

impl<S> Patient<S> {
    pub(super) const fn new(stream: S, limit: Duration, peer: Arc<Peer>) -> Self {
        Self { stream, limit, stuck: None, peer, lingering: None }
    }

    fn watch<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let due = Instant::now() + self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep_until(due)));
        ready!(stuck.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads on until the peer has nothing more to say, or has said enough.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| {
            let until = Instant::now() + LINGER;
            let pause = Box::pin(sleep_until(Instant::now() + LINGER_PAUSE));
            let sends_body = self.peer.has_begun() && !self.peer.multiplexes();
            let room = if sends_body { LINGER_BYTES } else { LINGER_BYTES_NO_BODY };
            Lingering { until, pause, room }
        });
        let mut thrown_away = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.peer.is_talking();
                    let pause = (Instant::now() + LINGER_PAUSE).min(lingering.until);
                    lingering.pause.as_mut().reset(pause);
                    lingering.room = lingering.room.saturating_sub(buffer.filled().len());
                }
                // Its end, or a reset of its own.
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.peer.has_said_all() => return Poll::Ready(()),
                Poll::Pending => return lingering.pause.as_mut().poll(cx),
            }
            if lingering.room == 0 || Instant::now() >= lingering.until {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.peer.is_talking();
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.watch(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.watch(shut, cx))?;
        }
        self.linger(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.watch(written, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PIECE: usize = 32 << 10;

    /// Shuts down a stream whose peer goes on sending `pieces` with a pause before each; says after
    /// what time.
    async fn shut(talking: bool, pieces: u32, pause: Duration) -> Duration {
        let (ours, mut theirs) = duplex(PIECE);
        let peer = Arc::new(Peer::default());
        if talking {
            peer.is_talking();
        }
        let began = Instant::now();
        let sending = tokio::spawn(async move {
            for _ in 0..pieces {
                tokio::time::sleep(pause).await;
                if theirs.write_all(&[b'x'; PIECE]).await.is_err() {
                    break;
                }
            }
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).await.map(|_| ())
        });
        Patient::new(ours, Duration::from_secs(60), peer).shutdown().await.unwrap();
        let took = began.elapsed();
        sending.await.unwrap().unwrap();
        took
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_still_talking_is_listened_to_for_a_while() {
        let second = Duration::from_secs(1);
        assert_eq!(shut(false, 0, second).await, Duration::ZERO, "it has said all");
        assert_eq!(shut(true, 5, second).await, 5 * second, "until it closes");
        assert_eq!(shut(true, 1, 9 * second).await, LINGER_PAUSE, "or pauses");
        assert_eq!(shut(true, 100, second).await, LINGER, "but not for ever");
        let most = u32::try_from(LINGER_BYTES / PIECE + 2).unwrap();
        assert!(shut(true, most, Duration::ZERO).await < LINGER, "nor for all that it may send");
    }
}
