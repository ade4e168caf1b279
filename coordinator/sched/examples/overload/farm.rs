//! A farm in simulated time: the real core, workers that take their time step by step, tenants that submit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Role, Stage};
use zoetrope_protocol::wire::{Held, Identity, StopWhen};
use zoetrope_sched::input::*;
use zoetrope_sched::output::{JobState, Output};
use zoetrope_sched::{Config, Core};

const MODEL: ModelId = ModelId(1);
/// When the simulation begins: any moment but 0.
pub const BEGIN: u64 = 1_000_000;

/// Numbers from a seed (SplitMix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both possible.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// Exponentially distributed, in milliseconds.
    pub fn exponential(&mut self, mean_ms: f64) -> u64 {
        let unit = ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (-mean_ms * unit.ln()).ceil() as u64
    }
}

/// A kind of render: GPU time of its stages, and its steps.
#[derive(Clone, Copy)]
pub struct Shape {
    pub stages_ms: [u64; 3],
    pub steps: u32,
}

/// 27.6 s of GPU time.
pub const SHORT: Shape = Shape { stages_ms: [600, 22_000, 5_000], steps: 8 };
/// 256 s.
pub const LONG: Shape = Shape { stages_ms: [1_000, 230_000, 25_000], steps: 20 };
/// Mean GPU time of the mix: four short ones to a long one.
pub const MEAN_MS: f64 = 0.8 * 27_600.0 + 0.2 * 256_000.0;

impl Shape {
    pub fn whole_ms(self) -> u64 {
        self.stages_ms.iter().sum()
    }
}

/// What a caller asks for.
#[derive(Clone, Copy)]
pub struct Wish {
    pub at: u64,
    pub tenant: u32,
    pub class: Class,
    pub shape: Shape,
    pub deadline: Option<u64>,
    /// Per mille by which its renders take longer or shorter than expected.
    pub noise: i64,
}

/// What became of it.
#[derive(Clone, Copy)]
pub struct Fate {
    pub wish: Wish,
    /// None if it was refused.
    pub estimated_end: Option<u64>,
    pub admitted: bool,
    pub ended: Option<(u64, bool)>,
}

struct Attempt {
    held: Held,
    began: u64,
    step: u32,
    unit_ms: u64,
    stop: Option<StopWhen>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    /// A worker's attempt comes to its next boundary.
    Unit(WorkerId, u64),
}

pub struct Farm {
    pub core: Core,
    pub now: u64,
    pub fates: Vec<Fate>,
    /// GPU time by tenant, in milliseconds.
    pub used: Vec<u64>,
    pub preempted: u64,
    queue_max: u32,
    attempts: BTreeMap<WorkerId, (u64, Attempt)>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    seq: u64,
    checked: bool,
}

impl Farm {
    /// `checked` holds the core's invariants after every input.
    pub fn new(workers: u64, tenants: u32, queue_max: u32, checked: bool) -> Farm {
        let mut farm = Farm {
            core: Core::new(Config::default()),
            now: BEGIN,
            fates: Vec::new(),
            used: vec![0; tenants as usize],
            preempted: 0,
            queue_max,
            attempts: BTreeMap::new(),
            events: BinaryHeap::new(),
            seq: 0,
            checked,
        };
        farm.take(Input::EpochBegan { epoch: Epoch(1) });
        let stages = [Stage::Encode, Stage::Denoise, Stage::Finish];
        let chain = stages.map(|stage| StageNeed { stage, vram_bytes: 8 << 30 }).to_vec();
        farm.take(Input::ModelSet { model: MODEL, name: "model".into(), chain });
        for tenant in 0..tenants {
            let policy = TenantPolicy { weight: 100, running_max: 10_000 };
            farm.take(Input::TenantSet { tenant: TenantId(tenant), policy });
        }
        for worker in 1..=workers {
            let identity = Identity { node: format!("node{worker}"), boot: 1, session: 1 };
            let capacity = Capacity {
                vram_bytes: 24 << 30,
                serves: vec![(MODEL, stages.to_vec())],
                machine: String::new(),
            };
            let (worker, held) = (WorkerId(worker), Vec::new());
            farm.take(Input::WorkerJoined { worker, identity, capacity, held });
        }
        farm
    }

    /// Lets these wishes come, and time pass until `until`.
    pub fn run(&mut self, wishes: &[Wish], until: u64) {
        for wish in wishes {
            let at = self.fates.len();
            let fate = Fate { wish: *wish, estimated_end: None, admitted: false, ended: None };
            self.fates.push(fate);
            self.event(wish.at, Event::Arrive(at));
        }
        loop {
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let wake = self.core.next_wakeup().map(|at| at.0.max(self.now));
            let Some(at) = event.into_iter().chain(wake).min().filter(|at| *at <= until) else {
                return;
            };
            self.now = at.max(self.now);
            if event != Some(at) {
                self.take(Input::TimePassed);
            } else if let Some(Reverse((_, _, event))) = self.events.pop() {
                match event {
                    Event::Arrive(number) => self.arrive(number),
                    Event::Unit(worker, seq) => self.unit(worker, seq),
                }
            }
        }
    }

    fn event(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.events.push(Reverse((at, self.seq, event)));
    }

    fn arrive(&mut self, number: usize) {
        let Wish { tenant, class, shape, deadline, .. } = self.fates[number].wish;
        let ask = Ask {
            tenant: TenantId(tenant),
            class,
            model: MODEL,
            steps: shape.steps,
            expected: shape.stages_ms.map(Millis).to_vec(),
            deadline: deadline.map(Millis),
            learned: true,
            decode: Decode::default(),
        };
        let now = Millis(self.now);
        let queued = self.core.tenant(TenantId(tenant)).map_or(0, |view| view.unfinished);
        if queued >= self.queue_max || !self.core.feasible(now, &ask, []) {
            return;
        }
        self.fates[number].estimated_end = self.core.estimate(now, &ask).map(|known| known.end.0);
        self.fates[number].admitted = true;
        self.take(Input::Submitted { job: JobId(number as u128), ask });
    }

    /// A step, or a stage without steps, is done.
    fn unit(&mut self, worker: WorkerId, seq: u64) {
        let Some((of, mut attempt)) = self.attempts.remove(&worker) else { return };
        if of != seq {
            self.attempts.insert(worker, (of, attempt));
            return;
        }
        let held = attempt.held;
        let gpu = Millis(self.now - attempt.began);
        let tenant = self.wish(held.shard.job).tenant;
        self.used[tenant as usize] += attempt.unit_ms;
        let steps = self.wish(held.shard.job).shape.steps;
        if attempt.stop == Some(StopWhen::Now) {
            return self.take(Input::ShardFailed { worker, held, cause: Cause::Ended, gpu });
        }
        attempt.step += 1;
        let last = held.shard.stage != Stage::Denoise || attempt.step >= steps;
        let outputs = made(held, attempt.step);
        if last {
            return self.take(Input::ShardFinished { worker, held, outputs, gpu });
        }
        let (unit_ms, artifact) = (attempt.unit_ms, outputs[0]);
        self.attempts.insert(worker, (seq, attempt));
        self.take(Input::ArtifactStored { worker, held, artifact });
        let stops = self.attempts.get(&worker).is_some_and(|(_, attempt)| attempt.stop.is_some());
        if stops {
            self.attempts.remove(&worker);
            self.preempted += 1;
            return self.take(Input::ShardFailed { worker, held, cause: Cause::Preempted, gpu });
        }
        self.seq += 1;
        if let Some((of, _)) = self.attempts.get_mut(&worker) {
            *of = self.seq;
        }
        self.events.push(Reverse((self.now + unit_ms, self.seq, Event::Unit(worker, self.seq))));
    }

    fn wish(&self, job: JobId) -> Wish {
        self.fates[job.0 as usize].wish
    }

    fn take(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.handle(Millis(self.now), input, &mut out);
        if self.checked {
            self.core.check().expect("the core is sound");
        }
        for output in out {
            match output {
                Output::Assign { worker, shard, fence, inputs, .. } => {
                    self.begin(worker, Held { shard, fence }, &inputs);
                }
                Output::Stop { worker, held, when } => {
                    let attempt = self.attempts.get_mut(&worker).map(|(_, attempt)| attempt);
                    if let Some(attempt) = attempt.filter(|attempt| attempt.held == held) {
                        attempt.stop = Some(when);
                    }
                }
                Output::Publish { job, .. } => self.take(Input::Published { job }),
                Output::JobMoved { job, state } if state != JobState::InProgress => {
                    let good = state == JobState::Completed;
                    self.fates[job.0 as usize].ended = Some((self.now, good));
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, worker: WorkerId, held: Held, inputs: &[ArtifactRef]) {
        let Wish { shape, noise, .. } = self.wish(held.shard.job);
        let stage = match held.shard.stage {
            Stage::Encode => 0,
            Stage::Denoise => 1,
            Stage::Decode | Stage::Finish => 2,
        };
        let units = if stage == 1 { u64::from(shape.steps) } else { 1 };
        let unit_ms = (shape.stages_ms[stage] * (1_000_i64 + noise) as u64 / 1_000 / units).max(1);
        let step = |input: &ArtifactRef| match input.role {
            Role::Latents { step } => step,
            _ => 0,
        };
        let step = if stage == 1 { inputs.iter().map(step).max().unwrap_or(0) } else { 0 };
        let attempt = Attempt { held, began: self.now, step, unit_ms, stop: None };
        self.seq += 1;
        self.attempts.insert(worker, (self.seq, attempt));
        self.events.push(Reverse((self.now + unit_ms, self.seq, Event::Unit(worker, self.seq))));
    }
}

fn made(held: Held, step: u32) -> Vec<ArtifactRef> {
    let role = match held.shard.stage {
        Stage::Encode => Role::Prompt,
        Stage::Denoise => Role::Latents { step },
        Stage::Decode | Stage::Finish => Role::Clip,
    };
    let mut address = [0; 32];
    address[..16].copy_from_slice(&held.shard.job.0.to_le_bytes());
    address[16] = held.shard.stage as u8;
    address[17..21].copy_from_slice(&step.to_le_bytes());
    vec![ArtifactRef { role, artifact: ArtifactId(address), bytes: 1_000 }]
}
