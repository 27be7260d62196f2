//! An upload: a form that is written to disk as it comes, and is a file when it has come whole.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use bytes::Bytes;
use http::StatusCode;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::Batches;
use super::api::invalid;
use super::files::new_id;
use crate::proxy::{ApiError, ProxyError};
use crate::store::archive::{Archive, Purpose, StoredFile, Trouble};

/// Bytes that are written at once.
const WRITE: usize = 32 << 10;

/// A field that is not the file: a word or a number.
const LONGEST_FIELD: usize = 1 << 10;

/// The longest name that is kept of a file.
const LONGEST_NAME: usize = 255;

/// Fields of a form: what is there has a meaning for somebody, but there are not many.
const MOST_FIELDS: usize = 32;

/// How long a file may be kept that is to be deleted by itself: OpenAI's bounds.
const EXPIRY: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;

/// A file that is being written; if it is not finished, it is removed.
struct Partial {
    path: PathBuf,
    out: Option<BufWriter<File>>,
    /// Counts as stored while it is here.
    archive: Archive,
    bytes: u64,
}

impl Partial {
    async fn create(archive: &Archive, id: &str) -> Result<Self, Trouble> {
        let path = archive.partial_path(id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).await.map_err(|problem| Trouble::file(&problem))?;
        let out = Some(BufWriter::with_capacity(WRITE, file));
        Ok(Self { path, out, archive: archive.clone(), bytes: 0 })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(out) = &mut self.out else { return Ok(()) };
        self.bytes += bytes.len() as u64;
        self.archive.grow(bytes.len() as u64);
        out.write_all(bytes).await.map_err(|problem| Trouble::file(&problem))
    }

    /// Has the rest of it on disk.
    async fn finish(&mut self) -> Result<(), Trouble> {
        let Some(mut out) = self.out.take() else { return Ok(()) };
        let finished = async {
            out.flush().await?;
            out.get_ref().sync_all().await
        };
        let finished = finished.await.map_err(|problem| Trouble::file(&problem));
        if finished.is_err() {
            self.out = Some(out);
        }
        finished
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.archive.shrink(self.bytes);
        if self.out.is_some() {
            // If it fails, the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Receives a file of a tenant's.
pub(super) async fn receive(
    here: &Batches,
    tenant: u64,
    mut form: Multipart,
) -> Result<StoredFile, ProxyError> {
    let idle = here.gateway().config().server.body_timeout;
    let (mut file, mut purpose, mut seconds) = (None, None, None);
    let id = new_id("file-");
    let mut fields = 0;
    while let Some(mut field) = in_time(idle, form.next_field()).await? {
        fields += 1;
        if fields > MOST_FIELDS {
            return Err(invalid("", "the form has too many fields"));
        }
        match field.name().unwrap_or_default() {
            "file" if file.is_some() => return Err(invalid("file", "there is more than one file")),
            "file" => {
                let name = name(field.file_name().unwrap_or("upload"));
                file = Some((name, save(here, &id, idle, &mut field).await?));
            }
            "purpose" => purpose = Some(text(idle, &mut field).await?),
            "expires_after[seconds]" => seconds = Some(text(idle, &mut field).await?),
            // What else SDKs send has no meaning here.
            _ => {
                text(idle, &mut field).await?;
            }
        }
    }
    match purpose.as_deref() {
        Some("batch") => {}
        Some(_) => return Err(invalid("purpose", "the only purpose of uploads is \"batch\"")),
        None => return Err(invalid("purpose", "purpose is missing")),
    }
    let Some((name, mut partial)) = file else {
        return Err(invalid("file", "file is missing"));
    };
    let keep = match seconds {
        None => here.config().keep.as_secs(),
        Some(text) => checked_expiry("expires_after", text.parse().ok())?,
    };
    partial.finish().await?;
    let created = here.now();
    let expires = created.saturating_add(keep);
    let (purpose, bytes) = (Purpose::Batch, partial.bytes);
    let stored = StoredFile { id, tenant, name, purpose, bytes, created, expires };
    here.archive.add_file(stored.clone()).await?;
    drop(partial);
    here.show_stored();
    Ok(stored)
}

/// For how many seconds a file is to be kept, if its owner says so.
pub(super) fn checked_expiry(param: &'static str, seconds: Option<u64>) -> Result<u64, ProxyError> {
    seconds.filter(|it| EXPIRY.contains(it)).ok_or_else(|| {
        let (least, most) = (EXPIRY.start(), EXPIRY.end());
        invalid(param, format!("seconds must be {least} to {most}"))
    })
}

/// Writes a field to disk as it comes.
async fn save(
    here: &Batches,
    id: &str,
    idle: Duration,
    field: &mut Field<'_>,
) -> Result<Partial, ProxyError> {
    let config = here.config();
    let mut partial = Partial::create(&here.archive, id).await?;
    while let Some(piece) = in_time(idle, field.chunk()).await? {
        let more = piece.len() as u64;
        let limit = config.max_file_bytes.get();
        if partial.bytes + more > limit {
            return Err(ProxyError::BodyTooLarge { limit });
        }
        if here.archive.stored().saturating_add(more) > config.max_stored_bytes.get() {
            let message = "there is no room for the file: delete some, or wait until they expire";
            let (status, code) = (StatusCode::INSUFFICIENT_STORAGE, "storage_full");
            let message = message.to_owned();
            return Err(ApiError { status, code, param: "file", message }.into());
        }
        partial.write(&piece).await?;
    }
    Ok(partial)
}

/// A short field.
async fn text(idle: Duration, field: &mut Field<'_>) -> Result<String, ProxyError> {
    let mut text = Vec::new();
    while let Some(piece) = in_time::<Option<Bytes>>(idle, field.chunk()).await? {
        if text.len() + piece.len() > LONGEST_FIELD {
            return Err(invalid("", "a field of the form is too long"));
        }
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).map_err(|_| invalid("", "a field of the form is no text"))
}

async fn in_time<T>(
    idle: Duration,
    step: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, ProxyError> {
    match tokio::time::timeout(idle, step).await {
        Err(_) => Err(ProxyError::BodyTimeout),
        Ok(Ok(step)) => Ok(step),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(invalid("", "a part of the form is too large"))
        }
        Ok(Err(_)) => Err(invalid("file", "the form is not well-formed, or broke off")),
    }
}

/// The last part of a path, without what no name needs.
fn name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = last.chars().filter(|c| !c.is_control()).collect();
    while name.len() > LONGEST_NAME {
        name.pop();
    }
    if name.is_empty() { "upload".to_owned() } else { name }
}
