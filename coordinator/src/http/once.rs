//! `Idempotency-Key` of every POST whose key is not kept elsewhere: the first answer is the answer for a day.
//!
//! It stands around the handlers, so that a new POST honours keys without a line of its own. It reads the body, for
//! content is compared as decoded, and hands the fields on. What it remembers is memory of this process alone: an
//! answer may hold a secret, such as a new API key, which must not be written anywhere.

use super::envelope::ApiError;
use super::fields::Fields;
use super::recent::{Begun, Hash, KeyGuard};
use super::route::{self, Caller};
use super::words::Replay;
use super::{Door, body, submit};
use crate::room::Who;
use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// POSTs that look after their keys themselves: create and share links keep them with what they made, which holds across
/// restarts; the body of a check is a file and no tree of fields.
pub const ELSEWHERE: [&str; 3] =
    ["/v1/videos", "/v1/videos/{video_id}/share_links", "/v1/content_provenance_checks"];
/// The longest answer that is remembered. That of a moderation of 64 strings, the longest, has 100 KiB.
const ANSWER_MAX: usize = 1 << 20;

/// Reads the body and lets the handler answer, once for each key.
///
/// # Errors
/// Those of the body; 409 while the first request runs, or where its answer is forgotten; 422 for other content.
pub async fn once(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let (head, upload) = request.into_parts();
    let key = submit::idempotency_key(&caller, &head.headers, "POST", &path)?;
    let fields = body::read(&door, Who::from(&caller), &head.headers, upload).await?;
    let content = submit::content(&caller, key.is_some(), &path, &fields);
    let mut request = Request::from_parts(head, Body::empty());
    request.extensions_mut().insert(fields);
    let guard = match begin(&door, &caller, key, content)? {
        Once::Unkeyed => return Ok(next.run(request).await),
        Once::Before(answer) => return Ok(answer),
        Once::Forgotten => return Err(ApiError::answer_forgotten()),
        Once::First(guard) => guard,
    };
    // In a task of its own, so that a key gets its answer even if its caller goes away.
    let task = tokio::spawn(answered(request, next, guard, content));
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request with a key panicked");
        Err(ApiError::internal())
    })
}

/// What a key says of a request.
pub enum Once {
    /// It has none.
    Unkeyed,
    /// It is the first one.
    First(KeyGuard),
    /// It was answered before, so.
    Before(Response),
    /// It was answered before, and the answer is no longer remembered.
    Forgotten,
}

/// Takes the key of a request, if it has one.
///
/// # Errors
/// 409 while the first request runs, 422 for other content.
pub fn begin(
    door: &Door,
    caller: &Caller,
    key: Option<Hash>,
    content: Hash,
) -> Result<Once, ApiError> {
    match key.map(|key| door.recent.begin_key(caller.tenant, key, content)) {
        None => Ok(Once::Unkeyed),
        Some(Begun::InUse) => Err(ApiError::key_in_use()),
        Some(Begun::Reused) => Err(ApiError::key_reused()),
        Some(Begun::Forgotten) => Ok(Once::Forgotten),
        Some(Begun::Answered(answer)) => {
            submit::replayed(door, Replay::Key, route::ok_bytes(answer)).map(Once::Before)
        }
        Some(Begun::Free(guard)) => Ok(Once::First(guard)),
    }
}

/// Only what succeeded is kept: a refused request leaves its key free.
async fn answered(
    request: Request,
    next: Next,
    guard: KeyGuard,
    content: Hash,
) -> Result<Response, ApiError> {
    let response = next.run(request).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, ANSWER_MAX).await.map_err(|error| {
        tracing::error!(%error, "an answer is too long to be remembered");
        ApiError::internal()
    })?;
    guard.done(content, Some(bytes.clone()));
    Ok(Response::from_parts(head, Body::from(bytes)))
}

/// The fields of a request's body, which [`once`] has read.
pub fn fields(request: &mut Request) -> Fields {
    let read = request.extensions_mut().remove::<Fields>();
    read.unwrap_or_else(|| Fields::nested(String::new(), Vec::new()))
}
