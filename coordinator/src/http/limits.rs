//! How fast a key may ask: a bucket of tokens for each key. Pure, but for the lock around the
//! buckets.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Parts of a token: whole numbers decide.
const PARTS: u64 = 1_000_000;

/// Buckets from which on those that are full are looked for and dropped, which is done again at twice as many as are left:
/// share links have buckets too, and there is no limit of these.
const SWEEP_AT: usize = 1_024;

/// All buckets: one for each key that asked within the time in which a bucket becomes full, and some more.
#[derive(Debug)]
pub struct Buckets {
    per_second: u64,
    burst: u64,
    buckets: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    of: HashMap<String, Bucket>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    parts: u64,
    at: Duration,
}

/// What a key has left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Requests that it may send at most at once.
    pub limit: u64,
    /// Requests that it may send now.
    pub remaining: u64,
    /// Until the bucket is full again.
    pub reset: Duration,
    /// None: this request may pass. Else: seconds after which there is a token.
    pub refused: Option<u32>,
}

impl Buckets {
    /// Full buckets of `burst` requests, refilled by `per_second`.
    pub fn new(per_second: u32, burst: u32) -> Buckets {
        Buckets {
            per_second: u64::from(per_second.max(1)),
            burst: u64::from(burst.max(1)),
            buckets: Mutex::new(Kept { of: HashMap::new(), sweep_at: SWEEP_AT }),
        }
    }

    /// Takes a token of the key, if there is one. `now` counts from any fixed moment.
    pub fn take(&self, key: &str, now: Duration) -> Left {
        let full = self.burst * PARTS;
        let mut kept = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.of.contains_key(key) {
            if kept.of.len() >= kept.sweep_at {
                // A bucket that is full again is as one that never was.
                kept.of.retain(|_, bucket| self.refilled(bucket, now) < full);
                kept.sweep_at = SWEEP_AT.max(2 * kept.of.len());
            }
            kept.of.insert(key.to_owned(), Bucket { parts: full, at: now });
        }
        let Some(bucket) = kept.of.get_mut(key) else { return self.left(full, None) };
        bucket.parts = self.refilled(bucket, now);
        bucket.at = bucket.at.max(now);
        if bucket.parts >= PARTS {
            bucket.parts -= PARTS;
            return self.left(bucket.parts, None);
        }
        let micros = (PARTS - bucket.parts).div_ceil(self.per_second);
        self.left(bucket.parts, Some(micros.div_ceil(1_000_000).clamp(1, 60) as u32))
    }

    /// What is in a bucket by now.
    fn refilled(&self, bucket: &Bucket, now: Duration) -> u64 {
        let micros = u64::try_from(now.saturating_sub(bucket.at).as_micros()).unwrap_or(u64::MAX);
        // A microsecond at one request a second is one part.
        let came = micros.saturating_mul(self.per_second);
        bucket.parts.saturating_add(came).min(self.burst * PARTS)
    }

    fn left(&self, parts: u64, refused: Option<u32>) -> Left {
        let micros = (self.burst * PARTS - parts).div_ceil(self.per_second);
        Left {
            limit: self.burst,
            remaining: parts / PARTS,
            reset: Duration::from_micros(micros),
            refused,
        }
    }
}

/// A length of time as upstream writes it: `20ms`, `1s`, `6m0s`, `1h0m0s`.
pub fn duration_text(time: Duration) -> String {
    let millis = time.as_micros().div_ceil(1000);
    let seconds = millis.div_ceil(1000);
    match seconds {
        _ if millis < 1000 => format!("{millis}ms"),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_burst_and_then_has_its_rate() {
        let buckets = Buckets::new(2, 3);
        let at = |ms| buckets.take("a", Duration::from_millis(ms));
        assert_eq!([at(0).remaining, at(0).remaining, at(0).remaining], [2, 1, 0]);
        assert_eq!(at(0).refused, Some(1));
        assert_eq!(at(499).refused, Some(1));
        assert_eq!(at(500).refused, None);
        assert_eq!(at(500).reset, Duration::from_millis(1500));
        assert_eq!(buckets.take("b", Duration::ZERO).refused, None);
        assert_eq!(at(60_000).remaining, 2);
    }

    /// Promise: there are no more buckets than somebody still draws from, whatever was asked for once; and none is
    /// forgotten that is not full.
    #[test]
    fn buckets_that_are_full_again_are_dropped() {
        let buckets = Buckets::new(2, 3);
        let count = || buckets.buckets.lock().unwrap().of.len();
        let at = Duration::from_millis;
        for n in 0..10 * SWEEP_AT as u64 {
            let left = buckets.take(&format!("share_{n}"), at(n * 10));
            assert_eq!((left.remaining, left.refused), (2, None));
            buckets.take("busy", at(n * 10));
        }
        assert!(count() <= SWEEP_AT, "{}", count());
        assert_eq!(buckets.take("busy", at(102_390)).remaining, 0, "it was never full");
    }

    #[test]
    fn durations_read_as_upstream_writes_them() {
        for (ms, text) in [
            (0, "0ms"),
            (20, "20ms"),
            (1000, "1s"),
            (1001, "2s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }
}
