//! `GET /videos/{id}/content`: the bytes of a finished video, whole or in part.

use super::envelope::ApiError;
use super::route::{self, Caller};
use super::words::Code;
use super::{Door, body};
use crate::jobs::shares::{Read, Variant};
use crate::jobs::{Asset, Assets, JobView};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::StreamExt;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use zoetrope_protocol::id::Millis;
use zoetrope_sched::output::JobState;

/// Answers with the bytes of one variant.
///
/// # Errors
/// 400 for an unknown variant, 404 for no such video or one without bytes, 412, 416.
pub async fn content(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let variant = variant(route::last(&query, "variant"))?;
    let view = route::read(&door, &caller, &id).await?;
    let file = File::of(published(&view, (door.state.now)())?, variant, &id);
    file.answer(&door, &method, &headers).await
}

/// The variant of this name; the clip without one.
///
/// # Errors
/// 400.
pub(super) fn variant(word: Option<&str>) -> Result<Variant, ApiError> {
    let Some(word) = word else { return Ok(Variant::Video) };
    let allowed = Variant::ALL.map(|variant| variant.word().to_owned());
    word.parse().map_err(|()| ApiError::not_among("variant", word, &allowed))
}

/// A file that is asked for.
pub(super) struct File<'a> {
    asset: &'a Asset,
    kind: &'static str,
    etag: String,
    name: String,
}

impl<'a> File<'a> {
    /// A file of the video `id`.
    pub(super) fn of(assets: &'a Assets, variant: Variant, id: &str) -> File<'a> {
        let (asset, kind, ending) = match variant {
            Variant::Video => (&assets.video, "video/mp4", "mp4"),
            Variant::Thumbnail => (&assets.thumbnail, "image/webp", "webp"),
            Variant::Spritesheet => (&assets.spritesheet, "image/jpeg", "jpg"),
        };
        let etag = format!("\"{}\"", asset.artifact);
        File { asset, kind, etag, name: format!("inline; filename=\"{id}.{ending}\"") }
    }

    /// How a request reads it.
    pub(super) fn read(&self, method: &Method, headers: &HeaderMap) -> Read {
        match self.wanted(method, headers) {
            _ if method == Method::HEAD => Read::Head,
            Wanted::Other | Wanted::Known | Wanted::Nothing => Read::Head,
            Wanted::Part(_) => Read::Part,
            Wanted::All => Read::Whole,
        }
    }

    /// What is wanted of it, in the order of RFC 9110, 13.2.2. Parts are for GET alone (14.2).
    fn wanted(&self, method: &Method, headers: &HeaderMap) -> Wanted {
        let is_strong = |tag: &str| tag == self.etag;
        let is_weak = |tag: &str| tag.trim_start_matches("W/") == self.etag;
        if headers.contains_key(header::IF_MATCH) && !any(headers, header::IF_MATCH, is_strong) {
            return Wanted::Other;
        }
        if any(headers, header::IF_NONE_MATCH, is_weak) {
            return Wanted::Known;
        }
        let unchanged = !headers.contains_key(header::IF_RANGE)
            || body::text_header(headers, header::IF_RANGE.as_str()) == Some(self.etag.as_str());
        let has_parts = unchanged && method == Method::GET;
        let range = body::text_header(headers, header::RANGE.as_str()).filter(|_| has_parts);
        range.map_or(Wanted::All, |text| wanted(text, self.asset.bytes))
    }

    /// Answers a request for it.
    ///
    /// # Errors
    /// 412, 416; 500 if the store does not answer.
    pub(super) async fn answer(
        &self,
        door: &Door,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let base = Response::builder()
            .header(header::ETAG, &self.etag)
            .header(header::ACCEPT_RANGES, "bytes")
            // The bytes never change, but they may go: by expiry, or because their owner deletes them.
            .header(header::CACHE_CONTROL, "private, no-cache");
        let bytes = self.asset.bytes;
        let (status, range) = match self.wanted(method, headers) {
            Wanted::Other => return Err(ApiError::other_file()),
            Wanted::Known => {
                return base.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(fault);
            }
            Wanted::All => (StatusCode::OK, 0..bytes),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return Err(unsatisfiable(bytes)),
        };
        let mut response = base
            .status(status)
            .header(header::CONTENT_TYPE, self.kind)
            .header(header::CONTENT_DISPOSITION, &self.name)
            .header(header::CONTENT_LENGTH, range.end - range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let text = format!("bytes {}-{}/{bytes}", range.start, range.end - 1);
            response = response.header(header::CONTENT_RANGE, text);
        }
        let body = match *method {
            Method::HEAD => Body::empty(),
            _ => stream(door, self.asset, range).await?,
        };
        response.body(body).map_err(fault)
    }
}

/// The files of a job, if they can be had.
pub(super) fn published(view: &JobView, now: Millis) -> Result<&Assets, ApiError> {
    if view.taken_down.is_some() {
        return Err(ApiError::not_found(
            Some(Code::ModerationBlocked),
            "The content of this video was taken down by our moderation system.",
        ));
    }
    match (&view.assets, view.state) {
        (Some(assets), JobState::Completed) if view.expires.is_none_or(|at| now < at) => Ok(assets),
        (_, JobState::Completed) => {
            Err(ApiError::not_found(Some(Code::Expired), "The content of this video has expired."))
        }
        (_, JobState::Failed(_)) => Err(ApiError::not_found(
            Some(Code::NotReady),
            "Video generation failed, so there is no content; GET /v1/videos/{video_id} says why.",
        )),
        _ => Err(ApiError::not_found(
            Some(Code::NotReady),
            "Video is not ready yet, use GET /v1/videos/{video_id} to check status.",
        )),
    }
}

/// The first piece is awaited before the answer begins, so that a store that does not answer is a
/// 500 and not a broken download.
async fn stream(door: &Door, asset: &Asset, range: Range<u64>) -> Result<Body, ApiError> {
    if range.is_empty() {
        return Ok(Body::empty());
    }
    let artifact = asset.artifact;
    let mut pieces = door.state.farm.assets.read(asset, range);
    match pieces.next().await {
        Some(Ok(first)) => {
            let first = futures::stream::once(async move { Ok(first) });
            let rest = pieces.inspect(move |piece| {
                if let Err(error) = piece {
                    tracing::warn!(%artifact, %error, "a download broke off");
                }
            });
            Ok(Body::from_stream(first.chain(rest)))
        }
        Some(Err(error))
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) =>
        {
            tracing::error!(%artifact, %error, "a published file is lost or damaged");
            let message = "The stored file of this video is lost or damaged; the farm's operator can look with `zoetrope fsck`.";
            Err(ApiError { message: message.into(), ..ApiError::internal() })
        }
        Some(Err(error)) => {
            tracing::error!(%artifact, %error, "a published file cannot be read");
            // Unlike other faults of ours, a store's may pass: the SDKs should try again.
            Err(ApiError { should_retry: None, ..ApiError::internal() })
        }
        None => {
            tracing::error!(%artifact, "a published file is empty");
            Err(ApiError::internal())
        }
    }
}

/// Whether one of the tags in the header is ours. For `If-None-Match` the weak mark says nothing of bytes that never
/// change; for `If-Match` it never fits.
fn any(headers: &HeaderMap, name: header::HeaderName, ours: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| tag == "*" || ours(tag))
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// A file that is not this one.
    Other,
    /// Nothing of what the caller has already.
    Known,
    /// Everything: also for several ranges at once and for what we do not understand, as RFC 9110
    /// allows.
    All,
    /// Some bytes, at least one.
    Part(Range<u64>),
    /// Bytes that are not there.
    Nothing,
}

fn wanted(header: &str, bytes: u64) -> Wanted {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that no counter holds is behind every end.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let Some((unit, text)) = header.split_once('=') else { return Wanted::All };
    let Some((from, to)) = text.trim().split_once('-') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || text.contains(',') {
        return Wanted::All;
    }
    let range = match (from, to) {
        ("", last) => match number(last) {
            None => return Wanted::All,
            Some(last) => bytes.saturating_sub(last)..bytes,
        },
        (from, to) => match (number(from), number(to)) {
            (Some(from), None) if to.is_empty() => from..bytes,
            (Some(from), Some(to)) if from <= to => from..to.saturating_add(1).min(bytes),
            _ => return Wanted::All,
        },
    };
    if range.start < range.end { Wanted::Part(range) } else { Wanted::Nothing }
}

fn unsatisfiable(bytes: u64) -> ApiError {
    ApiError {
        header: HeaderValue::from_str(&format!("bytes */{bytes}"))
            .ok()
            .map(|value| Box::new((header::CONTENT_RANGE, value))),
        ..ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            None,
            format!("The range is outside of the file, which has {bytes} bytes."),
        )
    }
}

fn fault(error: axum::http::Error) -> ApiError {
    tracing::error!(%error, "an answer could not be built");
    ApiError::internal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (header, of, answer) in [
            ("bytes=0-0", 10, Wanted::Part(0..1)),
            ("bytes=0-", 10, Wanted::Part(0..10)),
            ("bytes=5-99", 10, Wanted::Part(5..10)),
            ("bytes=-3", 10, Wanted::Part(7..10)),
            ("bytes=-30", 10, Wanted::Part(0..10)),
            ("Bytes= 2-3", 10, Wanted::Part(2..4)),
            ("bytes=10-", 10, Wanted::Nothing),
            ("bytes=99999999999999999999999-", 10, Wanted::Nothing),
            ("bytes=-0", 10, Wanted::Nothing),
            ("bytes=0-", 0, Wanted::Nothing),
            ("bytes=5-4", 10, Wanted::All),
            ("bytes=a-b", 10, Wanted::All),
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("lines=0-1", 10, Wanted::All),
            ("bytes", 10, Wanted::All),
        ] {
            assert_eq!(wanted(header, of), answer, "{header} of {of}");
        }
    }
}
