//! The gpu: one actor in front of one plain thread that owns the engine and every tensor.
//!
//! The actor hands over one attempt at a time, stops attempts when the worker drains, and watches that the
//! thread comes back within each order's hard limit. It never touches the engine. Fed by `LinkActor`.

pub mod attempt;
pub mod courier;
mod pace;
mod segments;
mod thread;

use crate::cache::ArtifactCache;
use crate::engine::{Engine, EngineError};
use crate::exit::ExitCode;
use crate::finish::Finisher;
use crate::link::LinkMsg;
use crate::metrics::Metrics;
use crate::root::RootMsg;
use attempt::{Attempt, AttemptKey, Report};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent, async_trait};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::wire::{DrainKind, StopWhen};

/// Opens the engine of a model. Called on the gpu thread, and nothing of it ever leaves that thread.
pub type OpenEngine = Box<dyn FnMut(&str) -> Result<Box<dyn Engine>, EngineError> + Send>;

/// Attempts that wait for the thread: the link takes two at most, and dropped ones may still be stopping.
const WAITING_MAX: usize = 4;
/// How often limits are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// An attempt that works on for so long after it was told to stop at once, and shows nothing new, has a thread that is stuck.
/// Before the 60 s are over after which the coordinator takes the gpu of a stopped attempt for free, and gives it the next.
pub const STUCK_AFTER: Duration = Duration::from_secs(45);
/// It must also have shown nothing new for so many times as long: a step of the largest clip may take 100 s.
const STUCK_UNMOVED: u32 = 3;
/// And for so many of its own steps, where those take longer.
const STUCK_STEPS: u32 = 4;
/// A load that nobody waits for any more may take so long from then on: as long as the coordinator gives one, unless it
/// is configured otherwise. Weights that are on their way serve the next attempt.
const LOAD_STUCK_AFTER: Duration = Duration::from_secs(900);
/// Before a deadline, room for the step in hand and for storing its latents.
const STEP_ROOM: Duration = Duration::from_secs(5);
/// Before a deadline, room to say goodbye.
const GOODBYE_ROOM: Duration = Duration::from_secs(1);

/// What the gpu is told.
pub enum GpuMsg {
    /// Make this attempt, after those before it.
    Run(Arc<Attempt>),
    /// The thread is done with an attempt, and has told the link.
    Idle(AttemptKey),
    /// The device failed: the thread stands still and serves nothing more.
    DeviceFailed(String),
    /// The thread panicked.
    ThreadDied,
    /// The worker leaves: stop what runs, as soon as this says.
    Drain(DrainKind),
    /// Time passed.
    Tick,
    /// What an operator may see.
    Observe(RpcReplyPort<GpuView>),
}

/// What a gpu shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuView {
    /// The attempt on the thread.
    pub running: Option<AttemptKey>,
    /// Attempts behind it.
    pub waiting: usize,
}

/// What a gpu is made of.
pub struct GpuArguments {
    /// Told when the process must end.
    pub root: ActorRef<RootMsg>,
    /// Where artifacts and reports go.
    pub link: ActorRef<LinkMsg>,
    /// Opens engines.
    pub open: OpenEngine,
    /// Makes clips.
    pub finisher: Finisher,
    /// Artifacts on disk.
    pub cache: Arc<ArtifactCache>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// After a stop, when the thread counts as stuck; [`STUCK_AFTER`] outside tests.
    pub stuck_after: Duration,
}

/// The actor.
pub struct GpuActor;

/// Its state.
pub struct GpuState {
    root: ActorRef<RootMsg>,
    link: ActorRef<LinkMsg>,
    thread: SyncSender<Arc<Attempt>>,
    running: Option<Arc<Attempt>>,
    waiting: VecDeque<Arc<Attempt>>,
    stuck_after: Duration,
    /// When a drain with deadline must be over.
    deadline: Option<Instant>,
    stuck: bool,
    ended: bool,
}

#[async_trait]
impl Actor for GpuActor {
    type Msg = GpuMsg;
    type State = GpuState;
    type Arguments = GpuArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<GpuMsg>,
        arguments: GpuArguments,
    ) -> Result<GpuState, ActorProcessingErr> {
        let GpuArguments { root, link, open, finisher, cache, metrics, stuck_after } = arguments;
        let courier = courier::Courier::new(link.clone(), cache);
        let part =
            thread::GpuThread::new(myself.clone(), link.clone(), courier, open, finisher, metrics);
        let thread = part.start()?;
        let gpu = myself;
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(WATCH_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if gpu.cast(GpuMsg::Tick).is_err() {
                    return;
                }
            }
        });
        Ok(GpuState {
            root,
            link,
            thread,
            running: None,
            waiting: VecDeque::new(),
            stuck_after,
            deadline: None,
            stuck: false,
            ended: false,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<GpuMsg>,
        msg: GpuMsg,
        state: &mut GpuState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            GpuMsg::Run(attempt) => state.run(attempt),
            GpuMsg::Idle(key) => state.idle(key),
            GpuMsg::DeviceFailed(detail) => state.device_failed(&detail),
            GpuMsg::ThreadDied => state.end(ExitCode::PartDied),
            GpuMsg::Drain(kind) => state.drain(kind),
            GpuMsg::Tick => state.tick(),
            GpuMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<GpuMsg>,
        _event: SupervisionEvent,
        _state: &mut GpuState,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children: its thread speaks for itself.
        Ok(())
    }
}

impl GpuState {
    fn run(&mut self, attempt: Arc<Attempt>) {
        if self.waiting.len() >= WAITING_MAX {
            let detail = "too many attempts wait for the gpu".to_string();
            self.report(&attempt, Cause::Refused, detail);
            return;
        }
        self.waiting.push_back(attempt);
        self.next();
    }

    fn next(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(attempt) = self.waiting.pop_front() else { return };
        // The thread is idle, so the channel of one has room.
        match self.thread.try_send(attempt.clone()) {
            Ok(()) => self.running = Some(attempt),
            Err(_) => self.end(ExitCode::PartDied),
        }
    }

    fn idle(&mut self, key: AttemptKey) {
        if self.running.as_ref().is_some_and(|attempt| attempt.key == key) {
            self.running = None;
        }
        self.next();
    }

    fn device_failed(&mut self, detail: &str) {
        tracing::error!(detail, "the device failed: the process ends, start it again");
        self.running = None;
        self.leave(ExitCode::DeviceFailed, "the device failed");
    }

    /// Ends the process by way of the link: it takes no more orders from here on, and says the reports before the end.
    fn leave(&mut self, code: ExitCode, why: &str) {
        let leave = LinkMsg::Leave { kind: DrainKind::Immediate, code };
        if self.link.cast(leave).is_err() {
            self.end(code);
        }
        for attempt in std::mem::take(&mut self.waiting) {
            self.report(&attempt, Cause::Refused, why.into());
        }
    }

    fn report(&self, attempt: &Attempt, cause: Cause, detail: String) {
        let gpu = attempt.worked_ms();
        let report = Report::Failed { cause, detail, gpu };
        self.link.cast(LinkMsg::Ended { key: attempt.key, report }).ok(); // root sees its death
    }

    fn end(&mut self, code: ExitCode) {
        if !self.ended {
            self.ended = true;
            self.root.cast(RootMsg::End(code)).ok(); // a dead root has ended the process already
        }
    }

    fn stop_all(&self, when: StopWhen) {
        for attempt in self.running.iter().chain(&self.waiting) {
            attempt.stop(when, Cause::Drained);
        }
    }

    fn drain(&mut self, kind: DrainKind) {
        self.running.iter().chain(&self.waiting).for_each(|attempt| attempt.leave());
        match kind {
            DrainKind::Immediate => self.stop_all(StopWhen::Now),
            DrainKind::Step => self.stop_all(StopWhen::AfterStep),
            DrainKind::Shard => {}
            DrainKind::Deadline(within) => {
                let deadline = Instant::now() + Duration::from_millis(within.0);
                self.deadline = Some(self.deadline.map_or(deadline, |old| old.min(deadline)));
            }
        }
        // What has not begun goes back at once, whatever the kind.
        for attempt in &self.waiting {
            attempt.stop(StopWhen::Now, Cause::Drained);
        }
    }

    fn tick(&mut self) {
        let Some(attempt) = self.running.clone() else { return };
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= attempt.last_step() + STEP_ROOM {
                self.stop_all(StopWhen::AfterStep);
            }
            if left <= GOODBYE_ROOM {
                self.stop_all(StopWhen::Now);
            }
        }
        if attempt.worked() > attempt.hard_limit() {
            attempt.stop(StopWhen::Now, Cause::Timeout);
        }
        let (loads, works) = (attempt.loading_stopped(), attempt.working_stopped());
        let still = (self.stuck_after * STUCK_UNMOVED).max(attempt.last_step() * STUCK_STEPS);
        if loads > LOAD_STUCK_AFTER {
            self.stuck(&attempt, loads);
        } else if works > self.stuck_after && attempt.unmoved() > still {
            self.stuck(&attempt, attempt.unmoved());
        }
    }

    fn stuck(&mut self, attempt: &Attempt, stood: Duration) {
        if std::mem::replace(&mut self.stuck, true) {
            return;
        }
        let detail = format!("stuck on the gpu thread for {} s", stood.as_secs());
        tracing::error!(shard = %attempt.order.shard, detail, "the process ends, start it again");
        self.leave(ExitCode::GpuStuck, "the gpu is stuck");
        self.report(attempt, Cause::Timeout, detail);
    }

    fn observe(&self, reply: RpcReplyPort<GpuView>) {
        let view = GpuView {
            running: self.running.as_ref().map(|attempt| attempt.key),
            waiting: self.waiting.len(),
        };
        reply.send(view).ok(); // the asker may have stopped waiting
    }
}
