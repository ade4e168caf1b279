//! Looks into files of strangers: what proves where they come from.
//!
//! A file is spooled to disk and read in a child process with limits of memory and time, so that one that is made
//! to break a reader breaks that child alone. Called by the door; knows no job.

use crate::room::{Place, Room, Who};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};
use zoetrope_provenance::{Trust, Verdict};

/// Address space of the child in KiB: 1 GiB, of which a manifest of megabytes with its history needs a tenth.
const MEMORY_KIB: u32 = 1 << 20;
/// Seconds of processor time: hashing 512 MB takes two, and a clip of ours well below one.
const CPU_SECONDS: u32 = 5;
/// The same by the clock, on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Boxes side by side in an MP4, at most: an hour in fragments of two seconds has 3,600. The reader's work grows with
/// their square: 100,000 take it 40 s.
const BOXES_MAX: usize = 4_096;
/// Files of strangers that are looked into at a time.
const CHECKS_MAX: usize = 2;
/// Files of our own that are read at a time: room that no file of a stranger takes.
const OWN_MAX: usize = 2;
/// The same with those that wait for their turn: at two at a time, each below a second, the last waits no longer than
/// [`OWN_TURN_LIMIT`].
const OWN_WAITING_MAX: usize = 16;
/// A project has one of so many, four: whoever asks for all of its clips at once keeps nobody else waiting for long.
const OWN_SHARE: usize = 4;
/// Uploads at a time, with those that wait for their turn: of 512 MiB each they are 4 GiB of disk.
const UPLOADS_MAX: usize = 8;
/// A project has one of so many, two: who sends slowly keeps nobody but its own project waiting.
const UPLOADS_SHARE: usize = 4;
/// How long an upload waits for its turn: six more can be before it, two at a time, and each takes some seconds.
const TURN_LIMIT: Duration = Duration::from_secs(120);
/// The same of a file of our own, which takes less than one.
const OWN_TURN_LIMIT: Duration = Duration::from_secs(10);
/// A verdict: a manifest store in JSON.
const ANSWER_BYTES_MAX: u64 = 8 << 20;
/// What is read of a file to tell its kind.
pub const HEAD_BYTES: usize = 16;
/// What is said of a file of another kind.
pub const NO_SUCH_KIND: &str = "The file is of no kind that can be checked: MP4, JPEG, PNG, WebP, GIF, AVIF, HEIC, WAV or \
                                MP3.";

/// Why a file could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// So many are being looked into already.
    #[error("too many files are being looked into")]
    Busy,
    /// It took too much memory or time, or broke the reader.
    #[error("the file cannot be read within the limits")]
    Limits,
    /// An MP4 of too many boxes.
    #[error("the file has more than {BOXES_MAX} boxes side by side")]
    Boxes,
    /// Our own disk or process failed.
    #[error("the reader cannot be started")]
    Io(#[from] std::io::Error),
}

/// Looks into files.
pub struct Inspector {
    trust: Trust,
    scratch: PathBuf,
    checks: Semaphore,
    own: Semaphore,
    own_waiting: Arc<Room>,
    uploads: Arc<Room>,
}

/// A file on its way in. It goes when this is dropped.
pub struct Spooled<'a> {
    /// Where it is.
    pub path: PathBuf,
    _turn: Option<SemaphorePermit<'a>>,
    _place: Option<Place>,
}

impl Spooled<'_> {
    /// A second file for whoever has room for one: the clip that it is held against.
    pub fn beside(&self) -> Spooled<'static> {
        Spooled { path: self.path.with_extension("clip"), _turn: None, _place: None }
    }
}

impl Drop for Spooled<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a temporary file stays until the next start");
        }
    }
}

impl Inspector {
    /// An inspector that trusts these roots (PEM); files wait in `scratch`.
    pub fn new(roots: String, scratch: PathBuf) -> Inspector {
        Inspector {
            trust: Trust { roots },
            scratch,
            checks: Semaphore::new(CHECKS_MAX),
            own: Semaphore::new(OWN_MAX),
            own_waiting: Room::new(OWN_WAITING_MAX, OWN_SHARE, 0),
            uploads: Room::new(UPLOADS_MAX, UPLOADS_SHARE, 0),
        }
    }

    /// Room on disk for one more file of this caller. It is looked into in its [`Inspector::turn`].
    ///
    /// # Errors
    /// `Busy`.
    pub fn upload(&self, who: Who) -> Result<Spooled<'static>, InspectError> {
        let place = self.uploads.take(who).ok_or(InspectError::Busy)?;
        Ok(Spooled { path: self.path(), _turn: None, _place: Some(place) })
    }

    /// Waits until an upload that is on disk may be looked into, which it may while this is held. First come, first
    /// served, so a project is before another one no more often than it has uploads.
    ///
    /// # Errors
    /// `Busy`.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>, InspectError> {
        turn(&self.checks, TURN_LIMIT).await
    }

    /// Room for one of our own files, to be read at once for this caller. First come, first served, within a project's
    /// share of the line.
    ///
    /// # Errors
    /// `Busy`.
    pub async fn own(&self, who: Who) -> Result<Spooled<'_>, InspectError> {
        let place = self.own_waiting.take(who).ok_or(InspectError::Busy)?;
        let turn = turn(&self.own, OWN_TURN_LIMIT).await?;
        Ok(Spooled { path: self.path(), _turn: Some(turn), _place: Some(place) })
    }

    fn path(&self) -> PathBuf {
        self.scratch.join(format!("{:032x}", rand::random::<u128>()))
    }

    /// Reads the manifest of a file of this media type, in a child process.
    ///
    /// # Errors
    /// `Boxes`, `Limits`, `Io`.
    pub async fn read(&self, file: &Path, format: &str) -> Result<Verdict, InspectError> {
        if BOXED.contains(&format) {
            let opened = tokio::fs::File::open(file).await?.into_std().await;
            let counted = tokio::task::spawn_blocking(|| boxes(opened)).await;
            if counted.map_err(std::io::Error::other)?? > BOXES_MAX {
                return Err(InspectError::Boxes);
            }
        }
        let program = std::env::current_exe()?;
        // The limits are those of the shell, which the program then replaces. One limit a call: dash takes no more.
        let limits =
            format!("ulimit -v {MEMORY_KIB} && ulimit -t {CPU_SECONDS} && exec \"$0\" \"$@\"");
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(limits)
            .arg(program)
            .arg("read-manifest")
            .arg(format)
            .arg(file)
            .env_clear()
            // Each thread and each arena of the allocator takes address space, on a machine with many cores most.
            .env("MALLOC_ARENA_MAX", "1")
            .env("TOKIO_WORKER_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let talk = async {
            let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else { return Ok(Vec::new()) };
            stdin.write_all(self.trust.roots.as_bytes()).await?;
            drop(stdin);
            let mut answer = Vec::new();
            stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = match tokio::time::timeout(TIME_LIMIT, talk).await {
            // A child that dies before it has read its roots is over its limits too.
            Ok(answer) => answer.unwrap_or_default(),
            Err(_) => return Err(InspectError::Limits),
        };
        let ended = tokio::time::timeout(TIME_LIMIT, child.wait()).await;
        if !ended.is_ok_and(|status| status.is_ok_and(|status| status.success())) {
            return Err(InspectError::Limits);
        }
        serde_json::from_slice(&answer).map_err(|_| InspectError::Limits)
    }
}

async fn turn(of: &Semaphore, limit: Duration) -> Result<SemaphorePermit<'_>, InspectError> {
    match tokio::time::timeout(limit, of.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(InspectError::Busy),
    }
}

/// Media types whose files are made of boxes.
const BOXED: [&str; 4] = ["video/mp4", "audio/mp4", "image/avif", "image/heic"];

/// How many boxes a file has side by side: no more than one above the limit is counted. What is no box ends the row; what is
/// wrong with it, its reader says.
fn boxes(mut file: impl Read + Seek) -> std::io::Result<usize> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut at, mut count) = (0, 0);
    while at < end && count <= BOXES_MAX {
        file.seek(SeekFrom::Start(at))?;
        let mut head = Vec::with_capacity(16);
        file.by_ref().take(16).read_to_end(&mut head)?;
        let Some((length, rest)) = head.split_first_chunk::<4>() else { break };
        let long = rest.get(4..).and_then(|rest| rest.first_chunk::<8>());
        let bytes = match (u32::from_be_bytes(*length), long) {
            // It goes on to the end of the file.
            (0, _) => end - at,
            (1, Some(long)) => u64::from_be_bytes(*long),
            (length, _) => u64::from(length),
        };
        count += 1;
        if bytes < 8 {
            break;
        }
        at = at.saturating_add(bytes);
    }
    Ok(count)
}

/// The media type of a file by its first bytes; none if it is of no kind that can hold a manifest of ours or that
/// the API promises to read.
pub fn format_of(head: &[u8]) -> Option<&'static str> {
    let riff = |kind: &[u8]| head.starts_with(b"RIFF") && head.get(8..12) == Some(kind);
    match head {
        _ if head.get(4..8) == Some(b"ftyp") => match head.get(8..12) {
            Some(b"M4A ") => Some("audio/mp4"),
            Some(b"avif") => Some("image/avif"),
            Some(b"heic" | b"heix") => Some("image/heic"),
            _ => Some("video/mp4"),
        },
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        _ if riff(b"WEBP") => Some("image/webp"),
        _ if riff(b"WAVE") => Some("audio/wav"),
        [b'I', b'D', b'3', ..] | [0xff, 0xfb | 0xf3 | 0xf2, ..] => Some("audio/mpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::id::TenantId;

    #[test]
    fn a_file_is_what_its_first_bytes_say() {
        for (head, format) in [
            (&b"\0\0\0\x20ftypisom"[..], Some("video/mp4")),
            (b"\0\0\0\x20ftypM4A ", Some("audio/mp4")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"<svg xmlns=", None),
            (b"%PDF-1.7", None),
            (b"", None),
        ] {
            assert_eq!(format_of(head), format, "{head:?}");
        }
    }

    fn inspector() -> Inspector {
        Inspector::new(String::new(), std::env::temp_dir())
    }

    /// Promise: a project whose uploads never end takes a part of the room and no more, and none of that of our own files.
    #[tokio::test]
    async fn uploads_of_one_project_leave_room_for_others_and_for_our_own_files() {
        let inspector = inspector();
        let of = |project| inspector.upload(Who::Project(TenantId(project)));
        let mut held: Vec<_> =
            (0..UPLOADS_MAX / UPLOADS_SHARE).map(|_| of(1).expect("room")).collect();
        assert!(matches!(of(1), Err(InspectError::Busy)));
        // A refusal costs nobody a place.
        for project in 2.. {
            match (of(project), held.len()) {
                (Ok(upload), ..UPLOADS_MAX) => held.push(upload),
                (Err(InspectError::Busy), UPLOADS_MAX) => break,
                (answer, uploads) => panic!("{:?} behind {uploads}", answer.err()),
            }
            if held.len() < UPLOADS_MAX {
                assert!(matches!(of(1), Err(InspectError::Busy)));
            }
        }
        let turns = [inspector.turn().await, inspector.turn().await];
        assert!(turns.iter().all(Result::is_ok));
        assert!(inspector.own(Who::Guest).await.is_ok(), "our own files are read meanwhile");
        drop((turns, held));
        assert!(inspector.turn().await.is_ok());
        let again: Vec<_> =
            (1..=UPLOADS_MAX as u32).map_while(|project| of(project).ok()).collect();
        assert_eq!(again.len(), UPLOADS_MAX, "no place was lost");
    }

    /// Promise: a project that asks for all of its clips at once waits behind itself, and another one's turn comes soon.
    #[tokio::test]
    async fn our_own_files_are_read_for_one_project_as_for_another() {
        use futures::FutureExt;
        let inspector = inspector();
        let own = |project| Box::pin(inspector.own(Who::Project(TenantId(project))));
        let mut many: Vec<_> = (0..OWN_WAITING_MAX).map(|_| own(1)).collect();
        let (mut held, mut refused) = (Vec::new(), 0);
        // Each stands in line from its first poll on.
        many.retain_mut(|asked| match asked.as_mut().now_or_never() {
            Some(Ok(read)) => {
                held.push(read);
                false
            }
            Some(Err(_)) => {
                refused += 1;
                false
            }
            None => true,
        });
        let share = OWN_WAITING_MAX / OWN_SHARE;
        assert_eq!((held.len(), many.len()), (OWN_MAX, share - OWN_MAX));
        assert_eq!(refused, OWN_WAITING_MAX - share);
        let mut other = own(2);
        assert!((&mut other).now_or_never().is_none(), "it waits behind what came before");
        drop((held, many));
        assert!(other.await.is_ok());
    }

    /// Promise: an MP4 that is made to keep its reader busy does not reach it.
    #[tokio::test]
    async fn a_file_of_too_many_boxes_is_refused_before_a_reader_starts() {
        let front = b"\0\0\0\x10ftypisom\0\0\0\0";
        let count =
            |rest: &[u8]| boxes(std::io::Cursor::new([&front[..], rest].concat())).expect("reads");
        assert_eq!(count(b""), 1);
        assert_eq!(count(&b"\0\0\0\x08moov".repeat(9)), 10);
        assert_eq!(count(b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x10\0\0\0\x08free"), 3);
        assert_eq!(count(b"\0\0\0\0mdat\0\0\0\x08free"), 2);
        assert_eq!(count(b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff"), 2);
        assert_eq!(count(b"\0\0\0\x07free\0\0\0\x08free"), 2);
        let many = [&front[..], &b"\0\0\0\x08moov".repeat(100_000)].concat();
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), many).expect("writes");
        let read = inspector().read(file.path(), "video/mp4").await;
        assert!(matches!(read, Err(InspectError::Boxes)), "{read:?}");
    }
}
