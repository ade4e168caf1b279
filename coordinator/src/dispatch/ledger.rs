//! The ledger: what is on its way to the disk, and what waits for it to get there.
//!
//! Pure, so that the simulation holds it against disks that lose, tear and stall. Nothing leaves [`Ledger::due`]
//! before every record in front of it is on disk. Used by the dispatch actor alone.

use super::books::{Books, Effects, Entry, Record};
use std::collections::VecDeque;
use zoetrope_protocol::codec;
use zoetrope_protocol::id::Millis;
use zoetrope_protocol::mutant::{Mutant, on};

/// The record behind which the next snapshot is due, where a start whose next record is `next` had to replay so many:
/// they count, or a coordinator that starts more often than it records would never take one.
pub fn snapshot_due(next: u64, replayed: u64, every: u64) -> u64 {
    next.saturating_sub(replayed) + every
}

/// Numbers records, and holds effects of the kind `E` back.
pub struct Ledger<E> {
    next: u64,
    synced: u64,
    staged: Vec<Vec<u8>>,
    held: VecDeque<(u64, E)>,
}

impl<E> Ledger<E> {
    /// A ledger whose next record has this number; all before it are on disk.
    pub fn new(next: u64) -> Self {
        Ledger { next, synced: next - 1, staged: Vec::new(), held: VecDeque::new() }
    }

    /// Puts an entry on its way to the disk and into the books. What it causes is to be given to
    /// [`after_sync`](Ledger::after_sync) before the next record.
    pub fn record(&mut self, books: &mut Books, now: Millis, entry: Entry) -> Effects {
        // The clock may jump back; the journal's time does not.
        let now = now.max(books.now());
        let record = Record { now, epoch: books.core.epoch(), entry };
        let bytes = codec::encode(&record)
            .expect("the journal's types have no part that cannot be encoded");
        self.staged.push(bytes);
        self.next += 1;
        books.apply(now, record.entry)
    }

    /// Holds an effect back until all that was recorded so far is on disk.
    pub fn after_sync(&mut self, effect: E) {
        self.held.push_back((self.next - 1, effect));
    }

    /// All records up to this number are on disk.
    pub fn synced(&mut self, through: u64) {
        self.synced = self.synced.max(through);
    }

    /// The next effect that waits for nothing any more.
    pub fn due(&mut self) -> Option<E> {
        let synced = if on(Mutant::AcknowledgeBeforeSync) { u64::MAX } else { self.synced };
        self.held.pop_front_if(|(seq, _)| *seq <= synced).map(|(_, effect)| effect)
    }

    /// Records that the journal has not been given yet.
    pub fn take_staged(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.staged)
    }

    /// The number of the last record made.
    pub fn recorded(&self) -> u64 {
        self.next - 1
    }

    /// The number of the last record on disk.
    pub fn on_disk(&self) -> u64 {
        self.synced
    }

    /// Effects that wait for the disk.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
