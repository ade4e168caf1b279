//! MiniMax-H3: text to picture and sound in one pass, as one stack over one packed sequence.
//!
//! Follows huggingface/diffusers 0.42.1 (`modular_pipelines/minimax_h3`, `models/transformers/transformer_minimax_h3.py`,
//! `models/autoencoders/autoencoder_kl_minimax_h3.py` and `…_audio.py`, `schedulers/scheduling_minimax_h3.py`) and
//! huggingface/transformers 5.23.0 (`models/qwen3_vl`); `worker/tests/parity.rs` holds both side by side. Text to
//! video and sound (`t2va`) only; the layout has the places where keyframes go.
//!
//! Bytes of the released weights: text encoder 66.7 GB, transformer 66.3 GB (26 GB of it AdaLN projections), video
//! autoencoder 10.4 GB (f32), sound autoencoder 0.6 GB (f32).
//!
//! To time it: `zoetrope-worker bench --model worker/models/toybox`; the reference: `scripts/parity/bench.py`.

pub mod audio_vae;
pub mod config;
mod engine;
pub mod flow;
pub mod layout;
pub mod text;
pub mod transformer;
pub mod video_vae;

pub use config::Config;
pub use engine::H3Engine;
