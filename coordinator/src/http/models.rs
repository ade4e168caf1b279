//! `GET /models` and `GET /models/{id}`: the table by which requests are checked.

use super::Door;
use super::envelope::ApiError;
use super::route;
use super::words::Code;
use crate::models::{Model, Models};
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use zoetrope_protocol::clip::SECONDS_MAX;

/// What `created` says of every model. Manifests have no date; a fixed one keeps answers the same.
const CREATED: u64 = 1_773_360_000;

/// All models and aliases.
///
/// # Errors
/// None of its own.
pub async fn list(State(door): State<Arc<Door>>) -> Result<Response, ApiError> {
    let models = &door.state.models;
    let data: Vec<Value> = models.names().iter().filter_map(|name| show(models, name)).collect();
    route::ok(&json!({"object": "list", "data": data}))
}

/// One model or alias.
///
/// # Errors
/// 404 `model_not_found`.
pub async fn retrieve(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let shown = show(&door.state.models, &name).ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        let message = format!("The model '{name}' does not exist.");
        ApiError::not_found(Some(Code::NoModel), message)
    })?;
    route::ok(&shown)
}

fn show(models: &Models, name: &str) -> Option<Value> {
    let model = models.find(name)?;
    let mut shown = json!({
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "zoetrope",
        "license": model.manifest.license,
        "capabilities": capabilities(model),
    });
    if name != model.manifest.id {
        shown["alias_of"] = json!(model.manifest.id);
    }
    Some(shown)
}

/// What requests may ask of the model. Zero, false and empty mean: not in this release.
fn capabilities(model: &Model) -> Value {
    let manifest = &model.manifest;
    let scaled: Vec<String> = model.scaled_sizes().iter().map(ToString::to_string).collect();
    json!({
        "sizes": manifest.sizes,
        "default_size": manifest.default_size,
        "scaled_sizes": scaled,
        "seconds": manifest.seconds,
        "default_seconds": manifest.default_seconds,
        "max_total_seconds": SECONDS_MAX,
        "max_extensions": 0,
        "fps": [manifest.fps],
        "default_fps": manifest.fps,
        "generate_audio": manifest.generate_audio,
        "max_characters": 0,
        "shots": 0,
        "last_frame": false,
        "optional_fields": ["num_inference_steps"],
        "num_inference_steps": manifest.num_inference_steps,
        "qualities": ["auto"],
        "output_formats": ["mp4"],
        "extra_params": [],
        "price": {"unit": "video_second", "amount": "0.00", "currency": "USD"},
    })
}
