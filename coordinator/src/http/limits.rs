//! How fast a key may ask: a bucket of tokens for each key. Pure, but for the lock around the
//! buckets.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Parts of a token: whole numbers decide.
const PARTS: u64 = 1_000_000;

/// All buckets. There is one for each key that ever asked, so no more than keys.
#[derive(Debug)]
pub struct Buckets {
    per_second: u64,
    burst: u64,
    buckets: Mutex<HashMap<String, Bucket>>,
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
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Takes a token of the key, if there is one. `now` counts from any fixed moment.
    pub fn take(&self, key: &str, now: Duration) -> Left {
        let full = self.burst * PARTS;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(key) {
            buckets.insert(key.to_owned(), Bucket { parts: full, at: now });
        }
        let Some(bucket) = buckets.get_mut(key) else { return self.left(full, None) };
        let micros = u64::try_from(now.saturating_sub(bucket.at).as_micros()).unwrap_or(u64::MAX);
        // A microsecond at one request a second is one part.
        bucket.parts =
            bucket.parts.saturating_add(micros.saturating_mul(self.per_second)).min(full);
        bucket.at = bucket.at.max(now);
        if bucket.parts >= PARTS {
            bucket.parts -= PARTS;
            return self.left(bucket.parts, None);
        }
        let micros = (PARTS - bucket.parts).div_ceil(self.per_second);
        self.left(bucket.parts, Some(micros.div_ceil(1_000_000).clamp(1, 60) as u32))
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
