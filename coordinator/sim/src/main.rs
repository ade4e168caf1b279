//! `zoetrope-sim`: runs schedules and says what broke, with the one command that runs it again.

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::time::Instant;
use zoetrope_sim::{Plan, Ran, mutants, run};

/// A schedule is millions of small allocations, which the system's allocator takes a fifth of its time for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the farm in virtual time, one schedule for each seed.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Which seeds: one, or a range such as 1..1000000, the last excluded.
    #[arg(long, default_value = "1..2001")]
    seeds: String,
    /// Workers of a schedule, at most.
    #[arg(long, default_value_t = 5)]
    workers: u64,
    /// No faults: a farm at work for an hour, to measure the speed.
    #[arg(long)]
    quiet: bool,
    /// Goes on behind a broken schedule.
    #[arg(long)]
    keep_going: bool,
    /// Says how far it is after so many schedules.
    #[arg(long, default_value_t = 100_000)]
    say_every: u64,
}

#[derive(Subcommand)]
enum What {
    /// Takes each promise away in turn and says how soon the checker notices. Needs the feature `mutants`.
    Mutants {
        /// Schedules for each mutant, at most.
        #[arg(long, default_value_t = 10_000)]
        schedules: u64,
        /// Writes the table to coordinator/sim/MUTANTS.md.
        #[arg(long)]
        write: bool,
    },
}

fn check_mutants(schedules: u64, write: bool, workers: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        zoetrope_protocol::mutant::POSSIBLE,
        "there are no mutants in this build: add --features mutants"
    );
    let caught = mutants::check(schedules, workers);
    let table = mutants::table(&caught);
    print!("{table}");
    if write {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/MUTANTS.md");
        std::fs::write(path, &table).with_context(|| path.to_owned())?;
    }
    let missed = caught.iter().filter(|one| one.after.is_none()).count();
    anyhow::ensure!(missed == 0, "{missed} mutants were not caught");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(What::Mutants { schedules, write }) = arguments.what {
        return check_mutants(schedules, write, arguments.workers);
    }
    let (first, end) = seeds(&arguments.seeds)?;
    let began = Instant::now();
    let mut total = Ran::default();
    let (mut ran, mut broken) = (0_u64, 0_u64);
    for seed in first..end {
        let plan = if arguments.quiet {
            Plan::quiet(seed, arguments.workers)
        } else {
            Plan::of(seed, arguments.workers)
        };
        match run(plan) {
            Ok(one) => {
                total.virtual_ms += one.virtual_ms;
                total.events += one.events;
                total.records += one.records;
                total.completed += one.completed;
                total.failed += one.failed;
                total.restarts += one.restarts;
            }
            Err(what) => {
                broken += 1;
                println!("seed {seed}: {what}");
                println!(
                    "  run it again: cargo run --release -p zoetrope-sim -- --seeds {seed} --workers {}",
                    arguments.workers
                );
                anyhow::ensure!(arguments.keep_going, "a promise is broken");
            }
        }
        ran += 1;
        if ran.is_multiple_of(arguments.say_every.max(1)) {
            println!("{}", summary(ran, broken, &total, began));
        }
    }
    println!("{}", summary(ran, broken, &total, began));
    anyhow::ensure!(broken == 0, "{broken} schedules are broken");
    Ok(())
}

fn summary(ran: u64, broken: u64, total: &Ran, began: Instant) -> String {
    let took = began.elapsed().as_secs_f64().max(1e-9);
    let ratio = total.virtual_ms as f64 / 1_000.0 / took;
    format!(
        "{ran} schedules, {broken} broken, {took:.1} s: {:.0} schedules/s, {ratio:.0} x real time; {} events, \
         {} records, {} restarts, {} jobs completed, {} ended without a clip",
        ran as f64 / took,
        total.events,
        total.records,
        total.restarts,
        total.completed,
        total.failed
    )
}

fn seeds(text: &str) -> anyhow::Result<(u64, u64)> {
    let wrong =
        || anyhow::anyhow!("--seeds takes a number, or a range such as 1..1000: got {text:?}");
    match text.split_once("..") {
        None => {
            let seed: u64 = text.parse().map_err(|_| wrong())?;
            Ok((seed, seed + 1))
        }
        Some((first, end)) => {
            Ok((first.parse().map_err(|_| wrong())?, end.parse().map_err(|_| wrong())?))
        }
    }
}
