//! The door of a coordinator that may lead or stand by: one listener, whose requests go where the role says.
//!
//! A leader answers itself. A standby passes a request on to the leader and its answer back, as they are, so
//! that a client needs one address and no redirects: SDKs drop the body or the key on those. Without a leader,
//! or with one that cannot reach etcd, the answer is 503 with `retry-after`. A request is passed on once: what a
//! standby passed on is not passed on again. `/healthz`, `/readyz` and `/metrics` are always this process's own.

use super::envelope::{self, ApiError};
use super::{Door, connection, health, route, submit};
use super::{DoorMetrics, DoorState};
use crate::leadership::Leadership;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// Reaching a leader on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Marks what a standby passed on.
const FORWARDED: HeaderName = HeaderName::from_static("x-zoetrope-forwarded");
/// The `Host` that its caller asked.
const ASKED_HOST: HeaderName = HeaderName::from_static("x-zoetrope-host");
/// Headers that are about one connection, not about the request.
const OF_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// What the door does with requests.
#[derive(Clone)]
pub enum Role {
    /// Answer them.
    Leading {
        /// All routes.
        router: Router,
        /// For as long as this is held.
        leadership: Arc<Leadership>,
    },
    /// Pass them on.
    Standby {
        /// To this leader's door, if there is a leader.
        leader: Option<Arc<str>>,
    },
}

/// Says which role the door has now. Dropping it ends nothing.
pub struct Roles {
    role: watch::Sender<Role>,
    shared: Arc<Shared>,
}

struct Shared {
    role: watch::Receiver<Role>,
    client: reqwest::Client,
    metrics: Arc<dyn DoorMetrics>,
    /// Requests that may be passed on at once.
    room: Semaphore,
}

impl Roles {
    /// A door without a leader.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(metrics: Arc<dyn DoorMetrics>, in_flight: usize) -> Result<Roles, reqwest::Error> {
        let (role, seen) = watch::channel(Role::Standby { leader: None });
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let room = Semaphore::new(in_flight);
        Ok(Roles { role, shared: Arc::new(Shared { role: seen, client, metrics, room }) })
    }

    /// This coordinator leads from now on.
    pub fn lead(&self, state: DoorState, leadership: Arc<Leadership>) {
        let router = route::router(Door::new(state));
        self.role.send_replace(Role::Leading { router, leadership });
    }

    /// This coordinator does not lead.
    pub fn stand_by(&self, leader: Option<&str>) {
        self.role.send_replace(Role::Standby { leader: leader.map(Arc::from) });
    }

    /// Serves until `shutdown` is ready, then lets requests in hand finish, for a limited time.
    pub fn serve(
        &self,
        listener: TcpListener,
        limits: super::DoorLimits,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
        let router = Router::new()
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(no_method)
            .fallback(by_role)
            .layer(map_response(identified))
            .with_state(self.shared.clone());
        connection::serve_router(listener, limits, router, shutdown)
    }
}

/// Whether a request would be answered, and by whom.
async fn ready(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let role = shared.role.borrow().clone();
    match role {
        Role::Leading { router, leadership } if leadership.is_serving() => {
            let answer = answered(router, request).await;
            if answer.status().is_success() { "ready: leader\n".into_response() } else { answer }
        }
        Role::Standby { leader: Some(leader) } => {
            format!("ready: standby, the leader is {leader}\n").into_response()
        }
        Role::Leading { .. } | Role::Standby { .. } => ApiError::no_leader().into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shared.metrics.text()).into_response()
}

async fn by_role(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let role = shared.role.borrow().clone();
    let is_submit = request.method() == Method::POST && request.uri().path() == submit::PATH;
    let response = match role {
        Role::Leading { router, leadership } if leadership.is_serving() => {
            return answered(router, request).await;
        }
        Role::Standby { leader: Some(leader) } if !request.headers().contains_key(FORWARDED) => {
            match shared.room.try_acquire() {
                Ok(_room) => pass_on(&shared, &leader, request).await,
                Err(_) => ApiError::overloaded(1).into_response(),
            }
        }
        Role::Leading { .. } | Role::Standby { .. } => ApiError::no_leader().into_response(),
    };
    // What the leader refused, it counted itself.
    if is_submit {
        envelope::count_refused(&*shared.metrics, &response);
    }
    response
}

/// Of `/healthz`, `/readyz` and `/metrics`.
async fn no_method(request: Request) -> ApiError {
    ApiError::no_method(request.method().as_str(), request.uri().path(), &["GET"])
}

/// Every answer has an id: that of the leader, or one of this process.
async fn identified(mut response: Response) -> Response {
    if !response.headers().contains_key("x-request-id") {
        route::put(response.headers_mut(), "x-request-id", &route::request_id());
    }
    response
}

/// The name by which a caller asked for this farm, also where a standby passed its request on.
pub fn asked_host(headers: &HeaderMap) -> Option<&str> {
    let name = if headers.contains_key(FORWARDED) { ASKED_HOST } else { header::HOST };
    headers.get(name)?.to_str().ok()
}

async fn answered(router: Router, request: Request) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Sends a request to the leader. Given up when that leader is no longer known as one: a leader that was killed
/// or stopped answers nothing.
async fn pass_on(shared: &Shared, leader: &str, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", leader.trim_end_matches('/'));
    let mut headers = head.headers;
    strip(&mut headers);
    headers.remove(ASKED_HOST);
    if let Some(host) = headers.remove(header::HOST) {
        headers.insert(ASKED_HOST, host);
    }
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    let body = reqwest::Body::wrap_stream(body.into_data_stream());
    let sent = shared.client.request(head.method, url).headers(headers).body(body).send();
    let mut role = shared.role.clone();
    let other = role
        .wait_for(|role| !matches!(role, Role::Standby { leader: Some(now) } if **now == *leader));
    let answer = tokio::select! {
        answer = sent => answer,
        _ = other => return ApiError::no_leader().into_response(),
    };
    match answer {
        Ok(answer) => {
            let (status, mut headers) = (answer.status(), answer.headers().clone());
            strip(&mut headers);
            let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
        Err(error) => {
            tracing::debug!(%error, leader, "a request could not be passed on");
            ApiError::no_leader().into_response()
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

#[cfg(test)]
mod tests {
    use super::super::DoorLimits;
    use super::super::testing::{Counted, send};
    use super::*;

    async fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (listener, url)
    }

    /// A standby before a leader that answers with the name by which it was asked.
    async fn standby() -> (String, String) {
        let (listener, leader) = listen().await;
        let asked = |headers: HeaderMap| async move { asked_host(&headers).unwrap().to_owned() };
        let router = Router::new().fallback(asked);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let roles = Roles::new(Arc::new(Counted::default()), 8).unwrap();
        roles.stand_by(Some(&leader));
        let (listener, url) = listen().await;
        tokio::spawn(roles.serve(listener, DoorLimits::default(), std::future::pending()));
        // As long as the test runs.
        std::mem::forget(roles);
        (url, leader)
    }

    /// Promise: a share link that was asked for through a standby names what its caller asked, not a leader inside.
    #[tokio::test]
    async fn a_leader_knows_the_host_that_a_standby_was_asked_by() {
        let (standby, leader) = standby().await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for (url, forwarded, wanted) in [
            (&standby, false, "farm.example:9"),
            (&leader, false, "farm.example:9"),
            (&leader, true, "other.example"),
        ] {
            let request = client.get(url).header("host", "farm.example:9");
            let request = request.header("x-zoetrope-host", "other.example");
            let request = if forwarded { request.header(FORWARDED, "1") } else { request };
            assert_eq!(send(request).await.bytes, wanted, "{url}");
        }
    }

    #[tokio::test]
    async fn what_a_standby_answers_itself_has_an_id_and_an_envelope() {
        let (standby, _) = standby().await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for path in ["healthz", "readyz", "metrics"] {
            let url = format!("{standby}/{path}");
            let answer = send(client.get(&url)).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
            let refused = send(client.post(&url)).await;
            assert_eq!(refused.code(), (405, None), "{path}");
            assert_eq!(refused.header("allow"), Some("GET, HEAD"));
            assert!(refused.header("x-request-id").is_some());
        }
    }
}
