//! The marks of one clip: the visible one and the two invisible ones go in, and what the encoded file shows of the
//! latter comes out as a record.
//!
//! Knows tiles, no keys: whether the record is a proof is the coordinator's to say. Frames are marked on the encoder's
//! thread, sound on one of its own. Called by `sink.rs`.

use super::program::Programs;
use super::visible::Emblem;
use super::{FinishError, FinishedFile};
use crate::beside::{Beside, Nothing, Waiting};
use crate::link::stream::Payload;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use zoetrope_mark::film::Expected;
use zoetrope_mark::picture::{PictureMarker, Strength};
use zoetrope_mark::reading::{Place, Stills, TILE_AGREEMENT};
use zoetrope_mark::sound::{self, Bands, LOUD_SECONDS_MIN, Loudness};
use zoetrope_mark::{PictureReading, SoundReading, Tiles, film};
use zoetrope_protocol::clip::{AUDIO_CHANNELS, FPS, SAMPLE_RATE};
use zoetrope_protocol::mark::{
    DraftReading, MarkOrder, MarkRecord, PIXEL_CHIPS, SOUND_CHIPS, SoundMark, Visible, unpack,
};
use zoetrope_protocol::{ArtifactId, RenderSpec, Size, codec};

/// Decoding 15 s of the largest clip, and looking at a part of its frames, takes 5 s on one slow core. For both looks.
const READ_LIMIT: Duration = Duration::from_secs(90);
/// Frames of a clip that are read at first: three times what was enough at CRF 23. If they do not show the mark, all are read.
const FRAMES_READ: u32 = 36;
/// Sound that agrees so well with its own tile is found by whoever has the key: a search asks for 10.0
/// (`zoetrope_mark::sound::AGREEMENT_WHOLE`).
const SOUND_AGREEMENT: f32 = 10.6;

/// What a clip is marked with.
#[derive(Clone, Debug)]
pub struct ClipMarks {
    tiles: Tiles,
    visible: Visible,
    strength: Strength,
}

impl ClipMarks {
    /// Of an order.
    ///
    /// # Errors
    /// `Check` if its tiles are of another size.
    pub fn new(order: &MarkOrder, strength: Strength) -> Result<ClipMarks, FinishError> {
        let tile = |bits: &[u8], count| {
            let wrong = || FinishError::Check(format!("a tile is not of {count} chips"));
            unpack(bits, count).ok_or_else(wrong)
        };
        let pixels = tile(&order.pixels, PIXEL_CHIPS)?;
        let sound = tile(&order.sound, SOUND_CHIPS)?;
        let tiles = Tiles { pixels, sound };
        Ok(ClipMarks { tiles, visible: order.visible.clone(), strength })
    }

    /// What marks frames of this size.
    ///
    /// # Errors
    /// `Check` if the artwork is no picture.
    pub(super) fn frames(&self, size: Size) -> Result<FrameMarks, FinishError> {
        let (width, height) = (size.width as usize, size.height as usize);
        let emblem = Emblem::new(&self.visible, width, height)?;
        let picture = PictureMarker::new(&self.tiles.pixels, width, height, self.strength);
        Ok(FrameMarks { emblem, picture, seen: 0, took: Duration::ZERO })
    }

    /// Writes the sound to a file, marked if it can carry a mark, on a thread of its own: the gpu decodes the first
    /// frames meanwhile.
    ///
    /// # Errors
    /// `Disk` if the system gives no thread.
    pub(super) fn sound(
        marks: Option<&ClipMarks>,
        mut samples: Vec<f32>,
        path: &Path,
    ) -> Result<SoundFile, FinishError> {
        let tile = marks.map(|marks| marks.tiles.sound.clone());
        let target = path.to_owned();
        let write = move || {
            let loud = sound::loud_seconds(&samples, AUDIO_CHANNELS as usize, SAMPLE_RATE);
            let marked = tile.filter(|_| loud >= LOUD_SECONDS_MIN);
            if let Some(tile) = &marked {
                sound::mark(tile, &mut samples, SAMPLE_RATE);
            }
            let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            std::fs::write(target, bytes).map(|()| marked.is_some())
        };
        let thread = std::thread::Builder::new().name("sound".into()).spawn(write);
        let thread = thread.map_err(|source| FinishError::Disk {
            doing: "starting the thread of the sound",
            source,
        })?;
        Ok(SoundFile { path: path.to_owned(), thread: Some(thread), marked: false })
    }

    /// Reads the finished file as anybody could, and holds its picture against the tile. `sound`: whether the clip has
    /// some, and whether that was marked.
    ///
    /// # Errors
    /// `Unmarked` if the mark did not come through the encoder; `Check` if the file cannot be read.
    pub(super) fn read_back(
        &self,
        programs: &Programs,
        clip: &Path,
        spec: &RenderSpec,
        sound: Option<bool>,
    ) -> Result<Shown, FinishError> {
        let size = |size: Size| (size.width as usize, size.height as usize);
        let (width, height) = size(spec.deliver);
        let place = Place::delivered(size(spec.canvas), (width, height));
        let expected =
            Expected { size: (width, height), frames: spec.frames, rate: FPS, sound: spec.audio };
        let began = Instant::now();
        let looked_at = |every: u32| -> Result<(PictureReading, Vec<f32>), FinishError> {
            let wanted: Vec<bool> = (0..spec.frames).map(|n| n.is_multiple_of(every)).collect();
            let mut stills = Stills::new(width, height);
            let see = |n: u32, luma: &[u8]| {
                if wanted.get(n as usize) == Some(&true) {
                    stills.add(luma);
                }
            };
            let limit = READ_LIMIT.saturating_sub(began.elapsed());
            let heard = film::play(&programs.ffmpeg, clip, expected, &wanted, limit, see);
            let heard = heard.map_err(|error| FinishError::Check(error.to_string()))?;
            Ok((PictureReading::at(&stills, place), heard))
        };
        let few = (spec.frames / FRAMES_READ).max(1);
        let (mut picture, heard) = looked_at(few)?;
        if few > 1 && picture.agreement_with(&self.tiles.pixels) < TILE_AGREEMENT {
            picture = looked_at(1)?.0;
        }
        let sound = match sound {
            None => SoundMark::Silent,
            Some(false) => SoundMark::Quiet,
            Some(true) => {
                SoundMark::Heard(Bands::of(&Loudness::of(&heard), 1.0, false).reading().0)
            }
        };
        self.judge(picture, sound)
    }

    /// What a picture shows that was read by other means.
    ///
    /// # Errors
    /// `Unmarked`.
    pub(super) fn judge(
        &self,
        picture: PictureReading,
        sound: SoundMark,
    ) -> Result<Shown, FinishError> {
        let agreement = picture.agreement_with(&self.tiles.pixels);
        if agreement < TILE_AGREEMENT {
            return Err(FinishError::Unmarked(Some(agreement)));
        }
        let strong = self.strength == Strength::Strong;
        let sound_is_marked = match &sound {
            SoundMark::Heard(values) => {
                let reading = SoundReading(values.clone());
                reading.agreement_with(&self.tiles.sound) >= SOUND_AGREEMENT
            }
            SoundMark::Silent | SoundMark::Quiet => false,
        };
        Ok(Shown { picture, sound, strong, sound_is_marked })
    }
}

/// A farm that reads the marks of a finished clip while its worker goes on.
pub trait FarmReader {
    /// Hands the clip over; what it gives waits for the answer.
    fn hand_over(&self, clip: &FinishedFile) -> Box<dyn FnOnce() -> DraftReading + '_>;

    /// A part of finishing is done, or still within its limit.
    fn went_on(&self);

    /// Whether it still wants the clip.
    fn wants(&self) -> bool;
}

/// A finished file that is being read, on a thread of its own: the gpu thread has other parts of finishing to wait for.
///
/// Dropped before its end, the thread goes on until the reader meets the end of a file that is gone, or its limit.
pub(super) struct ReadingBack(Beside<Result<Shown, FinishError>>);

impl ReadingBack {
    /// Begins to read a clip; the arguments are those of [`ClipMarks::read_back`].
    ///
    /// # Errors
    /// `Disk` if the system gives no thread.
    pub(super) fn begin(
        marks: ClipMarks,
        programs: &Programs,
        clip: &Path,
        spec: &RenderSpec,
        sound: Option<bool>,
    ) -> Result<ReadingBack, FinishError> {
        let (programs, clip, spec) = (programs.clone(), clip.to_owned(), spec.clone());
        let read = move || marks.read_back(&programs, &clip, &spec, sound);
        let thread = Beside::start("marks", read).map_err(|source| FinishError::Disk {
            doing: "starting the thread that reads marks",
            source,
        })?;
        Ok(ReadingBack(thread))
    }

    /// What the file shows.
    ///
    /// # Errors
    /// As [`ClipMarks::read_back`], and `Unwanted`.
    pub(super) fn finish(self, waiting: Waiting<'_>) -> Result<Shown, FinishError> {
        self.0.wait(waiting).unwrap_or_else(|why| {
            Err(match why {
                Nothing::Unwanted => FinishError::Unwanted,
                _ => FinishError::Check("the thread that reads marks died".into()),
            })
        })
    }
}

/// Marks the frames of one clip, one after the other.
pub(super) struct FrameMarks {
    emblem: Emblem,
    picture: PictureMarker,
    seen: u32,
    /// Time that it took so far.
    pub(super) took: Duration,
}

impl FrameMarks {
    /// Marks the next frame (RGB) in place. First what everybody sees, so that it carries the invisible mark too.
    pub(super) fn mark(&mut self, rgb: &mut [u8]) {
        let began = Instant::now();
        self.emblem.draw(self.seen, rgb);
        self.picture.mark(rgb);
        self.seen += 1;
        self.took += began.elapsed();
    }
}

/// The clip's sound on its way to a file.
pub(super) struct SoundFile {
    path: PathBuf,
    thread: Option<JoinHandle<std::io::Result<bool>>>,
    marked: bool,
}

impl SoundFile {
    /// The file, once it is written.
    ///
    /// # Errors
    /// `Disk`.
    pub(super) fn path(&mut self) -> Result<&Path, FinishError> {
        if let Some(thread) = self.thread.take() {
            let died = || Err(std::io::Error::other("its thread died"));
            let written = thread.join().unwrap_or_else(|_| died());
            let disk = |source| FinishError::Disk { doing: "writing the sound", source };
            self.marked = written.map_err(disk)?;
        }
        Ok(&self.path)
    }

    /// Whether it was marked, once it is written.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }
}

/// What a finished clip shows of its marks.
#[derive(Debug)]
pub(super) struct Shown {
    picture: PictureReading,
    sound: SoundMark,
    strong: bool,
    sound_is_marked: bool,
}

impl Shown {
    /// Whether the sound shows its mark so well that whoever has the key reads it.
    pub(super) fn sound_is_marked(&self) -> bool {
        self.sound_is_marked
    }

    /// The record about this clip, as bytes.
    ///
    /// # Errors
    /// `Check` if it cannot be encoded.
    pub(super) fn record(self, clip: ArtifactId) -> Result<FinishedFile, FinishError> {
        let Shown { picture, sound, strong, .. } = self;
        let record = MarkRecord { clip, picture: picture.0, sound, strong };
        let bytes = codec::encode(&record).map_err(|e| FinishError::Check(e.to_string()))?;
        let artifact = ArtifactId::of(&bytes);
        Ok(FinishedFile { artifact, payload: Payload::Memory(bytes.into()) })
    }
}
