//! `/farm/leader`: which coordinators there are, who leads, and a planned change of leader.

use super::Door;
use super::envelope::ApiError;
use super::once;
use super::route;
use crate::registry::{RegistryMsg, RegistryView};
use axum::extract::{Request, State};
use axum::response::Response;
use ractor::ActorRef;
use ractor::rpc::CallResult;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The registry answers from memory.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the door of a cluster knows of it.
#[derive(Clone)]
pub struct ClusterHandle {
    /// Who knows all coordinators.
    pub registry: ActorRef<RegistryMsg>,
    /// Asks this coordinator to let another lead; of this term alone.
    pub aside: Arc<Notify>,
}

async fn view(door: &Door) -> Result<(&ClusterHandle, RegistryView), ApiError> {
    let Some(cluster) = &door.state.cluster else {
        let message = "This farm has one coordinator: its journal is not in etcd.";
        return Err(ApiError::not_found(None, message));
    };
    match cluster.registry.call(RegistryMsg::Observe, Some(ASK_TIMEOUT)).await {
        Ok(CallResult::Success(view)) => Ok((cluster, view)),
        _ => Err(ApiError::no_leader()),
    }
}

/// `GET /farm/leader`: the leader and all coordinators.
///
/// # Errors
/// 404 where there is one coordinator; 503.
pub async fn show(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let (_, view) = view(&door).await?;
    route::ok(&json!(view))
}

/// `POST /farm/leader/move`: let another coordinator lead. Renders go on.
///
/// # Errors
/// 404 where there is one coordinator; 409 where no other is there now; 503.
pub async fn step_aside(
    State(door): State<Arc<Door>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    once::fields(&mut request).only(&[])?;
    let (cluster, view) = view(&door).await?;
    let Some(leader) = view.leader.filter(|_| view.coordinators.len() > 1) else {
        let message = "No other coordinator is there to lead.";
        return Err(ApiError::conflict(None, message));
    };
    cluster.aside.notify_one();
    route::ok(&json!({"leader": leader, "moving": true}))
}
