//! A thread beside the gpu thread, waited for with a limit: the standard library joins without one.
//!
//! Given up, the thread goes on until its own work ends. Called by `finish` and for decoded segments.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// While something is waited for that has limits of its own, the farm hears so often that it is. It takes an attempt
/// for stalled after `link.stall_seconds`, 120 unless configured otherwise.
const TOLD_EVERY: Duration = Duration::from_secs(20);
/// And it is looked so often whether anybody still wants it: a gpu thread is to be free soon after it was told to stop.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

/// Who waits.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    /// Called from time to time: it still waits.
    pub told: &'a dyn Fn(),
    /// Whether what it waits for is still wanted.
    pub wanted: &'a dyn Fn() -> bool,
}

impl Waiting<'static> {
    /// Nobody hears of it, and it waits to the end.
    pub const QUIETLY: Waiting<'static> = Waiting { told: &|| {}, wanted: &|| true };
}

/// The same of who waits for as long as a clip takes.
pub type Wanted = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// The limit is over.
    Late,
    /// Whoever was to send it is gone.
    Died,
    /// It is not wanted any more.
    Unwanted,
}

/// Waits so long for what a thread sends.
pub(crate) fn receive<T>(
    from: &Receiver<T>,
    limit: Duration,
    waiting: Waiting<'_>,
) -> Result<T, Nothing> {
    let began = Instant::now();
    let mut told = began;
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match from.recv_timeout(left.min(LOOKED_EVERY)) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => return Err(Nothing::Died),
            Err(RecvTimeoutError::Timeout) if began.elapsed() >= limit => {
                return Err(Nothing::Late);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !(waiting.wanted)() {
            return Err(Nothing::Unwanted);
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            (waiting.told)();
        }
    }
}

/// What a thread will come to.
pub(crate) struct Beside<T>(Receiver<T>);

impl<T: Send + 'static> Beside<T> {
    /// Starts one of this name.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<Beside<T>> {
        let (sender, result) = sync_channel(1);
        let work = move || {
            sender.send(work()).ok(); // nobody may be waiting any more
        };
        std::thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Beside(result))
    }

    /// Waits for it, however long that takes.
    ///
    /// # Errors
    /// `Died`, `Unwanted`.
    pub(crate) fn wait(self, waiting: Waiting<'_>) -> Result<T, Nothing> {
        receive(&self.0, Duration::MAX, waiting)
    }

    /// Waits for it so long.
    ///
    /// # Errors
    /// `Late`, `Died`, `Unwanted`.
    pub(crate) fn wait_within(&self, limit: Duration, waiting: Waiting<'_>) -> Result<T, Nothing> {
        receive(&self.0, limit, waiting)
    }
}
