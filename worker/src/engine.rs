//! What a render engine offers to the gpu thread: one function a stage, bytes in and bytes out.
//!
//! An engine never reads a clock to decide anything, never does network IO and knows no job. Everything it
//! needs is in the [`RenderSpec`] and the input artifacts, so any worker can go on from "latents at step k".
//! Called only from the gpu thread (`gpu/thread.rs`) and from `zoetrope-worker render`.

use std::ops::{ControlFlow, Range};
use zoetrope_protocol::wire::Phase;
use zoetrope_protocol::{ArtifactId, RenderSpec};

/// Why an engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The device has too little memory.
    #[error("out of memory in {stage}")]
    OutOfMemory {
        /// The stage.
        stage: &'static str,
    },
    /// An input artifact is no such artifact, or belongs to another render.
    #[error("bad input artifact: {0}")]
    BadInput(String),
    /// The model failed, or made values that are no numbers.
    #[error("{stage} failed: {reason}")]
    Failed {
        /// The stage.
        stage: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The receiver of frames and sound failed (encoder gone, disk full).
    #[error("finishing failed: {0}")]
    Sink(String),
}

/// Whether a stage ran to its end or was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All is done.
    Done,
    /// The observer said stop at a boundary.
    Stopped,
}

/// Who watches a stage. Called on the gpu thread at every boundary; `Break` ends the stage there.
pub trait Observer {
    /// So many of `total` units (steps, chunks, layers) of this phase are done.
    fn progress(&mut self, phase: Phase, done: u32, total: u32) -> ControlFlow<()>;

    /// A denoising step is done. `latents` makes the artifact's bytes, if the observer wants them.
    /// The next step begins only when this returns.
    fn step_done(
        &mut self,
        step: u32,
        total: u32,
        latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError>;
}

/// Decoded frames: 8-bit RGB, row by row, frame after frame.
pub struct Frames<'a> {
    /// `count · height · width · 3` bytes.
    pub rgb: &'a [u8],
    /// How many frames.
    pub count: u32,
}

/// Who takes frames and sound as they are decoded. The sound comes first and whole (10 s are 2.6 MB), then
/// the frames in order, at most one decode chunk at a time.
pub trait ClipSink {
    /// Stereo samples, interleaved left and right, 32,000 a second, -1 to 1, trimmed to the asked length.
    /// Not called for a silent clip.
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError>;

    /// The next frames of the canvas, never more than asked for in all.
    fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError>;

    /// Whether it looks at frames at all: for load tests some do not, and need not be painted for.
    fn takes_frames(&self) -> bool {
        true
    }
}

/// What of a clip is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its decode chunks, in order.
    pub chunks: Range<u32>,
    /// The sound of the whole clip, before them.
    pub sound: bool,
}

impl Piece {
    /// All of a clip.
    pub fn whole(spec: &RenderSpec) -> Self {
        Piece { chunks: 0..spec.shape().chunks(), sound: spec.audio }
    }
}

/// Says which render an artifact on the way belongs to: the spec and the weights. A model's id alone would not do, for
/// two workers may have other weights under the same id, and a clip half of the one is a clip of neither. The kind of
/// device is left out: any worker may go on, and bytes are promised to be the same on workers of one kind alone.
pub fn render_digest(spec: &RenderSpec, weights: ArtifactId) -> ArtifactId {
    let mut text = serde_json::to_vec(spec).expect("a spec has only strings and numbers");
    text.extend(weights.0);
    ArtifactId::of(&text)
}

/// A model, ready to be given stages. Loads a stage's weights when it is first needed.
pub trait Engine {
    /// Which weights it renders with: part of what its artifacts belong to.
    fn weights(&self) -> ArtifactId;

    /// Prompt to the `Prompt` artifact's bytes; `None` if the observer said stop.
    fn encode(
        &mut self,
        spec: &RenderSpec,
        observer: &mut dyn Observer,
    ) -> Result<Option<Vec<u8>>, EngineError>;

    /// Prompt embeddings, and latents of an earlier attempt if there are some, to latents at step
    /// `spec.steps`. `Stopped` comes without bytes: the observer has seen the newest latents.
    fn denoise(
        &mut self,
        spec: &RenderSpec,
        prompt: &[u8],
        resume: Option<&[u8]>,
        observer: &mut dyn Observer,
    ) -> Result<(Ended, Option<Vec<u8>>), EngineError>;

    /// Final latents to sound and frames, chunk by chunk, with O(chunk) memory. A piece has the frames that the whole
    /// has in its place: no byte depends on what else is decoded here.
    fn decode_piece(
        &mut self,
        spec: &RenderSpec,
        latents: &[u8],
        piece: &Piece,
        sink: &mut dyn ClipSink,
        observer: &mut dyn Observer,
    ) -> Result<Ended, EngineError>;

    /// Final latents to the sound and frames of the whole clip.
    fn decode(
        &mut self,
        spec: &RenderSpec,
        latents: &[u8],
        sink: &mut dyn ClipSink,
        observer: &mut dyn Observer,
    ) -> Result<Ended, EngineError> {
        self.decode_piece(spec, latents, &Piece::whole(spec), sink, observer)
    }
}
