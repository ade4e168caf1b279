//! `/healthz`, `/readyz`, `/metrics`: for those who run the farm, without a key.

use super::Door;
use super::envelope::ApiError;
use crate::farm::FarmMsg;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::sync::Arc;

/// The process lives.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The farm answers. It may have no worker: jobs wait.
///
/// # Errors
/// 503 if it does not.
pub async fn readyz(State(door): State<Arc<Door>>) -> Result<&'static str, ApiError> {
    door.state.farm.ask(FarmMsg::Workers).await?;
    Ok("ready\n")
}

/// All metrics in Prometheus' text format.
pub async fn metrics(State(door): State<Arc<Door>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        door.state.metrics.text(),
    )
}
