//! The attempts that this worker answers for, and the fence that each of them has now.
//!
//! Pure: no clock, no IO. An attempt stays here from its order until nobody needs its report any more. The
//! wire has no acknowledgement of a report, so a report that was sent is kept as long as its frame could
//! still be lost with the connection: the next `Hello` names it again.

use crate::report::{AttemptKey, Report};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zoetrope_protocol::ShardId;
use zoetrope_protocol::wire::{Held, Kept};

/// A report that was written to a connection that still lives after this time has arrived: QUIC repeats lost
/// packets or ends the connection within the idle time-out of 20 s.
const REPORT_KEPT: Duration = Duration::from_secs(60);
/// Reports kept at most, the newest: a connection has no more frames under way than a few, and a `Hello` names
/// at most 64 attempts.
const REPORTS_KEPT_MAX: usize = 32;
/// Running and waiting attempts at once: one on the gpu thread, one behind it.
pub const LIVE_MAX: usize = 2;

/// An attempt in the table, and what hangs on it.
pub struct Entry<A> {
    /// Its name in this process.
    pub key: AttemptKey,
    /// Its name on the wire, with the newest fence.
    pub held: Held,
    /// The work itself.
    pub work: A,
    /// Whether the gpu thread took it up.
    pub begun: bool,
    /// How it ended, if it has.
    pub report: Option<Report>,
    /// In which session the report was written, and when.
    sent: Option<(u64, Instant)>,
}

/// The table.
pub struct AttemptTable<A> {
    entries: BTreeMap<AttemptKey, Entry<A>>,
    last_key: u64,
}

impl<A> Default for AttemptTable<A> {
    fn default() -> Self {
        AttemptTable { entries: BTreeMap::new(), last_key: 0 }
    }
}

impl<A> AttemptTable<A> {
    /// Enters an attempt, whose work is made once it has its key.
    pub fn insert(&mut self, held: Held, make: impl FnOnce(AttemptKey) -> A) -> &mut Entry<A> {
        self.last_key += 1;
        let key = AttemptKey(self.last_key);
        let entry = Entry { key, held, work: make(key), begun: false, report: None, sent: None };
        self.entries.entry(key).or_insert(entry)
    }

    /// The attempt that goes by this name now.
    pub fn find(&self, held: Held) -> Option<&Entry<A>> {
        self.entries.values().find(|entry| entry.held == held)
    }

    /// The attempts of a shard that are not over.
    pub fn live_of(&self, shard: ShardId) -> Option<AttemptKey> {
        let live = |(_, entry): &(&AttemptKey, &Entry<A>)| {
            entry.held.shard == shard && entry.report.is_none()
        };
        self.entries.iter().find(live).map(|(key, _)| *key)
    }

    /// An attempt by its key; none once it was dropped.
    pub fn entry(&mut self, key: AttemptKey) -> Option<&mut Entry<A>> {
        self.entries.get_mut(&key)
    }

    /// Attempts that have not ended.
    pub fn live(&self) -> impl Iterator<Item = &Entry<A>> {
        self.entries.values().filter(|entry| entry.report.is_none())
    }

    /// Everything that a `Hello` names.
    pub fn held(&self) -> Vec<Held> {
        self.entries.values().map(|entry| entry.held).collect()
    }

    /// Whether a report waits for a connection.
    pub fn has_unsent(&self) -> bool {
        self.entries.values().any(|entry| entry.report.is_some() && entry.sent.is_none())
    }

    /// Forgets an attempt.
    pub fn remove(&mut self, key: AttemptKey) -> Option<Entry<A>> {
        self.entries.remove(&key)
    }

    /// A `Welcome` said which attempts go on. Gives the others, which are no longer in the table; the reports
    /// of those that go on are to be sent again.
    pub fn keep(&mut self, kept: &[Kept]) -> Vec<Entry<A>> {
        let mut dropped = Vec::new();
        let keys: Vec<AttemptKey> = self.entries.keys().copied().collect();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            match kept.iter().find(|kept| kept.held == entry.held) {
                Some(kept) => {
                    entry.held.fence = kept.fence;
                    entry.sent = None;
                }
                None => dropped.extend(self.entries.remove(&key)),
            }
        }
        dropped
    }

    /// Notes how an attempt ended. Nothing happens if it was dropped.
    pub fn ended(&mut self, key: AttemptKey, report: Report) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.report = Some(report);
        }
    }

    /// Reports to be written now.
    pub fn unsent(&mut self) -> impl Iterator<Item = (Held, &Report)> {
        self.entries
            .values()
            .filter(|entry| entry.sent.is_none())
            .filter_map(|entry| entry.report.as_ref().map(|report| (entry.held, report)))
    }

    /// Notes that all reports were written in `session`.
    pub fn sent_all(&mut self, session: u64, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.report.is_some() && entry.sent.is_none() {
                entry.sent = Some((session, now));
            }
        }
        let sent = self.entries.iter().filter(|(_, entry)| entry.sent.is_some());
        let sent: Vec<AttemptKey> = sent.map(|(key, _)| *key).collect();
        for key in &sent[..sent.len().saturating_sub(REPORTS_KEPT_MAX)] {
            self.entries.remove(key);
        }
    }

    /// Forgets reports that have certainly arrived over the connection of `session`, which lives.
    pub fn forget_arrived(&mut self, session: u64, now: Instant) {
        self.entries.retain(|_, entry| match entry.sent {
            Some((of, at)) => of != session || now.saturating_duration_since(at) < REPORT_KEPT,
            None => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::{AttemptNumber, Epoch, Fence, JobId, Millis, Stage};

    fn insert(table: &mut AttemptTable<()>, stage: Stage, number: u32) -> AttemptKey {
        let shard = ShardId { job: JobId(7), stage, index: 0 };
        let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(number) };
        table.insert(Held { shard, fence }, |_| ()).key
    }

    fn done() -> Report {
        Report::Finished { outputs: vec![], facts: None, gpu: Millis(1) }
    }

    /// Promise: a finished attempt whose report may be lost is named again and goes on under its new fence.
    #[test]
    fn a_kept_report_is_sent_again_under_the_new_fence() {
        let mut table = AttemptTable::<()>::default();
        let attempt = insert(&mut table, Stage::Denoise, 1);
        let other = insert(&mut table, Stage::Encode, 1);
        table.ended(attempt, done());
        assert_eq!(table.unsent().count(), 1);
        let now = Instant::now();
        table.sent_all(1, now);
        assert!(!table.has_unsent());
        table.forget_arrived(1, now + Duration::from_secs(59));
        assert_eq!(table.held().len(), 2);

        let held = table.held()[0];
        let fence = Fence { epoch: Epoch(2), attempt: AttemptNumber(1) };
        let dropped = table.keep(&[Kept { held, fence }]);
        assert_eq!(dropped.len(), 1);
        assert_eq!(dropped[0].key, other);
        let again: Vec<Held> = table.unsent().map(|(held, _)| held).collect();
        assert_eq!(again, [Held { shard: held.shard, fence }]);

        table.sent_all(2, now);
        table.forget_arrived(2, now + Duration::from_secs(61));
        assert!(table.held().is_empty());
    }

    /// Promise: a busy worker's `Hello` stays within what the coordinator takes.
    #[test]
    fn only_the_newest_reports_are_kept() {
        let mut table = AttemptTable::<()>::default();
        for n in 0..200 {
            let attempt = insert(&mut table, Stage::Encode, n);
            table.ended(attempt, done());
            table.sent_all(1, Instant::now());
        }
        let held = table.held();
        assert_eq!(held.len(), REPORTS_KEPT_MAX);
        assert_eq!(held.last().map(|held| held.fence.attempt), Some(AttemptNumber(199)));
    }

    #[test]
    fn a_dropped_attempts_report_is_nobodys() {
        let mut table = AttemptTable::<()>::default();
        let attempt = insert(&mut table, Stage::Denoise, 1);
        let shard = ShardId { job: JobId(7), stage: Stage::Denoise, index: 0 };
        assert_eq!(table.live_of(shard), Some(attempt));
        assert_eq!(table.keep(&[]).len(), 1);
        table.ended(attempt, done());
        assert_eq!(table.unsent().count(), 0);
    }
}
