//! The sink that the gpu thread pours frames and sound into, and the clip that it closes to.
//!
//! Counts what comes, so that a model that makes too much or too little is caught here. Dropping it at any
//! moment kills the encoder and removes its files.

use super::check::read_back;
use super::encoder::{Encoder, Eyes};
use super::listen::Listening;
use super::mark::{ClipMarks, FarmReader, ReadingBack, Shown, SoundFile};
use super::moderate::Moderation;
use super::program::FinishSettings;
use super::stills::Stills;
use super::{FinishError, FinishSink, FinishedClip, FinishedFile, TempFolder};
use crate::beside::{Waiting, Wanted};
use crate::engine::{ClipSink, EngineError, Frames};
use crate::link::stream::Payload;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_protocol::clip::AUDIO_CHANNELS;
use zoetrope_protocol::codec;
use zoetrope_protocol::job::ClipFacts;
use zoetrope_protocol::mark::DraftReading;
use zoetrope_protocol::{ArtifactId, RenderSpec};

/// A clip in the making.
pub struct FfmpegSink {
    settings: Arc<FinishSettings>,
    spec: RenderSpec,
    marks: Option<ClipMarks>,
    wanted: Wanted,
    sound: Option<SoundFile>,
    listening: Option<Listening>,
    encoder: Option<Encoder>,
    frames: u32,
    // Last, so that the encoder is dead before its folder goes.
    folder: TempFolder,
}

impl FfmpegSink {
    /// Begins a clip.
    ///
    /// # Errors
    /// `Check` if H.264 cannot have the size; `Disk`.
    pub fn begin(
        settings: Arc<FinishSettings>,
        spec: &RenderSpec,
        marks: Option<ClipMarks>,
    ) -> Result<Self, FinishError> {
        let deliver = spec.deliver;
        let even = deliver.width.is_multiple_of(2) && deliver.height.is_multiple_of(2);
        if !even || deliver.area() == 0 {
            return Err(FinishError::Check(format!("a picture of {deliver} has an odd side")));
        }
        if spec.frames == 0 {
            return Err(FinishError::Check("a clip without frames".into()));
        }
        let folder = TempFolder::new(&settings.temp)?;
        Ok(FfmpegSink {
            settings,
            spec: spec.clone(),
            marks,
            wanted: Arc::new(|| true),
            sound: None,
            listening: None,
            encoder: None,
            frames: 0,
            folder,
        })
    }

    /// Takes frames as long as this says so.
    pub fn wanted(self, wanted: Wanted) -> Self {
        FfmpegSink { wanted, ..self }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    fn take_sound(&mut self, samples: &[f32]) -> Result<(), FinishError> {
        let want = self.spec.shape().asked_samples() * u64::from(AUDIO_CHANNELS);
        if !self.spec.audio || self.sound.is_some() || samples.len() as u64 != want {
            let got = samples.len();
            return Err(FinishError::Check(format!("{got} samples came instead of {want}, once")));
        }
        if samples.iter().any(|sample| !sample.is_finite()) {
            return Err(FinishError::Check("the sound has values that are no numbers".into()));
        }
        let path = self.path("sound.f32");
        if let Some(listener) = self.settings.listener.clone() {
            self.listening = Some(Listening::begin(listener, samples.to_vec())?);
        }
        let samples = samples.iter().map(|sample| sample.clamp(-1.0, 1.0)).collect();
        self.sound = Some(ClipMarks::sound(self.marks.as_ref(), samples, &path)?);
        Ok(())
    }

    fn take_frames(&mut self, frames: &Frames<'_>) -> Result<(), FinishError> {
        let bytes = u64::from(frames.count) * self.spec.canvas.area() * 3;
        if frames.rgb.len() as u64 != bytes {
            let (got, count) = (frames.rgb.len(), frames.count);
            return Err(FinishError::Check(format!("{got} bytes for {count} frames, not {bytes}")));
        }
        self.frames = self.frames.saturating_add(frames.count);
        if self.frames > self.spec.frames {
            let asked = self.spec.frames;
            return Err(FinishError::Check(format!("more than the {asked} frames asked for")));
        }
        if self.encoder.is_none() {
            if self.spec.audio && self.sound.is_none() {
                return Err(FinishError::Check("frames came before the sound".into()));
            }
            let thumbnail = self.path("thumbnail.webp");
            let stills = Stills::painting(&self.spec, self.settings.clone(), thumbnail);
            let clip = self.path("clip.mp4");
            let sound = self.sound.as_mut().map(SoundFile::path).transpose()?;
            let (size, frames) = (self.spec.canvas, self.spec.frames);
            let marks = self.marks.as_ref().map(|marks| marks.frames(size)).transpose()?;
            let scored = self.settings.classifier.clone();
            let scored = scored.map(|classifier| Moderation::begin(classifier, size, frames));
            let moderation = scored.transpose()?;
            let eyes = Eyes { moderation, marks, stills };
            self.encoder = Some(Encoder::start(&self.settings, &self.spec, sound, &clip, eyes)?);
        }
        match &mut self.encoder {
            Some(encoder) => encoder.feed(frames.rgb, &*self.wanted),
            None => Ok(()),
        }
    }
}

impl ClipSink for FfmpegSink {
    fn sound(&mut self, samples: &[f32]) -> Result<(), EngineError> {
        Ok(self.take_sound(samples)?)
    }

    fn frames(&mut self, frames: Frames<'_>) -> Result<(), EngineError> {
        Ok(self.take_frames(&frames)?)
    }
}

impl FinishSink for FfmpegSink {
    fn close(self: Box<Self>, farm: Option<&dyn FarmReader>) -> Result<FinishedClip, FinishError> {
        let mut this = *self;
        if this.frames != this.spec.frames {
            let (got, asked) = (this.frames, this.spec.frames);
            return Err(FinishError::Check(format!("{got} frames came instead of {asked}")));
        }
        let Some(encoder) = this.encoder.take() else {
            return Err(FinishError::Check("no frames came".into()));
        };
        let told = || farm.into_iter().for_each(FarmReader::went_on);
        let wanted = || farm.is_none_or(FarmReader::wants);
        let waiting = Waiting { told: &told, wanted: &wanted };
        let began = Instant::now();
        let Eyes { mut stills, moderation, marks } = encoder.close(waiting)?;
        told();
        let embedded = marks.map_or(Duration::ZERO, |marks| marks.took);
        let encoded = began.elapsed();

        let path = this.path("clip.mp4");
        let clip = file(&path)?;
        let sound = this.sound.as_ref().map(SoundFile::is_marked);
        let read_marks =
            |marks| ReadingBack::begin(marks, &this.settings.programs, &path, &this.spec, sound);
        let marks = this.marks.take();
        let asked = farm.filter(|_| marks.is_some()).map(|farm| farm.hand_over(&clip));
        let own = marks.clone().filter(|_| asked.is_none()).map(read_marks).transpose()?;

        let began = Instant::now();
        let read = read_back(&this.settings.programs, &path, &this.spec)?;
        let checked = began.elapsed();
        told();

        let began = Instant::now();
        let (thumbnail, sprites) = (this.path("thumbnail.webp"), this.path("sprites.jpg"));
        stills.write_sprites(&sprites)?;
        stills.finish_thumbnail(waiting)?;
        let (sprite_columns, sprite_rows) = stills.grid();
        let (thumbnail, spritesheet) = (file(&thumbnail)?, file(&sprites)?);
        let mux = began.elapsed();
        told();

        let (listening, of) = (this.listening.take(), clip.artifact);
        let scoring = moderation.map(|moderation| Scoring { moderation, listening, clip: of });
        // Last: all the rest goes on while the marks are read.
        let began = Instant::now();
        let (shown, sound_is_marked) = match asked.map(|answer| answer()) {
            Some(DraftReading::Marked { in_sound }) => (None, in_sound && sound == Some(true)),
            Some(DraftReading::Unmarked) => return Err(FinishError::Unmarked(None)),
            // Whoever stops an attempt ends its wait for the answer too.
            Some(DraftReading::Unread) if !wanted() => return Err(FinishError::Unwanted),
            Some(DraftReading::Unread) => {
                told();
                read_by_own(marks.map(read_marks).transpose()?, waiting)?
            }
            None => read_by_own(own, waiting)?,
        };
        let marked = began.elapsed();
        let marks = shown.map(|shown| shown.record(clip.artifact)).transpose()?;
        Ok(FinishedClip {
            clip,
            thumbnail,
            spritesheet,
            scores: None,
            scoring,
            marks,
            sound_is_marked,
            facts: ClipFacts {
                size: read.size,
                frames: read.frames,
                av_gap_micros: read.av_gap_micros,
                sprite_columns,
                sprite_rows,
            },
            parts: vec![
                ("embed", embedded),
                ("encode", encoded),
                ("check", checked),
                ("mark", marked),
                ("mux", mux),
            ],
            folder: Some(this.folder),
        })
    }
}

/// What this worker reads itself, and whether the sound shows its mark.
fn read_by_own(
    reading: Option<ReadingBack>,
    waiting: Waiting<'_>,
) -> Result<(Option<Shown>, bool), FinishError> {
    let shown = reading.map(|reading| reading.finish(waiting)).transpose()?;
    let sound_is_marked = shown.as_ref().is_some_and(Shown::sound_is_marked);
    Ok((shown, sound_is_marked))
}

impl FinishedClip {
    /// A clip whose bytes are in memory.
    pub(super) fn in_memory(
        clip: FinishedFile,
        thumbnail: FinishedFile,
        spritesheet: FinishedFile,
        (scores, marks): (Option<FinishedFile>, Option<FinishedFile>),
        facts: ClipFacts,
    ) -> Self {
        let (parts, folder) = (vec![], None);
        let sound_is_marked = false;
        FinishedClip {
            clip,
            thumbnail,
            spritesheet,
            scores,
            scoring: None,
            marks,
            sound_is_marked,
            facts,
            parts,
            folder,
        }
    }
}

/// What the classifiers are still at when a clip is whole.
pub(super) struct Scoring {
    moderation: Moderation,
    listening: Option<Listening>,
    /// Which clip.
    clip: ArtifactId,
}

impl Scoring {
    /// Waits for the record of the sampled frames and the sound of the clip.
    ///
    /// # Errors
    /// `Moderation`, `Unwanted`.
    pub(super) fn finish(self, waiting: Waiting<'_>) -> Result<FinishedFile, FinishError> {
        let heard = self.listening.map(|listening| listening.finish(waiting)).transpose()?;
        let scores = self.moderation.finish(heard, waiting)?;
        let bytes = codec::encode(&scores.of(self.clip))
            .map_err(|error| FinishError::Moderation(error.to_string()))?;
        let artifact = ArtifactId::of(&bytes);
        Ok(FinishedFile { artifact, payload: Payload::Memory(bytes.into()) })
    }
}

/// A finished file and its address.
pub(super) fn file(path: &Path) -> Result<FinishedFile, FinishError> {
    let disk = |source| FinishError::Disk { doing: "reading back a file", source };
    let mut file = std::fs::File::open(path).map_err(disk)?;
    let mut digest = Sha256::new();
    let (mut bytes, mut piece) = (0u64, vec![0; 256 * 1024]);
    loop {
        let count = file.read(&mut piece).map_err(disk)?;
        if count == 0 {
            break;
        }
        digest.update(&piece[..count]);
        bytes += count as u64;
    }
    let artifact = ArtifactId(digest.finalize().into());
    Ok(FinishedFile { artifact, payload: Payload::File { path: path.into(), bytes } })
}
