//! The journal's thread: takes all that waits, writes it as one batch, syncs once, then says so.
//!
//! Group commit needs no timer: while one sync runs (some milliseconds), the next batch gathers. A write that
//! fails ends the thread, because memory may then differ from disk; nothing of that batch is acknowledged.

use super::JournalError;
use super::log::{Log, SnapshotBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

/// One sync covers so many bytes at most: at 200 MB/s writing them takes 20 ms.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// What the thread is told.
pub enum Command {
    /// Write these records; the first has the next number.
    Append(Vec<Vec<u8>>),
    /// Save the state behind all records so far.
    Snapshot(SnapshotBody),
    /// The same, behind one that is being saved if there is, and end only when it is on disk.
    LastSnapshot(SnapshotBody),
    /// The snapshot behind this record is on disk, or why not.
    SnapshotEnded(u64, Result<(), JournalError>),
    /// End, after all that was told before. A snapshot that was not the last one is not waited for.
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
    log: Box<dyn Log>,
    next: u64,
    /// The snapshot behind this record is being saved.
    saving: Option<u64>,
    /// The newest one that this thread saved; 0 of none.
    saved: u64,
    /// The last one, behind this record, waits for the one that is being saved.
    last: Option<(u64, SnapshotBody)>,
    ending: Ending,
}

/// How the end stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Nobody has spoken of it.
    Far,
    /// The last snapshot was told.
    Near,
    /// It waits for that one.
    Due,
}

impl Writer {
    pub(super) fn new(log: impl Log + 'static, next: u64) -> Writer {
        let (log, ending) = (Box::new(log), Ending::Far);
        Writer { log, next, saving: None, saved: 0, last: None, ending }
    }

    /// The number that the next record gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes records and returns when they are on disk. Returns their bytes.
    ///
    /// # Errors
    /// `Write`, `Deposed`: none of them may be acknowledged, and the journal must not be used any more.
    pub fn append(&mut self, bodies: &[Vec<u8>]) -> Result<u64, JournalError> {
        let bytes = self.log.append(self.next, bodies)?;
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
            Some(Command::Snapshot(body)) if self.saving.is_none() => self.snapshot(body, back)?,
            Some(Command::Snapshot(_)) => {}
            Some(Command::LastSnapshot(body)) => {
                self.ending = Ending::Near;
                let through = self.next - 1;
                match self.saving {
                    Some(saving) if saving < through => self.last = Some((through, body)),
                    None if self.saved < through => self.snapshot(body, back)?,
                    // That one says the same.
                    _ => {}
                }
            }
            Some(Command::SnapshotEnded(through, result)) => {
                self.snapshot_ended(through, result, report)?;
                // One with records behind it that it knows nothing of is none: they say the same.
                if let Some((_, body)) = self.last.take_if(|(through, _)| *through + 1 == self.next)
                {
                    self.snapshot(body, back)?;
                }
                if self.ending == Ending::Due && self.saving.is_none() {
                    return Ok(Going::Stop);
                }
            }
            Some(Command::Stop) if self.ending == Ending::Near && self.saving.is_some() => {
                self.ending = Ending::Due;
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

    fn snapshot(&mut self, body: SnapshotBody, back: &Sender<Command>) -> Result<(), JournalError> {
        let through = self.next - 1;
        if through == 0 {
            return Ok(());
        }
        let save = self.log.begin_snapshot(through)?;
        self.saving = Some(through);
        let back = back.clone();
        std::thread::spawn(move || {
            let result = save(body);
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
        self.saving = None;
        result?;
        self.saved = through;
        report(Report::SnapshotTaken { through });
        self.log.forget()
    }
}
