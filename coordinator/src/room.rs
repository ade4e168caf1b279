//! Places that callers share: so many in all, and of these at most a share for each project.
//!
//! Who holds places for long (with a body that comes slowly) holds up himself and not the others, and nobody but
//! operators gets the last ones: whoever has to end a flood gets in. Pure, but for the lock around the counts. Called by the
//! door and by `inspect.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_protocol::id::TenantId;

/// Who takes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The key of an operator, whatever its project.
    Operator,
    /// Another key of this project.
    Project(TenantId),
    /// Whoever follows a share link: one group, for nobody knows them apart.
    Guest,
}

/// The places.
#[derive(Debug)]
pub struct Room {
    all: usize,
    /// Places of one project, or of all guests.
    each: usize,
    /// Places that are left for operators.
    reserve: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Who, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    who: Who,
}

impl Room {
    /// So many places; one of `share` of them, rounded down but at least one, for each project, and
    /// `reserve` for operators alone.
    pub fn new(all: usize, share: usize, reserve: usize) -> Arc<Room> {
        let each = (all / share).max(1);
        Arc::new(Room { all, each, reserve, taken: Mutex::default() })
    }

    /// Takes a place, if there is one for this caller.
    pub fn take(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by.get(&who).copied().unwrap_or(0);
        let (own_max, all_max) = match who {
            Who::Operator => (self.all, self.all),
            Who::Project(_) | Who::Guest => (self.each, self.all - self.reserve),
        };
        if own >= own_max || taken.all >= all_max {
            return None;
        }
        taken.all += 1;
        taken.by.insert(who, own + 1);
        Some(Place { room: self.clone(), who })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        // Those who hold none are forgotten: the table is no longer than the places.
        if let Some(own) = taken.by.get_mut(&self.who) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_its_share_and_operators_have_the_rest() {
        let room = Room::new(8, 4, 1);
        let take = |who| room.take(who);
        let project = |n| Who::Project(TenantId(n));
        let first = [take(project(1)), take(project(1))];
        assert!(first.iter().all(Option::is_some) && take(project(1)).is_none());
        let others: Vec<Place> = [project(2), project(2), project(3), Who::Guest, Who::Guest]
            .into_iter()
            .filter_map(take)
            .collect();
        assert_eq!(others.len(), 5);
        assert!(take(Who::Guest).is_none());
        assert!(take(project(3)).is_none(), "the last place is for operators");
        let last = take(Who::Operator);
        assert!(last.is_some() && take(Who::Operator).is_none());
        drop(first);
        let many: Vec<Place> = (0..3).filter_map(|_| take(Who::Operator)).collect();
        assert_eq!(many.len(), 2, "operators have no share");
        drop((many, others, last));
        assert!(room.taken.lock().unwrap().by.is_empty());
    }

    #[test]
    fn a_small_room_has_one_place_for_anybody() {
        let room = Room::new(1, 4, 0);
        let place = room.take(Who::Guest);
        assert!(place.is_some() && room.take(Who::Operator).is_none());
    }
}
