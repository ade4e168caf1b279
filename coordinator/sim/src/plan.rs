//! What one schedule is: its farm, its callers, and the faults that are possible in it. All of it follows from
//! the seed, so that a seed is a whole bug report.

use crate::chance::Chance;
use zoetrope_coordinator::jobs::Keep;
use zoetrope_protocol::id::Millis;

/// How a worker's gpu does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// As it should.
    Sound,
    /// Every second unit of work fails.
    Lemon,
    /// Ten times slower.
    Slow,
    /// Says that it is done after no time, with fewer steps than ordered.
    TooQuick,
    /// The bytes that it sends do not match their digest, now and then.
    WrongDigest,
    /// Runs out of memory, now and then.
    OutOfMemory,
    /// The process dies at this step of any render, now and then.
    DiesAt(u32),
    /// Stands still for ever, now and then.
    Hangs,
    /// Its clips' sound is too long.
    BadClips,
}

/// The faults of a schedule: how many of each may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The coordinator dies at some moment.
    pub crashes: u64,
    /// The coordinator dies around a sync.
    pub crashes_at_sync: u64,
    /// The coordinator stands still, then goes on.
    pub pauses: u64,
    /// Workers are killed.
    pub kills: u64,
    /// Workers stand still, then go on.
    pub zombies: u64,
    /// All workers are killed at once.
    pub storms: u64,
    /// Connections break and are dialled again.
    pub cuts: u64,
    /// Partitions, of one direction or both.
    pub partitions: u64,
    /// The store answers with errors for a time.
    pub store_outages: u64,
    /// Syncs take seconds for a time.
    pub slow_disks: u64,
    /// The disk is full for a time.
    pub full_disks: u64,
    /// A bit of the journal or of a snapshot flips while the coordinator is down.
    pub flips: u64,
    /// The clock jumps by up to an hour.
    pub clock_jumps: u64,
    /// Jobs are moved; workers are drained, cordoned, or told that their machine goes.
    pub leaves: u64,
    /// A tenant's cap changes.
    pub tenant_changes: u64,
    /// An old copy of the coordinator's machine wakes up and greets workers.
    pub strays: u64,
    /// An artifact vanishes from the store.
    pub artifacts_lost: u64,
}

/// One schedule.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How each worker's gpu is.
    pub gpus: Vec<Gpu>,
    /// Jobs that callers submit.
    pub jobs: u64,
    /// The last submit comes at this moment at the latest, in milliseconds.
    pub submits_until: u64,
    /// Cap of each tenant.
    pub caps: Vec<u32>,
    /// Time of a step, in milliseconds; other stages follow from it.
    pub step_ms: u64,
    /// Steps of a job, at most; at least 2.
    pub steps_max: u64,
    /// Faults happen until this moment, in milliseconds; then everything heals.
    pub faults_until: u64,
    /// The faults.
    pub faults: Faults,
    /// Latents are stored after every so many steps.
    pub checkpoint_every: u32,
    /// Decode chunks of one decode shard; none where clips are decoded as they are finished.
    pub decode_chunks: Option<u16>,
    /// Records between two snapshots.
    pub snapshot_every: u64,
    /// What nobody uses stays so long, in milliseconds.
    pub keep_unused: u64,
    /// What led to a clip stays so long after the job's end.
    pub keep: Keep,
    /// Whether callers cancel, delete and send twice.
    pub fickle: bool,
    /// The core's own check runs after every so many inputs.
    pub check_every: u64,
}

impl Plan {
    /// The schedule of a seed, with so many workers at most.
    pub fn of(seed: u64, workers_max: u64) -> Plan {
        let mut chance = Chance::new(seed ^ 0x5eed_0f9a);
        let c = &mut chance;
        let workers = c.range(1, workers_max.max(1));
        let lemons = c.one_in(2);
        let gpus = (0..workers)
            .map(|at| if at == 0 || !lemons || c.one_in(2) { Gpu::Sound } else { gpu(c) })
            .collect();
        let step_ms = [100, 500, 2_000, 20_000][c.index(4)];
        let caps = (0..c.range(1, 3)).map(|_| c.range(1, 4) as u32).collect();
        let faults_until = c.range(30_000, 300_000).max(step_ms * 8);
        let mut some = |most: u64, rarely: u64| {
            if c.one_in(rarely) { c.range(1, most) } else { 0 }
        };
        let faults = Faults {
            crashes: some(3, 3),
            crashes_at_sync: some(4, 2),
            pauses: some(2, 6),
            kills: some(4, 2),
            zombies: some(3, 3),
            storms: some(1, 10),
            cuts: some(6, 2),
            partitions: some(3, 3),
            store_outages: some(2, 4),
            slow_disks: some(2, 4),
            full_disks: some(1, 10),
            flips: some(1, 8),
            clock_jumps: some(2, 5),
            leaves: some(3, 3),
            tenant_changes: some(2, 6),
            strays: some(1, 6),
            artifacts_lost: some(1, 8),
        };
        Plan {
            seed,
            gpus,
            jobs: c.range(1, 12),
            submits_until: c.range(1, faults_until),
            caps,
            step_ms,
            steps_max: c.range(2, 6),
            faults_until,
            faults,
            checkpoint_every: if c.one_in(4) { c.range(2, 4) as u32 } else { 1 },
            decode_chunks: c.one_in(2).then(|| c.range(1, 3) as u16),
            snapshot_every: if c.one_in(3) { c.range(5, 60) } else { 100_000 },
            keep_unused: c.range(0, 60_000),
            keep: Keep {
                completed: Millis(c.range(0, 60_000)),
                failed: Millis(c.range(0, 120_000)),
            },
            fickle: c.one_in(2),
            check_every: 1,
        }
    }

    /// A quiet farm at work, to measure the speed: steps of a 768p clip of 10 s on one H100, as many jobs as keep
    /// every gpu busy for an hour.
    pub fn quiet(seed: u64, workers: u64) -> Plan {
        Plan {
            seed,
            gpus: vec![Gpu::Sound; workers as usize],
            jobs: workers * 16,
            submits_until: 3_600_000,
            caps: vec![1_000; 4],
            step_ms: 20_000,
            steps_max: 8,
            faults_until: 3_600_000,
            faults: Faults::default(),
            checkpoint_every: 1,
            decode_chunks: None,
            snapshot_every: 100_000,
            keep_unused: 60_000,
            keep: Keep { completed: Millis(3_600_000), failed: Millis(86_400_000) },
            fickle: true,
            check_every: 1_000,
        }
    }
}

fn gpu(c: &mut Chance) -> Gpu {
    match c.range(0, 7) {
        0 => Gpu::Lemon,
        1 => Gpu::Slow,
        2 => Gpu::TooQuick,
        3 => Gpu::WrongDigest,
        4 => Gpu::OutOfMemory,
        5 => Gpu::DiesAt(c.range(1, 4) as u32),
        6 => Gpu::Hangs,
        _ => Gpu::BadClips,
    }
}
