//! Supervises the sidecars: restarts a child within a budget; when that is spent, the farm ends and is started
//! again. While a sidecar is down its requests fail as `DependencyDown`: jobs wait, none goes round it.

use crate::dispatch::DispatchMsg;
use crate::metrics::Metrics;
use crate::storage::{StorageActor, StorageArguments};
use crate::store::Store;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::VecDeque;
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
    /// The store.
    pub store: Arc<Store>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Who is told that a sidecar runs.
    pub dispatch: ActorRef<DispatchMsg>,
}

/// The supervisor's own.
pub struct SidecarSupState {
    arguments: SidecarSupArguments,
    budget: RestartBudget,
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
        let state = SidecarSupState { arguments, budget };
        state.start(&myself).await?;
        Ok(state)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SidecarSupMsg>,
        event: SupervisionEvent,
        state: &mut SidecarSupState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(%error, "the storage sidecar failed");
                state.restart(&myself).await
            }
            SupervisionEvent::ActorTerminated(..) => state.restart(&myself).await,
            _ => Ok(()),
        }
    }
}

impl SidecarSupState {
    async fn restart(
        &mut self,
        myself: &ActorRef<SidecarSupMsg>,
    ) -> Result<(), ActorProcessingErr> {
        self.arguments.metrics.set(&metric::SIDECAR_UP, &["storage"], 0.0);
        if !self.budget.take(Instant::now()) {
            return Err("the storage sidecar keeps failing".into());
        }
        self.start(myself).await
    }

    async fn start(&self, myself: &ActorRef<SidecarSupMsg>) -> Result<(), ActorProcessingErr> {
        let SidecarSupArguments { store, metrics, dispatch } = &self.arguments;
        let arguments = StorageArguments { store: store.clone(), metrics: metrics.clone() };
        let spawned = Actor::spawn_linked(None, StorageActor, arguments, myself.get_cell()).await?;
        dispatch
            .cast(DispatchMsg::StorageUp(spawned.0))
            .map_err(|_| "no dispatch actor any more")?;
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
