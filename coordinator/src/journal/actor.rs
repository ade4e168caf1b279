//! The actor in front of the journal's thread. Passes records on and reports what is on disk; decides nothing.
//!
//! If it dies, the process ends: memory may differ from disk. Called by `DispatchActor`.

use super::SnapshotBody;
use super::writer::{Command, Report, Writer};
use crate::metrics::Metrics;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use tokio::sync::watch;

/// Fronts the journal's thread.
pub struct JournalActor;

/// What the journal is told.
pub enum JournalMsg {
    /// Write these encoded records behind all before them. The `watch` of [`JournalArguments`] says when.
    Append(Vec<Vec<u8>>),
    /// Save the state behind all records so far; skipped while one is being saved.
    Snapshot(SnapshotBody),
    /// The same before the end, for which the thread waits with its own; never skipped for one that knows less.
    LastSnapshot(SnapshotBody),
    /// The thread gave up: the actor dies of it.
    Died(super::JournalError),
    /// What an operator may see.
    Observe(RpcReplyPort<JournalView>),
}

/// What the journal needs.
pub struct JournalArguments {
    /// Made by recovery.
    pub writer: Writer,
    /// Gets the number of the last record on disk; dropped when the thread has ended and the lock is free.
    pub synced: watch::Sender<u64>,
    /// Records that wait for the disk; the sender adds, the thread takes off.
    pub waiting: Arc<AtomicU64>,
    /// Where syncs are counted.
    pub metrics: Arc<Metrics>,
}

/// The journal at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalView {
    /// The last record on disk.
    pub synced: u64,
    /// Records that wait for the disk.
    pub waiting: u64,
}

/// The sending end of the thread's queue.
pub struct JournalState {
    commands: Sender<Command>,
    synced: watch::Receiver<u64>,
    waiting: Arc<AtomicU64>,
}

#[ractor::async_trait]
impl Actor for JournalActor {
    type Msg = JournalMsg;
    type State = JournalState;
    type Arguments = JournalArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<JournalMsg>,
        arguments: JournalArguments,
    ) -> Result<JournalState, ActorProcessingErr> {
        let JournalArguments { writer, synced, waiting, metrics } = arguments;
        let (commands, queue) = channel();
        let state = JournalState {
            commands: commands.clone(),
            synced: synced.subscribe(),
            waiting: waiting.clone(),
        };
        // For the answers of snapshot threads; the thread ends by `Stop`.
        let back = commands;
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            writer.run(&queue, &back, &waiting, &|report| match report {
                Report::Synced { through, records, bytes, took } => {
                    metrics.journal_synced(records, bytes, took);
                    synced.send_replace(through);
                }
                Report::SnapshotTaken { through } => {
                    metrics.snapshot_taken();
                    tracing::info!(through, "snapshot taken");
                }
                Report::Died(error) => {
                    // A dead actor is on its way out of the process already.
                    drop(myself.cast(JournalMsg::Died(error)));
                }
            });
        })?;
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<JournalMsg>,
        message: JournalMsg,
        state: &mut JournalState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JournalMsg::Append(records) => state.tell(Command::Append(records)),
            JournalMsg::Snapshot(body) => state.tell(Command::Snapshot(body)),
            JournalMsg::LastSnapshot(body) => state.tell(Command::LastSnapshot(body)),
            JournalMsg::Died(error) => return Err(Box::new(error)),
            JournalMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }
}

impl JournalState {
    fn tell(&self, command: Command) {
        // A thread that ended has put its `Died` into our mailbox, and that says it better.
        drop(self.commands.send(command));
    }

    fn observe(&self, reply: RpcReplyPort<JournalView>) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        // Who asked may be gone.
        drop(reply.send(JournalView { synced: *self.synced.borrow(), waiting }));
    }
}

/// The thread must not outlive its actor: whoever opens the journal next needs its lock.
impl Drop for JournalState {
    fn drop(&mut self) {
        // A thread that ended already needs no telling.
        drop(self.commands.send(Command::Stop));
    }
}
