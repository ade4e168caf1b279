//! The journal: every input, on disk before anything that it causes leaves the process.
//!
//! Records are numbered from 1 without a gap. They lie in a [`log::Log`]: on this machine's disk ([`disk`]:
//! segments and snapshot files) or in etcd ([`shared`]). A snapshot stands for all records up to its number,
//! and what lies wholly behind the second newest one is removed. [`open`] and [`shared::open`] recover,
//! [`actor::JournalActor`] appends with group commit on a thread of its own.
//! Bytes in, bytes out: what a record means is the dispatch actor's business.

pub mod actor;
mod chunk;
mod disk;
pub mod log;
mod record;
pub mod recovery;
pub mod segment;
pub mod shared;
pub mod snapshot;
pub mod writer;

pub use actor::{JournalActor, JournalArguments, JournalMsg, JournalView};
pub use log::{Form, SnapshotBody, SnapshotBytes};
pub use recovery::{Loss, Recovered, open};

use std::path::{Path, PathBuf};

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal in {0} is in use by another process")]
    InUse(PathBuf),
    /// A segment does not open, and neither does its repaired copy.
    #[error(
        "journal segment {path} does not open: {reason}. Restore the data folder from a backup, or start with \
         --accept-journal-loss to go on without its records"
    )]
    Open {
        /// The segment's folder.
        path: PathBuf,
        /// What the storage engine said.
        reason: String,
    },
    /// Records that were acknowledged are not there.
    #[error(
        "journal records are missing: {0}. Restore the data folder from a backup, or start with \
         --accept-journal-loss to go on without them"
    )]
    Missing(Loss),
    /// The disk refused to write. A full disk ends here.
    #[error("the journal cannot be written: {0}")]
    Write(String),
    /// The disk refused to read.
    #[error("the journal cannot be read: {0}")]
    Read(String),
    /// Another coordinator leads: nothing of this one's is written any more.
    #[error("another coordinator leads, and this one's records are refused")]
    Deposed,
}

/// The numbers behind `prefix` in the names of a folder, ascending. Other names are not ours.
fn numbered(folder: &Path, prefix: &str) -> Result<Vec<u64>, JournalError> {
    let read = |e: std::io::Error| JournalError::Read(e.to_string());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(prefix)).filter(|n| n.len() == 20);
        found.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests;
