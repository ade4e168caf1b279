//! The worker's own small HTTP endpoint: `/metrics` for Prometheus, `/healthz` for whoever started it.
//!
//! Shows nothing of a caller: no prompt, no job. Off unless `--metrics` names an address.

use crate::metrics::Metrics;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

/// Serves until the process ends. Returns the address that it listens on.
///
/// # Errors
/// If the address is taken.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    linked: Vec<Arc<AtomicBool>>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let router =
        Router::new()
            .route(
                "/metrics",
                get(move || async move {
                    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.text())
                }),
            )
            .route("/healthz", get(move || async move { health(&linked) }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics endpoint ended");
        }
    });
    Ok(address)
}

/// Alive is healthy: a worker without coordinator finishes its shard and dials on, so it is not to be
/// restarted for that.
fn health(linked: &[Arc<AtomicBool>]) -> impl IntoResponse + use<> {
    let up = linked.iter().filter(|one| one.load(Ordering::Relaxed)).count();
    let body = format!("{{\"status\":\"ok\",\"links\":{},\"linked\":{up}}}\n", linked.len());
    ([(CONTENT_TYPE, "application/json")], body)
}
