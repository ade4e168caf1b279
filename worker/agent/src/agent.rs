//! Which leader the worker follows, and what an order means to it.

use crate::table::{AttemptTable, Entry, LIVE_MAX};
use std::time::{Duration, Instant};
use zoetrope_protocol::Epoch;
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_protocol::wire::{FromWorker, Held, Kept, Order, ServedModel};

/// A farm whose journal was restored from a backup, or lost records, goes on under an older epoch than its workers have
/// seen. Whoever was refused for so long, with no welcome of a newer leader in between, is followed after all: a leader
/// that was deposed hears of it within seconds, and its workers find the next one within as many.
pub const OLD_EPOCH_PATIENCE: Duration = Duration::from_secs(300);

/// What a worker holds and whom it follows. `A` is what hangs on an attempt.
pub struct Agent<A> {
    /// The attempts.
    pub table: AttemptTable<A>,
    epoch: Epoch,
    /// Since when only leaders of older epochs have said welcome.
    refusing: Option<Instant>,
}

/// A welcome of a leader that was followed by another one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldEpoch;

/// What an order means.
pub enum Ordered<A> {
    /// It was said before.
    Again,
    /// It is not taken, for this reason.
    Refused(String),
    /// It is to be entered into the table and begun.
    Taken {
        /// An older attempt of the same shard: nobody counts on it any more.
        replaced: Option<Entry<A>>,
    },
}

impl<A> Default for Agent<A> {
    fn default() -> Self {
        Agent { table: AttemptTable::default(), epoch: Epoch(0), refusing: None }
    }
}

impl<A> Agent<A> {
    /// The newest epoch seen.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A leader says which attempts go on. Gives the others, which are no longer held.
    ///
    /// # Errors
    /// `OldEpoch`; then nothing changed but that it is remembered, and the connection is to be closed.
    pub fn welcomed(
        &mut self,
        epoch: Epoch,
        keep: &[Kept],
        now: Instant,
    ) -> Result<Vec<Entry<A>>, OldEpoch> {
        if epoch < self.epoch && !on(Mutant::NoEpochCompare) {
            let since = *self.refusing.get_or_insert(now);
            if now.saturating_duration_since(since) < OLD_EPOCH_PATIENCE {
                return Err(OldEpoch);
            }
        }
        self.refusing = None;
        self.epoch = epoch;
        Ok(self.table.keep(keep))
    }

    /// Takes an order, or says why not. One for the same shard replaces the attempt before.
    pub fn ordered(&mut self, order: &Order, served: &[ServedModel], leaving: bool) -> Ordered<A> {
        let held = Held { shard: order.shard, fence: order.fence };
        if self.table.find(held).is_some() {
            return Ordered::Again;
        }
        if let Some(reason) = self.refusal(order, served, leaving) {
            return Ordered::Refused(reason);
        }
        // The coordinator gave this shard anew, so it no longer counts on the older attempt.
        let live = self.table.live_of(order.shard);
        let replaced = live.and_then(|key| self.table.remove(key));
        if self.table.live().count() >= LIVE_MAX {
            return Ordered::Refused("the gpu is busy".into());
        }
        Ordered::Taken { replaced }
    }

    fn refusal(&self, order: &Order, served: &[ServedModel], leaving: bool) -> Option<String> {
        if order.fence.epoch < self.epoch && !on(Mutant::NoEpochCompare) {
            let (old, new) = (order.fence.epoch.0, self.epoch.0);
            return Some(format!("the order is of epoch {old}, and this worker has seen {new}"));
        }
        if leaving {
            return Some("the worker is leaving".into());
        }
        let (model, stage) = (&order.spec.model, order.shard.stage);
        match served.iter().find(|served| served.id == *model) {
            None => Some(format!("this worker has no model `{model}`")),
            Some(served) if !served.stages.contains(&stage) => {
                Some(format!("this worker does not serve {stage} of `{model}`"))
            }
            Some(_) => None,
        }
    }

    /// The reports that are to be said on the connection `session` now; they count as said.
    pub fn reports(&mut self, session: u64, now: Instant) -> Vec<FromWorker> {
        let frames = self.table.unsent().map(|(held, report)| report.frame(held)).collect();
        self.table.sent_all(session, now);
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: an old leader is not followed, unless it is the only one for long: then the farm was restored.
    #[test]
    fn an_older_epoch_is_followed_only_where_there_is_no_newer_one_for_long() {
        let mut agent = Agent::<()>::default();
        let mut now = Instant::now();
        assert!(agent.welcomed(Epoch(5), &[], now).is_ok());
        for _ in 0..3 {
            assert!(agent.welcomed(Epoch(4), &[], now).is_err());
            now += OLD_EPOCH_PATIENCE - Duration::from_secs(1);
            assert!(agent.welcomed(Epoch(4), &[], now).is_err());
            // Its own leader is there after all.
            assert!(agent.welcomed(Epoch(5), &[], now).is_ok());
        }
        assert!(agent.welcomed(Epoch(3), &[], now).is_err());
        now += OLD_EPOCH_PATIENCE;
        assert!(agent.welcomed(Epoch(3), &[], now).is_ok());
        assert_eq!(agent.epoch(), Epoch(3));
    }
}
