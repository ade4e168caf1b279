//! A queue of ready shards in order. A queue may hold a hundred thousand and more, and nearly all that is asked is about
//! its beginning, nearly all that comes belongs to its end: so it is a list of short lists. Whoever takes the first of a
//! long one waits for memory no more often than with a short one, since those that follow lie side by side.

use crate::ahead::touch;
use crate::slab::Slot;
use std::collections::VecDeque;
use zoetrope_protocol::id::Millis;

/// Keys of one short list at most: where one comes between others, half of these move, at most.
const SHORT: usize = 64;

/// A ready shard's place in its tenant's queue: tried before, begun, new; then the least slack first, then by age.
/// Small, and compared as two numbers: a queue may hold a hundred thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Rank and, below it, the latest moment of beginning.
    order: u64,
    seq: u64,
    pub slot: Slot,
}

/// The rank of a job that did not begin.
pub(crate) const NEW: u8 = 2;
/// The latest moment of a job without a deadline: far beyond any other, with room for the rank above it.
const NEVER: u64 = (1 << 62) - 1;

impl Key {
    /// `latest`: the latest moment at which the rest of the job can begin and still be in time.
    pub fn new(rank: u8, latest: Option<Millis>, seq: u64, slot: Slot) -> Self {
        let latest = latest.map_or(NEVER, |at| at.0.min(NEVER - 1));
        Key { order: u64::from(rank) << 62 | latest, seq, slot }
    }

    /// Nothing of its job was placed yet.
    pub fn is_new(&self) -> bool {
        self.rank() == NEW
    }

    pub fn rank(&self) -> u8 {
        (self.order >> 62) as u8
    }

    pub fn latest(&self) -> Option<Millis> {
        let latest = self.order & NEVER;
        (latest != NEVER).then_some(Millis(latest))
    }

    /// Whether only their age says which of two goes first.
    pub fn equals(&self, other: &Key) -> bool {
        self.order == other.order
    }
}

/// At least one key, in order.
#[derive(Debug)]
pub(crate) struct Keys {
    first: Key,
    /// Who comes next.
    near: VecDeque<Key>,
    /// All behind them; none of the lists is empty.
    rest: VecDeque<VecDeque<Key>>,
}

impl Keys {
    pub fn new(first: Key) -> Self {
        Keys { first, near: VecDeque::new(), rest: VecDeque::new() }
    }

    pub fn insert(&mut self, mut key: Key) {
        if key == self.first {
            return;
        }
        if key < self.first {
            std::mem::swap(&mut key, &mut self.first);
        }
        let at = self.list_of(key);
        let list = self.list(at);
        let Err(place) = list.binary_search(&key) else { return };
        if list.len() < SHORT {
            list.insert(place, key);
            return;
        }
        // At the end of a full list begins the next; in its middle it is cut in two.
        let mut second = list.split_off(if place == SHORT { SHORT } else { SHORT / 2 });
        match place.checked_sub(list.len()) {
            Some(place) => second.insert(place, key),
            None => list.insert(place, key),
        }
        self.rest.insert(at, second);
    }

    /// Whether it was the last one: then it is still there.
    pub fn remove(&mut self, key: Key) -> bool {
        if key != self.first {
            let at = self.list_of(key);
            let list = self.list(at);
            if let Ok(place) = list.binary_search(&key) {
                list.remove(place);
            }
            if list.is_empty() && at > 0 {
                self.rest.remove(at - 1);
            }
            return false;
        }
        if self.near.is_empty() {
            self.near = self.rest.pop_front().unwrap_or_default();
        }
        match self.near.pop_front() {
            Some(next) => self.first = next,
            None => return true,
        }
        false
    }

    pub fn first(&self) -> Key {
        self.first
    }

    /// Reads ahead who comes after the first.
    pub fn touch_second(&self) {
        if let Some(second) = self.near.front() {
            touch(second);
        }
    }

    /// The first that `is`.
    pub fn find(&self, is: impl Fn(&Key) -> bool) -> Option<Key> {
        if is(&self.first) { Some(self.first) } else { self.iter().skip(1).copied().find(is) }
    }

    pub fn contains(&self, key: Key) -> bool {
        let list = match self.list_of(key).checked_sub(1) {
            Some(at) => &self.rest[at],
            None => &self.near,
        };
        key == self.first || list.binary_search(&key).is_ok()
    }

    pub fn len(&self) -> usize {
        1 + self.near.len() + self.rest.iter().map(VecDeque::len).sum::<usize>()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(&self.near).chain(self.rest.iter().flatten())
    }

    /// Those before a key.
    pub fn before(&self, key: Key) -> impl Iterator<Item = &Key> {
        self.iter().take_while(move |other| **other < key)
    }

    /// In which list a key is, or belongs: 0 is the near one.
    fn list_of(&self, key: Key) -> usize {
        let begins_before = |list: &VecDeque<Key>| list.front().is_some_and(|first| *first <= key);
        if self.rest.back().is_some_and(begins_before) {
            return self.rest.len();
        }
        self.rest.partition_point(begins_before)
    }

    fn list(&mut self, at: usize) -> &mut VecDeque<Key> {
        match at.checked_sub(1) {
            Some(at) => &mut self.rest[at],
            None => &mut self.near,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Held against a plain set, while keys come in any order, and the first or any other goes.
    #[test]
    fn are_a_set_in_order() {
        let mut chance = 5_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (chance >> 33) % below
        };
        let key = |seq: u64| Key::new(2, None, seq, seq as Slot);
        let mut keys = Keys::new(key(500));
        let mut plain = BTreeSet::from([key(500)]);
        for round in 0..20_000 {
            // It grows, shrinks to nothing nearly, and grows again.
            let growing = round / 2_000 % 2 == 0;
            if next(10) < if growing { 7 } else { 3 } {
                let new = key(next(1_000));
                keys.insert(new);
                plain.insert(new);
            } else if plain.len() > 1 {
                let at = if next(2) == 0 { 0 } else { next(plain.len() as u64) as usize };
                let gone = *plain.iter().nth(at).expect("it is within");
                assert!(!keys.remove(gone));
                plain.remove(&gone);
            }
            assert_eq!(keys.len(), plain.len());
            assert!(keys.iter().eq(&plain));
            assert!(keys.rest.iter().all(|list| (1..=SHORT).contains(&list.len())));
            let some = key(next(1_000));
            assert_eq!(keys.contains(some), plain.contains(&some));
            assert!(keys.before(some).eq(plain.range(..some)));
        }
        while let Some(gone) = plain.pop_first() {
            assert_eq!(keys.remove(gone), plain.is_empty());
        }
    }
}
