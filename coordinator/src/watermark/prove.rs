//! Reads in a finished clip whether it carries the mark that was issued for it. Nobody is believed: a worker has the tile
//! and could report a mark that it did not embed.
//!
//! All is known but the mark, so little has to be looked at: one frame of every half second, which nobody can foretell, and
//! the sound. Files are decoded by children within limits. Called by the gate; knows no job.

use super::shown::{self, Kept, Small};
use super::{MarkDesk, lengths};
use crate::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_mark::film::{self, Expected, FilmError};
use zoetrope_mark::reading::Place;
use zoetrope_mark::sound::{self, Bands, LOUD_SECONDS_MIN, Loudness, READ_RATE};
use zoetrope_mark::stretch::{Carried, Look, SHOWS};
use zoetrope_mark::{MarkId, SoundReading};
use zoetrope_protocol::clip::{FPS, Size};
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::mark::{Issued, MarkRecord, SoundMark};
use zoetrope_protocol::{RenderSpec, metric};

/// A clip is decoded within this time and one for its pixels: what takes a tenth of it on an idle machine.
const READ_LIMIT: Duration = Duration::from_secs(20);
/// Pixels that a slow, busy core decodes in a millisecond.
const PIXELS_A_MS: u64 = 40_000;

/// Why a clip is not proven to be marked.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It does not show its mark, or is no clip as it was ordered.
    #[error("{0}")]
    Unmarked(String),
    /// It could not be read, which is not its fault.
    #[error(transparent)]
    Fault(FilmError),
}

impl From<FilmError> for Unproven {
    fn from(error: FilmError) -> Unproven {
        match error {
            FilmError::Unreadable(why) => Unproven::Unmarked(why),
            FilmError::Limit(why) => Unproven::Unmarked(why.to_owned()),
            FilmError::Program { .. } | FilmError::Late => Unproven::Fault(error),
        }
    }
}

/// What a clip showed that carries its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Whether the sound shows it too.
    pub in_sound: bool,
}

/// Who reads finished clips.
pub struct Prover {
    desk: Arc<MarkDesk>,
    ffmpeg: PathBuf,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
}

impl Prover {
    /// One with the farm's keys. It reads as many clips at a time as there are processors; more wait.
    pub fn new(desk: Arc<MarkDesk>, ffmpeg: PathBuf, metrics: Arc<Metrics>) -> Prover {
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
        Prover { desk, ffmpeg, metrics, permits: Arc::new(Semaphore::new(at_a_time)) }
    }

    /// How long it may take to read a clip of this kind.
    pub fn limit(render: &RenderSpec) -> Duration {
        // Twice: a clip in doubt is decoded again.
        2 * limit_once(render)
    }

    /// Plays a file, which must be a clip as it was ordered, with this mark.
    ///
    /// # Errors
    /// `Unmarked`, `Fault`.
    pub async fn watch(
        &self,
        file: PathBuf,
        issued: Issued,
        render: RenderSpec,
    ) -> Result<Watched, Unproven> {
        // Held to the end of the reading, also if nobody waits for it any more.
        let permit = self.permits.clone().acquire_owned().await;
        let (desk, ffmpeg) = (self.desk.clone(), self.ffmpeg.clone());
        let counts = self.metrics.clone();
        let began = Instant::now();
        let read = move || {
            let _permit = permit;
            let (desk, ffmpeg, file, metrics) = (&*desk, &*ffmpeg, &*file, &*counts);
            Clip { desk, ffmpeg, file, issued, render: &render, metrics }.prove()
        };
        let read = tokio::task::spawn_blocking(read).await;
        let (doubted, result) = read.unwrap_or((false, Err(Unproven::Fault(FilmError::Late))));
        let outcome = match &result {
            Ok(_) if doubted => "read_twice",
            Ok(_) => "read",
            Err(Unproven::Unmarked(_)) => "unread",
            Err(Unproven::Fault(_)) => "error",
        };
        self.metrics.observe(&metric::MARK_READING, &[outcome], began.elapsed());
        result
    }
}

/// A clip that was played and carries its mark.
#[derive(Debug)]
pub struct Watched {
    /// What it showed.
    pub proven: Proven,
    /// Those of its frames that its thumbnail and spritesheet must show.
    kept: Kept,
}

impl Watched {
    /// Whether these pictures show the same clip, which was ordered so. Decodes them: some milliseconds.
    ///
    /// # Errors
    /// `Unmarked`.
    pub fn shows_the_same(&self, render: &RenderSpec, small: &Small) -> Result<(), Unproven> {
        shown::check(&self.kept, render, small).map_err(Unproven::Unmarked)
    }
}

fn limit_once(render: &RenderSpec) -> Duration {
    let pixels = render.deliver.area() * u64::from(render.frames);
    READ_LIMIT + Duration::from_millis(pixels / PIXELS_A_MS)
}

/// A clip that is read.
struct Clip<'a> {
    desk: &'a MarkDesk,
    ffmpeg: &'a Path,
    file: &'a Path,
    issued: Issued,
    render: &'a RenderSpec,
    metrics: &'a Metrics,
}

impl Clip<'_> {
    /// Whether it was in doubt, and what came of it.
    fn prove(&self) -> (bool, Result<Watched, Unproven>) {
        if let Err(error) = lengths::check(self.file, self.render) {
            return (false, Err(error));
        }
        let key = self.desk.master.epoch(self.issued.epoch);
        let size = |size: Size| (size.width as usize, size.height as usize);
        let RenderSpec { canvas, deliver, frames, .. } = *self.render;
        let place = Place::delivered(size(canvas), size(deliver));
        let mark = MarkId(self.issued.mark);
        let carried = Carried { key: &key, mark, place, size: size(deliver), frames };
        let draw = |below: u32| (rand::random::<u64>() % u64::from(below)) as u32;
        let look = shown::keeping(Look::at_one_of_each(carried, draw), frames);
        let first = self.watch(look);
        let (mut look, heard) = match first {
            Ok(first) => first,
            Err(error) => return (false, Err(error.into())),
        };
        let doubtful = look.in_doubt();
        let second = match doubtful.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let second = self.watch(Look::at_all_of(carried, &doubtful));
                second.map(|(look, _)| look.without())
            }
        };
        let judged =
            second.map_err(Unproven::from).and_then(|without| self.judge(&look, &heard, &without));
        let watched = judged.map(|proven| Watched { proven, kept: look.take_kept() });
        (!doubtful.is_empty(), watched)
    }

    fn watch<'l>(&self, look: Look<'l>) -> Result<(Look<'l>, Vec<f32>), FilmError> {
        let RenderSpec { deliver, frames, audio, .. } = *self.render;
        let size = (deliver.width as usize, deliver.height as usize);
        let expected = Expected { size, frames, rate: FPS, sound: audio };
        film::watch(self.ffmpeg, self.file, expected, limit_once(self.render), look)
    }

    /// The rules are those of a worker's record, and each half second must show the mark. `without`: those that do not.
    fn judge(&self, look: &Look<'_>, heard: &[f32], without: &[u32]) -> Result<Proven, Unproven> {
        lengths::heard(heard.len(), self.render)?;
        let reading = || Bands::of(&Loudness::of(heard), 1.0, false).reading();
        let loud = sound::loud_seconds(heard, 1, READ_RATE) >= LOUD_SECONDS_MIN;
        let reading = self.render.audio.then(reading);
        let shows = |reading: &SoundReading| {
            let key = self.desk.master.epoch(self.issued.epoch);
            reading.agreement_of(&key, MarkId(self.issued.mark)) >= SHOWS
        };
        let in_sound = reading.as_ref().is_some_and(shows);
        let sound = match reading {
            None => SoundMark::Silent,
            Some(_) if !loud => SoundMark::Quiet,
            Some(SoundReading(values)) => SoundMark::Heard(values),
        };
        // Which file it is, the gate knows; the record names none.
        let clip = ArtifactId([0; 32]);
        let record = MarkRecord { clip, picture: look.reading().0, sound, strong: false };
        let judged = self.desk.judge(&record, clip, self.issued, self.render.audio);
        let picture = if without.is_empty() { judged.picture } else { "unread" };
        self.metrics.count(&metric::MARKS, &["picture", picture]);
        self.metrics.count(&metric::MARKS, &["sound", judged.sound]);
        if let Some(stretch) = without.first() {
            return Err(Unproven::Unmarked(format!(
                "{} of {} half seconds do not show the mark, the first from {:.1} s",
                without.len(),
                look.stretches(),
                f64::from(*stretch) / 2.0,
            )));
        }
        match judged.proof {
            Some(_) => Ok(Proven { in_sound }),
            None => Err(Unproven::Unmarked(format!(
                "its picture is {}, its sound {}",
                judged.picture, judged.sound
            ))),
        }
    }
}
