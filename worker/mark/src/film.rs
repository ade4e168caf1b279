//! Reads films by an ffmpeg child: what stands still in the picture, and the sound. Blocks; every child has a
//! limit in time and in what it may say. The file may come from anyone.

use crate::agree::{self, Glimpses, Grey};
use crate::reading::Stills;
use crate::sound::READ_RATE;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Seconds of a film that are read: marks repeat, and more hardly helps.
const SECONDS_MAX: u32 = 15;
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
    /// It is too large, or reading it took too long.
    #[error("{0}")]
    Limit(&'static str),
}

/// A child that is killed when its time is over or nobody wants it any more.
struct Reader {
    child: Child,
    late: Arc<AtomicBool>,
    _done: mpsc::Sender<()>,
}

impl Reader {
    fn start(command: &mut Command, limit: Duration) -> Result<(Reader, ChildStdout), FilmError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let failed = |source| FilmError::Program { program: program.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let out =
            child.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        let (done, waiting) = mpsc::channel::<()>();
        let late = Arc::new(AtomicBool::new(false));
        let (flag, id) = (late.clone(), child.id().to_string());
        let watch = move || {
            if waiting.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::Relaxed);
                // The child is not waited for before `done` is dropped, so the number is still its own.
                let killed = Command::new("kill").args(["-9", &id]).status();
                if let Err(error) = killed {
                    tracing::warn!(%error, "a reader of films that takes too long cannot be killed");
                }
            }
        };
        std::thread::Builder::new().name("film".into()).spawn(watch).map_err(failed)?;
        Ok((Reader { child, late, _done: done }, out))
    }

    fn error(&self, otherwise: &str) -> FilmError {
        if self.late.load(Ordering::Relaxed) {
            FilmError::Limit("reading the film took too long")
        } else {
            FilmError::Unreadable(otherwise.into())
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Harmless if it is over.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(ffmpeg: &Path, film: &Path) -> Command {
    // The limit is the shell's, which the program then replaces.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("ulimit -v {MEMORY_KIB} && exec \"$0\" \"$@\"")).arg(ffmpeg);
    command.args(["-hide_banner", "-loglevel", "quiet", "-nostdin", "-threads", "1"]);
    // A playlist could name other files, and addresses of other machines.
    command.args(["-protocol_whitelist", "file", "-t", &SECONDS_MAX.to_string()]);
    let mut address = std::ffi::OsString::from("file:");
    address.push(film);
    command.arg("-i").arg(address);
    command
}

/// What stands still in the picture of a film.
///
/// # Errors
/// `Unreadable` if it has no picture, `Limit`, `Program`.
pub fn stills(ffmpeg: &Path, film: &Path, limit: Duration) -> Result<Stills, FilmError> {
    let mut command = command(ffmpeg, film);
    command.args([
        "-map",
        "0:v:0",
        "-an",
        "-sn",
        "-dn",
        "-pix_fmt",
        "gray",
        "-fps_mode",
        "passthrough",
    ]);
    command.args(["-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"]);
    let (reader, mut out, (width, height)) = frames(&mut command, limit)?;
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
        0 => Err(reader.error("it has no frame")),
        _ if reader.late.load(Ordering::Relaxed) => Err(reader.error("")),
        _ => Ok(stills),
    }
}

/// A child, the frames that it writes, and their width and height.
type Frames = (Reader, BufReader<ChildStdout>, (usize, usize));

fn frames(command: &mut Command, limit: Duration) -> Result<Frames, FilmError> {
    let (reader, out) = Reader::start(command, limit)?;
    let mut out = BufReader::with_capacity(1 << 16, out);
    let head = line(&mut out).ok_or_else(|| reader.error("it has no picture"))?;
    let size = |letter: char| {
        let word = head.split(' ').find_map(|word| word.strip_prefix(letter));
        word.and_then(|number| number.parse::<usize>().ok())
    };
    match (size('W'), size('H')) {
        (Some(width), Some(height)) => Ok((reader, out, (width, height))),
        _ => Err(reader.error("its picture has no size")),
    }
}

/// Small grey pictures of a film of this size, two a second.
///
/// # Errors
/// `Unreadable` if it has no picture, `Limit`, `Program`.
pub fn glimpses(
    ffmpeg: &Path,
    film: &Path,
    size: (usize, usize),
    limit: Duration,
) -> Result<Glimpses, FilmError> {
    let (width, height) = size;
    let short = width.min(height).max(1);
    let side = |pixels: usize| (pixels * agree::SIDE).div_ceil(short).to_string();
    let mut command = command(ffmpeg, film);
    command.args(["-map", "0:v:0", "-an", "-sn", "-dn", "-pix_fmt", "gray", "-vf"]);
    command.arg(format!("fps=2,scale={}:{}:flags=area", side(width), side(height)));
    command.args(["-strict", "-1", "-f", "yuv4mpegpipe", "pipe:1"]);
    let (reader, mut out, (width, height)) = frames(&mut command, limit)?;
    // A long strip would be as large as a whole film.
    if width.saturating_mul(height) > agree::SIDE * agree::SIDE * 16 {
        return Err(FilmError::Limit("its picture is more than 16 times as long as wide"));
    }
    let mut pictures = Vec::new();
    while pictures.len() < agree::PICTURES_MAX
        && line(&mut out).is_some_and(|head| head.starts_with("FRAME"))
    {
        let mut luma = vec![0; width * height];
        if out.read_exact(&mut luma).is_err() {
            break;
        }
        pictures.push(Grey { width, height, luma });
    }
    match pictures.is_empty() {
        true => Err(reader.error("it has no frame")),
        false => Ok(Glimpses { size, pictures }),
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
    let mut command = command(ffmpeg, film);
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
    let (reader, out) = Reader::start(&mut command, limit)?;
    let mut bytes = Vec::new();
    let most = u64::from(SECONDS_MAX + 1) * u64::from(READ_RATE) * 4;
    if out.take(most).read_to_end(&mut bytes).is_err() || reader.late.load(Ordering::Relaxed) {
        return Err(reader.error("its sound ends early"));
    }
    let sample = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let finite = |sample: f32| if sample.is_finite() { sample } else { 0.0 };
    Ok(bytes.chunks_exact(4).map(|four| finite(sample(four))).collect())
}
