//! Snapshots: the whole state behind a record, as one file that is whole or does not count.
//!
//! Layout: the magic, the number of the last record in it, the length of the body, CRC-32C of the body, the
//! body. Written beside, synced, renamed, and the folder synced. Two are kept, so that a damaged newest one
//! costs time and no data.

use super::JournalError;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ZTSNAP01";
const HEAD_BYTES: usize = 8 + 8 + 8 + 4;
const PREFIX: &str = "snapshot-";
/// How the name of one that is being written ends.
const DRAFT: &str = "draft";

/// Where the snapshot behind record `seq` lies.
pub fn path(folder: &Path, seq: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{seq:020}"))
}

/// Writes a snapshot and returns when it is on disk.
///
/// # Errors
/// `Write` if the disk refuses; what was there before stays.
pub fn write(folder: &Path, seq: u64, body: &[u8]) -> Result<(), JournalError> {
    let target = path(folder, seq);
    let draft = target.with_extension(DRAFT);
    let save = || -> std::io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(&head(seq, body))?;
        file.write_all(body)?;
        file.sync_all()?;
        std::fs::rename(&draft, &target)?;
        sync_folder(folder)
    };
    save().map_err(|e| JournalError::Write(format!("snapshot {seq}: {e}")))
}

/// Removes what a process that was killed was writing.
///
/// # Errors
/// Those of the disk.
pub fn remove_drafts(folder: &Path) -> Result<(), JournalError> {
    let remove = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name();
            let is = |name: &str| name.starts_with(PREFIX) && name.ends_with(&format!(".{DRAFT}"));
            if name.to_str().is_some_and(is) {
                std::fs::remove_file(folder.join(name))?;
            }
        }
        Ok(())
    };
    remove().map_err(|e| JournalError::Write(format!("half-written snapshots: {e}")))
}

/// The numbers of all snapshots, the newest first.
///
/// # Errors
/// `Read` if the folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<u64>, JournalError> {
    let mut found = super::numbered(folder, PREFIX)?;
    found.reverse();
    Ok(found)
}

/// Reads a snapshot; `None` if it is not whole.
///
/// # Errors
/// `Read` if the disk fails.
pub fn read(folder: &Path, seq: u64) -> Result<Option<Vec<u8>>, JournalError> {
    let bytes = std::fs::read(path(folder, seq)).map_err(|e| JournalError::Read(e.to_string()))?;
    Ok(unseal(seq, bytes))
}

fn head(seq: u64, body: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&seq.to_le_bytes());
    head[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    head[24..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    head
}

/// The bytes of a snapshot behind record `seq`.
pub fn seal(seq: u64, body: &[u8]) -> Vec<u8> {
    [&head(seq, body), body].concat()
}

/// The body of a snapshot's bytes; `None` if they are not whole.
pub fn unseal(seq: u64, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let head = bytes.get(..HEAD_BYTES)?;
    let whole = &head[..8] == MAGIC
        && head[8..16] == seq.to_le_bytes()
        && head[16..24] == ((bytes.len() - HEAD_BYTES) as u64).to_le_bytes()
        && head[24..] == crc32c::crc32c(&bytes[HEAD_BYTES..]).to_le_bytes();
    whole.then(|| bytes.split_off(HEAD_BYTES))
}

/// Makes names in a folder durable: a renamed or new file is only safe when its folder is synced as well.
///
/// # Errors
/// Those of the disk.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_snapshot_does_not_count() {
        let folder = tempfile::tempdir().expect("temporary folder");
        write(folder.path(), 5, b"state").expect("writes");
        assert_eq!(list(folder.path()).expect("lists"), vec![5]);
        assert_eq!(read(folder.path(), 5).expect("reads"), Some(b"state".to_vec()));
        let file = path(folder.path(), 5);
        let mut bytes = std::fs::read(&file).expect("reads");
        bytes.pop();
        std::fs::write(&file, &bytes).expect("writes");
        assert_eq!(read(folder.path(), 5).expect("reads"), None);
        let draft = file.with_extension(DRAFT);
        std::fs::write(&draft, b"half").expect("writes");
        remove_drafts(folder.path()).expect("removes");
        assert!(file.exists() && !draft.exists());
    }
}
