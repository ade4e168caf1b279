//! The models of the farm: manifests, aliases, and what a request may ask of each.
//!
//! The table is fixed when the coordinator starts. It decides nothing about placement.

use zoetrope_protocol::clip::{ClipShape, Size};
use zoetrope_protocol::id::{Millis, ModelId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::model::Manifest;

/// The manifest of the model that ships with the project.
const TOYBOX: &str = include_str!("../../worker/models/toybox/manifest.json");

/// One model, its number and what is derived from its manifest.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its number in the journal: its place in the table.
    pub id: ModelId,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Canvases that it renders.
    pub canvases: Vec<Size>,
}

/// All models and aliases.
#[derive(Clone, Debug)]
pub struct Models {
    models: Vec<Model>,
    aliases: Vec<(String, ModelId)>,
    default: ModelId,
}

/// Names that upstream's clients send; each means the default model unless the configuration says otherwise.
pub const UPSTREAM_NAMES: [&str; 5] =
    ["sora-2", "sora-2-pro", "sora-2-2025-10-06", "sora-2-2025-12-08", "sora-2-pro-2025-10-06"];

/// A model table that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// A manifest is not readable.
    #[error("manifest of model {model}: {reason}")]
    Manifest {
        /// Which.
        model: String,
        /// What is wrong, with the allowed values.
        reason: String,
    },
}

impl Models {
    /// The table of `toybox` and further manifests (JSON texts). The default model is `h3` if present.
    ///
    /// # Errors
    /// `ModelsError` names the manifest and what is wrong in it.
    pub fn with(more: &[String]) -> Result<Models, ModelsError> {
        let mut models = Vec::new();
        for text in std::iter::once(TOYBOX).chain(more.iter().map(String::as_str)) {
            models.push(model(ModelId(models.len() as u16), text)?);
        }
        let default = models.iter().find(|m| m.manifest.id == "h3").map_or(ModelId(0), |m| m.id);
        let aliases = UPSTREAM_NAMES.iter().map(|name| ((*name).to_owned(), default)).collect();
        Ok(Models { models, aliases, default })
    }

    /// All models, in the order of their numbers.
    pub fn all(&self) -> &[Model] {
        &self.models
    }

    /// All aliases and what they mean.
    pub fn aliases(&self) -> &[(String, ModelId)] {
        &self.aliases
    }

    /// The model of a job that names none.
    pub fn default(&self) -> &Model {
        &self.models[usize::from(self.default.0)]
    }

    /// A model by its name or an alias of it.
    pub fn find(&self, name: &str) -> Option<&Model> {
        let alias = || self.aliases.iter().find(|(alias, _)| alias == name).map(|(_, id)| *id);
        self.models
            .iter()
            .find(|m| m.manifest.id == name)
            .or_else(|| alias().map(|id| &self.models[usize::from(id.0)]))
    }
}

impl Model {
    /// The stages of a job, in order. `Finish` decodes and finishes in one stream, so no frame leaves memory.
    pub fn chain(&self) -> [Stage; 3] {
        [Stage::Encode, Stage::Denoise, Stage::Finish]
    }

    /// First guess of the GPU time of each stage of the chain, before anything was measured: 60 s for a step of
    /// a billion row pairs, in proportion.
    pub fn expected(&self, shape: ClipShape, steps: u32) -> [Millis; 3] {
        let rows = shape.video_rows() + shape.audio_rows();
        let step = 20 + rows * rows / 30_000;
        [Millis(200), Millis(step * u64::from(steps)), Millis(500 * u64::from(shape.chunks()))]
    }
}

fn model(id: ModelId, text: &str) -> Result<Model, ModelsError> {
    let manifest: Manifest = serde_json::from_str(text).map_err(|e| ModelsError::Manifest {
        model: format!("#{}", id.0),
        reason: e.to_string(),
    })?;
    let bad = |reason: String| ModelsError::Manifest { model: manifest.id.clone(), reason };
    let canvases = manifest
        .sizes
        .iter()
        .map(|size| {
            size.parse::<Size>().ok().filter(|size| size.is_canvas()).ok_or_else(|| {
                bad(format!("size {size}: sides must be multiples of 32, as in 288x512"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Model { id, canvases, manifest })
}
