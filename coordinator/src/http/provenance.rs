//! `GET /videos/{id}/provenance` and `POST /content_provenance_checks`: where a clip comes from.

use super::envelope::ApiError;
use super::once::{self, Once};
use super::recent::hash_of;
use super::route::{self, Caller};
use super::{Door, body, content, submit};
use crate::farm::FarmMsg;
use crate::inspect::{HEAD_BYTES, InspectError, NO_SUCH_KIND, Spooled, format_of};
use crate::jobs::{ArtifactRecord, Asset, History, JobView};
use crate::room::Who;
use crate::watermark::Finder;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use zoetrope_mark::MarkId;
use zoetrope_protocol::id::WorkerId;
use zoetrope_protocol::job::{Role, Stage};
use zoetrope_protocol::mark::PICTURE_ALG;
use zoetrope_protocol::provenance::Proofs;
use zoetrope_provenance::{State as Trusted, Verdict};

/// Answers with what is known of a published video's origin.
///
/// # Errors
/// 404 for no such video or one without bytes; 503 where too many files are being read.
pub async fn provenance(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let view = route::read(&door, &caller, &id).await?;
    let assets = content::published(&view, (door.state.now)())?;
    let (tenant, job) = (caller.tenant, view.job);
    let proofs = door.state.farm.ask(|reply| FarmMsg::Proofs(tenant, job, reply)).await?;
    let history = door.state.farm.ask(|reply| FarmMsg::History(job, reply)).await?;
    let spooled = door.state.inspector.own(Who::from(&caller)).await?;
    let clip = assets.video.clone();
    spool(&door, &clip, &spooled.path).await?;
    let verdict = door.state.inspector.read(&spooled.path, "video/mp4").await?;
    route::ok(&json!({
        "object": "video.provenance",
        "c2pa": manifest(&verdict, proofs.as_ref()),
        "watermark": proofs.as_ref().and_then(|proofs| proofs.marked).map(|proof| {
            let codeword = MarkId(proof.mark).codeword();
            json!({ "video_algorithm": PICTURE_ALG, "value": hex::encode(codeword) })
        }),
        "file_sha256": clip.artifact.to_string(),
        "lineage": [],
        "inputs": [],
        "model": view.resolved_model,
        "seed": view.spec.render.seed,
        "workers": history.map(|(_, history)| workers(&history)).unwrap_or_default(),
        "moderation": proofs.as_ref().and_then(|proofs| {
            proofs.moderated.as_ref().map(|proof| json!({ "policy_version": proof.policy }))
        }),
        "consents": [],
    }))
}

/// What the manifest of one of our clips says, and which claim was signed.
fn manifest(verdict: &Verdict, proofs: Option<&Proofs>) -> Value {
    let signed = proofs.and_then(|proofs| proofs.signed);
    json!({
        "manifest": verdict.manifest,
        "validation_state": verdict.state,
        "issuer": verdict.issuer,
        "claim_sha256": signed.map(|signed| hex::encode(signed.claim)),
    })
}

/// The workers whose attempts made the clip, in the order in which they began: those that came to their end, and those
/// whose artifacts others went on from.
fn workers(history: &History) -> Vec<String> {
    let mut known = BTreeSet::<WorkerId>::new();
    let made = history.attempts.iter().filter(|attempt| {
        let ended_well = attempt.ended.is_some() && attempt.cause.is_none();
        let shard = (attempt.shard.stage, u32::from(attempt.shard.index));
        let left = |artifact: &ArtifactRecord| {
            artifact.fence == attempt.fence && shard_of(artifact.artifact.role) == shard
        };
        ended_well || history.artifacts.iter().any(left)
    });
    let new = made.filter(|attempt| known.insert(attempt.worker));
    new.map(|attempt| attempt.worker.to_string()).collect()
}

/// Which shard makes this, and its index.
fn shard_of(role: Role) -> (Stage, u32) {
    match role {
        Role::Prompt => (Stage::Encode, 0),
        Role::Latents { .. } => (Stage::Denoise, 0),
        Role::Segment { chunk } => (Stage::Decode, chunk),
        Role::Clip
        | Role::Thumbnail
        | Role::Spritesheet
        | Role::Scores
        | Role::Marks
        | Role::Draft => (Stage::Finish, 0),
    }
}

/// Where files are checked.
const CHECKS: &str = "/v1/content_provenance_checks";

/// Answers with what an uploaded file says of its origin.
///
/// # Errors
/// 400 for a missing file or one of another kind, 409 and 422 for its key, 413, 415, 503.
pub async fn check(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    upload: Body,
) -> Result<Response, ApiError> {
    // In a task of its own: a caller that hangs up ends no search that has begun, and one that goes on must keep its turn.
    let checking = tokio::spawn(checked(door, caller, headers, upload));
    checking.await.map_err(std::io::Error::other).map_err(fault)?
}

async fn checked(
    door: Arc<Door>,
    caller: Caller,
    headers: HeaderMap,
    upload: Body,
) -> Result<Response, ApiError> {
    let key = submit::idempotency_key(&caller, &headers, "POST", CHECKS)?;
    let spooled = door.state.inspector.upload(Who::from(&caller))?;
    let mut file = tokio::fs::File::create(&spooled.path).await.map_err(fault)?;
    let facts = body::file(&door, &headers, upload, "file", &mut file, HEAD_BYTES).await?;
    file.flush().await.map_err(fault)?;
    let content = hash_of(&[&facts.sha256]);
    let guard = match once::begin(&door, &caller, key, content)? {
        Once::Unkeyed => None,
        Once::First(guard) => Some(guard),
        Once::Before(answer) => return Ok(answer),
        Once::Forgotten => return Err(ApiError::answer_forgotten()),
    };
    let Some(format) = format_of(&facts.head) else {
        return Err(ApiError::bad_media("file", NO_SUCH_KIND));
    };
    // Only now, with all bytes here: who sends slowly keeps nobody else's file waiting.
    let _turn = door.state.inspector.turn().await?;
    let verdict = match door.state.inspector.read(&spooled.path, format).await {
        Ok(verdict) => verdict,
        Err(error @ InspectError::Boxes) => {
            return Err(ApiError::bad_media("file", format!("The file cannot be read: {error}.")));
        }
        Err(InspectError::Limits) => {
            return Err(ApiError::bad_media("file", "The file cannot be read within the limits."));
        }
        Err(error) => return Err(error.into()),
    };
    let mut results = vec![c2pa(&verdict)];
    // What a metadata strip removes, a mark may still tell.
    results.extend(mark(&door, &caller, &spooled, format).await?);
    let answer = route::json(&json!({
        "object": "content_provenance_check",
        "created_at": (door.state.now)().0 / 1_000,
        "results": results,
    }))?;
    if let Some(guard) = guard {
        guard.done(content, Some(answer.clone()));
    }
    Ok(route::ok_bytes(answer))
}

async fn spool(door: &Door, clip: &Asset, path: &std::path::Path) -> Result<(), ApiError> {
    let mut pieces = door.state.farm.assets.read(clip, 0..clip.bytes);
    let mut file = tokio::fs::File::create(path).await.map_err(fault)?;
    while let Some(piece) = pieces.try_next().await.map_err(fault)? {
        file.write_all(&piece).await.map_err(fault)?;
    }
    file.flush().await.map_err(fault)
}

/// Confidence in a mark that was found where its clip could not be laid beside the file: it may have been copied there.
const UNCOMPARED: f32 = 0.5;

/// Looks for a mark of the farm in a file; no entry where it cannot be looked for.
async fn mark(
    door: &Door,
    caller: &Caller,
    file: &Spooled<'_>,
    format: &str,
) -> Result<Option<Value>, ApiError> {
    let Some(finder) = &door.state.finder else { return Ok(None) };
    let not_detected = json!({ "type": "watermark", "outcome": "not_detected" });
    let next = door.state.farm.ask(FarmMsg::MarksIssued).await?;
    let seen = match finder.look(&file.path, format, next).await {
        Ok(Some(seen)) => seen,
        Ok(None) => return Ok(Some(not_detected)),
        Err(error) => {
            tracing::warn!(%error, "a mark could not be looked for");
            return Ok(None);
        }
    };
    let (number, track) = (seen.mark, seen.track);
    let marked = door.state.farm.ask(|reply| FarmMsg::Marked(number, reply)).await?;
    let Some((tenant, view)) = marked else {
        // The clip was deleted, or is long gone; that the farm made it is still so.
        let gone = json!({ "type": "watermark", "outcome": "detected", "track": track, "confidence": UNCOMPARED });
        return Ok(Some(if finder.is_issued(number, next) { gone } else { not_detected }));
    };
    // The mark is a pointer: what is there must be what the clip shows.
    let own = match content::published(&view, (door.state.now)()) {
        Ok(assets) => {
            let own = file.beside();
            spool(door, &assets.video, &own.path).await?;
            Some(own)
        }
        Err(_) => None,
    };
    let compared = match &own {
        Some(own) => finder.agreement(seen, &own.path, &view.spec.render).await,
        None => Ok(None),
    };
    let compared = match compared {
        Ok(compared) => compared,
        Err(error) => {
            tracing::error!(%error, job = %view.job, "a clip of ours could not be held against a file");
            return Ok(None);
        }
    };
    if compared.is_some_and(|share| !Finder::agrees(share)) {
        tracing::warn!(job = %view.job, share = compared, "a file carries a mark of a clip that it does not show: a forgery, perhaps");
        return Ok(Some(not_detected));
    }
    let confidence = compared.unwrap_or(UNCOMPARED);
    let mut result = json!({ "type": "watermark", "outcome": "detected", "track": track, "confidence": confidence });
    if tenant == caller.tenant {
        result["video_id"] = json!(view.job.to_string());
        if let Some(own) = &own {
            result["c2pa"] = stored_manifest(door, &view, own).await?;
        }
    }
    Ok(Some(result))
}

/// The manifest of a published clip, as its provenance shows it: what was stripped from the file in question.
async fn stored_manifest(
    door: &Door,
    view: &JobView,
    own: &Spooled<'_>,
) -> Result<Value, ApiError> {
    let (tenant, job) = (view.spec.tenant, view.job);
    let proofs = door.state.farm.ask(|reply| FarmMsg::Proofs(tenant, job, reply)).await?;
    let verdict = door.state.inspector.read(&own.path, "video/mp4").await?;
    Ok(manifest(&verdict, proofs.as_ref()))
}

/// What the manifest of a file says.
pub(super) fn c2pa(verdict: &Verdict) -> Value {
    let detected = verdict.state != Trusted::NotPresent;
    let mut result = json!({
        "type": "c2pa",
        "outcome": if detected { "detected" } else { "not_detected" },
        "validation_state": verdict.state,
    });
    // What an invalid manifest says of itself is not repeated as if it were so.
    if verdict.state == Trusted::Trusted || verdict.state == Trusted::Valid {
        let of = |key: &str| verdict.render.as_ref().and_then(|render| render.get(key)).cloned();
        for (key, value) in [
            ("issuer", verdict.issuer.clone().map(Value::String)),
            ("model", of("model")),
            ("generated_at", of("created_at").as_ref().and_then(rfc3339).map(Value::String)),
        ] {
            if let Some(value) = value {
                result[key] = value;
            }
        }
    }
    result
}

/// Seconds since 1970 as text, in UTC.
fn rfc3339(seconds: &Value) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds.as_i64()?).ok()?;
    at.format(&time::format_description::well_known::Rfc3339).ok()
}

fn fault(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "a file could not be spooled");
    ApiError::internal()
}

impl From<InspectError> for ApiError {
    fn from(error: InspectError) -> ApiError {
        match error {
            InspectError::Busy => ApiError::overloaded(5),
            InspectError::Limits | InspectError::Boxes | InspectError::Io(_) => {
                tracing::error!(%error, "a file could not be looked into");
                ApiError::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::AttemptRecord;
    use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId};
    use zoetrope_protocol::job::{ArtifactRef, Cause};

    #[test]
    fn a_time_is_text_and_what_is_none_is_left_out() {
        assert_eq!(rfc3339(&json!(0)).as_deref(), Some("1970-01-01T00:00:00Z"));
        for odd in [json!("today"), json!(1.5), json!(u64::MAX), Value::Null] {
            assert_eq!(rfc3339(&odd), None, "{odd}");
        }
    }

    /// Promise: the workers of a clip are those whose work is in it.
    #[test]
    fn a_clip_names_the_workers_whose_work_is_in_it() {
        let fence = |number| Fence { epoch: Epoch(1), attempt: AttemptNumber(number) };
        let attempt = |stage, number, worker, cause| AttemptRecord {
            shard: ShardId { job: JobId(1), stage, index: 0 },
            fence: fence(number),
            worker: WorkerId(worker),
            node: None,
            from_step: 0,
            began: Millis(0),
            ended: Some(Millis(1)),
            cause,
            gpu: Millis(0),
        };
        let artifact = |role, number| ArtifactRecord {
            artifact: ArtifactRef { role, artifact: ArtifactId([7; 32]), bytes: 4 },
            fence: fence(number),
            stored: Millis(1),
        };
        let lost = Some(Cause::WorkerLost);
        let history = History {
            attempts: vec![
                attempt(Stage::Encode, 1, 9, None),
                // Lost behind its third step, from which another one went on.
                attempt(Stage::Denoise, 1, 4, lost),
                // Lost with all that it did.
                attempt(Stage::Denoise, 2, 5, lost),
                attempt(Stage::Denoise, 3, 9, None),
                // Its number is that of the one who encoded.
                attempt(Stage::Finish, 1, 6, lost),
                attempt(Stage::Finish, 2, 7, None),
            ],
            artifacts: vec![
                artifact(Role::Prompt, 1),
                artifact(Role::Latents { step: 3 }, 1),
                artifact(Role::Latents { step: 4 }, 3),
                artifact(Role::Clip, 2),
            ],
            ignored: 0,
        };
        assert_eq!(workers(&history), ["worker_9", "worker_4", "worker_7"]);
        assert_eq!(workers(&History::default()), Vec::<String>::new());
    }
}
