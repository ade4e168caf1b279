//! Finds out why a job stands as it does. The reasons are tried in a fixed order; the first that holds is told.

use crate::core::Core;
use crate::index::{Group, Turn};
use crate::job::{Job, Standing};
use crate::slab::Slot;
use crate::state::KindIx;
use crate::view::JobPhase;
use crate::why::{Reason, ShardWhy, Who, Why};
use std::cmp::Reverse;
use zoetrope_protocol::id::{JobId, Millis, ShardId};
use zoetrope_protocol::job::Class;

/// Who goes before a job on some workers: the nearest to its own turn first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Before {
    Nobody,
    Tenant(Turn),
    Class(Reverse<Class>),
}

/// Whether the reader may know other tenants and the farm's nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Told,
    Hidden,
}

impl Core {
    /// Why an unfinished job stands as it does, for an operator.
    pub fn why(&self, now: Millis, job: JobId) -> Option<Why> {
        self.tell_why(now, job, Names::Told)
    }

    /// The same for the tenant itself: without the names of others, and of workers.
    pub fn why_for_tenant(&self, now: Millis, job: JobId) -> Option<Why> {
        self.tell_why(now, job, Names::Hidden)
    }

    fn tell_why(&self, now: Millis, job: JobId, names: Names) -> Option<Why> {
        let slot = self.job_slot(job)?;
        let job = &self.state.jobs[slot];
        let standing = job.standing();
        let phase = match standing {
            Standing::Publishing | Standing::PublishBackingOff { .. } => JobPhase::Publishing,
            _ if job.live.is_some() => JobPhase::InProgress,
            _ => JobPhase::Queued,
        };
        let shard = |stage, index| ShardId { job: job.id, stage, index };
        let chain = &self.state.models[job.model as usize].chain;
        let mut stages = chain.iter().map(|kind| self.state.kinds[*kind as usize].stage);
        let mut before = stages.nth(job.position as usize)?;
        let mut shards = Vec::new();
        for slot in self.shards_of(slot) {
            let job = &self.state.jobs[slot];
            let (reason, frees, who) = self.explain(slot, job, now, names);
            let (shard, since) = (shard(before, job.index()), job.since());
            shards.push(ShardWhy { shard, reason, since, frees, who });
        }
        for stage in stages {
            let frees = format!("{before} must be done first");
            let (reason, who) = (Reason::Upstream, Who::Nobody);
            let (shard, since) = (shard(stage, 0), job.submitted);
            shards.push(ShardWhy { shard, reason, since, frees, who });
            before = stage;
        }
        Some(Why { job: job.id, phase, now, shards })
    }

    fn explain(&self, slot: Slot, job: &Job, now: Millis, names: Names) -> (Reason, String, Who) {
        let seconds = |at: Millis| at.minus(now).0.div_ceil(1000);
        match job.standing() {
            Standing::Running { worker } => {
                let worker = &self.state.workers[worker];
                let at = if worker.connected { "runs on" } else { "waits for the return of" };
                let slow = worker.running().is_some_and(|running| running.slow);
                let slow = if slow { ", far slower than expected" } else { "" };
                let again = job.live.as_ref().is_some_and(|live| !live.quick.is_empty());
                let again = if again { ", again: a result came too quickly" } else { "" };
                let on = match names {
                    Names::Told => format!("{} ({})", worker.id, worker.said.identity.node),
                    Names::Hidden => "a worker".to_owned(),
                };
                let told = format!("{at} {on}{slow}{again}");
                (Reason::Running, told, Who::Nobody)
            }
            Standing::Publishing => {
                let told = "the clip is being checked and published".to_owned();
                (Reason::Publishing, told, Who::Nobody)
            }
            Standing::BackingOff { until } | Standing::PublishBackingOff { until } => {
                let told = format!(
                    "a store or sidecar does not answer; tried again in {} s",
                    seconds(until)
                );
                (Reason::DependencyDown, told, Who::Operator)
            }
            Standing::Ready | Standing::Parted => self.explain_ready(slot, job, now, names),
        }
    }

    fn explain_ready(
        &self,
        slot: Slot,
        job: &Job,
        now: Millis,
        names: Names,
    ) -> (Reason, String, Who) {
        let seconds = |at: Millis| at.minus(now).0.div_ceil(1000);
        let kind = self.state.kind_of(job);
        let of = &self.state.kinds[kind as usize];
        let name = &self.state.models[job.model as usize].name;
        let stage = of.stage;
        if let Some(until) = of.paused_until {
            let told = format!(
                "too many workers fail {stage} of {name}; placing it goes on in {} s",
                seconds(until)
            );
            return (Reason::Paused, told, Who::Operator);
        }
        if let Some(gate) = self.state.gate.filter(|gate| gate.tokens == 0) {
            let told = format!(
                "a store or sidecar does not answer; one shard tries it again in {} s",
                seconds(gate.at)
            );
            return (Reason::DependencyDown, told, Who::Operator);
        }
        let need = self.need(job);
        let fitting = self.count_fitting(kind, need);
        if let Some(live) = job.live.as_ref().filter(|live| {
            !live.avoid.is_empty()
                && fitting > 0
                && live.retry_at > now
                && self.count_unavoided(job) == 0
        }) {
            let told = format!(
                "every worker that fits has failed it; tried again in {} s, or by another worker",
                seconds(live.retry_at)
            );
            return (Reason::BackingOff, told, Who::Nobody);
        }
        let tenant = &self.state.tenants[job.tenant as usize];
        if tenant.capped() {
            let told = format!(
                "{} runs {} shards and may run {}; the end of one, or a higher limit",
                tenant.id, tenant.running, tenant.policy.running_max
            );
            return (Reason::Quota, told, Who::Operator);
        }
        let workers = self.explain_workers(job, kind, need, fitting);
        workers.unwrap_or_else(|| self.explain_turn(slot, names))
    }

    /// The reasons that lie with the workers, but for being busy.
    fn explain_workers(
        &self,
        job: &Job,
        kind: KindIx,
        need: u64,
        fitting: u32,
    ) -> Option<(Reason, String, Who)> {
        let stage = self.state.kinds[kind as usize].stage;
        let name = &self.state.models[job.model as usize].name;
        let members = |need| self.index.fitting(kind, need).map(|g| g.members).sum::<u32>();
        if members(0) == 0 {
            let told = format!("a worker that serves {stage} of {name}");
            return Some((Reason::NoWorker, told, Who::Operator));
        }
        if members(need) == 0 {
            let gib = need.div_ceil(1 << 30);
            let told = format!("a worker with {gib} GiB of device memory for {stage} of {name}");
            return Some((Reason::NoVram, told, Who::Operator));
        }
        if fitting == 0 {
            let told = format!(
                "all workers that fit {stage} of {name} drain, are away, cordoned or in quarantine"
            );
            return Some((Reason::WorkersLeaving, told, Who::Operator));
        }
        None
    }

    /// All workers that fit are taken: whose turn is next? Told of the workers that are the nearest to serve it.
    fn explain_turn(&self, slot: Slot, names: Names) -> (Reason, String, Who) {
        let job = &self.state.jobs[slot];
        let (kind, need) = (self.state.kind_of(job), self.need(job));
        let groups = self.index.fitting(kind, need).filter(|group| group.gives(kind));
        match groups.map(|group| self.goes_before(job, group)).min() {
            Some(Before::Class(Reverse(class))) => {
                let told = format!("jobs of class {class} go first");
                (Reason::ClassTurn, told, Who::Caller)
            }
            Some(Before::Tenant(turn)) => {
                let first = match names {
                    Names::Told => turn.tenant.to_string(),
                    Names::Hidden => "another project".to_owned(),
                };
                let told = format!("{first} has had less than its share and goes first");
                (Reason::TenantTurn, told, Who::Nobody)
            }
            Some(Before::Nobody) | None => {
                let told = "the next worker that becomes free".to_owned();
                (Reason::WorkersBusy, told, Who::Nobody)
            }
        }
    }

    /// Who goes before a job on the workers of a group, whatever it waits for.
    fn goes_before(&self, job: &Job, group: &Group) -> Before {
        let kinds = || group.kinds.iter().copied().filter(|kind| group.gives(*kind));
        let waits = |class: &Class| kinds().any(|kind| self.waiting(kind, *class));
        let mut higher = Class::ALL.into_iter().take(job.rank as usize);
        if let Some(class) = higher.find(waits) {
            return Before::Class(Reverse(class));
        }
        let waiting = kinds().filter(|kind| self.waiting(*kind, job.rank));
        let turns = waiting.map(|kind| &self.index.turns[kind as usize][job.rank as usize]);
        let first = turns.filter_map(|turns| turns.first()).min();
        first.filter(|first| first.place != job.tenant).map_or(Before::Nobody, Before::Tenant)
    }
}
