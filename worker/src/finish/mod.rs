//! Finishing: decoded frames and sound become the clip that is published, with its thumbnail and spritesheet.
//!
//! Streaming: sound first, then frames chunk by chunk into an encoder, O(chunk) of memory. The finished file
//! is read back and checked before anyone hears of it. Called on the gpu thread and by `zoetrope-worker
//! render`. Blocks; never async. Does not know jobs, links or stores.

mod cached;
mod check;
mod encoder;
mod listen;
mod mark;
mod moderate;
mod program;
mod seal;
mod sink;
mod stills;
#[cfg(test)]
mod tests;
mod visible;

pub use crate::beside::{Waiting, Wanted};
pub use cached::ClipCache;
pub use mark::{ClipMarks, FarmReader};
pub use program::{FinishSettings, Programs};
pub use seal::Sealing;
pub use sink::FfmpegSink;

use crate::engine::{ClipSink, EngineError};
use crate::link::stream::Payload;
use sink::Scoring;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_protocol::job::{ClipFacts, Role};
use zoetrope_protocol::{ArtifactId, RenderSpec};

/// Why there is no clip.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// ffmpeg or ffprobe is missing, or lacks what we need.
    #[error("{0}")]
    Program(String),
    /// The encoder failed, or did not take its frames in time.
    #[error("the encoder failed: {0}")]
    Encoder(String),
    /// Our disk, full perhaps.
    #[error("{doing} failed: {source}")]
    Disk {
        /// What we were doing.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The finished clip is not what was asked for.
    #[error("the finished clip did not pass its check: {0}")]
    Check(String),
    /// The manifest could not be written into the clip.
    #[error("the clip could not be signed: {0}")]
    Manifest(#[from] zoetrope_provenance::BuildError),
    /// The encoded file does not show its mark; what it shows agrees so far with it, where this worker read it.
    #[error("the mark did not come through the encoder{}", agreeing(*.0))]
    Unmarked(Option<f32>),
    /// The attempt was stopped, so nothing more is done for it.
    #[error("the clip is not wanted any more")]
    Unwanted,
    /// A sampled frame could not be scored, or the sound not understood. Never a pass.
    #[error("the clip could not be scored: {0}")]
    Moderation(String),
}

fn agreeing(by: Option<f32>) -> String {
    by.map_or_else(String::new, |by| format!(": it agrees by {by:.1} only"))
}

impl From<FinishError> for EngineError {
    fn from(error: FinishError) -> Self {
        EngineError::Sink(error.to_string())
    }
}

/// A file of a finished clip.
#[derive(Clone, Debug)]
pub struct FinishedFile {
    /// Its address.
    pub artifact: ArtifactId,
    /// Its bytes.
    pub payload: Payload,
}

/// A finished clip. Its files go when it is dropped.
pub struct FinishedClip {
    /// The MP4.
    pub clip: FinishedFile,
    /// One frame as WebP.
    pub thumbnail: FinishedFile,
    /// A grid of frames as JPEG.
    pub spritesheet: FinishedFile,
    /// What the classifiers saw in its frames and heard in its sound; none for a clip that no farm publishes, and before
    /// [`FinishedClip::scored`].
    pub scores: Option<FinishedFile>,
    /// What they are still at.
    scoring: Option<Scoring>,
    /// What it shows of its marks; none for a clip that no farm publishes, or whose marks the farm has read itself.
    pub marks: Option<FinishedFile>,
    /// Whether its sound shows the mark too, so that the manifest may name it.
    pub sound_is_marked: bool,
    /// What was measured.
    pub facts: ClipFacts,
    /// How long the parts of finishing took, after the last frame.
    pub parts: Vec<(&'static str, Duration)>,
    /// Keeps the files.
    folder: Option<TempFolder>,
}

impl FinishedClip {
    /// Waits for what the classifiers are still at: a file that is whole can be signed and sent meanwhile.
    ///
    /// # Errors
    /// `Moderation` if a frame could not be scored, or the sound not be understood.
    pub fn scored(self) -> Result<FinishedClip, FinishError> {
        self.scored_while(Waiting::QUIETLY)
    }

    /// The same, as long as it is wanted.
    ///
    /// # Errors
    /// As [`FinishedClip::scored`], and `Unwanted`.
    pub fn scored_while(mut self, waiting: Waiting<'_>) -> Result<FinishedClip, FinishError> {
        if let Some(scoring) = self.scoring.take() {
            let began = Instant::now();
            self.scores = Some(scoring.finish(waiting)?);
            self.parts.push(("moderate", began.elapsed()));
        }
        Ok(self)
    }

    /// How long it waited for the classifiers, once it has.
    pub fn moderated(&self) -> Option<(&'static str, Duration)> {
        self.parts.iter().find(|(part, _)| *part == "moderate").copied()
    }

    /// What is stored, in this order.
    pub fn files(&self) -> Vec<(Role, &FinishedFile)> {
        let mut files = vec![
            (Role::Clip, &self.clip),
            (Role::Thumbnail, &self.thumbnail),
            (Role::Spritesheet, &self.spritesheet),
        ];
        files.extend(self.scores.as_ref().map(|scores| (Role::Scores, scores)));
        files.extend(self.marks.as_ref().map(|marks| (Role::Marks, marks)));
        files
    }
}

/// Takes the frames and sound of one clip, and makes the clip of them.
pub trait FinishSink: ClipSink {
    /// No more will come: closes, reads back, checks. The marks are read by the `farm`, where there is one that does.
    ///
    /// # Errors
    /// `Check` if the clip is not what was asked for; `Unmarked` if it was to be marked and does not show it; `Encoder`,
    /// `Disk`.
    fn close(self: Box<Self>, farm: Option<&dyn FarmReader>) -> Result<FinishedClip, FinishError>;
}

/// How this worker makes clips.
#[derive(Clone)]
pub enum Finisher {
    /// With an encoder, from the frames that come.
    Ffmpeg(Arc<FinishSettings>),
    /// For load tests: from clips that were encoded once, whatever frames come.
    Cached(Arc<ClipCache>),
    /// Not at all: this worker takes other stages. With where its temporary files would go.
    Nobody(Arc<Path>),
}

impl Finisher {
    /// Where temporary files go.
    pub fn temp(&self) -> &Path {
        match self {
            Finisher::Ffmpeg(settings) => &settings.temp,
            Finisher::Cached(cache) => cache.temp(),
            Finisher::Nobody(temp) => temp,
        }
    }

    /// Begins a clip that carries no marks, which no farm publishes.
    ///
    /// # Errors
    /// `Disk` if there is no room for temporary files; `Check` if the size cannot be encoded; `Program` if this worker makes no
    /// clips.
    pub fn begin(&self, spec: &RenderSpec) -> Result<Box<dyn FinishSink>, FinishError> {
        self.begin_with(spec, None)
    }

    /// Begins a clip with these marks.
    ///
    /// # Errors
    /// As [`Finisher::begin`].
    pub fn begin_with(
        &self,
        spec: &RenderSpec,
        marks: Option<ClipMarks>,
    ) -> Result<Box<dyn FinishSink>, FinishError> {
        self.begin_while(spec, marks, Arc::new(|| true))
    }

    /// The same; its sink takes frames as long as the clip is wanted.
    ///
    /// # Errors
    /// As [`Finisher::begin`].
    pub fn begin_while(
        &self,
        spec: &RenderSpec,
        marks: Option<ClipMarks>,
        wanted: Wanted,
    ) -> Result<Box<dyn FinishSink>, FinishError> {
        match self {
            Finisher::Ffmpeg(settings) => {
                Ok(Box::new(FfmpegSink::begin(settings.clone(), spec, marks)?.wanted(wanted)))
            }
            Finisher::Cached(cache) => {
                Ok(Box::new(cached::CachedSink::begin(cache.clone(), spec, marks)))
            }
            Finisher::Nobody(_) => {
                Err(FinishError::Program("this worker was told to make no clips".into()))
            }
        }
    }
}

/// A folder of temporary files that goes when it is dropped, also after errors.
#[derive(Debug)]
pub struct TempFolder {
    /// Where it is.
    pub path: PathBuf,
}

impl TempFolder {
    /// Makes one below `parent`.
    ///
    /// # Errors
    /// `Disk`.
    pub fn new(parent: &Path) -> Result<Self, FinishError> {
        let path = parent.join(format!("finish-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&path)
            .map_err(|source| FinishError::Disk { doing: "making a temporary folder", source })?;
        Ok(TempFolder { path })
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, "temporary files are left behind until the next start");
        }
    }
}
