//! Clips for load tests: encoded once for each size and length, then only made unique.
//!
//! A farm of hundreds of emulated workers in one process cannot afford hundreds of encoders. The clips are
//! valid, of the right size, length and sound; each gets a box of its own behind, which players skip. One that is to be
//! marked shows a picture that stands still, with its own marks in it: only its pixels are put into the cached file.

use super::mark::{ClipMarks, FarmReader, Shown};
use super::program::FinishSettings;
use super::sink::FfmpegSink;
use super::stills;
use super::{FinishError, FinishSink, FinishedClip, FinishedFile, TempFolder};
use crate::emulated::{paint, paint_frame};
use crate::engine::{ClipSink, EngineError, Frames, Piece};
use crate::link::stream::Payload;
use bytes::Bytes;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use zoetrope_mark::PictureReading;
use zoetrope_mark::reading::{Place, Stills};
use zoetrope_mark::still::{self, StillFilm};
use zoetrope_protocol::clip::FPS;
use zoetrope_protocol::codec;
use zoetrope_protocol::job::ClipFacts;
use zoetrope_protocol::mark::{DraftReading, SoundMark};
use zoetrope_protocol::moderation::FrameRecord;
use zoetrope_protocol::{ArtifactId, RenderSpec, Size};

type Key = (Size, Size, u32, bool);

struct Encoded {
    clip: Bytes,
    thumbnail: Bytes,
    spritesheet: Bytes,
    scores: Option<Bytes>,
    facts: ClipFacts,
    still: StillFilm,
}

/// Clips that were encoded before.
pub struct ClipCache {
    settings: Arc<FinishSettings>,
    // Held while a clip is encoded: the others that wait want the same one.
    clips: Mutex<HashMap<Key, Arc<Encoded>>>,
    turns: Turns,
}

/// Clips are marked on as many threads as there are cores: hundreds at once would leave the links of their own process no
/// time to hear the coordinator.
struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Ends when it is dropped.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn new() -> Turns {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Turns { free: Mutex::new(cores), freed: Condvar::new() }
    }

    /// Waits for one.
    fn take(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.freed.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl ClipCache {
    /// Without clips yet.
    pub fn new(settings: Arc<FinishSettings>) -> Self {
        ClipCache { settings, clips: Mutex::default(), turns: Turns::new() }
    }

    /// Where temporary files go.
    pub fn temp(&self) -> &std::path::Path {
        &self.settings.temp
    }

    fn clip(&self, spec: &RenderSpec) -> Result<Arc<Encoded>, FinishError> {
        let key = (spec.canvas, spec.deliver, spec.frames, spec.audio);
        let mut clips = self.clips.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clip) = clips.get(&key) {
            return Ok(clip.clone());
        }
        let mut sink = Box::new(FfmpegSink::begin(self.settings.clone(), spec, None)?);
        paint(spec, &Piece::whole(spec), sink.as_mut(), &mut |_| true)
            .map_err(|error| FinishError::Encoder(error.to_string()))?;
        let made = sink.close(None)?.scored()?;
        let load = |file: &FinishedFile| match &file.payload {
            Payload::Memory(bytes) => Ok(bytes.clone()),
            Payload::File { path, .. } => std::fs::read(path)
                .map(Bytes::from)
                .map_err(|source| FinishError::Disk { doing: "reading a clip", source }),
        };
        let clip = load(&made.clip)?;
        let encoded = Arc::new(Encoded {
            still: self.still(spec, &clip)?,
            clip,
            thumbnail: load(&made.thumbnail)?,
            spritesheet: load(&made.spritesheet)?,
            scores: made.scores.as_ref().map(load).transpose()?,
            facts: made.facts,
        });
        clips.insert(key, encoded.clone());
        Ok(encoded)
    }

    /// A clip with the sound of this one and a picture that stands still.
    fn still(&self, spec: &RenderSpec, clip: &[u8]) -> Result<StillFilm, FinishError> {
        let folder = TempFolder::new(&self.settings.temp)?;
        let sounding = folder.path.join("clip.mp4");
        std::fs::write(&sounding, clip)
            .map_err(|source| FinishError::Disk { doing: "writing a clip", source })?;
        let ffmpeg = &self.settings.programs.ffmpeg;
        let size = (spec.deliver.width as usize, spec.deliver.height as usize);
        StillFilm::make(ffmpeg, (size, spec.frames, FPS), Some(&sounding), &folder.path)
            .map_err(|error| FinishError::Encoder(error.to_string()))
    }
}

/// A clip with its own marks in it, its thumbnail and spritesheet, and what it shows of its marks.
struct Marked {
    clip: Vec<u8>,
    small: [Vec<u8>; 2],
    shown: Shown,
}

/// Takes no frames and gives a cached clip.
pub struct CachedSink {
    cache: Arc<ClipCache>,
    spec: RenderSpec,
    marks: Option<ClipMarks>,
}

impl CachedSink {
    /// Begins a clip.
    pub fn begin(cache: Arc<ClipCache>, spec: &RenderSpec, marks: Option<ClipMarks>) -> Self {
        CachedSink { cache, spec: spec.clone(), marks }
    }

    fn marked(&self, still: &StillFilm, marks: &ClipMarks) -> Result<Marked, FinishError> {
        let RenderSpec { canvas, deliver, .. } = self.spec;
        let size = |size: Size| (size.width as usize, size.height as usize);
        let ((columns, rows), (width, height)) = (size(canvas), size(deliver));
        let mut rgb = vec![0; columns * rows * 3];
        paint_frame(&self.spec, 0, columns, rows, &mut rgb);
        // As the encoder does: what is marked is the canvas, and then it is scaled.
        marks.frames(canvas)?.mark(&mut rgb);
        let rgb = covering(rgb, canvas, deliver)
            .ok_or_else(|| FinishError::Check("a frame of another size than its canvas".into()))?;
        let clip = still.showing(&rgb);
        // Any decoder gives these pixels back as they are, so they are read where they are made.
        let mut stills = Stills::new(width, height);
        stills.add(&still::luma(&rgb, (width, height)));
        let place = Place::delivered((columns, rows), (width, height));
        // A beep each second is too little sound to carry a mark.
        let sound = if self.spec.audio { SoundMark::Quiet } else { SoundMark::Silent };
        let shown = marks.judge(PictureReading::at(&stills, place), sound)?;
        Ok(Marked { clip, small: stills::Stills::of_one(&self.spec, rgb)?, shown })
    }
}

/// A frame scaled to cover a size and cut, centred; none if it has not the size of its canvas.
fn covering(rgb: Vec<u8>, canvas: Size, deliver: Size) -> Option<Vec<u8>> {
    if canvas == deliver {
        return Some(rgb);
    }
    let frame = RgbImage::from_raw(canvas.width, canvas.height, rgb)?;
    let ratio = |deliver: u32, canvas: u32| f64::from(deliver) / f64::from(canvas.max(1));
    let scale = ratio(deliver.width, canvas.width).max(ratio(deliver.height, canvas.height));
    let scaled = |side: u32, least: u32| ((f64::from(side) * scale).round() as u32).max(least);
    let (width, height) =
        (scaled(canvas.width, deliver.width), scaled(canvas.height, deliver.height));
    let frame = resize(&frame, width, height, FilterType::Lanczos3);
    let (left, top) = ((width - deliver.width) / 2, (height - deliver.height) / 2);
    Some(crop_imm(&frame, left, top, deliver.width, deliver.height).to_image().into_raw())
}

impl ClipSink for CachedSink {
    fn sound(&mut self, _samples: &[f32]) -> Result<(), EngineError> {
        Ok(())
    }

    fn frames(&mut self, _frames: Frames<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn takes_frames(&self) -> bool {
        false
    }
}

impl FinishSink for CachedSink {
    /// It knows what it shows without being read; the farm must see it all the same.
    fn close(self: Box<Self>, farm: Option<&dyn FarmReader>) -> Result<FinishedClip, FinishError> {
        let encoded = self.cache.clip(&self.spec)?;
        let turn = self.cache.turns.take();
        let mark = ArtifactId::of(format!("{} {}", self.spec.seed, self.spec.prompt).as_bytes());
        let marked = self.marks.as_ref().map(|marks| self.marked(&encoded.still, marks));
        let cached = [&encoded.thumbnail, &encoded.spritesheet].map(Bytes::clone);
        let (mut clip, small, shown) = match marked.transpose()? {
            Some(Marked { clip, small, shown }) => (clip, small.map(Bytes::from), Some(shown)),
            None => (encoded.clip.to_vec(), cached, None),
        };
        // An MP4 box of samples that nothing plays: length, the word `mdat`, and 32 bytes. In a `free` box, which no manifest
        // binds, nothing may be.
        clip.extend_from_slice(&40u32.to_be_bytes());
        clip.extend_from_slice(b"mdat");
        clip.extend_from_slice(&mark.0);
        let file = |bytes: Bytes| FinishedFile {
            artifact: ArtifactId::of(&bytes),
            payload: Payload::Memory(bytes),
        };
        let clip = file(clip.into());
        let farm = farm.filter(|_| shown.is_some()).map(|farm| farm.hand_over(&clip));
        // The frames are those of the cached clip; the record is about this one.
        let about = |bytes: &Bytes| -> Result<FinishedFile, FinishError> {
            let wrong = |error: codec::CodecError| FinishError::Moderation(error.to_string());
            let cached: FrameRecord = codec::decode(bytes).map_err(wrong)?;
            let record = FrameRecord { clip: clip.artifact, ..cached };
            Ok(file(codec::encode(&record).map_err(wrong)?.into()))
        };
        let scores = encoded.scores.as_ref().map(about).transpose()?;
        let marks = shown.map(|shown| shown.record(clip.artifact)).transpose()?;
        let [thumbnail, sprites] = small.map(file);
        // Others go on while the farm reads this one.
        drop(turn);
        let marks = match farm.map(|answer| answer()) {
            Some(DraftReading::Marked { .. }) => None,
            Some(DraftReading::Unmarked) => return Err(FinishError::Unmarked(None)),
            Some(DraftReading::Unread) | None => marks,
        };
        Ok(FinishedClip::in_memory(clip, thumbnail, sprites, (scores, marks), encoded.facts))
    }
}
