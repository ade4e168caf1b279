//! The address of a model folder, and what of it was hashed before.
//!
//! A folder may have 144 GB, so its files are hashed side by side, and their digests kept in a book from one start to the
//! next. Called when a worker starts; the model code knows nothing of it.

use crate::model::{Fault, ModelError, list_files};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use zoetrope_protocol::ArtifactId;

/// Files that are hashed at once: a fast disk gives what so many cores can hash.
const THREADS: usize = 4;
/// How often it is said how far that is.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// A file that was changed so shortly before could be changed again without its times telling.
const SETTLED: Duration = Duration::from_secs(5);
/// Of a book at most: some thousand files. A larger one is none of ours.
const BOOK_BYTES_MAX: u64 = 4 << 20;

/// SHA-256 over the path, length and digest of every file that decides what a model renders (weights, configs, tokenizer),
/// in the order of their paths. Read-me files do not count. `book`: a file that keeps digests.
///
/// # Errors
/// `ModelError` of stage `fingerprint` if a file cannot be read.
pub fn of(folder: &Path, book: Option<&Path>) -> Result<ArtifactId, ModelError> {
    at(folder, book, SystemTime::now()).map_err(ModelError::at("fingerprint"))
}

fn at(folder: &Path, book: Option<&Path>, now: SystemTime) -> Result<ArtifactId, Fault> {
    let folder = folder.canonicalize().map_err(|error| Fault::file(folder, error))?;
    let mut files = Vec::new();
    list_files(&folder, &mut files)?;
    files.sort();
    let mut known = book.map(Book::read).unwrap_or_default();
    let facts = files.iter().map(|file| Facts::of(file)).collect::<Result<Vec<_>, _>>()?;
    let before = files.iter().zip(&facts).map(|(file, facts)| known.digest(file, facts));
    let mut digests: Vec<Option<ArtifactId>> = before.collect();
    let mut missing: Vec<usize> = (0..files.len()).filter(|n| digests[*n].is_none()).collect();
    // The longest first, so that none is left alone at the end.
    missing.sort_by_key(|n| std::cmp::Reverse(facts[*n].bytes));
    let bytes = missing.iter().map(|n| facts[*n].bytes).sum();
    hash(&files, &missing, bytes, &mut digests)?;
    let mut all = Sha256::new();
    for ((file, facts), digest) in files.iter().zip(&facts).zip(&digests) {
        let name = file.strip_prefix(&folder).expect("listed below folder").to_string_lossy();
        // Length before content, so that no two folders share a stream of bytes.
        all.update((name.len() as u64).to_le_bytes());
        all.update(name.as_bytes());
        all.update(facts.bytes.to_le_bytes());
        all.update(digest.expect("each was known or hashed").0);
    }
    if let Some(book) = book.filter(|_| !missing.is_empty()) {
        for n in missing {
            if let Some(digest) = digests[n]
                && facts[n].is_settled(now)
                && Facts::of(&files[n])? == facts[n]
            {
                known.0.insert(files[n].clone(), Known { facts: facts[n], digest });
            }
        }
        known.write(book);
    }
    Ok(ArtifactId(all.finalize().into()))
}

/// Hashes the files of these numbers.
fn hash(
    files: &[PathBuf],
    numbers: &[usize],
    bytes: u64,
    digests: &mut [Option<ArtifactId>],
) -> Result<(), Fault> {
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (sender, hashed) = channel();
        for _ in 0..THREADS.min(numbers.len()) {
            let (sender, next, done) = (sender.clone(), &next, &done);
            scope.spawn(move || {
                while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((*number, digest(&files[*number], done))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut told = Instant::now();
        loop {
            match hashed.recv_timeout(TOLD_EVERY.saturating_sub(told.elapsed())) {
                Ok((number, digest)) => digests[number] = Some(digest?),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                let tenths = |bytes: u64| bytes as f64 / 1e9;
                let (done, all) = (tenths(done.load(Ordering::Relaxed)), tenths(bytes));
                tracing::info!("hashing the model: {done:.1} of {all:.1} GB");
            }
        }
    })
}

fn digest(path: &Path, done: &AtomicU64) -> Result<ArtifactId, Fault> {
    let failed = |error| Fault::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut digest, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(ArtifactId(digest.finalize().into())),
            count => {
                digest.update(&piece[..count]);
                done.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

/// What tells whether a file is still the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    bytes: u64,
    device: u64,
    inode: u64,
    modified_ns: i64,
    /// Nobody can set this one.
    changed_ns: i64,
}

impl Facts {
    fn of(path: &Path) -> Result<Facts, Fault> {
        let facts: Metadata = std::fs::metadata(path).map_err(|error| Fault::file(path, error))?;
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(Facts {
            bytes: facts.len(),
            device: facts.dev(),
            inode: facts.ino(),
            modified_ns: ns(facts.mtime(), facts.mtime_nsec()),
            changed_ns: ns(facts.ctime(), facts.ctime_nsec()),
        })
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(SETTLED);
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        self.modified_ns.max(self.changed_ns) < now
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    facts: Facts,
    digest: ArtifactId,
}

/// What was hashed before, by path.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Book(BTreeMap<PathBuf, Known>);

impl Book {
    /// One that is missing or damaged knows nothing.
    fn read(path: &Path) -> Book {
        let text = std::fs::metadata(path).is_ok_and(|facts| facts.len() <= BOOK_BYTES_MAX);
        let text = text.then(|| std::fs::read(path).ok()).flatten();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn digest(&self, path: &Path, facts: &Facts) -> Option<ArtifactId> {
        self.0.get(path).filter(|known| known.facts == *facts).map(|known| known.digest)
    }

    /// Without it the next start takes longer, and nothing else.
    fn write(&mut self, path: &Path) {
        self.0.retain(|file, _| file.exists());
        let beside = path.with_extension("new");
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        let written = text
            .and_then(|text| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, path));
        if let Err(error) = written {
            tracing::warn!(%error, "the digests of the model are not kept: {}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder.join("vae")).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn a_fingerprint_sees_names_and_bytes_and_no_read_me() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "manifest.json", "{}");
        write(folder, "vae/config.json", "{}");
        let first = of(folder, None).unwrap();
        write(folder, "README.md", "a toy");
        assert_eq!(of(folder, None).unwrap(), first);
        write(folder, "vae/config.json", "{ }");
        assert_ne!(of(folder, None).unwrap(), first);
        write(folder, "vae/config.json", "{}");
        assert_eq!(of(folder, None).unwrap(), first);
        std::fs::rename(folder.join("vae/config.json"), folder.join("vae/other.json")).unwrap();
        assert_ne!(of(folder, None).unwrap(), first);
    }

    /// Promise: a file is hashed once, and again when it was changed; one that was changed just now may be changed again.
    #[test]
    fn what_was_hashed_is_known_until_it_changes() {
        let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (folder, book) = (folder.path(), data.path().join("digests.json"));
        for n in 0..9 {
            write(folder, &format!("{n}.safetensors"), &n.to_string());
        }
        let now = SystemTime::now();
        let first = at(folder, Some(&book), now).unwrap();
        assert!(Book::read(&book).0.is_empty(), "they are too new");
        let later = now + Duration::from_secs(3_600);
        assert_eq!(at(folder, Some(&book), later).unwrap(), first);
        let mut known = Book::read(&book);
        assert_eq!(known.0.len(), 9);
        // Another digest shows that the file was not read.
        known.0.values_mut().next().unwrap().digest = ArtifactId([7; 32]);
        known.write(&book);
        assert_ne!(at(folder, Some(&book), later).unwrap(), first);
        // As long as it was, and another file.
        write(folder, "new", "0");
        std::fs::rename(folder.join("new"), folder.join("0.safetensors")).unwrap();
        assert_eq!(at(folder, Some(&book), later).unwrap(), first);
        std::fs::write(&book, "no book").unwrap();
        assert_eq!(at(folder, Some(&book), later).unwrap(), first);
        std::fs::remove_file(folder.join("8.safetensors")).unwrap();
        write(folder, "7.safetensors", "8");
        assert_ne!(at(folder, Some(&book), later).unwrap(), first);
        assert_eq!(Book::read(&book).0.len(), 8, "what is gone is forgotten");
    }
}
