//! Finds a place by its number: jobs and workers are looked up at every report, and a tree would miss the cache at
//! every level. A table with open addressing and a fixed hash; its order shows nowhere, for nobody can walk it.
//! Keys stay where they are: whoever asks says whether a place is the one.

use crate::ahead::touch;
use crate::slab::Slot;
use zoetrope_protocol::id::JobId;

/// Nobody there.
const EMPTY: Slot = Slot::MAX;
/// A table is at most half full, so that a search ends after one or two steps.
const LEAST: usize = 16;

/// Places by the hash of what is there.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Part of the hash, and the place. As many as a power of two.
    entries: Vec<(u32, Slot)>,
    len: usize,
}

/// Spreads ids: those of workers are consecutive, those of jobs random.
pub(crate) fn spread(id: u64) -> u32 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The hash of a job's id.
pub(crate) fn hash_of(job: JobId) -> u32 {
    spread(job.0 as u64 ^ (job.0 >> 64) as u64)
}

impl Table {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The place with this hash that `is` the one.
    pub fn find(&self, hash: u32, is: impl Fn(Slot) -> bool) -> Option<Slot> {
        self.position(hash, is).map(|at| self.entries[at].1)
    }

    /// A place with this hash, which may be another than the one.
    pub fn first(&self, hash: u32) -> Option<Slot> {
        self.find(hash, |_| true)
    }

    /// Reads ahead where a hash is.
    pub fn touch(&self, hash: u32) {
        if let Some(mask) = self.entries.len().checked_sub(1) {
            touch(&self.entries[hash as usize & mask]);
        }
    }

    /// Adds a place that is not there yet.
    pub fn insert(&mut self, hash: u32, slot: Slot) {
        if self.entries.len() < 2 * (self.len + 1) {
            let larger = vec![(0, EMPTY); (2 * self.entries.len()).max(LEAST)];
            for (hash, slot) in std::mem::replace(&mut self.entries, larger) {
                if slot != EMPTY {
                    self.put(hash, slot);
                }
            }
        }
        self.put(hash, slot);
        self.len += 1;
    }

    /// Takes a place out.
    pub fn remove(&mut self, hash: u32, slot: Slot) {
        let Some(mut hole) = self.position(hash, |other| other == slot) else { return };
        self.len -= 1;
        let mask = self.entries.len() - 1;
        let mut at = hole;
        // Whoever stands behind the hole because of it moves up, so that no search ends too early.
        loop {
            at = (at + 1) & mask;
            let (hash, slot) = self.entries[at];
            if slot == EMPTY {
                break;
            }
            let home = hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = (hash, slot);
                hole = at;
            }
        }
        self.entries[hole] = (0, EMPTY);
    }

    fn put(&mut self, hash: u32, slot: Slot) {
        let mask = self.entries.len() - 1;
        let mut at = hash as usize & mask;
        while self.entries[at].1 != EMPTY {
            at = (at + 1) & mask;
        }
        self.entries[at] = (hash, slot);
    }

    #[inline]
    fn position(&self, hash: u32, is: impl Fn(Slot) -> bool) -> Option<usize> {
        let mask = self.entries.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let (other, slot) = self.entries[at];
            if slot == EMPTY {
                return None;
            }
            if other == hash && is(slot) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held against a plain list, with hashes that collide and places that come and go.
    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let mut table = Table::default();
        let mut plain: Vec<(u32, Slot)> = Vec::new();
        let mut chance = 7_u64;
        for slot in 0..4_000 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let hash = (chance >> 33) as u32 % 97;
            table.insert(hash, slot);
            plain.push((hash, slot));
            if chance % 5 < 2 {
                let (hash, slot) = plain.swap_remove((chance >> 40) as usize % plain.len());
                table.remove(hash, slot);
                assert_eq!(table.find(hash, |other| other == slot), None);
            }
            assert_eq!(table.len(), plain.len());
        }
        for (hash, slot) in plain {
            assert_eq!(table.find(hash, |other| other == slot), Some(slot));
        }
    }
}
