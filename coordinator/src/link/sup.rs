//! Supervises the links. Never restarts one: a lost link is an input of the core, and the worker dials again.

use super::LinkLimits;
use super::actor::{LinkActor, LinkArguments};
use super::draft::Drafts;
use super::endpoint::{self, Established};
use crate::authority::Authority;
use crate::dispatch::{DispatchMsg, ProgressBoard};
use crate::metrics::Metrics;
use crate::store::Store;
use quinn::Endpoint;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zoetrope_protocol::wire::CloseCode;
use zoetrope_sched::input::LostHow;

/// Supervises the links.
pub struct LinkSup;

/// What the supervisor is told.
pub enum LinkSupMsg {
    /// A worker was greeted: give it a link.
    Established(Box<Established>),
}

/// What the links need.
pub struct LinkSupArguments {
    /// Where workers connect.
    pub endpoint: Endpoint,
    /// Who issues certificates.
    pub authority: Arc<Authority>,
    /// Who is told.
    pub dispatch: ActorRef<DispatchMsg>,
    /// Where artifacts are.
    pub store: Arc<Store>,
    /// Where clips go that are not signed yet.
    pub drafts: Drafts,
    /// Where progress goes.
    pub board: Arc<ProgressBoard>,
    /// Where bytes are counted.
    pub metrics: Arc<Metrics>,
    /// How patient links are.
    pub limits: LinkLimits,
    /// Where workers find the coordinators of the farm.
    pub coordinators: watch::Receiver<Vec<String>>,
}

/// The supervisor's own.
pub struct LinkSupState {
    arguments: LinkSupArguments,
    accepting: JoinHandle<()>,
}

#[ractor::async_trait]
impl Actor for LinkSup {
    type Msg = LinkSupMsg;
    type State = LinkSupState;
    type Arguments = LinkSupArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<LinkSupMsg>,
        arguments: LinkSupArguments,
    ) -> Result<LinkSupState, ActorProcessingErr> {
        let endpoint = arguments.endpoint.clone();
        let accept = endpoint::accept(
            endpoint,
            arguments.authority.clone(),
            arguments.limits.connections,
            myself,
        );
        let accepting = tokio::spawn(accept);
        Ok(LinkSupState { arguments, accepting })
    }

    async fn handle(
        &self,
        myself: ActorRef<LinkSupMsg>,
        message: LinkSupMsg,
        state: &mut LinkSupState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LinkSupMsg::Established(established) => {
                let arguments = state.link(*established);
                let spawned =
                    Actor::spawn_linked(None, LinkActor, arguments, myself.get_cell()).await;
                if let Err(error) = spawned {
                    tracing::warn!(%error, "a link could not be started");
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<LinkSupMsg>,
        event: SupervisionEvent,
        state: &mut LinkSupState,
    ) -> Result<(), ActorProcessingErr> {
        let link = match event {
            SupervisionEvent::ActorTerminated(link, _, _) => link,
            SupervisionEvent::ActorFailed(link, error) => {
                tracing::error!(%error, "a link failed");
                link
            }
            _ => return Ok(()),
        };
        // Said again where the link said it itself: the core takes the first.
        let lost = DispatchMsg::LinkLost { link: link.get_id(), how: LostHow::Closed };
        state.arguments.dispatch.cast(lost).map_err(|_| "no dispatch actor any more")?;
        Ok(())
    }
}

impl LinkSupState {
    fn link(&self, established: Established) -> LinkArguments {
        LinkArguments {
            established,
            dispatch: self.arguments.dispatch.clone(),
            store: self.arguments.store.clone(),
            drafts: self.arguments.drafts.of_link(),
            board: self.arguments.board.clone(),
            metrics: self.arguments.metrics.clone(),
            limits: self.arguments.limits,
            coordinators: self.arguments.coordinators.clone(),
        }
    }
}

/// The port is free again when the supervisor is gone.
impl Drop for LinkSupState {
    fn drop(&mut self) {
        self.accepting.abort();
        self.arguments.endpoint.close(super::close_number(CloseCode::Stopping), b"the farm stops");
    }
}
