//! Reading videos: one, or a page of them.

use super::envelope::ApiError;
use super::route::{self, Caller};
use super::video::{self, StatusSet, Video};
use super::{Door, body};
use crate::farm::{FarmMsg, NoSuchCursor};
use crate::jobs::{JobView, ListQuery, Page};
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::Arc;

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 100;

/// `GET /videos/{id}`.
///
/// # Errors
/// 404.
pub async fn retrieve(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let view = route::read(&door, &caller, &id).await?;
    let mut response = route::ok(&show(&door, &view, statuses(&headers)))?;
    if video::is_unfinished(view.state) {
        let wait = video::poll_after_ms(&view, (door.state.now)());
        route::put(response.headers_mut(), "openai-poll-after-ms", &wait.to_string());
    }
    Ok(response)
}

/// `GET /videos`.
///
/// # Errors
/// 400 for a limit, an order or a cursor that cannot be.
pub async fn list(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = list_query(&query)?;
    let tenant = caller.tenant;
    let page = door.state.farm.ask(|reply| FarmMsg::List(tenant, asked, reply)).await?;
    page_json(&door, asked, page, statuses(&headers), Audience::Project)
}

/// A video as its project sees it.
pub fn show<'a>(door: &'a Door, view: &'a JobView, statuses: StatusSet) -> Video<'a> {
    Video::of(view, statuses, &door.state.system_fingerprint)
}

/// Which words the caller wants in `status`.
pub fn statuses(headers: &HeaderMap) -> StatusSet {
    match body::text_header(headers, "x-video-status-set") {
        Some(text) if text.trim().eq_ignore_ascii_case("extended") => StatusSet::Extended,
        _ => StatusSet::Core,
    }
}

/// Which page of a list is asked for.
pub struct Paging<'a> {
    /// Entries of it at most.
    pub limit: usize,
    /// The oldest first.
    pub ascending: bool,
    /// The id behind which it begins.
    pub after: Option<&'a str>,
}

/// Reads `limit`, `order` and `after` of a list of videos.
///
/// # Errors
/// `invalid_value`.
pub fn list_query(query: &[(String, String)]) -> Result<ListQuery, ApiError> {
    let Paging { limit, ascending, after } = paging(query)?;
    let after = after.map(str::parse).transpose().map_err(|_| no_cursor())?;
    Ok(ListQuery { after, limit, ascending })
}

/// Reads `limit`, `order` and `after`; other parameters are ignored.
///
/// # Errors
/// `invalid_value`.
pub fn paging(query: &[(String, String)]) -> Result<Paging<'_>, ApiError> {
    let limit = match route::last(query, "limit") {
        None => LIMIT_DEFAULT,
        Some(text) => {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|limit| digits && *limit <= LIMIT_MAX).ok_or_else(|| {
                let message = format!("Invalid value: 'limit' must be 0 to {LIMIT_MAX}.");
                ApiError::invalid("limit", message)
            })?
        }
    };
    let ascending = match route::last(query, "order") {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(other) => {
            let allowed = ["asc".to_owned(), "desc".to_owned()];
            return Err(ApiError::not_among("order", other, &allowed));
        }
    };
    Ok(Paging { limit, ascending, after: route::last(query, "after") })
}

/// A page of videos.
#[derive(serde::Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Video<'a>>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// For whom a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A project, which sees its own videos.
    Project,
    /// An operator, who sees whose they are.
    Operator,
}

/// The list object of a page.
///
/// # Errors
/// `invalid_value` of `after`.
pub fn page_json(
    door: &Door,
    asked: ListQuery,
    page: Result<Page, NoSuchCursor>,
    statuses: StatusSet,
    audience: Audience,
) -> Result<Response, ApiError> {
    let page = page.map_err(|NoSuchCursor| no_cursor())?;
    let id = |view: &JobView| view.job.to_string();
    let mut data = Vec::with_capacity(page.jobs.len());
    for view in &page.jobs {
        let video = show(door, view, statuses);
        data.push(match audience {
            Audience::Project => video,
            Audience::Operator => video.with_project(view.tenant().to_string()),
        });
    }
    route::ok(&List {
        object: "list",
        data,
        first_id: page.jobs.first().map(id),
        last_id: page.jobs.last().map(id),
        has_more: page.has_more && asked.limit > 0,
    })
}

fn no_cursor() -> ApiError {
    ApiError::invalid("after", "Invalid value: 'after' is no id of a video of this project.")
}
