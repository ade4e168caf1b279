//! The emulated engine: no tensors, only times, sizes and faults from a TOML file. For load tests, for the
//! demo on a machine without a model, and for the tests of everything around an engine.
//!
//! Its artifacts are chained by digest like real ones: latents at step k depend on the prompt embeddings, the
//! spec and k alone, so a render that was interrupted and moved has the same bytes. Chosen with
//! `--engine emulated --emulated FILE.toml`, never by default.

use crate::engine::{ClipSink, Ended, Engine, EngineError, Frames, Observer, Piece};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zoetrope_protocol::clip::{AUDIO_CHANNELS, SAMPLE_RATE};
use zoetrope_protocol::wire::{Phase, ServedModel};
use zoetrope_protocol::{ArtifactId, RenderSpec, Stage};

const MAGIC: &[u8; 8] = b"emulate1";
/// Magic, step, digest of prompt and spec.
const HEAD_BYTES: usize = 8 + 4 + 32;
/// No stage is emulated longer than an hour for each unit.
const MS_MAX: u64 = 3_600_000;

/// What is wrong with an emulation file.
#[derive(Debug, thiserror::Error)]
pub enum EmulationError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of this form.
    #[error("{path}: {reason}")]
    Parse {
        /// Which file.
        path: String,
        /// Where and why.
        reason: String,
    },
    /// A value is out of range.
    #[error("emulation file: `{key}` {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
}

/// How clips come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// Frames are painted and encoded for each clip.
    #[default]
    Real,
    /// Encoded once for each size and length, and used again.
    Cached,
}

/// An emulation file. Every key has a default but `models`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulation {
    /// What the worker says it serves. Default `emulated`.
    #[serde(default = "default_kind")]
    pub gpu_kind: String,
    /// Memory that it says it has, in bytes. Default 80 GiB.
    #[serde(default = "default_vram")]
    pub vram_bytes: u64,
    /// Ids of the models that it says it has.
    pub models: Vec<String>,
    /// Stages that it takes: `encode`, `denoise`, `decode`, `finish`. Default all four.
    #[serde(default = "default_stages")]
    pub stages: Vec<String>,
    /// Time to load a model, once, in milliseconds. Default 0.
    #[serde(default)]
    pub load_ms: u64,
    /// Time to encode a prompt, in milliseconds. Default 5.
    #[serde(default = "default_encode")]
    pub encode_ms: u64,
    /// Time of a denoising step, in milliseconds. Default 20.
    #[serde(default = "default_step")]
    pub step_ms: u64,
    /// Time to decode a chunk of 17 frames, in milliseconds. Default 5.
    #[serde(default = "default_chunk")]
    pub decode_chunk_ms: u64,
    /// Size of the prompt embeddings, in bytes, 44 to 1 GiB. Default 4 KiB.
    #[serde(default = "default_prompt_bytes")]
    pub prompt_bytes: usize,
    /// Size of the latents, in bytes, 44 to 1 GiB. Default 64 KiB.
    #[serde(default = "default_latent_bytes")]
    pub latent_bytes: usize,
    /// Share of stages that fail, 0 to 1. Default 0.
    #[serde(default)]
    pub fail_rate: f64,
    /// Seed of the faults. Default 1.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// `real` or `cached`. Default `real`.
    #[serde(default)]
    pub clip: ClipMode,
}

fn default_kind() -> String {
    "emulated".into()
}
fn default_vram() -> u64 {
    80 << 30
}
fn default_stages() -> Vec<String> {
    ["encode", "denoise", "decode", "finish"].map(String::from).to_vec()
}
fn default_encode() -> u64 {
    5
}
fn default_step() -> u64 {
    20
}
fn default_chunk() -> u64 {
    5
}
fn default_prompt_bytes() -> usize {
    4 << 10
}
fn default_latent_bytes() -> usize {
    64 << 10
}
fn default_seed() -> u64 {
    1
}

impl Emulation {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// `Read`, `Parse` (with the line and the allowed keys), `Value`.
    pub fn read(path: &Path) -> Result<Self, EmulationError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| EmulationError::Read { path: name.clone(), source })?;
        let reason = |error: toml::de::Error| error.to_string();
        let emulation: Emulation = toml::from_str(&text)
            .map_err(|error| EmulationError::Parse { path: name, reason: reason(error) })?;
        emulation.check()?;
        Ok(emulation)
    }

    fn check(&self) -> Result<(), EmulationError> {
        let wrong = |key, expected| Err(EmulationError::Value { key, expected });
        if self.models.is_empty() || self.models.len() > 16 {
            return wrong("models", "takes 1 to 16 ids");
        }
        if self.stages().len() != self.stages.len() || self.stages.is_empty() {
            return wrong("stages", "takes `encode`, `denoise`, `decode` and `finish`");
        }
        let times = [self.load_ms, self.encode_ms, self.step_ms, self.decode_chunk_ms];
        if times.iter().any(|ms| *ms > MS_MAX) {
            return wrong("load_ms, encode_ms, step_ms or decode_chunk_ms", "is at most 3600000");
        }
        for bytes in [self.prompt_bytes, self.latent_bytes] {
            if !(HEAD_BYTES..=1 << 30).contains(&bytes) {
                return wrong("prompt_bytes or latent_bytes", "is 44 to 1073741824");
            }
        }
        if !(0.0..=1.0).contains(&self.fail_rate) {
            return wrong("fail_rate", "is 0 to 1");
        }
        Ok(())
    }

    fn stages(&self) -> Vec<Stage> {
        Stage::ALL
            .into_iter()
            .filter(|stage| self.stages.iter().any(|w| w == stage.word()))
            .collect()
    }

    /// What the worker announces.
    pub fn served(&self) -> Vec<ServedModel> {
        let model = |id: &String| ServedModel {
            id: id.clone(),
            fingerprint: ArtifactId::of(format!("emulated {id}").as_bytes()),
            stages: self.stages(),
        };
        self.models.iter().map(model).collect()
    }
}

/// The engine.
pub struct EmulatedEngine {
    emulation: Arc<Emulation>,
    loaded: bool,
    stages: u64,
}

fn wait(ms: u64) {
    if ms > 0 {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

fn spec_digest(spec: &RenderSpec) -> Sha256 {
    let text = format!(
        "{} {} {} {} {} {}",
        spec.model, spec.canvas, spec.frames, spec.seed, spec.steps, spec.prompt
    );
    Sha256::new_with_prefix(text)
}

/// Bytes that follow from a digest alone: a counter run through the digest's first word.
fn artifact(step: u32, digest: [u8; 32], bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&step.to_le_bytes());
    out.extend_from_slice(&digest);
    let mut state = u64::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ]);
    while out.len() < bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = state.to_le_bytes();
        out.extend_from_slice(&word[..word.len().min(bytes - out.len())]);
    }
    out
}

fn read_artifact(bytes: &[u8]) -> Result<(u32, [u8; 32]), EngineError> {
    let bad = || EngineError::BadInput("no artifact of the emulated engine".into());
    let head = bytes.get(..HEAD_BYTES).ok_or_else(bad)?;
    if &head[..8] != MAGIC {
        return Err(bad());
    }
    let step = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let mut digest = [0; 32];
    digest.copy_from_slice(&head[12..]);
    Ok((step, digest))
}

impl EmulatedEngine {
    /// An engine with these times.
    pub fn new(emulation: Arc<Emulation>) -> Self {
        EmulatedEngine { emulation, loaded: false, stages: 0 }
    }

    fn latents(&self, spec: &RenderSpec, prompt: [u8; 32], step: u32) -> Vec<u8> {
        let digest = spec_digest(spec).chain_update(prompt).chain_update(step.to_le_bytes());
        artifact(step, digest.finalize().into(), self.emulation.latent_bytes)
    }

    /// Loads at the first stage, and fails as often as the file says.
    fn begin(
        &mut self,
        stage: &'static str,
        spec: &RenderSpec,
        observer: &mut dyn Observer,
    ) -> Result<ControlFlow<()>, EngineError> {
        if !self.loaded {
            let go = observer.progress(Phase::Loading, 0, 1);
            if go.is_break() {
                return Ok(go);
            }
            wait(self.emulation.load_ms);
            self.loaded = true;
        }
        self.stages += 1;
        let lot = Sha256::new()
            .chain_update(self.emulation.seed.to_le_bytes())
            .chain_update(spec.seed.to_le_bytes())
            .chain_update(self.stages.to_le_bytes())
            .finalize();
        let lot = u32::from_le_bytes([lot[0], lot[1], lot[2], lot[3]]);
        if f64::from(lot) < self.emulation.fail_rate * f64::from(u32::MAX) {
            return Err(EngineError::Failed { stage, reason: "an emulated fault".into() });
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Engine for EmulatedEngine {
    fn weights(&self) -> ArtifactId {
        ArtifactId::of(b"emulated")
    }

    fn encode(
        &mut self,
        spec: &RenderSpec,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        if self.begin("encode", spec, observer)?.is_break()
            || observer.progress(Phase::Encoding, 0, 1).is_break()
        {
            return Ok(None);
        }
        wait(self.emulation.encode_ms);
        let digest = Sha256::new_with_prefix(&spec.model).chain_update(&spec.prompt).finalize();
        Ok(Some(artifact(0, digest.into(), self.emulation.prompt_bytes)))
    }

    fn denoise(
        &mut self,
        spec: &RenderSpec,
        prompt: &[u8],
        resume: Option<&[u8]>,
        observer: &mut dyn Observer,
    ) -> Result<(Ended, Option<Vec<u8>>), EngineError> {
        if self.begin("denoise", spec, observer)?.is_break() {
            return Ok((Ended::Stopped, None));
        }
        let (_, prompt) = read_artifact(prompt)?;
        let mut step = 0;
        if let Some(resume) = resume {
            (step, _) = read_artifact(resume)?;
            if step > spec.steps || self.latents(spec, prompt, step) != resume {
                return Err(EngineError::BadInput("latents of another render".into()));
            }
        }
        while step < spec.steps {
            if observer.progress(Phase::Denoising, step, spec.steps).is_break() {
                return Ok((Ended::Stopped, None));
            }
            wait(self.emulation.step_ms);
            step += 1;
            let mut make = || Ok(self.latents(spec, prompt, step));
            if observer.step_done(step, spec.steps, &mut make)?.is_break() {
                return Ok((Ended::Stopped, None));
            }
        }
        Ok((Ended::Done, Some(self.latents(spec, prompt, step))))
    }

    fn decode_piece(
        &mut self,
        spec: &RenderSpec,
        latents: &[u8],
        piece: &Piece,
        sink: &mut dyn ClipSink,
        observer: &mut dyn Observer,
    ) -> Result<Ended, EngineError> {
        if self.begin("decode", spec, observer)?.is_break() {
            return Ok(Ended::Stopped);
        }
        let (step, _) = read_artifact(latents)?;
        if step != spec.steps {
            return Err(EngineError::BadInput(format!("latents at step {step}, not the last")));
        }
        let (chunks, each) = (piece.chunks.len() as u32, self.emulation.decode_chunk_ms);
        let mut go = |done: u32| {
            let go = observer.progress(Phase::Decoding, done.min(chunks), chunks).is_continue();
            wait(if go { each } else { 0 });
            go
        };
        if !sink.takes_frames() {
            let all = (0..chunks).all(&mut go);
            return Ok(if all { Ended::Done } else { Ended::Stopped });
        }
        paint(spec, piece, sink, &mut go)
    }
}

/// Paints a piece of a clip: a slow gradient with a square that jumps once a second, and a beep with each jump, so that
/// a person can see and hear whether sound and picture fit. `go` is asked before each chunk.
///
/// # Errors
/// What the sink says.
pub fn paint(
    spec: &RenderSpec,
    piece: &Piece,
    sink: &mut dyn ClipSink,
    go: &mut dyn FnMut(u32) -> bool,
) -> Result<Ended, EngineError> {
    if piece.sound {
        sink.sound(&beeps(spec))?;
    }
    let (width, height) = (spec.canvas.width as usize, spec.canvas.height as usize);
    let row = width * 3;
    let mut rgb = Vec::new();
    for (done, chunk) in (0..).zip(piece.chunks.clone()) {
        if !go(done) {
            return Ok(Ended::Stopped);
        }
        let frames = spec.shape().frames_of(chunk);
        let count = frames.len() as u32;
        rgb.resize(frames.len() * height * row, 0);
        for (index, frame) in frames.zip(rgb.chunks_exact_mut(height * row)) {
            paint_frame(spec, index, width, height, frame);
        }
        sink.frames(Frames { rgb: &rgb, count })?;
    }
    Ok(Ended::Done)
}

/// Paints one frame.
pub fn paint_frame(spec: &RenderSpec, index: u32, width: usize, height: usize, frame: &mut [u8]) {
    let tint = (spec.seed % 200) as u8;
    let shift = (index / 2) as u8;
    let side = width.min(height) / 4;
    let left = (index / 24) as usize * side % width.saturating_sub(side).max(1);
    let top = (height - side) / 2;
    for (y, line) in frame.chunks_exact_mut(width * 3).enumerate() {
        let level = (y * 255 / height) as u8;
        for pixel in line.chunks_exact_mut(3) {
            pixel.copy_from_slice(&[level, tint, shift]);
        }
        if (top..top + side).contains(&y) {
            line[left * 3..(left + side) * 3].fill(250);
        }
    }
}

fn beeps(spec: &RenderSpec) -> Vec<f32> {
    let samples = usize::try_from(spec.shape().asked_samples()).unwrap_or(0);
    let rate = SAMPLE_RATE as usize;
    let mut sound = Vec::with_capacity(samples * AUDIO_CHANNELS as usize);
    for n in 0..samples {
        let into_second = n % rate;
        let tone = (into_second as f32 * 880.0 * std::f32::consts::TAU / SAMPLE_RATE as f32).sin();
        let loud = if into_second < rate / 10 { 0.3 } else { 0.0 };
        sound.extend_from_slice(&[tone * loud; AUDIO_CHANNELS as usize]);
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::attempt::tests::order;

    fn emulation(toml: &str) -> Result<Emulation, EmulationError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("e.toml");
        std::fs::write(&path, toml).expect("writes");
        Emulation::read(&path)
    }

    struct StopAfter(u32, Option<Vec<u8>>);

    impl Observer for StopAfter {
        fn progress(&mut self, _: Phase, _: u32, _: u32) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        fn step_done(
            &mut self,
            step: u32,
            _: u32,
            latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
        ) -> Result<ControlFlow<()>, EngineError> {
            if step == self.0 {
                self.1 = Some(latents()?);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        }
    }

    /// Promise: same spec, same latents, whether or not the render was interrupted and moved.
    #[test]
    fn an_interrupted_render_has_the_same_bytes() {
        let emulation = Arc::new(emulation("models = [\"toybox\"]\nstep_ms = 0").expect("reads"));
        let spec = order(Stage::Denoise, 1, 1).spec;
        let mut whole = EmulatedEngine::new(emulation.clone());
        let prompt = whole.encode(&spec, &mut StopAfter(0, None)).expect("encodes");
        let prompt = prompt.expect("is not stopped");
        let quiet = whole.denoise(&spec, &prompt, None, &mut StopAfter(9, None)).expect("denoises");
        let mut stop = StopAfter(2, None);
        let mut first = EmulatedEngine::new(emulation.clone());
        let ended = first.denoise(&spec, &prompt, None, &mut stop).expect("denoises");
        assert_eq!(ended, (Ended::Stopped, None));
        let mut second = EmulatedEngine::new(emulation);
        let moved = second
            .denoise(&spec, &prompt, stop.1.as_deref(), &mut StopAfter(9, None))
            .expect("denoises");
        assert_eq!(moved, quiet);
        let other = RenderSpec { seed: 2, ..spec };
        let foreign = second.denoise(&other, &prompt, stop.1.as_deref(), &mut StopAfter(9, None));
        assert!(matches!(foreign, Err(EngineError::BadInput(_))));
    }

    /// Promise: the example file states the defaults, each of them.
    #[test]
    fn the_example_file_states_the_defaults() {
        let text = include_str!("../../configs/emulated.toml");
        let example = emulation(text).expect("reads");
        assert_eq!(example, emulation("models = [\"toybox\"]").expect("reads"));
        // A key that is not there has its default too: an unknown one is told all that there are.
        let told =
            emulation("models = [\"toybox\"]\nunknown = 1").expect_err("refused").to_string();
        let known = told.split_once("expected one of ").expect("all keys").1;
        let stated: toml::Table = text.parse().expect("TOML");
        let missing: Vec<&str> = known
            .split(',')
            .map(|key| key.trim().trim_matches('`'))
            .filter(|key| !stated.contains_key(*key))
            .collect();
        assert!(known.contains("step_ms") && missing.is_empty(), "not in the file: {missing:?}");
    }

    #[test]
    fn a_bad_file_names_its_key() {
        let error = |toml| emulation(toml).expect_err("refused").to_string();
        assert!(error("").contains("models"));
        assert!(error("models = [\"a\"]\nstep = 1").contains("step"));
        assert!(error("models = [\"a\"]\nfail_rate = 2").contains("fail_rate"));
        assert!(error("models = [\"a\"]\nstages = [\"draw\"]").contains("stages"));
        assert!(error("models = [\"a\"]\nclip = \"fake\"").contains("cached"));
    }
}
