//! Recovery: the books as the journal tells them.

use super::books::{Books, Entry, Record, SnapshotError};
use crate::journal::writer::Writer;
use crate::journal::{JournalError, Loss, Recovered};
use std::time::{Duration, Instant};
use zoetrope_protocol::codec::{self, CodecError};
use zoetrope_protocol::id::Millis;
use zoetrope_sched::{Config, DECISIONS};

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
    /// A record that tells something else here than where it was written.
    #[error(
        "journal record {seq} was written by a release whose decisions have {}, those of this program have number          {DECISIONS}: start the release that wrote it once more and stop it in good order, for it then leaves a snapshot          that stands for all records",
        number(of)
    )]
    Decisions {
        /// Its number.
        seq: u64,
        /// The number of the decisions, as far as anybody said.
        of: Option<u32>,
    },
}

fn number(of: &Option<u32>) -> String {
    of.map_or_else(|| "no number".to_owned(), |of| format!("number {of}"))
}

/// The books behind a snapshot and the records that follow it. No setting of now has a say in what they tell.
///
/// # Errors
/// `Snapshot`, `Record`, `Decisions`.
pub fn rebuild(
    snapshot: Option<&[u8]>,
    records: Vec<(u64, Vec<u8>)>,
) -> Result<Books, RecoveryError> {
    let books = match snapshot {
        Some(bytes) => Books::from_snapshot(bytes)?,
        None => Books::new(Config::default()),
    };
    replay(books, records)
}

fn replay(mut books: Books, records: Vec<(u64, Vec<u8>)>) -> Result<Books, RecoveryError> {
    for (seq, bytes) in records {
        // Proven whole by the journal, and written without a limit: one must not refuse here what it acknowledged there.
        let record: Record = codec::decode_trusted(&bytes)
            .map_err(|source| RecoveryError::Record { seq, source })?;
        // Other decisions would place shards elsewhere, and what was made and reported since would be nobody's.
        let says = matches!(record.entry, Entry::DecisionsSet { .. });
        if !says && books.decisions() != Some(DECISIONS) {
            return Err(RecoveryError::Decisions { seq, of: books.decisions() });
        }
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
) -> Result<Recovery, RecoveryError> {
    let began = Instant::now();
    let recovered = open()?;
    let mut books = match &recovered.snapshot {
        Some((_, bytes)) => Books::restore(bytes)?,
        None => Books::new(Config::default()),
    };
    if recovered.loss.is_some() {
        // The word of it may be among what is lost, and an operator wants what is left.
        books.presume_decisions(DECISIONS);
    }
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
    use crate::config::ServeConfig;
    use crate::dispatch::{DispatchLimits, opening};
    use crate::jobs::WorkerFacts;
    use crate::models::Models;
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
        let books = rebuild(None, journal([by(DECISIONS), entry])).expect("is replayed");
        assert!(books.table.worker(worker).is_some());
    }

    fn by(decisions: u32) -> Entry {
        Entry::DecisionsSet { decisions }
    }

    fn journal<const N: usize>(entries: [Entry; N]) -> Vec<(u64, Vec<u8>)> {
        let record = |entry| Record { now: Millis(1), epoch: Epoch(1), entry };
        let bytes = entries.map(|entry| codec::encode(&record(entry)).expect("encodes"));
        (1..).zip(bytes).collect()
    }

    /// Promise: what another release decided is not decided once more; a snapshot that stands for all of it is taken up.
    #[test]
    fn records_of_other_decisions_are_refused_and_a_snapshot_of_theirs_is_not() {
        let began = || Entry::Core(Input::EpochBegan { epoch: Epoch(1) });
        let refused = |snapshot: Option<&[u8]>, records| match rebuild(snapshot, records) {
            Err(RecoveryError::Decisions { seq, of }) => (seq, of),
            other => panic!("{:?}", other.err()),
        };
        let other = DECISIONS + 1;
        assert_eq!(refused(None, journal([began()])), (1, None));
        assert_eq!(refused(None, journal([by(other), began()])), (2, Some(other)));
        let changed = journal([by(DECISIONS), began(), by(other), began(), by(DECISIONS)]);
        assert_eq!(refused(None, changed), (4, Some(other)));

        let mut theirs = rebuild(None, journal([by(other)])).expect("nothing was decided");
        drop(theirs.apply(Millis(1), began()));
        let theirs = theirs.snapshot().encode().expect("encodes");
        assert_eq!(refused(Some(&theirs), journal([began()])), (1, Some(other)));
        let again = rebuild(Some(&theirs), journal([by(DECISIONS), began()])).expect("is ours");
        assert_eq!(again.decisions(), Some(DECISIONS));
    }

    /// Promise: a replay decides as the farm did, whatever is configured meanwhile; and what is configured is in force.
    #[test]
    fn a_replay_knows_no_settings_and_a_start_does() {
        let models = Models::with(&[]).expect("the default model");
        let limits = |text: &str| {
            let config = ServeConfig::parse(text).expect("parses");
            config.dispatch_limits().expect("is good")
        };
        let (mut records, mut live) = (Vec::new(), Books::new(Config::default()));
        let mut begin = |books: &mut Books, limits: &DispatchLimits| {
            for entry in opening(books, &models, limits) {
                let seq = records.len() as u64 + 1;
                let record = Record { now: Millis(seq), epoch: books.core.epoch(), entry };
                records.push((seq, codec::encode(&record).expect("encodes")));
                drop(books.apply(record.now, record.entry));
            }
            records.clone()
        };
        for seconds in [900, 2_000, 2_000, 10] {
            let limits = limits(&format!("[link]\nload_seconds = {seconds}\n"));
            let recorded = begin(&mut live, &limits);
            assert_eq!(live.core.config().verdict_grace, limits.verdict_grace);
            let replayed = rebuild(None, recorded).expect("is replayed").snapshot().encode();
            let snapshot = live.snapshot().encode().expect("encodes");
            assert_eq!(replayed.expect("encodes"), snapshot, "{seconds}");
            // A snapshot knows no settings either.
            live = rebuild(Some(&snapshot), Vec::new()).expect("is read");
        }
    }
}
