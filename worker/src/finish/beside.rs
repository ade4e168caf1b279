//! A thread beside the gpu thread, waited for with a limit: the standard library joins without one.
//!
//! Given up, the thread goes on until its own work ends. Called by the rest of `finish`.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// While something is waited for that has limits of its own, the farm hears so often that it is. It takes an attempt
/// for stalled after `link.stall_seconds`, 120 unless configured otherwise.
const TOLD_EVERY: Duration = Duration::from_secs(20);

/// What a thread will come to.
pub(super) struct Beside<T>(Receiver<T>);

impl<T: Send + 'static> Beside<T> {
    /// Starts one of this name.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(
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

    /// Waits for it, and says so from time to time. None if it died.
    pub(super) fn wait(self, told: &dyn Fn()) -> Option<T> {
        loop {
            match self.0.recv_timeout(TOLD_EVERY) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Timeout) => told(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits for it so long, and says so from time to time.
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` if it died.
    pub(super) fn wait_within(
        &self,
        limit: Duration,
        told: &dyn Fn(),
    ) -> Result<T, RecvTimeoutError> {
        let mut left = limit;
        loop {
            match self.0.recv_timeout(left.min(TOLD_EVERY)) {
                Err(RecvTimeoutError::Timeout) if left > TOLD_EVERY => {
                    left -= TOLD_EVERY;
                    told();
                }
                ended => return ended,
            }
        }
    }
}
