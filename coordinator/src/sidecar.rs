//! Supervises the sidecars: restarts each within its own budget; when that is spent, the farm ends and is started
//! again. While a sidecar is down its requests fail as `DependencyDown`: jobs wait, none goes round it.

use crate::dispatch::DispatchMsg;
use crate::metrics::Metrics;
use crate::moderation::{ModerationActor, ModerationArguments};
use crate::provenance::{ProvenanceActor, ProvenanceArguments};
use crate::storage::{StorageActor, StorageArguments};
use crate::watermark::{WatermarkActor, WatermarkArguments};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zoetrope_protocol::metric;

/// Restarts of one sidecar within [`BUDGET_WINDOW`]: more is no accident.
const RESTARTS_MAX: usize = 5;
/// The window of the budget.
const BUDGET_WINDOW: Duration = Duration::from_secs(60);

/// So many restarts within so long. Pure: time is an argument.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    max: usize,
    window: Duration,
    spent: VecDeque<Instant>,
}

impl RestartBudget {
    /// `max` restarts within `window`.
    pub fn new(max: usize, window: Duration) -> RestartBudget {
        RestartBudget { max, window, spent: VecDeque::new() }
    }

    /// Takes one restart; `false`: the budget is spent.
    pub fn take(&mut self, now: Instant) -> bool {
        while self.spent.front().is_some_and(|at| now.duration_since(*at) >= self.window) {
            self.spent.pop_front();
        }
        if self.spent.len() >= self.max {
            return false;
        }
        self.spent.push_back(now);
        true
    }
}

/// Supervises the sidecars.
pub struct SidecarSup;

/// What the supervisor is told: nothing but its children's events.
pub enum SidecarSupMsg {}

/// What the sidecars need.
pub struct SidecarSupArguments {
    /// Of the storage sidecar.
    pub storage: StorageArguments,
    /// Of the moderation sidecar.
    pub moderation: ModerationArguments,
    /// Of the provenance sidecar.
    pub provenance: ProvenanceArguments,
    /// Of the watermark sidecar.
    pub watermark: WatermarkArguments,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Who is told that a sidecar runs.
    pub dispatch: ActorRef<DispatchMsg>,
}

/// The sidecars. They do not know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Storage,
    Moderation,
    Provenance,
    Watermark,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Storage, Kind::Moderation, Kind::Provenance, Kind::Watermark];

    /// The word for it in metrics.
    fn word(self) -> &'static str {
        match self {
            Kind::Storage => "storage",
            Kind::Moderation => "moderation",
            Kind::Provenance => "provenance",
            Kind::Watermark => "watermark",
        }
    }
}

/// The supervisor's own.
pub struct SidecarSupState {
    arguments: SidecarSupArguments,
    running: BTreeMap<ActorId, Kind>,
    budgets: BTreeMap<Kind, RestartBudget>,
}

#[ractor::async_trait]
impl Actor for SidecarSup {
    type Msg = SidecarSupMsg;
    type State = SidecarSupState;
    type Arguments = SidecarSupArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SidecarSupMsg>,
        arguments: SidecarSupArguments,
    ) -> Result<SidecarSupState, ActorProcessingErr> {
        let budget = RestartBudget::new(RESTARTS_MAX, BUDGET_WINDOW);
        let budgets = Kind::ALL.map(|kind| (kind, budget.clone())).into();
        let mut state = SidecarSupState { arguments, running: BTreeMap::new(), budgets };
        for kind in Kind::ALL {
            state.start(&myself, kind).await?;
        }
        Ok(state)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SidecarSupMsg>,
        event: SupervisionEvent,
        state: &mut SidecarSupState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                tracing::error!(%error, "a sidecar failed");
                state.restart(&myself, who.get_id()).await
            }
            SupervisionEvent::ActorTerminated(who, ..) => {
                state.restart(&myself, who.get_id()).await
            }
            _ => Ok(()),
        }
    }
}

impl SidecarSupState {
    async fn restart(
        &mut self,
        myself: &ActorRef<SidecarSupMsg>,
        who: ActorId,
    ) -> Result<(), ActorProcessingErr> {
        let Some(kind) = self.running.remove(&who) else { return Ok(()) };
        self.arguments.metrics.set(&metric::SIDECAR_UP, &[kind.word()], 0.0);
        let budget = self.budgets.get_mut(&kind);
        if !budget.is_some_and(|budget| budget.take(Instant::now())) {
            return Err(format!("the {} sidecar keeps failing", kind.word()).into());
        }
        self.start(myself, kind).await
    }

    async fn start(
        &mut self,
        myself: &ActorRef<SidecarSupMsg>,
        kind: Kind,
    ) -> Result<(), ActorProcessingErr> {
        let SidecarSupArguments { storage, moderation, provenance, watermark, dispatch, .. } =
            &self.arguments;
        let sup = myself.get_cell();
        let id = match kind {
            Kind::Storage => {
                let spawned = Actor::spawn_linked(None, StorageActor, storage.clone(), sup).await?;
                let up = DispatchMsg::StorageUp(spawned.0.clone());
                dispatch.cast(up).map_err(|_| "no dispatch actor any more")?;
                spawned.0.get_id()
            }
            // It says itself when it can judge.
            Kind::Moderation => {
                let arguments = moderation.clone();
                Actor::spawn_linked(None, ModerationActor, arguments, sup).await?.0.get_id()
            }
            Kind::Provenance => {
                let arguments = provenance.clone();
                let spawned = Actor::spawn_linked(None, ProvenanceActor, arguments, sup).await?;
                let up = DispatchMsg::ProvenanceUp(spawned.0.clone());
                dispatch.cast(up).map_err(|_| "no dispatch actor any more")?;
                spawned.0.get_id()
            }
            Kind::Watermark => {
                let arguments = watermark.clone();
                let spawned = Actor::spawn_linked(None, WatermarkActor, arguments, sup).await?;
                let up = DispatchMsg::WatermarkUp(spawned.0.clone());
                dispatch.cast(up).map_err(|_| "no dispatch actor any more")?;
                spawned.0.get_id()
            }
        };
        self.running.insert(id, kind);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back_with_time() {
        let mut budget = RestartBudget::new(2, Duration::from_secs(60));
        let start = Instant::now();
        assert!(budget.take(start) && budget.take(start));
        assert!(!budget.take(start + Duration::from_secs(59)));
        assert!(budget.take(start + Duration::from_secs(60)));
    }
}
