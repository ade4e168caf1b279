//! Scores sampled frames of a clip while it is being made, on a thread of its own beside the encoder.
//!
//! Decides nothing: the coordinator judges the record by its policy. A frame that was not scored is an error, and a
//! clip without a whole record is not finished. Called by the encoder's thread and by `sink.rs`.

use super::FinishError;
use image::RgbImage;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
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

type Scored = Result<Vec<FrameScore>, String>;

/// The scoring of one clip.
pub struct Moderation {
    size: Size,
    sampler: Sampler,
    nets: Vec<NetId>,
    frames: Option<SyncSender<(u32, RgbImage)>>,
    thread: Option<JoinHandle<Scored>>,
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
        let (sender, receiver) = sync_channel::<(u32, RgbImage)>(WAITING);
        let thread =
            std::thread::Builder::new().name("moderate".into()).spawn(move || -> Scored {
                crate::start::stand_back();
                let mut all = Vec::new();
                loop {
                    let mut some: Vec<(u32, RgbImage)> = receiver.iter().take(AT_LEAST).collect();
                    some.extend(receiver.try_iter().take(AT_ONCE - some.len()));
                    if some.is_empty() {
                        return Ok(all);
                    }
                    let (frames, pictures): (Vec<u32>, Vec<RgbImage>) = some.into_iter().unzip();
                    let scores = classifier.score(&pictures).map_err(|error| error.to_string())?;
                    if scores.len() != frames.len() {
                        return Err("not every frame has a score".into());
                    }
                    let each = frames.into_iter().zip(scores);
                    all.extend(each.map(|(frame, score)| FrameScore { frame, ..score }));
                }
            });
        let thread = thread.map_err(|source| FinishError::Disk {
            doing: "starting the thread of moderation",
            source,
        })?;
        Ok(Moderation {
            size,
            sampler: Sampler::new(size.width, size.height, frames),
            nets,
            frames: Some(sender),
            thread: Some(thread),
        })
    }

    /// Takes the next frame (RGB). Blocks while too many sampled ones wait.
    pub fn see(&mut self, rgb: &[u8]) {
        let Some(index) = self.sampler.see(rgb) else { return };
        let picture = RgbImage::from_raw(self.size.width, self.size.height, rgb.to_vec());
        if let (Some(picture), Some(frames)) = (picture, &self.frames) {
            // A thread that ended has said why; the record will not be whole.
            frames.send((index, picture)).ok();
        }
    }

    /// No more frames: waits for the last score. `sound` is what was heard beside. What clip it is about is filled in by [`Scores::of`].
    ///
    /// # Errors
    /// `Moderation` if a frame could not be scored.
    pub fn finish(mut self, sound: Option<SoundRecord>) -> Result<Scores, FinishError> {
        drop(self.frames.take());
        let scored = self.thread.take().map(JoinHandle::join);
        let scores = match scored {
            Some(Ok(Ok(scores))) => scores,
            Some(Ok(Err(reason))) => return Err(FinishError::Moderation(reason)),
            _ => return Err(FinishError::Moderation("its thread died".into())),
        };
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

/// A record that does not yet say which clip it is about.
#[derive(Clone)]
pub struct Scores(FrameRecord);

impl Scores {
    /// The record about this clip.
    pub fn of(&self, clip: ArtifactId) -> FrameRecord {
        FrameRecord { clip, ..self.0.clone() }
    }
}
