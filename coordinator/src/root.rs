//! The top of the supervision tree: starts the actors in order and says when the process has to end.
//!
//! If the journal or the dispatch actor dies, memory may differ from disk: the process ends non-zero, is started
//! again and replays. Each sidecar is restarted within a budget of its own; the supervisor of links is not restarted.

use crate::dispatch::{DispatchActor, DispatchArguments, DispatchMsg};
use crate::journal::{JournalActor, JournalArguments, JournalMsg};
use crate::link::{LinkSup, LinkSupArguments};
use crate::sidecar::{SidecarSup, SidecarSupArguments};
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent,
};
use tokio::sync::oneshot;

/// The top of the tree.
pub struct RootActor;

/// What the root is told, besides the tree's own events.
pub enum RootMsg {
    /// Stop, and leave the books as a snapshot for whoever starts next.
    SaveAndStop,
}

/// What the tree needs.
pub struct RootArguments {
    /// The journal's; started first.
    pub journal: JournalArguments,
    /// The dispatch actor's, once the journal runs.
    pub dispatch: Box<dyn FnOnce(ActorRef<JournalMsg>) -> DispatchArguments + Send>,
    /// The links', once the dispatch actor runs.
    pub links: Box<dyn FnOnce(ActorRef<DispatchMsg>) -> LinkSupArguments + Send>,
    /// The sidecars', once the dispatch actor runs.
    pub sidecars: Box<dyn FnOnce(ActorRef<DispatchMsg>) -> SidecarSupArguments + Send>,
    /// Gets the dispatch actor, for the door.
    pub started: oneshot::Sender<ActorRef<DispatchMsg>>,
    /// Gets the reason if the process has to end.
    pub fatal: oneshot::Sender<String>,
}

/// The children, in the order of their start.
pub struct RootState {
    children: Vec<(&'static str, ActorCell)>,
    dispatch: ActorRef<DispatchMsg>,
    saves: bool,
    fatal: Option<oneshot::Sender<String>>,
}

#[ractor::async_trait]
impl Actor for RootActor {
    type Msg = RootMsg;
    type State = RootState;
    type Arguments = RootArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<RootMsg>,
        arguments: RootArguments,
    ) -> Result<RootState, ActorProcessingErr> {
        let RootArguments { journal, dispatch, links, sidecars, started, fatal } = arguments;
        let root = myself.get_cell();
        let (journal, _) = Actor::spawn_linked(None, JournalActor, journal, root.clone()).await?;
        let arguments = dispatch(journal.clone());
        let spawned = Actor::spawn_linked(None, DispatchActor, arguments, root.clone()).await?;
        let dispatch = spawned.0;
        let arguments = sidecars(dispatch.clone());
        let (sidecars, _) = Actor::spawn_linked(None, SidecarSup, arguments, root.clone()).await?;
        let arguments = links(dispatch.clone());
        let (links, _) = Actor::spawn_linked(None, LinkSup, arguments, root).await?;
        let children = vec![
            ("journal", journal.get_cell()),
            ("dispatch", dispatch.get_cell()),
            ("sidecars", sidecars.get_cell()),
            ("links", links.get_cell()),
        ];
        started.send(dispatch.clone()).map_err(|_| "nobody waits for the tree")?;
        Ok(RootState { children, dispatch, saves: false, fatal: Some(fatal) })
    }

    async fn handle(
        &self,
        myself: ActorRef<RootMsg>,
        message: RootMsg,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RootMsg::SaveAndStop => {
                state.saves = true;
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<RootMsg>,
        event: SupervisionEvent,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                state.dead(who.get_id(), &error.to_string())
            }
            SupervisionEvent::ActorTerminated(who, _, _) => state.dead(who.get_id(), "it stopped"),
            _ => {}
        }
        Ok(())
    }

    /// Only after a wanted stop: links first, so that workers hear of it, the journal last, so that what was
    /// recorded is on disk.
    async fn post_stop(
        &self,
        _myself: ActorRef<RootMsg>,
        state: &mut RootState,
    ) -> Result<(), ActorProcessingErr> {
        state.fatal = None;
        let alive = |child: &ActorCell| child.get_status() != ActorStatus::Stopped;
        for (name, child) in state.children.iter().rev().filter(|(_, child)| alive(child)) {
            if state.saves && child.get_id() == state.dispatch.get_id() {
                // Now nobody reports any more. One that does not answer leaves its records, which say the same.
                drop(state.dispatch.call(DispatchMsg::Save, Some(STOP_TIMEOUT)).await);
            }
            let stopped = child.stop_and_wait(None, Some(STOP_TIMEOUT)).await;
            if stopped.is_err() {
                tracing::warn!(name, "an actor did not stop in time");
            }
        }
        Ok(())
    }
}

/// Each actor has so long to stop; handlers take milliseconds.
const STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl RootState {
    /// Every direct child is one that the farm cannot do without.
    fn dead(&mut self, who: ActorId, why: &str) {
        let child = self.children.iter().find(|(_, cell)| cell.get_id() == who);
        let name = child.map_or("an actor", |(name, _)| *name);
        if let Some(fatal) = self.fatal.take() {
            // Without a receiver the process is ending already.
            drop(fatal.send(format!("{name}: {why}")));
        }
    }
}
