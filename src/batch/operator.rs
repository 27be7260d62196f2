//! Batches of whoever runs the program: from a file of theirs, without a connection.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Batches;
use super::files::new_id;
use super::object::Progress;
use crate::store::archive::{Batch, Page, Purpose, Record, State, StoredFile, Trouble};

/// A batch as its operator sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// What is kept of it.
    pub batch: Batch,
    /// How it gets on, if it runs.
    pub progress: Option<Progress>,
}

impl Batches {
    /// The operator's last batch, if there is one.
    ///
    /// # Errors
    ///
    /// If the archive cannot be read.
    pub async fn last(&self) -> Result<Option<View>, Trouble> {
        let page = Page { after: None, limit: 1, ascending: false };
        let (mut batches, _) = self.archive.batches(self.gateway().operator().id, page).await?;
        let Some(batch) = batches.pop() else { return Ok(None) };
        let job = self.jobs.lock().get(&batch.id).map(Arc::clone);
        let working = job.filter(|_| batch.record.state == State::InProgress);
        let progress = working.map(|job| self.progress(&job, &batch.record));
        Ok(Some(View { batch, progress }))
    }

    /// Makes a batch of the requests in the file at `path`, of which a copy is kept.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or kept.
    pub async fn submit(
        self: &Arc<Self>,
        path: &Path,
        endpoint: &str,
        window: Duration,
    ) -> io::Result<()> {
        let owner = self.gateway().operator().owner();
        let id = new_id("file-");
        let bytes = tokio::fs::copy(path, self.archive.partial_path(&id)).await?;
        tokio::fs::File::open(self.archive.partial_path(&id)).await?.sync_all().await?;
        let created = self.now();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let expires = created.saturating_add(window.as_secs());
        let file = StoredFile {
            id: id.clone(),
            tenant: owner.id,
            name,
            purpose: Purpose::Batch,
            bytes,
            created,
            // It is somebody's directory, who deletes it when it is done with.
            expires: i64::MAX.unsigned_abs(),
        };
        self.archive.add_file(file).await.map_err(io::Error::other)?;
        let window = humantime::format_duration(window).to_string();
        let record = Record::new(endpoint.to_owned(), window, None, (created, expires));
        let name = new_id("batch_");
        let added = self.archive.add_batch(name, owner, id, record, u32::MAX).await;
        if let Some(batch) = added.map_err(io::Error::other)? {
            self.start(batch, None);
        }
        Ok(())
    }

    /// Where the content of a file of the archive is.
    pub fn path(&self, file: &str) -> std::path::PathBuf {
        self.archive.path(file)
    }
}
