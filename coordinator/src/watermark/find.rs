//! Looks for the farm's mark in files of strangers, and whether one that carries it shows what its clip shows.
//!
//! A mark can be copied onto another film, so it is a pointer and no proof. Files are decoded by children within limits;
//! the search is arithmetic on what they say, on blocking threads. Called by the door; knows no job.

use super::MarkDesk;
use super::issued::IssuedMarks;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zoetrope_mark::agree::{self, Glimpses};
use zoetrope_mark::film::{self, FilmError};
use zoetrope_mark::reading::Place;
use zoetrope_mark::search::{Depth, Found, search};
use zoetrope_mark::{MarkId, MarkKey, sound};
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::clip::{FPS, Size};

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
    /// What the file shows; none where it has no picture.
    shown: Option<Glimpses>,
    /// Where the mark is in the picture, if it is there.
    place: Option<Found>,
}

/// Looks for marks.
pub struct Finder {
    desk: Arc<MarkDesk>,
    issued: Arc<IssuedMarks>,
    ffmpeg: PathBuf,
}

impl Finder {
    /// A finder with the farm's keys.
    pub fn new(desk: Arc<MarkDesk>, ffmpeg: PathBuf) -> Finder {
        Finder { desk, issued: Arc::default(), ffmpeg }
    }

    /// Looks for a mark in a file of this media type; none where it has no picture and no sound that can be read. `next`: the
    /// first serial that was not issued.
    ///
    /// # Errors
    /// `Program` if there is no ffmpeg, `Limit` if the file is too much for it.
    pub async fn look(
        &self,
        file: &Path,
        format: &str,
        next: u32,
    ) -> Result<Option<Seen>, FilmError> {
        let (desk, issued) = (self.desk.clone(), self.issued.clone());
        let (ffmpeg, file) = (self.ffmpeg.clone(), file.to_owned());
        // What calls itself sound alone may have a picture all the same.
        let pictures = format.starts_with("video/") || format == "audio/mp4";
        let sounds = pictures || format.starts_with("audio/");
        let look = move || {
            let keys: Vec<MarkKey> =
                desk.keys().into_iter().map(|key| issued.known_to(key, next)).collect();
            let found = if pictures { in_picture(&keys, &ffmpeg, &file) } else { Ok(None) };
            match found {
                // Without a picture, too, it may have sound.
                Ok(None) | Err(FilmError::Unreadable(_)) if sounds => {
                    in_sound(&keys, &ffmpeg, &file, pictures)
                }
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
    /// if it has no pictures that could be compared.
    ///
    /// # Errors
    /// If our own clip cannot be read.
    pub async fn agreement(
        &self,
        seen: Seen,
        clip: &Path,
        spec: &RenderSpec,
    ) -> Result<Option<f32>, FilmError> {
        let (ffmpeg, clip) = (self.ffmpeg.clone(), clip.to_owned());
        let size = |size: Size| (size.width as usize, size.height as usize);
        let (canvas, deliver) = (size(spec.canvas), size(spec.deliver));
        // All of it: a stranger's cut may be from anywhere.
        let seconds = spec.frames / FPS + 1;
        let limit = READ_LIMIT * seconds.div_ceil(film::SECONDS_MAX);
        let compare = move || {
            let Some(shown) = seen.shown else { return Ok(None) };
            let own = film::glimpses(&ffmpeg, &clip, deliver, agree::OWN_A_SECOND, seconds, limit)?;
            Ok(match seen.place {
                Some(place) => {
                    agree::agreement(&own, Place::delivered(canvas, deliver).chip, &shown, &place)
                }
                None => agree::agreement_unplaced(&own, &shown),
            })
        };
        let compared = tokio::task::spawn_blocking(compare).await;
        compared.unwrap_or(Err(FilmError::Limit("the comparison ended early")))
    }

    /// Whether this mark was given to a clip of the farm, which may be gone by now. `next`: the first serial that was not
    /// issued.
    pub fn is_issued(&self, mark: u32, next: u32) -> bool {
        self.desk.keys().iter().any(|key| key.serial_of(MarkId(mark)) < next)
    }

    /// Whether so much agreement says that it was.
    pub fn agrees(agreement: f32) -> bool {
        agreement >= AGREES
    }
}

fn in_picture(keys: &[MarkKey], ffmpeg: &Path, file: &Path) -> Result<Option<Seen>, FilmError> {
    let stills = film::stills(ffmpeg, file, READ_LIMIT)?;
    let Some(found) = search(&stills, keys, Depth::Anywhere).found else {
        return Ok(None);
    };
    let shown = Some(glimpses(ffmpeg, file, stills.size())?);
    Ok(Some(Seen { mark: found.mark.0, track: "picture", shown, place: Some(found) }))
}

/// What a stranger's file shows.
fn glimpses(ffmpeg: &Path, file: &Path, size: (usize, usize)) -> Result<Glimpses, FilmError> {
    film::glimpses(ffmpeg, file, size, agree::SEEN_A_SECOND, film::SECONDS_MAX, READ_LIMIT)
}

/// `pictures`: it may have some, which must then be compared.
fn in_sound(
    keys: &[MarkKey],
    ffmpeg: &Path,
    file: &Path,
    pictures: bool,
) -> Result<Option<Seen>, FilmError> {
    let heard = film::sound(ffmpeg, file, READ_LIMIT)?;
    let Some(found) = sound::search(&heard, keys, false).found else { return Ok(None) };
    let seen = Seen { mark: found.mark.0, track: "sound", shown: None, place: None };
    if !pictures || !film::has_picture(ffmpeg, file, READ_LIMIT)? {
        return Ok(Some(seen));
    }
    let size = film::stills(ffmpeg, file, READ_LIMIT).map(|stills| stills.size());
    match size.and_then(|size| glimpses(ffmpeg, file, size)) {
        Ok(shown) => Ok(Some(Seen { shown: Some(shown), ..seen })),
        Err(FilmError::Unreadable(_)) => {
            tracing::warn!(
                "a file carries a mark in its sound and hides its picture: a forgery, perhaps"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{Documents, Folder};
    use crate::watermark::KEY;
    use crate::watermark::settings::Looks;
    use std::process::Command;
    use zoetrope_protocol::id::TenantId;
    use zoetrope_protocol::mark::{SOUND_CHIPS, unpack};

    /// Runs ffmpeg in a folder.
    fn ffmpeg(folder: &Path, words: &str) {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.current_dir(folder).args(["-v", "error", "-nostdin", "-y"]);
        assert!(ffmpeg.args(words.split(' ')).status().expect("ffmpeg starts").success());
    }

    fn spec() -> RenderSpec {
        let side = Size { width: 96, height: 96 };
        RenderSpec {
            model: "toybox".to_owned(),
            prompt: "a cube".to_owned(),
            canvas: side,
            deliver: side,
            frames: 14 * FPS,
            seed: 7,
            steps: 4,
            audio: true,
        }
    }

    /// Promise: sound that carries a mark of ours makes a file ours with its clip's picture or without any, and not
    /// with another picture, whatever the file calls itself.
    #[tokio::test]
    async fn marked_sound_counts_without_a_picture_or_with_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        // The same key each time: with one at random, some chips fall badly in this noise, and one run of 60 found
        // nothing in 8 s.
        let documents = Folder(folder.to_owned());
        documents.write(KEY, "5".repeat(64).as_bytes()).expect("writes");
        let desk = MarkDesk::open(&documents, 0, Looks::default(), None);
        let desk = desk.expect("opens");
        let (issued, order) = desk.tiles(5, None, TenantId(1));
        let tile = unpack(&order.sound, SOUND_CHIPS).expect("a tile");
        // Noise from a generator of the simplest kind.
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32 * 0.4 - 0.2
        };
        let mut samples: Vec<f32> = (0..14 * sound::READ_RATE).flat_map(|_| [noise(); 2]).collect();
        sound::mark(&tile, &mut samples, sound::READ_RATE);
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        std::fs::write(folder.join("sound.f32"), bytes).expect("writes");
        let heard = format!("-f f32le -ar {} -ac 2 -i sound.f32", sound::READ_RATE);
        let coded = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a alac -t 14";
        let own = "-f lavfi -i testsrc2=size=96x96:rate=4";
        let foreign = "-f lavfi -i mandelbrot=size=96x96:rate=4";
        ffmpeg(folder, &format!("{own} {heard} {coded} own.mp4"));
        ffmpeg(folder, &format!("{foreign} {heard} {coded} foreign.mp4"));
        ffmpeg(folder, "-i own.mp4 -vn -c copy -f mp4 sound.mp4");
        let finder = Finder::new(Arc::new(desk), "ffmpeg".into());
        for (file, format, agrees) in [
            ("own.mp4", "video/mp4", Some(true)),
            ("foreign.mp4", "video/mp4", Some(false)),
            // It calls itself sound alone.
            ("foreign.mp4", "audio/mp4", Some(false)),
            ("sound.mp4", "video/mp4", None),
            ("sound.mp4", "audio/mp4", None),
        ] {
            let seen = finder.look(&folder.join(file), format, 6).await.expect("reads");
            let seen = seen.unwrap_or_else(|| panic!("{file}: the mark is not found"));
            assert_eq!((seen.mark, seen.track), (issued.mark, "sound"), "{file}");
            let share = finder.agreement(seen, &folder.join("own.mp4"), &spec()).await;
            let share = share.expect("our own clip can be read");
            assert_eq!(share.map(Finder::agrees), agrees, "{file}: {share:?}");
        }
        ffmpeg(folder, &format!("{own} -t 2 unmarked.mp4"));
        let seen = finder.look(&folder.join("unmarked.mp4"), "video/mp4", 6).await;
        assert!(seen.expect("reads").is_none());
    }
}
