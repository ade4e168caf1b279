//! An artifact on its way into a folder past the page cache: for what is hardly ever read.
//!
//! The latents of a step are read again only if the render goes on elsewhere. A copy of them in the page cache costs
//! more than all else that is done with them: of the 24 ms of a core that the coordinator spent on 4 MB, 12 went into
//! new pages on a virtual machine that gives free memory back to its host. Written past it they take 0.3 ms.

use bytes::Bytes;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

/// Memory, places and lengths must be multiples of the disk's blocks: 512 or 4,096 bytes.
const BLOCK_BYTES: usize = 4096;
/// What is written at once, if there is so much. An upload holds two: one is filled while the other is written.
const PIECE_BYTES: usize = 1 << 20;

/// Folders whose own names are durable, as far as this process has seen to it.
#[derive(Default)]
pub(super) struct Folders(Mutex<HashSet<PathBuf>>);

impl Folders {
    /// Makes the name of a file durable, and that of its folder if that is not known to be. Blocking.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn sync(&self, file: &Path) -> Result<()> {
        let Some(folder) = file.parent() else { return Ok(()) };
        File::open(folder)?.sync_all()?;
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A sync takes some milliseconds, of a folder in which nothing changed too.
        if let Some(above) = folder.parent()
            && !lock().contains(folder)
        {
            File::open(above)?.sync_all()?;
            lock().insert(folder.to_owned());
        }
        Ok(())
    }
}

/// A file that is being written. Dropping it leaves nothing.
pub(super) struct Direct {
    filling: Piece,
    out: Option<Out>,
    writing: Option<JoinHandle<Result<Out>>>,
}

/// The file, while nobody writes, and the piece that is free.
struct Out {
    file: NamedTempFile<File>,
    becomes: PathBuf,
    folders: Arc<Folders>,
    written: u64,
    free: Piece,
}

/// Bytes that begin at a block of memory.
struct Piece {
    memory: Vec<u8>,
    begin: usize,
    filled: usize,
}

impl Piece {
    /// With room for a piece of what has so many bytes.
    fn new(bytes: u64) -> Piece {
        let room = usize::try_from(bytes).unwrap_or(PIECE_BYTES).clamp(1, PIECE_BYTES);
        let memory = vec![0; room.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES];
        let begin = memory.as_ptr().align_offset(BLOCK_BYTES);
        Piece { memory, begin, filled: 0 }
    }

    fn room(&self) -> usize {
        self.memory.len() - BLOCK_BYTES - self.filled
    }

    /// Takes what it has room for; says how much.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let at = self.begin + self.filled;
        self.memory[at..at + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    /// Whole blocks; what is in the last one behind its bytes means nothing.
    fn blocks(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.filled.next_multiple_of(BLOCK_BYTES)]
    }
}

impl Direct {
    /// Begins with a file beside the one that it becomes, of so many bytes.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn begin(
        becomes: PathBuf,
        folders: Arc<Folders>,
        bytes: u64,
    ) -> Result<Direct> {
        let begin = move || Out::begin(becomes, folders, bytes);
        let out = spawn_blocking(begin).await.map_err(Error::other)??;
        Ok(Direct { filling: Piece::new(bytes), out: Some(out), writing: None })
    }

    /// Takes the next bytes; waits while a piece before the last is written.
    ///
    /// # Errors
    /// Those of the disk, now or when an earlier piece was written.
    pub(super) async fn write(&mut self, chunk: &Bytes) -> Result<()> {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            if self.filling.room() == 0 {
                self.rest().await?;
                let Some(mut out) = self.out.take() else { return Err(given_up()) };
                std::mem::swap(&mut self.filling, &mut out.free);
                self.writing = Some(spawn_blocking(move || out.put().map(|()| out)));
            }
            rest = &rest[self.filling.take(rest)..];
        }
        Ok(())
    }

    /// Makes the file what it becomes: whole, durable, of so many bytes.
    ///
    /// # Errors
    /// Those of the disk; what is there then may not be durable.
    pub(super) async fn finish(mut self, bytes: u64) -> Result<()> {
        self.rest().await?;
        let mut out = self.out.take().ok_or_else(given_up)?;
        out.free = self.filling;
        spawn_blocking(move || out.finish(bytes)).await.map_err(Error::other)?
    }

    /// Waits until nothing is being written.
    async fn rest(&mut self) -> Result<()> {
        if let Some(writing) = &mut self.writing {
            let done = writing.await.map_err(Error::other);
            self.writing = None;
            self.out = Some(done??);
        }
        Ok(())
    }
}

fn given_up() -> Error {
    Error::other("an earlier piece was not written")
}

impl Out {
    fn begin(becomes: PathBuf, folders: Arc<Folders>, bytes: u64) -> Result<Out> {
        let (Some(folder), Some(name)) = (becomes.parent(), becomes.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        std::fs::create_dir_all(folder)?;
        // How `object_store` calls what is not whole yet, so that it lists none.
        let name = format!("{}#{}", name.to_string_lossy(), rand::random::<u64>());
        let file = tempfile::Builder::new().prefix(&name).rand_bytes(0).make_in(folder, open)?;
        Ok(Out { file, becomes, folders, written: 0, free: Piece::new(bytes) })
    }

    /// Writes the piece, and empties it.
    fn put(&mut self) -> Result<()> {
        let blocks = self.free.blocks();
        match self.file.as_file_mut().write_all(blocks) {
            // This disk has larger blocks, or does not know this way at all.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let mut file = OpenOptions::new().write(true).open(self.file.path())?;
                file.seek(SeekFrom::Start(self.written))?;
                file.write_all(blocks)?;
                *self.file.as_file_mut() = file;
            }
            done => done?,
        }
        self.written += blocks.len() as u64;
        self.free.filled = 0;
        Ok(())
    }

    fn finish(mut self, bytes: u64) -> Result<()> {
        self.put()?;
        let file = self.file.as_file();
        // The last block may be longer than its bytes.
        file.set_len(bytes)?;
        file.sync_all()?;
        self.file.persist(&self.becomes)?;
        self.folders.sync(&self.becomes)
    }
}

fn open(path: &Path) -> Result<File> {
    let new =
        |flags| OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path);
    match new(libc::O_DIRECT) {
        // A folder in memory, or on a network, may not know this way.
        Err(error) if error.kind() == ErrorKind::InvalidInput => new(0),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Bytes {
        (0..count).map(|at| (at * at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn a_file_has_its_bytes_whatever_its_length_and_appears_whole() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let folders = Arc::new(Folders::default());
        for count in [0, 1, BLOCK_BYTES, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 77] {
            let path = folder.path().join(format!("new/{count}"));
            let direct = Direct::begin(path.clone(), folders.clone(), count as u64);
            let mut direct = direct.await.expect("begins");
            let all = bytes(count);
            for chunk in all.chunks(70_001) {
                direct.write(&Bytes::copy_from_slice(chunk)).await.expect("writes");
                assert!(!path.exists());
            }
            direct.finish(count as u64).await.expect("finishes");
            assert!(std::fs::read(&path).expect("is there") == all, "{count}");
        }
        let gone = folder.path().join("gone/one");
        let mut given_up = Direct::begin(gone, folders, 2 << 20).await.expect("begins");
        given_up.write(&bytes(PIECE_BYTES)).await.expect("writes");
        drop(given_up);
        let left = std::fs::read_dir(folder.path().join("gone")).expect("a folder");
        assert_eq!(left.count(), 0);
    }

    /// Memory that is not at a block is refused, as larger blocks would be.
    #[test]
    fn a_disk_that_refuses_this_way_is_written_as_usual() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("one");
        let mut out = Out::begin(path.clone(), Arc::default(), 1 << 20).expect("begins");
        let all = bytes(2 * BLOCK_BYTES);
        out.free.take(&all[..BLOCK_BYTES]);
        out.put().expect("writes");
        out.free.begin += 1;
        out.free.take(&all[BLOCK_BYTES..]);
        out.finish(all.len() as u64).expect("finishes");
        assert!(std::fs::read(&path).expect("is there") == all);
    }
}
