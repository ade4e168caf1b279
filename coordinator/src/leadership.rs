//! Whether this coordinator leads, at this moment.
//!
//! Whoever acts for the farm asks [`Leadership::is_held`] just before: nothing is placed, acknowledged, deleted
//! or published when the last confirmed renewal of the lease is too old, before etcd can give the leadership
//! away. That is the courtesy; the proof is the fence that every write to etcd carries. Alone, with a journal on
//! this machine's disk, it is always held.

use crate::etcd::Fence;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long the election key outlives its leader.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Nothing is done for the farm so long after the last confirmed renewal: two thirds of the lease, so that a
/// clock that runs fast by half, or an answer that takes a second, makes no second leader.
pub const HELD: Duration = Duration::from_secs(2);

/// One term of leading.
#[derive(Debug)]
pub struct Leadership {
    fence: Option<Fence>,
    base: Instant,
    /// When the newest confirmed renewal was asked for, in milliseconds since `base`.
    confirmed: AtomicU64,
    /// The journal takes nothing at the moment.
    stalled: AtomicBool,
    lost: CancellationToken,
}

impl Leadership {
    /// Of the only coordinator of a farm.
    pub fn alone() -> Arc<Leadership> {
        Arc::new(Leadership::new(None, Instant::now()))
    }

    /// Of the one that etcd elected, whose lease was confirmed as of `confirmed`.
    pub fn elected(fence: Fence, confirmed: Instant) -> Arc<Leadership> {
        Arc::new(Leadership::new(Some(fence), confirmed))
    }

    fn new(fence: Option<Fence>, confirmed: Instant) -> Leadership {
        Leadership {
            fence,
            base: confirmed,
            confirmed: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            lost: CancellationToken::new(),
        }
    }

    /// What every write to etcd carries; none for a farm of one coordinator.
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// Whether this coordinator may act for the farm now.
    pub fn is_held(&self) -> bool {
        if self.fence.is_none() {
            return true;
        }
        !self.lost.is_cancelled() && self.unconfirmed() < HELD
    }

    /// Whether callers can be answered now: it is held, and the journal takes records.
    pub fn is_serving(&self) -> bool {
        self.is_held() && !self.stalled.load(Ordering::Relaxed)
    }

    /// How long ago the newest confirmed renewal was asked for.
    fn unconfirmed(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed.load(Ordering::Acquire));
        self.base.elapsed().saturating_sub(confirmed)
    }

    /// A renewal that was asked for at `asked` was answered.
    pub fn confirm(&self, asked: Instant) {
        let since = asked.saturating_duration_since(self.base).as_millis();
        self.confirmed.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// The journal cannot be written at the moment, or can again.
    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Another leads, or nobody: this term is over for good.
    pub fn lose(&self) {
        self.lost.cancel();
    }

    /// Is cancelled when the term is over.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_held_for_two_seconds_after_the_last_confirmed_renewal() {
        let fence = || Fence { key: "leader".to_owned(), revision: 7 };
        let Some(past) = Instant::now().checked_sub(HELD) else { return };
        let stale = Leadership::elected(fence(), past);
        assert!(!stale.is_held());
        stale.confirm(Instant::now());
        assert!(stale.is_held() && stale.is_serving());
        // An answer to an older question takes nothing back.
        stale.confirm(past);
        assert!(stale.is_held());
        stale.stall(true);
        assert!(stale.is_held() && !stale.is_serving());
        stale.lose();
        stale.confirm(Instant::now());
        assert!(!stale.is_held(), "lost is lost");
        assert!(Leadership::alone().is_held());
    }
}
