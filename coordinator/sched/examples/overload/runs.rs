//! The experiments: what comes, and what is measured of what became of it.

use crate::farm::{BEGIN, Chance, Farm, Fate, LONG, MEAN_MS, SHORT, Wish};
use zoetrope_protocol::job::Class;

const HOUR: u64 = 3_600_000;

/// How large an experiment is.
#[derive(Clone, Copy)]
pub struct Size {
    pub workers: u64,
    pub hours: u64,
    pub seed: u64,
    /// Hold the core's invariants after every input.
    pub checked: bool,
}

/// Jobs of one tenant, at random moments.
fn stream(seed: u64, tenant: u32, mean_ms: f64, hours: u64) -> Vec<Wish> {
    let mut chance = Chance(seed ^ (u64::from(tenant) << 32));
    let mut wishes = Vec::new();
    let mut at = BEGIN + chance.exponential(mean_ms);
    while at < BEGIN + hours * HOUR {
        let shape = if chance.range(1, 5) == 1 { LONG } else { SHORT };
        let noise = chance.range(0, 60) as i64 - 30;
        let class = Class::Default;
        wishes.push(Wish { at, tenant, class, shape, deadline: None, noise });
        at += chance.exponential(mean_ms);
    }
    wishes
}

/// Milliseconds between two jobs, so that `load` times the workers' time is asked for by `share` of it.
fn mean_ms(workers: u64, load: f64, share: f64) -> f64 {
    MEAN_MS / (load * share * workers as f64)
}

fn percentile(mut values: Vec<u64>, percent: usize) -> u64 {
    values.sort_unstable();
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}

/// What an overload with deadlines came to.
#[derive(Debug)]
pub struct Deadlines {
    pub asked: usize,
    pub accepted: usize,
    pub in_time: usize,
    pub preempted: u64,
    /// Share of the workers' time that was used.
    pub busy: f64,
    /// Of those that were late: class, steps, when they came and how late they were, in seconds.
    pub late: Vec<(Class, u32, u64, u64)>,
}

/// Twice what the farm can do, from eight equal tenants: 10 % priority, 60 % default, both with deadlines of 2 to 8
/// times their own time (and 30 s); 30 % flex without.
pub fn deadlines(size: Size, load: f64) -> Deadlines {
    const TENANTS: u32 = 8;
    let Size { workers, hours, seed, checked } = size;
    let mut farm = Farm::new(workers, TENANTS, 1_000, checked);
    let mut chance = Chance(seed ^ 0xdead);
    let mut wishes = Vec::new();
    for tenant in 0..TENANTS {
        wishes.extend(stream(
            seed,
            tenant,
            mean_ms(workers, load, 1.0 / f64::from(TENANTS)),
            hours,
        ));
    }
    for wish in &mut wishes {
        wish.class = match chance.range(1, 10) {
            1 => Class::Priority,
            2..=7 => Class::Default,
            _ => Class::Flex,
        };
        if wish.class != Class::Flex {
            let slack = wish.shape.whole_ms() * chance.range(200, 800) / 100 + 30_000;
            wish.deadline = Some(wish.at + slack);
        }
    }
    // Until every accepted deadline has passed.
    farm.run(&wishes, BEGIN + hours * HOUR + HOUR);
    let with: Vec<&Fate> = farm.fates.iter().filter(|f| f.wish.deadline.is_some()).collect();
    let accepted: Vec<&&Fate> = with.iter().filter(|fate| fate.admitted).collect();
    let in_time = accepted
        .iter()
        .filter(|fate| fate.ended.is_some_and(|(at, good)| good && Some(at) <= fate.wish.deadline));
    let late = accepted.iter().filter_map(|fate| {
        let (at, deadline) = (fate.ended.map_or(farm.now, |(at, _)| at), fate.wish.deadline?);
        let wish = fate.wish;
        let missed = fate.ended.is_none_or(|(_, good)| !good);
        missed.then(|| {
            let late = at.saturating_sub(deadline) / 1_000;
            (wish.class, wish.shape.steps, (wish.at - BEGIN) / 1_000, late)
        })
    });
    let late = late.collect();
    Deadlines {
        late,
        asked: with.len(),
        accepted: accepted.len(),
        in_time: in_time.count(),
        preempted: farm.preempted,
        busy: farm.used.iter().sum::<u64>() as f64 / (workers * (hours + 1) * HOUR) as f64,
    }
}

/// 95th percentiles of others' turnaround, in milliseconds: quiet, and beside a flood.
#[derive(Debug)]
pub struct Flood {
    pub quiet_ms: u64,
    pub flooded_ms: u64,
    /// The same of short jobs alone.
    pub short_quiet_ms: u64,
    pub short_flooded_ms: u64,
}

/// Twenty tenants at 60 % of the farm; one of them sends a hundred times as much.
pub fn flood(size: Size) -> Flood {
    const TENANTS: u32 = 20;
    let Size { workers, hours, seed, checked } = size;
    let mean = mean_ms(workers, 0.6, 1.0 / f64::from(TENANTS));
    let run = |factor: f64| {
        let mut farm = Farm::new(workers, TENANTS, 1_000, checked);
        let mut wishes = stream(seed, 0, mean / factor, hours);
        for tenant in 1..TENANTS {
            wishes.extend(stream(seed, tenant, mean, hours));
        }
        farm.run(&wishes, BEGIN + (hours + 1) * HOUR);
        let of = |short: bool| {
            let others = farm.fates.iter().filter(|fate| fate.wish.tenant > 0);
            let others = others.filter(|f| !short || f.wish.shape.steps == SHORT.steps);
            percentile(others.filter_map(|f| Some(f.ended?.0 - f.wish.at)).collect(), 95)
        };
        (of(false), of(true))
    };
    let ((quiet_ms, short_quiet_ms), (flooded_ms, short_flooded_ms)) = (run(1.0), run(100.0));
    Flood { quiet_ms, flooded_ms, short_quiet_ms, short_flooded_ms }
}

/// Jain's index of GPU time over equal tenants whose demand follows Zipf(1.2), the least of it more than a fair share.
pub fn fairness(size: Size) -> f64 {
    const TENANTS: u32 = 50;
    let Size { workers, hours, seed, checked } = size;
    let mut farm = Farm::new(workers, TENANTS, 200, checked);
    let zipf = |rank: u32| f64::from(rank).powf(-1.2);
    let least = zipf(TENANTS);
    let wishes: Vec<Wish> = (0..TENANTS)
        .flat_map(|tenant| {
            let share = 1.5 / f64::from(TENANTS) * zipf(tenant + 1) / least;
            stream(seed, tenant, mean_ms(workers, 1.0, share), hours)
        })
        .collect();
    // The first quarter of the time fills the queues.
    farm.run(&wishes, BEGIN + hours * HOUR / 4);
    let before = farm.used.clone();
    farm.run(&[], BEGIN + hours * HOUR);
    let used = farm.used.iter().zip(before).map(|(now, then)| (now - then) as f64);
    let (sum, squares) = used.fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    sum * sum / (f64::from(TENANTS) * squares)
}

/// How wrong the estimated end is, at admission.
#[derive(Debug)]
pub struct Estimates {
    pub jobs: usize,
    /// Sum of errors by sum of turnarounds.
    pub wrong: f64,
    /// The same with sign: above 0 jobs end later than was said.
    pub bias: f64,
}

/// Ten tenants at a load; jobs without deadlines.
pub fn estimates(size: Size, load: f64) -> Estimates {
    const TENANTS: u32 = 10;
    let Size { workers, hours, seed, checked } = size;
    let mut farm = Farm::new(workers, TENANTS, 100, checked);
    let mean = mean_ms(workers, load, 1.0 / f64::from(TENANTS));
    let wishes: Vec<Wish> = (0..TENANTS).flat_map(|t| stream(seed, t, mean, hours)).collect();
    farm.run(&wishes, BEGIN + (hours + 12) * HOUR);
    let (mut jobs, mut wrong, mut sign, mut took) = (0, 0.0, 0.0, 0.0);
    for fate in &farm.fates {
        let (Some(estimated), Some((ended, true))) = (fate.estimated_end, fate.ended) else {
            continue;
        };
        jobs += 1;
        let error = ended as f64 - estimated as f64;
        wrong += error.abs();
        sign += error;
        took += (ended - fate.wish.at) as f64;
    }
    Estimates { jobs, wrong: wrong / took, bias: sign / took }
}
