//! Ending videos: `POST /videos/{id}/cancel` and `DELETE /videos/{id}`.

use super::envelope::ApiError;
use super::recent::{Begun, Hash, KeyGuard};
use super::route::{self, Caller};
use super::submit::{content, idempotency_key, replayed};
use super::video::StatusSet;
use super::words::Replay;
use super::{Door, body, listing};
use crate::farm::{CancelRefused, Farm, FarmMsg, Unavailable};
use crate::jobs::JobView;
use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_protocol::id::{JobId, TenantId};

type Open = HashMap<(TenantId, JobId), Shared<BoxFuture<'static, Answer>>>;
type Answer = Result<Result<JobView, CancelRefused>, Unavailable>;

/// Cancels that the farm has not answered yet: who comes meanwhile gets the same answer.
#[derive(Clone, Default)]
pub struct Cancels {
    open: Arc<Mutex<Open>>,
}

impl Cancels {
    /// Cancels, or joins a cancel of the same job.
    async fn cancel(&self, farm: &Farm, tenant: TenantId, job: JobId) -> Answer {
        let running = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match open.get(&(tenant, job)) {
                Some(running) => running.clone(),
                None => {
                    let running = self.begin(farm.clone(), tenant, job);
                    open.insert((tenant, job), running.clone());
                    running
                }
            }
        };
        running.await
    }

    /// In a task of its own, so that it ends and leaves the table even if all who wait go away.
    fn begin(
        &self,
        farm: Farm,
        tenant: TenantId,
        job: JobId,
    ) -> Shared<BoxFuture<'static, Answer>> {
        let open = self.open.clone();
        let task = tokio::spawn(async move {
            let answer = farm.ask(|reply| FarmMsg::Cancel(tenant, job, reply)).await;
            open.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant, job));
            answer
        });
        async move { task.await.unwrap_or(Err(Unavailable)) }.boxed().shared()
    }
}

/// Answers when the end of the job is durable.
///
/// # Errors
/// 404; 409 if the job had ended before.
pub async fn cancel(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path().to_owned();
    let (head, bytes) = request.into_parts();
    let key = idempotency_key(&caller, &head.headers, "POST", &path)?;
    let fields = body::read(&door, &head.headers, bytes).await?;
    let content = content(&caller, key.is_some(), &path, &fields);
    let guard = match key.map(|key| door.recent.begin_key(key, content)) {
        None => None,
        Some(Begun::InUse) => return Err(ApiError::key_in_use()),
        Some(Begun::Reused) => return Err(ApiError::key_reused()),
        Some(Begun::Known(_, Some(answer))) => {
            return replayed(&door, Replay::Key, route::ok_bytes(answer));
        }
        Some(Begun::Free(guard) | Begun::Known(guard, None)) => Some((guard, content)),
    };
    fields.only(&[])?;
    let statuses = listing::statuses(&head.headers);
    // In a task of its own, so that a key gets its answer even if its caller goes away.
    let task = tokio::spawn(async move { end(&door, &caller, &id, statuses, guard).await });
    task.await.map_err(|_| ApiError::internal())?
}

async fn end(
    door: &Door,
    caller: &Caller,
    id: &str,
    statuses: StatusSet,
    guard: Option<(KeyGuard, Hash)>,
) -> Result<Response, ApiError> {
    let job = route::job_id(id)?;
    let answer = door.cancels.cancel(&door.state.farm, caller.tenant, job).await?;
    let view = answer.map_err(|refused| match refused {
        CancelRefused::NoSuchJob => ApiError::no_video(id),
        CancelRefused::Terminal(_) => ApiError::already_terminal(id),
    })?;
    let bytes = route::json(&listing::show(door, &view, statuses))?;
    if let Some((guard, content)) = guard {
        guard.done(content, Some(bytes.clone()));
    }
    Ok(route::ok_bytes(bytes))
}

/// Ends the job if need be, and hides it for ever.
///
/// # Errors
/// 404.
pub async fn delete(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let (tenant, job) = (caller.tenant, route::job_id(&id)?);
    let farm = door.state.farm.clone();
    // In a task of its own, so that it is not given up half-way with its caller.
    let task =
        tokio::spawn(async move { farm.ask(|reply| FarmMsg::Delete(tenant, job, reply)).await });
    if !task.await.map_err(|_| ApiError::internal())?? {
        return Err(ApiError::no_video(&id));
    }
    route::ok(&json!({"id": id, "object": "video.deleted", "deleted": true}))
}
