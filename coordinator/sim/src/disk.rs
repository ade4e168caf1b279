//! The coordinator's disk: segments of sealed records and snapshots, of which a crash keeps what was synced and
//! anything or nothing of the rest. Sealing, gathering and removing are the journal's own.

use crate::chance::Chance;
use std::collections::BTreeMap;
use zoetrope_coordinator::dispatch::books::Books;
use zoetrope_coordinator::dispatch::{RecoveryError, rebuild};
use zoetrope_coordinator::journal::recovery::{gather, removable};
use zoetrope_coordinator::journal::segment::{Content, seal, unseal};
use zoetrope_coordinator::journal::{JournalError, snapshot};

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Sealed records by segment; a segment has the number of its first record.
    segments: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    snapshots: BTreeMap<u64, Vec<u8>>,
    /// All records up to here are safe.
    synced: u64,
    /// Of an earlier life: what flipped, for the operator who restores it.
    flipped: Option<(Place, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Record { segment: u64, seq: u64 },
    Snapshot(u64),
}

/// What recovery found.
pub struct Found {
    /// The books.
    pub books: Books,
    /// The number of the next record.
    pub next: u64,
    /// Records behind the snapshot that were replayed.
    pub replayed: u64,
}

impl Disk {
    /// Writes records; they are not safe yet.
    pub fn write(&mut self, first: u64, bodies: &[Vec<u8>]) {
        if self.segments.is_empty() {
            self.segments.insert(first, BTreeMap::new());
        }
        let Some(mut last) = self.segments.last_entry() else { return };
        for (seq, body) in (first..).zip(bodies) {
            last.get_mut().insert(seq, seal(seq, body));
        }
    }

    /// All records up to this one are safe.
    pub fn sync(&mut self, through: u64) {
        self.synced = self.synced.max(through);
    }

    /// Records behind this one go to a new segment.
    pub fn begin_segment(&mut self, through: u64) {
        self.segments.entry(through + 1).or_default();
    }

    /// A snapshot is safe; what it makes superfluous goes.
    pub fn save(&mut self, through: u64, body: &[u8]) {
        self.snapshots.insert(through, snapshot::seal(through, body));
        let newest_first: Vec<u64> = self.snapshots.keys().rev().copied().collect();
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        let (snapshots, segments) = removable(&newest_first, &firsts);
        for seq in snapshots {
            self.snapshots.remove(&seq);
        }
        for first in segments {
            self.segments.remove(&first);
        }
    }

    /// The power goes: of what was not synced, all, nothing or a part stays, and the last of it may be torn.
    pub fn crash(&mut self, chance: &mut Chance) {
        let unsafe_from = self.synced + 1;
        let last = self.segments.values().filter_map(|s| s.last_key_value()).map(|(seq, _)| *seq);
        let last = last.max().unwrap_or(0);
        if last < unsafe_from {
            return;
        }
        let kept = match chance.range(0, 2) {
            0 => unsafe_from - 1,
            1 => last,
            _ => chance.range(unsafe_from - 1, last),
        };
        for records in self.segments.values_mut() {
            records.retain(|seq, _| *seq <= kept);
        }
        if kept >= unsafe_from && chance.one_in(2) {
            let torn = self.segments.values_mut().find_map(|records| records.get_mut(&kept));
            if let Some(sealed) = torn {
                let length = chance.index(sealed.len());
                sealed.truncate(length);
            }
        }
    }

    /// A bit flips in a safe record that is not the last, or in the newest snapshot if there are two.
    pub fn flip(&mut self, chance: &mut Chance) {
        let mut places: Vec<Place> = Vec::new();
        for (segment, records) in &self.segments {
            let safe = records.range(..self.synced).map(|(seq, _)| *seq);
            places.extend(safe.map(|seq| Place::Record { segment: *segment, seq }));
        }
        if self.snapshots.len() > 1 {
            places.extend(self.snapshots.keys().next_back().map(|seq| Place::Snapshot(*seq)));
        }
        if places.is_empty() || self.flipped.is_some() {
            return;
        }
        let place = places[chance.index(places.len())];
        if let Some(bytes) = self.bytes(place) {
            let before = bytes.clone();
            let at = chance.index(bytes.len());
            bytes[at] ^= 1 << chance.index(8);
            self.flipped = Some((place, before));
        }
    }

    fn bytes(&mut self, place: Place) -> Option<&mut Vec<u8>> {
        match place {
            Place::Record { segment, seq } => self.segments.get_mut(&segment)?.get_mut(&seq),
            Place::Snapshot(seq) => self.snapshots.get_mut(&seq),
        }
    }

    /// Recovers as the coordinator does. Where it refuses because of a flipped bit, an operator restores that from
    /// a backup and starts it again.
    pub fn recover(&mut self) -> Result<Found, String> {
        let found = match self.open() {
            Err(Refusal::Missing(missing)) => {
                let Some((place, before)) = self.flipped.take() else {
                    return Err(format!("recovery refuses without a reason: {missing}"));
                };
                if let Some(bytes) = self.bytes(place) {
                    *bytes = before;
                }
                self.open()
            }
            other => other,
        };
        let found = found.map_err(|refusal| refusal.to_string())?;
        // What recovery found is what counts from here on.
        self.synced = found.next - 1;
        for records in self.segments.values_mut() {
            records.retain(|seq, _| *seq < found.next);
        }
        Ok(found)
    }

    fn open(&self) -> Result<Found, Refusal> {
        let whole = |(seq, bytes): (&u64, &Vec<u8>)| {
            snapshot::unseal(*seq, bytes.clone()).map(|body| (*seq, body))
        };
        let snapshot = self.snapshots.iter().rev().find_map(whole);
        let base = snapshot.as_ref().map_or(0, |(seq, _)| *seq);
        let firsts: Vec<u64> = self.segments.keys().copied().collect();
        let gathered =
            gather(base, &firsts, false, |first| Ok(self.content(first))).map_err(|error| {
                match error {
                    JournalError::Missing(loss) => Refusal::Missing(loss.to_string()),
                    other => Refusal::Other(other.to_string()),
                }
            })?;
        let next = gathered.last.max(gathered.proven) + 1;
        let bytes = snapshot.as_ref().map(|(_, body)| body.as_slice());
        let replayed = gathered.records.len() as u64;
        let books = rebuild(bytes, gathered.records).map_err(Refusal::from)?;
        Ok(Found { books, next, replayed })
    }

    fn content(&self, first: u64) -> Content {
        let mut content = Content { records: Vec::new(), damaged: Vec::new() };
        for (seq, sealed) in self.segments.get(&first).into_iter().flatten() {
            match unseal(*seq, sealed) {
                Some(body) => content.records.push((*seq, body.to_vec())),
                None => content.damaged.push(*seq),
            }
        }
        content
    }
}

enum Refusal {
    Missing(String),
    Other(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::Missing(text) | Refusal::Other(text)) = self;
        f.write_str(text)
    }
}

impl From<RecoveryError> for Refusal {
    fn from(error: RecoveryError) -> Self {
        Refusal::Other(error.to_string())
    }
}
