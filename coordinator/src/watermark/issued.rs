//! The marks that were issued, as codewords: among them a search finds a mark that is too weak to be read.
//!
//! Made of serials alone, so that nobody has to be asked which clips there are. Used by `find.rs`, on its blocking threads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use zoetrope_mark::MarkKey;

/// So many of the newest are looked among, 8 MiB for each key: three times as many as the farm remembers jobs.
const SERIALS_MAX: u32 = 1 << 20;

/// Codewords of serials that follow each other, from the first on.
#[derive(Clone, Debug, Default)]
struct Words {
    first: u32,
    words: Arc<Vec<u64>>,
}

/// What was issued, by the epoch of the key that may have made it; made as it is needed, and kept.
#[derive(Debug, Default)]
pub(super) struct IssuedMarks {
    epochs: Mutex<BTreeMap<u32, Words>>,
}

impl IssuedMarks {
    /// The key, knowing the marks of all serials below `next`. Of which epoch each is, a serial does not say.
    pub fn known_to(&self, key: MarkKey, next: u32) -> MarkKey {
        // A million at first are half a second; others who search wait for them, and need them too.
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = epochs.entry(key.epoch).or_default();
        let first = next.saturating_sub(SERIALS_MAX);
        let last = known.first + known.words.len() as u32;
        if last < next || known.first < first {
            let words = Arc::make_mut(&mut known.words);
            words.drain(..(first - known.first).min(words.len() as u32) as usize);
            words.extend(key.words(last.max(first)..next));
            known.first = first;
        }
        let words = known.words.clone();
        drop(epochs);
        key.knowing(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_mark::MasterKey;

    /// Promise: the newest marks are known, each once, however they came.
    #[test]
    fn marks_are_known_as_they_are_issued() {
        let issued = IssuedMarks::default();
        let key = || MasterKey([3; 32]).epoch(1);
        let words = |next| {
            issued.known_to(key(), next);
            let epochs = issued.epochs.lock().expect("nobody panicked");
            let Words { first, words } = epochs[&1].clone();
            (first, words)
        };
        let (first, few) = words(5);
        assert_eq!((first, few.as_slice()), (0, &*key().words(0..5).collect::<Vec<_>>()));
        assert_eq!(words(7).1[..], key().words(0..7).collect::<Vec<_>>()[..]);
        assert_eq!(words(6).1.len(), 7, "an older question changes nothing");
        let far = SERIALS_MAX + 3;
        let (first, many) = words(far);
        assert_eq!((first, many.len()), (3, SERIALS_MAX as usize));
        assert_eq!(many[..2], key().words(3..5).collect::<Vec<_>>()[..]);
        assert_eq!(many.last().copied(), key().words(far - 1..far).next());
        let (first, many) = words(3 * SERIALS_MAX);
        assert_eq!((first, many.len()), (2 * SERIALS_MAX, SERIALS_MAX as usize));
    }
}
