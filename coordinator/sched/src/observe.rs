//! Views of the core. Looks, never touches.

use crate::core::Core;
use crate::fair::Tenant;
use crate::input::Placed;
use crate::job::{Job, Live, Standing};
use crate::output::JobState;
use crate::slab::Slot;
use crate::view::{Counts, JobView, QuarantineView, TenantView, WorkerState, WorkerView};
use crate::worker::{Doing, Worker};
use zoetrope_protocol::id::{JobId, Millis, TenantId, WorkerId};

/// `queue_position` counts so many jobs of the own tenant one by one; beyond it the position is a lower bound.
const POSITION_EXACT_MAX: usize = 10_000;

impl Core {
    /// All workers, in the order of their ids.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        let mut workers: Vec<&Worker> = self.state.workers.iter().map(|(_, w)| w).collect();
        workers.sort_unstable_by_key(|worker| worker.id);
        workers.into_iter().map(|worker| self.worker_view(worker))
    }

    /// One worker.
    pub fn worker(&self, worker: WorkerId) -> Option<WorkerView> {
        let slot = self.worker_slot(worker)?;
        Some(self.worker_view(&self.state.workers[slot]))
    }

    fn worker_view(&self, worker: &Worker) -> WorkerView {
        let node = &self.state.nodes[worker.node];
        let records = node.records.iter();
        let quarantines: Vec<_> = records
            .filter_map(|(kind, record)| {
                let kind = &self.state.kinds[*kind as usize];
                let until = record.until?;
                Some(QuarantineView { model: kind.model, stage: kind.stage, until })
            })
            .collect();
        let state = if !worker.connected {
            WorkerState::Away
        } else if worker.drain.is_some() {
            WorkerState::Draining
        } else if !quarantines.is_empty() {
            WorkerState::Quarantined
        } else if node.cordoned {
            WorkerState::Cordoned
        } else if worker.doing != Doing::Idle {
            WorkerState::Busy
        } else {
            WorkerState::Idle
        };
        let running = worker.running();
        WorkerView {
            worker: worker.id,
            identity: worker.said.identity.clone(),
            state,
            cordoned: node.cordoned,
            vram_bytes: worker.vram_bytes,
            running: running.map(|running| {
                let held = self.held(running);
                Placed { shard: held.shard, fence: held.fence, worker: worker.id }
            }),
            since: running.map(|running| running.since),
            quarantines,
        }
    }

    /// An unfinished job.
    pub fn job(&self, job: JobId) -> Option<JobView> {
        let slot = self.job_slot(job)?;
        let job = &self.state.jobs[slot];
        let standing = job.standing();
        let live = job.live.as_ref();
        let artifacts = live.map_or_else(Vec::new, |live| match &live.finished {
            Some((_, outputs)) => outputs.clone(),
            None => live.prompt.iter().chain(live.latents.newest()).copied().collect(),
        });
        let placed = |shard: Slot| match self.state.jobs[shard].standing() {
            Standing::Running { worker } => {
                let worker = &self.state.workers[worker];
                worker.running().map(|running| {
                    let held = self.held(running);
                    Placed { shard: held.shard, fence: held.fence, worker: worker.id }
                })
            }
            _ => None,
        };
        let shards = self.shards_of(slot);
        let parts = |live: &Live| live.part_attempts.iter().sum::<u32>();
        Some(JobView {
            job: job.id,
            tenant: self.state.tenants[job.tenant as usize].id,
            class: job.class,
            model: self.state.models[job.model as usize].id,
            state: if live.is_some() { JobState::InProgress } else { JobState::Queued },
            stage: self.state.stage_of(job),
            publishing: matches!(
                standing,
                Standing::Publishing | Standing::PublishBackingOff { .. }
            ),
            submitted: job.submitted,
            deadline: job.deadline,
            placed: shards.into_iter().find_map(placed),
            artifacts,
            attempts: live.map_or(0, |live| live.attempts.iter().sum::<u32>() + parts(live)),
        })
    }

    /// All unfinished jobs, in the order of their admission.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.by_age().map(|slot| self.state.jobs[slot].id)
    }

    pub(crate) fn by_age(&self) -> impl Iterator<Item = Slot> {
        std::iter::successors(self.state.oldest, |slot| self.state.jobs[*slot].younger)
    }

    /// A tenant.
    pub fn tenant(&self, tenant: TenantId) -> Option<TenantView> {
        let place = *self.index.tenants.get(&tenant)?;
        Some(tenant_view(&self.state.tenants[place as usize]))
    }

    /// All tenants that were ever set, in that order.
    pub fn tenants(&self) -> impl Iterator<Item = TenantView> {
        self.state.tenants.iter().map(tenant_view)
    }

    /// How many there are, for gauges.
    pub fn counts(&self) -> Counts {
        self.index.counts
    }

    /// The latest moment that the core was told of.
    pub fn now(&self) -> Millis {
        self.state.now
    }

    /// About how many jobs will begin before this one; none for a job that began or is unknown. Those of its own
    /// tenant are counted (up to 10,000); other tenants of the class are taken to begin jobs by their
    /// weights meanwhile; of higher classes, all that wait go first.
    pub fn queue_position(&self, job: JobId) -> Option<u32> {
        let slot = self.job_slot(job)?;
        let job = &self.state.jobs[slot];
        if job.live.is_some() {
            return None;
        }
        let kind = self.state.kind_of(job);
        let key = self.key_of(slot);
        let class = job.rank as usize;
        let queue = self.index.flows[job.tenant as usize][class].queue(kind)?;
        let own = queue.before(key).filter(|before| before.rank() == key.rank());
        let own = own.take(POSITION_EXACT_MAX).count() as u64;
        let weight = |place: usize| u64::from(self.state.tenants[place].policy.weight);
        let ours = weight(job.tenant as usize);
        let others = self.others_waiting(job, class).map(|(place, waiting)| {
            let turns = (own + 1).saturating_mul(weight(place)) / ours;
            waiting.min(turns)
        });
        let higher: u64 = self.index.counts.jobs[..class].iter().map(|phases| phases[0]).sum();
        let ahead = own + others.sum::<u64>() + higher;
        Some(u32::try_from(ahead).unwrap_or(u32::MAX))
    }

    /// Jobs of the same model that never began, by the other tenants' places.
    fn others_waiting(&self, job: &Job, class: usize) -> impl Iterator<Item = (usize, u64)> {
        let first = self.state.models[job.model as usize].chain[0];
        let own = job.tenant as usize;
        let flows = self.index.flows.iter().enumerate();
        flows.filter(move |(place, _)| *place != own).filter_map(move |(place, flows)| {
            Some((place, flows[class].queue(first)?.len() as u64))
        })
    }
}

fn tenant_view(tenant: &Tenant) -> TenantView {
    TenantView {
        tenant: tenant.id,
        policy: tenant.policy,
        queued: tenant.queued,
        unfinished: tenant.unfinished,
        running: tenant.running,
    }
}
