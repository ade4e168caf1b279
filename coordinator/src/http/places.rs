//! The places of connections: who waits longest for its next request makes room when another one comes.
//!
//! Connections cost a peer nothing, not even a key; so one that does nothing has no right to its place, and one with a
//! request in hand never loses it. Knows no socket.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// All places.
#[derive(Clone)]
pub struct Places {
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Told when a connection begins to wait.
    came: Notify,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By when they began to wait, the longest first.
    seats: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection, until it is dropped.
pub struct Seat {
    shared: Arc<Shared>,
    away: CancellationToken,
    state: Mutex<State>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for the head of a request, since this number.
    Idle(u64),
    /// A request is being read, handled or answered.
    Busy,
    /// Its answer was made, and is not sent whole yet.
    Answered,
}

impl Places {
    /// So many.
    pub fn new(places: usize) -> Places {
        Places { room: Arc::new(Semaphore::new(places)), shared: Arc::default() }
    }

    /// Takes a place: a free one, or that of the connection that waits longest for a head. Waits while all have a
    /// request in hand.
    pub async fn seat(&self) -> Seat {
        let mut given = false;
        let permit = loop {
            // Before the look at who waits, so that nobody is missed who begins to wait behind it.
            let came = self.shared.came.notified();
            if let Ok(permit) = self.room.clone().try_acquire_owned() {
                break permit;
            }
            // One is enough: it goes as soon as its task runs.
            given = given || self.shared.give_away();
            tokio::select! {
                permit = self.room.clone().acquire_owned() => {
                    break permit.expect("the semaphore is never closed");
                }
                () = came, if !given => {}
            }
        };
        let away = CancellationToken::new();
        let since = self.shared.lock().add(&away);
        let state = Mutex::new(State::Idle(since));
        Seat { shared: self.shared.clone(), away, state, _permit: permit }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one was there to give up its place.
    fn give_away(&self) -> bool {
        let longest = self.lock().seats.pop_first();
        longest.map(|(_, away)| away.cancel()).is_some()
    }
}

impl Waiting {
    fn add(&mut self, away: &CancellationToken) -> u64 {
        self.next += 1;
        self.seats.insert(self.next, away.clone());
        self.next
    }
}

impl Seat {
    /// A request begins; `false` if the place was given away before.
    pub fn busy(&self) -> bool {
        let mut state = self.state();
        if let State::Idle(since) = *state
            && self.shared.lock().seats.remove(&since).is_none()
        {
            return false;
        }
        *state = State::Busy;
        true
    }

    /// The last byte of its answer was made.
    pub fn answered(&self) {
        *self.state() = State::Answered;
    }

    /// All bytes that were made are sent: a connection whose answer was made waits again.
    pub fn flushed(&self) {
        if *self.state() == State::Answered {
            self.idle();
        }
    }

    /// The connection waits.
    pub fn idle(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Idle(_)) {
            *state = State::Idle(self.shared.lock().add(&self.away));
            self.shared.came.notify_waiters();
        }
    }

    /// Until another has the place.
    pub async fn given_away(&self) {
        self.away.cancelled().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let State::Idle(since) = *self.state() {
            self.shared.lock().seats.remove(&since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_waits_longest_goes_and_who_has_a_request_stays() {
        let places = Places::new(3);
        let [first, second, third] =
            [places.seat().await, places.seat().await, places.seat().await];
        assert!(first.busy());
        let mut waiting = Box::pin(places.seat());
        assert!(waiting.as_mut().now_or_never().is_none());
        second.given_away().await;
        assert!(!second.busy(), "its request comes too late");
        assert!(third.busy(), "one goes for one that comes");
        drop(second);
        let fourth = waiting.await;
        assert!(fourth.busy());

        // All have a request in hand: the next one waits until one is answered, and its answer sent.
        let mut waiting = Box::pin(places.seat());
        assert!(waiting.as_mut().now_or_never().is_none());
        third.flushed();
        third.answered();
        assert!(waiting.as_mut().now_or_never().is_none());
        third.flushed();
        assert!(waiting.as_mut().now_or_never().is_none());
        third.given_away().await;
        drop(third);
        let fifth = waiting.await;
        drop((first, fourth, fifth));
        assert!(places.shared.lock().seats.is_empty());
        assert_eq!(places.room.available_permits(), 3);
    }
}
