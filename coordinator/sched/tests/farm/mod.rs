//! A small farm in virtual time for the random tests: emulated workers that hold attempts, connections that break,
//! reports that come late, twice or never. Every input goes through `take`, which journals it, holds the core's own
//! invariants, and holds those that only an outsider can: `watch.rs`.

pub mod chance;
pub mod watch;

use chance::Chance;
use std::collections::BTreeMap;
use watch::Watch;
use zoetrope_protocol::clip::chunk_range;
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Role, Stage};
use zoetrope_protocol::wire::{DrainKind, Held, Identity, StopWhen};
use zoetrope_sched::input::*;
use zoetrope_sched::{Config, Core, Output};

/// What one emulated worker process is.
#[derive(Clone, Debug)]
struct Process {
    node: String,
    boot: u64,
    session: u64,
    capacity: Capacity,
    /// Its connection as the coordinator numbered it.
    link: Option<WorkerId>,
    /// What it is doing, and the step that it has come to.
    holds: Option<(Held, u32)>,
    /// What it was told to leave after the step in hand.
    leaves: Option<Held>,
    /// Half of what it does fails.
    bad: bool,
}

pub struct Farm {
    pub chance: Chance,
    pub core: Core,
    pub now: Millis,
    pub journal: Vec<(Millis, Input)>,
    pub outputs: Vec<Output>,
    pub watch: Watch,
    processes: Vec<Process>,
    steps: BTreeMap<JobId, u32>,
    decodes: BTreeMap<JobId, Decode>,
    publishing: Vec<JobId>,
    jobs: u64,
    epoch: u64,
}

const MODELS: [&[(Stage, u64)]; 3] = [
    &[(Stage::Encode, 2), (Stage::Denoise, 8), (Stage::Finish, 4)],
    &[(Stage::Encode, 4), (Stage::Denoise, 16), (Stage::Decode, 4), (Stage::Finish, 4)],
    &[(Stage::Denoise, 4)],
];
const TENANTS: u32 = 4;
const GIB: u64 = 1 << 30;

impl Farm {
    pub fn new(seed: u64) -> Self {
        let chance = Chance::new(seed);
        let mut farm = Farm {
            chance,
            core: Core::new(Config::default()),
            now: Millis(1_000_000),
            journal: Vec::new(),
            outputs: Vec::new(),
            watch: Watch::default(),
            processes: Vec::new(),
            steps: BTreeMap::new(),
            decodes: BTreeMap::new(),
            publishing: Vec::new(),
            jobs: 0,
            epoch: 0,
        };
        farm.new_epoch();
        for model in 0..MODELS.len() {
            farm.set_model(model);
        }
        for tenant in 0..TENANTS {
            farm.set_tenant(tenant, false);
        }
        let workers = farm.chance.range(1, 6);
        for at in 0..workers {
            let capacity = farm.capacity(at == 0);
            let (node, boot) = (format!("node{at}"), farm.chance.next());
            let bad = at > 0 && farm.chance.one_in(3);
            farm.processes.push(Process {
                node,
                boot,
                session: 0,
                capacity,
                link: None,
                holds: None,
                leaves: None,
                bad,
            });
            farm.join(at as usize);
        }
        farm
    }

    /// The first worker can do everything; the others what chance gives them.
    fn capacity(&mut self, all: bool) -> Capacity {
        let mut serves = Vec::new();
        for (model, chain) in (0..).zip(MODELS) {
            let stages: Vec<Stage> =
                chain.iter().filter(|_| all || self.chance.one_in(2)).map(|need| need.0).collect();
            serves.push((ModelId(model), stages));
        }
        let vram = if all { 32 } else { [4, 8, 16, 24][self.chance.range(0, 3) as usize] };
        let machine = ["", "m", "n"][self.chance.range(0, 2) as usize].to_owned();
        Capacity { vram_bytes: vram * GIB, serves, machine }
    }

    /// Gives an input to the core and carries out what it answers.
    pub fn take(&mut self, input: Input) {
        self.journal.push((self.now, input.clone()));
        let mut out = Vec::new();
        self.core.handle(self.now, input.clone(), &mut out);
        let held = self.core.check().and_then(|()| self.watch.see(&self.core, &input, &out));
        if let Err(broken) = held {
            for (now, input) in &self.journal[self.journal.len().saturating_sub(8)..] {
                eprintln!("{} {input:?}", now.0);
            }
            panic!("{broken}\n{out:#?}");
        }
        for output in &out {
            self.carry_out(output);
        }
        self.outputs.append(&mut out);
    }

    fn linked(&mut self, worker: WorkerId) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.link == Some(worker))
    }

    fn carry_out(&mut self, output: &Output) {
        match output {
            Output::Assign { worker, shard, fence, inputs, .. } => {
                let start = inputs.iter().map(|input| step(input.role)).max().unwrap_or(0);
                let held = Held { shard: *shard, fence: *fence };
                if let Some(process) = self.linked(*worker) {
                    process.holds = Some((held, start));
                }
            }
            Output::Welcome { worker, keep } => {
                if let Some(process) = self.linked(*worker) {
                    let kept = |held| keep.iter().find(|kept| kept.held == held);
                    process.holds = process.holds.and_then(|(held, at)| {
                        let fence = kept(held)?.fence;
                        Some((Held { fence, ..held }, at))
                    });
                }
            }
            Output::WorkerGone { worker, .. } => {
                if let Some(process) = self.linked(*worker) {
                    process.link = None;
                }
            }
            Output::Stop { worker, held, when: StopWhen::AfterStep } => {
                if let Some(process) = self.linked(*worker) {
                    process.leaves = Some(*held);
                }
            }
            Output::Publish { job, .. } => self.publishing.push(*job),
            _ => {}
        }
    }

    fn new_epoch(&mut self) {
        self.epoch += 1;
        let epoch = Epoch(self.epoch);
        for process in &mut self.processes {
            process.link = None;
        }
        self.take(Input::EpochBegan { epoch });
    }

    fn set_model(&mut self, model: usize) {
        let chain = MODELS[model]
            .iter()
            .map(|(stage, vram)| StageNeed { stage: *stage, vram_bytes: vram * GIB })
            .collect();
        let (model, name) = (ModelId(model as u16), format!("model{model}"));
        self.take(Input::ModelSet { model, name, chain });
    }

    fn set_tenant(&mut self, tenant: u32, harsh: bool) {
        let weight = self.chance.range(1, 5) as u32;
        let least = u64::from(!harsh);
        let running_max = self.chance.range(least, 4) as u32;
        let policy = TenantPolicy { weight, running_max };
        self.take(Input::TenantSet { tenant: TenantId(tenant), policy });
    }

    pub fn submit(&mut self) {
        self.jobs += 1;
        let job = JobId(u128::from(self.jobs));
        let model = self.chance.range(0, MODELS.len() as u64 - 1) as u16;
        let steps = self.chance.range(1, 12) as u32;
        let far = self.chance.one_in(4);
        let deadline = far.then(|| self.now.plus(Millis(self.chance.range(0, 4_000_000))));
        let expected = MODELS[model as usize].iter();
        let expected = expected.map(|_| Millis(self.chance.range(0, 30_000))).collect();
        let decode = Decode {
            chunks: self.chance.range(0, 6) as u16,
            shards: self.chance.range(0, 4) as u16,
        };
        let ask = Ask {
            tenant: TenantId(self.chance.range(0, u64::from(TENANTS) - 1) as u32),
            class: Class::ALL[self.chance.range(0, 2) as usize],
            model: ModelId(model),
            steps,
            expected,
            deadline,
            learned: self.chance.one_in(2),
            decode,
        };
        self.decodes.insert(job, decode);
        self.steps.insert(job, steps);
        self.take(Input::Submitted { job, ask });
    }

    fn join(&mut self, at: usize) {
        let worker = self.core.next_worker_id();
        let process = &mut self.processes[at];
        process.session += 1;
        process.link = Some(worker);
        let identity =
            Identity { node: process.node.clone(), boot: process.boot, session: process.session };
        let mut held: Vec<Held> = process.holds.iter().map(|(held, _)| *held).collect();
        let capacity = process.capacity.clone();
        if let Some(held) = held.first_mut().filter(|_| self.chance.one_in(8)) {
            // It names another attempt of the same shard.
            held.fence.attempt.0 ^= 1;
        }
        if self.chance.one_in(4) {
            // It claims what it never had, or had before it was started anew.
            held.push(self.any_held());
        }
        self.take(Input::WorkerJoined { worker, identity, capacity, held });
    }

    /// The connection breaks again before the welcome is there.
    fn join_unheard(&mut self, at: usize) {
        let before = self.processes[at].holds;
        self.join(at);
        let Some(worker) = self.processes[at].link.take() else { return };
        self.processes[at].holds = before;
        if self.chance.one_in(2) {
            self.take(Input::WorkerLost { worker, how: LostHow::Closed });
        }
    }

    fn reboot(&mut self, at: usize) {
        let boot = self.chance.next();
        let process = &mut self.processes[at];
        process.boot = boot;
        process.session = 0;
        process.holds = None;
        process.link = None;
    }

    /// The artifact that an attempt makes at its `step`; all its outputs where it has no steps.
    fn made(&self, held: Held, step: u32) -> Vec<ArtifactRef> {
        let roles = match held.shard.stage {
            Stage::Encode => vec![Role::Prompt],
            Stage::Denoise => vec![Role::Latents { step }],
            Stage::Decode => {
                let decode = self.decodes.get(&held.shard.job).copied().unwrap_or_default();
                let shards = decode.shards.min(decode.chunks).max(1);
                let all = u32::from(decode.chunks.max(1));
                let chunks = chunk_range(all, held.shard.index.into(), shards.into());
                // A shard that there is not has nothing to make, but what nobody asked for.
                let chunks = if chunks.is_empty() { 0..1 } else { chunks };
                chunks.map(|chunk| Role::Segment { chunk }).collect()
            }
            Stage::Finish => vec![Role::Clip, Role::Thumbnail, Role::Spritesheet],
        };
        let job = held.shard.job;
        let artifact = |role: Role| {
            let artifact = ArtifactId::of(format!("{job} {role:?}").as_bytes());
            ArtifactRef { role, artifact, bytes: 100 }
        };
        roles.into_iter().map(artifact).collect()
    }

    /// A worker's attempt goes on by a step; at its end it is finished.
    fn work(&mut self, at: usize) {
        let Process { link: Some(worker), holds: Some((held, step)), .. } = self.processes[at]
        else {
            return;
        };
        let steps = self.steps.get(&held.shard.job).copied().unwrap_or(1);
        let gpu = Millis(self.chance.range(0, 40_000));
        if held.shard.stage == Stage::Denoise && step < steps {
            self.processes[at].holds = Some((held, step + 1));
            for artifact in self.made(held, step + 1) {
                self.take(Input::ArtifactStored { worker, held, artifact });
            }
            if step + 1 < steps {
                // The answer to what was stored may have been the order to leave.
                if self.processes[at].leaves == Some(held) && !self.chance.one_in(8) {
                    self.processes[at].holds = None;
                    self.take(Input::ShardFailed { worker, held, cause: Cause::Preempted, gpu });
                }
                return;
            }
        }
        let outputs = self.made(held, steps);
        if held.shard.stage == Stage::Decode {
            // Each is told of as it is stored, and some are the last that is heard of the attempt.
            for artifact in outputs.iter().take(self.chance.range(0, 3) as usize) {
                self.take(Input::ArtifactStored { worker, held, artifact: *artifact });
            }
            if self.chance.one_in(3) {
                return;
            }
        }
        self.processes[at].holds = None;
        self.take(Input::ShardFinished { worker, held, outputs, gpu });
    }

    fn process(&mut self) -> usize {
        self.chance.range(0, self.processes.len() as u64 - 1) as usize
    }

    fn any_job(&mut self) -> JobId {
        JobId(u128::from(self.chance.range(0, self.jobs + 1)))
    }

    fn any_held(&mut self) -> Held {
        let seen = self.watch.attempts.len() as u64;
        if seen > 0 && !self.chance.one_in(4) {
            return self.watch.attempts[self.chance.range(0, seen - 1) as usize];
        }
        let stage = Stage::ALL[self.chance.range(0, 3) as usize];
        let shard = ShardId { job: self.any_job(), stage, index: self.chance.range(0, 1) as u16 };
        let attempt = AttemptNumber(self.chance.range(0, 4) as u32);
        let epoch = Epoch(self.chance.range(0, self.epoch + 1));
        Held { shard, fence: Fence { epoch, attempt } }
    }

    fn any_cause(&mut self) -> Cause {
        Cause::ALL[self.chance.range(0, Cause::ALL.len() as u64 - 1) as usize]
    }

    fn any_worker(&mut self) -> WorkerId {
        let next = self.core.next_worker_id().0;
        WorkerId(self.chance.range(next.saturating_sub(8), next))
    }

    /// Something happens: most of it is ordinary, some of it is a fault, some of it makes no sense.
    pub fn happen(&mut self) {
        let at = self.process();
        match self.chance.range(0, 99) {
            0..=19 => self.submit(),
            20..=49 if self.processes[at].bad && self.chance.one_in(2) => self.fault(at),
            20..=49 => self.work(at),
            50..=57 => self.pass(),
            58..=63 => self.publish(),
            64..=69 => self.fail(at),
            70..=76 => self.break_link(at),
            77..=79 => self.operate(at),
            80 => self.new_epoch(),
            81..=82 => {
                let tenant = self.chance.range(0, u64::from(TENANTS) - 1) as u32;
                self.set_tenant(tenant, true);
            }
            83 => {
                let (job, named) = (self.any_job(), self.chance.one_in(2));
                let to = named.then(|| self.any_worker());
                self.take(Input::MoveAsked { job, to });
            }
            84..=85 => {
                let job = self.any_job();
                let why = [EndWhy::Cancelled, EndWhy::Deleted, EndWhy::Blocked];
                let why = why[self.chance.range(0, 2) as usize];
                self.take(Input::EndAsked { job, why });
            }
            86..=88 => self.lose_artifact(),
            89..=93 => self.again(),
            _ => self.nonsense(),
        }
    }

    fn pass(&mut self) {
        let until = self.now.plus(Millis(self.chance.range(0, 40_000)));
        if self.chance.one_in(3) {
            // Nobody woke the core in time.
            self.now = until;
            return;
        }
        while let Some(at) = self.core.next_wakeup().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.take(Input::TimePassed);
        }
        self.now = until;
    }

    fn publish(&mut self) {
        let Some(job) = self.publishing.pop() else { return };
        if self.chance.one_in(4) {
            let cause = match self.chance.range(0, 7) {
                0 => self.any_cause(),
                1..=3 => Cause::CheckFailed,
                4 => Cause::ArtifactMissing,
                _ => Cause::DependencyDown,
            };
            self.take(Input::PublishFailed { job, cause });
        } else {
            self.take(Input::Published { job });
        }
    }

    fn fault(&mut self, at: usize) {
        let Process { link: Some(worker), holds: Some((held, _)), .. } = self.processes[at] else {
            return;
        };
        self.processes[at].holds = None;
        self.take(Input::ShardFailed { worker, held, cause: Cause::EngineError, gpu: Millis(0) });
    }

    fn fail(&mut self, at: usize) {
        let Process { link: Some(worker), holds: Some((held, _)), .. } = self.processes[at] else {
            return;
        };
        if self.chance.one_in(5) {
            self.take(Input::Stalled { worker, held });
            return;
        }
        let (cause, gpu) = (self.any_cause(), Millis(self.chance.range(0, 40_000)));
        self.processes[at].holds = None;
        self.take(Input::ShardFailed { worker, held, cause, gpu });
    }

    /// A link breaks, or a process dies; or whoever is away returns.
    fn break_link(&mut self, at: usize) {
        match self.processes[at].link {
            Some(worker) => match self.chance.range(0, 4) {
                0 => {
                    // The process knows before the coordinator does.
                    self.processes[at].link = None;
                    self.join(at);
                }
                1 => {
                    self.reboot(at);
                    self.join(at);
                }
                2 => {
                    self.reboot(at);
                    self.take(Input::WorkerLeft { worker });
                }
                3 => {
                    self.reboot(at);
                    self.take(Input::WorkerLost { worker, how: LostHow::Silence });
                }
                _ => {
                    self.processes[at].link = None;
                    self.take(Input::WorkerLost { worker, how: LostHow::Closed });
                }
            },
            None if self.chance.one_in(3) => self.join_unheard(at),
            None => self.join(at),
        }
    }

    fn operate(&mut self, at: usize) {
        // Also one that is away, or gone.
        let link = self.processes[at].link.filter(|_| !self.chance.one_in(8));
        let worker = link.unwrap_or_else(|| self.any_worker());
        let drain = match self.chance.range(0, 6) {
            0 => DrainKind::Immediate,
            1 => DrainKind::Step,
            2 => DrainKind::Shard,
            3 => DrainKind::Deadline(Millis(self.chance.range(0, 60_000))),
            other => return self.take(Input::CordonSet { worker, cordoned: other == 4 }),
        };
        self.take(Input::DrainAsked { worker, drain });
    }

    fn lose_artifact(&mut self) {
        let job = self.any_job();
        let Some(view) = self.core.job(job) else { return };
        let artifacts = view.artifacts;
        if artifacts.is_empty() {
            return;
        }
        let at = self.chance.range(0, artifacts.len() as u64 - 1) as usize;
        self.take(Input::ArtifactGone { job, artifact: artifacts[at] });
    }

    /// An earlier input comes once more. A job that has ended is not submitted again: the door gives each id once.
    fn again(&mut self) {
        let at = self.chance.range(0, self.journal.len() as u64 - 1) as usize;
        let input = self.journal[at].1.clone();
        let over = match &input {
            // At its deadline a job ends before the input is looked at.
            Input::Submitted { job, ask } => {
                self.watch.ended(*job) || ask.deadline.is_some_and(|at| at <= self.now)
            }
            _ => false,
        };
        if !over {
            self.take(input);
        }
    }

    fn nonsense(&mut self) {
        let (mut worker, mut held) = (self.any_worker(), self.any_held());
        let at = self.process();
        if let Process { link: Some(link), holds: Some((holds, _)), .. } = self.processes[at]
            && self.chance.one_in(2)
        {
            // Nearly right: only the number or the epoch is another.
            (worker, held) = (link, holds);
            let Fence { epoch, attempt } = &mut held.fence;
            if self.chance.one_in(2) {
                attempt.0 += 1;
            } else {
                epoch.0 -= 1;
            }
        }
        let (job, cause) = (self.any_job(), self.any_cause());
        let gpu = Millis(self.chance.next());
        let step = self.chance.range(0, 9) as u32;
        let outputs = self.made(held, step);
        let input = match self.chance.range(0, 12) {
            0 => Input::ShardFinished { worker, held, outputs, gpu },
            1 => Input::ShardFailed { worker, held, cause, gpu },
            2 => Input::Stalled { worker, held },
            3 => Input::ArtifactStored { worker, held, artifact: outputs[0] },
            4 => Input::Published { job },
            5 => Input::PublishFailed { job, cause },
            6 => Input::WorkerLeft { worker },
            7 => Input::ArtifactGone { job, artifact: outputs[0] },
            8 => Input::EpochBegan { epoch: Epoch(self.chance.range(0, self.epoch)) },
            9 => Input::ModelSet {
                model: ModelId(self.chance.range(0, 9) as u16),
                name: String::new(),
                chain: Vec::new(),
            },
            10 => Input::CordonSet { worker, cordoned: false },
            11 => Input::VerdictGraceSet { grace: Millis(self.chance.range(0, 120_000)) },
            _ => Input::TimePassed,
        };
        self.take(input);
    }

    /// All faults end: every process is started anew, every tenant may run, the operator lets all work.
    pub fn heal(&mut self) {
        for tenant in 0..TENANTS {
            self.set_tenant(tenant, false);
        }
        for at in 0..self.processes.len() {
            self.reboot(at);
            self.join(at);
            if let Some(worker) = self.processes[at].link {
                self.take(Input::CordonSet { worker, cordoned: false });
            }
        }
        let mut left = 2_000 + 200 * self.jobs;
        while self.core.counts().unfinished() > 0 {
            left -= 1;
            if left == 0 {
                let jobs: Vec<JobId> = self.core.jobs().collect();
                for job in &jobs {
                    eprintln!("{}", self.core.why(self.now, *job).expect("it is unfinished"));
                }
                panic!("{} jobs never end", jobs.len());
            }
            for at in 0..self.processes.len() {
                self.work(at);
            }
            for job in std::mem::take(&mut self.publishing) {
                self.take(Input::Published { job });
            }
            if let Some(at) = self.core.next_wakeup() {
                // Work goes on meanwhile, so time passes slowly.
                let soon = self.now.plus(Millis(2_000));
                self.now = at.clamp(self.now, soon);
                self.take(Input::TimePassed);
            }
        }
    }
}

fn step(role: Role) -> u32 {
    if let Role::Latents { step } = role { step } else { 0 }
}
