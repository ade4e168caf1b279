//! Shares of GPU time over many placements: the bound that fair queueing promises, in numbers.

#[allow(dead_code)]
#[path = "farm/chance.rs"]
mod chance;

use chance::Chance;
use std::collections::BTreeMap;
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Class, Role, Stage};
use zoetrope_protocol::wire::{Held, Identity};
use zoetrope_sched::input::*;
use zoetrope_sched::output::Affinity;
use zoetrope_sched::{Config, Core, Output};

/// Expected time of the longest shard.
const LONGEST: u64 = 20_000;
const TENANTS: u64 = 8;
const JOBS: u64 = 400;
const WORKERS: u64 = 3;

struct Farm {
    core: Core,
    now: Millis,
    jobs: BTreeMap<JobId, (usize, u64)>,
    /// What runs, by its end.
    running: Vec<(u64, WorkerId, Held)>,
    /// GPU time given, by tenant.
    given: Vec<u64>,
    weights: Vec<u64>,
    /// What the workers had loaded, placement by placement.
    loaded: Vec<Affinity>,
}

impl Farm {
    fn take(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.handle(self.now, input, &mut out);
        for output in out {
            match output {
                Output::Assign { worker, shard, fence, affinity, .. } => {
                    self.loaded.push(affinity);
                    let (tenant, ms) = self.jobs[&shard.job];
                    self.given[tenant] += ms;
                    self.running.push((self.now.0 + ms, worker, Held { shard, fence }));
                }
                Output::Publish { job, .. } => self.take(Input::Published { job }),
                _ => {}
            }
        }
    }

    /// The attempt that ends first is finished.
    fn step(&mut self) {
        self.running.sort_by_key(|(end, worker, _)| (*end, *worker));
        let (end, worker, held) = self.running.remove(0);
        let (_, ms) = self.jobs[&held.shard.job];
        self.now = Millis(end);
        let artifact = ArtifactId::of(&held.shard.job.0.to_le_bytes());
        let outputs = vec![ArtifactRef { role: Role::Clip, artifact, bytes: 1 }];
        self.take(Input::ShardFinished { worker, held, outputs, gpu: Millis(ms) });
    }
}

fn farm(seed: u64) -> Farm {
    let mut chance = Chance::new(seed);
    let mut farm = Farm {
        core: Core::new(Config::default()),
        now: Millis(1),
        jobs: BTreeMap::new(),
        running: Vec::new(),
        given: vec![0; TENANTS as usize],
        weights: Vec::new(),
        loaded: Vec::new(),
    };
    farm.take(Input::EpochBegan { epoch: Epoch(1) });
    let chain = vec![StageNeed { stage: Stage::Finish, vram_bytes: 1 }];
    farm.take(Input::ModelSet { model: ModelId(1), name: "model".into(), chain });
    for tenant in 0..TENANTS {
        let weight = chance.range(1, 20);
        farm.weights.push(weight);
        let policy = TenantPolicy { weight: weight as u32, running_max: 1_000 };
        farm.take(Input::TenantSet { tenant: TenantId(tenant as u32), policy });
    }
    for job in 0..JOBS * TENANTS {
        let ms = chance.range(1_000, LONGEST);
        let (id, tenant) = (JobId(u128::from(job)), job % TENANTS);
        farm.jobs.insert(id, (tenant as usize, ms));
        let ask = Ask {
            tenant: TenantId(tenant as u32),
            class: Class::Default,
            model: ModelId(1),
            steps: 1,
            expected: vec![Millis(ms)],
            deadline: None,
            learned: false,
            decode: Decode::default(),
        };
        farm.take(Input::Submitted { job: id, ask });
    }
    for worker in 1..=WORKERS {
        let identity = Identity { node: format!("node{worker}"), boot: 1, session: 1 };
        let capacity = Capacity {
            vram_bytes: 1,
            serves: vec![(ModelId(1), vec![Stage::Finish])],
            machine: String::new(),
        };
        let worker = WorkerId(worker);
        farm.take(Input::WorkerJoined { worker, identity, capacity, held: Vec::new() });
    }
    farm
}

/// Of two tenants that both wait all the time, none is ahead by more than one longest shard of each, by weight.
#[test]
fn no_tenant_lags_more_than_the_bound() {
    for seed in 0..20 {
        let mut farm = farm(seed);
        for _ in 0..TENANTS * JOBS / 8 {
            farm.step();
            for a in 0..TENANTS as usize {
                for b in 0..a {
                    let (wa, wb) = (farm.weights[a], farm.weights[b]);
                    let apart = (farm.given[a] * wb).abs_diff(farm.given[b] * wa);
                    let bound = LONGEST * (wa + wb);
                    assert!(
                        apart <= bound,
                        "seed {seed}: {a} and {b} are {apart} apart, more than {bound}"
                    );
                }
            }
        }
    }
}

/// A tenant that floods the farm with a hundred times as many jobs moves the others' share not at all.
#[test]
fn a_flood_takes_only_its_own_share() {
    let mut farm = farm(7);
    farm.weights.fill(1);
    for tenant in 0..TENANTS as u32 {
        let policy = TenantPolicy { weight: 1, running_max: 1_000 };
        farm.take(Input::TenantSet { tenant: TenantId(tenant), policy });
    }
    for job in 0..JOBS * 100 {
        let id = JobId(u128::from(1_000_000 + job));
        farm.jobs.insert(id, (0, 10_000));
        let ask = Ask {
            tenant: TenantId(0),
            class: Class::Default,
            model: ModelId(1),
            steps: 1,
            expected: vec![Millis(10_000)],
            deadline: None,
            learned: false,
            decode: Decode::default(),
        };
        farm.take(Input::Submitted { job: id, ask });
    }
    let before = farm.given.clone();
    for _ in 0..1_000 {
        farm.step();
    }
    let given: Vec<u64> = farm.given.iter().zip(before).map(|(now, then)| now - then).collect();
    let (least, most) = (given.iter().min(), given.iter().max());
    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 3 * LONGEST), "{given:?}");
}

/// A worker loads weights for its first shard, and has them for the next one of the same model and stage.
#[test]
fn a_placement_says_whether_the_weights_are_loaded() {
    let mut farm = farm(7);
    assert_eq!(farm.loaded, [Affinity::Load; WORKERS as usize]);
    farm.step();
    assert_eq!(farm.loaded[WORKERS as usize..], [Affinity::Hot]);
}

/// Who can use one worker of a clock does not save up what the others give to somebody else, whose job for that worker then
/// waits for no more than the bound on lag.
#[test]
fn a_tenant_with_few_workers_saves_up_an_hour_and_no_more() {
    const SHARD: u64 = 600_000;
    let (wide, narrow) = (0, 1);
    let mut farm = Farm {
        core: Core::new(Config::default()),
        now: Millis(1),
        jobs: BTreeMap::new(),
        running: Vec::new(),
        given: vec![0; 2],
        weights: vec![1; 2],
        loaded: Vec::new(),
    };
    farm.take(Input::EpochBegan { epoch: Epoch(1) });
    for model in [1, 2] {
        let chain = vec![StageNeed { stage: Stage::Finish, vram_bytes: 1 }];
        farm.take(Input::ModelSet { model: ModelId(model), name: format!("model{model}"), chain });
    }
    for tenant in [wide, narrow] {
        let policy = TenantPolicy { weight: 1, running_max: 1_000 };
        farm.take(Input::TenantSet { tenant: TenantId(tenant), policy });
    }
    let submit = |farm: &mut Farm, job: u128, tenant: u32, model: u16| {
        farm.jobs.insert(JobId(job), (tenant as usize, SHARD));
        let ask = Ask {
            tenant: TenantId(tenant),
            class: Class::Default,
            model: ModelId(model),
            steps: 1,
            expected: vec![Millis(SHARD)],
            deadline: None,
            learned: false,
            decode: Decode::default(),
        };
        farm.take(Input::Submitted { job: JobId(job), ask });
    };
    // Ten hours of the nine workers that serve nothing else.
    (0..9 * 60).for_each(|job| submit(&mut farm, job, wide, 2));
    (0..1_000).for_each(|job| submit(&mut farm, 10_000 + job, narrow, 1));
    for worker in 1..=10 {
        let identity = Identity { node: format!("node{worker}"), boot: 1, session: 1 };
        let mut serves = vec![(ModelId(2), vec![Stage::Finish])];
        if worker == 1 {
            serves.insert(0, (ModelId(1), vec![Stage::Finish]));
        }
        let capacity = Capacity { vram_bytes: 1, serves, machine: String::new() };
        let worker = WorkerId(worker);
        farm.take(Input::WorkerJoined { worker, identity, capacity, held: Vec::new() });
    }
    while farm.now < Millis(10 * 3_600_000) {
        farm.step();
    }
    let [ahead, behind] = [wide, narrow].map(|tenant| farm.given[tenant as usize]);
    assert!(ahead > 8 * behind && behind >= 60 * SHARD, "{ahead} and {behind}");
    submit(&mut farm, 20_000, wide, 1);
    let placed = |farm: &Farm| farm.running.iter().any(|(_, _, h)| h.shard.job == JobId(20_000));
    while !placed(&farm) {
        farm.step();
    }
    let waited = farm.given[narrow as usize] - behind;
    assert!(waited <= 3_600_000 + 2 * SHARD, "{waited} ms of the other tenant's came first");
}
