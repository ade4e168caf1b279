//! The last of a disk is not the store's: the journal, which as a rule lies on it too, must still be able to record what
//! ends jobs and deletes their files, or nothing would ever make room again.
//!
//! A folder may lie on a network, and a look at it may hang for as long as that does: one task looks, and whoever
//! writes reads what it saw.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Free bytes below which nothing more is written: records and snapshots of some hours, and what a disk takes between
/// two looks at 500 MB/s.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// A disk that is not larger than this is one for tests.
const DISK_BYTES_MIN: u64 = 2 << 30;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The disk of a store in a folder.
pub(super) struct Space {
    folder: PathBuf,
    looking: AtomicBool,
    /// Whether it was full when it was looked at last; none before the first look.
    full: watch::Sender<Option<bool>>,
}

impl Space {
    /// Of the disk that has this folder.
    pub fn of(folder: &Path) -> Arc<Space> {
        let (full, _) = watch::channel(None);
        Arc::new(Space { folder: folder.to_owned(), looking: AtomicBool::new(false), full })
    }

    /// Refuses if hardly anything is free. The first who asks has it looked at from then on.
    ///
    /// # Errors
    /// `StorageFull`.
    pub async fn look(self: &Arc<Self>) -> std::io::Result<()> {
        self.look_with(is_full_now).await
    }

    async fn look_with(self: &Arc<Self>, look: fn(&Path) -> bool) -> std::io::Result<()> {
        if !self.looking.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_looking(Arc::downgrade(self), self.folder.clone(), look));
        }
        let mut full = self.full.subscribe();
        // A first look that hangs holds nobody up: what cannot be told is no reason to refuse.
        drop(tokio::time::timeout(LOOK_EVERY, full.wait_for(Option::is_some)).await);
        self.check()
    }

    /// The same by what was seen last: asked for each piece of a file, for a large one may be what fills the disk.
    ///
    /// # Errors
    /// `StorageFull`.
    pub fn check(&self) -> std::io::Result<()> {
        match *self.full.borrow() {
            Some(true) => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Says so once, and once that there is room again.
    fn saw(&self, full: bool) {
        let was = self.full.send_replace(Some(full)).unwrap_or(false);
        let folder = self.folder.display();
        if full && !was {
            tracing::error!(%folder, "the disk of the store is full: nothing more is stored, and jobs wait; make room");
        } else if was && !full {
            tracing::info!(%folder, "the disk of the store has room again");
        }
    }
}

/// Looks for as long as the store is there; one look that hangs is waited for, not joined by others.
async fn keep_looking(space: Weak<Space>, folder: PathBuf, look: fn(&Path) -> bool) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let folder = folder.clone();
        let seen = tokio::task::spawn_blocking(move || look(&folder)).await;
        let Some(space) = space.upgrade() else { return };
        space.saw(seen.unwrap_or(false));
    }
}

fn is_full_now(folder: &Path) -> bool {
    // What cannot be told is no reason to refuse: the disk itself will say.
    rustix::fs::statvfs(folder).is_ok_and(|disk| {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        is_full(bytes(disk.f_bavail), bytes(disk.f_blocks))
    })
}

fn is_full(free: u64, all: u64) -> bool {
    all > DISK_BYTES_MIN && free < FREE_BYTES_MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[tokio::test]
    async fn the_last_of_a_disk_is_left_to_the_journal() {
        assert!(is_full(FREE_BYTES_MIN - 1, DISK_BYTES_MIN + 1));
        assert!(!is_full(FREE_BYTES_MIN, DISK_BYTES_MIN + 1));
        assert!(!is_full(0, DISK_BYTES_MIN), "a small disk is used to its end");
        Space::of(Path::new("/no such folder")).look().await.expect("nothing is known of it");
    }

    #[tokio::test]
    async fn a_full_disk_is_full_until_it_has_room_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let space = Space::of(folder.path());
        let look: fn(&Path) -> bool = |folder| folder.join("full").exists();
        std::fs::write(folder.path().join("full"), "").expect("writes");
        let refused = space.look_with(look).await.expect_err("is full");
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
        std::fs::remove_file(folder.path().join("full")).expect("removes");
        let mut full = space.full.subscribe();
        full.wait_for(|full| *full == Some(false)).await.expect("is looked at again");
        space.look_with(look).await.expect("has room");
    }

    /// Promise: a folder whose network hangs takes no thread from the rest of the farm, and is asked once.
    #[tokio::test]
    async fn a_look_that_hangs_holds_up_nobody() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        static ANSWERS: AtomicBool = AtomicBool::new(false);
        let hangs: fn(&Path) -> bool = |_| {
            LOOKS.fetch_add(1, Ordering::Relaxed);
            while !ANSWERS.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            true
        };
        let space = Space::of(Path::new("/"));
        // This runtime has one thread, and that is free all the while.
        for _ in 0..4 {
            space.look_with(hangs).await.expect("is not known to be full");
        }
        assert_eq!(LOOKS.load(Ordering::Relaxed), 1);
        ANSWERS.store(true, Ordering::Relaxed);
        let mut full = space.full.subscribe();
        full.wait_for(|full| *full == Some(true)).await.expect("answers after all");
        space.check().expect_err("is full");
    }
}
