//! Ending videos: `POST /videos/{id}/cancel` and `DELETE /videos/{id}`.

use super::envelope::ApiError;
use super::once;
use super::recent::KEY_LIFE;
use super::route::{self, Caller};
use super::submit::{IDEMPOTENCY_KEY, replayed};
use super::words::Replay;
use super::{Door, listing};
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
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

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
    mut request: Request,
) -> Result<Response, ApiError> {
    once::fields(&mut request).only(&[])?;
    let headers = request.headers();
    let (statuses, has_key) = (listing::statuses(headers), headers.contains_key(IDEMPOTENCY_KEY));
    let job = route::job_id(&id)?;
    match door.cancels.cancel(&door.state.farm, caller.tenant, job).await? {
        Ok(view) => route::ok(&listing::show(&door, &view, statuses)),
        Err(CancelRefused::Terminal(view)) if has_key && may_be_repeat(&door, &view) => {
            replayed(&door, Replay::Key, route::ok(&listing::show(&door, &view, statuses))?)
        }
        Err(CancelRefused::Terminal(_)) => Err(ApiError::already_terminal(&id)),
        Err(CancelRefused::NoSuchJob) => Err(ApiError::no_video(&id)),
    }
}

/// Whether a cancel with a key may be the one that ended the job: the door that knew the key is gone, and the key would
/// still be kept. An ended video does not change, so the answer is that of the first one.
fn may_be_repeat(door: &Door, view: &JobView) -> bool {
    let cancelled = view.state == JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));
    let kept_until = |ended: Millis| ended.plus(Millis(KEY_LIFE.as_millis() as u64));
    cancelled && view.ended.is_some_and(|at| at < door.since && (door.state.now)() < kept_until(at))
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
