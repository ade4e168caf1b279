//! All that the core knows and cannot derive: what a snapshot holds. What can be derived from it stands in
//! `index.rs` and is built anew on load.

use crate::admission::Arrivals;
use crate::clocks::{Clock, ClockIx};
use crate::config::Config;
use crate::dependency::Gate;
use crate::fair::Tenant;
use crate::job::Job;
use crate::machine::Loss;
use crate::node::{NodeId, Nodes};
use crate::slab::{Slab, Slot};
use crate::timer::Timer;
use crate::worker::Worker;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::id::{Epoch, Millis, ModelId, WorkerId};
use zoetrope_protocol::job::Stage;

/// A kind of shard, (model, stage), by its place in [`State::kinds`].
pub(crate) type KindIx = u16;

/// All that the core knows and cannot derive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub(crate) config: Config,
    pub(crate) epoch: Epoch,
    /// The latest `now`. Time never goes back for the core.
    pub(crate) now: Millis,
    pub(crate) next_worker: WorkerId,
    /// Numbers jobs in the order of their admission.
    pub(crate) next_seq: u64,
    pub(crate) next_node: u32,
    /// Never shrinks; neither do the next two. A model keeps its place.
    pub(crate) models: Vec<Model>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) tenants: Vec<Tenant>,
    /// Virtual times, by the place of their clock.
    pub(crate) clocks: Vec<Clock>,
    pub(crate) jobs: Slab<Job>,
    /// Ends of the list of jobs by age.
    pub(crate) oldest: Option<Slot>,
    pub(crate) youngest: Option<Slot>,
    pub(crate) nodes: Nodes,
    pub(crate) workers: Slab<Worker>,
    pub(crate) timers: BTreeSet<(Millis, Timer)>,
    pub(crate) sweep_at: Option<Millis>,
    /// Work admitted lately, by class.
    pub(crate) arrivals: [Arrivals; 3],
    /// Nodes whose attempts said that a dependency is down, since one last answered.
    pub(crate) suspects: BTreeSet<NodeId>,
    /// A dependency of all is down: what may be placed meanwhile.
    pub(crate) gate: Option<Gate>,
    /// Workers lost a moment ago, by machine.
    pub(crate) losses: BTreeMap<String, Vec<Loss>>,
}

/// A model of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Model {
    pub id: ModelId,
    pub name: String,
    /// 1 to 4 kinds, in the order of the work.
    pub chain: Vec<KindIx>,
}

/// A kind of shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub model: ModelId,
    pub stage: Stage,
    pub vram_bytes: u64,
    /// Nothing of it is placed before this moment: too many workers fail it.
    pub paused_until: Option<Millis>,
    /// So many attempts of it may be quicker than expected: the expected time is being learned anew.
    pub relearn: u32,
    /// The clock that its flows go by.
    pub clock: ClockIx,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        State {
            config,
            epoch: Epoch(0),
            now: Millis(0),
            next_worker: WorkerId(1),
            next_seq: 1,
            next_node: 1,
            models: Vec::new(),
            kinds: Vec::new(),
            tenants: Vec::new(),
            clocks: Vec::new(),
            jobs: Slab::default(),
            oldest: None,
            youngest: None,
            nodes: Nodes::default(),
            workers: Slab::default(),
            timers: BTreeSet::new(),
            sweep_at: None,
            arrivals: [Arrivals::default(); 3],
            suspects: BTreeSet::new(),
            gate: None,
            losses: BTreeMap::new(),
        }
    }

    /// The kind of the job's current shard.
    pub(crate) fn kind_of(&self, job: &Job) -> KindIx {
        self.models[job.model as usize].chain[job.position as usize]
    }

    /// The stage of the job's current shard.
    pub(crate) fn stage_of(&self, job: &Job) -> Stage {
        self.kinds[self.kind_of(job) as usize].stage
    }

    /// Whether placing of the kind is paused.
    pub(crate) fn paused(&self, kind: KindIx) -> bool {
        self.kinds[kind as usize].paused_until.is_some()
    }
}
