//! Opens the journal: the newest whole snapshot and every record behind it, or a refusal that says what is
//! missing.
//!
//! A damaged record at the very end is a torn write, was never acknowledged and is cut. A number that is
//! missing anywhere else was acknowledged once, so going on without it is an operator's decision.

use super::disk::DiskLog;
use super::log::SnapshotBytes;
use super::segment::{self, Content, Segment};
use super::writer::Writer;
use super::{JournalError, numbered, snapshot};
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

pub(super) const PREFIX: &str = "segment-";

/// What was kept.
pub struct Recovered {
    /// Number and body of the newest whole snapshot.
    pub snapshot: Option<(u64, SnapshotBytes)>,
    /// All records behind it, in order, without a gap unless a loss was accepted.
    pub records: Vec<(u64, Vec<u8>)>,
    /// What an operator accepted to lose.
    pub loss: Option<Loss>,
    /// Appends behind the last record.
    pub writer: Writer,
}

/// Records that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The missing numbers, as inclusive ranges.
    pub missing: Vec<(u64, u64)>,
    /// Whole records that lie behind the first missing one.
    pub behind: usize,
    /// All records from here on, of which nobody knows how many there were: the newest segment does not open.
    pub unknown_from: Option<u64>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.unknown_from {
            write!(f, "all from {first} on would be lost")?;
            if self.missing.is_empty() {
                return Ok(());
            }
            write!(f, ", and before these ")?;
        }
        let lost: u64 = self.missing.iter().map(|(first, last)| last - first + 1).sum();
        write!(f, "{lost} would be lost (")?;
        for (at, (first, last)) in self.missing.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{first} to {last}")?;
        }
        write!(f, "), {} whole ones lie behind the first of them", self.behind)
    }
}

/// Opens the journal in `folder`, or makes it.
///
/// # Errors
/// `Missing` unless `accept_loss`; `InUse`, `Open`, `Read`, `Write`.
pub fn open(folder: &Path, accept_loss: bool) -> Result<Recovered, JournalError> {
    std::fs::create_dir_all(folder).map_err(|e| JournalError::Write(e.to_string()))?;
    let lock = lock(folder)?;
    segment::finish_repairs(folder)?;
    snapshot::remove_drafts(folder)?;
    let snapshot = newest_snapshot(folder)?;
    let base = snapshot.as_ref().map_or(0, |(seq, _)| *seq);
    let firsts = numbered(folder, PREFIX)?;
    let (mut last_segment, mut refused) = (None, None);
    let gathered = gather(base, &firsts, accept_loss, |first| {
        let path = segment_path(folder, first);
        let segment = match Segment::open(&path) {
            Err(JournalError::Open { reason, .. }) if accept_loss => {
                let aside = segment::set_aside(&path)?;
                tracing::error!(reason, aside = %aside.display(), "going on without a journal segment, as asked");
                (last_segment, refused) = (None, Some(first));
                return Ok(Content { records: Vec::new(), damaged: Vec::new() });
            }
            opened => opened?,
        };
        let content = segment.read()?;
        last_segment = Some(segment);
        Ok(content)
    })?;
    let Gathered { records, mut loss, last, proven } = gathered;
    if let Some(first) = refused.filter(|first| firsts.last() == Some(first)) {
        // How many records the newest segment had nobody knows.
        let none = Loss { missing: Vec::new(), behind: 0, unknown_from: None };
        loss.get_or_insert(none).unknown_from = Some(first.max(base + 1));
    }
    // The gap stays where it is and would be refused again: after an accepted loss the caller takes a
    // snapshot at once.
    let next = last.max(proven) + 1;
    let log = match last_segment {
        Some(segment) => DiskLog::resume(folder, lock, segment),
        None => DiskLog::create(folder, lock, next)?,
    };
    let writer = Writer::new(log, next);
    let snapshot = snapshot.map(|(seq, body)| (seq, SnapshotBytes::from(body)));
    Ok(Recovered { snapshot, records, loss, writer })
}

/// The records that recovery goes by.
#[derive(Debug)]
pub struct Gathered {
    /// All records behind the snapshot, in order, without a gap unless a loss was accepted.
    pub records: Vec<(u64, Vec<u8>)>,
    /// What an operator accepted to lose.
    pub loss: Option<Loss>,
    /// The number of the last record; of the snapshot, if there is none.
    pub last: u64,
    /// All records up to here were durable once.
    pub proven: u64,
}

/// Gathers the records behind a snapshot of record `base` from segments, whose first records are `firsts`. Pure
/// but for `read`.
///
/// # Errors
/// `Missing` unless `accept_loss`, and those of `read`.
pub fn gather(
    base: u64,
    firsts: &[u64],
    accept_loss: bool,
    mut read: impl FnMut(u64) -> Result<Content, JournalError>,
) -> Result<Gathered, JournalError> {
    let mut records = Vec::new();
    let mut damaged = Vec::new();
    for (at, first) in firsts.iter().enumerate() {
        let next = firsts.get(at + 1);
        // The next one starts at or before what is still needed, so nothing in this one is.
        if next.is_some_and(|next| *next <= base + 1) {
            continue;
        }
        let content = read(*first)?;
        records.extend(content.records.into_iter().filter(|(seq, _)| *seq > base));
        damaged.extend(content.damaged.into_iter().filter(|seq| *seq > base));
    }
    let last = records.last().map_or(base, |(seq, _)| *seq);
    for seq in damaged.iter().filter(|seq| **seq > last) {
        tracing::warn!(
            seq,
            "a torn record at the end of the journal is cut; it was never acknowledged"
        );
    }
    // A segment's name proves that all records before it were on disk once.
    let proven = firsts.last().map_or(0, |first| first - 1).max(base);
    let loss = judge(loss(base, proven, &records), accept_loss)?;
    Ok(Gathered { records, loss, last, proven })
}

/// What is not needed any more: snapshots but the two newest, and segments that the older of these stands for.
/// `snapshots` is the newest first, `firsts` ascending.
pub fn removable(snapshots: &[u64], firsts: &[u64]) -> (Vec<u64>, Vec<u64>) {
    let Some(keep) = snapshots.get(1) else { return (Vec::new(), Vec::new()) };
    let old = firsts.windows(2).filter(|pair| pair[1] <= keep + 1).map(|pair| pair[0]);
    (snapshots[2..].to_vec(), old.collect())
}

pub(super) fn segment_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{first:020}"))
}

fn lock(folder: &Path) -> Result<File, JournalError> {
    let open =
        || File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
    let file = open().map_err(|e| JournalError::Write(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse(folder.to_owned())),
        Err(TryLockError::Error(e)) => Err(JournalError::Read(e.to_string())),
    }
}

fn newest_snapshot(folder: &Path) -> Result<Option<(u64, Vec<u8>)>, JournalError> {
    for seq in snapshot::list(folder)? {
        match snapshot::read(folder, seq)? {
            Some(body) => return Ok(Some((seq, body))),
            None => tracing::warn!(seq, "a damaged snapshot is passed over"),
        }
    }
    Ok(None)
}

/// Going on without acknowledged records is an operator's decision.
pub(super) fn judge(loss: Option<Loss>, accept_loss: bool) -> Result<Option<Loss>, JournalError> {
    match &loss {
        Some(loss) if !accept_loss => return Err(JournalError::Missing(loss.clone())),
        Some(loss) => tracing::error!(%loss, "going on without journal records, as asked"),
        None => {}
    }
    Ok(loss)
}

/// What is missing of the records behind `base`, where all up to `proven` were durable once.
pub(super) fn loss(base: u64, proven: u64, records: &[(u64, Vec<u8>)]) -> Option<Loss> {
    let mut missing = Vec::new();
    let mut behind = 0;
    let mut expected = base + 1;
    for (at, (seq, _)) in records.iter().enumerate() {
        if *seq > expected {
            if missing.is_empty() {
                behind = records.len() - at;
            }
            missing.push((expected, seq - 1));
        }
        expected = seq + 1;
    }
    if expected <= proven {
        missing.push((expected, proven));
    }
    (!missing.is_empty()).then_some(Loss { missing, behind, unknown_from: None })
}
