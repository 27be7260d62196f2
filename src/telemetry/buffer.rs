//! A buffer between whoever logs and whoever reads: a line costs a copy, and a thread of its own
//! writes what has gathered, twenty times a second. It is woken by the first line after a silence, and
//! by no other.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines gather before they are written: too short to be noticed by a reader, long enough
/// that a busy gateway does not wake a thread for every line.
const GATHER: Duration = Duration::from_millis(50);

/// Bytes that may gather: seconds of lines at full load, for a reader that has stalled.
const MOST: usize = 4 << 20;

/// The writing end, shared by all threads.
#[derive(Clone, Debug)]
pub(super) struct Buffer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    dropped: u64,
    /// Whether the writer has to be told of the next line.
    asleep: bool,
    closed: bool,
}

/// Writes what is still buffered when it is dropped.
#[must_use = "lines that are still buffered are lost without it"]
#[derive(Debug)]
pub(super) struct Flush {
    buffer: Buffer,
    writer: Option<JoinHandle<()>>,
}

/// Starts the thread that writes to `sink`.
pub(super) fn start(sink: impl Write + Send + 'static) -> (Buffer, Flush) {
    let buffer = Buffer(Arc::default());
    let shared = Arc::clone(&buffer.0);
    let writer = thread::spawn(move || shared.write_to(sink));
    (buffer.clone(), Flush { buffer, writer: Some(writer) })
}

impl Shared {
    fn write_to(&self, mut sink: impl Write) {
        let mut writing = Vec::new();
        let mut silent = true;
        loop {
            let mut state = self.state.lock();
            // Not as soon as there is no line: in a gateway that is a little busy there is one soon, and
            // whoever logged it would have to wake this thread.
            while silent && state.lines.is_empty() && !state.closed {
                state.asleep = true;
                self.changed.wait(&mut state);
                state.asleep = false;
            }
            if !state.closed {
                self.changed.wait_for(&mut state, GATHER);
            }
            silent = state.lines.is_empty();
            mem::swap(&mut state.lines, &mut writing);
            let (dropped, closed) = (mem::take(&mut state.dropped), state.closed);
            drop(state);
            if silent && dropped == 0 {
                if closed {
                    return;
                }
                continue;
            }
            // There is nowhere to say that saying did not work.
            let _ = sink.write_all(&writing);
            if dropped > 0 {
                let _ =
                    writeln!(sink, "{dropped} log lines were dropped: nobody read them in time");
            }
            let _ = sink.flush();
            writing.clear();
            if closed {
                return;
            }
        }
    }
}

impl Write for &Buffer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if state.lines.len() + line.len() > MOST {
            state.dropped += 1;
            return Ok(line.len());
        }
        let tell = mem::take(&mut state.asleep);
        state.lines.extend_from_slice(line);
        drop(state);
        if tell {
            self.0.changed.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Buffer {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.buffer.0.state.lock().closed = true;
        self.buffer.0.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has lost its lines already.
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Channel(mpsc::SyncSender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_but_no_time_and_is_told_so() {
        let (sender, reader) = mpsc::sync_channel(0);
        let (buffer, flush) = start(Channel(sender));
        let line = vec![b'x'; MOST / 4];
        for _ in 0..20 {
            (&buffer).write_all(&line).unwrap();
        }
        let read = thread::spawn(move || reader.iter().flatten().collect::<Vec<u8>>());
        drop(flush);
        drop(buffer);
        let text = String::from_utf8(read.join().unwrap()).unwrap();
        let kept = text.bytes().filter(|byte| *byte == b'x').count() / line.len();
        assert!((4..=8).contains(&kept), "at most two buffers full: {kept}");
        assert!(text.contains(&format!("{} log lines were dropped", 20 - kept)), "{kept}");
    }

    #[test]
    fn what_was_logged_last_is_written_at_the_end() {
        let (sender, reader) = mpsc::sync_channel(16);
        let (buffer, flush) = start(Channel(sender));
        (&buffer).write_all(b"one\n").unwrap();
        (&buffer).write_all(b"two\n").unwrap();
        drop(flush);
        assert_eq!(reader.iter().flatten().collect::<Vec<u8>>(), b"one\ntwo\n");
    }
}
