//! Looks into files of strangers: what proves where they come from.
//!
//! A file is spooled to disk and read in a child process with limits of memory and time, so that one that is made
//! to break a reader breaks that child alone. Called by the door; knows no job.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};
use zoetrope_provenance::{Trust, Verdict};

/// Address space of the child in KiB: 1 GiB, of which a manifest of megabytes with its history needs a tenth.
const MEMORY_KIB: u32 = 1 << 20;
/// Seconds of processor time: hashing 512 MB takes two.
const CPU_SECONDS: u32 = 20;
/// The same by the clock, on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(40);
/// Children at a time.
const CHILDREN_MAX: usize = 2;
/// A verdict: a manifest store in JSON.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Why a file could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// So many are being looked into already.
    #[error("too many files are being looked into")]
    Busy,
    /// It took too much memory or time, or broke the reader.
    #[error("the file cannot be read within the limits")]
    Limits,
    /// Our own disk or process failed.
    #[error("the reader cannot be started")]
    Io(#[from] std::io::Error),
}

/// Looks into files.
pub struct Inspector {
    trust: Trust,
    scratch: PathBuf,
    permits: Semaphore,
}

/// A file on its way in. It goes when this is dropped.
pub struct Spooled<'a> {
    /// Where it is.
    pub path: PathBuf,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Spooled<'_> {
    /// A second file for whoever has room for one: the clip that it is held against.
    pub fn beside(&self) -> Spooled<'static> {
        Spooled { path: self.path.with_extension("clip"), _permit: None }
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
        let trust = Trust { roots };
        let permits = Semaphore::new(CHILDREN_MAX);
        Inspector { trust, scratch, permits }
    }

    /// Room for one more file.
    ///
    /// # Errors
    /// `Busy`.
    pub fn room(&self) -> Result<Spooled<'_>, InspectError> {
        let permit = self.permits.try_acquire().map_err(|_| InspectError::Busy)?;
        let path = self.scratch.join(format!("{:032x}", rand::random::<u128>()));
        Ok(Spooled { path, _permit: Some(permit) })
    }

    /// Reads the manifest of a file of this media type, in a child process.
    ///
    /// # Errors
    /// `Limits`, `Io`.
    pub async fn read(&self, file: &Path, format: &str) -> Result<Verdict, InspectError> {
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

    #[test]
    fn there_is_room_for_a_few_files_at_a_time() {
        let inspector = Inspector::new(String::new(), std::env::temp_dir());
        let held: Vec<_> = (0..CHILDREN_MAX).map(|_| inspector.room().expect("room")).collect();
        assert!(matches!(inspector.room(), Err(InspectError::Busy)));
        drop(held);
        assert!(inspector.room().is_ok());
    }
}
