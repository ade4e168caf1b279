//! Lists that are short or empty nearly always: an empty one is one word, so that the record around it stays small.
//! Written to a snapshot as any list.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::Deref;
use zoetrope_protocol::job::ArtifactRef;

/// A list that is empty as a rule.
// One word where a `Vec` has three: that is what the second box is for.
#[allow(clippy::box_collection)]
#[derive(Clone, Debug)]
pub(crate) struct Few<T>(Option<Box<Vec<T>>>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few(None)
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |list| list)
    }
}

impl<T> Few<T> {
    /// As a list that can grow.
    pub fn list(&mut self) -> &mut Vec<T> {
        self.0.get_or_insert_default()
    }

    pub fn push(&mut self, item: T) {
        self.list().push(item);
    }

    pub fn extend(&mut self, items: impl IntoIterator<Item = T>) {
        let mut items = items.into_iter().peekable();
        if items.peek().is_some() {
            self.list().extend(items);
        }
    }

    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        if let Some(list) = &mut self.0 {
            list.retain(keep);
        }
    }

    pub fn clear(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }

    /// All that is in it; it is empty then.
    pub fn take(&mut self) -> Vec<T> {
        self.0.take().map_or_else(Vec::new, |list| *list)
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Serialize> Serialize for Few<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self[..].serialize(to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let list = Vec::deserialize(from)?;
        Ok(Few((!list.is_empty()).then(|| Box::new(list))))
    }
}

/// The newest latents of a job, and the ones before should the newest turn out to be damaged. They stand in the
/// record itself, for every attempt looks at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latents {
    newest: Option<ArtifactRef>,
    /// None without a newest.
    before: Option<ArtifactRef>,
}

impl Latents {
    pub fn newest(&self) -> Option<&ArtifactRef> {
        self.newest.as_ref()
    }

    /// The newest last.
    pub fn iter(&self) -> impl Iterator<Item = &ArtifactRef> {
        self.before.iter().chain(&self.newest)
    }

    /// Takes in newer ones. Those that were the ones before are returned.
    pub fn push(&mut self, latents: ArtifactRef) -> Option<ArtifactRef> {
        let old = self.before.take();
        self.before = self.newest.replace(latents);
        old
    }

    /// Takes out some of them; the newest of these comes last.
    pub fn take_if(&mut self, is: impl Fn(&ArtifactRef) -> bool) -> [Option<ArtifactRef>; 2] {
        let taken = [self.before.take_if(|latents| is(latents)), self.newest.take_if(|l| is(l))];
        self.newest = self.newest.take().or_else(|| self.before.take());
        taken
    }
}

impl Serialize for Latents {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.iter().collect::<Vec<_>>().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Latents {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut latents = Latents::default();
        for each in Vec::deserialize(from)? {
            latents.push(each);
        }
        Ok(latents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::codec;
    use zoetrope_protocol::id::ArtifactId;
    use zoetrope_protocol::job::Role;

    fn latents(step: u32) -> ArtifactRef {
        ArtifactRef {
            role: Role::Latents { step },
            artifact: ArtifactId([step as u8; 32]),
            bytes: 7,
        }
    }

    /// A snapshot does not tell them from plain lists.
    #[test]
    fn are_written_as_lists() {
        let mut few = Few::default();
        let mut kept = Latents::default();
        let mut plain = Vec::new();
        for step in 0..4 {
            let bytes = codec::encode(&plain).expect("a list encodes");
            assert_eq!(codec::encode(&few).expect("a list encodes"), bytes);
            let read: Few<ArtifactRef> = codec::decode(&bytes).expect("a list decodes");
            assert_eq!(read[..], plain[..]);
            let newest = &plain[plain.len().saturating_sub(2)..];
            let bytes = codec::encode(&newest).expect("a list encodes");
            assert_eq!(codec::encode(&kept).expect("a list encodes"), bytes);
            let read: Latents = codec::decode(&bytes).expect("a list decodes");
            assert!(read.iter().eq(newest));
            few.push(latents(step));
            plain.push(latents(step));
            assert_eq!(kept.push(latents(step)), step.checked_sub(2).map(latents));
        }
    }

    /// What is taken out comes in its order, and what is left closes up.
    #[test]
    fn latents_that_are_taken_out_leave_no_gap() {
        let mut kept = Latents::default();
        kept.push(latents(1));
        kept.push(latents(2));
        let taken = kept.take_if(|l| l.role == Role::Latents { step: 2 });
        assert_eq!(taken, [None, Some(latents(2))]);
        assert_eq!(kept.newest(), Some(&latents(1)));
        kept.push(latents(3));
        assert_eq!(kept.take_if(|_| true), [Some(latents(1)), Some(latents(3))]);
        assert_eq!(kept.iter().count(), 0);
    }
}
