//! One segment of the journal: a sled database in a folder of its own. The one file that names sled.
//!
//! A segment only grows and is removed whole, because sled gives the space of deleted records back late or
//! never. Nothing counts as written before the blocking `flush()` returned; `flush_async` is not used, it can
//! hang. sled may refuse to open after a crash, so it is never trusted: each record has its number and a
//! CRC-32C, and a repair is tried on a copy and accepted only if no record is missing.
//!
//! On Linux sled's `flush()` is a `sync_file_range`, which hands the pages to the disk but does not empty the
//! disk's own cache, so an `fdatasync` of sled's file follows each flush.

use super::JournalError;
pub use super::record::{seal, unseal};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// sled's page cache. The journal only appends, so it needs little.
const CACHE_BYTES: u64 = 16 << 20;

/// An open segment.
pub struct Segment {
    db: sled::Db,
    /// sled's log file, opened once more in order to sync it.
    log: File,
}

/// What a segment holds, in the order of the numbers.
pub struct Content {
    /// Whole records.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Numbers of records whose checksum is wrong.
    pub damaged: Vec<u64>,
}

impl Segment {
    /// Opens the segment, or makes it. Where sled refuses, a copy without half-written snapshots is tried.
    ///
    /// # Errors
    /// `Open` if neither opens.
    pub fn open(path: &Path) -> Result<Segment, JournalError> {
        let reason = match try_open(path) {
            Ok(segment) => return Ok(segment),
            Err(reason) => reason,
        };
        tracing::warn!(path = %path.display(), reason, "a journal segment does not open; trying a copy");
        let refuse = |step: &str, error: String| JournalError::Open {
            path: path.to_owned(),
            reason: format!("{reason}; {step}: {error}"),
        };
        let copy = beside(path, "repair");
        if let Err(error) = repair(path, &copy) {
            // A failed copy must not fill the disk at each try; one that stays is only untidy.
            drop(std::fs::remove_dir_all(&copy));
            return Err(refuse("a copy", error));
        }
        // What refused to open is kept beside it: a person may want to look.
        std::fs::rename(path, beside(path, "refused"))
            .and_then(|()| std::fs::rename(&copy, path))
            .map_err(|e| refuse("putting the copy in its place", e.to_string()))?;
        try_open(path).map_err(|e| refuse("opening the copy in its place", e))
    }

    /// Writes records of consecutive numbers, `first` for the first, and waits until they are on disk.
    /// Returns the bytes written.
    ///
    /// # Errors
    /// `Write`, for example when the disk is full; then nothing of it may be acknowledged.
    pub fn append(&self, first: u64, bodies: &[Vec<u8>]) -> Result<u64, JournalError> {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (seq, body) in (first..).zip(bodies) {
            let value = seal(seq, body);
            bytes += value.len() as u64;
            batch.insert(&seq.to_be_bytes(), value);
        }
        // sled panics on some errors of the disk; to us it is the same refusal.
        let written = catch_unwind(AssertUnwindSafe(|| {
            self.db.apply_batch(batch)?;
            self.db.flush()
        }));
        match written {
            Ok(Ok(_)) => {
                self.log.sync_data().map_err(|e| JournalError::Write(e.to_string()))?;
                Ok(bytes)
            }
            Ok(Err(e)) => Err(JournalError::Write(e.to_string())),
            Err(_) => Err(JournalError::Write("the storage engine panicked".to_owned())),
        }
    }

    /// Reads all records.
    ///
    /// # Errors
    /// `Read` if the disk fails.
    pub fn read(&self) -> Result<Content, JournalError> {
        let mut content = Content { records: Vec::new(), damaged: Vec::new() };
        for item in self.db.iter() {
            let (key, value) = item.map_err(|e| JournalError::Read(e.to_string()))?;
            let Ok(key) = <[u8; 8]>::try_from(key.as_ref()) else {
                return Err(JournalError::Read("a key that is no record's number".to_owned()));
            };
            let seq = u64::from_be_bytes(key);
            match unseal(seq, &value) {
                Some(body) => content.records.push((seq, body.to_vec())),
                None => content.damaged.push(seq),
            }
        }
        Ok(content)
    }
}

fn try_open(path: &Path) -> Result<Segment, String> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None);
    let db = match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => db,
        Ok(Err(e)) => return Err(e.to_string()),
        Err(_) => return Err("the storage engine panicked".to_owned()),
    };
    let log = open_synced(path).map_err(|e| e.to_string())?;
    Ok(Segment { db, log })
}

/// Opens sled's log file, once the names of a new segment are on disk: its files, and the folder itself.
fn open_synced(path: &Path) -> std::io::Result<File> {
    File::open(path)?.sync_all()?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    File::open(path.join("db"))
}

/// Makes a copy that opens.
fn repair(path: &Path, copy: &Path) -> Result<(), String> {
    copy_folder(path, copy).map_err(|e| e.to_string())?;
    drop_half_written(copy).map_err(|e| e.to_string())?;
    let Err(reason) = try_open(copy) else { return Ok(()) };
    // sled writes a new segment's settings in two pieces, and its sum comes last: one that was killed in between refuses to
    // open, whatever is in it. Ours are always the same, and are written anew where there are none.
    std::fs::remove_file(copy.join("conf")).map_err(|_| reason)?;
    try_open(copy).map(drop)
}

/// Puts repaired copies in their places whose repair was cut off between its two renames: the segment is missing, and what
/// refused to open lies beside its copy. Without this its records would be missing unseen.
///
/// # Errors
/// `Open` if the folder cannot be read or changed.
pub fn finish_repairs(folder: &Path) -> Result<(), JournalError> {
    let refuse = |error: std::io::Error| JournalError::Open {
        path: folder.to_owned(),
        reason: format!("a repair that was cut off: {error}"),
    };
    let names = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let entries = std::fs::read_dir(folder).and_then(|all| all.map(names).collect());
    let entries: Vec<String> = entries.map_err(refuse)?;
    let of = |name: &str, word: &str| {
        let (number, segment) = name.strip_prefix(word)?.strip_prefix('-')?.split_once('-')?;
        number.parse::<u32>().ok().map(|_| segment.to_owned())
    };
    for repaired in &entries {
        let Some(segment) = of(repaired, "repair") else { continue };
        let refused = entries.iter().any(|name| of(name, "refused").as_ref() == Some(&segment));
        if refused && !entries.contains(&segment) {
            tracing::warn!(segment, "a repair was cut off; its copy takes the segment's place");
            std::fs::rename(folder.join(repaired), folder.join(&segment)).map_err(refuse)?;
        }
    }
    Ok(())
}

/// Puts a segment that does not open beside, for a person to look at; gives where it lies now.
///
/// # Errors
/// Those of the disk.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let aside = beside(path, "refused");
    let moved = std::fs::rename(path, &aside);
    moved.map_err(|e| JournalError::Write(format!("{}: {e}", path.display())))?;
    Ok(aside)
}

fn beside(path: &Path, word: &str) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut free = (1..).map(|n: u32| path.with_file_name(format!("{word}-{n}-{name}")));
    free.find(|candidate| !candidate.exists()).expect("there are more numbers than folders")
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn drop_half_written(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Flips a bit of a record, as a bad disk would that the storage engine does not notice.
#[cfg(test)]
pub(super) fn damage(path: &Path, seq: u64) {
    let db = Segment::open(path).expect("opens").db;
    let mut value = db.get(seq.to_be_bytes()).expect("reads").expect("is there").to_vec();
    *value.last_mut().expect("has bytes") ^= 1;
    db.insert(seq.to_be_bytes(), value).expect("writes");
    db.flush().expect("syncs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_back_after_opening_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("segment");
        let segment = Segment::open(&path).expect("opens");
        segment.append(1, &[b"a".to_vec(), b"b".to_vec()]).expect("appends");
        drop(segment);
        let content = Segment::open(&path).expect("opens again").read().expect("reads");
        assert_eq!(content.records, vec![(1, b"a".to_vec()), (2, b"b".to_vec())]);
        assert!(content.damaged.is_empty());
    }

    /// Promise: whoever is killed while a new segment is made finds a journal that opens.
    #[test]
    fn settings_that_were_cut_off_lose_no_record() {
        for left in [10, 20, 28] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let path = folder.path().join("segment-1");
            let segment = Segment::open(&path).expect("opens");
            segment.append(1, &[b"a".to_vec()]).expect("appends");
            drop(segment);
            let conf = path.join("conf");
            let whole = std::fs::read(&conf).expect("reads");
            std::fs::write(&conf, &whole[..left.min(whole.len() - 4)]).expect("writes");
            assert!(try_open(&path).is_err(), "{left} of {}", whole.len());
            let content = Segment::open(&path).expect("opens").read().expect("reads");
            assert_eq!(content.records, vec![(1, b"a".to_vec())]);
        }
    }

    /// Promise: a repair that is cut off loses nothing, and what was refused long ago takes no segment's place.
    #[test]
    fn a_repair_that_was_cut_off_is_finished() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| folder.path().join(name);
        let segment = Segment::open(&at("segment-1")).expect("opens");
        segment.append(1, &[b"a".to_vec()]).expect("appends");
        drop(segment);
        repair(&at("segment-1"), &at("repair-2-segment-1")).expect("is copied");
        std::fs::rename(at("segment-1"), at("refused-1-segment-1")).expect("is renamed");
        std::fs::create_dir(at("refused-1-segment-7")).expect("an old one");
        finish_repairs(folder.path()).expect("is finished");
        let content = Segment::open(&at("segment-1")).expect("opens").read().expect("reads");
        assert_eq!(content.records, vec![(1, b"a".to_vec())]);
        assert!(!at("segment-7").exists() && at("refused-1-segment-1").exists());
        finish_repairs(folder.path()).expect("has nothing to do");
    }
}
