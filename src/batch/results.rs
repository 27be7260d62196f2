//! The end of a batch: its results become files.

use std::io;

use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::Batches;
use super::files::new_id;
use super::input::{Lines, Request};
use super::job::{Finished, NotNow};
use super::outcome::Named;
use crate::store::archive::{Archive, Batch, Purpose, State, StoredFile};

/// Bytes of results that are in memory at once.
const PIECE: usize = 1 << 20;

/// Bytes that are written at once.
const WRITE: usize = 32 << 10;

/// A file of results that is being written.
struct Writing {
    id: String,
    out: Option<BufWriter<File>>,
    bytes: u64,
}

impl Writing {
    fn new() -> Self {
        Self { id: new_id("file-"), out: None, bytes: 0 }
    }

    /// Adds a line; the first one makes the file.
    async fn add(&mut self, archive: &Archive, text: &[u8]) -> io::Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            none => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let file = options.open(archive.partial_path(&self.id)).await?;
                none.insert(BufWriter::with_capacity(WRITE, file))
            }
        };
        out.write_all(text).await?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Has it on disk, if it has a line.
    async fn finish(&mut self) -> io::Result<bool> {
        let Some(out) = &mut self.out else { return Ok(false) };
        out.flush().await?;
        out.get_ref().sync_all().await?;
        Ok(true)
    }
}

impl Batches {
    /// Writes the files of a batch whose lines are not sent any more, and ends it.
    pub(super) async fn write_results(&self, mut batch: Batch) -> Result<(), NotNow> {
        let now = self.now();
        let cancelled = batch.record.cancelling.is_some();
        let (mut output, mut errors) = (Writing::new(), Writing::new());
        let mut unsent = 0;
        // One that was cancelled before it was validated has no lines to speak of.
        if batch.record.in_progress.is_some() {
            let finished = self.archive.finished_lines(batch.number).await?;
            for (good, file) in [(true, &mut output), (false, &mut errors)] {
                self.write_finished(batch.number, good, file).await?;
            }
            unsent =
                self.write_unsent(&batch, cancelled, &Finished::new(finished), &mut errors).await?;
        }
        let keep = batch.record.output_keep.unwrap_or_else(|| self.config().keep.as_secs());
        let mut new = Vec::new();
        for (mut file, what) in [(output, "output"), (errors, "errors")] {
            if !file.finish().await? {
                continue;
            }
            let Writing { id, bytes, .. } = file;
            let entry = match what {
                "output" => &mut batch.record.output_file,
                _ => &mut batch.record.error_file,
            };
            *entry = Some(id.clone());
            new.push(StoredFile {
                id,
                tenant: batch.owner.id,
                name: format!("{}_{what}.jsonl", batch.id),
                purpose: Purpose::BatchOutput,
                bytes,
                created: now,
                expires: now.saturating_add(keep),
            });
        }
        let record = &mut batch.record;
        record.finalizing.get_or_insert(now);
        if cancelled {
            (record.state, record.cancelled) = (State::Cancelled, Some(now));
        } else if unsent > 0 {
            (record.state, record.expired) = (State::Expired, Some(now));
        } else {
            (record.state, record.completed) = (State::Completed, Some(now));
        }
        Ok(self.archive.end(&batch, new, unsent).await?)
    }

    async fn write_finished(
        &self,
        number: i64,
        good: bool,
        file: &mut Writing,
    ) -> Result<(), NotNow> {
        let mut from = 0;
        loop {
            let piece = self.archive.results(number, good, from, PIECE).await?;
            let Some((last, _)) = piece.last() else { return Ok(()) };
            from = last + 1;
            for (_, text) in &piece {
                file.add(&self.archive, text).await?;
            }
        }
    }

    /// Writes an error for each line that has no result; how many there are.
    async fn write_unsent(
        &self,
        batch: &Batch,
        cancelled: bool,
        finished: &Finished,
        file: &mut Writing,
    ) -> Result<u64, NotNow> {
        let (code, message) = if cancelled {
            ("batch_cancelled", "The batch was cancelled before this request was sent.")
        } else {
            (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
            )
        };
        let known = batch.counts.completed + batch.counts.failed;
        if known >= u64::from(batch.record.total) {
            return Ok(0);
        }
        let longest = self.gateway().config().server.max_body_bytes.get();
        let longest = usize::try_from(longest).unwrap_or(usize::MAX);
        let mut lines = Lines::open(&self.archive.path(&batch.input), longest)?;
        let mut unsent = 0;
        loop {
            let (piece, rest) = lines.next_piece().await?;
            lines = rest;
            if piece.is_empty() {
                return Ok(unsent);
            }
            for line in piece.iter().filter(|line| !finished.has(line.number)) {
                let parts = line.text.as_deref().and_then(|text| Request::parse(text).ok());
                let id = parts.and_then(|parts| Request::text(parts.custom_id)).unwrap_or_default();
                let named = Named { batch: &batch.id, line: line.number, custom_id: &id };
                let done = named.unanswered(code, message);
                file.add(&self.archive, &done.text).await?;
                unsent += 1;
            }
        }
    }
}
