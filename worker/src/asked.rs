//! A long-lived thread that owns tensors and is asked for what they say: nothing of them leaves it.
//!
//! Whoever asks waits, for a limited time. A fixed few threads for all that is asked, because torch keeps state for each
//! thread that it ever ran on, and each computes alone: with teams of more threads than cores, those of the engine no
//! longer spin for a moment before they sleep, and a render takes a tenth longer. Knows no clip and judges nothing.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Rung when such a thread goes down by a panic. What it was asked, and where it was the last all that comes, stays without
/// an answer: the process is to end, and to be started again.
pub type Alarm = Arc<Notify>;

struct Ringing(Alarm);

impl Drop for Ringing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

struct Question<Q, A> {
    asked: Q,
    back: SyncSender<Result<A, String>>,
    /// Nobody waits for the answer any longer.
    until: Instant,
}

/// The way to such threads: questions `Q`, answers `A`.
pub struct Asked<Q, A> {
    questions: SyncSender<Question<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Asked<Q, A> {
    /// Starts so many threads of this name, before the engine is opened, which answer as `begin` tells each of them to once
    /// it is on the thread, and waits for that. So many questions may wait. `alarm` is rung if one panics.
    ///
    /// # Errors
    /// Why `begin` failed, or that the system gives no thread.
    pub fn start<F: FnMut(Q) -> Result<A, String>>(
        name: &str,
        threads: usize,
        waiting: usize,
        alarm: &Alarm,
        begin: impl Fn() -> Result<F, String> + Send + Sync + 'static,
    ) -> Result<Asked<Q, A>, String> {
        let (questions, receiver) = sync_channel::<Question<Q, A>>(waiting);
        let (receiver, begin) = (Arc::new(Mutex::new(receiver)), Arc::new(begin));
        for _ in 0..threads {
            let (receiver, begin) = (receiver.clone(), begin.clone());
            Self::start_one(name, receiver, alarm.clone(), move || begin())?;
        }
        Ok(Asked { questions })
    }

    fn start_one<F: FnMut(Q) -> Result<A, String>>(
        name: &str,
        receiver: Arc<Mutex<Receiver<Question<Q, A>>>>,
        alarm: Alarm,
        begin: impl FnOnce() -> Result<F, String> + Send + 'static,
    ) -> Result<(), String> {
        let (ready, begun) = sync_channel(1);
        let run = move || {
            // Both for the life of the thread.
            let _ringing = Ringing(alarm);
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
            while let Ok(Question { asked, back, until }) = next() {
                // What is late keeps no other question waiting.
                if Instant::now() < until {
                    // Who asked may have given up.
                    back.send(answer(asked)).ok();
                }
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
        let until = Instant::now() + limit;
        const DEAD: &str = "its thread died";
        self.questions.try_send(Question { asked: question, back, until }).map_err(|error| {
            match error {
                TrySendError::Full(_) => "too many clips wait for it",
                TrySendError::Disconnected(_) => DEAD,
            }
        })?;
        answer.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Disconnected if Instant::now() < until => DEAD,
            _ => "it did not answer in time",
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// Promise: nobody waits for ever, and a thread that cannot begin says why.
    #[test]
    fn answers_in_time_or_says_why_not() {
        let limit = Duration::from_secs(20);
        let double = || Ok(|number: u32| number.checked_mul(2).ok_or_else(|| "large".to_owned()));
        let alarm = Alarm::default();
        let asked = Asked::start("test", 2, 1, &alarm, double).expect("starts");
        assert_eq!(asked.ask(4, limit), Ok(8));
        assert_eq!(asked.ask(u32::MAX, limit), Err("large".to_owned()));
        let (go, wait) = sync_channel::<()>(0);
        let wait = Arc::new(Mutex::new(wait));
        let slow = move || {
            let wait = wait.clone();
            let waits = move || wait.lock().is_ok_and(|wait| wait.recv().is_ok());
            Ok(move |(): ()| waits().then_some(()).ok_or_else(|| "no more".to_owned()))
        };
        let asked = Asked::start("test", 1, 1, &alarm, slow).expect("starts");
        let late = Err("it did not answer in time".to_owned());
        assert_eq!(asked.ask((), Duration::ZERO), late);
        drop(go);
        let begin = || Err::<fn(()) -> Result<(), String>, _>("no file".into());
        let failed: Result<Asked<(), ()>, String> = Asked::start("test", 1, 1, &alarm, begin);
        assert_eq!(failed.err().as_deref(), Some("no file"));
        assert!(alarm.notified().now_or_never().is_none());
    }

    /// Promise: a thread that panics is told at once, and is not taken for one that is busy.
    #[test]
    fn a_panic_rings_the_alarm() {
        let (alarm, limit) = (Alarm::default(), Duration::from_secs(20));
        let panics = || Ok(|(): ()| -> Result<(), String> { panic!("as the test wants") });
        let asked = Asked::start("test", 1, 4, &alarm, panics).expect("starts");
        for _ in 0..8 {
            assert_eq!(asked.ask((), limit), Err("its thread died".to_owned()));
        }
        let woken = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let rung = woken
            .expect("a runtime")
            .block_on(async { tokio::time::timeout(limit, alarm.notified()).await });
        assert!(rung.is_ok());
    }

    /// Promise: what nobody waits for any longer is not worked at.
    #[test]
    fn a_question_that_is_late_is_left_out() {
        let (go, wait) = sync_channel::<()>(0);
        let wait = Arc::new(Mutex::new(wait));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let (all, limit) = (answered.clone(), Duration::from_secs(20));
        let begin = move || {
            let (wait, all) = (wait.clone(), all.clone());
            Ok(move |number: u32| {
                if number == 1 {
                    wait.lock().map_err(|_| "no lock")?.recv().map_err(|_| "no word")?;
                }
                all.lock().map_err(|_| "no lock")?.push(number);
                Ok(number)
            })
        };
        let asked = Asked::start("test", 1, 4, &Alarm::default(), begin).expect("starts");
        std::thread::scope(|scope| {
            let first = scope.spawn(|| asked.ask(1, limit));
            // Either behind the first or before it, and late in both cases.
            assert!(asked.ask(2, Duration::ZERO).is_err());
            go.send(()).expect("is waited for");
            assert_eq!(first.join().expect("does not panic"), Ok(1));
        });
        assert_eq!(asked.ask(3, limit), Ok(3));
        assert_eq!(*answered.lock().expect("is whole"), [1, 3]);
    }
}
