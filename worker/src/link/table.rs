//! The attempts that this worker answers for, and the fence that each of them has now.
//!
//! Pure: no clock, no IO. An attempt stays here from its order until nobody needs its report any more. The
//! wire has no acknowledgement of a report, so a report that was sent is kept as long as its frame could
//! still be lost with the connection: the next `Hello` names it again.

use crate::gpu::attempt::{Attempt, AttemptKey, Progress, Report};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zoetrope_protocol::ShardId;
use zoetrope_protocol::wire::{Held, Kept, Order};

/// A report that was written to a connection that still lives after this time has arrived: QUIC repeats lost
/// packets or ends the connection within the idle time-out of 20 s.
const REPORT_KEPT: Duration = Duration::from_secs(60);
/// Reports kept at most, the newest: a connection has no more frames under way than a few, and a `Hello` names
/// at most 64 attempts.
const REPORTS_KEPT_MAX: usize = 32;
/// Running and waiting attempts at once: one on the gpu thread, one behind it.
pub const LIVE_MAX: usize = 2;

/// An attempt in the table.
pub struct Entry {
    /// Its name on the wire, with the newest fence.
    pub held: Held,
    /// The attempt.
    pub attempt: Arc<Attempt>,
    /// How far it is.
    pub progress: watch::Receiver<Option<Progress>>,
    /// Whether the gpu thread took it up.
    pub begun: bool,
    /// How it ended, if it has.
    pub report: Option<Report>,
    /// In which session the report was written, and when.
    sent: Option<(u64, Instant)>,
}

/// The table.
#[derive(Default)]
pub struct AttemptTable {
    entries: BTreeMap<AttemptKey, Entry>,
    last_key: u64,
}

impl AttemptTable {
    /// Enters an order.
    pub fn insert(&mut self, order: Order) -> Arc<Attempt> {
        self.last_key += 1;
        let key = AttemptKey(self.last_key);
        let held = Held { shard: order.shard, fence: order.fence };
        let attempt = Arc::new(Attempt::new(key, order));
        let progress = attempt.progress();
        let entry = Entry {
            held,
            attempt: attempt.clone(),
            progress,
            begun: false,
            report: None,
            sent: None,
        };
        self.entries.insert(key, entry);
        attempt
    }

    /// The attempt that goes by this name now.
    pub fn find(&self, held: Held) -> Option<&Entry> {
        self.entries.values().find(|entry| entry.held == held)
    }

    /// The attempts of a shard that are not over.
    pub fn live_of(&self, shard: ShardId) -> Option<AttemptKey> {
        let live = |(_, entry): &(&AttemptKey, &Entry)| {
            entry.held.shard == shard && entry.report.is_none()
        };
        self.entries.iter().find(live).map(|(key, _)| *key)
    }

    /// An attempt by its key; none once it was dropped.
    pub fn entry(&mut self, key: AttemptKey) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// Attempts that have not ended.
    pub fn live(&self) -> impl Iterator<Item = &Entry> {
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
    pub fn remove(&mut self, key: AttemptKey) -> Option<Entry> {
        self.entries.remove(&key)
    }

    /// A `Welcome` said which attempts go on. Gives the others, which are no longer in the table; the reports
    /// of those that go on are to be sent again.
    pub fn keep(&mut self, kept: &[Kept]) -> Vec<Entry> {
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
    use crate::gpu::attempt::tests::order;
    use zoetrope_protocol::{AttemptNumber, Epoch, Fence, Millis, Stage};

    fn done() -> Report {
        Report::Finished { outputs: vec![], facts: None, gpu: Millis(1) }
    }

    /// Promise: a finished attempt whose report may be lost is named again and goes on under its new fence.
    #[test]
    fn a_kept_report_is_sent_again_under_the_new_fence() {
        let mut table = AttemptTable::default();
        let attempt = table.insert(order(Stage::Denoise, 1, 1));
        let other = table.insert(order(Stage::Encode, 1, 1));
        table.ended(attempt.key, done());
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
        assert_eq!(dropped[0].attempt.key, other.key);
        let again: Vec<Held> = table.unsent().map(|(held, _)| held).collect();
        assert_eq!(again, [Held { shard: held.shard, fence }]);

        table.sent_all(2, now);
        table.forget_arrived(2, now + Duration::from_secs(61));
        assert!(table.held().is_empty());
    }

    /// Promise: a busy worker's `Hello` stays within what the coordinator takes.
    #[test]
    fn only_the_newest_reports_are_kept() {
        let mut table = AttemptTable::default();
        for n in 0..200 {
            let attempt = table.insert(order(Stage::Encode, 1, n));
            table.ended(attempt.key, done());
            table.sent_all(1, Instant::now());
        }
        let held = table.held();
        assert_eq!(held.len(), REPORTS_KEPT_MAX);
        assert_eq!(held.last().map(|held| held.fence.attempt), Some(AttemptNumber(199)));
    }

    #[test]
    fn a_dropped_attempts_report_is_nobodys() {
        let mut table = AttemptTable::default();
        let attempt = table.insert(order(Stage::Denoise, 1, 1));
        assert_eq!(table.live_of(attempt.order.shard), Some(attempt.key));
        assert_eq!(table.keep(&[]).len(), 1);
        table.ended(attempt.key, done());
        assert_eq!(table.unsent().count(), 0);
    }
}
