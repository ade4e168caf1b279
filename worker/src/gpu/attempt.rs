//! One attempt, as the link, the gpu actor and the gpu thread share it: its order, its stop flag, how far it
//! is, and how long it waited for others.
//!
//! Plain shared state, no messages. Fences are not here: they change when a link comes back, and belong to
//! the link alone. The gpu thread knows an attempt by its key.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zoetrope_protocol::Millis;
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{Order, Phase, StopWhen};

pub use zoetrope_agent::{AttemptKey, Report};

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub phase: Phase,
    /// Units done.
    pub done: u32,
    /// Units in all.
    pub total: u32,
}

/// How and why an attempt was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopOrder {
    /// How soon.
    pub when: StopWhen,
    /// What its report will name.
    pub cause: Cause,
}

#[derive(Default)]
struct Clock {
    started: Option<Instant>,
    /// What does not count as work: waiting for others, and loading weights.
    waited: Duration,
    waiting_since: Option<Instant>,
    loading_since: Option<Instant>,
}

/// One attempt.
pub struct Attempt {
    /// Its name in this process.
    pub key: AttemptKey,
    /// What to do. Its fence is the one it was given first.
    pub order: Order,
    /// With the time at which it came, and the work until then.
    stop: Mutex<Option<(StopOrder, Instant, Duration)>>,
    clock: Mutex<Clock>,
    progress: watch::Sender<Option<Progress>>,
    /// Its work until it last showed how far it is.
    moved_ms: AtomicU64,
    last_step_ms: AtomicU64,
    /// Bytes that came or went for it.
    carried: AtomicU64,
    /// Parts of finishing that are done or waited for.
    parts: AtomicU32,
    leaving: AtomicBool,
}

/// Parts of finishing as a rule; more only where it waits.
const PARTS: u32 = 12;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held, and each is whole at every moment.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Attempt {
    /// An attempt that has not begun.
    pub fn new(key: AttemptKey, order: Order) -> Self {
        Attempt {
            key,
            order,
            stop: Mutex::default(),
            clock: Mutex::default(),
            progress: watch::Sender::new(None),
            moved_ms: AtomicU64::new(0),
            last_step_ms: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            parts: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
        }
    }

    /// Asks it to stop. A sooner stop replaces a later one, never the other way round.
    pub fn stop(&self, when: StopWhen, cause: Cause) {
        let worked = self.worked();
        let mut stop = lock(&self.stop);
        let sooner = match stop.map(|(order, ..)| order.when) {
            None => true,
            Some(StopWhen::AfterStep) => when == StopWhen::Now,
            Some(StopWhen::Now) => false,
        };
        if sooner {
            *stop = Some((StopOrder { when, cause }, Instant::now(), worked));
        }
    }

    /// How it was asked to stop, if it was.
    pub fn stopped(&self) -> Option<StopOrder> {
        lock(&self.stop).map(|(order, ..)| order)
    }

    /// Whether it is to stop at the next boundary, storing nothing.
    pub fn stops_now(&self) -> bool {
        self.stopped().is_some_and(|stop| stop.when == StopWhen::Now)
    }

    /// The gpu thread takes it up.
    pub fn begin(&self) {
        lock(&self.clock).started = Some(Instant::now());
    }

    /// Runs `wait`, which waits for somebody else; its time does not count against the hard limit.
    pub fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        lock(&self.clock).waiting_since = Some(Instant::now());
        let result = wait();
        let mut clock = lock(&self.clock);
        if let Some(since) = clock.waiting_since.take() {
            clock.waited += since.elapsed();
        }
        result
    }

    /// Whether it waits for somebody else.
    pub fn is_waiting(&self) -> bool {
        lock(&self.clock).waiting_since.is_some()
    }

    /// More bytes came or went for it.
    pub fn carry(&self, bytes: u64) {
        self.carried.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Weights are being loaded from here on, or no longer. That is no work: it takes as long as a disk or a share
    /// needs, the coordinator says when it is too long (`link.load_seconds`), and a job that finds them loaded must
    /// not look too quick beside one that did not.
    pub fn loading(&self, now: bool) {
        let mut clock = lock(&self.clock);
        match (now, clock.loading_since) {
            (true, None) => clock.loading_since = Some(Instant::now()),
            (false, Some(since)) => {
                clock.loading_since = None;
                clock.waited += since.elapsed();
            }
            _ => {}
        }
    }

    /// For how long it has been loading since it was told to stop at once. A load cannot be interrupted.
    pub fn loading_stopped(&self) -> Duration {
        let stopped = *lock(&self.stop);
        let Some((StopOrder { when: StopWhen::Now, .. }, at, _)) = stopped else {
            return Duration::ZERO;
        };
        let since = lock(&self.clock).loading_since;
        since.map_or(Duration::ZERO, |since| since.max(at).elapsed())
    }

    /// For how long it has worked on since it was told to stop at once; waiting and loading are left out.
    pub fn working_stopped(&self) -> Duration {
        match *lock(&self.stop) {
            Some((StopOrder { when: StopWhen::Now, .. }, _, then)) => {
                self.worked().saturating_sub(then)
            }
            _ => Duration::ZERO,
        }
    }

    /// For how long it has worked since it last showed how far it is.
    pub fn unmoved(&self) -> Duration {
        let then = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.worked().saturating_sub(then)
    }

    /// Time on the gpu thread so far, waiting and loading left out.
    pub fn worked(&self) -> Duration {
        let clock = lock(&self.clock);
        let Some(started) = clock.started else { return Duration::ZERO };
        // The two never overlap: a load waits for no artifact.
        let idle = clock.waiting_since.or(clock.loading_since);
        let idle = idle.map_or(Duration::ZERO, |since| since.elapsed());
        started.elapsed().saturating_sub(clock.waited).saturating_sub(idle)
    }

    /// The same in the wire's unit.
    pub fn worked_ms(&self) -> Millis {
        Millis(u64::try_from(self.worked().as_millis()).unwrap_or(u64::MAX))
    }

    /// Says how far it is. Only the newest is kept.
    pub fn show(&self, progress: Progress) {
        self.moved_ms.store(self.worked_ms().0, Ordering::Relaxed);
        self.progress.send_replace(Some(progress));
    }

    /// Another part of finishing is done, or is waited for within a limit of its own: the farm takes an attempt that shows
    /// nothing new for stalled.
    pub fn finishing(&self) {
        let done = self.parts.fetch_add(1, Ordering::Relaxed);
        self.show(Progress { phase: Phase::Muxing, done, total: PARTS.max(done + 1) });
    }

    /// The worker leaves.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the worker leaves: who stops it may stop its children too.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Where to read how far it is.
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }

    /// Notes what a step took.
    pub fn note_step(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.last_step_ms.store(took, Ordering::Relaxed);
    }

    /// What the last step took; zero before the first.
    pub fn last_step(&self) -> Duration {
        Duration::from_millis(self.last_step_ms.load(Ordering::Relaxed))
    }

    /// Its hard limit.
    pub fn hard_limit(&self) -> Duration {
        Duration::from_millis(self.order.hard_limit.0)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use zoetrope_protocol::{AttemptNumber, Epoch, Fence, JobId, RenderSpec, ShardId, Size, Stage};

    /// An order to test with.
    pub(crate) fn order(stage: Stage, epoch: u64, attempt: u32) -> Order {
        let size = Size { width: 64, height: 64 };
        Order {
            shard: ShardId { job: JobId(7), stage, index: 0 },
            fence: Fence { epoch: Epoch(epoch), attempt: AttemptNumber(attempt) },
            spec: RenderSpec {
                model: "toybox".into(),
                prompt: "a red ball".into(),
                canvas: size,
                deliver: size,
                frames: 24,
                seed: 1,
                steps: 4,
                audio: true,
            },
            inputs: vec![],
            checkpoint_every: 1,
            shards: 1,
            hard_limit: Millis(60_000),
            mark: None,
        }
    }

    #[test]
    fn a_sooner_stop_wins() {
        let attempt = Attempt::new(AttemptKey(1), order(Stage::Denoise, 1, 1));
        assert!(attempt.stopped().is_none());
        attempt.stop(StopWhen::AfterStep, Cause::Preempted);
        attempt.stop(StopWhen::Now, Cause::Ended);
        attempt.stop(StopWhen::AfterStep, Cause::Drained);
        assert_eq!(attempt.stopped(), Some(StopOrder { when: StopWhen::Now, cause: Cause::Ended }));
    }

    #[test]
    fn waiting_does_not_count_as_work() {
        let attempt = Attempt::new(AttemptKey(1), order(Stage::Denoise, 1, 1));
        assert_eq!(attempt.worked(), Duration::ZERO);
        attempt.begin();
        attempt.waiting(|| std::thread::sleep(Duration::from_millis(60)));
        assert!(attempt.worked() < Duration::from_millis(50));
    }

    #[test]
    fn work_after_a_stop_is_neither_waiting_nor_what_waited_for_its_turn() {
        let attempt = Attempt::new(AttemptKey(1), order(Stage::Denoise, 1, 1));
        attempt.stop(StopWhen::AfterStep, Cause::Preempted);
        std::thread::sleep(Duration::from_millis(60));
        attempt.begin();
        assert_eq!(attempt.working_stopped(), Duration::ZERO);
        attempt.stop(StopWhen::Now, Cause::Ended);
        attempt.waiting(|| std::thread::sleep(Duration::from_millis(60)));
        assert!(attempt.working_stopped() < Duration::from_millis(50));
        std::thread::sleep(Duration::from_millis(60));
        assert!(attempt.working_stopped() >= Duration::from_millis(60));
        assert!(attempt.unmoved() >= Duration::from_millis(60));
        attempt.finishing();
        assert!(attempt.unmoved() < Duration::from_millis(50));
    }

    #[test]
    fn loading_does_not_count_as_work() {
        let attempt = Attempt::new(AttemptKey(1), order(Stage::Encode, 1, 1));
        attempt.begin();
        for _ in 0..2 {
            // Said twice, as by the thread and by the engine that it opens.
            attempt.loading(true);
            std::thread::sleep(Duration::from_millis(30));
        }
        assert!(attempt.worked() < Duration::from_millis(25));
        assert_eq!(attempt.loading_stopped(), Duration::ZERO);
        attempt.stop(StopWhen::Now, Cause::Ended);
        std::thread::sleep(Duration::from_millis(5));
        assert!((5..30).contains(&attempt.loading_stopped().as_millis()));
        attempt.loading(false);
        assert!(attempt.worked() < Duration::from_millis(25));
        assert_eq!(attempt.loading_stopped(), Duration::ZERO);
    }
}
