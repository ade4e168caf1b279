//! Moderation: scores text, images, sampled frames and what is heard, and judges the scores by a policy.
//!
//! Shared by the coordinator (prompts, input images, verdicts) and the worker (sampled frames), so that both score
//! alike. Everything runs offline and blocks; callers bring their own threads. Never: network, actors, jobs,
//! wall time. What it cannot judge is an error, and an error is never a pass.

pub mod classifier;
pub mod engine;
mod faces;
pub mod frames;
pub mod image_in;
pub mod judge;
mod minors;
pub mod models;
pub mod nets;
pub mod policy;
pub mod sound;
pub mod text;

pub use classifier::{CardClassifier, Classifier, NetClassifier};
pub use engine::{Engine, EngineError};
pub use policy::{Policy, PolicyError};
pub use sound::{CardListener, Listener, NetListener};

/// A score of 0 to 1 as whole ten-thousandths; what is no number counts as the highest.
pub fn score(value: f32) -> u16 {
    if value.is_nan() {
        return zoetrope_protocol::moderation::SCORE_ONE;
    }
    (value.clamp(0.0, 1.0) * f32::from(zoetrope_protocol::moderation::SCORE_ONE)).round() as u16
}
