//! A vector with holes: what is in it keeps its place until it is taken out. Places are reused, the last freed
//! first, so a snapshot holds the free list too.

use crate::ahead::touch;
use serde::{Deserialize, Serialize};

/// A place in a [`Slab`].
pub(crate) type Slot = u32;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub fn insert(&mut self, item: T) -> Slot {
        match self.free.pop() {
            Some(slot) => {
                self.items[slot as usize] = Some(item);
                slot
            }
            None => {
                self.items.push(Some(item));
                (self.items.len() - 1) as Slot
            }
        }
    }

    pub fn take(&mut self, slot: Slot) -> Option<T> {
        let item = self.items.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(item)
    }

    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.items.get(slot as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.items.get_mut(slot as usize)?.as_mut()
    }

    /// Reads ahead what is there.
    pub fn touch(&self, slot: Slot) {
        if let Some(item) = self.items.get(slot as usize) {
            touch(item);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..).zip(&self.items).filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    pub fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
}

/// Indexing is for slots that the caller knows to be filled.
impl<T> std::ops::Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        self.items[slot as usize].as_ref().expect("the slot is filled")
    }
}

impl<T> std::ops::IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        self.items[slot as usize].as_mut().expect("the slot is filled")
    }
}
