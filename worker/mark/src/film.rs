//! Reads films by an ffmpeg child: what stands still in the picture, and the sound. Blocks; every child has a
//! limit in time and in what it may say. The file may come from anyone.

use crate::agree::{self, Glimpses, Grey};
use crate::colour::Tints;
use crate::reading::Stills;
use crate::sound::READ_RATE;
use crate::stretch::Look;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Seconds of a stranger's film that are read: marks repeat, and more hardly helps.
pub const SECONDS_MAX: u32 = 15;
/// The oldest ffmpeg that knows how films are read and clips are encoded: it brought `-fps_mode`.
pub const FFMPEG_LEAST: &str = "5.1";
/// Pixels of a frame at most: 4K, where a frame takes 8 MB.
const PIXELS_MAX: usize = 4_096 * 2_304;
/// A picture narrower than this holds no mark.
const SIDE_MIN: usize = 64;
/// Pixels that are looked at in all: 240 frames of 288×512, or 38 of 1280×720.
const PIXELS_LOOKED_AT: usize = 36_000_000;
/// Frames that are looked at, at least, if the film has them: 12 were enough at CRF 23.
const FRAMES_MIN: usize = 16;

/// Address space of a child in KiB: 2 GiB, of which decoding 4K takes a quarter. A file that is made to break a decoder
/// breaks its child alone.
const MEMORY_KIB: u32 = 2 << 20;

/// What the shell exits with if it cannot start a program.
const NOT_STARTED: i32 = 127;
/// What it exits with, by its command below, if it cannot limit the memory.
const NO_LIMIT: i32 = 125;
/// The signal that ends a program without its consent.
const KILLED: i32 = 9;

/// Why a film could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// ffmpeg cannot be started.
    #[error("cannot start {program}")]
    Program {
        /// Which program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no film, has no such track, or is damaged.
    #[error("not a film that can be read: {0}")]
    Unreadable(String),
    /// It is too large.
    #[error("{0}")]
    Limit(&'static str),
    /// Reading it took too long, or the system ended the reader: that says nothing of the film.
    #[error("reading the film took too long, or was ended")]
    Late,
}

/// A child that is killed when its time is over or nobody wants it any more.
struct Reader {
    program: String,
    child: Child,
    /// Its number, as long as it is its own: another process may have it once its end was taken note of.
    number: Arc<Mutex<Option<Pid>>>,
    late: Arc<AtomicBool>,
    _done: mpsc::Sender<()>,
}

fn lock(number: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    // Nothing panics while it is held.
    number.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// Starts it; `program` is what it is called in errors.
    fn start(
        program: &Path,
        command: &mut Command,
        limit: Duration,
    ) -> Result<(Reader, ChildStdout), FilmError> {
        let program = program.display().to_string();
        // A signal to the group of whoever reads, as by Ctrl-C, says nothing of the film.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let failed = |source| FilmError::Program { program: program.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let out =
            child.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        let (done, waiting) = mpsc::channel::<()>();
        let late = Arc::new(AtomicBool::new(false));
        let number = Arc::new(Mutex::new(Pid::from_raw(child.id() as i32)));
        let (flag, its) = (late.clone(), number.clone());
        let watch = move || {
            if waiting.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // Held until the signal is sent.
            let number = lock(&its);
            if let Some(number) = *number {
                flag.store(true, Ordering::Relaxed);
                if let Err(error) = kill_process(number, Signal::KILL) {
                    tracing::warn!(%error, "a reader of films that takes too long cannot be killed");
                }
            }
        };
        let reader = Reader { program: program.clone(), child, number, late, _done: done };
        let watching = std::thread::Builder::new().name("film".into()).spawn(watch);
        watching.map_err(failed)?;
        Ok((reader, out))
    }

    /// Waits until it is over.
    fn wait(&mut self) -> std::io::Result<ExitStatus> {
        // Without taking note of its end, so that it can be killed at its limit meanwhile.
        let number = *lock(&self.number);
        let ended =
            |number| waitid(WaitId::Pid(number), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        while number.is_some_and(|number| ended(number).is_err_and(|why| why == Errno::INTR)) {}
        let mut number = lock(&self.number);
        *number = None;
        self.child.wait()
    }

    /// How it ended, once all that it writes was read or nobody reads it any more: it then ends by itself, or is
    /// killed at its limit.
    fn end(&mut self) -> Result<(), FilmError> {
        let ended = self.wait();
        if self.late.load(Ordering::Relaxed) {
            return Err(FilmError::Late);
        }
        let cannot = |source| FilmError::Program { program: self.program.clone(), source };
        match ended.map(|status| (status.code(), status.signal())) {
            Ok((Some(0), _)) => Ok(()),
            Ok((Some(NO_LIMIT), _)) => Err(cannot(std::io::ErrorKind::Unsupported.into())),
            Ok((Some(NOT_STARTED), _)) => Err(cannot(std::io::ErrorKind::NotFound.into())),
            // Not by us: a system that is short of memory does so.
            Ok((None, Some(KILLED))) => Err(FilmError::Late),
            Ok(_) => Err(FilmError::Unreadable("its reader gave up".into())),
            Err(source) => Err(cannot(source)),
        }
    }

    /// Why it said too little: how it ended, or what is wrong with the film if it ended well.
    fn error(&mut self, otherwise: &str) -> FilmError {
        match self.end() {
            Ok(()) | Err(FilmError::Unreadable(_)) => FilmError::Unreadable(otherwise.into()),
            Err(error) => error,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Harmless if it is over.
        self.child.kill().ok();
        self.wait().ok();
    }
}

/// Runs a program to its end, whatever it says.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<(), FilmError> {
    let program = PathBuf::from(command.get_program());
    let (mut reader, mut out) = Reader::start(&program, command, limit)?;
    // One that nobody listened to would fail. How it ends says more than an error here.
    std::io::copy(&mut out, &mut std::io::sink()).ok();
    reader.end()
}

/// Whether this ffmpeg can be started and knows how films are read.
///
/// # Errors
/// `Program`, `Late`; `Unreadable` if it is another program, or older than [`FFMPEG_LEAST`].
pub fn try_out(ffmpeg: &Path, limit: Duration) -> Result<(), FilmError> {
    let mut command = limited(ffmpeg);
    command.args(["-f", "rawvideo", "-pix_fmt", "gray", "-video_size", "64x64"]);
    command.args(["-i", "file:/dev/zero", "-frames:v", "1"]).args(FRAMES);
    run(&mut command, limit)
}

/// An ffmpeg with a limit in memory, the shell's, which the program then replaces.
fn limited(ffmpeg: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    let limited = format!("ulimit -v {MEMORY_KIB} || exit {NO_LIMIT}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(limited).arg(ffmpeg).stderr(Stdio::null());
    command.args(["-hide_banner", "-loglevel", "quiet", "-nostdin", "-threads", "1"]);
    command
}

fn command(ffmpeg: &Path, film: &Path, seconds: u32) -> Command {
    let mut command = limited(ffmpeg);
    // A playlist could name other files, and addresses of other machines.
    command.args(["-protocol_whitelist", "file", "-t", &seconds.to_string()]);
    let mut address = std::ffi::OsString::from("file:");
    address.push(film);
    command.arg("-i").arg(address);
    command
}

/// The first track of pictures; a cover of a record is none.
const PICTURE: [&str; 5] = ["-map", "0:V:0", "-an", "-sn", "-dn"];

/// Its frames as they are, in grey.
const FRAMES: [&str; 9] = [
    "-pix_fmt",
    "gray",
    "-fps_mode",
    "passthrough",
    "-strict",
    "-1",
    "-f",
    "yuv4mpegpipe",
    "pipe:1",
];

/// Whether a film has a track of pictures, also one that cannot be decoded.
///
/// # Errors
/// `Program`, `Late`.
pub fn has_picture(ffmpeg: &Path, film: &Path, limit: Duration) -> Result<bool, FilmError> {
    let mut command = command(ffmpeg, film, SECONDS_MAX);
    command.args(PICTURE).args(["-c", "copy", "-f", "null", "-"]);
    match run(&mut command, limit) {
        Ok(()) => Ok(true),
        Err(FilmError::Unreadable(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What stands still in the picture of a film.
///
/// # Errors
/// `Unreadable` if it has no picture, `Limit`, `Program`.
pub fn stills(ffmpeg: &Path, film: &Path, limit: Duration) -> Result<Stills, FilmError> {
    let mut command = command(ffmpeg, film, SECONDS_MAX);
    command.args(PICTURE).args(FRAMES);
    let (mut reader, mut out, (width, height)) = frames(ffmpeg, &mut command, limit)?;
    if width.min(height) < SIDE_MIN || width.saturating_mul(height) > PIXELS_MAX {
        return Err(FilmError::Limit(
            "its picture has a side below 64 or more than 9.4 million pixels",
        ));
    }
    let mut stills = Stills::new(width, height);
    let mut frame = vec![0u8; width * height];
    // Every n-th frame, so that the work is bounded, but a short film is looked at whole.
    let every = (width * height * 240).div_ceil(PIXELS_LOOKED_AT).max(1);
    let mut index = 0usize;
    while line(&mut out).is_some_and(|head| head.starts_with("FRAME")) {
        if out.read_exact(&mut frame).is_err() {
            break;
        }
        if index < FRAMES_MIN || index.is_multiple_of(every) {
            stills.add(&frame);
        }
        index += 1;
    }
    match stills.frames() {
        0 => {
            drop(out);
            Err(reader.error("it has no frame"))
        }
        _ if reader.late.load(Ordering::Relaxed) => Err(FilmError::Late),
        _ => Ok(stills),
    }
}

/// A child, the frames that it writes, and their width and height.
type Frames = (Reader, BufReader<ChildStdout>, (usize, usize));

fn frames(ffmpeg: &Path, command: &mut Command, limit: Duration) -> Result<Frames, FilmError> {
    let (mut reader, out) = Reader::start(ffmpeg, command, limit)?;
    let mut out = BufReader::with_capacity(1 << 16, out);
    match head(&mut out) {
        Some(Some(size)) => Ok((reader, out, size)),
        Some(None) => Err(FilmError::Unreadable("its picture has no size".into())),
        None => {
            drop(out);
            Err(reader.error("it has no picture"))
        }
    }
}

/// Small pictures of a film of this size, so many a second, [`agree::SEEN_A_SECOND`] or [`agree::OWN_A_SECOND`], of so many
/// seconds at most: [`SECONDS_MAX`] of a stranger's, all of a clip of our own.
///
/// # Errors
/// `Unreadable` if it has no picture, `Limit`, `Program`.
pub fn glimpses(
    ffmpeg: &Path,
    film: &Path,
    size: (usize, usize),
    per_second: usize,
    seconds: u32,
    limit: Duration,
) -> Result<Glimpses, FilmError> {
    let (width, height) = size;
    let short = width.min(height).max(1);
    let side = |pixels: usize| (pixels * agree::SIDE).div_ceil(short).to_string();
    let mut command = command(ffmpeg, film, seconds);
    command.args(PICTURE).args(["-pix_fmt", "yuv444p", "-vf"]);
    let (wide, high) = (side(width), side(height));
    command.arg(format!("fps={per_second},scale={wide}:{high}:flags=area"));
    command.args(["-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"]);
    let (mut reader, mut out, (width, height)) = frames(ffmpeg, &mut command, limit)?;
    // A long strip would be as large as a whole film.
    if width.saturating_mul(height) > agree::SIDE * agree::SIDE * 16 {
        return Err(FilmError::Limit("its picture is more than 16 times as long as wide"));
    }
    let (mut pictures, mut tints) = (Vec::new(), Vec::new());
    while pictures.len() < seconds as usize * per_second
        && line(&mut out).is_some_and(|head| head.starts_with("FRAME"))
    {
        let mut plane = || -> std::io::Result<Grey> {
            let mut luma = vec![0; width * height];
            out.read_exact(&mut luma)?;
            Ok(Grey { width, height, luma })
        };
        let (Ok(luma), Ok(blue), Ok(red)) = (plane(), plane(), plane()) else { break };
        pictures.push(luma);
        tints.push(Tints { blue, red });
    }
    match pictures.is_empty() {
        true => {
            drop(out);
            Err(reader.error("it has no frame"))
        }
        false => Ok(Glimpses { size, pictures, tints }),
    }
}

fn line(out: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    out.take(256).read_until(b'\n', &mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.ends_with('\n').then(|| text.trim_end().to_owned())
}

/// The sound of a film: both channels as one, [`READ_RATE`] samples a second. Empty if it has none.
///
/// # Errors
/// `Limit`, `Program`.
pub fn sound(ffmpeg: &Path, film: &Path, limit: Duration) -> Result<Vec<f32>, FilmError> {
    let mut command = command(ffmpeg, film, SECONDS_MAX);
    command.args([
        "-map",
        "0:a:0?",
        "-vn",
        "-sn",
        "-dn",
        "-ac",
        "1",
        "-ar",
        &READ_RATE.to_string(),
    ]);
    command.args(["-f", "f32le", "pipe:1"]);
    let (mut reader, out) = Reader::start(ffmpeg, &mut command, limit)?;
    let Ok(samples) = samples(out, SECONDS_MAX + 1) else {
        return Err(reader.error("its sound ends early"));
    };
    match reader.end() {
        // A film without sound makes ffmpeg give up.
        Ok(()) | Err(FilmError::Unreadable(_)) => Ok(samples),
        Err(error) => Err(error),
    }
}

/// Samples at [`READ_RATE`], of so many seconds at most.
fn samples(out: impl Read, seconds: u32) -> std::io::Result<Vec<f32>> {
    let mut bytes = Vec::new();
    let most = u64::from(seconds) * u64::from(READ_RATE) * 4;
    out.take(most).read_to_end(&mut bytes)?;
    let sample = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let finite = |sample: f32| if sample.is_finite() { sample } else { 0.0 };
    Ok(bytes.chunks_exact(4).map(|four| finite(sample(four))).collect())
}

/// What a film is expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Width and height of its picture in pixels.
    pub size: (usize, usize),
    /// How many frames a player shows.
    pub frames: u32,
    /// How many of them in a second.
    pub rate: u32,
    /// Whether it has sound.
    pub sound: bool,
}

/// Plays a film as a player does: `show` gets the frames that are `wanted` (luma, a byte a pixel), counted in the rhythm
/// in which they are shown, with their numbers. Gives its sound, both channels as one, at [`READ_RATE`]; empty if it has
/// none.
///
/// # Errors
/// `Unreadable` if it is not what is expected: another size or length, or a track more or less. `Late`, `Program`.
pub fn play(
    ffmpeg: &Path,
    film: &Path,
    expected: Expected,
    wanted: &[bool],
    limit: Duration,
    show: impl FnMut(u32, &[u8]),
) -> Result<Vec<f32>, FilmError> {
    let Expected { frames: count, rate, sound, .. } = expected;
    // The last frame too, which must be there, and any behind it, which must not.
    let last = count.saturating_sub(1);
    let comes = |frame: &u32| *frame == last || wanted.get(*frame as usize) == Some(&true);
    let frames: Vec<u32> = (0..count).filter(comes).collect();
    // A film that goes on for hours is cut behind the first frame that is too much.
    let seconds = count.div_ceil(rate.max(1)) + 1;
    let mut command = command(ffmpeg, film, seconds);
    // The stream that is written takes one track: with any other it fails, and the film is not what it should be.
    for track in ["0:v", "0:s?", "0:d?", "0:t?"] {
        command.args(["-map", track]);
    }
    if !sound {
        command.args(["-map", "0:a?"]);
    }
    // What nobody looks at is dropped where it is decoded.
    command.args(["-vf", &format!("fps={rate},select='{}+gte(n,{count})'", numbers(&frames))]);
    command.args(["-fps_mode", "passthrough", "-pix_fmt", "gray"]);
    command.args(["-frames:v", &(frames.len() + 1).to_string()]);
    command.args(["-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"]);
    if sound {
        // It says nothing else there.
        command.args(["-map", "0:a", "-ac", "1", "-ar", &READ_RATE.to_string()]);
        command.args(["-f", "f32le", "pipe:2"]).stderr(Stdio::piped());
    }
    let (mut reader, out) = Reader::start(ffmpeg, &mut command, limit)?;
    let heard = reader.child.stderr.take();
    std::thread::scope(|scope| {
        let listen = || heard.map_or(Ok(Vec::new()), |heard| samples(heard, seconds + 1));
        let listening = scope.spawn(listen);
        let seen = picture(out, expected.size, &frames, show);
        if let Err(Wrong::Picture(why)) = seen {
            // With it ends what it says in sound.
            reader.child.kill().ok();
            return Err(FilmError::Unreadable(why));
        }
        let heard = listening.join();
        if let Err(Wrong::Ended(why)) = seen {
            return Err(reader.error(why));
        }
        reader.end()?;
        match heard {
            Ok(Ok(samples)) => Ok(samples),
            _ => Err(FilmError::Unreadable("its sound cannot be read".into())),
        }
    })
}

/// Frames that wait to be looked at, at most 8 MB each: the decoder is ahead by no more.
const FRAMES_WAITING: usize = 4;

/// Plays a film as [`play`] does, while another thread looks at the frames that it is to look at.
///
/// # Errors
/// As [`play`].
pub fn watch<'l>(
    ffmpeg: &Path,
    film: &Path,
    expected: Expected,
    limit: Duration,
    look: Look<'l>,
) -> Result<(Look<'l>, Vec<f32>), FilmError> {
    let wanted = look.wanted().to_vec();
    std::thread::scope(|scope| {
        let (shown, to_see) = mpsc::sync_channel::<(u32, Vec<u8>)>(FRAMES_WAITING);
        let looking = scope.spawn(move || {
            let mut look = look;
            to_see.iter().for_each(|(frame, luma)| look.see(frame, &luma));
            look
        });
        let show = |frame: u32, luma: &[u8]| {
            if wanted.get(frame as usize) == Some(&true) {
                // Who looks and dies is met below.
                shown.send((frame, luma.to_vec())).ok();
            }
        };
        let heard = play(ffmpeg, film, expected, &wanted, limit, show);
        drop(shown);
        let look = looking.join().map_err(|_| FilmError::Late)?;
        Ok((look, heard?))
    })
}

/// Why a picture is not what was expected.
enum Wrong {
    /// Its end came early; the reader may know why.
    Ended(&'static str),
    /// It is another one.
    Picture(String),
}

fn picture(
    out: impl Read,
    size: (usize, usize),
    frames: &[u32],
    mut show: impl FnMut(u32, &[u8]),
) -> Result<(), Wrong> {
    let mut out = BufReader::with_capacity(1 << 16, out);
    let is = head(&mut out).ok_or(Wrong::Ended("it has no picture, or a track too many"))?;
    if is != Some(size) {
        return Err(Wrong::Picture("its picture has another size".into()));
    }
    let mut luma = vec![0u8; size.0 * size.1];
    for frame in frames {
        let comes = line(&mut out).is_some_and(|head| head.starts_with("FRAME"));
        if !comes || out.read_exact(&mut luma).is_err() {
            return Err(Wrong::Ended("it has fewer frames than it should have"));
        }
        show(*frame, &luma);
    }
    match line(&mut out) {
        None => Ok(()),
        Some(_) => Err(Wrong::Picture("it has more frames than it should have".into())),
    }
}

/// Frames in the words of a filter: a sum that is not 0 for them.
fn numbers(frames: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for frame in frames {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *frame => *last = *frame,
            _ => runs.push((*frame, *frame)),
        }
    }
    sum(&runs)
}

/// In pairs of pairs: ffmpeg refuses a sum that is nested deeper than 100, as one of so many words in a row is.
fn sum(runs: &[(u32, u32)]) -> String {
    match runs {
        [] => "0".to_owned(),
        [(first, last)] => format!("between(n,{first},{last})"),
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            format!("({}+{})", sum(left), sum(right))
        }
    }
}

/// Width and height of the frames that come; none if there is no head, or it does not say.
fn head(out: &mut impl BufRead) -> Option<Option<(usize, usize)>> {
    let head = line(out)?;
    let size = |letter: char| {
        let word = head.split(' ').find_map(|word| word.strip_prefix(letter));
        word.and_then(|number| number.parse::<usize>().ok())
    };
    Some(size('W').zip(size('H')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A program that does this in place of ffmpeg.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("reader");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, executable).expect("is ours");
        path
    }

    /// What is said of a film of two frames of 2x2 with sound, read by this program; and the frames that came.
    fn played(ffmpeg: &Path, limit: Duration) -> (Result<usize, FilmError>, Vec<Vec<u8>>) {
        let expected = Expected { size: (2, 2), frames: 2, rate: 24, sound: true };
        let mut frames = Vec::new();
        let show = |_: u32, luma: &[u8]| frames.push(luma.to_vec());
        let heard = play(ffmpeg, Path::new("film.mp4"), expected, &[true; 2], limit, show);
        (heard.map(|samples| samples.len()), frames)
    }

    #[test]
    fn runs_of_frames_are_named_in_short() {
        let said = numbers(&[3, 5, 6, 7, 11]);
        assert_eq!(said, "(between(n,3,3)+(between(n,5,7)+between(n,11,11)))");
        assert_eq!(numbers(&[]), "0");
    }

    /// Promise: a clip of two minutes, the longest that there is, is played like any other.
    #[test]
    fn the_longest_clip_is_played() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let film = folder.path().join("film.mp4");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-f", "lavfi", "-i"]);
        ffmpeg.args(["testsrc=size=64x64:rate=24", "-f", "lavfi", "-i", "sine", "-t", "120"]);
        ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
        assert!(ffmpeg.args(["-c:a", "aac"]).arg(&film).status().expect("ffmpeg").success());
        let expected = Expected { size: (64, 64), frames: 2_880, rate: 24, sound: true };
        let wanted: Vec<bool> = (0..2_880).map(|frame| frame % 12 == 7).collect();
        let mut seen = Vec::new();
        let show = |frame: u32, _: &[u8]| seen.push(frame);
        let heard = play(Path::new("ffmpeg"), &film, expected, &wanted, LIMIT, show);
        let seconds = heard.expect("is played").len() as f32 / READ_RATE as f32;
        assert!((119.9..120.2).contains(&seconds), "{seconds} s");
        let last = [2_879];
        assert_eq!(seen, (0..240).map(|n| n * 12 + 7).chain(last).collect::<Vec<u32>>());
    }

    /// Promise: a reader at its limit is ended, also one that writes without end and one that is waited for already, and by
    /// no program that a small machine may lack.
    #[test]
    fn a_reader_at_its_limit_is_ended() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for script in ["exec sleep 60", "exec cat /dev/zero", "exec >&-; exec sleep 60"] {
            let began = Instant::now();
            let mut command = Command::new(program(folder.path(), script));
            let ended = run(&mut command, Duration::from_millis(100));
            assert!(matches!(ended, Err(FilmError::Late)), "{script}: {ended:?}");
            assert!(began.elapsed() < LIMIT, "{script}");
        }
    }

    /// Promise: of a clip of our own all is looked at, however long it is.
    #[test]
    fn glimpses_reach_as_far_as_they_are_to() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let film = folder.path().join("film.mp4");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-f", "lavfi", "-i"]);
        ffmpeg.args(["testsrc=size=64x64:rate=24", "-t", "20", "-c:v", "libx264"]);
        ffmpeg.args(["-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
        assert!(ffmpeg.arg(&film).status().expect("ffmpeg").success());
        let pictures = |seconds: u32| {
            let seen = glimpses(Path::new("ffmpeg"), &film, (64, 64), 2, seconds, LIMIT);
            seen.expect("reads").pictures.len()
        };
        assert_eq!((pictures(SECONDS_MAX), pictures(21)), (30, 40));
    }

    /// Promise: what the reader of films says is held against what the film must be, and its own faults are not the
    /// film's.
    #[test]
    fn a_reader_that_lies_hangs_or_is_not_there_says_nothing_good() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let run = |script: &str| played(&program(folder.path(), script), LIMIT);
        let frame = "printf 'FRAME\\nabcd'";
        let head = |size: &str| format!("printf 'YUV4MPEG2 {size} F24:1\\n'");
        let good = head("W2 H2");
        let (heard, frames) = run(&format!("{good}; {frame}; {frame}; printf '01234567' >&2"));
        assert_eq!((heard.expect("is right"), frames), (2, vec![b"abcd".to_vec(); 2]));
        let other = head("W4 H2");
        for lie in [
            format!("{other}; {frame}; {frame}"),
            format!("{good}; {frame}"),
            format!("{good}; {frame}; printf 'FRAME\\nab'"),
            format!("{good}; {frame}; {frame}; {frame}"),
            format!("{good}; {frame}; {frame}; exit 1"),
            format!("{good}; {frame}; {frame}; kill -11 $$"),
            format!("{other}; exec cat /dev/zero"),
            "exec cat /dev/zero".to_owned(),
            "printf nonsense".to_owned(),
            "exit 1".to_owned(),
        ] {
            let (heard, _) = run(&lie);
            assert!(matches!(heard, Err(FilmError::Unreadable(_))), "{lie}: {heard:?}");
        }
        let hung = program(folder.path(), "exec sleep 60");
        let (heard, _) = played(&hung, Duration::from_millis(100));
        assert!(matches!(heard, Err(FilmError::Late)), "{heard:?}");
        let (heard, _) = run("kill -9 $$");
        assert!(matches!(heard, Err(FilmError::Late)), "{heard:?}");
        let gone = folder.path().join("nobody");
        let (heard, _) = played(&gone, LIMIT);
        assert!(matches!(heard, Err(FilmError::Program { .. })), "{heard:?}");
        try_out(Path::new("ffmpeg"), LIMIT).expect("is there");
        let no_option = "case \"$*\" in *-fps_mode*) exit 1;; esac; exec ffmpeg \"$@\"";
        let old = try_out(&program(folder.path(), no_option), LIMIT);
        assert!(matches!(old, Err(FilmError::Unreadable(_))), "{old:?}");
        assert!(matches!(try_out(&gone, LIMIT), Err(FilmError::Program { .. })));
        let missing = stills(&gone, Path::new("film.mp4"), LIMIT);
        assert!(matches!(missing, Err(FilmError::Program { .. })));
        let missing = sound(&gone, Path::new("film.mp4"), LIMIT);
        assert!(matches!(missing, Err(FilmError::Program { .. })));
    }
}
