//! All routes, and what happens around each: request id, panics, limits, authentication, headers,
//! metrics.

use super::connection::hold;
use super::envelope::{self, ApiError, echo};
use super::limits::{Left, duration_text};
use super::pace::Paced;
use super::{
    Door, body, cancel, content, health, leader, listing, models, moderations, once, openapi,
    operator, provenance, rescan, shares, submit,
};
use crate::farm::FarmMsg;
use crate::jobs::JobView;
use crate::keys::Role;
use crate::room::Who;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use zoetrope_protocol::id::{JobId, TenantId};

/// One method of one path.
pub struct Route {
    /// `GET`, `POST` or `DELETE`; `HEAD` follows `GET`.
    pub method: &'static str,
    /// The template, as axum and OpenAPI write it.
    pub path: &'static str,
    make: fn() -> MethodRouter<Arc<Door>>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    make: fn() -> MethodRouter<Arc<Door>>,
) -> Route {
    Route { method, path, make }
}

/// The one endpoint below `/farm/` that is for tenants too, about their own jobs.
const WHY: &str = "/farm/jobs/{video_id}/why";

/// The door's endpoints. `openapi.json` has the same ones: a test compares them.
pub const ROUTES: [Route; 38] = [
    route("POST", "/v1/videos", || post(submit::create)),
    route("GET", "/v1/videos", || get(listing::list)),
    route("GET", "/v1/videos/{video_id}", || get(listing::retrieve)),
    route("DELETE", "/v1/videos/{video_id}", || delete(cancel::delete)),
    route("GET", "/v1/videos/{video_id}/content", || get(content::content)),
    route("POST", "/v1/videos/{video_id}/cancel", || post(cancel::cancel)),
    route("GET", "/v1/videos/{video_id}/provenance", || get(provenance::provenance)),
    route("POST", "/v1/videos/{video_id}/share_links", || post(shares::create)),
    route("GET", "/v1/videos/{video_id}/share_links", || get(shares::list)),
    route("DELETE", "/v1/videos/{video_id}/share_links/{share_id}", || delete(shares::revoke)),
    route("GET", "/share/{share_id}", || get(shares::open)),
    route("POST", "/v1/content_provenance_checks", || post(provenance::check)),
    route("POST", "/v1/moderations", || post(moderations::create)),
    route("GET", "/v1/models", || get(models::list)),
    route("GET", "/v1/models/{model}", || get(models::retrieve)),
    route("GET", "/healthz", || get(health::healthz)),
    route("GET", "/readyz", || get(health::readyz)),
    route("GET", "/metrics", || get(health::metrics)),
    route("GET", "/openapi.json", || get(openapi::document)),
    route("GET", "/farm/leader", || get(leader::show)),
    route("POST", "/farm/leader/move", || post(leader::step_aside)),
    route("GET", "/farm/workers", || get(operator::workers)),
    route("POST", "/farm/workers/{worker}/drain", || post(operator::drain)),
    route("POST", "/farm/workers/{worker}/cordon", || post(operator::cordon)),
    route("POST", "/farm/workers/{worker}/uncordon", || post(operator::uncordon)),
    route("GET", "/farm/jobs", || get(operator::jobs)),
    route("GET", "/farm/jobs/{video_id}", || get(operator::job)),
    route("GET", WHY, || get(operator::why)),
    route("POST", "/farm/jobs/{video_id}/move", || post(operator::move_job)),
    route("POST", "/farm/fsck", || post(operator::fsck)),
    route("GET", "/farm/fsck", || get(operator::fsck_report)),
    route("POST", "/farm/rescan", || post(rescan::begin)),
    route("GET", "/farm/rescan", || get(rescan::show)),
    route("DELETE", "/farm/rescan", || delete(rescan::cancel)),
    route("POST", "/farm/join_tokens", || post(operator::join_token)),
    route("POST", "/farm/keys", || post(operator::create_key)),
    route("GET", "/farm/keys", || get(operator::keys)),
    route("DELETE", "/farm/keys/{key_id}", || delete(operator::revoke_key)),
];

/// First segments behind `/v1/videos/` that are endpoints of a later release, not ids.
const LATER: [&str; 6] = ["edits", "extensions", "characters", "estimate", "stitches", "feed"];

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The id of the key.
    pub key: String,
    /// The project.
    pub tenant: TenantId,
    /// What the key allows.
    pub role: Role,
}

impl From<&Caller> for Who {
    fn from(caller: &Caller) -> Who {
        match caller.role {
            Role::Operator => Who::Operator,
            Role::Tenant => Who::Project(caller.tenant),
        }
    }
}

/// The whole door as a service.
pub fn router(door: Arc<Door>) -> Router {
    let routes = ROUTES.iter().fold(Router::new(), |router, route| {
        let mut methods = (route.make)();
        if route.method == "POST" && !once::ELSEWHERE.contains(&route.path) {
            methods = methods.route_layer(from_fn_with_state(door.clone(), once::once));
        }
        router.route(route.path, methods)
    });
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(door.clone(), admit))
        .layer(from_fn_with_state(door.clone(), around))
        .with_state(door)
}

async fn no_route(request: Request) -> ApiError {
    ApiError::no_route(request.method().as_str(), &path_of(&request))
}

async fn no_method(request: Request) -> ApiError {
    let (method, path) = (request.method().as_str(), path_of(&request));
    let template = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let methods: Vec<&str> =
        ROUTES.iter().filter(|route| route.path == template).map(|route| route.method).collect();
    ApiError::no_method(method, &path, &methods)
}

/// Whether the path is that of an endpoint which this release does not have, where a video's id
/// would match.
fn is_later(path: &str) -> bool {
    let behind = path.strip_prefix("/v1/videos/").unwrap_or("");
    behind.split('/').next().is_some_and(|first| LATER.contains(&first))
}

/// The path for a message, cut where it gets long.
fn path_of(request: &Request) -> String {
    request.uri().path().chars().take(200).collect()
}

/// Outermost: every answer has an id and a time, every fault an envelope, every request is counted.
async fn around(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id();
    let method = method_word(request.method());
    let template = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = ROUTES.iter().map(|r| r.path).find(|path| Some(*path) == template.as_deref());
    let route = route.unwrap_or("other");
    let path = path_of(&request);
    let counted = Counted::new(door.clone());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answer.unwrap_or_else(|_| {
        tracing::error!(request = id, route, "a handler panicked");
        ApiError::internal().into_response()
    });
    enveloped(&mut response, method, &path);
    drop(counted);
    let took = began.elapsed();
    let headers = response.headers_mut();
    put(headers, "x-request-id", &id);
    put(headers, "openai-processing-ms", &took.as_millis().to_string());
    let code = response.status().as_u16();
    door.state.metrics.answered(route, method, code, took);
    if (method, route) == ("POST", submit::PATH) {
        envelope::count_refused(&*door.state.metrics, &response);
    }
    tracing::debug!(request = id, method, route, code, ms = took.as_millis() as u64, "answered");
    response
}

/// A new id of a request.
pub fn request_id() -> String {
    format!("req_{:032x}", rand::random::<u128>())
}

/// Counts the requests being handled, also where one is given up.
struct Counted(Arc<Door>);

impl Counted {
    fn new(door: Arc<Door>) -> Counted {
        let counted = Counted(door);
        counted.tell(1);
        counted
    }

    fn tell(&self, by: isize) {
        let door = &self.0;
        let before = if by > 0 {
            door.handled.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
        } else {
            door.handled.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) - 1
        };
        door.state.metrics.in_flight(before);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tell(-1);
    }
}

/// What the framework itself refuses (a path that is not UTF-8) becomes an envelope too.
fn enveloped(response: &mut Response, method: &str, path: &str) {
    let status = response.status();
    let json = HeaderValue::from_static("application/json");
    let is_fault = status.is_client_error() || status.is_server_error();
    if !is_fault || response.headers().get(header::CONTENT_TYPE) == Some(&json) {
        return;
    }
    *response = match status {
        StatusCode::NOT_FOUND => ApiError::no_route(method, path),
        status if status.is_client_error() => {
            ApiError::new(status, None, "The request could not be understood.")
        }
        _ => ApiError::internal(),
    }
    .into_response();
}

/// Key, rate and room, in this order; and the headers that tell the caller about its rate. All of it comes from the
/// head, so that nobody without a key takes a place, and each project takes its own.
async fn admit(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_api = path.starts_with("/v1/") || path.starts_with("/farm/");
    if !is_api {
        return next.run(request).await;
    }
    let caller = match authenticate(&door, request.headers()) {
        Ok(caller) => caller,
        Err(refused) => return refused.into_response(),
    };
    let left = door.buckets.take(&caller.key, door.started.elapsed());
    let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let for_operators = path.starts_with("/farm/") && template != Some(WHY);
    let mut response = if let Some(seconds) = left.refused {
        ApiError::rate_limited(seconds).into_response()
    } else if for_operators && caller.role != Role::Operator {
        ApiError::operators_only().into_response()
    } else if is_later(path) {
        no_route(request).await.into_response()
    } else if let Some(place) = door.room.take(Who::from(&caller)) {
        request.extensions_mut().insert(caller);
        let window = door.state.limits.pace_timeout;
        let answer = next.run(request.map(|body| Paced::over(body, window))).await;
        // Whoever takes a long answer slowly holds a place too.
        answer.map(|body| hold(body, place))
    } else {
        ApiError::overloaded(1).into_response()
    };
    rate_headers(response.headers_mut(), left);
    response
}

fn rate_headers(headers: &mut HeaderMap, left: Left) {
    put(headers, "x-ratelimit-limit-requests", &left.limit.to_string());
    put(headers, "x-ratelimit-remaining-requests", &left.remaining.to_string());
    put(headers, "x-ratelimit-reset-requests", &duration_text(left.reset));
}

fn authenticate(door: &Door, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let bearer = body::text_header(headers, header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, text)| text.trim());
    let key =
        bearer.and_then(|text| door.state.keys.verify(text)).ok_or_else(ApiError::invalid_key)?;
    let project = headers.get("openai-project");
    if project.is_some_and(|project| project.as_bytes() != key.project.to_string().as_bytes()) {
        return Err(ApiError::mismatched_project());
    }
    Ok(Caller { key: key.id, tenant: key.project, role: key.role })
}

/// Sets a header whose value is of our own making.
pub fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn method_word(method: &Method) -> &'static str {
    let words = ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"];
    words.into_iter().find(|word| *word == method.as_str()).unwrap_or("other")
}

/// A 200 with JSON.
pub fn ok(of: &impl serde::Serialize) -> Result<Response, ApiError> {
    json(of).map(ok_bytes)
}

/// The bytes of an answer.
pub fn json(of: &impl serde::Serialize) -> Result<bytes::Bytes, ApiError> {
    serde_json::to_vec(of).map(Into::into).map_err(|error| {
        tracing::error!(%error, "an answer could not be written");
        ApiError::internal()
    })
}

/// A 200 with JSON that is written already.
pub fn ok_bytes(bytes: bytes::Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// The last value of a query parameter.
pub fn last<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The id in a path; one that cannot be an id is no video.
pub fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse().map_err(|_| ApiError::no_video(&echo(text)))
}

/// A job of the caller's project.
pub async fn read(door: &Door, caller: &Caller, id: &str) -> Result<JobView, ApiError> {
    let (tenant, job) = (caller.tenant, job_id(id)?);
    let view = door.state.farm.ask(|reply| FarmMsg::Read(tenant, job, reply)).await?;
    view.ok_or_else(|| ApiError::no_video(id))
}
