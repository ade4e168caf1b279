//! The journal's thread: takes all that waits, writes it as one batch, syncs once, then says so.
//!
//! Group commit needs no timer: while one sync runs (some milliseconds), the next batch gathers. A write that
//! fails ends the thread, because memory may then differ from disk; nothing of that batch is acknowledged.

use super::recovery::{removable, segment_path};
use super::segment::Segment;
use super::{JournalError, numbered, snapshot};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// One sync covers so many bytes at most: at 200 MB/s writing them takes 20 ms.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Makes the body of a snapshot; runs on a thread of its own.
pub type SnapshotBody = Box<dyn FnOnce() -> Result<Vec<u8>, JournalError> + Send>;

/// What the thread is told.
pub enum Command {
    /// Write these records; the first has the next number.
    Append(Vec<Vec<u8>>),
    /// Save the state behind all records so far.
    Snapshot(SnapshotBody),
    /// The snapshot behind this record is on disk, or why not.
    SnapshotEnded(u64, Result<(), JournalError>),
    /// End, after all that was told before.
    Stop,
}

/// What the thread reports.
pub enum Report {
    /// All records up to this number are on disk.
    Synced {
        /// The number.
        through: u64,
        /// How many of them are new.
        records: u64,
        /// Their bytes.
        bytes: u64,
        /// How long it took.
        took: Duration,
    },
    /// A snapshot is on disk.
    SnapshotTaken {
        /// The last record in it.
        through: u64,
    },
    /// The thread ends: nothing more is acknowledged.
    Died(JournalError),
}

enum Going {
    On,
    Stop,
}

/// Appends to the journal. Made by recovery; moved to the thread.
pub struct Writer {
    folder: PathBuf,
    _lock: File,
    segment: Segment,
    next: u64,
    saving: bool,
}

impl Writer {
    pub(super) fn resume(folder: &Path, lock: File, segment: Segment, next: u64) -> Writer {
        Writer { folder: folder.to_owned(), _lock: lock, segment, next, saving: false }
    }

    pub(super) fn create(folder: &Path, lock: File, next: u64) -> Result<Writer, JournalError> {
        let segment = new_segment(folder, next)?;
        Ok(Writer::resume(folder, lock, segment, next))
    }

    /// The number that the next record gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes records and returns when they are on disk. Returns their bytes.
    ///
    /// # Errors
    /// `Write`: none of them may be acknowledged, and the journal must not be used any more.
    pub fn append(&mut self, bodies: &[Vec<u8>]) -> Result<u64, JournalError> {
        let bytes = self.segment.append(self.next, bodies)?;
        self.next += bodies.len() as u64;
        Ok(bytes)
    }

    /// Serves commands until it is told to stop or a write fails.
    pub fn run(
        mut self,
        commands: &Receiver<Command>,
        back: &Sender<Command>,
        waiting: &Arc<AtomicU64>,
        report: &dyn Fn(Report),
    ) {
        while let Ok(first) = commands.recv() {
            match self.round(first, commands, back, waiting, report) {
                Ok(Going::On) => {}
                Ok(Going::Stop) => return,
                Err(error) => return report(Report::Died(error)),
            }
        }
    }

    fn round(
        &mut self,
        first: Command,
        commands: &Receiver<Command>,
        back: &Sender<Command>,
        waiting: &Arc<AtomicU64>,
        report: &dyn Fn(Report),
    ) -> Result<Going, JournalError> {
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        let mut size = 0;
        let mut command = Some(first);
        let mut other = None;
        while let Some(now) = command {
            match now {
                Command::Append(more) => {
                    size += more.iter().map(Vec::len).sum::<usize>();
                    bodies.extend(more);
                }
                // It speaks of the records before it, so these go first.
                snapshot => {
                    other = Some(snapshot);
                    break;
                }
            }
            command = match commands.try_recv() {
                Ok(next) if size < BATCH_BYTES_MAX => Some(next),
                Ok(next) => {
                    other = Some(next);
                    None
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        if !bodies.is_empty() {
            self.write(&bodies, waiting, report)?;
        }
        match other {
            None => {}
            Some(Command::Append(more)) => self.write(&more, waiting, report)?,
            Some(Command::Snapshot(body)) => self.snapshot(body, back)?,
            Some(Command::SnapshotEnded(through, result)) => {
                self.snapshot_ended(through, result, report)?;
            }
            Some(Command::Stop) => return Ok(Going::Stop),
        }
        Ok(Going::On)
    }

    fn write(
        &mut self,
        bodies: &[Vec<u8>],
        waiting: &Arc<AtomicU64>,
        report: &dyn Fn(Report),
    ) -> Result<(), JournalError> {
        let began = Instant::now();
        let bytes = self.append(bodies)?;
        let records = bodies.len() as u64;
        waiting.fetch_sub(records, Ordering::Relaxed);
        report(Report::Synced { through: self.next - 1, records, bytes, took: began.elapsed() });
        Ok(())
    }

    /// Records from here on go to a new segment, so that the old ones can leave once the snapshot is safe.
    fn snapshot(&mut self, body: SnapshotBody, back: &Sender<Command>) -> Result<(), JournalError> {
        let through = self.next - 1;
        if self.saving || through == 0 {
            return Ok(());
        }
        if !segment_path(&self.folder, self.next).exists() {
            self.segment = new_segment(&self.folder, self.next)?;
        }
        self.saving = true;
        let (folder, back) = (self.folder.clone(), back.clone());
        std::thread::spawn(move || {
            let result = body().and_then(|body| snapshot::write(&folder, through, &body));
            // Without a journal thread nobody waits for the answer.
            drop(back.send(Command::SnapshotEnded(through, result)));
        });
        Ok(())
    }

    fn snapshot_ended(
        &mut self,
        through: u64,
        result: Result<(), JournalError>,
        report: &dyn Fn(Report),
    ) -> Result<(), JournalError> {
        self.saving = false;
        result?;
        report(Report::SnapshotTaken { through });
        remove_old(&self.folder)
    }
}

fn new_segment(folder: &Path, first: u64) -> Result<Segment, JournalError> {
    let path = segment_path(folder, first);
    let segment = Segment::open(&path)?;
    snapshot::sync_folder(&path)
        .and_then(|()| snapshot::sync_folder(folder))
        .map_err(|e| JournalError::Write(e.to_string()))?;
    Ok(segment)
}

/// Keeps two snapshots, and the segments that the older one needs.
fn remove_old(folder: &Path) -> Result<(), JournalError> {
    let write = |e: std::io::Error| JournalError::Write(e.to_string());
    let firsts = numbered(folder, super::recovery::PREFIX)?;
    let (snapshots, segments) = removable(&snapshot::list(folder)?, &firsts);
    for seq in snapshots {
        std::fs::remove_file(snapshot::path(folder, seq)).map_err(write)?;
    }
    for first in segments {
        std::fs::remove_dir_all(segment_path(folder, first)).map_err(write)?;
    }
    Ok(())
}
