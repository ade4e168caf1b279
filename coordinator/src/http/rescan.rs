//! `/farm/rescan`: has everything stored judged anew, says how far that is, and ends it. For operators.

use super::Door;
use super::envelope::ApiError;
use super::once;
use super::operator::within;
use super::route;
use crate::farm::{FarmMsg, RescanRefused};
use crate::jobs::rescan::{Left, POLICY_BYTES_MAX, PolicyTexts, RATE_DEFAULT, RATE_MAX};
use crate::jobs::{Rescan, RescanOrder, RescanState};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use zoetrope_moderation::Policy;

/// `POST /farm/rescan`: begin. Without a policy everything is judged by that of now.
///
/// # Errors
/// 400 names what is wrong with the policy; 409 if a rescan goes on.
pub async fn begin(
    State(door): State<Arc<Door>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["policy", "rules", "pairs", "dry_run", "per_second"])?;
    let texts = [fields.text("policy")?, fields.text("rules")?, fields.text("pairs")?];
    let dry_run = fields.boolean("dry_run")?.unwrap_or(false);
    let rate = fields.whole("per_second")?.unwrap_or(i128::from(RATE_DEFAULT));
    let per_second = within("per_second", rate, 1, i128::from(RATE_MAX))? as u32;
    let order = RescanOrder { policy: policy(texts).await?, dry_run, per_second };
    let ask = |reply| FarmMsg::Rescan(Box::new(order), reply);
    let began = door.state.farm.ask(ask).await?.map_err(refused)?;
    route::ok(&shown(&began, None))
}

/// `GET /farm/rescan`: the rescan that goes on, or the last one.
///
/// # Errors
/// 404 if there was none.
pub async fn show(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let known = door.state.farm.ask(FarmMsg::RescanView).await?;
    let (rescan, left) = known.ok_or_else(|| refused(RescanRefused::None))?;
    route::ok(&shown(&rescan, Some(left)))
}

/// `DELETE /farm/rescan`: end it. What was taken down stays down.
///
/// # Errors
/// 404 if there was none.
pub async fn cancel(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let ended = door.state.farm.ask(FarmMsg::RescanCancel).await?.map_err(refused)?;
    route::ok(&shown(&ended, None))
}

/// A policy comes with both of its lists, or not at all.
async fn policy(texts: [Option<String>; 3]) -> Result<Option<PolicyTexts>, ApiError> {
    let (policy, rules, pairs) = match texts {
        [None, None, None] => return Ok(None),
        [Some(policy), Some(rules), Some(pairs)] => (policy, rules, pairs),
        [None, ..] => return Err(ApiError::missing("policy")),
        [_, None, _] => return Err(ApiError::missing("rules")),
        [.., None] => return Err(ApiError::missing("pairs")),
    };
    let bytes = policy.len() + rules.len() + pairs.len();
    if bytes > POLICY_BYTES_MAX {
        let message = format!(
            "Invalid value: 'policy', 'rules' and 'pairs' have {bytes} bytes, at most {POLICY_BYTES_MAX} are taken."
        );
        return Err(ApiError::invalid("policy", message));
    }
    let texts = PolicyTexts { policy, rules, pairs };
    // Reading a thousand rules takes longer than a request may hold its thread.
    let read = move || {
        let read = Policy::of_texts(&texts.policy, &texts.rules, &texts.pairs);
        read.map(|_| texts).map_err(|error| error.to_string())
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|_| ApiError::internal())?;
    read.map(Some).map_err(|why| ApiError::invalid("policy", format!("Invalid value: {why}.")))
}

fn refused(why: RescanRefused) -> ApiError {
    match why {
        RescanRefused::Running => ApiError::conflict(
            None,
            "A rescan is running: wait until it is done, or end it with DELETE /farm/rescan.",
        ),
        RescanRefused::None => ApiError::not_found(None, "There was no rescan yet."),
    }
}

/// `left`: what was not judged, where that was counted.
fn shown(rescan: &Rescan, left: Option<Left>) -> Value {
    let status = match rescan.state {
        RescanState::Running => "running",
        RescanState::Done => "done",
        RescanState::Cancelled => "cancelled",
    };
    let failing = rescan.failing.iter().map(|(job, categories)| {
        let categories: Vec<&str> = categories.iter().map(|category| category.word()).collect();
        json!({"id": job.to_string(), "categories": categories})
    });
    json!({
        "object": "farm.rescan",
        "status": status,
        "dry_run": rescan.order.dry_run,
        "per_second": rescan.order.per_second,
        "began_at": rescan.began.seconds(),
        "ended_at": rescan.ended.map(|at| at.seconds()),
        "left": left.map(|left| left.rows),
        "pending": left.and_then(|left| left.pending),
        "passed": rescan.passed,
        "failed": rescan.failed,
        "unjudged": rescan.unjudged,
        "failing": failing.collect::<Vec<_>>(),
        "unjudgeable": rescan.unjudgeable.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
