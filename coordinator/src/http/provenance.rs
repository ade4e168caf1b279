//! `GET /videos/{id}/provenance` and `POST /content_provenance_checks`: where a clip comes from.

use super::envelope::ApiError;
use super::route::{self, Caller};
use super::{Door, body, content};
use crate::farm::FarmMsg;
use crate::inspect::{HEAD_BYTES, InspectError, NO_SUCH_KIND, Spooled, format_of};
use crate::jobs::Asset;
use crate::watermark::Finder;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use zoetrope_mark::MarkId;
use zoetrope_protocol::mark::PICTURE_ALG;
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
    let spooled = door.state.inspector.own().await?;
    let clip = assets.video.clone();
    spool(&door, &clip, &spooled.path).await?;
    let verdict = door.state.inspector.read(&spooled.path, "video/mp4").await?;
    let hex = |digest: [u8; 32]| hex::encode(digest);
    let signed = proofs.as_ref().and_then(|proofs| proofs.signed);
    route::ok(&json!({
        "object": "video.provenance",
        "c2pa": {
            "manifest": verdict.manifest,
            "validation_state": verdict.state,
            "issuer": verdict.issuer,
            "claim_sha256": signed.map(|signed| hex(signed.claim)),
        },
        "watermark": proofs.as_ref().and_then(|proofs| proofs.marked).map(|proof| {
            let codeword = MarkId(proof.mark).codeword();
            json!({ "video_algorithm": PICTURE_ALG, "value": hex::encode(codeword) })
        }),
        "file_sha256": clip.artifact.to_string(),
        "lineage": [],
        "inputs": [],
        "model": view.resolved_model,
        "seed": view.spec.render.seed,
        "moderation": proofs.as_ref().and_then(|proofs| {
            proofs.moderated.as_ref().map(|proof| json!({ "policy_version": proof.policy }))
        }),
        "consents": [],
    }))
}

/// Answers with what an uploaded file says of its origin.
///
/// # Errors
/// 400 for a missing file or one of another kind, 413, 415, 503.
pub async fn check(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    upload: Body,
) -> Result<Response, ApiError> {
    let spooled = door.state.inspector.upload(caller.tenant)?;
    let mut file = tokio::fs::File::create(&spooled.path).await.map_err(fault)?;
    let head = body::file(&door, &headers, upload, "file", &mut file, HEAD_BYTES).await?;
    file.flush().await.map_err(fault)?;
    let Some(format) = format_of(&head) else {
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
    route::ok(&json!({
        "object": "content_provenance_check",
        "created_at": (door.state.now)().0 / 1_000,
        "results": results,
    }))
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
    let seen = match finder.look(&file.path, format).await {
        Ok(Some(seen)) => seen,
        Ok(None) => return Ok(Some(not_detected)),
        Err(error) => {
            tracing::warn!(%error, "a mark could not be looked for");
            return Ok(None);
        }
    };
    let (number, track) = (seen.mark, seen.track);
    let marked = door.state.farm.ask(|reply| FarmMsg::Marked(number, reply)).await?;
    let Some((tenant, view)) = marked else { return Ok(Some(not_detected)) };
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
    }
    Ok(Some(result))
}

fn c2pa(verdict: &Verdict) -> Value {
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
            ("generated_at", of("created_at")),
        ] {
            if let Some(value) = value {
                result[key] = value;
            }
        }
    }
    result
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
