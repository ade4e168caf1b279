//! Where a journal's bytes lie: on this machine's disk ([`super::disk`]) or in etcd ([`super::shared`]).
//!
//! The writer above it is the same for both, and so are the record's bytes and the rules of recovery. All calls
//! block; they come from the journal's own thread.

use super::JournalError;

/// A place that keeps records and snapshots.
pub trait Log: Send {
    /// Writes records of consecutive numbers, `first` for the first, and returns when all of them are durable.
    /// Returns the bytes written.
    ///
    /// # Errors
    /// `Write`, `Deposed`: none of them may be acknowledged, and the log must not be used any more.
    fn append(&mut self, first: u64, bodies: &[Vec<u8>]) -> Result<u64, JournalError>;

    /// A snapshot of the state behind record `through` is about to be made. What is returned saves it, and may
    /// run on another thread while records are appended.
    ///
    /// # Errors
    /// `Write`.
    fn begin_snapshot(&mut self, through: u64) -> Result<Save, JournalError>;

    /// A snapshot is safe: what lies wholly behind the second newest one goes.
    ///
    /// # Errors
    /// `Write`, `Read`, `Deposed`.
    fn forget(&mut self) -> Result<(), JournalError>;
}

/// Saves a snapshot and returns when it is durable.
pub type Save = Box<dyn FnOnce(SnapshotBody) -> Result<(), JournalError> + Send>;

/// Makes the bytes of a snapshot; runs on a thread of its own.
pub type SnapshotBody = Box<dyn FnOnce(Form) -> Result<SnapshotBytes, JournalError> + Send>;

/// How a place wants its snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All in one.
    Whole,
    /// What lives apart from what only remembers; anything that takes more than so many bytes alone counts as
    /// the latter.
    Split {
        /// The bytes.
        item_bytes: usize,
    },
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotBytes {
    /// What lives, or all of it.
    pub live: Vec<u8>,
    /// The rest, where it was asked for apart.
    pub rest: Vec<u8>,
}

impl From<Vec<u8>> for SnapshotBytes {
    fn from(live: Vec<u8>) -> SnapshotBytes {
        SnapshotBytes { live, rest: Vec::new() }
    }
}
