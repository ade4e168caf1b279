//! What a job is, after the door has checked it: the render itself, and the caller's wishes about it.

use crate::clip::{ClipShape, FPS, Size};
use crate::id::{ArtifactId, Millis, TenantId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A stage of a render. The order is the order of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Prompt to prompt embeddings.
    Encode,
    /// Noise and prompt embeddings to latents.
    Denoise,
    /// Latents to decoded segments. Used where the decode of one clip is spread over workers.
    Decode,
    /// Latents (or decoded segments) to the finished clip, streamed chunk by chunk.
    Finish,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 4] = [Stage::Encode, Stage::Denoise, Stage::Decode, Stage::Finish];

    /// The word for it in metrics, the API and the command line.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Encode => "encode",
            Stage::Denoise => "denoise",
            Stage::Decode => "decode",
            Stage::Finish => "finish",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The queue class of a job (`service_tier` of the API). The order is the order of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Served before all others.
    Priority,
    /// What a job has that asks for nothing.
    Default,
    /// Served when nothing else waits.
    Flex,
}

impl Class {
    /// All classes, the first served first.
    pub const ALL: [Class; 3] = [Class::Priority, Class::Default, Class::Flex];

    /// The word for it in metrics, the API and the command line.
    pub fn word(self) -> &'static str {
        match self {
            Class::Priority => "priority",
            Class::Default => "default",
            Class::Flex => "flex",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// All that decides the bytes of a clip. Same spec, same latents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderSpec {
    /// Id of the model that renders it, never an alias.
    pub model: String,
    /// What to show, at most 32,000 characters.
    pub prompt: String,
    /// The canvas that the model renders, in pixels.
    pub canvas: Size,
    /// The size of the published picture. Frames are scaled to cover it and cut, centred.
    pub deliver: Size,
    /// Frames of the published clip, at 24 a second.
    pub frames: u32,
    /// Seed of the noise, 0 to 2^53 - 1.
    pub seed: u64,
    /// Denoising steps (forward passes of the transformer), at least 1.
    pub steps: u32,
    /// Whether the clip has sound.
    pub audio: bool,
}

impl RenderSpec {
    /// The lengths of the render.
    pub fn shape(&self) -> ClipShape {
        ClipShape { canvas: self.canvas, asked_frames: self.frames }
    }

    /// Length of the published clip in seconds, rounded down.
    pub fn seconds(&self) -> u32 {
        self.frames / FPS
    }
}

/// When the published assets go: so many seconds after one of two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiresAfter {
    /// Counted from completion; otherwise from creation.
    pub from_completion: bool,
    /// Length of life in seconds, 3,600 to 2,592,000.
    pub seconds: u32,
}

/// A job as it was admitted: parsed, checked, all defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Whose job it is.
    pub tenant: TenantId,
    /// The queue class that it really has.
    pub class: Class,
    /// The model name that the caller wrote (an alias, perhaps).
    pub asked_model: String,
    /// What is to be rendered.
    pub render: RenderSpec,
    /// The moment by which the caller needs it.
    pub deadline: Option<Millis>,
    /// The caller's own pairs, returned as sent, in the order of their keys.
    pub metadata: Vec<(String, String)>,
    /// The caller's name for its end user.
    pub safety_identifier: Option<String>,
    /// Lifetime of the assets.
    pub expires_after: ExpiresAfter,
    /// Advice that did not stop the job.
    pub warnings: Vec<Warning>,
}

/// Advice about a request that did not stop it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A stable word, such as `prompt_outside_world`.
    pub code: String,
    /// The request field that it is about.
    pub param: Option<String>,
    /// A sentence for the caller.
    pub message: String,
}

/// Which artifact of a job this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Prompt embeddings, the output of `Encode`.
    Prompt,
    /// Latents after so many steps of `Denoise`; its output when that is all of them.
    Latents {
        /// Steps done, at least 1.
        step: u32,
    },
    /// Frames of one decode chunk; with that of the first the sound of the whole clip.
    Segment {
        /// Index of the chunk.
        chunk: u32,
    },
    /// The finished MP4.
    Clip,
    /// One frame as WebP.
    Thumbnail,
    /// A grid of frames as JPEG.
    Spritesheet,
    /// What the classifiers saw in sampled frames of the clip: a [`FrameRecord`](crate::moderation::FrameRecord).
    Scores,
    /// What the clip shows of its marks: a [`MarkRecord`](crate::mark::MarkRecord).
    Marks,
    /// The MP4 before it is signed, of which the coordinator reads the marks while the worker goes on. Never stored: it
    /// is answered by [`ToWorker::MarksRead`](crate::wire::ToWorker::MarksRead) and then gone.
    Draft,
}

/// An artifact of a job: which, where, how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// What it is to the job.
    pub role: Role,
    /// Its content address.
    pub artifact: ArtifactId,
    /// Its size.
    pub bytes: u64,
}

/// What was measured on a finished clip before it may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipFacts {
    /// Size of the picture, read back from the file.
    pub size: Size,
    /// Frames, read back from the file.
    pub frames: u32,
    /// Difference of the lengths of sound and picture in microseconds; 0 without sound.
    pub av_gap_micros: u32,
    /// Columns of the spritesheet.
    pub sprite_columns: u32,
    /// Rows of the spritesheet.
    pub sprite_rows: u32,
}

/// Why an attempt ended without its last artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// The model failed, made values that are no numbers, or a wrong shape.
    EngineError,
    /// No progress within the stall limit.
    Stalled,
    /// Over the hard limit.
    Timeout,
    /// The finished clip did not pass its checks.
    CheckFailed,
    /// The process is gone or silent.
    WorkerLost,
    /// Stopped by an order to drain.
    Drained,
    /// Stopped for a job of a higher class.
    Preempted,
    /// The device has too little memory.
    OutOfMemory,
    /// A store or sidecar did not answer.
    DependencyDown,
    /// An input artifact is gone or has other bytes than its address says.
    ArtifactMissing,
    /// The worker saw a newer epoch, or lacks the model.
    Refused,
    /// The job is over: cancelled, past its deadline, blocked.
    Ended,
    /// The result came in a fraction of the expected time, or names fewer steps than ordered.
    TooQuick,
    /// Several workers of one machine are gone at once.
    MachineLost,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 14] = [
        Cause::EngineError,
        Cause::Stalled,
        Cause::Timeout,
        Cause::CheckFailed,
        Cause::WorkerLost,
        Cause::Drained,
        Cause::Preempted,
        Cause::OutOfMemory,
        Cause::DependencyDown,
        Cause::ArtifactMissing,
        Cause::Refused,
        Cause::Ended,
        Cause::TooQuick,
        Cause::MachineLost,
    ];

    /// The word for it in metrics and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Cause::EngineError => "engine_error",
            Cause::Stalled => "stalled",
            Cause::Timeout => "timeout",
            Cause::CheckFailed => "check_failed",
            Cause::WorkerLost => "worker_lost",
            Cause::Drained => "drained",
            Cause::Preempted => "preempted",
            Cause::OutOfMemory => "out_of_memory",
            Cause::DependencyDown => "dependency_down",
            Cause::ArtifactMissing => "artifact_missing",
            Cause::Refused => "refused",
            Cause::Ended => "ended",
            Cause::TooQuick => "too_quick",
            Cause::MachineLost => "machine_lost",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
