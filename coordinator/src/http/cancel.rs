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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

type Of = (TenantId, JobId);
type Answer = Result<Result<JobView, CancelRefused>, Unavailable>;

/// Cancels whose answer has not left yet: who comes meanwhile gets the same one.
#[derive(Clone, Default)]
pub struct Cancels {
    open: Arc<Mutex<HashMap<Of, Open>>>,
}

struct Open {
    answer: Shared<BoxFuture<'static, Answer>>,
    /// The task that asks, and the requests that join.
    holders: usize,
}

/// Keeps a cancel open until it is dropped.
struct Joined {
    cancels: Cancels,
    of: Of,
}

impl Cancels {
    /// Cancels, or joins a cancel of the same job. The farm's answer is not yet that of the request: a cancel which comes
    /// between the two comes before it.
    async fn cancel(&self, farm: &Farm, of: Of) -> (Answer, Joined) {
        let joined = || Joined { cancels: self.clone(), of };
        let (answer, begun) = {
            let mut open = self.lock();
            match open.get_mut(&of) {
                Some(running) => {
                    running.holders += 1;
                    (running.answer.clone(), None)
                }
                None => {
                    let (tell, told) = oneshot::channel();
                    let answer = told.map(|told| told.unwrap_or(Err(Unavailable)));
                    let answer = answer.boxed().shared();
                    open.insert(of, Open { answer: answer.clone(), holders: 2 });
                    (answer, Some((tell, joined())))
                }
            }
        };
        let joined = joined();
        if let Some((tell, asking)) = begun {
            let (farm, (tenant, job)) = (farm.clone(), of);
            // In a task of its own, so that it ends and leaves the table even if all who wait go away.
            tokio::spawn(async move {
                let answer = farm.ask(|reply| FarmMsg::Cancel(tenant, job, reply)).await;
                drop(asking);
                // Nobody may wait any more.
                drop(tell.send(answer));
            });
        }
        (answer.await, joined)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Of, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut open = self.cancels.lock();
        if let Some(running) = open.get_mut(&self.of) {
            running.holders -= 1;
            if running.holders == 0 {
                open.remove(&self.of);
            }
        }
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
    let (answer, joined) = door.cancels.cancel(&door.state.farm, (caller.tenant, job)).await;
    match answer? {
        Ok(view) => {
            let mut response = route::ok(&listing::show(&door, &view, statuses))?;
            // It goes when the head of the answer is written.
            response.extensions_mut().insert(Arc::new(joined));
            Ok(response)
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::Stand;

    /// 5.5: a cancel that comes before the answer of another gets the same one, also where the farm has answered already.
    #[tokio::test]
    async fn a_cancel_is_open_until_its_last_answer_has_left() {
        let stand = Stand::new().await;
        let id = stand.put(1, JobState::InProgress);
        let (cancels, farm) = (Cancels::default(), stand.farm());
        let of = (TenantId(1), id.parse::<JobId>().unwrap());
        let (first, leaving) = cancels.cancel(&farm, of).await;
        assert!(matches!(first, Ok(Ok(_))), "{first:?}");
        let (second, also) = cancels.cancel(&farm, of).await;
        assert_eq!(first, second);
        drop(leaving);
        let (third, last) = cancels.cancel(&farm, of).await;
        assert_eq!(first, third);
        drop((also, last));
        assert!(cancels.lock().is_empty());
        let (late, _) = cancels.cancel(&farm, of).await;
        assert!(matches!(late, Ok(Err(CancelRefused::Terminal(_)))), "{late:?}");
    }
}
