//! The farm's own endpoints, for operators: workers, jobs of all projects, join tokens, API keys.
//!
//! Outside of `/v1`, because they are ours alone. The command line is their main caller.

use super::envelope::{ApiError, echo};
use super::fields::Fields;
use super::listing::{Audience, list_query, page_json, show, statuses};
use super::node::Node;
use super::route::{self, Caller};
use super::{Door, once};
use crate::farm::{FarmMsg, MoveRefused, NoSuchWorker};
use crate::fsck::{Busy, Options};
use crate::jobs::{ArtifactRecord, AttemptRecord};
use crate::keys::{KeyRow, KeysError, NewKey, Project, Role};
use axum::Extension;
use axum::extract::{Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use zoetrope_protocol::id::{Millis, TenantId};
use zoetrope_protocol::job::{Cause, Role as Made};
use zoetrope_protocol::wire::DrainKind;

/// Workers that one token may admit.
const USES_MAX: i128 = 1000;
/// How long a token may be good, in seconds.
const TTL_MAX: i128 = 24 * 3600;
/// How long a drain with a deadline may take, in seconds.
const DRAIN_MAX: i128 = 24 * 3600;
/// Workers that one request may drain beside the first.
const DRAIN_WITH_MAX: usize = 99;

/// `GET /farm/workers`.
///
/// # Errors
/// 503.
pub async fn workers(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let rows = door.state.farm.ask(FarmMsg::Workers).await?;
    route::ok(&json!({"data": rows}))
}

/// `POST /farm/workers/{worker}/drain`: empty a worker, or several at once.
///
/// # Errors
/// 400, 404.
pub async fn drain(
    State(door): State<Arc<Door>>,
    Path(worker): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["kind", "seconds", "with"])?;
    let kind = fields.text("kind")?.unwrap_or_else(|| "step".to_owned());
    let seconds = fields.whole("seconds")?;
    let drain = drain_kind(&kind, seconds)?;
    let mut workers = vec![worker.clone()];
    workers.extend(with(&mut fields)?);
    let drained = door.state.farm.ask(|reply| FarmMsg::Drain(workers, drain, reply)).await?;
    drained.map_err(|NoSuchWorker(name)| no_worker(&name))?;
    route::ok(&json!({"worker": worker, "draining": true}))
}

/// Workers that are to be drained beside the first.
fn with(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let others = fields.array("with")?.unwrap_or_default();
    if others.len() > DRAIN_WITH_MAX {
        let message = format!("Invalid value: 'with' has at most {DRAIN_WITH_MAX} workers.");
        return Err(ApiError::invalid("with", message));
    }
    let name = |node| match node {
        Node::Text(name) | Node::Form(name) => Ok(name),
        other => Err(ApiError::wrong_type("with", "strings", other.article())),
    };
    others.into_iter().map(name).collect()
}

fn drain_kind(kind: &str, seconds: Option<i128>) -> Result<DrainKind, ApiError> {
    let drain = match (kind, seconds) {
        ("deadline", None) => return Err(ApiError::missing("seconds")),
        ("deadline", Some(seconds)) => {
            let seconds = within("seconds", seconds, 1, DRAIN_MAX)?;
            return Ok(DrainKind::Deadline(Millis(seconds * 1000)));
        }
        ("immediate", _) => DrainKind::Immediate,
        ("step", _) => DrainKind::Step,
        ("shard", _) => DrainKind::Shard,
        (other, _) => {
            let allowed = ["immediate", "step", "shard", "deadline"].map(str::to_owned);
            return Err(ApiError::not_among("kind", other, &allowed));
        }
    };
    if seconds.is_some() {
        return Err(ApiError::invalid("seconds", "'seconds' is only for the kind 'deadline'."));
    }
    Ok(drain)
}

/// `POST /farm/workers/{worker}/cordon`: no new work for a worker.
///
/// # Errors
/// 404.
pub async fn cordon(
    State(door): State<Arc<Door>>,
    Path(worker): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    set_cordon(&door, worker, true, request).await
}

/// `POST /farm/workers/{worker}/uncordon`: work again.
///
/// # Errors
/// 404.
pub async fn uncordon(
    State(door): State<Arc<Door>>,
    Path(worker): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    set_cordon(&door, worker, false, request).await
}

async fn set_cordon(
    door: &Door,
    worker: String,
    cordoned: bool,
    mut request: Request,
) -> Result<Response, ApiError> {
    once::fields(&mut request).only(&[])?;
    let name = worker.clone();
    let found = door.state.farm.ask(|reply| FarmMsg::Cordon(name, cordoned, reply)).await?;
    done(found, &worker, json!({"worker": worker, "cordoned": cordoned}))
}

/// `POST /farm/fsck`: hold the store against the books.
///
/// # Errors
/// 400; 409 while one runs.
pub async fn fsck(
    State(door): State<Arc<Door>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["repair", "quick"])?;
    let repair = fields.boolean("repair")?.unwrap_or(false);
    let quick = fields.boolean("quick")?.unwrap_or(false);
    let begun = door.state.fsck.start(door.state.farm.clone(), Options { repair, quick });
    route::ok(&begun.map_err(|Busy| ApiError::fsck_running())?)
}

/// `GET /farm/fsck`: how far it is, or what the last one found.
///
/// # Errors
/// None of its own.
pub async fn fsck_report(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    route::ok(&door.state.fsck.report())
}

fn done(found: bool, worker: &str, answer: Value) -> Result<Response, ApiError> {
    if found {
        return route::ok(&answer);
    }
    Err(no_worker(worker))
}

fn no_worker(name: &str) -> ApiError {
    ApiError::not_found(None, format!("Worker '{}' not found.", echo(name)))
}

/// `GET /farm/jobs`: videos of all projects, each with its `project`.
///
/// # Errors
/// As the list of videos.
pub async fn jobs(
    State(door): State<Arc<Door>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = list_query(&query)?;
    let page = door.state.farm.ask(|reply| FarmMsg::AllJobs(asked, reply)).await?;
    page_json(&door, asked, page, statuses(&headers), Audience::Operator)
}

/// `GET /farm/jobs/{id}`: one video of any project, its attempts, and the chain of artifacts that they made.
///
/// # Errors
/// 404.
pub async fn job(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let job = route::job_id(&id)?;
    let found = door.state.farm.ask(|reply| FarmMsg::History(job, reply)).await?;
    let (view, history) = found.ok_or_else(|| ApiError::no_video(&id))?;
    let video = show(&door, &view, statuses(&headers)).with_project(view.tenant().to_string());
    route::ok(&json!({
        "object": "farm.job",
        "video": video,
        "attempts": history.attempts.iter().map(attempt_json).collect::<Vec<_>>(),
        "artifacts": history.artifacts.iter().map(artifact_json).collect::<Vec<_>>(),
        "artifacts_ignored": history.ignored,
    }))
}

fn attempt_json(attempt: &AttemptRecord) -> Value {
    json!({
        "stage": attempt.shard.stage.word(),
        "index": attempt.shard.index,
        "epoch": attempt.fence.epoch.0,
        "attempt": attempt.fence.attempt.0,
        "worker": attempt.worker.0,
        "node": attempt.node,
        "from_step": attempt.from_step,
        "began_at_ms": attempt.began.0,
        "ended_at_ms": attempt.ended.map(|ended| ended.0),
        "cause": attempt.cause.map(Cause::word),
        "gpu_ms": attempt.gpu.0,
    })
}

fn artifact_json(record: &ArtifactRecord) -> Value {
    let ArtifactRecord { artifact, fence, stored } = record;
    let (role, number) = match artifact.role {
        Made::Prompt => ("prompt", None),
        Made::Latents { step } => ("latents", Some(step)),
        Made::Segment { chunk } => ("segment", Some(chunk)),
        Made::Clip => ("clip", None),
        Made::Thumbnail => ("thumbnail", None),
        Made::Spritesheet => ("spritesheet", None),
        Made::Scores => ("scores", None),
        Made::Marks => ("marks", None),
        Made::Draft => ("draft", None),
    };
    json!({
        "role": role,
        "number": number,
        "sha256": artifact.artifact.to_string(),
        "bytes": artifact.bytes,
        "epoch": fence.epoch.0,
        "attempt": fence.attempt.0,
        "stored_at_ms": stored.0,
    })
}

/// `GET /farm/jobs/{id}/why`: why a job waits, or how it has ended. Tenants may ask about their own.
///
/// # Errors
/// 404.
pub async fn why(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = route::job_id(&id)?;
    let tenant = (caller.role == Role::Tenant).then_some(caller.tenant);
    let why = door.state.farm.ask(|reply| FarmMsg::Why(tenant, job, reply)).await?;
    route::ok(&json!({"why": why.ok_or_else(|| ApiError::no_video(&id))?}))
}

/// `POST /farm/jobs/{id}/move`: let a job go on on another worker. What it failed so far is forgotten.
///
/// # Errors
/// 400, 404; 409 if there is nothing to move.
pub async fn move_job(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["to"])?;
    let to = fields.text("to")?;
    let job = route::job_id(&id)?;
    let name = to.clone();
    match door.state.farm.ask(|reply| FarmMsg::Move(job, name, reply)).await? {
        Ok(()) => route::ok(&json!({"id": id, "moving": true, "to": to})),
        Err(MoveRefused::NoSuchJob) => Err(ApiError::no_video(&id)),
        Err(MoveRefused::NoSuchWorker) => Err(no_worker(&to.unwrap_or_default())),
        Err(MoveRefused::NothingToMove) => Err(ApiError::nothing_to_move(&id)),
    }
}

/// `POST /farm/join_tokens`: a token with which new workers may join.
///
/// # Errors
/// 400.
pub async fn join_token(
    State(door): State<Arc<Door>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["uses", "ttl_seconds"])?;
    let uses = within("uses", fields.whole("uses")?.unwrap_or(1), 1, USES_MAX)? as u32;
    let seconds = fields.whole("ttl_seconds")?.unwrap_or(900);
    let ttl = Millis(within("ttl_seconds", seconds, 1, TTL_MAX)? * 1000);
    let token = door.state.farm.ask(|reply| FarmMsg::JoinToken { uses, ttl, reply }).await?;
    route::ok(&json!({"token": token}))
}

/// `POST /farm/keys`: a new API key, whose text is shown this once.
///
/// # Errors
/// 400; 500 if it could not be stored.
pub async fn create_key(
    State(door): State<Arc<Door>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let mut fields = once::fields(&mut request);
    fields.only(&["project", "role", "name"])?;
    let project = project(fields.text("project")?.as_deref().unwrap_or("new"))?;
    let role = match fields.text("role")?.as_deref() {
        None | Some("tenant") => Role::Tenant,
        Some("operator") => Role::Operator,
        Some(other) => {
            let allowed = ["tenant", "operator"].map(str::to_owned);
            return Err(ApiError::not_among("role", other, &allowed));
        }
    };
    let name = fields.text("name")?.unwrap_or_default();
    let keys = door.state.keys.clone();
    let made = blocking(move || keys.create(project, role, &name)).await?;
    let NewKey { text, row } = made.map_err(|error| refused(&error))?;
    let mut shown = key_json(&row);
    shown["key"] = json!(text);
    route::ok(&shown)
}

/// `GET /farm/keys`.
///
/// # Errors
/// None of its own.
pub async fn keys(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let rows: Vec<Value> = door.state.keys.list().iter().map(key_json).collect();
    route::ok(&json!({"data": rows}))
}

/// `DELETE /farm/keys/{id}`.
///
/// # Errors
/// 404; 409 for the last operator's; 500 if it could not be stored.
pub async fn revoke_key(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let keys = door.state.keys.clone();
    let asked = id.clone();
    let found = blocking(move || keys.revoke(&asked)).await?.map_err(|error| refused(&error))?;
    if !found {
        return Err(ApiError::not_found(None, format!("Key '{}' not found.", echo(&id))));
    }
    route::ok(&json!({"id": id, "object": "key.deleted", "deleted": true}))
}

fn key_json(row: &KeyRow) -> Value {
    json!({
        "id": row.id,
        "project": row.project.to_string(),
        "role": row.role,
        "name": row.name,
        "created_at": row.created_at,
    })
}

fn project(text: &str) -> Result<Project, ApiError> {
    if text == "new" {
        return Ok(Project::New);
    }
    let number = text.strip_prefix("proj_").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let number = number.and_then(|n| n.parse().ok());
    number.map(|n| Project::Known(TenantId(n))).ok_or_else(|| {
        ApiError::invalid("project", "Invalid value: 'project' must be 'new' or as in 'proj_1'.")
    })
}

fn refused(error: &KeysError) -> ApiError {
    match error {
        KeysError::NoSuchProject(_) => ApiError::invalid("project", sentence(error)),
        KeysError::Name => ApiError::invalid("name", sentence(error)),
        KeysError::Full => ApiError::conflict(None, sentence(error)),
        KeysError::LastOperator => {
            let message =
                "This is the last operator's key: make another with the role operator first.";
            ApiError::conflict(None, message)
        }
        KeysError::File { .. } | KeysError::Format { .. } => {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, "the key file cannot be replaced");
            ApiError::internal()
        }
    }
}

fn sentence(error: &KeysError) -> String {
    format!("Invalid value: {error}.")
}

/// Files are written on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())
}

pub(super) fn within(param: &str, value: i128, least: i128, most: i128) -> Result<u64, ApiError> {
    let fits = (least..=most).contains(&value).then(|| u64::try_from(value).ok()).flatten();
    fits.ok_or_else(|| {
        ApiError::invalid(param, format!("Invalid value: '{param}' must be {least} to {most}."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.5: the SDKs would send it twice more, and a full store stays full.
    #[test]
    fn a_full_store_of_keys_is_not_worth_a_retry() {
        let refused = refused(&KeysError::Full);
        assert_eq!((refused.status.as_u16(), refused.should_retry), (409, Some(false)));
    }
}
