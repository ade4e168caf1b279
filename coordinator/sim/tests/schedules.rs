//! The farm's promises over schedules with faults. A failing seed prints the one command that runs it again.
//!
//! `ZOETROPE_SEEDS=100000` runs so many.

use zoetrope_sim::{Plan, run};

/// Schedules in an ordinary run.
const SEEDS: u64 = 2_000;
/// Workers of a schedule, at most.
const WORKERS: u64 = 5;

fn quarter(part: u64) {
    let wanted = std::env::var("ZOETROPE_SEEDS").ok();
    let seeds = wanted.map_or(SEEDS, |text| text.parse().expect("a number"));
    let (mut completed, mut failed) = (0, 0);
    for seed in (1 + part..=seeds).step_by(4) {
        match run(Plan::of(seed, WORKERS)) {
            Ok(ran) => (completed, failed) = (completed + ran.completed, failed + ran.failed),
            Err(broken) => panic!(
                "seed {seed}: {broken}\nrun it again: \
                 cargo run --release -p zoetrope-sim -- --seeds {seed} --workers {WORKERS}"
            ),
        }
    }
    // A farm that publishes nothing keeps every promise about what it publishes.
    assert!(completed > failed, "of {} jobs {completed} ended with a clip", completed + failed);
}

/// First quarter of the seeds.
#[test]
fn promises_hold_a() {
    quarter(0);
}

/// Second quarter.
#[test]
fn promises_hold_b() {
    quarter(1);
}

/// Third quarter.
#[test]
fn promises_hold_c() {
    quarter(2);
}

/// Fourth quarter.
#[test]
fn promises_hold_d() {
    quarter(3);
}

/// Promise: a seed is a whole bug report. The same one twice is the same farm, event for event.
#[test]
fn a_seed_is_one_schedule() {
    for seed in 1..20 {
        assert_eq!(run(Plan::of(seed, WORKERS)), run(Plan::of(seed, WORKERS)));
    }
}
