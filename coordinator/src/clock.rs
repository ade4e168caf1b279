//! The one place where the coordinator reads the wall clock: once, at its first use. From there time goes on at its own
//! pace.
//!
//! A system's clock that jumps does not move the farm. It must not: the core's time never goes back, so after a jump of
//! an hour there and back every wait in it would stand still for that hour. A restart reads the clock again, and goes on
//! from the newest moment in the journal if the clock is behind that.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use zoetrope_protocol::id::Millis;

struct Clock {
    began: Instant,
    /// What the time was then.
    base: AtomicU64,
}

impl Clock {
    fn at(moment: Millis) -> Clock {
        Clock { began: Instant::now(), base: AtomicU64::new(moment.0) }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> Millis {
        Millis(self.base.load(Ordering::Relaxed).saturating_add(self.elapsed()))
    }

    fn not_before(&self, moment: Millis) {
        self.base.fetch_max(moment.0.saturating_sub(self.elapsed()), Ordering::Relaxed);
    }
}

fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock::at(Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    })
}

/// Milliseconds since the Unix epoch. Never goes back while the process lives.
pub fn now() -> Millis {
    clock().now()
}

/// This moment was recorded by whoever led before: time goes on from there, not from a clock that is behind.
pub fn not_before(moment: Millis) {
    clock().not_before(moment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A leader whose clock is an hour behind what was recorded does not stand still for an hour.
    #[test]
    fn time_goes_on_from_the_newest_moment_that_was_recorded() {
        let clock = Clock::at(Millis(1_000));
        clock.not_before(Millis(3_601_000));
        let before = clock.now();
        assert!(before >= Millis(3_600_999));
        std::thread::sleep(Duration::from_millis(20));
        assert!(clock.now() >= before.plus(Millis(20)), "it goes on");
        clock.not_before(Millis(5));
        assert!(clock.now() > before, "and never back");
    }
}
