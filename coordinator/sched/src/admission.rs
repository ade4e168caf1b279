//! What can be promised: when a job begins and ends, whether a deadline can be kept, when a full queue has room.
//!
//! A fluid model of the policy: higher classes first, then tenants by weight, then the least slack. Estimates
//! expect that nobody else comes; promises expect that every tenant that has work goes on having some, that the
//! higher classes go on coming as they did lately, and use only a part of what is left. Looks, never touches.

use crate::core::Core;
use crate::fair::Tenant;
use crate::input::Ask;
use crate::job::{CHAIN_MAX, Job, Standing};
use crate::keys::{Key, Keys};
use crate::slab::Slot;
use crate::view::Gauges;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::job::Class;

/// Arrivals are counted in windows of this length: some jobs long, and short enough to follow a day.
const WINDOW_MS: u64 = 10 * 60_000;
/// So many jobs of the own tenant are looked at one by one; what stands behind them counts as one mean job each.
const LOOK_MAX: usize = 10_000;
/// A deadline's job gets so many hundredths of its expected time: one attempt takes a little longer than the median.
const OWN_PERCENT: u64 = 110;

/// When a job begins and ends, as far as is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// When its first shard is placed.
    pub start: Millis,
    /// When its last shard is done.
    pub end: Millis,
    /// GPU time of its own that is left.
    pub work: Millis,
}

/// Work of one tenant in one class, in GPU-milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Of jobs that began.
    pub begun: u64,
    /// Of jobs that never began.
    pub waiting: u64,
    /// How many those are.
    pub jobs: u64,
}

impl Work {
    pub(crate) fn add(&mut self, of: &Gauges) {
        if of.begun {
            self.begun += of.work;
        } else {
            self.waiting += of.work;
            self.jobs += 1;
        }
    }

    pub(crate) fn take(&mut self, of: &Gauges) {
        if of.begun {
            self.begun -= of.work;
        } else {
            self.waiting -= of.work;
            self.jobs -= 1;
        }
    }

    fn all(&self) -> u64 {
        self.begun + self.waiting
    }
}

/// Work admitted in this window and in the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrivals {
    window: u64,
    now_ms: u64,
    before_ms: u64,
}

impl Arrivals {
    fn roll(self, now: Millis) -> Arrivals {
        let window = now.0 / WINDOW_MS;
        match window - self.window.min(window) {
            0 => self,
            1 => Arrivals { window, now_ms: 0, before_ms: self.now_ms },
            _ => Arrivals { window, now_ms: 0, before_ms: 0 },
        }
    }

    fn add(&mut self, now: Millis, work_ms: u64) {
        *self = self.roll(now);
        self.now_ms = self.now_ms.saturating_add(work_ms);
    }

    /// GPUs that arrivals as lately keep busy, in thousandths.
    fn milli_gpus(self, now: Millis) -> u64 {
        let rolled = self.roll(now);
        let passed = now.0 % WINDOW_MS;
        let before = u128::from(rolled.before_ms) * u128::from(WINDOW_MS - passed);
        let blend =
            (before + u128::from(rolled.now_ms) * u128::from(WINDOW_MS)) / u128::from(WINDOW_MS);
        // The first jobs of a class say already what is to come.
        let first = u128::from(rolled.now_ms) * u128::from(WINDOW_MS)
            / u128::from(passed.clamp(WINDOW_MS / 10, WINDOW_MS));
        u64::try_from(blend.max(first) * 1_000 / u128::from(WINDOW_MS)).unwrap_or(u64::MAX)
    }
}

/// A deadline that was accepted.
struct Promise {
    /// When the work has to begin at the latest.
    latest: Millis,
    work: u64,
    deadline: Millis,
}

/// What a job of a tenant, class and model competes with.
struct Rivals {
    /// Workers that can run it.
    workers: u64,
    /// Work of higher classes.
    higher: u64,
    weight: u64,
    /// Work of its own tenant in its class.
    own: Work,
    /// Weight and work of the other tenants that have some in its class.
    others: Vec<(u64, Work)>,
    /// Work of jobs of all classes that began.
    begun: u64,
}

impl Rivals {
    /// Time until so much of the tenant's waiting work has begun, if nobody else comes: what began holds its
    /// workers then as others hold them now.
    fn start_ms(&self, own: u64) -> u64 {
        let shared =
            |(weight, work): &(u64, Work)| work.waiting.min(share(own, *weight, self.weight));
        let all = self.others.iter().map(shared).sum::<u64>() + own + self.higher;
        // The first of k workers is free after two of k + 1 parts of what each has left on average.
        let first = 2 * (self.begun / self.workers.max(1)) / (self.workers + 1);
        all / self.workers.max(1) + first
    }

    /// Sum of the weights of all tenants with work in the class.
    fn weights(&self) -> u64 {
        self.others.iter().map(|(weight, _)| weight).sum::<u64>() + self.weight
    }
}

fn share(own: u64, theirs: u64, ours: u64) -> u64 {
    u64::try_from(u128::from(own) * u128::from(theirs) / u128::from(ours.max(1)))
        .unwrap_or(u64::MAX)
}

fn whole_ms(ask: &Ask, stages: usize) -> u64 {
    let unknown = u64::from(crate::core::EXPECTED_UNKNOWN_MS);
    let asked = ask.expected.iter().map(|ms| ms.0).chain(std::iter::repeat(unknown));
    asked.take(stages.min(CHAIN_MAX)).fold(0, u64::saturating_add)
}

impl Core {
    /// When a job would begin and end, were it submitted now; none if no worker can run it, or its tenant or model is
    /// unknown.
    pub fn estimate(&self, now: Millis, ask: &Ask) -> Option<Estimate> {
        let model = *self.index.models.get(&ask.model)?;
        let place = self.index.tenants.get(&ask.tenant).copied();
        let whole = whole_ms(ask, self.state.models[model as usize].chain.len());
        let rivals = self.rivals(model, place, ask.class)?;
        let key = Core::key_asked(ask, whole);
        let ahead = place.map_or(0, |p| self.ahead(p, ask.class, model, key));
        Some(self.estimated(now, model, &rivals, ahead, whole))
    }

    /// When an unfinished job begins (or began waiting for its next shard) and ends.
    pub fn estimate_of(&self, now: Millis, job: JobId) -> Option<Estimate> {
        let slot = self.job_slot(job)?;
        let job = &self.state.jobs[slot];
        let rivals = self.rivals(job.model, Some(job.tenant), job.rank)?;
        let left = self.left_ms(now, job);
        if job.live.is_some() {
            let end = now.plus(Millis(stretched(&rivals, left)));
            return Some(Estimate { start: now, end, work: Millis(left) });
        }
        let key = self.key_of(slot);
        let ahead = self.ahead(job.tenant, job.rank, job.model, key);
        Some(self.estimated(now, job.model, &rivals, ahead, left))
    }

    /// Whether the deadline of a job can be kept without breaking those that were accepted before: of the core, and of
    /// the tenant's jobs that are `yet_to_come`. Always, of a job without deadline. Where no worker is there that can run
    /// it, as if one were about to come.
    pub fn feasible<'a>(
        &self,
        now: Millis,
        ask: &Ask,
        yet_to_come: impl IntoIterator<Item = &'a Ask>,
    ) -> bool {
        let Some(deadline) = ask.deadline else { return true };
        let Some(&model) = self.index.models.get(&ask.model) else { return false };
        let place = self.index.tenants.get(&ask.tenant).copied();
        let whole = whole_ms(ask, self.state.models[model as usize].chain.len());
        let Some(rivals) = self.rivals(model, place, ask.class) else {
            // Workers may be about to come back: only what is beyond one that is free is refused.
            return now.0.saturating_add(whole) <= deadline.0;
        };
        let latest = Core::key_asked(ask, whole).latest().unwrap_or_default();
        // In thousandths of a GPU: what the tenant can count on.
        let higher: u64 = Class::ALL[..ask.class as usize]
            .iter()
            .map(|class| self.state.arrivals[*class as usize].milli_gpus(now))
            .sum();
        let percent = u64::from(self.state.config.promise_percent);
        let gpus = (rivals.workers * 1_000).saturating_sub(higher) * percent / 100;
        let mine = share(gpus, rivals.weight, self.weights_lately(now, &rivals, place, ask.class));
        // Nothing of its class makes room for it: each of its shards may wait for a worker that has just begun.
        let stages = self.state.models[model as usize].chain.len() as u64;
        let turns = stages * self.longest_ms() / rivals.workers.max(1);
        let lag = turns.saturating_add(rivals.higher * 1_000 / gpus.max(1));
        let in_time = |before: u64, own: u64, deadline: Millis| {
            // More tenants than workers: a job's own shards wait for their turns too.
            let own = own.saturating_mul(OWN_PERCENT) / 100;
            let own = own.max(own.saturating_mul(1_000) / mine.max(1));
            let queue = u64::try_from(u128::from(before) * 1_000 / u128::from(mine.max(1)));
            let end = now.0.saturating_add(lag).saturating_add(queue.unwrap_or(u64::MAX));
            end.saturating_add(own) <= deadline.0
        };
        let mut before = rivals.own.begun;
        let mut met = false;
        for Promise { latest: key, work, deadline: at } in
            self.promises(place, ask.class, model, yet_to_come)
        {
            if !met && key > latest {
                met = true;
                if !in_time(before, whole, deadline) {
                    return false;
                }
                before = before.saturating_add(whole);
            }
            if met && !in_time(before, work, at) {
                return false;
            }
            before = before.saturating_add(work);
        }
        met || in_time(before, whole, deadline)
    }

    /// Time after which a full queue has probably room for one more job: the tenant's, or the farm's.
    pub fn retry_after(&self, tenant: Option<TenantId>) -> Millis {
        let place = tenant.and_then(|tenant| self.index.tenants.get(&tenant)).copied();
        let (mut work, mut jobs, mut all) = (0, 0, 0);
        for tenants in &self.index.work {
            for (at, classes) in (0..).zip(tenants) {
                for of in classes {
                    all += of.all();
                    if place.is_none_or(|place| place == at) {
                        work += of.all();
                        jobs += of.jobs + u64::from(of.begun > 0);
                    }
                }
            }
        }
        let workers =
            self.state.workers.iter().filter(|(_, worker)| worker.available).count() as u64;
        let mean = work / jobs.max(1);
        // The tenant's part of the farm, by what waits: rough, and no promise.
        let part = share(workers * 1_000, work, all.max(1)).max(1);
        Millis(mean.saturating_mul(1_000) / part)
    }

    fn estimated(
        &self,
        now: Millis,
        model: u16,
        rivals: &Rivals,
        ahead: u64,
        left: u64,
    ) -> Estimate {
        let first = self.state.models[model as usize].chain[0];
        if self.any_free(first) && rivals.own.waiting == 0 {
            let end = now.plus(Millis(stretched(rivals, left)));
            return Estimate { start: now, end, work: Millis(left) };
        }
        let queue = rivals.start_ms(ahead);
        // Where there is a queue, its later shards wait for their turns too: about as long as what began has left.
        let turns = queue.min(rivals.begun / rivals.workers.max(1));
        let start = now.plus(Millis(queue));
        let end = start.plus(Millis(turns.saturating_add(stretched(rivals, left))));
        Estimate { start, end, work: Millis(left) }
    }

    /// Sum of the weights of all tenants that have work in the class, or had some lately and will come again.
    fn weights_lately(&self, now: Millis, rivals: &Rivals, own: Option<u32>, class: Class) -> u64 {
        let lately = |(_, tenant): &(u32, &Tenant)| {
            tenant.came[class as usize].plus(Millis(WINDOW_MS)) > now
        };
        let others = (0..).zip(&self.state.tenants).filter(|(place, _)| Some(*place) != own);
        let came: u64 =
            others.filter(lately).map(|(_, tenant)| u64::from(tenant.policy.weight)).sum();
        rivals.weights().max(came + rivals.weight)
    }

    /// Expected time of the longest shard that runs.
    fn longest_ms(&self) -> u64 {
        let workers = self.state.workers.iter();
        workers.filter_map(|(_, worker)| Some(worker.running()?.charged_ms)).max().unwrap_or(0)
    }

    /// What a begun or waiting job still has to do.
    fn left_ms(&self, now: Millis, job: &Job) -> u64 {
        let current = job.expected(self.state.stage_of(job));
        let later = job.left_ms() - u64::from(job.expected_ms[job.position as usize]);
        let gone = match job.standing() {
            // Stored steps are out of `current` already; of the rest, time tells.
            Standing::Running { worker } => self.state.workers[worker].running().map_or(0, |r| {
                let stored = r.charged_ms.saturating_sub(current);
                now.minus(r.since).0.saturating_sub(stored)
            }),
            Standing::Publishing | Standing::PublishBackingOff { .. } => return 0,
            // Side by side they take a part of its time.
            Standing::Parted => current - current / u64::from(job.shards),
            Standing::Ready | Standing::BackingOff { .. } => 0,
        };
        current.saturating_sub(gone) + later
    }

    /// Where a job would stand in its tenant's queue.
    fn key_asked(ask: &Ask, whole: u64) -> Key {
        let latest = ask.deadline.map(|at| at.minus(Millis(whole)));
        Key::new(2, latest, u64::MAX, Slot::MAX)
    }

    /// Work of the tenant's jobs that never began and go before `key`.
    fn ahead(&self, place: u32, class: Class, model: u16, key: Key) -> u64 {
        let first = self.state.models[model as usize].chain[0];
        let queue = self.index.flows[place as usize][class as usize].queue(first);
        let before = queue.map_or(0, |queue| queue.before(key).take(LOOK_MAX).count() as u64);
        let work = self.index.work.get(model as usize).and_then(|of| of.get(place as usize));
        let work = work.map_or_else(Work::default, |of| of[class as usize]);
        if before >= LOOK_MAX as u64 {
            return work.waiting;
        }
        work.waiting / work.jobs.max(1) * before
    }

    /// Deadlines of a tenant in a class that were accepted on a model's workers, of jobs that never began: the least slack
    /// first.
    fn promises<'a>(
        &self,
        place: Option<u32>,
        class: Class,
        model: u16,
        yet_to_come: impl IntoIterator<Item = &'a Ask>,
    ) -> Vec<Promise> {
        let models = (0..self.state.models.len() as u16).filter(|o| self.share_workers(model, *o));
        let mut promises: Vec<Promise> = Vec::new();
        for other in models {
            let first = self.state.models[other as usize].chain[0];
            let flow = place.map(|place| &self.index.flows[place as usize][class as usize]);
            let queue = flow.and_then(|flow| flow.queue(first));
            let new = queue.into_iter().flat_map(Keys::iter).filter(|key| key.is_new());
            promises.extend(new.take(LOOK_MAX).map_while(|key| {
                let job = &self.state.jobs[key.slot];
                let (latest, work) = (key.latest()?, job.left_ms());
                Some(Promise { latest, work, deadline: job.deadline? })
            }));
        }
        promises.extend(yet_to_come.into_iter().take(LOOK_MAX).filter_map(|ask| {
            let other = *self.index.models.get(&ask.model)?;
            if ask.class != class || !self.share_workers(model, other) {
                return None;
            }
            let work = whole_ms(ask, self.state.models[other as usize].chain.len());
            let latest = Core::key_asked(ask, work).latest()?;
            Some(Promise { latest, work, deadline: ask.deadline? })
        }));
        promises.sort_by_key(|promise| promise.latest);
        promises
    }

    fn rivals(&self, model: u16, place: Option<u32>, class: Class) -> Option<Rivals> {
        let chain = &self.state.models[model as usize].chain;
        // The stage with the fewest workers is the narrow one.
        let fitting = chain
            .iter()
            .map(|kind| self.count_fitting(*kind, self.state.kinds[*kind as usize].vram_bytes));
        let workers = fitting.min().filter(|workers| *workers > 0)?;
        let mut rivals = Rivals {
            workers: workers.into(),
            higher: 0,
            weight: place.map_or(100, |p| self.state.tenants[p as usize].policy.weight.into()),
            own: Work::default(),
            others: Vec::new(),
            begun: 0,
        };
        let mut others = vec![Work::default(); self.state.tenants.len()];
        for (other, tenants) in (0..).zip(&self.index.work) {
            if !self.share_workers(model, other) {
                continue;
            }
            for (at, classes) in (0_u32..).zip(tenants) {
                rivals.higher += classes[..class as usize].iter().map(|of| of.waiting).sum::<u64>();
                rivals.begun += classes.iter().map(|of| of.begun).sum::<u64>();
                let of = classes[class as usize];
                if Some(at) == place {
                    rivals.own.begun += of.begun;
                    rivals.own.waiting += of.waiting;
                    rivals.own.jobs += of.jobs;
                } else {
                    let other = &mut others[at as usize];
                    other.begun += of.begun;
                    other.waiting += of.waiting;
                }
            }
        }
        let weight = |at: usize| u64::from(self.state.tenants[at].policy.weight);
        let busy = others.into_iter().enumerate().filter(|(_, work)| work.all() > 0);
        rivals.others = busy.map(|(at, work)| (weight(at), work)).collect();
        Some(rivals)
    }

    /// Whether some worker serves both models.
    fn share_workers(&self, one: u16, other: u16) -> bool {
        let serves = |group: &crate::index::Group, model: u16| {
            let chain = &self.state.models[model as usize].chain;
            chain.iter().any(|kind| group.kinds.contains(kind))
        };
        let mut groups = self.index.groups.iter().filter(|group| group.members > 0);
        one == other || groups.any(|group| serves(group, one) && serves(group, other))
    }

    /// A job was admitted: for the rate of arrivals.
    pub(crate) fn arrived(&mut self, class: Class, slot: Slot) {
        let work = self.state.jobs[slot].left_ms();
        let now = self.state.now;
        self.state.arrivals[class as usize].add(now, work);
        let place = self.state.jobs[slot].tenant as usize;
        self.state.tenants[place].came[class as usize] = now;
    }

    pub(crate) fn add_work(&mut self, slot: Slot, gauges: &Gauges) {
        self.work_at(slot, gauges.rank).add(gauges);
    }

    pub(crate) fn take_work(&mut self, slot: Slot, gauges: &Gauges) {
        self.work_at(slot, gauges.rank).take(gauges);
    }

    pub(crate) fn work_at(&mut self, slot: Slot, rank: Class) -> &mut Work {
        let job = &self.state.jobs[slot];
        let (model, place, class) = (job.model as usize, job.tenant as usize, rank as usize);
        let there = self.index.work.get(model).is_some_and(|tenants| place < tenants.len());
        if !there {
            self.widen_work(model, place);
        }
        &mut self.index.work[model][place][class]
    }

    #[cold]
    fn widen_work(&mut self, model: usize, place: usize) {
        let models = self.index.work.len().max(model + 1);
        self.index.work.resize_with(models, Vec::new);
        self.index.work[model].resize_with(place + 1, Default::default);
    }

    /// The invariants of what is counted here.
    pub(crate) fn check_work(&self) -> Result<(), String> {
        let mut really: BTreeMap<(usize, usize, usize), Work> = BTreeMap::new();
        for (slot, job) in self.state.jobs.iter() {
            let gauges = self.gauges(slot);
            let at = (usize::from(job.model), job.tenant as usize, gauges.rank as usize);
            really.entry(at).or_default().add(&gauges);
        }
        really.retain(|_, work| *work != Work::default());
        let mut kept = BTreeMap::new();
        for (model, tenants) in self.index.work.iter().enumerate() {
            for (tenant, classes) in tenants.iter().enumerate() {
                let some = classes.iter().enumerate().filter(|(_, of)| **of != Work::default());
                kept.extend(some.map(|(class, of)| ((model, tenant, class), *of)));
            }
        }
        if kept == really {
            return Ok(());
        }
        Err(format!("work by model, tenant and class is {really:?}, counted was {kept:?}"))
    }
}

/// Time that a job's own work takes once it began: longer where its tenant has less than one worker.
fn stretched(rivals: &Rivals, own: u64) -> u64 {
    let mine = share(rivals.workers * 1_000, rivals.weight, rivals.weights());
    own.max(own.saturating_mul(1_000) / mine.max(1))
}
