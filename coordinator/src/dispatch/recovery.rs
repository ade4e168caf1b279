//! Recovery: the books as the journal tells them.

use super::books::{Books, Record, SnapshotError};
use crate::journal::writer::Writer;
use crate::journal::{JournalError, Loss, Recovered};
use std::time::{Duration, Instant};
use zoetrope_protocol::codec::{self, CodecError};
use zoetrope_protocol::id::Millis;
use zoetrope_sched::Config;

/// What recovery gives.
pub struct Recovery {
    /// The books as they were.
    pub books: Books,
    /// Appends to the journal.
    pub writer: Writer,
    /// When the snapshot was taken, by the journal's clock, if there is one.
    pub snapshot: Option<Millis>,
    /// Records behind the snapshot that were replayed.
    pub replayed: usize,
    /// What was lost and accepted.
    pub loss: Option<Loss>,
    /// How long it took.
    pub took: Duration,
}

/// Why the books cannot be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A record that is whole and not ours.
    #[error(
        "journal record {seq} does not decode: it was written by another version of this program"
    )]
    Record {
        /// Its number.
        seq: u64,
        /// What the codec says.
        source: CodecError,
    },
}

/// The books behind a snapshot and the records that follow it. `config` counts where there is no snapshot.
///
/// # Errors
/// `Snapshot`, `Record`.
pub fn rebuild(
    snapshot: Option<&[u8]>,
    records: Vec<(u64, Vec<u8>)>,
    config: Config,
) -> Result<Books, RecoveryError> {
    let books = match snapshot {
        Some(bytes) => Books::from_snapshot(bytes)?,
        None => Books::new(config),
    };
    replay(books, records)
}

fn replay(mut books: Books, records: Vec<(u64, Vec<u8>)>) -> Result<Books, RecoveryError> {
    for (seq, bytes) in records {
        // Proven whole by the journal, and written without a limit: one must not refuse here what it acknowledged there.
        let record: Record = codec::decode_trusted(&bytes)
            .map_err(|source| RecoveryError::Record { seq, source })?;
        // What it caused was carried out then, or is caused again by the new epoch.
        drop(books.apply(record.now, record.entry));
    }
    Ok(books)
}

/// Opens the journal and applies it: the newest snapshot, then every record behind it.
///
/// # Errors
/// `RecoveryError`: the farm must not start on less than what it acknowledged.
pub fn recover(
    open: impl FnOnce() -> Result<Recovered, JournalError>,
    config: Config,
) -> Result<Recovery, RecoveryError> {
    let began = Instant::now();
    let recovered = open()?;
    let books = match &recovered.snapshot {
        Some((_, bytes)) => Books::restore(bytes)?,
        None => Books::new(config),
    };
    let snapshot = recovered.snapshot.is_some().then(|| books.now());
    let replayed = recovered.records.len();
    let books = replay(books, recovered.records)?;
    Ok(Recovery {
        books,
        writer: recovered.writer,
        snapshot,
        replayed,
        loss: recovered.loss,
        took: began.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::books::Entry;
    use crate::jobs::WorkerFacts;
    use zoetrope_protocol::id::{Epoch, WorkerId};
    use zoetrope_protocol::wire::FRAME_BYTES_MAX;
    use zoetrope_sched::Input;

    /// Promise: whatever was journalled is read again, also what is larger than a peer's message may be.
    #[test]
    fn a_record_larger_than_a_frame_is_replayed() {
        let worker = WorkerId(1);
        let node = "w".repeat(FRAME_BYTES_MAX);
        let words = || "cpu".to_owned();
        let facts = WorkerFacts { node, pool: words(), gpu_kind: words(), models: Vec::new() };
        let entry = Entry::Joined { worker, facts, input: Input::WorkerLeft { worker } };
        let bytes = codec::encode(&Record { now: Millis(1), epoch: Epoch(1), entry });
        let records = vec![(1, bytes.expect("encodes"))];
        let books = rebuild(None, records, Config::default()).expect("is replayed");
        assert!(books.table.worker(worker).is_some());
    }
}
