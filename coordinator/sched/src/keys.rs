//! A queue of ready shards in order. A queue may hold a hundred thousand, so most of it is a tree; the first few stand
//! apart, because nearly all that is asked is about them, and a way down the tree is a wait for memory at each level.

use crate::slab::Slot;
use std::collections::BTreeSet;
use zoetrope_protocol::id::Millis;

/// So many come straight after the first: two lines of the cache hold five.
const NEAR_MAX: usize = 10;
/// So many leave the tree at once, while the way to its first leaf is known.
const REFILL: usize = 8;

/// A ready shard's place in its tenant's queue: tried before, begun, new; then the least slack first, then by age.
/// Small, and compared as two numbers: a queue may hold a hundred thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Rank and, below it, the latest moment of beginning.
    order: u64,
    seq: u64,
    pub slot: Slot,
}

/// The latest moment of a job without a deadline: far beyond any other, with room for the rank above it.
const NEVER: u64 = (1 << 62) - 1;

impl Key {
    /// `latest`: the latest moment at which the rest of the job can begin and still be in time.
    pub fn new(rank: u8, latest: Option<Millis>, seq: u64, slot: Slot) -> Self {
        let latest = latest.map_or(NEVER, |at| at.0.min(NEVER - 1));
        Key { order: u64::from(rank) << 62 | latest, seq, slot }
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
    /// Who comes next, the nearest last.
    near: Vec<Key>,
    /// All behind them.
    rest: BTreeSet<Key>,
}

impl Keys {
    pub fn new(first: Key) -> Self {
        Keys { first, near: Vec::new(), rest: BTreeSet::new() }
    }

    pub fn insert(&mut self, mut key: Key) {
        if key == self.first {
            return;
        }
        if key < self.first {
            std::mem::swap(&mut key, &mut self.first);
        }
        let last = self.near.first().is_none_or(|furthest| *furthest < key);
        if last && !(self.rest.is_empty() && self.near.len() < NEAR_MAX) {
            self.rest.insert(key);
            return;
        }
        if let Err(at) = self.near.binary_search_by(|other| key.cmp(other)) {
            self.near.insert(at, key);
        }
        if self.near.len() > NEAR_MAX {
            self.rest.insert(self.near.remove(0));
        }
    }

    /// Whether it was the last one: then it is still there.
    pub fn remove(&mut self, key: Key) -> bool {
        if key != self.first {
            match self.near.binary_search_by(|other| key.cmp(other)) {
                Ok(at) => {
                    self.near.remove(at);
                }
                Err(_) => {
                    self.rest.remove(&key);
                }
            }
            return false;
        }
        if self.near.is_empty() {
            let next = std::iter::from_fn(|| self.rest.pop_first()).take(REFILL);
            self.near.extend(next);
            self.near.reverse();
        }
        match self.near.pop() {
            Some(next) => self.first = next,
            None => return true,
        }
        false
    }

    pub fn first(&self) -> Key {
        self.first
    }

    /// The first that `is`.
    pub fn find(&self, is: impl Fn(&Key) -> bool) -> Option<Key> {
        if is(&self.first) { Some(self.first) } else { self.iter().skip(1).copied().find(is) }
    }

    pub fn contains(&self, key: Key) -> bool {
        key == self.first || self.near.contains(&key) || self.rest.contains(&key)
    }

    pub fn len(&self) -> usize {
        1 + self.near.len() + self.rest.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.first).chain(self.near.iter().rev()).chain(&self.rest)
    }

    /// Those before a key.
    pub fn before(&self, key: Key) -> impl Iterator<Item = &Key> {
        self.iter().take_while(move |other| **other < key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let some = key(next(1_000));
            assert_eq!(keys.contains(some), plain.contains(&some));
            assert!(keys.before(some).eq(plain.range(..some)));
        }
        while let Some(gone) = plain.pop_first() {
            assert_eq!(keys.remove(gone), plain.is_empty());
        }
    }
}
