//! A worker's gpu: stages as units of work, checkpoints at step boundaries, and everything that can be wrong with
//! it. As the gpu thread does it, with events for tensors.

use crate::plan::Gpu;
use crate::world::{Event, World};
use zoetrope_agent::{AttemptKey, Report};
use zoetrope_protocol::Stage;
use zoetrope_protocol::clip::{chunk_range, sprite_grid};
use zoetrope_protocol::id::{ArtifactId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts, Role};
use zoetrope_protocol::wire::{FromWorker, Order, Phase, StopWhen};

/// The work of an attempt.
pub struct Work {
    /// What to do.
    pub order: Order,
    stop: Option<(StopWhen, Cause)>,
}

impl Work {
    /// An attempt that has not begun.
    pub fn new(order: Order) -> Work {
        Work { order, stop: None }
    }

    /// A sooner stop replaces a later one.
    pub fn stop(&mut self, when: StopWhen, cause: Cause) {
        if !matches!(self.stop, Some((StopWhen::Now, _))) {
            self.stop = Some((when, cause));
        }
    }
}

/// What the gpu is doing.
#[derive(Clone, Debug)]
pub struct GpuRun {
    /// Which attempt.
    pub key: AttemptKey,
    since: u64,
    at: At,
    /// Denoising steps done.
    step: u32,
    outputs: Vec<ArtifactRef>,
}

#[derive(Clone, Debug)]
enum At {
    /// Waits for these inputs.
    Fetching(Vec<ArtifactId>),
    /// Works.
    Unit,
    /// Waits until a checkpoint is acknowledged.
    Checkpoint,
    /// Waits until its outputs are acknowledged.
    Sending,
    /// Stands still for ever.
    Hung,
}

/// What a render's artifact is: its bytes follow from the spec, so that every worker makes the same.
pub fn artifact(order: &Order, role: Role) -> ArtifactRef {
    let spec = &order.spec;
    // Prompt embeddings depend on the prompt alone: jobs share them.
    let text = match role {
        Role::Prompt => format!("prompt {}", spec.prompt),
        _ => format!("{role:?} {} {} {} {}", spec.prompt, spec.seed, spec.steps, spec.frames),
    };
    ArtifactRef { role, artifact: ArtifactId::of(text.as_bytes()), bytes: text.len() as u64 }
}

impl World {
    /// Takes up the next attempt.
    pub fn gpu_next(&mut self, worker: usize) {
        loop {
            let of = &mut self.workers[worker];
            if of.run.is_some() || !of.alive {
                return;
            }
            let Some(key) = of.waiting.pop_front() else { return };
            let now = self.now;
            let Some(entry) = of.agent.table.entry(key) else { continue };
            if let Some((_, cause)) = entry.work.stop {
                let report = failed(cause, 0);
                self.ended(worker, key, report);
                continue;
            }
            entry.begun = true;
            let held = entry.held;
            let order = entry.work.order.clone();
            let resume = order.inputs.iter().map(|input| step_of(input.role)).max().unwrap_or(0);
            let lacks: Vec<ArtifactRef> =
                order.inputs.iter().filter(|i| !of.cache.contains(&i.artifact)).copied().collect();
            let at = if lacks.is_empty() {
                At::Unit
            } else {
                At::Fetching(lacks.iter().map(|input| input.artifact).collect())
            };
            of.run = Some(GpuRun { key, since: now, at, step: resume, outputs: Vec::new() });
            self.say(worker, &FromWorker::Started(held));
            for input in lacks {
                self.say(worker, &FromWorker::Fetch(input.artifact));
            }
            self.work(worker);
        }
    }

    /// Begins a unit of work, if the gpu is at one.
    fn work(&mut self, worker: usize) {
        let step_ms = self.plan.step_ms;
        let of = &mut self.workers[worker];
        let Some(run) = of.run.as_ref().filter(|run| matches!(run.at, At::Unit)) else { return };
        let Some(entry) = of.agent.table.entry(run.key) else {
            of.run = None;
            return self.gpu_next(worker);
        };
        let mut takes = match entry.work.order.shard.stage {
            Stage::Encode => step_ms / 4 + 1,
            Stage::Denoise => step_ms,
            Stage::Decode | Stage::Finish => step_ms * 2,
        };
        if !self.healed {
            match of.gpu {
                Gpu::Slow => takes *= 10,
                Gpu::TooQuick => takes = 1,
                _ => {}
            }
        }
        of.turn += 1;
        let (boot, turn) = (of.boot, of.turn);
        self.at(takes, Event::Unit { worker, boot, turn });
    }

    /// A unit of work is done, or what became of it.
    pub fn unit_done(&mut self, worker: usize, boot: u64, turn: u64) {
        let of = &self.workers[worker];
        if !of.alive || (of.boot, of.turn) != (boot, turn) {
            return;
        }
        let Some(run) = of.run.clone() else { return };
        let gpu = if self.healed { Gpu::Sound } else { of.gpu };
        let Some(entry) = self.workers[worker].agent.table.entry(run.key) else {
            self.workers[worker].run = None;
            return self.gpu_next(worker);
        };
        let (held, order, stop) = (entry.held, entry.work.order.clone(), entry.work.stop);
        let stage = order.shard.stage;
        let step = run.step + u32::from(stage == Stage::Denoise);
        match gpu {
            Gpu::Lemon if self.chance.one_in(2) => {
                return self.gpu_failed(worker, run.key, Cause::EngineError);
            }
            Gpu::OutOfMemory if self.chance.one_in(3) => {
                return self.gpu_failed(worker, run.key, Cause::OutOfMemory);
            }
            Gpu::DiesAt(at) if step == at && self.chance.one_in(2) => {
                let after = self.chance.range(500, 10_000);
                return self.kill(worker, after);
            }
            Gpu::Hangs if self.chance.one_in(4) => {
                if let Some(run) = &mut self.workers[worker].run {
                    run.at = At::Hung;
                }
                return;
            }
            _ => {}
        }
        if let Some(run) = &mut self.workers[worker].run {
            run.step = step;
        }
        if stage == Stage::Denoise {
            let (done, total, phase) = (step, order.spec.steps, Phase::Denoising);
            self.say(worker, &FromWorker::Progress { held, phase, done, total });
        }
        if matches!(stop, Some((StopWhen::Now, _))) {
            return self.stopped(worker);
        }
        self.checker.worked(&order, step);
        match stage {
            Stage::Denoise if step < order.spec.steps => {
                if gpu == Gpu::TooQuick && self.chance.one_in(2) {
                    // Says that it is done.
                    let outputs = vec![artifact(&order, Role::Latents { step })];
                    return self.send_outputs(worker, outputs);
                }
                if stop.is_some() || step.is_multiple_of(order.checkpoint_every.max(1)) {
                    if let Some(run) = &mut self.workers[worker].run {
                        run.at = At::Checkpoint;
                    }
                    let latents = artifact(&order, Role::Latents { step });
                    self.store_artifact(worker, run.key, latents);
                } else {
                    self.work(worker);
                }
            }
            Stage::Denoise => {
                self.send_outputs(worker, vec![artifact(&order, Role::Latents { step })])
            }
            Stage::Encode => self.send_outputs(worker, vec![artifact(&order, Role::Prompt)]),
            Stage::Decode => {
                let chunks = order.spec.shape().chunks();
                let chunks = chunk_range(chunks, order.shard.index.into(), order.shards.into());
                let made = |role: &Role| !order.inputs.iter().any(|input| input.role == *role);
                let roles = chunks.map(|chunk| Role::Segment { chunk }).filter(made);
                let outputs: Vec<ArtifactRef> = roles.map(|role| artifact(&order, role)).collect();
                self.send_outputs(worker, outputs);
            }
            Stage::Finish => {
                let roles = [Role::Clip, Role::Thumbnail, Role::Spritesheet];
                self.send_outputs(worker, roles.map(|role| artifact(&order, role)).to_vec());
            }
        }
    }

    fn send_outputs(&mut self, worker: usize, outputs: Vec<ArtifactRef>) {
        let Some(run) = &mut self.workers[worker].run else { return };
        run.at = At::Sending;
        run.outputs = outputs.clone();
        let key = run.key;
        for artifact in outputs {
            self.store_artifact(worker, key, artifact);
        }
    }

    /// Something that the gpu waited for may be there.
    pub fn gpu_goes_on(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        let Some(run) = of.run.clone() else { return };
        let Some(entry) = of.agent.table.entry(run.key) else { return };
        let stop = entry.work.stop;
        let pending = of.uploads.iter().any(|upload| upload.key == run.key);
        let now = matches!(stop, Some((StopWhen::Now, _)));
        match run.at {
            At::Fetching(lacks) if now || lacks.is_empty() => {
                if now {
                    return self.stopped(worker);
                }
                if let Some(run) = &mut self.workers[worker].run {
                    run.at = At::Unit;
                }
                self.work(worker);
            }
            At::Checkpoint if !pending => {
                if stop.is_some() {
                    return self.stopped(worker);
                }
                if let Some(run) = &mut self.workers[worker].run {
                    run.at = At::Unit;
                }
                self.work(worker);
            }
            At::Sending if !pending => {
                if now {
                    return self.stopped(worker);
                }
                self.finished(worker);
            }
            _ => {}
        }
    }

    fn finished(&mut self, worker: usize) {
        let now = self.now;
        let of = &mut self.workers[worker];
        let bad = of.gpu == Gpu::BadClips && !self.healed;
        let Some(run) = of.run.take() else { return };
        let Some(entry) = of.agent.table.entry(run.key) else { return self.gpu_next(worker) };
        let order = &entry.work.order;
        let (sprite_columns, sprite_rows) = sprite_grid(order.spec.frames);
        let facts = (order.shard.stage == Stage::Finish).then_some(ClipFacts {
            size: order.spec.deliver,
            frames: order.spec.frames,
            av_gap_micros: if bad { 30_000 } else { 9_000 },
            sprite_columns,
            sprite_rows,
        });
        let report = Report::Finished { outputs: run.outputs, facts, gpu: Millis(now - run.since) };
        self.ended(worker, run.key, report);
        self.gpu_next(worker);
    }

    fn stopped(&mut self, worker: usize) {
        let of = &mut self.workers[worker];
        let Some(run) = &of.run else { return };
        let key = run.key;
        let stop = of.agent.table.entry(key).and_then(|entry| entry.work.stop);
        let cause = stop.map_or(Cause::EngineError, |(_, cause)| cause);
        self.gpu_failed(worker, key, cause);
    }

    /// An attempt ends on the gpu without its last artifact.
    pub fn gpu_failed(&mut self, worker: usize, key: AttemptKey, cause: Cause) {
        let now = self.now;
        let of = &mut self.workers[worker];
        let Some(run) = of.run.take_if(|run| run.key == key) else { return };
        of.turn += 1;
        of.uploads.retain(|upload| upload.key != key);
        self.ended(worker, key, failed(cause, now - run.since));
        self.gpu_next(worker);
    }

    /// Nobody wants an attempt any more: it ends at its next boundary, without a report.
    pub fn gpu_given_up(&mut self, worker: usize, key: AttemptKey) {
        let of = &mut self.workers[worker];
        let working = |run: &mut GpuRun| run.key == key && !matches!(run.at, At::Unit | At::Hung);
        if of.run.take_if(working).is_some() {
            of.turn += 1;
            self.gpu_next(worker);
        }
    }

    /// All attempts are to stop, or only those that have not begun.
    pub fn stop_gpu(&mut self, worker: usize, when: Option<StopWhen>) {
        let of = &self.workers[worker];
        let running = of.run.as_ref().map(|run| run.key);
        for key in of.waiting.clone() {
            self.stop_attempt(worker, key, StopWhen::Now, Cause::Drained);
        }
        if let (Some(key), Some(when)) = (running, when) {
            self.stop_attempt(worker, key, when, Cause::Drained);
        }
    }

    /// A second passed: the hard limit, and a gpu that is stuck beyond it.
    pub fn gpu_pulse(&mut self, worker: usize) {
        let now = self.now;
        let of = &mut self.workers[worker];
        let Some(run) = of.run.clone() else { return };
        let Some(entry) = of.agent.table.entry(run.key) else {
            // A hung gpu whose attempt was dropped: the watchdog ends the process.
            if matches!(run.at, At::Hung) {
                self.kill(worker, 1_000);
            }
            return;
        };
        let limit = entry.work.order.hard_limit.0;
        let worked = now - run.since;
        if worked > limit + 60_000 && matches!(run.at, At::Hung) {
            self.kill(worker, 1_000);
        } else if worked > limit {
            self.stop_attempt(worker, run.key, StopWhen::Now, Cause::Timeout);
        }
    }

    // --- inputs ---

    /// An input has arrived.
    pub fn fetched(&mut self, conn: u64, artifact: ArtifactId) {
        let Some(worker) = self.conns.get(&conn).map(|conn| conn.worker) else { return };
        self.workers[worker].cache.insert(artifact);
        if let Some(GpuRun { at: At::Fetching(lacks), .. }) = &mut self.workers[worker].run {
            lacks.retain(|lack| *lack != artifact);
        }
        self.gpu_goes_on(worker);
    }

    /// The store does not have an input.
    pub fn not_fetched(&mut self, worker: usize, artifact: ArtifactId) {
        let Some(run) = &self.workers[worker].run else { return };
        if matches!(&run.at, At::Fetching(lacks) if lacks.contains(&artifact)) {
            let key = run.key;
            self.gpu_failed(worker, key, Cause::ArtifactMissing);
        }
    }

    /// A new connection: what was asked for on the old one is asked for again.
    pub fn fetch_again(&mut self, worker: usize) {
        let Some(GpuRun { at: At::Fetching(lacks), .. }) = self.workers[worker].run.clone() else {
            return;
        };
        for artifact in lacks {
            self.say(worker, &FromWorker::Fetch(artifact));
        }
    }
}

fn failed(cause: Cause, gpu: u64) -> Report {
    Report::Failed { cause, detail: String::new(), gpu: Millis(gpu) }
}

fn step_of(role: Role) -> u32 {
    if let Role::Latents { step } = role { step } else { 0 }
}
