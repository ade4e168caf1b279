//! The programs that we start, ffmpeg and ffprobe: where they are, what they must be able to do, and how a
//! child's words and end are waited for within a limit.
//!
//! Called by the rest of `finish` and once at the start of the worker.

use super::FinishError;
use crate::beside::{Nothing, Waiting, receive};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use zoetrope_mark::film::{self, FFMPEG_LEAST};
use zoetrope_moderation::{Classifier, Listener};

/// What is kept of a child's complaints: their end, where ffmpeg says the reason.
const COMPLAINT_BYTES: usize = 4 * 1024;
/// What a child may answer on its standard output: ffprobe's JSON of two streams takes 4 KB.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Encoders that ffmpeg must have.
const ENCODERS: [&str; 3] = ["libx264", "aac", "libwebp"];
/// `ffmpeg -encoders` and one `ffprobe` take milliseconds; a cold disk may take seconds.
pub const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Encodes.
    pub ffmpeg: PathBuf,
    /// Reads back.
    pub ffprobe: PathBuf,
}

impl Programs {
    /// Looks at the programs, once, so that a missing one, or one that is too old, is told at the start and not after a
    /// render. What they are tried on goes into a folder below `temp`.
    ///
    /// # Errors
    /// `Program`: which one is missing or lacks what.
    pub fn find(ffmpeg: &Path, ffprobe: &Path, temp: &Path) -> Result<Self, FinishError> {
        let programs = Programs { ffmpeg: ffmpeg.into(), ffprobe: ffprobe.into() };
        let mut command = Command::new(ffmpeg);
        command.args(["-hide_banner", "-loglevel", "error", "-encoders"]);
        let listed = answer(&mut command, SHORT_LIMIT).map_err(|error| missing(ffmpeg, &error))?;
        let listed = String::from_utf8_lossy(&listed);
        for encoder in ENCODERS {
            let has = |line: &str| line.split_whitespace().nth(1) == Some(encoder);
            if !listed.lines().any(has) {
                let ffmpeg = ffmpeg.display();
                return Err(FinishError::Program(format!(
                    "{ffmpeg} has no encoder `{encoder}`: install an ffmpeg with libx264, aac and libwebp"
                )));
            }
        }
        let mut command = Command::new(ffprobe);
        command.args(["-hide_banner", "-loglevel", "error", "-version"]);
        answer(&mut command, SHORT_LIMIT).map_err(|error| missing(ffprobe, &error))?;
        match super::encoder::try_out(&programs, temp) {
            Ok(()) => {}
            Err(error @ FinishError::Disk { .. }) => return Err(error),
            Err(error) => return Err(old(ffmpeg, &error)),
        }
        // It reads them as well.
        film::try_out(ffmpeg, SHORT_LIMIT).map_err(|error| old(ffmpeg, &error))?;
        Ok(programs)
    }
}

fn old(ffmpeg: &Path, error: &dyn std::fmt::Display) -> FinishError {
    let ffmpeg = ffmpeg.display();
    FinishError::Program(format!(
        "{ffmpeg} does not encode or read as it must ({error}): install ffmpeg {FFMPEG_LEAST} or newer"
    ))
}

fn missing(program: &Path, error: &FinishError) -> FinishError {
    let program = program.display();
    FinishError::Program(format!(
        "cannot use {program} ({error}): install ffmpeg (Debian: apt-get install ffmpeg), or name it with --ffmpeg and --ffprobe"
    ))
}

/// How clips are encoded.
#[derive(Clone)]
pub struct FinishSettings {
    /// The programs.
    pub programs: Programs,
    /// Where temporary files go.
    pub temp: PathBuf,
    /// Threads of the encoder. Part of what decides its bytes, so it is not taken from the machine.
    pub threads: u32,
    /// x264's preset.
    pub preset: String,
    /// x264's quality; 18 is visually lossless.
    pub crf: u32,
    /// Who scores sampled frames; none where nothing is published.
    pub classifier: Option<Arc<dyn Classifier>>,
    /// Who listens to the sound; none where nothing is published.
    pub listener: Option<Arc<dyn Listener>>,
}

impl std::fmt::Debug for FinishSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nets = self.classifier.as_ref().map(|classifier| classifier.nets());
        write!(f, "FinishSettings({:?}, crf {}, scored by {nets:?})", self.programs, self.crf)
    }
}

impl FinishSettings {
    /// The settings of a farm.
    pub fn new(programs: Programs, temp: PathBuf) -> Self {
        let (preset, classifier, listener) = ("veryfast".into(), None, None);
        FinishSettings { programs, temp, threads: 2, preset, crf: 18, classifier, listener }
    }
}

/// A child and the end of its standard error, which tells when it is over.
pub struct Running {
    child: Child,
    words: Receiver<Vec<u8>>,
}

impl Running {
    /// Starts a program with its standard error captured; the other streams are as `command` says.
    ///
    /// # Errors
    /// `Encoder` if it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self, FinishError> {
        // A signal to the worker's group, as by Ctrl-C, is the worker's: it says what becomes of its clip. A child that is left
        // alone ends when its pipes do.
        command.process_group(0).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |error: std::io::Error| {
            FinishError::Program(format!("cannot start {program}: {error}"))
        };
        let mut child = command.spawn().map_err(failed)?;
        let (sender, words) = sync_channel(1);
        if let Some(mut stderr) = child.stderr.take() {
            let reader = std::thread::Builder::new().name("complaints".into()).spawn(move || {
                let mut tail = Vec::new();
                let mut piece = [0; 1024];
                while let Ok(count @ 1..) = stderr.read(&mut piece) {
                    tail.extend_from_slice(&piece[..count]);
                    let over = tail.len().saturating_sub(COMPLAINT_BYTES);
                    tail.drain(..over);
                }
                sender.send(tail).ok(); // nobody may be waiting any more
            });
            if let Err(error) = reader {
                child.kill().ok();
                child.wait().ok();
                return Err(failed(error));
            }
        }
        Ok(Running { child, words })
    }

    /// The child's standard input, once.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The child's standard output, once.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits until the child is over.
    ///
    /// # Errors
    /// `Encoder` with its complaints if it failed, or if it was not over in time and was killed.
    pub fn finish(&mut self, limit: Duration) -> Result<(), FinishError> {
        self.finish_while(limit, Waiting::QUIETLY)
    }

    /// The same, as long as it is wanted.
    ///
    /// # Errors
    /// As [`Running::finish`], and `Unwanted`.
    pub fn finish_while(
        &mut self,
        limit: Duration,
        waiting: Waiting<'_>,
    ) -> Result<(), FinishError> {
        // Its standard error closes when it ends.
        let words = match receive(&self.words, limit, waiting) {
            Ok(words) => words,
            Err(Nothing::Unwanted) => return Err(FinishError::Unwanted),
            Err(Nothing::Late) => {
                self.child.kill().ok(); // it may have ended just now
                let seconds = limit.as_secs();
                return Err(FinishError::Encoder(format!("not over after {seconds} s, killed")));
            }
            Err(Nothing::Died) => Vec::new(),
        };
        let status = self
            .child
            .wait()
            .map_err(|source| FinishError::Disk { doing: "waiting for the encoder", source })?;
        if status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&words);
        Err(FinishError::Encoder(format!("{status}: {}", words.trim())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Harmless if it is over; otherwise nobody wants what it makes.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a program to its end and gives what it said.
///
/// # Errors
/// As [`Running::finish`].
pub fn answer(command: &mut Command, limit: Duration) -> Result<Vec<u8>, FinishError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    let (sender, said) = sync_channel(1);
    if let Some(stdout) = running.stdout() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).ok();
            sender.send(bytes).ok(); // nobody may be waiting any more
        });
    }
    running.finish(limit)?;
    Ok(said.recv_timeout(limit).unwrap_or_default())
}
