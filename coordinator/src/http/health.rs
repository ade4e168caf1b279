//! `/healthz`, `/readyz`, `/metrics`: for those who run the farm, without a key.

use super::Door;
use super::envelope::ApiError;
use crate::farm::{Farm, FarmMsg, Unavailable};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer of the farm holds: whoever watches it asks every few seconds.
const HOLDS: Duration = Duration::from_secs(1);

/// What the farm answered last. Nobody needs a key to ask, so however many do, the farm is asked by one at a time, and
/// the others get that answer.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Result<(), Unavailable>)>>);

impl Readiness {
    async fn ask(&self, farm: &Farm) -> Result<(), Unavailable> {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < HOLDS
        {
            return answer;
        }
        let answer = farm.ask(FarmMsg::Ready).await;
        *last = Some((Instant::now(), answer));
        answer
    }
}

/// The process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The farm answers. It may have no worker: jobs wait.
///
/// # Errors
/// 503 if it does not.
pub async fn readyz(State(door): State<Arc<Door>>) -> Result<&'static str, ApiError> {
    door.readiness.ask(&door.state.farm).await?;
    Ok("ready\n")
}

/// All metrics in Prometheus' text format.
pub async fn metrics(State(door): State<Arc<Door>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        door.state.metrics.text(),
    )
}
