//! Scores sampled frames of a clip while it is being made, on threads of its own beside the encoder.
//!
//! Decides nothing: the coordinator judges the record by its policy. A frame that was not scored is an error, and a
//! clip without a whole record is not finished. Called by the encoder's thread and by `sink.rs`.

use super::FinishError;
use crate::beside::{Beside, Nothing, Waiting};
use image::RgbImage;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_moderation::Classifier;
use zoetrope_moderation::frames::Sampler;
use zoetrope_protocol::moderation::{FrameRecord, FrameScore, NetId, SoundRecord};
use zoetrope_protocol::{ArtifactId, Size};

/// Sampled frames that wait, 8 of the largest canvas take 25 MB: those of a whole clip, as a rule, for they are scored where
/// the engine leaves a core. When it is full the encoder waits, then the gpu.
const WAITING: usize = 24;

/// Sampled frames that are scored at once: fewer only at the end of a clip. A net takes half the time for each of four that
/// it takes for one alone, and less for each of eight.
const AT_LEAST: usize = 4;
const AT_ONCE: usize = 8;

/// Threads that score one clip, each with a question of its own.
const THREADS: usize = crate::sight::THREADS;

type Frame = (u32, RgbImage);
type Scored = Result<Vec<FrameScore>, String>;

/// The scoring of one clip.
pub struct Moderation {
    size: Size,
    sampler: Sampler,
    nets: Vec<NetId>,
    /// Frames that did not come yet.
    left: u32,
    /// Until the last one came.
    line: Option<SyncSender<Frame>>,
    threads: Vec<Beside<Scored>>,
}

impl Moderation {
    /// Begins with a clip of `frames` frames of this size.
    ///
    /// # Errors
    /// `Disk` if the system gives no thread.
    pub fn begin(
        classifier: Arc<dyn Classifier>,
        size: Size,
        frames: u32,
    ) -> Result<Moderation, FinishError> {
        let nets = classifier.nets();
        let (line, receiver) = sync_channel::<Frame>(WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let start = |_| {
            let (receiver, classifier) = (receiver.clone(), classifier.clone());
            let score = move || {
                crate::start::stand_back();
                score(&receiver, &*classifier)
            };
            Beside::start("moderate", score)
        };
        let threads = (0..THREADS).map(start).collect::<Result<_, std::io::Error>>();
        let threads = threads.map_err(|source| FinishError::Disk {
            doing: "starting the threads of moderation",
            source,
        })?;
        let sampler = Sampler::new(size.width, size.height, frames);
        Ok(Moderation { size, sampler, nets, left: frames, line: Some(line), threads })
    }

    /// Takes the next frame (RGB). Blocks while too many sampled ones wait.
    pub fn see(&mut self, rgb: &[u8]) {
        let Size { width, height } = self.size;
        if let Some(index) = self.sampler.see(rgb)
            && let Some(line) = &self.line
            && let Some(picture) = RgbImage::from_raw(width, height, rgb.to_vec())
        {
            // Threads that ended have said why; the record will not be whole.
            line.send((index, picture)).ok();
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.line = None;
        }
    }

    /// No more frames: waits for the last score. `sound` is what was heard beside. What clip it is about is filled in by [`Scores::of`].
    ///
    /// # Errors
    /// `Moderation` if a frame could not be scored; `Unwanted`.
    pub fn finish(
        mut self,
        sound: Option<SoundRecord>,
        waiting: Waiting<'_>,
    ) -> Result<Scores, FinishError> {
        self.line = None;
        let mut scores = Vec::new();
        for thread in self.threads {
            match thread.wait(waiting) {
                Ok(Ok(some)) => scores.extend(some),
                Ok(Err(reason)) => return Err(FinishError::Moderation(reason)),
                Err(Nothing::Unwanted) => return Err(FinishError::Unwanted),
                Err(_) => return Err(FinishError::Moderation("its thread died".into())),
            }
        }
        scores.sort_by_key(|score: &FrameScore| score.frame);
        let (frames, frames_digest) = self.sampler.finish();
        let record = FrameRecord {
            frames_digest,
            frames,
            clip: ArtifactId([0; 32]),
            nets: self.nets,
            scores,
            sound,
        };
        Ok(Scores(record))
    }
}

/// Scores what comes, until no more does. Of the threads one waits for frames, the others for their turn to.
fn score(line: &Mutex<Receiver<Frame>>, classifier: &dyn Classifier) -> Scored {
    let next = || {
        let line = line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut some: Vec<Frame> = line.iter().take(AT_LEAST).collect();
        some.extend(line.try_iter().take(AT_ONCE - some.len()));
        some
    };
    let mut all = Vec::new();
    loop {
        let (frames, pictures): (Vec<u32>, Vec<RgbImage>) = next().into_iter().unzip();
        if frames.is_empty() {
            return Ok(all);
        }
        let scores = classifier.score(&pictures).map_err(|error| error.to_string())?;
        if scores.len() != frames.len() {
            return Err("not every frame has a score".into());
        }
        let each = frames.into_iter().zip(scores);
        all.extend(each.map(|(frame, score)| FrameScore { frame, ..score }));
    }
}

/// A record that does not yet say which clip it is about.
#[derive(Clone)]
pub struct Scores(FrameRecord);

impl Scores {
    /// The record about this clip.
    pub fn of(&self, clip: ArtifactId) -> FrameRecord {
        FrameRecord { clip, ..self.0.clone() }
    }
}
