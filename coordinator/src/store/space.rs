//! The last of a disk is not the store's: the journal, which as a rule lies on it too, must still be able to record what
//! ends jobs and deletes their files, or nothing would ever make room again.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Free bytes below which nothing more is put: records and snapshots of some hours.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// A disk that is not larger than this is one for tests.
const DISK_BYTES_MIN: u64 = 2 << 30;
/// Between two looks: in that time a fast link brings a small part of [`FREE_BYTES_MIN`] for each upload.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The disk of a store in a folder.
pub(super) struct Space {
    folder: PathBuf,
    /// When it was looked at, and whether it was full.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Space {
    /// Of the disk that has this folder.
    pub fn of(folder: &Path) -> Space {
        Space { folder: folder.to_owned(), last: Mutex::default() }
    }

    /// Refuses if hardly anything is free. Says so once, and once that there is room again.
    ///
    /// # Errors
    /// `StorageFull`.
    pub fn look(&self) -> std::io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let was = last.is_some_and(|(_, full)| full);
        let full = match *last {
            Some((at, full)) if at.elapsed() < LOOK_EVERY => full,
            // What cannot be told is no reason to refuse: the disk itself will say.
            _ => rustix::fs::statvfs(&self.folder).is_ok_and(|disk| {
                let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
                is_full(bytes(disk.f_bavail), bytes(disk.f_blocks))
            }),
        };
        if full != was {
            *last = Some((Instant::now(), full));
            let folder = self.folder.display();
            if full {
                tracing::error!(%folder, "the disk of the store is full: nothing more is stored, and jobs wait; make room");
            } else {
                tracing::info!(%folder, "the disk of the store has room again");
            }
        } else if last.is_none_or(|(at, _)| at.elapsed() >= LOOK_EVERY) {
            *last = Some((Instant::now(), full));
        }
        if full { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn is_full(free: u64, all: u64) -> bool {
    all > DISK_BYTES_MIN && free < FREE_BYTES_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_disk_is_left_to_the_journal() {
        assert!(is_full(FREE_BYTES_MIN - 1, DISK_BYTES_MIN + 1));
        assert!(!is_full(FREE_BYTES_MIN, DISK_BYTES_MIN + 1));
        assert!(!is_full(0, DISK_BYTES_MIN), "a small disk is used to its end");
        let space = Space::of(Path::new("/no such folder"));
        space.look().expect("nothing is known of it");
    }

    #[test]
    fn a_full_disk_is_full_until_it_is_looked_at_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let space = Space::of(folder.path());
        *space.last.lock().expect("no panic") = Some((Instant::now(), true));
        let refused = space.look().expect_err("is full");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    }
}
