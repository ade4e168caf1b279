//! A long-lived thread that owns tensors and is asked for what they say: nothing of them leaves it.
//!
//! Whoever asks waits, for a limited time. A fixed few threads for all that is asked, because torch keeps state for each
//! thread that it ever ran on, and each computes alone: with teams of more threads than cores, those of the engine no
//! longer spin for a moment before they sleep, and a render takes a tenth longer. Knows no clip and judges nothing.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Question<Q, A> = (Q, SyncSender<Result<A, String>>);

/// The way to such threads: questions `Q`, answers `A`.
pub struct Asked<Q, A> {
    questions: SyncSender<Question<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Asked<Q, A> {
    /// Starts so many threads of this name, before the engine is opened, which answer as `begin` tells each of them to once
    /// it is on the thread, and waits for that. So many questions may wait.
    ///
    /// # Errors
    /// Why `begin` failed, or that the system gives no thread.
    pub fn start<F: FnMut(Q) -> Result<A, String>>(
        name: &str,
        threads: usize,
        waiting: usize,
        begin: impl Fn() -> Result<F, String> + Send + Sync + 'static,
    ) -> Result<Asked<Q, A>, String> {
        let (questions, receiver) = sync_channel::<Question<Q, A>>(waiting);
        let (receiver, begin) = (Arc::new(Mutex::new(receiver)), Arc::new(begin));
        for _ in 0..threads {
            let (receiver, begin) = (receiver.clone(), begin.clone());
            Self::start_one(name, receiver, move || begin())?;
        }
        Ok(Asked { questions })
    }

    fn start_one<F: FnMut(Q) -> Result<A, String>>(
        name: &str,
        receiver: Arc<Mutex<Receiver<Question<Q, A>>>>,
        begin: impl FnOnce() -> Result<F, String> + Send + 'static,
    ) -> Result<(), String> {
        let (ready, begun) = sync_channel(1);
        let run = move || {
            // For the life of the thread.
            let _inference = tch::no_grad_guard();
            crate::start::stand_back();
            // Of this thread and of those that ask torch later without setting it: the engine sets it. Asking for it
            // makes it stay.
            tch::set_num_threads(1);
            let threads = tch::get_num_threads();
            debug_assert_eq!(threads, 1);
            let mut answer = match begin() {
                Ok(answer) => answer,
                Err(reason) => {
                    ready.send(Err(reason)).ok();
                    return;
                }
            };
            ready.send(Ok(())).ok();
            // One waits for the next question, the others for their turn to wait.
            let next = || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok((question, back)) = next() {
                // Who asked may have given up.
                back.send(answer(question)).ok();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        begun.recv().unwrap_or_else(|_| Err("its thread died".into()))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask(&self, question: Q, limit: Duration) -> Result<A, String> {
        let (back, answer) = sync_channel(1);
        let full = |_| "too many clips wait for it".to_owned();
        self.questions.try_send((question, back)).map_err(full)?;
        answer.recv_timeout(limit).map_err(|_| "it did not answer in time".to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: nobody waits for ever, and a thread that cannot begin says why.
    #[test]
    fn answers_in_time_or_says_why_not() {
        let limit = Duration::from_secs(20);
        let double = || Ok(|number: u32| number.checked_mul(2).ok_or_else(|| "large".to_owned()));
        let asked = Asked::start("test", 2, 1, double).expect("starts");
        assert_eq!(asked.ask(4, limit), Ok(8));
        assert_eq!(asked.ask(u32::MAX, limit), Err("large".to_owned()));
        let (go, wait) = sync_channel::<()>(0);
        let wait = Arc::new(Mutex::new(wait));
        let slow = move || {
            let wait = wait.clone();
            let waits = move || wait.lock().is_ok_and(|wait| wait.recv().is_ok());
            Ok(move |(): ()| waits().then_some(()).ok_or_else(|| "no more".to_owned()))
        };
        let asked = Asked::start("test", 1, 1, slow).expect("starts");
        let late = Err("it did not answer in time".to_owned());
        assert_eq!(asked.ask((), Duration::ZERO), late);
        drop(go);
        let begin = || Err::<fn(()) -> Result<(), String>, _>("no file".into());
        let failed: Result<Asked<(), ()>, String> = Asked::start("test", 1, 1, begin);
        assert_eq!(failed.err().as_deref(), Some("no file"));
    }
}
