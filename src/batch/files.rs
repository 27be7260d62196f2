//! `/v1/files`: what was uploaded, and what came of it.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Multipart, Path, Query};
use axum::response::Response;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio_util::io::ReaderStream;

use super::api::{Answer, Asked, Here, asked, enter, invalid, json, local, missing};
use super::object::{Deleted, FileObject, List};
use super::upload;
use crate::proxy::{ApiError, ProxyError};
use crate::store::archive::{InUse, StoredFile, Trouble};

/// Entries of a page: OpenAI's bounds.
const PAGE: u32 = 10_000;

/// Bytes of a file that are read at once while it is sent.
const READ: usize = 32 << 10;

/// A random name: 144 bits that nobody guesses, though knowing it is not enough.
pub(super) fn new_id(prefix: &str) -> String {
    let digits = std::iter::repeat_with(fastrand::alphanumeric).take(24);
    prefix.chars().chain(digits).collect()
}

pub(super) async fn upload(
    here: Here,
    headers: HeaderMap,
    form: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let Ok(form) = form else {
        let message = "a form (multipart/form-data) with the fields file and purpose is expected";
        return Err(invalid("file", message));
    };
    if here.gateway().is_draining() {
        return Err(ProxyError::Draining);
    }
    let file = upload::receive(&here, caller.id, form).await?;
    json(&FileObject::of(&file))
}

pub(super) async fn list(
    here: Here,
    headers: HeaderMap,
    query: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let asked = asked(query)?;
    let purpose = asked.purpose().transpose()?;
    let page = asked.page(PAGE, PAGE)?;
    // It may just have been deleted: an end that is none would be worse than an error.
    if let Some(after) = &page.after
        && here.archive.file(caller.id, after).await?.is_none()
    {
        return Err(invalid("after", "there is no such file (any more)"));
    }
    let (found, more) = here.archive.files(caller.id, purpose, page).await?;
    let entries = found.iter().map(|file| (file.id.clone(), FileObject::of(file)));
    json(&List::of(entries.collect(), more))
}

pub(super) async fn show(here: Here, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let file = here.archive.file(caller.id, &id).await?.ok_or_else(|| missing("file"))?;
    json(&FileObject::of(&file))
}

pub(super) async fn content(here: Here, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    let file = here.archive.file(caller.id, &id).await?.ok_or_else(|| missing("file"))?;
    let open = tokio::fs::File::open(here.archive.path(&file.id)).await;
    let content = open.map_err(|problem| Trouble::file(&problem))?;
    let body = Body::from_stream(ReaderStream::with_capacity(content, READ));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(file.bytes));
    headers.insert(CONTENT_DISPOSITION, disposition(&file));
    Ok(local(response))
}

/// A name for whoever saves it, without anything that could end the header or leave a directory.
fn disposition(file: &StoredFile) -> HeaderValue {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    let name: String = file.name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    HeaderValue::from_str(&format!("attachment; filename=\"{name}\""))
        .unwrap_or(HeaderValue::from_static("attachment"))
}

pub(super) async fn delete(here: Here, headers: HeaderMap, Path(id): Path<String>) -> Answer {
    let (here, caller) = enter(here, &headers)?;
    match here.archive.delete_file(caller.id, &id).await? {
        None => Err(missing("file")),
        Some(Ok(())) => {
            here.show_stored();
            json(&Deleted { id: &id, object: "file", deleted: true })
        }
        Some(Err(InUse { batch })) => {
            let message = format!("the file is the input of {batch}, which has not ended");
            let (status, code) = (StatusCode::CONFLICT, "file_in_use");
            Err(ApiError { status, code, param: "id", message }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::archive::Purpose;

    #[test]
    fn a_file_is_saved_under_a_harmless_name() {
        let named = |name: &str| {
            let file = StoredFile {
                id: String::new(),
                tenant: 0,
                name: name.to_owned(),
                purpose: Purpose::Batch,
                bytes: 0,
                created: 0,
                expires: 0,
            };
            disposition(&file).to_str().unwrap().to_owned()
        };
        assert_eq!(named("in.jsonl"), "attachment; filename=\"in.jsonl\"");
        assert_eq!(named("../a\"\r\nx: é"), "attachment; filename=\".._a___x_ _\"");
    }

    #[test]
    fn ids_are_what_a_path_may_have_and_never_twice() {
        let (one, other) = (new_id("file-"), new_id("file-"));
        assert!(one != other && one.len() == 29 && one.starts_with("file-"));
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'));
    }
}
