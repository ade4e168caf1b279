//! Places to judge in, and the line in front of them.
//!
//! Each tenant has a row of its own and the rows are called in turn, so whoever asks for much waits behind himself. A line
//! that is full makes room for a shorter row at the end of the longest one. Never: what is judged.

use super::{Asker, Unjudged};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Judgements that run at a time: each takes one core for some ten milliseconds.
const AT_ONCE: usize = 2;
/// Judgements that may wait for that: at 20 ms each ten seconds of work for each core, below any timeout.
const WAITING_MAX: usize = 1_000;
/// Requests of the door among them, for the same reason.
const WAITING_DOOR_MAX: usize = WAITING_MAX / 2;

/// Who waits by number, the first first. One that is called gets the place.
type Row = BTreeMap<u64, oneshot::Sender<Place>>;

#[derive(Debug)]
struct Line {
    /// Judgements that may run at a time. One of them is none of the door's: jobs and clips always find a place that no
    /// request can take.
    at_once: usize,
    /// Judgements that run.
    taken: usize,
    /// Those of the door among them.
    taken_door: usize,
    /// No row is empty.
    rows: BTreeMap<Asker, Row>,
    /// Whose turn it is: each row once.
    turns: VecDeque<Asker>,
    next: u64,
}

impl Line {
    fn waiting(&self, among: impl Fn(&Asker) -> bool) -> usize {
        self.rows.iter().filter(|(asker, _)| among(asker)).map(|(_, row)| row.len()).sum()
    }

    /// Makes room for one more of this asker, if there is none.
    fn make_room(&mut self, asker: Asker) -> Result<(), Unjudged> {
        if asker.is_door() && self.waiting(Asker::is_door) >= WAITING_DOOR_MAX {
            return self.shorten(asker, Asker::is_door);
        }
        if self.waiting(|_| true) < WAITING_MAX {
            return Ok(());
        }
        self.shorten(asker, |_| true)
    }

    /// Sends the end of the longest of these rows away, if that is longer than this asker's will be.
    fn shorten(&mut self, asker: Asker, among: impl Fn(&Asker) -> bool) -> Result<(), Unjudged> {
        let own = self.rows.get(&asker).map_or(0, Row::len);
        let rows = self.rows.iter().filter(|(asker, _)| among(asker));
        let longest = rows.max_by_key(|(_, row)| row.len());
        let longest = longest.filter(|(_, row)| row.len() > own + 1).map(|(asker, _)| *asker);
        let (longest, last) = longest
            .and_then(|longest| Some((longest, *self.rows.get(&longest)?.last_key_value()?.0)))
            .ok_or(Unjudged::Late)?;
        // Whose end of the line is gone knows that it is late.
        self.remove(longest, last);
        Ok(())
    }

    fn remove(&mut self, asker: Asker, number: u64) -> Option<oneshot::Sender<Place>> {
        let row = self.rows.get_mut(&asker)?;
        let removed = row.remove(&number);
        if row.is_empty() {
            self.rows.remove(&asker);
            self.turns.retain(|turn| *turn != asker);
        }
        removed
    }

    /// The next that may have a place, with its place taken; its row is the last one then.
    fn call(&mut self) -> Option<(Asker, oneshot::Sender<Place>)> {
        if self.taken >= self.at_once {
            return None;
        }
        let may = |asker: &Asker| !asker.is_door() || self.taken_door + 1 < self.at_once;
        let at = self.turns.iter().position(may)?;
        let asker = self.turns.remove(at)?;
        self.turns.push_back(asker);
        let first = *self.rows.get(&asker)?.first_key_value()?.0;
        let called = self.remove(asker, first)?;
        self.taken += 1;
        self.taken_door += usize::from(asker.is_door());
        Some((asker, called))
    }
}

/// The places.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Mutex<Line>>);

impl Default for Places {
    fn default() -> Places {
        Places::new(AT_ONCE)
    }
}

/// A place to judge in, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    asker: Asker,
}

/// A place in the line, until it is dropped.
pub(super) struct Ticket {
    places: Places,
    asker: Asker,
    number: u64,
    called: oneshot::Receiver<Place>,
}

impl Places {
    /// So many, of which the door may have all but one.
    pub fn new(at_once: usize) -> Places {
        Places(Arc::new(Mutex::new(Line {
            at_once,
            taken: 0,
            taken_door: 0,
            rows: BTreeMap::new(),
            turns: VecDeque::new(),
            next: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands in line.
    ///
    /// # Errors
    /// `Late` if there is no room.
    pub fn wait(&self, asker: Asker) -> Result<Ticket, Unjudged> {
        let (call, called) = oneshot::channel();
        let number = {
            let mut line = self.lock();
            line.make_room(asker)?;
            line.next += 1;
            let number = line.next;
            let row = line.rows.entry(asker).or_default();
            let is_first = row.is_empty();
            row.insert(number, call);
            if is_first {
                line.turns.push_back(asker);
            }
            number
        };
        let ticket = Ticket { places: self.clone(), asker, number, called };
        self.call();
        Ok(ticket)
    }

    /// Gives free places to those whose turn it is.
    fn call(&self) {
        loop {
            // Not locked any more when it is sent: a place that nobody waits for is given back at once.
            let called = self.lock().call();
            let Some((asker, call)) = called else { return };
            drop(call.send(Place { places: self.clone(), asker }));
        }
    }
}

impl Ticket {
    /// The place, once it is this one's turn.
    ///
    /// # Errors
    /// `Late` if the place in the line was needed for another.
    pub async fn place(mut self) -> Result<Place, Unjudged> {
        (&mut self.called).await.map_err(|_| Unjudged::Late)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.places.lock().remove(self.asker, self.number));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut line = self.places.lock();
            line.taken -= 1;
            line.taken_door -= usize::from(self.asker.is_door());
        }
        self.places.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use zoetrope_protocol::id::TenantId;

    const AT_ONCE_DOOR: usize = AT_ONCE - 1;
    const ONE: Asker = Asker::Job(TenantId(1));
    const OTHER: Asker = Asker::Job(TenantId(2));
    const DOOR: Asker = Asker::Door(TenantId(1));
    const OTHER_DOOR: Asker = Asker::Door(TenantId(2));

    /// The place of a ticket, if it is its turn.
    fn called(ticket: Ticket) -> Option<Place> {
        ticket.place().now_or_never().map(|place| place.expect("nobody else needed it"))
    }

    fn now(places: &Places, asker: Asker) -> Option<Place> {
        called(places.wait(asker).expect("there is room"))
    }

    /// Promise: however much the door asks for, a job's words and clips find a place, and a place to wait.
    #[test]
    fn requests_leave_a_place_for_jobs() {
        let places = Places::default();
        let door: Vec<Place> = (0..AT_ONCE_DOOR).filter_map(|_| now(&places, DOOR)).collect();
        assert_eq!(door.len(), AT_ONCE_DOOR);
        assert!(now(&places, DOOR).is_none(), "the door has had its places");
        let job = now(&places, ONE);
        assert!(job.is_some(), "one is left for jobs");
        assert!(now(&places, ONE).is_none());
        drop((door, job));
        let jobs: Vec<Place> = (0..AT_ONCE).filter_map(|_| now(&places, ONE)).collect();
        assert_eq!(jobs.len(), AT_ONCE, "where the door asks for nothing jobs have all of them");
        let waiting = |asker| std::iter::from_fn(|| places.wait(asker).ok()).collect::<Vec<_>>();
        let door = waiting(DOOR);
        assert_eq!(door.len(), WAITING_DOOR_MAX);
        assert_eq!(waiting(ONE).len(), WAITING_MAX - WAITING_DOOR_MAX);
        drop((door, jobs));
        let line = places.lock();
        assert!(line.rows.is_empty() && line.turns.is_empty());
        assert_eq!((line.taken, line.taken_door), (0, 0));
    }

    /// Promise: a tenant that asks for a thousand judgements at once holds up itself: another has its turn behind one of
    /// them, and room in the line.
    #[test]
    fn tenants_are_called_in_turn() {
        let places = Places::default();
        let running: Vec<Place> = (0..AT_ONCE).filter_map(|_| now(&places, ONE)).collect();
        let mut many: VecDeque<Ticket> =
            (0..WAITING_MAX).map(|_| places.wait(ONE).expect("nobody else is there")).collect();
        assert!(places.wait(ONE).is_err(), "its row is the longest");
        let other: Vec<Ticket> =
            (0..2).map(|_| places.wait(OTHER).expect("the longest row makes room")).collect();
        for ticket in many.split_off(WAITING_MAX - 2) {
            let late = ticket.place().now_or_never();
            assert!(matches!(late, Some(Err(Unjudged::Late))), "the newest are sent away");
        }
        let mut order = Vec::new();
        let (mut other, mut held) = (VecDeque::from(other), VecDeque::from(running));
        for _ in 0..6 {
            drop(held.pop_front());
            for (asker, row) in [(ONE, &mut many), (OTHER, &mut other)] {
                let next = row.front_mut().and_then(|ticket| ticket.called.try_recv().ok());
                if let Some(place) = next {
                    row.pop_front();
                    held.push_back(place);
                    order.push(asker);
                }
            }
        }
        assert_eq!(order, [ONE, OTHER, ONE, OTHER, ONE, ONE]);
    }

    /// Promise: requests of one project hold up those of no other: it has its turn, and room in the line, and the door has
    /// no more places than before.
    #[test]
    fn requests_of_tenants_are_called_in_turn() {
        let places = Places::default();
        let running = now(&places, DOOR).expect("free");
        assert!(now(&places, OTHER_DOOR).is_none(), "the door has had its places");
        let mut many: VecDeque<Ticket> =
            (0..WAITING_DOOR_MAX).map(|_| places.wait(DOOR).expect("room")).collect();
        assert!(places.wait(DOOR).is_err(), "its row is the longest");
        let mut other = places.wait(OTHER_DOOR).expect("the longest row makes room");
        let late = many.pop_back().expect("the newest").place().now_or_never();
        assert!(matches!(late, Some(Err(Unjudged::Late))));
        assert_eq!(places.lock().waiting(Asker::is_door), WAITING_DOOR_MAX);
        drop(running);
        let first = many.pop_front().and_then(called).expect("it was first");
        assert!(other.called.try_recv().is_err(), "the door has one place");
        drop(first);
        assert!(called(other).is_some(), "and then it is the other's turn");
    }

    /// Promise: who does not wait any more leaves no trace, also if the place was given just then.
    #[test]
    fn who_gives_up_leaves_its_place_to_others() {
        let places = Places::default();
        let running: Vec<Place> = (0..AT_ONCE).filter_map(|_| now(&places, ONE)).collect();
        let (gone, called_too, stays) =
            (places.wait(ONE), places.wait(ONE), places.wait(OTHER).expect("room"));
        drop(gone);
        drop(running);
        drop(called_too);
        assert!(called(stays).is_some());
        assert_eq!(places.lock().taken, 0);
    }
}
