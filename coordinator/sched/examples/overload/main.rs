//! What the core promises under overload, in simulated time: `cargo run --release -p zoetrope-sched --example overload`.
//!
//! Nothing is measured in real time, so a busy machine changes nothing: same seeds, same table.

mod farm;
// Some figures are for the tests' messages alone.
#[allow(dead_code)]
mod runs;

use runs::{Size, deadlines, estimates, fairness, flood};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

fn main() {
    let size = |workers, hours, seed| Size { workers, hours, seed, checked: false };
    println!("| experiment | seeds | result | target |\n| --- | --- | --- | --- |");
    for load in [1.0, 2.0, 4.0] {
        let runs: Vec<_> = SEEDS.iter().map(|seed| deadlines(size(32, 6, *seed), load)).collect();
        let (asked, accepted): (usize, usize) =
            (runs.iter().map(|r| r.asked).sum(), runs.iter().map(|r| r.accepted).sum());
        let in_time: usize = runs.iter().map(|r| r.in_time).sum();
        let rate = |r: &runs::Deadlines| r.in_time as f64 / r.accepted.max(1) as f64 * 100.0;
        let worst = runs.iter().map(rate).fold(100.0, f64::min);
        let busy = runs.iter().map(|r| r.busy).sum::<f64>() / runs.len() as f64 * 100.0;
        let preempted: u64 = runs.iter().map(|r| r.preempted).sum();
        println!(
            "| deadlines, {load} × what the farm can do, 32 workers, 8 tenants, 6 h | {} | {:.2} % of {accepted} \
             accepted in time (worst seed {worst:.2} %); {asked} asked; {preempted} preemptions; gpus {busy:.0} % busy \
             | ≥ 99 % |",
            SEEDS.len(),
            in_time as f64 / accepted.max(1) as f64 * 100.0,
        );
    }
    let floods: Vec<_> = SEEDS.iter().map(|seed| flood(size(32, 4, *seed))).collect();
    let by = |of: fn(&runs::Flood) -> (u64, u64)| {
        let ratios: Vec<f64> =
            floods.iter().map(of).map(|(then, now)| now as f64 / then as f64).collect();
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        (mean, ratios.iter().copied().fold(0.0, f64::max))
    };
    let (all, worst) = by(|f| (f.quiet_ms, f.flooded_ms));
    let (short, short_worst) = by(|f| (f.short_quiet_ms, f.short_flooded_ms));
    println!(
        "| flood of 100 × by one of 20 tenants, others' p95 turnaround | {} | {all:.3} × (worst {worst:.3}); short \
         jobs alone {short:.3} × (worst {short_worst:.3}) | ≤ 1.2 × |",
        SEEDS.len()
    );
    let jain: Vec<f64> = SEEDS.iter().map(|seed| fairness(size(32, 8, *seed))).collect();
    let least = jain.iter().copied().fold(1.0, f64::min);
    println!(
        "| Jain's index of GPU time, 50 equal tenants, demand by Zipf(1.2) | {} | {least:.4} at least | ≥ 0.98 |",
        SEEDS.len()
    );
    for load in [0.7, 0.85, 2.0] {
        let runs: Vec<_> = SEEDS.iter().map(|seed| estimates(size(32, 6, *seed), load)).collect();
        let mean =
            |of: fn(&runs::Estimates) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let jobs: usize = runs.iter().map(|r| r.jobs).sum();
        println!(
            "| estimated end at admission, load {load} | {} | wrong by {:.1} % (bias {:+.1} %) over {jobs} jobs | ≤ 5 % \
             |",
            SEEDS.len(),
            mean(|r| r.wrong) * 100.0,
            mean(|r| r.bias) * 100.0,
        );
    }
}
