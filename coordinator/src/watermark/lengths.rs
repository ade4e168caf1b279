//! Whether picture and sound of a clip last as long as was ordered, by the file's own tables and by what was played.
//!
//! A worker's word says nothing of it, and playing alone does not either: a reader of marks stops soon behind the last
//! frame, so that an hour of sound could follow. The tables say how much there is in all, and what is played whether they
//! lie. Pure, but that the tables are read. Called by `prove.rs`.

use super::prove::Unproven;
use crate::dispatch::publish::AV_GAP_MAX_MICROS;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;
use zoetrope_mark::film::FilmError;
use zoetrope_mark::sound::READ_RATE;
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::clip::FPS;
use zoetrope_provenance::boxes::{self, number, parts};

/// An encoder of AAC warms up for a frame, which no player shows, and its last frame is whole.
const WHOLE_OVER_MICROS: u64 = 2 * (AV_GAP_MAX_MICROS as u64 + 1);
/// An edit is counted in milliseconds, rounded either way.
const ROUNDING_MICROS: u64 = 1_000;
/// Two samples as marks are read: the sound is brought to that rate.
const RESAMPLED_MICROS: u64 = 2 * 1_000_000 / READ_RATE as u64;

/// What the tables say of a track.
#[derive(Debug, PartialEq, Eq)]
struct Track {
    /// `vide`, `soun`, or something else.
    kind: [u8; 4],
    /// How many samples there are: frames of a picture.
    samples: u64,
    /// How long all of them last.
    whole_micros: u64,
    /// How much a player leaves out in front.
    skipped_micros: u64,
    /// How long a player is to play it, where that is said.
    edited_micros: Option<u64>,
}

/// Holds the tables of a file against what was ordered.
///
/// # Errors
/// `Unmarked` if it is built otherwise than ours are, or is longer or shorter; `Fault` if it cannot be read.
pub(super) fn check(path: &Path, render: &RenderSpec) -> Result<(), Unproven> {
    let tables = || -> std::io::Result<Option<Vec<u8>>> {
        let mut file = BufReader::new(File::open(path)?);
        let tops = boxes::tops(&mut file)?;
        tops.map_or(Ok(None), |tops| boxes::tables(&mut file, &tops))
    };
    let disk = |source| FilmError::Program { program: path.display().to_string(), source };
    let tables = tables().map_err(|error| Unproven::Fault(disk(error)))?;
    let tracks = tables.as_deref().and_then(tracks);
    let tracks =
        tracks.ok_or_else(|| Unproven::Unmarked("its tables cannot be read".to_owned()))?;
    judge(&tracks, render).map_err(|why| Unproven::Unmarked(why.to_owned()))
}

fn ordered_micros(render: &RenderSpec) -> u64 {
    u64::from(render.frames) * 1_000_000 / u64::from(FPS)
}

fn judge(tracks: &[Track], render: &RenderSpec) -> Result<(), &'static str> {
    let of = |kind: &[u8; 4]| tracks.iter().filter(|track| track.kind == *kind).collect::<Vec<_>>();
    let (pictures, sounds) = (of(b"vide"), of(b"soun"));
    if (pictures.len(), sounds.len()) != (1, usize::from(render.audio))
        || tracks.len() != pictures.len() + sounds.len()
    {
        return Err("it has a track more or less than it should have");
    }
    let exact = ordered_micros(render);
    let gap = u64::from(AV_GAP_MAX_MICROS);
    let edited = |track: &Track| {
        let edited = track.edited_micros;
        edited.is_none_or(|edited| edited.abs_diff(exact) <= gap + ROUNDING_MICROS)
    };
    for picture in pictures {
        if picture.samples != u64::from(render.frames) || picture.whole_micros.abs_diff(exact) > 1 {
            return Err("its tables have more or fewer frames than it should have");
        }
        if !edited(picture) {
            return Err("its picture is shown longer or shorter than it should be");
        }
    }
    for sound in sounds {
        let played = sound.whole_micros.saturating_sub(sound.skipped_micros);
        let whole = sound.whole_micros > exact + WHOLE_OVER_MICROS;
        if whole || played.abs_diff(exact) > gap || !edited(sound) {
            return Err("its sound is longer or shorter than its picture");
        }
    }
    Ok(())
}

/// Holds what was heard, [`READ_RATE`] samples a second, against what was ordered.
///
/// # Errors
/// `Unmarked` if it is longer or shorter.
pub(super) fn heard(samples: usize, render: &RenderSpec) -> Result<(), Unproven> {
    let micros = samples as u64 * 1_000_000 / u64::from(READ_RATE);
    let apart = micros.abs_diff(if render.audio { ordered_micros(render) } else { 0 });
    if apart > u64::from(AV_GAP_MAX_MICROS) + RESAMPLED_MICROS {
        let why = format!("what is heard of its sound differs from its picture by {apart} µs");
        return Err(Unproven::Unmarked(why));
    }
    Ok(())
}

/// The tracks of a film; none if its tables are broken.
fn tracks(tables: &[u8]) -> Option<Vec<Track>> {
    let all = parts(tables, 8..tables.len())?;
    let head = only(tables, 8..tables.len(), &[b"mvhd"])?;
    let a_second = clock(tables, head)?;
    let tracks = all.into_iter().filter(|(kind, _)| kind == b"trak");
    tracks.map(|(_, content)| track(tables, content, a_second)).collect()
}

fn track(tables: &[u8], within: Range<usize>, film_a_second: u64) -> Option<Track> {
    let media = only(tables, within.clone(), &[b"mdia"])?;
    let handler = only(tables, media.clone(), &[b"hdlr"])?;
    let kind = tables.get(handler)?.get(8..12)?.try_into().ok()?;
    let a_second = clock(tables, only(tables, media.clone(), &[b"mdhd"])?)?;
    let samples = only(tables, media, &[b"minf", b"stbl"])?;
    let sizes = tables.get(only(tables, samples.clone(), &[b"stsz"])?)?;
    let times = rows(tables.get(only(tables, samples, &[b"stts"])?)?, 8)?;
    let (mut timed, mut whole) = (0u64, 0u64);
    for row in times {
        let (count, each) = (number(&row[..4]), number(&row[4..]));
        timed = timed.checked_add(count)?;
        whole = whole.checked_add(count.checked_mul(each)?)?;
    }
    // Samples without a time would last as long as the last that has one.
    let samples = number(sizes.get(8..12)?);
    if samples != timed {
        return None;
    }
    let micros = |ticks: u64, a_second: u64| ticks.checked_mul(1_000_000)?.checked_div(a_second);
    let (skipped, edited) = edit(tables, within)?;
    Some(Track {
        kind,
        samples,
        whole_micros: micros(whole, a_second)?,
        skipped_micros: micros(skipped, a_second)?,
        edited_micros: match edited {
            Some(edited) => Some(micros(edited, film_a_second)?),
            None => None,
        },
    })
}

/// What a player leaves out in front, in ticks of the track, and how long it plays, in ticks of the film, where that is said.
/// A track of ours has one edit at most, which begins at once and goes at the usual pace; none if it has others.
fn edit(tables: &[u8], within: Range<usize>) -> Option<(u64, Option<u64>)> {
    let mut lists = parts(tables, within.clone())?.into_iter().filter(|(kind, _)| kind == b"edts");
    if lists.next().is_none() {
        return Some((0, None));
    }
    let list = tables.get(only(tables, within, &[b"edts", b"elst"])?)?;
    let (width, long) = if list.first() == Some(&1) { (20, 8) } else { (12, 4) };
    let mut rows = rows(list, width)?;
    let (row, None) = (rows.next()?, rows.next()) else { return None };
    let (from, pace) = (number(&row[long..2 * long]), &row[2 * long..]);
    // A negative beginning is an empty edit, which is played later.
    let late = from >> (8 * long - 1) != 0;
    (!late && pace == [0, 1, 0, 0]).then(|| (from, Some(number(&row[..long]))))
}

/// The rows of a table, of so many bytes each, which fill it.
fn rows(table: &[u8], width: usize) -> Option<impl Iterator<Item = &[u8]>> {
    let (count, rows) = (number(table.get(4..8)?), table.get(8..)?);
    (rows.len() as u64 == count * width as u64).then(|| rows.chunks_exact(width))
}

/// Ticks of a second, by the head of a film or of a track.
fn clock(tables: &[u8], head: Range<usize>) -> Option<u64> {
    let head = tables.get(head)?;
    let at = if head.first()? == &1 { 20 } else { 12 };
    Some(number(head.get(at..at + 4)?)).filter(|ticks| *ticks > 0)
}

/// The content of the only box at the end of this way; none if there is none, or another one.
fn only(tables: &[u8], within: Range<usize>, way: &[&[u8; 4]]) -> Option<Range<usize>> {
    way.iter().try_fold(within, |within, kind| {
        let mut found = parts(tables, within)?.into_iter().filter(|(of, _)| of == *kind);
        let (Some((_, content)), None) = (found.next(), found.next()) else { return None };
        Some(content)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::submission;
    use std::process::Command;

    fn render(frames: u32) -> RenderSpec {
        RenderSpec { frames, ..submission(1).spec.render }
    }

    /// A film of so many frames as our encoder makes it, with so many seconds of sound; its bytes.
    fn film(folder: &Path, frames: u32, seconds: f64) -> Vec<u8> {
        let path = folder.join("film.mp4");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
        ffmpeg.args(["-f", "lavfi", "-i", "testsrc=size=64x64:rate=24"]);
        ffmpeg.args(["-f", "lavfi", "-i", &format!("sine=sample_rate=48000:duration={seconds}")]);
        ffmpeg.args(["-map", "0:v", "-map", "1:a", "-vf", &format!("trim=end_frame={frames}")]);
        ffmpeg.args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]);
        ffmpeg.args(["-c:a", "aac", "-movflags", "+faststart"]).arg(&path);
        assert!(ffmpeg.status().expect("ffmpeg starts").success());
        std::fs::read(path).expect("reads")
    }

    fn said(folder: &Path, film: &[u8], render: &RenderSpec) -> Result<(), String> {
        let path = folder.join("said.mp4");
        std::fs::write(&path, film).expect("writes");
        check(&path, render).map_err(|error| error.to_string())
    }

    /// The film with something changed in the last box of this kind, which is the sound's.
    fn bent(film: &[u8], kind: &[u8; 4], at: usize, value: &[u8]) -> Vec<u8> {
        let mut bent = film.to_vec();
        let found = film.windows(4).rposition(|word| word == kind).expect("is there");
        bent[found + 4 + at..][..value.len()].copy_from_slice(value);
        bent
    }

    /// Promise: sound that goes on behind the picture is found, however its tables hide it.
    #[test]
    fn a_film_whose_sound_is_longer_or_shorter_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (said, film) = (
            |film: &[u8], render: &RenderSpec| said(folder.path(), film, render),
            |frames, seconds| film(folder.path(), frames, seconds),
        );
        // Lengths at which the last audio frame is more or less full.
        for frames in [1, 5, 22, 39, 96, 243] {
            let right = film(frames, f64::from(frames) / 24.0);
            assert_eq!(said(&right, &render(frames)), Ok(()), "{frames}");
        }
        let sound = Err("its sound is longer or shorter than its picture".to_owned());
        let right = film(96, 4.0);
        let long = film(96, 60.0);
        for (n, wrong) in [
            &film(96, 4.03),
            &film(96, 3.97),
            &long,
            // Cut by its edit alone, which not every player heeds.
            &bent(&long, b"elst", 8, &4_000u32.to_be_bytes()),
            &bent(&right, b"elst", 8, &5_000u32.to_be_bytes()),
            // All but the end is left out.
            &bent(&long, b"elst", 12, &(56 * 48_000u32).to_be_bytes()),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(said(wrong, &render(96)), sound, "{n}");
        }
        let broken = Err("its tables cannot be read".to_owned());
        for (n, wrong) in [
            // More samples than have a time; an empty edit; an edit in slow motion; no ticks.
            &bent(&right, b"stsz", 8, &500u32.to_be_bytes()),
            &bent(&right, b"elst", 12, &[0xff; 4]),
            &bent(&right, b"elst", 16, &[0, 0]),
            &bent(&right, b"mdhd", 12, &[0; 4]),
            &right[..right.len() - 1].to_vec(),
            &b"no film".to_vec(),
            &Vec::new(),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(said(wrong, &render(96)), broken, "{n}");
        }
        let frames = Err("its tables have more or fewer frames than it should have".to_owned());
        assert_eq!(said(&right, &render(95)), frames);
        let silent = RenderSpec { audio: false, ..render(96) };
        said(&right, &silent).expect_err("has a sound");
    }

    /// Promise: tables that lie about the sound do not help, for it is played.
    #[test]
    fn what_is_heard_is_as_long_as_the_picture() {
        let samples = |micros: u64| (micros * u64::from(READ_RATE) / 1_000_000) as usize;
        for good in [4_000_000, 4_021_333, 3_978_700] {
            heard(samples(good), &render(96)).expect("is as long");
        }
        for bad in [0, 3_970_000, 4_030_000, 5_000_000] {
            heard(samples(bad), &render(96)).expect_err("is not");
        }
        let silent = RenderSpec { audio: false, ..render(96) };
        heard(0, &silent).expect("has no sound");
    }
}
