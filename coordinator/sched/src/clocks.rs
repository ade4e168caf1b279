//! The clocks of fair queueing: kinds that some workers serve beside each other share one, all others go by their own.
//!
//! So time on workers that nobody else wants costs a tenant nothing elsewhere, and who waits for workers that are not
//! there saves up nothing. Where workers come between two pools, the clocks become one: each tenant stays as far ahead
//! as it was in either. Where a pool falls apart, each part goes on as the whole stood; a worker that comes and goes
//! changes nothing by it.

use crate::core::Core;
use crate::index::Group;
use crate::state::KindIx;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::job::Class;

/// Place of a [`Clock`].
pub(crate) type ClockIx = u16;

/// Virtual times of those that compete for the same workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// By class: the largest start of a placed shard.
    pub now: [u64; 3],
    /// By tenant, by class; 0 of one that is not there.
    times: Vec<[u64; 3]>,
}

impl Clock {
    pub fn time(&self, place: u32, class: Class) -> u64 {
        self.times.get(place as usize).map_or(0, |times| times[class as usize])
    }

    pub fn time_mut(&mut self, place: u32, class: Class) -> &mut u64 {
        let place = place as usize;
        if place >= self.times.len() {
            self.add_tenants(place + 1);
        }
        &mut self.times[place][class as usize]
    }

    #[cold]
    fn add_tenants(&mut self, tenants: usize) {
        self.times.resize(tenants, [0; 3]);
    }

    /// Where a tenant's times are, to be read ahead.
    pub fn times_of(&self, place: u32) -> Option<&[u64; 3]> {
        self.times.get(place as usize)
    }

    /// One clock for what went by several.
    fn joined(clocks: &[&Clock]) -> Clock {
        // Nothing was ever placed by a new one.
        let unused = Clock::default();
        let clocks: Vec<&Clock> = clocks.iter().copied().filter(|c| **c != unused).collect();
        let mut joined = unused;
        for clock in &clocks {
            let tenants = joined.times.len().max(clock.times.len());
            joined.times.resize(tenants, [0; 3]);
            for (now, of) in joined.now.iter_mut().zip(clock.now) {
                *now = of.max(*now);
            }
        }
        for clock in clocks {
            for (to, from) in joined.times.iter_mut().zip(&clock.times) {
                for class in Class::ALL.map(|class| class as usize) {
                    let behind = joined.now[class] - clock.now[class];
                    to[class] = to[class].max(from[class].saturating_add(behind));
                }
            }
        }
        joined
    }
}

impl Group {
    /// Whether any worker of it may get new work of a kind that it serves.
    pub(crate) fn gives(&self, kind: KindIx) -> bool {
        self.available > self.quarantined(kind)
    }
}

impl Core {
    /// A tenant's virtual time among those that wait for a kind.
    pub(crate) fn virtual_time(&self, place: u32, kind: KindIx, class: Class) -> u64 {
        self.clock_of(kind).time(place, class)
    }

    pub(crate) fn clock_of(&self, kind: KindIx) -> &Clock {
        &self.state.clocks[self.state.kinds[kind as usize].clock as usize]
    }

    /// Where a flow starts that begins to wait for a kind: beside the one that is served next, of those workers' that
    /// are furthest. On them it has no credit, and on the others it goes behind those who have nothing else. If nobody
    /// waits for any of them, at their clock.
    pub(crate) fn floor(&self, kind: KindIx, class: Class) -> u64 {
        let next = |group: &Group| {
            let served = group.kinds.iter().map(|kind| *kind as usize);
            let served = served.filter(|kind| self.index.served[*kind]);
            let turns = served.filter_map(|kind| self.index.turns[kind][class as usize].first());
            turns.map(|turn| turn.virtual_time).min()
        };
        let need = self.state.kinds[kind as usize].vram_bytes;
        let groups = self.index.fitting(kind, need).filter(|group| group.gives(kind));
        groups.filter_map(next).max().unwrap_or(self.clock_of(kind).now[class as usize])
    }

    /// Whether a flow waits for a worker by the clock of a kind, but for that kind itself. Who waits for nobody does not.
    pub(crate) fn waits_by(&self, place: u32, class: Class, kind: KindIx) -> bool {
        let clock = self.state.kinds[kind as usize].clock;
        let queues = &self.index.flows[place as usize][class as usize].queues;
        let mut by = queues.iter().filter(|queue| queue.clock == clock && queue.kind != kind);
        by.any(|queue| self.index.served[queue.kind as usize])
    }

    /// By kind: whether a worker may be given it at all.
    pub(crate) fn served(&self) -> Vec<bool> {
        let gives = |kind: KindIx| {
            let need = self.state.kinds[kind as usize].vram_bytes;
            self.index.fitting(kind, need).any(|group| group.gives(kind))
        };
        let kinds = 0..self.state.kinds.len() as KindIx;
        kinds.map(|kind| !self.state.paused(kind) && gives(kind)).collect()
    }

    /// By kind: the first of those that it shares workers with, directly or by way of others; none if it has no workers.
    fn pools(&self) -> Vec<Option<KindIx>> {
        fn first(of: &[KindIx], mut kind: KindIx) -> KindIx {
            while of[kind as usize] != kind {
                kind = of[kind as usize];
            }
            kind
        }
        let kinds = self.state.kinds.len() as KindIx;
        let mut beside: Vec<KindIx> = (0..kinds).collect();
        let mut given = vec![false; kinds.into()];
        for group in self.index.groups.iter().filter(|group| group.available > 0) {
            let mut before = None;
            for kind in group.kinds.iter().copied().filter(|kind| group.gives(*kind)) {
                given[kind as usize] = true;
                let one = first(&beside, kind);
                let other = before.map_or(one, |before| first(&beside, before));
                beside[one.max(other) as usize] = one.min(other);
                before = Some(kind);
            }
        }
        (0..kinds).map(|kind| given[kind as usize].then(|| first(&beside, kind))).collect()
    }

    /// The kinds of each pool, and the clocks that they go by.
    fn pooled(&self) -> Vec<(Vec<KindIx>, BTreeSet<ClockIx>)> {
        let mut pooled: BTreeMap<KindIx, (Vec<KindIx>, BTreeSet<ClockIx>)> = BTreeMap::new();
        for (kind, first) in (0..).zip(self.pools()) {
            let Some(first) = first else { continue };
            let (kinds, clocks) = pooled.entry(first).or_default();
            kinds.push(kind);
            clocks.insert(self.state.kinds[kind as usize].clock);
        }
        pooled.into_values().collect()
    }

    /// Sets the clocks by who serves what, if that may have changed; to be called before anything is placed.
    pub(crate) fn set_clocks(&mut self) {
        if std::mem::take(&mut self.index.served_anew) {
            self.set_clocks_anew();
        }
    }

    #[cold]
    fn set_clocks_anew(&mut self) {
        let pooled = self.pooled();
        let mut seen = BTreeSet::new();
        let same = |(_, clocks): &(_, BTreeSet<ClockIx>)| {
            clocks.len() == 1 && clocks.first().is_some_and(|clock| seen.insert(*clock))
        };
        if !pooled.iter().all(same) {
            self.change_clocks(pooled);
        }
        self.begin_serving();
    }

    fn change_clocks(&mut self, pooled: Vec<(Vec<KindIx>, BTreeSet<ClockIx>)>) {
        let before = std::mem::take(&mut self.state.clocks);
        let mut after: BTreeMap<ClockIx, ClockIx> = BTreeMap::new();
        let mut clocks: Vec<Clock> = Vec::new();
        let mut set = vec![false; self.state.kinds.len()];
        for (kinds, of) in pooled {
            let place = clocks.len() as ClockIx;
            let joined: Vec<&Clock> = of.iter().map(|clock| &before[*clock as usize]).collect();
            clocks.push(Clock::joined(&joined));
            for clock in of {
                after.entry(clock).or_insert(place);
            }
            for kind in kinds {
                self.state.kinds[kind as usize].clock = place;
                set[kind as usize] = true;
            }
        }
        // A kind without workers stays with those that it had them with.
        for (kind, _) in self.state.kinds.iter_mut().zip(set).filter(|(_, set)| !set) {
            kind.clock = *after.entry(kind.clock).or_insert_with(|| {
                clocks.push(before[kind.clock as usize].clone());
                (clocks.len() - 1) as ClockIx
            });
        }
        self.state.clocks = clocks;
        for queue in self.index.flows.iter_mut().flatten().flat_map(|flow| &mut flow.queues) {
            queue.clock = self.state.kinds[queue.kind as usize].clock;
        }
        for place in 0..self.state.tenants.len() as u32 {
            if !self.state.tenants[place as usize].capped() {
                for class in Class::ALL {
                    self.list(place, class);
                }
            }
        }
    }

    /// Some kinds have workers again, or none any more. Who waited for what nobody served begins to wait now.
    fn begin_serving(&mut self) {
        let served = self.served();
        let mut begins = Vec::new();
        for (kind, now) in served.iter().enumerate() {
            let before = self.index.served.get(kind).copied().unwrap_or(false);
            if *now && !before {
                begins.push(kind as KindIx);
            }
        }
        // Those that go on being served say where the others start.
        self.index.served.resize(served.len(), false);
        for (before, now) in self.index.served.iter_mut().zip(&served) {
            *before &= *now;
        }
        for class in Class::ALL.into_iter().filter(|_| !begins.is_empty()) {
            let floors = begins.iter().map(|kind| (*kind, self.floor(*kind, class)));
            for (kind, floor) in floors.collect::<Vec<_>>() {
                let clock = self.state.kinds[kind as usize].clock;
                for place in 0..self.state.tenants.len() as u32 {
                    let flow = &self.index.flows[place as usize][class as usize];
                    if flow.queue(kind).is_some() && !self.waits_by(place, class, kind) {
                        self.raise(place, class, clock, floor);
                    }
                }
            }
        }
        self.index.served = served;
    }

    /// The invariants of clocks.
    pub(crate) fn check_clocks(&self) -> Result<(), String> {
        let known = |kind: &crate::state::Kind| (kind.clock as usize) < self.state.clocks.len();
        if !self.state.kinds.iter().all(known) {
            return Err("a kind goes by no clock".to_owned());
        }
        let mut seen = BTreeSet::new();
        for (_, clocks) in self.pooled() {
            if clocks.len() != 1 || !seen.insert(clocks) {
                return Err("workers go by several clocks, or strangers by one".to_owned());
            }
        }
        if self.index.served != self.served() || self.index.served_anew {
            return Err("a kind is served otherwise than it seems".to_owned());
        }
        Ok(())
    }
}
