//! Random farms with faults. A failing seed prints the one command that runs it again.
//!
//! `ZOETROPE_SEED=7` runs that seed alone; `ZOETROPE_SEEDS=100000` runs so many.

mod farm;

use farm::Farm;
use farm::chance::Chance;
use zoetrope_protocol::codec;
use zoetrope_sched::{Config, Core, Output, State};

/// Seeds in an ordinary run.
const SEEDS: u64 = 2_000;

/// Says which seed it was, whatever goes wrong in it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again: ZOETROPE_SEED={} cargo nextest run -p zoetrope-sched", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn bytes(outputs: &[Output]) -> Vec<u8> {
    outputs.iter().flat_map(|output| codec::encode(output).expect("an output encodes")).collect()
}

/// One farm: faults, then healing. All jobs end; the journal replayed gives the same bytes; so does a snapshot at a
/// random point with the rest of the journal.
fn run(seed: u64) {
    let _guard = Seed(seed);
    let mut farm = Farm::new(seed);
    let events = farm.chance.range(20, 200);
    for _ in 0..events {
        farm.happen();
    }
    farm.heal();
    farm.watch.all_ended().expect("every job ends");

    let mut chance = Chance::new(seed ^ 0xabcd);
    let cut = chance.range(0, farm.journal.len() as u64) as usize;
    let mut core = Core::new(Config::default());
    let mut out = Vec::new();
    for (at, (now, input)) in farm.journal.iter().enumerate() {
        if at == cut {
            let snapshot = codec::encode(core.snapshot()).expect("a state encodes");
            let state: State = codec::decode_trusted(&snapshot).expect("a state decodes");
            core = Core::from_snapshot(state);
            core.check().expect("a restored core is sound");
        }
        core.handle(*now, input.clone(), &mut out);
    }
    if bytes(&out) != bytes(&farm.outputs) {
        let at = out.iter().zip(&farm.outputs).position(|(a, b)| a != b);
        panic!("the replay differs at output {at:?}, cut at input {cut}");
    }
    assert_eq!(core.counts(), farm.core.counts());
    let ends = [codec::encode(core.snapshot()), codec::encode(farm.core.snapshot())];
    let [replayed, live] = ends.map(|end| end.expect("a state encodes"));
    assert!(replayed == live, "the replay ends in another state");
}

fn quarter(part: u64) {
    if let Some(seed) = number("ZOETROPE_SEED") {
        if part == 0 {
            run(seed);
        }
        return;
    }
    let seeds = number("ZOETROPE_SEEDS").unwrap_or(SEEDS);
    for seed in (part..seeds).step_by(4) {
        run(seed);
    }
}

/// Nothing is lost, every job ends once, replays are identical: first quarter of the seeds.
#[test]
fn farms_with_faults_a() {
    quarter(0);
}

/// Second quarter.
#[test]
fn farms_with_faults_b() {
    quarter(1);
}

/// Third quarter.
#[test]
fn farms_with_faults_c() {
    quarter(2);
}

/// Fourth quarter.
#[test]
fn farms_with_faults_d() {
    quarter(3);
}
