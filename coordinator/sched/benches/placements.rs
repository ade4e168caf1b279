//! How long a placement takes: `cargo bench -p zoetrope-sched [-- --json]`; `-- --queued 100000 --runs 200` is one row,
//! with as many runs as a profile wants.
//!
//! 10,000 workers, 1,000 tenants of ten different weights, three classes, a chain of three stages; 10,000, 100,000 and
//! 1,000,000 jobs wait. A placement is one `ShardFinished` and all that follows from it: books, the next stage or
//! `Publish` and `Published`, the next `Assign`. 64 reports wait together, as at a dispatch actor that has much to do
//! (`--together 1` for one at a time, `--workers` for a smaller fleet). Nothing is submitted while time is taken;
//! between runs the queue is filled up again, so that the mix of what waits stays the same. It is one of two: every
//! class has a third, and the first alone is served (`--flex 0`); or all that waits long is flex, in a farm that keeps
//! up with the other two (`--flex 1`). The driver's own work (making inputs, reading outputs) is inside the time. Told are nanoseconds on
//! the core (median and range of the runs), and on the wall, which a busy machine makes longer.

// A global allocator that counts cannot be written without it.
#![allow(unsafe_code)]

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use zoetrope_protocol::id::*;
use zoetrope_protocol::job::{ArtifactRef, Class, Role, Stage};
use zoetrope_protocol::wire::{Held, Identity};
use zoetrope_sched::input::*;
use zoetrope_sched::{Config, Core, Output};

const WORKERS: u64 = 10_000;
const TENANTS: u32 = 1_000;
const QUEUED: [u64; 3] = [10_000, 100_000, 1_000_000];
const RUNS: usize = 30;
/// Of these so many follow each other.
const IN_TURN: usize = 3;
/// Placements of one run: they use up 2,000 jobs, so that the first class of the smallest queue never runs dry.
const PLACEMENTS: usize = 6_000;
const STEPS: u32 = 8;
const TOGETHER: u64 = 64;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// One thread allocates here, so this need not lock the bus, which would cost a placement more than the allocations do.
fn count(bytes: usize) {
    LIVE.store(LIVE.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
}

// SAFETY: every call goes to the allocator of the coordinator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size().wrapping_neg());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { MiMalloc.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[cfg(target_os = "linux")]
mod clock {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanos: i64,
    }

    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }

    const THREAD_CPU: i32 = 3;

    /// Nanoseconds that this thread spent on a core: what a busy machine does not change much.
    pub fn cpu_ns() -> u64 {
        let mut time = Timespec { seconds: 0, nanos: 0 };
        // SAFETY: `time` is a valid `timespec` of this platform, and outlives the call.
        unsafe { clock_gettime(THREAD_CPU, &mut time) };
        (time.seconds * 1_000_000_000 + time.nanos) as u64
    }
}

#[cfg(not(target_os = "linux"))]
mod clock {
    use std::sync::OnceLock;
    use std::time::Instant;

    static BEGIN: OnceLock<Instant> = OnceLock::new();

    /// Elsewhere: wall time.
    pub fn cpu_ns() -> u64 {
        BEGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

struct Bench {
    core: Core,
    now: Millis,
    /// What each worker runs, by its number.
    holds: Vec<Option<Held>>,
    out: Vec<Output>,
    /// Reports that wait together.
    together: u64,
    /// Reports that were not handled yet.
    waiting: VecDeque<(WorkerId, Held)>,
    submitted: u64,
    placed: usize,
    published: u64,
    chance: u64,
}

impl Bench {
    fn new(workers: u64) -> Self {
        let core = Core::new(Config::default());
        let mut bench = Bench {
            core,
            now: Millis(1_000_000),
            holds: vec![None; workers as usize + 1],
            out: Vec::new(),
            together: option("--together").unwrap_or(TOGETHER),
            waiting: VecDeque::new(),
            submitted: 0,
            placed: 0,
            published: 0,
            chance: 1,
        };
        bench.take(Input::EpochBegan { epoch: Epoch(1) });
        let stages = [(Stage::Encode, 8), (Stage::Denoise, 16), (Stage::Finish, 8)];
        let need = |(stage, gib): (Stage, u64)| StageNeed { stage, vram_bytes: gib << 30 };
        let chain = stages.into_iter().map(need).collect();
        bench.take(Input::ModelSet { model: ModelId(1), name: "model".into(), chain });
        for tenant in 0..TENANTS {
            let policy = TenantPolicy { weight: 1 + tenant % 10, running_max: u32::MAX };
            bench.take(Input::TenantSet { tenant: TenantId(tenant), policy });
        }
        for worker in 1..=workers {
            let identity = Identity { node: format!("node-{worker}"), boot: 1, session: 1 };
            let serves = vec![(ModelId(1), vec![Stage::Encode, Stage::Denoise, Stage::Finish])];
            let capacity =
                Capacity { vram_bytes: 24 << 30, serves, machine: format!("host-{}", worker / 8) };
            let (worker, held) = (WorkerId(worker), Vec::new());
            bench.take(Input::WorkerJoined { worker, identity, capacity, held });
        }
        bench
    }

    fn next(&mut self) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.chance >> 33
    }

    fn take(&mut self, input: Input) {
        self.core.handle(self.now, input, &mut self.out);
        let mut done = None;
        for output in self.out.drain(..) {
            match output {
                Output::Assign { worker, shard, fence, .. } => {
                    self.holds[worker.0 as usize] = Some(Held { shard, fence });
                    self.placed += 1;
                }
                Output::Publish { job, .. } => done = Some(job),
                _ => {}
            }
        }
        if let Some(job) = done {
            self.published += 1;
            self.take(Input::Published { job });
        }
    }

    fn submit(&mut self, class: Class) {
        self.submitted += 1;
        // Ids of the farm are random, so their order says nothing.
        let job = JobId(u128::from(self.submitted).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060));
        let tenant = TenantId((self.next() % u64::from(TENANTS)) as u32);
        let expected = vec![Millis(1_000), Millis(8_000), Millis(2_000)];
        let ask = Ask {
            tenant,
            class,
            model: ModelId(1),
            steps: STEPS,
            expected,
            deadline: None,
            learned: false,
            decode: Decode::default(),
        };
        self.take(Input::Submitted { job, ask });
    }

    /// Jobs of these classes in turn, until so many wait.
    fn fill(&mut self, queued: u64, classes: &[Class]) {
        for class in classes.iter().cycle() {
            if self.core.counts().queued() >= queued {
                return;
            }
            self.submit(*class);
        }
    }

    /// Any worker that runs something is done.
    fn report(&mut self) -> (WorkerId, Held) {
        loop {
            let worker = 1 + self.next() % (self.holds.len() as u64 - 1);
            if let Some(held) = self.holds[worker as usize].take() {
                return (WorkerId(worker), held);
            }
        }
    }

    /// Several workers' shards are done.
    fn finish_some(&mut self) {
        for _ in 0..self.together {
            let report = self.report();
            self.waiting.push_back(report);
        }
        while let Some((worker, held)) = self.waiting.pop_front() {
            self.core.foresee(self.waiting.iter().map(|(worker, _)| *worker));
            self.finish(worker, held);
        }
    }

    /// One worker's shard is done.
    fn finish(&mut self, worker: WorkerId, held: Held) {
        let role = match held.shard.stage {
            Stage::Encode => Role::Prompt,
            Stage::Denoise | Stage::Decode => Role::Latents { step: STEPS },
            Stage::Finish => Role::Clip,
        };
        let mut address = [0; 32];
        address[..8].copy_from_slice(&self.now.0.to_le_bytes());
        let outputs = vec![ArtifactRef { role, artifact: ArtifactId(address), bytes: 1_000 }];
        self.now.0 += 1;
        let gpu = Millis(900 + self.now.0 % 200);
        self.take(Input::ShardFinished { worker, held, outputs, gpu });
    }

    /// Nanoseconds a placement: on the core, and on the wall.
    // Not inlined, so that a profiler finds it.
    #[inline(never)]
    fn run(&mut self) -> (u64, u64) {
        let until = self.placed + PLACEMENTS;
        let (begin, cpu) = (Instant::now(), clock::cpu_ns());
        while self.placed < until {
            self.finish_some();
        }
        let each = |all: u64| all / PLACEMENTS as u64;
        (each(clock::cpu_ns() - cpu), each(begin.elapsed().as_nanos() as u64))
    }

    /// The slowest hundredth of single placements, in nanoseconds.
    fn slow(&mut self) -> u64 {
        let mut times: Vec<u64> = (0..PLACEMENTS)
            .map(|_| {
                let (worker, held) = self.report();
                let begin = Instant::now();
                self.finish(worker, held);
                begin.elapsed().as_nanos() as u64
            })
            .collect();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }
}

/// The number after an option of the command line.
fn option(name: &str) -> Option<u64> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1).map(|number| number.parse().expect("a number"))
}

/// A queue of one length and mix, and what its runs took.
struct Row {
    queued: u64,
    flex: bool,
    bench: Bench,
    submit_ns: u64,
    bytes: u64,
    /// Nanoseconds a placement: on the core, and on the wall.
    runs: Vec<(u64, u64)>,
}

impl Row {
    /// With every worker busy, and so many waiting.
    fn new(queued: u64, flex: bool) -> Row {
        let mut bench = Bench::new(option("--workers").unwrap_or(WORKERS));
        let wait = if flex { &Class::ALL[2..] } else { &Class::ALL[..] };
        bench.fill(1, Row::come(flex));
        let before = LIVE.load(Ordering::Relaxed);
        let empty = bench.core.counts().queued();
        let begin = clock::cpu_ns();
        bench.fill(queued, wait);
        let submitted = (queued - empty).max(1);
        let submit_ns = (clock::cpu_ns() - begin) / submitted;
        let bytes = (LIVE.load(Ordering::Relaxed) - before) as u64 / submitted;
        let mut row = Row { queued, flex, bench, submit_ns, bytes, runs: Vec::new() };
        // The first run after filling meets the mix of stages that filling left.
        row.run();
        row
    }

    /// The classes of what comes for what was placed.
    fn come(flex: bool) -> &'static [Class] {
        if flex { &Class::ALL } else { &Class::ALL[..1] }
    }

    fn run(&mut self) -> (u64, u64) {
        let ns = self.bench.run();
        self.bench.fill(self.queued, Row::come(self.flex));
        ns
    }

    /// What it took, as a line for people or as JSON.
    fn told(mut self, json: bool) -> String {
        let p99 = self.bench.slow();
        self.bench.core.check().expect("the core is sound");
        let Row { queued, flex, submit_ns, bytes, mut runs, .. } = self;
        runs.sort_unstable();
        let (median, low, high) = (runs[runs.len() / 2].0, runs[0].0, runs[runs.len() - 1].0);
        let mut walls: Vec<u64> = runs.iter().map(|run| run.1).collect();
        walls.sort_unstable();
        let wall = walls[walls.len() / 2];
        if json {
            return format!(
                "{{\"queued\":{queued},\"flex\":{flex},\"median_ns\":{median},\"low_ns\":{low},\"high_ns\":{high},\
                 \"wall_ns\":{wall},\"p99_ns\":{p99},\"submit_ns\":{submit_ns},\"bytes_per_job\":{bytes}}}"
            );
        }
        let rate = 1_000_000_000 / median.max(1);
        let mix = if flex { " of flex" } else { "" };
        format!(
            "{queued:>9} queued{mix}: {median} ns a placement ({low} to {high}), {rate} a second on one \
             core; wall {wall} ns, p99 {p99} ns; {submit_ns} ns a submit, {bytes} bytes a queued job"
        )
    }
}

fn main() {
    let json = std::env::args().any(|word| word == "--json");
    let runs_of_each = option("--runs").map_or(RUNS, |runs| runs as usize);
    let lengths = option("--queued").map_or(QUEUED.to_vec(), |queued| vec![queued]);
    let mixes = option("--flex").map_or(vec![false, true], |flex| vec![flex > 0]);
    let each = lengths.iter().flat_map(|queued| mixes.iter().map(move |flex| (*queued, *flex)));
    let mut rows: Vec<Row> = each.map(|(queued, flex)| Row::new(queued, flex)).collect();
    // In turns: within seconds a machine grows slower or faster by more than the rows differ.
    while rows.iter().any(|row| row.runs.len() < runs_of_each) {
        for row in &mut rows {
            // What the row before left in the cache is no part of it.
            row.run();
            for _ in row.runs.len()..runs_of_each.min(row.runs.len() + IN_TURN) {
                let ns = row.run();
                row.runs.push(ns);
            }
        }
    }
    let lines: Vec<String> = rows.into_iter().map(|row| row.told(json)).collect();
    if json {
        println!(
            "{{\"bench\":\"placements\",\"workers\":{WORKERS},\"tenants\":{TENANTS},\"runs\":{runs_of_each},\
             \"placements_a_run\":{PLACEMENTS},\"results\":[{}]}}",
            lines.join(",")
        );
    } else {
        println!("{}", lines.join("\n"));
    }
}
