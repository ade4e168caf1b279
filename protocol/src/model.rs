//! What a model says of itself: the manifest beside its weights (`manifest.json`).
//!
//! The coordinator validates requests by it and the worker announces it. It is JSON, written by people;
//! it never goes over the wire or into the journal.

use serde::{Deserialize, Serialize};

/// The manifest of one model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Manifest {
    /// The model's name in the API, such as `toybox`.
    pub id: String,
    /// The engine that runs it: `h3` or `emulated`.
    pub family: String,
    /// The licence of the weights, in a sentence.
    pub license: String,
    /// Canvases that the model renders itself, `WxH`.
    pub sizes: Vec<String>,
    /// The size of a job that names none.
    pub default_size: String,
    /// Lengths that a job may ask for, in whole seconds.
    pub seconds: Vec<String>,
    /// The length of a job that names none.
    pub default_seconds: String,
    /// Frames a second.
    pub fps: u32,
    /// Whether it makes sound.
    pub generate_audio: bool,
    /// Denoising steps (forward passes).
    pub num_inference_steps: Steps,
    /// Words of the model's world, where it has a small one.
    #[serde(default)]
    pub world: std::collections::BTreeMap<String, Vec<String>>,
}

/// How many denoising steps a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Steps {
    /// Steps of a job that names none.
    pub default: u32,
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
}
