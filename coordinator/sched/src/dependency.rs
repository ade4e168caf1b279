//! A dependency of all shards is down (the store, a sidecar): the timer belongs to the dependency, not to the shard.
//!
//! Two nodes that say so with no good word in between, or the only one, close the gate: nothing is placed but one
//! probe at a time, after 1 s and then ever longer, and each on another worker, for one may be bad. The first artifact
//! that is stored opens it, little by little, so that no herd throws it down again. One bad worker closes nothing: the
//! others' artifacts speak against it.

use crate::core::Core;
use crate::fail::hash;
use crate::job::{Job, Standing};
use crate::node::NodeId;
use crate::slab::Slot;
use crate::timer::Timer;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{JobId, Millis, WorkerId};

/// Nodes that must have said it.
const SUSPECTS: usize = 2;
/// While the gate opens, more is placed each second, until this many are.
const RATE_MAX: u32 = 1 << 14;
const SECOND: Millis = Millis(1_000);

/// What may be placed while a dependency is down, or was a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gate {
    /// How often it was tried.
    pub tries: u32,
    /// So many shards may be placed now.
    pub tokens: u32,
    /// When that changes.
    pub at: Millis,
    /// It answers: so many may be placed in the next second. Otherwise it is still down.
    pub rate: Option<u32>,
    /// The job that tries it, by place and number.
    pub probe: Option<(Slot, u64)>,
    /// The worker that tried it last, for the next one is another.
    pub tried: Option<WorkerId>,
}

impl Core {
    /// Whether nothing may be placed.
    pub(crate) fn gated(&self) -> bool {
        self.state.gate.is_some_and(|gate| gate.tokens == 0)
    }

    /// A node says, by the attempt of a job, that a dependency is down. Whether it is so for all.
    pub(crate) fn suspect(&mut self, node: NodeId, slot: Slot) -> bool {
        self.state.suspects.insert(node);
        let connected = self.state.workers.iter().filter(|(_, worker)| worker.connected).count();
        // While it opens too: one node alone throws nobody back.
        let down = self.state.gate.is_some_and(|gate| gate.rate.is_none());
        if !down && self.state.suspects.len() < connected.clamp(1, SUSPECTS) {
            return false;
        }
        let seq = self.state.jobs[slot].seq;
        match self.state.gate {
            None => self.close_gate(1),
            // It went down again while all came back.
            Some(Gate { rate: Some(_), .. }) => self.close_gate(1),
            Some(gate) if gate.probe == Some((slot, seq)) => {
                self.close_gate(gate.tries.saturating_add(1));
            }
            Some(_) => {}
        }
        true
    }

    fn close_gate(&mut self, tries: u32) {
        let config = &self.state.config;
        let doubled = config.backoff_first.0.saturating_mul(1 << tries.saturating_sub(1).min(20));
        let wait = doubled.min(config.backoff_max.0);
        let spread = wait.saturating_mul(config.backoff_jitter_percent.into()) / 100;
        let wait = wait - spread + hash(self.state.now.0, tries) % (2 * spread + 1);
        let at = self.state.now.plus(Millis(wait));
        let tried = self.state.gate.and_then(|gate| gate.tried);
        self.state.gate = Some(Gate { tries, tokens: 0, at, rate: None, probe: None, tried });
        self.set_timer(at, Timer::Gate);
    }

    /// The gate's moment is there: another probe, or more of all.
    pub(crate) fn open_gate(&mut self) {
        let now = self.state.now;
        let Some(gate) = self.state.gate.filter(|gate| gate.at <= now) else { return };
        let next = match gate.rate {
            Some(rate) if rate >= RATE_MAX => None,
            Some(rate) => {
                let at = now.plus(SECOND);
                Some(Gate { tokens: rate, rate: Some(rate * 2), at, ..gate })
            }
            // One at a time: a probe that still runs has not been answered.
            None if self.probes(gate) => {
                Some(Gate { at: now.plus(self.state.config.backoff_max), ..gate })
            }
            // Whoever comes next is the probe, and sets the time again; an idle farm waits for nothing.
            None => Some(Gate { tokens: 1, ..gate }),
        };
        self.state.gate = next;
        if let Some(gate) = next.filter(|gate| gate.at > now) {
            self.set_timer(gate.at, Timer::Gate);
        }
        self.look_everywhere();
    }

    fn probes(&self, gate: Gate) -> bool {
        let Some((slot, seq)) = gate.probe else { return false };
        let job = self.state.jobs.get(slot).filter(|job| job.seq == seq);
        job.is_some_and(|job| matches!(job.standing(), Standing::Running { .. }))
    }

    /// A shard is about to be placed: how long it waited for a worker, and for its turn once the dependency answered, is
    /// no part of its outage. How long it waited behind a closed gate is; but for the first probe, which waited elsewhere
    /// if it waited for long.
    pub(crate) fn count_outage(&mut self, slot: Slot) {
        let now = self.state.now;
        let closed = self.state.gate.is_some_and(|gate| gate.rate.is_none() && gate.tries > 1);
        let Some(live) = self.state.jobs[slot].live.as_mut().filter(|_| !closed) else { return };
        let waited = now.minus(live.since);
        if let Some(outage) = &mut live.outage {
            outage.since = outage.since.plus(waited).min(now);
        }
    }

    /// For so long nobody asked a dependency whether it is back, for the coordinator itself was down.
    pub(crate) fn excuse_outages(&mut self, gap: Millis) {
        let now = self.state.now;
        let is_down = |job: &Job| job.live.as_ref().is_some_and(|live| live.outage.is_some());
        let down = self.state.jobs.iter().filter(|(_, job)| is_down(job));
        let down: Vec<(Slot, u64)> = down.map(|(slot, job)| (slot, job.seq)).collect();
        for (slot, seq) in down {
            if let Some(outage) = &mut self.live(slot).outage {
                outage.since = outage.since.plus(gap).min(now);
            }
            self.limit_waiting(slot, seq);
        }
    }

    /// The worker behind whose turn the next probe goes; none where nothing was tried yet, or nothing is down.
    pub(crate) fn tried_last(&self) -> Option<WorkerId> {
        self.state.gate.filter(|gate| gate.rate.is_none())?.tried
    }

    /// A shard was placed on a worker.
    pub(crate) fn passed_gate(&mut self, slot: Slot, on: WorkerId) {
        let seq = self.state.jobs[slot].seq;
        let again = self.state.now.plus(self.state.config.backoff_max);
        let Some(gate) = &mut self.state.gate else { return };
        gate.tokens = gate.tokens.saturating_sub(1);
        if gate.rate.is_none() {
            (gate.probe, gate.tried, gate.at) = (Some((slot, seq)), Some(on), again);
            self.set_timer(again, Timer::Gate);
        }
    }

    /// Something was stored: the dependency answers.
    pub(crate) fn dependency_answers(&mut self) {
        self.state.suspects.clear();
        let Some(gate) = self.state.gate.filter(|gate| gate.rate.is_none()) else { return };
        let (now, first) = (self.state.now, self.state.config.release_first.max(1));
        let at = now.plus(SECOND);
        let rate = Some(first.saturating_mul(2));
        let open = Gate { tokens: first, at, rate, probe: None, tried: None, ..gate };
        self.state.gate = Some(open);
        self.set_timer(at, Timer::Gate);
        self.look_everywhere();
    }

    /// Lets all free workers look for work anew.
    fn look_everywhere(&mut self) {
        let groups = self.index.groups.iter();
        let free: Vec<Slot> = groups.flat_map(|g| g.free.iter().map(|free| free.2)).collect();
        self.todo.workers.extend(free);
        self.todo.preempt = true;
    }

    /// A job that waits for the gate ends when its dependency has been down for too long. A part may have had all its
    /// segments stored before its attempt failed: then there is none any more.
    pub(crate) fn limit_waiting(&mut self, slot: Slot, seq: u64) {
        let job = self.state.jobs.get(slot).filter(|job| job.seq == seq);
        if let Some(outage) = job.and_then(|job| job.live.as_ref()?.outage.as_deref()) {
            let at = outage.since.plus(self.state.config.backoff_give_up);
            self.set_timer(at, Timer::Job { slot, seq });
        }
    }

    /// Whether a ready job's dependency will have been down for too long by then. Once it answers, a job whose turn comes in
    /// a moment is not given up.
    pub(crate) fn waited_too_long(&self, slot: Slot, by: Millis) -> bool {
        let down = self.state.gate.is_some_and(|gate| gate.rate.is_none());
        self.gated() && down && self.is_down_for_long(slot, by)
    }

    fn is_down_for_long(&self, slot: Slot, by: Millis) -> bool {
        let outage = self.state.jobs[slot].live.as_ref().and_then(|live| live.outage.as_deref());
        outage.is_some_and(|o| o.since.plus(self.state.config.backoff_give_up) <= by)
    }

    /// Whether a job ends if its dependency is down once more by then: it has been for too long.
    pub fn is_last_try(&self, job: JobId, by: Millis) -> bool {
        self.job_slot(job).is_some_and(|slot| self.is_down_for_long(slot, by))
    }

    /// Whether a job ends by then that waits for its dependency, and is not tried before.
    pub fn waits_in_vain(&self, job: JobId, by: Millis) -> bool {
        let ready = |slot: &Slot| matches!(self.state.jobs[*slot].standing(), Standing::Ready);
        self.job_slot(job).filter(ready).is_some_and(|slot| self.waited_too_long(slot, by))
    }
}
