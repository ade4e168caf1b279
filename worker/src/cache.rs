//! Artifacts on the worker's disk, so that it need not fetch what it made itself.
//!
//! Files named by their address, the least recently used removed first. Losing any of them is harmless: the
//! store has them all. Used by the gpu thread (read, put) and by the link's receiving tasks (temporary names).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use zoetrope_protocol::ArtifactId;

/// Default size: the checkpoints of six renders of the longest kind, 330 MB each.
pub const CACHE_BYTES_DEFAULT: u64 = 2 << 30;

#[derive(Default)]
struct Index {
    /// Size and last use of each file.
    files: BTreeMap<ArtifactId, (u64, u64)>,
    bytes: u64,
    uses: u64,
}

/// The cache.
pub struct ArtifactCache {
    folder: PathBuf,
    limit_bytes: u64,
    index: Mutex<Index>,
    temporary: AtomicU64,
}

impl ArtifactCache {
    /// Opens `folder`, made if it is missing; what lies there is kept, oldest first, as far as it fits.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn open(folder: PathBuf, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let facts = entry.metadata()?;
            match entry.file_name().to_string_lossy().parse::<ArtifactId>() {
                Ok(id) if facts.is_file() => found.push((facts.modified()?, id, facts.len())),
                // Half-received files of an earlier process.
                _ if facts.is_file() => fs::remove_file(entry.path())?,
                _ => {}
            }
        }
        found.sort();
        let cache = ArtifactCache {
            folder,
            limit_bytes,
            index: Mutex::default(),
            temporary: AtomicU64::new(0),
        };
        for (_, id, bytes) in found {
            cache.note(id, bytes);
        }
        Ok(cache)
    }

    fn path(&self, id: ArtifactId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A name that nobody uses, for bytes that are not proven yet.
    pub fn temporary_path(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("receiving-{number}"))
    }

    /// The bytes of an artifact, if they are here and still what the address says.
    pub fn read(&self, id: ArtifactId) -> Option<Vec<u8>> {
        if !self.index().files.contains_key(&id) {
            return None;
        }
        let bytes = fs::read(self.path(id)).ok();
        let good = bytes.filter(|bytes| ArtifactId::of(bytes) == id);
        if good.is_none() {
            tracing::warn!(artifact = %id, "a cached artifact is damaged, it will be fetched again");
            self.forget(id);
            return None;
        }
        let mut index = self.index();
        index.uses += 1;
        let now = index.uses;
        if let Some((_, used)) = index.files.get_mut(&id) {
            *used = now;
        }
        good
    }

    /// Keeps bytes whose address is known. A full or broken disk is no error here.
    pub fn put(&self, id: ArtifactId, bytes: &[u8]) {
        if bytes.len() as u64 > self.limit_bytes || self.index().files.contains_key(&id) {
            return;
        }
        let path = self.temporary_path();
        match fs::write(&path, bytes) {
            Ok(()) => self.adopt(id, &path),
            Err(error) => {
                tracing::debug!(%error, "an artifact was not cached");
                fs::remove_file(&path).ok();
            }
        }
    }

    /// Takes over a proven file under its address.
    pub fn adopt(&self, id: ArtifactId, path: &Path) {
        let bytes = fs::metadata(path).map_or(0, |facts| facts.len());
        if bytes <= self.limit_bytes && fs::rename(path, self.path(id)).is_ok() {
            self.note(id, bytes);
        } else {
            fs::remove_file(path).ok();
        }
    }

    fn note(&self, id: ArtifactId, bytes: u64) {
        let mut index = self.index();
        index.uses += 1;
        let entry = (bytes, index.uses);
        if let Some((old, _)) = index.files.insert(id, entry) {
            index.bytes -= old;
        }
        index.bytes += bytes;
        while index.bytes > self.limit_bytes {
            let oldest = index.files.iter().min_by_key(|(_, (_, used))| *used);
            let Some((&victim, &(size, _))) = oldest else { break };
            index.files.remove(&victim);
            index.bytes -= size;
            fs::remove_file(self.path(victim)).ok();
        }
    }

    fn forget(&self, id: ArtifactId) {
        let mut index = self.index();
        if let Some((bytes, _)) = index.files.remove(&id) {
            index.bytes -= bytes;
        }
        fs::remove_file(self.path(id)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first_and_damage_is_noticed() {
        let folder = tempfile::tempdir().expect("folder");
        let cache = ArtifactCache::open(folder.path().join("a"), 25).expect("opens");
        let ids: Vec<ArtifactId> = (0..3u8)
            .map(|n| {
                let bytes = [n; 10];
                let id = ArtifactId::of(&bytes);
                cache.put(id, &bytes);
                if n == 1 {
                    assert!(cache.read(ArtifactId::of(&[0; 10])).is_some());
                }
                id
            })
            .collect();
        assert!(cache.read(ids[1]).is_none(), "the second was used least recently");
        assert_eq!(cache.read(ids[0]), Some(vec![0; 10]));
        fs::write(cache.path(ids[2]), b"0123456789").expect("writes");
        assert!(cache.read(ids[2]).is_none());
        assert!(!cache.path(ids[2]).exists());
        cache.put(ArtifactId::of(&[9; 26]), &[9; 26]);
        assert!(cache.read(ArtifactId::of(&[9; 26])).is_none(), "too large to keep");
    }

    #[test]
    fn a_restart_keeps_whole_files_only() {
        let folder = tempfile::tempdir().expect("folder");
        let id = ArtifactId::of(b"whole");
        {
            let cache = ArtifactCache::open(folder.path().into(), 100).expect("opens");
            cache.put(id, b"whole");
            fs::write(cache.temporary_path(), b"half").expect("writes");
        }
        let cache = ArtifactCache::open(folder.path().into(), 100).expect("opens");
        assert_eq!(cache.read(id), Some(b"whole".to_vec()));
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
    }
}
