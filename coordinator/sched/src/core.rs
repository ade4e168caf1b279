//! The core itself: takes an input, calls the room that owns it, places what became possible.

use crate::config::Config;
use crate::input::Input;
use crate::output::{Ignored, Output};
use crate::view::{Counts, JobView, TenantView, WorkerView};
use crate::why::Why;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Epoch, JobId, Millis, TenantId, WorkerId};

/// All that the core knows and cannot derive: what a snapshot holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    config: Config,
    epoch: Epoch,
}

/// The scheduler core.
pub struct Core {
    state: State,
}

impl Core {
    /// A core that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Core { state: State { config, epoch: Epoch(0) } }
    }

    /// Takes in what happened at `now` and appends what is to be done. Total: it never fails, and an input that is
    /// late or senseless leaves an `Output::Ignored`. A `now` before an earlier one counts as that one.
    pub fn handle(&mut self, _now: Millis, _input: Input, out: &mut Vec<Output>) {
        out.push(Output::Ignored { why: Ignored::NothingToDo });
    }

    /// The moment at which the core wants `TimePassed`, if it waits for any.
    pub fn next_wakeup(&self) -> Option<Millis> {
        None
    }

    /// Holds all invariants against the state.
    ///
    /// # Errors
    /// A sentence about the first one that is broken.
    pub fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// What a snapshot must hold. Encode it with the codec, or clone it for another thread.
    pub fn snapshot(&self) -> &State {
        &self.state
    }

    /// The core whose snapshot this is: it gives the same outputs from here on.
    pub fn from_snapshot(state: State) -> Self {
        Core { state }
    }

    /// Why an unfinished job stands as it does.
    pub fn why(&self, _now: Millis, _job: JobId) -> Option<Why> {
        None
    }

    /// About how many jobs will begin before this one; none for a job that began or is unknown.
    pub fn queue_position(&self, _job: JobId) -> Option<u32> {
        None
    }

    /// All workers, in the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        std::iter::empty()
    }

    /// One worker.
    pub fn worker(&self, _worker: WorkerId) -> Option<WorkerView> {
        None
    }

    /// An unfinished job.
    pub fn job(&self, _job: JobId) -> Option<JobView> {
        None
    }

    /// All unfinished jobs, in the order of their admission.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        std::iter::empty()
    }

    /// A tenant.
    pub fn tenant(&self, _tenant: TenantId) -> Option<TenantView> {
        None
    }

    /// How many there are, for gauges.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// The number that the next worker to say hello is to have.
    pub fn next_worker_id(&self) -> WorkerId {
        WorkerId(1)
    }

    /// The current epoch; 0 before the first.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// The limits in force.
    pub fn config(&self) -> &Config {
        &self.state.config
    }
}
