//! Jobs in the order of their admission, found by their number in it. Many wait long and each leaves from the middle, so
//! a tree would be deep, and each way down it a wait for memory; here to come and to go is one step. Who grows old
//! first is asked seldom.

use crate::ahead::touch;
use crate::slab::Slot;
use std::collections::VecDeque;

/// Nobody there.
const GONE: Slot = Slot::MAX;
/// Numbers of one block.
const BLOCK: usize = 256;

/// Places by number. Memory follows the blocks that somebody is in, and for each empty one between them 8 bytes: less
/// than 3 MB for a thousand jobs a second over twelve hours.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    /// The number of the first block.
    first: u64,
    /// The first one is not empty.
    blocks: VecDeque<Option<Box<Block>>>,
}

#[derive(Debug)]
struct Block {
    slots: [Slot; BLOCK],
    here: usize,
}

impl Ages {
    /// Enters the youngest.
    pub fn push(&mut self, seq: u64, slot: Slot) {
        let (block, at) = split(seq);
        if self.blocks.is_empty() {
            self.first = block;
        }
        let block = (block - self.first) as usize;
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        let empty = || Box::new(Block { slots: [GONE; BLOCK], here: 0 });
        let block = self.blocks[block].get_or_insert_with(empty);
        block.slots[at] = slot;
        block.here += 1;
    }

    /// Takes one out, if it is there.
    pub fn remove(&mut self, seq: u64) {
        let Some(at) = self.index(seq) else { return };
        let Some(block) = &mut self.blocks[at] else { return };
        let slot = std::mem::replace(&mut block.slots[split(seq).1], GONE);
        block.here -= usize::from(slot != GONE);
        if block.here > 0 {
            return;
        }
        self.blocks[at] = None;
        while let Some(None) = self.blocks.front() {
            self.blocks.pop_front();
            self.first += 1;
        }
    }

    pub fn has(&self, seq: u64) -> bool {
        let block = self.index(seq).and_then(|at| self.blocks[at].as_ref());
        block.is_some_and(|block| block.slots[split(seq).1] != GONE)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blocks.iter().flatten().map(|block| block.here).sum()
    }

    /// The oldest.
    pub fn first(&self) -> Option<Slot> {
        let block = self.blocks.front()?.as_ref()?;
        block.slots.iter().copied().find(|slot| *slot != GONE)
    }

    /// Reads ahead where one is.
    pub fn touch(&self, seq: u64) {
        if let Some(block) = self.index(seq).and_then(|at| self.blocks[at].as_ref()) {
            touch(&block.slots[split(seq).1]);
        }
    }

    fn index(&self, seq: u64) -> Option<usize> {
        let at = split(seq).0.checked_sub(self.first)? as usize;
        (at < self.blocks.len()).then_some(at)
    }
}

/// A number's block, and its place there.
fn split(seq: u64) -> (u64, usize) {
    (seq / BLOCK as u64, (seq % BLOCK as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Held against a map, while jobs come, some far behind the last, and any of them goes, some twice.
    #[test]
    fn the_oldest_is_first() {
        let mut chance = 3_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (chance >> 33) % below
        };
        let mut ages = Ages::default();
        let mut plain: BTreeMap<u64, Slot> = BTreeMap::new();
        let mut seq = 1_000;
        for round in 0..20_000 {
            // It grows, shrinks to nothing, and grows again.
            let growing = round / 2_000 % 2 == 0;
            if next(10) < if growing { 7 } else { 3 } {
                seq += 1 + if next(20) == 0 { next(2_000) } else { next(3) };
                let slot = next(1 << 20) as Slot;
                ages.push(seq, slot);
                plain.insert(seq, slot);
            } else {
                let from = seq.saturating_sub(next(20_000));
                let gone = plain.range(from..).next().map_or(from, |(seq, _)| *seq);
                ages.remove(gone);
                ages.remove(gone);
                plain.remove(&gone);
            }
            assert_eq!(ages.first(), plain.values().next().copied());
            assert_eq!(ages.len(), plain.len());
        }
        while let Some((gone, _)) = plain.pop_first() {
            ages.remove(gone);
            assert_eq!(ages.first(), plain.values().next().copied());
        }
        assert!(ages.blocks.is_empty());
    }
}
