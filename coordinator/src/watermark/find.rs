//! Looks for the farm's mark in files of strangers, and whether one that carries it shows what its clip shows.
//!
//! A mark can be copied onto another film, so it is a pointer and no proof. Files are decoded by children within limits;
//! the search is arithmetic on what they say, on blocking threads. Called by the door; knows no job.

use super::MarkDesk;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zoetrope_mark::agree::{self, Glimpses};
use zoetrope_mark::film::{self, FilmError};
use zoetrope_mark::reading::Place;
use zoetrope_mark::search::{Depth, Found, search};
use zoetrope_mark::{MarkId, sound};
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::clip::Size;

/// Decoding 15 s of 4K takes some ten seconds on a slow core.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The share of pictures that must be in a clip for a film to count as made of it.
const AGREES: f32 = 0.5;

/// A mark that was found in a file.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it carries.
    pub mark: u32,
    /// In which track: `picture` or `sound`.
    pub track: &'static str,
    picture: Option<(Glimpses, Found)>,
}

/// Looks for marks.
pub struct Finder {
    desk: Arc<MarkDesk>,
    ffmpeg: PathBuf,
}

impl Finder {
    /// A finder with the farm's keys.
    pub fn new(desk: Arc<MarkDesk>, ffmpeg: PathBuf) -> Finder {
        Finder { desk, ffmpeg }
    }

    /// Looks for a mark in a file of this media type; none where it has no picture and no sound that can be read.
    ///
    /// # Errors
    /// `Program` if there is no ffmpeg, `Limit` if the file is too much for it.
    pub async fn look(&self, file: &Path, format: &str) -> Result<Option<Seen>, FilmError> {
        let (desk, ffmpeg, file) = (self.desk.clone(), self.ffmpeg.clone(), file.to_owned());
        let pictures = format.starts_with("video/");
        let sounds = pictures || format.starts_with("audio/");
        let look = move || {
            let found = if pictures { in_picture(&desk, &ffmpeg, &file) } else { Ok(None) };
            match found {
                Ok(None) if sounds => in_sound(&desk, &ffmpeg, &file),
                found => found,
            }
        };
        let looked = tokio::task::spawn_blocking(look).await;
        match looked.unwrap_or(Err(FilmError::Limit("the search ended early"))) {
            Err(FilmError::Unreadable(_)) => Ok(None),
            found => found,
        }
    }

    /// How sure it is that the file was made of this clip, 0 to 1: the share of its pictures that are in the clip. None
    /// if they cannot be compared.
    pub async fn agreement(&self, seen: Seen, clip: &Path, spec: &RenderSpec) -> Option<f32> {
        let (ffmpeg, clip) = (self.ffmpeg.clone(), clip.to_owned());
        let size = |size: Size| (size.width as usize, size.height as usize);
        let (canvas, deliver) = (size(spec.canvas), size(spec.deliver));
        let compare = move || {
            let (glimpses, found) = seen.picture?;
            let own = film::glimpses(&ffmpeg, &clip, deliver, READ_LIMIT);
            let own = own.inspect_err(|error| tracing::error!(%error, "a clip of ours")).ok()?;
            agree::agreement(&own, Place::delivered(canvas, deliver).chip, &glimpses, &found)
        };
        tokio::task::spawn_blocking(compare).await.ok()?
    }

    /// Whether so much agreement says that it was.
    pub fn agrees(agreement: f32) -> bool {
        agreement >= AGREES
    }
}

fn in_picture(desk: &MarkDesk, ffmpeg: &Path, file: &Path) -> Result<Option<Seen>, FilmError> {
    let stills = film::stills(ffmpeg, file, READ_LIMIT)?;
    let Some(found) = search(&stills, &desk.keys(), Depth::Anywhere).found else {
        return Ok(None);
    };
    let glimpses = film::glimpses(ffmpeg, file, stills.size(), READ_LIMIT)?;
    let MarkId(mark) = found.mark;
    Ok(Some(Seen { mark, track: "picture", picture: Some((glimpses, found)) }))
}

fn in_sound(desk: &MarkDesk, ffmpeg: &Path, file: &Path) -> Result<Option<Seen>, FilmError> {
    let heard = film::sound(ffmpeg, file, READ_LIMIT)?;
    let found = sound::search(&heard, &desk.keys(), false).found;
    Ok(found.map(|found| Seen { mark: found.mark.0, track: "sound", picture: None }))
}
