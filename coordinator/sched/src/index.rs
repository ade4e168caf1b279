//! All that is derived from the state so that a decision need not search: who is where, whose turn comes, which
//! workers are free. Built anew on load; nothing in it may show in the outputs but through the state.

use crate::admission::Work;
use crate::ages::Ages;
use crate::clocks::ClockIx;
use crate::drain::Drain;
use crate::keys::Keys;
use crate::node::NodeId;
use crate::preempt::Victim;
use crate::slab::Slot;
use crate::state::{KindIx, State};
use crate::table::Table;
use crate::turns::{Seat, Turns};
use crate::view::Counts;
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::id::{Millis, ModelId, TenantId, WorkerId};
use zoetrope_protocol::job::Stage;

/// A flow's place among those that wait for a kind: the smallest virtual time first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub virtual_time: u64,
    pub tenant: TenantId,
    pub place: u32,
}

/// The ready shards of a tenant in a class.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// One for each kind, in no order; none is empty.
    pub queues: Vec<Queue>,
}

/// The ready shards of one kind.
#[derive(Debug)]
pub(crate) struct Queue {
    pub kind: KindIx,
    /// The clock of the kind.
    pub clock: ClockIx,
    /// Where its flow sits among those that wait for the kind.
    pub seat: Seat,
    pub keys: Keys,
}

impl Flow {
    pub fn queue(&self, kind: KindIx) -> Option<&Keys> {
        self.queues.iter().find(|queue| queue.kind == kind).map(|queue| &queue.keys)
    }
}

/// Workers that can do the same: as much memory, the same kinds.
#[derive(Debug)]
pub(crate) struct Group {
    pub vram_bytes: u64,
    /// Sorted, once each; also what is not in the model table.
    pub serves: Vec<(ModelId, Stage)>,
    /// Kinds of the table among them, in the table's order, for which the memory suffices.
    pub kinds: Vec<KindIx>,
    /// Workers of it, connected or not.
    pub members: u32,
    /// Those that may get new work of some kind.
    pub available: u32,
    /// How many of these are in quarantine for a kind; no zeros.
    pub quarantined: Vec<(KindIx, u32)>,
    /// Those that may get new work and have none: by loaded kind plus one (0 is none), then by id.
    pub free: BTreeSet<(u32, WorkerId, Slot)>,
    /// Attempts that a higher class may preempt, the best first.
    pub victims: BTreeSet<Victim>,
}

impl Group {
    pub fn quarantined(&self, kind: KindIx) -> u32 {
        self.quarantined.iter().find(|(k, _)| *k == kind).map_or(0, |(_, count)| *count)
    }

    pub fn count_quarantined(&mut self, kind: KindIx, add: bool) {
        match self.quarantined.iter().position(|(k, _)| *k == kind) {
            Some(at) if add => self.quarantined[at].1 += 1,
            Some(at) => {
                self.quarantined[at].1 -= 1;
                if self.quarantined[at].1 == 0 {
                    self.quarantined.swap_remove(at);
                }
            }
            None if add => self.quarantined.push((kind, 1)),
            None => debug_assert!(false, "a quarantine was counted"),
        }
    }
}

/// All that is derived.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By the hash of the job's id.
    pub jobs: Table,
    pub tenants: BTreeMap<TenantId, u32>,
    pub models: BTreeMap<ModelId, u16>,
    /// By the hash of the worker's id.
    pub workers: Table,
    pub nodes: BTreeMap<String, NodeId>,
    /// By tenant, by class.
    pub flows: Vec<[Flow; 3]>,
    /// By kind, by class: the flows below their cap that wait for it.
    pub turns: Vec<[Turns; 3]>,
    /// Ready shards that some worker failed.
    pub scarred: BTreeSet<Slot>,
    pub deadlines: BTreeSet<(Millis, Slot)>,
    /// Boots that were lost while they drained: until when that is remembered, and the drain. A hello must not look through
    /// all timers for it.
    pub drained: BTreeMap<(NodeId, u64), (Millis, Drain)>,
    /// Jobs that rank as flex and will rank as default one day.
    pub aging: Ages,
    /// Nothing is due before this moment: a lower bound, so that most inputs need not look for it.
    pub due: Millis,
    /// Ready shards that an attempt leaves its worker for: the job, and the worker.
    pub claims: BTreeMap<Slot, Slot>,
    /// Preemptible attempts of all groups.
    pub victims: u32,
    pub groups: Vec<Group>,
    /// Free workers of all groups.
    pub free: u32,
    /// Group of a worker, by its place.
    pub group_of: Vec<u32>,
    /// By kind: whether a worker may be given it at all.
    pub served: Vec<bool>,
    /// That may have changed, and who shares workers with whom.
    pub served_anew: bool,
    /// By kind: the groups that serve it, by memory. Also those with too little.
    pub serving: Vec<Vec<u32>>,
    pub counts: Counts,
    /// By model, by tenant, by class: the work of unfinished jobs.
    pub work: Vec<Vec<[Work; 3]>>,
}

impl Index {
    /// The groups that serve a kind with at least this much memory, the smallest first.
    pub fn fitting(&self, kind: KindIx, vram_bytes: u64) -> impl Iterator<Item = &Group> {
        let serving = &self.serving[kind as usize];
        let from = serving.partition_point(|g| self.groups[*g as usize].vram_bytes < vram_bytes);
        serving[from..].iter().map(|g| &self.groups[*g as usize])
    }

    /// The group with this ability; made if there is none.
    pub fn group(&mut self, state: &State, vram_bytes: u64, serves: &[(ModelId, Stage)]) -> u32 {
        let same = |g: &Group| g.vram_bytes == vram_bytes && g.serves == serves;
        if let Some(at) = self.groups.iter().position(same) {
            return at as u32;
        }
        let group = Group {
            vram_bytes,
            serves: serves.to_vec(),
            kinds: Vec::new(),
            members: 0,
            available: 0,
            quarantined: Vec::new(),
            free: BTreeSet::new(),
            victims: BTreeSet::new(),
        };
        // A group without members is as good as gone; its place is taken first.
        let at = match self.groups.iter().position(|g| g.members == 0) {
            Some(at) => {
                self.groups[at] = group;
                at
            }
            None => {
                self.groups.push(group);
                self.groups.len() - 1
            }
        };
        self.sort_kinds(state);
        at as u32
    }

    /// Works out anew which group serves which kind: after a new group or another model table.
    pub fn sort_kinds(&mut self, state: &State) {
        self.served_anew = true;
        self.turns.resize_with(state.kinds.len(), Default::default);
        self.served.resize(state.kinds.len(), false);
        self.serving = vec![Vec::new(); state.kinds.len()];
        for (g, group) in self.groups.iter_mut().enumerate() {
            group.kinds.clear();
            for (k, kind) in state.kinds.iter().enumerate() {
                if group.serves.binary_search(&(kind.model, kind.stage)).is_err() {
                    continue;
                }
                self.serving[k].push(g as u32);
                if kind.vram_bytes <= group.vram_bytes {
                    group.kinds.push(k as KindIx);
                }
            }
        }
        for serving in &mut self.serving {
            serving.sort_by_key(|g| {
                let group = &self.groups[*g as usize];
                (group.vram_bytes, &group.serves)
            });
        }
    }
}
