//! The limits of the scheduler, each with its unit and its reason. Reads no file: the coordinator's
//! configuration fills it in. Part of the snapshot, so that a replay decides as the live core did.

use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::Millis;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// All limits of the core. `Default` is what the farm's failure policy states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// After `EpochBegan` running attempts keep their place for so long. A worker redials within 2 s.
    pub reattach_grace: Millis,
    /// Hard limit of an attempt: so many times its expected time, plus `hard_limit_base`. The time of a step
    /// varies by 1 %, so 4 times is no noise.
    pub hard_limit_factor: u32,
    /// Added to the hard limit: moving artifacts. Loading weights and waiting for others do not count against it.
    pub hard_limit_base: Millis,
    /// No hard limit is longer.
    pub hard_limit_max: Millis,
    /// The core gives an attempt up so long after its hard limit, should no verdict ever come. A minute; whoever
    /// runs the core adds the time in which weights are loaded, which the worker leaves out of its hard limit.
    pub verdict_grace: Millis,
    /// A stopped attempt holds its gpu until its worker reports, or for so long: a step and some.
    pub stop_wait: Millis,
    /// Attempts of one shard. A backstop: every job ends.
    pub attempts_max: u32,
    /// Age of a job from admission to its end. A backstop.
    pub job_age_max: Millis,
    /// Different workers that must fail a job before it is poison; also how many failures end it where fewer
    /// workers could try it.
    pub poison_failures: u32,
    /// Where no other worker fits, one that failed a shard may try it again after this time.
    pub retry_after: Millis,
    /// Quarantine looks at so many of a worker's last attempts of a kind, at most 64.
    pub fault_window: u32,
    /// So many faults, of as many different jobs, among them put the worker in quarantine for the kind.
    pub fault_max: u32,
    /// A fault is forgotten after this time.
    pub fault_forgotten: Millis,
    /// Length of the first, the second, and every further quarantine of a worker for a kind.
    pub quarantine: [Millis; 3],
    /// After so long without a quarantine the next one counts as the first.
    pub quarantine_clean: Millis,
    /// At most so many hundredths of the workers of a kind are in quarantine (but one is always allowed, and
    /// never the last one that may get work): beyond it the model or a dependency is at fault.
    pub quarantine_percent: u32,
    /// Beyond that cap placing of the kind pauses for this time instead.
    pub kind_pause: Millis,
    /// First wait after `dependency_down`; it doubles each time.
    pub backoff_first: Millis,
    /// Longest wait after `dependency_down`.
    pub backoff_max: Millis,
    /// Hundredths by which such a wait varies to either side, so that jobs do not return as a herd.
    pub backoff_jitter_percent: u32,
    /// A job whose dependency is down for so long ends.
    pub backoff_give_up: Millis,
    /// Hundredths that a job's memory need grows by when it ran out of memory a second time.
    pub memory_growth_percent: u32,
    /// From this failure on `out_of_memory` counts against the job.
    pub memory_failures: u32,
    /// A shard whose kind is loaded on the free worker may pass one that is due, if its tenant is ahead of the one
    /// that is passed by at most this much of the latter's GPU time. Part of the bound on fairness.
    pub affinity_slack: Millis,
    /// So often in a row may a worker prefer a loaded kind to a shard that is due: loading then costs at most
    /// one placement in so many.
    pub affinity_run_max: u32,
    /// A draining worker with a deadline stops after a step this long (and one expected step) before it.
    pub drain_margin: Millis,
    /// What is remembered of a node goes so long after it was last seen.
    pub node_forgotten: Millis,
    /// How often running attempts are held against their hard limits. Costs one look at every worker.
    pub sweep_every: Millis,
    /// Models in the table. A senseless number must not take memory.
    pub models_max: u32,
    /// A job that was preempted runs for so long before it is preempted again: it bounds the price for long jobs.
    pub preempt_pause: Millis,
    /// And does so many steps meanwhile.
    pub preempt_steps: u32,
    /// No shard is preempted in its last so many hundredths: the gpu is free soon anyway.
    pub preempt_last_percent: u32,
    /// So often is a job preempted at most: without it long jobs starve.
    pub preempt_max: u32,
    /// A job of class flex that is older than this ranks as default.
    pub flex_ages: Millis,
    /// A moved shard waits so long for the worker that an operator named, then goes to any.
    pub wish_wait: Millis,
    /// Deadlines are accepted as long as the work behind them takes at most so many hundredths of the GPU time that
    /// its tenant can count on. The rest is for losses, and for tenants that are not there yet.
    pub promise_percent: u32,
    /// After a quarantine so many attempts of the kind must succeed; one fault before puts the worker back.
    pub probation: u32,
    /// An attempt that takes so many times its expected time is told to be slow.
    pub soft_limit_factor: u32,
    /// But not before this time: loading weights is no slowness.
    pub soft_limit_least: Millis,
    /// Once a dependency answers again, so many shards are placed in the first second; twice as many in each further.
    pub release_first: u32,
    /// A result in less than one of so many parts of a measured expected time is too quick to be true.
    pub quick_part: u32,
    /// But only where that part is at least this long: below it clocks and caches decide.
    pub quick_least: Millis,
    /// After a quick result that another worker confirmed, so many attempts of the kind go without that limit: until
    /// the expected time has followed.
    pub quick_relearn: u32,
    /// Two workers of a machine that are lost within this time are lost with it.
    pub machine_window: Millis,
    /// From so many on a shard's lost machines count against its job.
    pub machine_failures: u32,
    /// A machine that is lost twice within this time puts its workers on probation.
    pub machine_again: Millis,
    /// A tenant is behind the clock that it goes by for at most so much of its GPU time: who can use fewer of the workers
    /// than others saves up no more, and so keeps those others from its workers for no longer.
    pub lag_max: Millis,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            reattach_grace: Millis(10 * SECOND),
            hard_limit_factor: 4,
            hard_limit_base: Millis(60 * SECOND),
            hard_limit_max: Millis(2 * HOUR),
            verdict_grace: Millis(60 * SECOND),
            stop_wait: Millis(60 * SECOND),
            attempts_max: 100,
            job_age_max: Millis(72 * HOUR),
            poison_failures: 3,
            retry_after: Millis(30 * SECOND),
            fault_window: 20,
            fault_max: 3,
            fault_forgotten: Millis(5 * HOUR),
            quarantine: [Millis(10 * MINUTE), Millis(HOUR), Millis(5 * HOUR)],
            quarantine_clean: Millis(24 * HOUR),
            quarantine_percent: 30,
            kind_pause: Millis(60 * SECOND),
            backoff_first: Millis(SECOND),
            backoff_max: Millis(60 * SECOND),
            backoff_jitter_percent: 20,
            backoff_give_up: Millis(30 * MINUTE),
            memory_growth_percent: 25,
            memory_failures: 4,
            affinity_slack: Millis(30 * SECOND),
            affinity_run_max: 16,
            drain_margin: Millis(5 * SECOND),
            node_forgotten: Millis(24 * HOUR),
            sweep_every: Millis(10 * SECOND),
            models_max: 1_024,
            preempt_pause: Millis(30 * SECOND),
            preempt_steps: 2,
            preempt_last_percent: 10,
            preempt_max: 3,
            flex_ages: Millis(12 * HOUR),
            wish_wait: Millis(60 * SECOND),
            promise_percent: 80,
            probation: 3,
            soft_limit_factor: 2,
            soft_limit_least: Millis(30 * SECOND),
            release_first: 10,
            quick_part: 5,
            quick_least: Millis(SECOND),
            quick_relearn: 20,
            machine_window: Millis(10 * SECOND),
            machine_failures: 3,
            machine_again: Millis(24 * HOUR),
            lag_max: Millis(HOUR),
        }
    }
}
