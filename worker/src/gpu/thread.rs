//! The gpu thread: takes one attempt after the other and runs its stage, from its input artifacts to its
//! acknowledged outputs.
//!
//! A plain thread that may block; it lives as long as the process, and no tensor leaves it. It speaks to the
//! link and to `GpuActor` by casts, and waits only for artifacts.

use super::attempt::{Attempt, Progress, Report};
use super::courier::{Courier, CourierError, Pending};
use super::pace::{Known, Pace};
use super::segments::Segments;
use super::{GpuMsg, OpenEngine};
use crate::engine::{ClipSink, Ended, Engine, EngineError, Observer, Piece};
use crate::finish::{
    ClipMarks, FarmReader, FinishError, FinishedClip, FinishedFile, Finisher, Sealing, Waiting,
};
use crate::link::LinkMsg;
use crate::link::stream::Payload;
use crate::metrics::Metrics;
use crate::segment::{self, SegmentSink};
use ractor::ActorRef;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use zoetrope_mark::picture::Strength;
use zoetrope_protocol::Stage;
use zoetrope_protocol::clip::{ClipShape, chunk_range};
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts, Role};
use zoetrope_protocol::mark::{DraftReading, SOUND_ALG};
use zoetrope_protocol::wire::{Phase, StopWhen};

/// The stack of the thread: libtorch's operators recurse little, but tokenizers' regular expressions do.
const STACK_BYTES: usize = 8 << 20;

/// Why an attempt ended without its last artifact.
struct Failure {
    cause: Cause,
    detail: String,
    /// It may be the end of a child, the encoder or a reader, that others can stop.
    of_child: bool,
}

impl Failure {
    fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Failure { cause, detail: detail.into(), of_child: false }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let cause = match &error {
            EngineError::OutOfMemory { .. } => Cause::OutOfMemory,
            EngineError::BadInput(_) => Cause::ArtifactMissing,
            EngineError::Failed { .. } | EngineError::Sink(_) => Cause::EngineError,
        };
        let of_child = matches!(error, EngineError::Sink(_));
        Failure { of_child, ..Failure::new(cause, error.to_string()) }
    }
}

impl From<CourierError> for Failure {
    fn from(error: CourierError) -> Self {
        Failure::new(error.cause(), error.to_string())
    }
}

impl From<FinishError> for Failure {
    fn from(error: FinishError) -> Self {
        let cause = match &error {
            FinishError::Check(_) | FinishError::Unmarked(_) => Cause::CheckFailed,
            _ => Cause::EngineError,
        };
        let of_child = matches!(error, FinishError::Encoder(_) | FinishError::Check(_));
        Failure { of_child, ..Failure::new(cause, error.to_string()) }
    }
}

struct Made {
    outputs: Vec<ArtifactRef>,
    facts: Option<ClipFacts>,
}

/// All that lives on the thread.
pub struct GpuThread {
    gpu: ActorRef<GpuMsg>,
    link: ActorRef<LinkMsg>,
    courier: Arc<Courier>,
    open: OpenEngine,
    finisher: Finisher,
    metrics: Arc<Metrics>,
    /// What is known of checkpoints, and of which shape.
    known: Option<(ClipShape, Known)>,
}

/// Tells the actor if the thread goes down by a panic.
struct Alarm(ActorRef<GpuMsg>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cast(GpuMsg::ThreadDied).ok(); // a dead actor has been noticed by its supervisor
        }
    }
}

impl GpuThread {
    /// The parts of the thread, not started yet.
    pub fn new(
        gpu: ActorRef<GpuMsg>,
        link: ActorRef<LinkMsg>,
        courier: Courier,
        open: OpenEngine,
        finisher: Finisher,
        metrics: Arc<Metrics>,
    ) -> Self {
        let courier = Arc::new(courier);
        GpuThread { gpu, link, courier, open, finisher, metrics, known: None }
    }

    /// Starts it. It ends when the sender is dropped.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(self) -> std::io::Result<SyncSender<Arc<Attempt>>> {
        let (sender, receiver) = sync_channel(1);
        std::thread::Builder::new()
            .name("gpu".into())
            .stack_size(STACK_BYTES)
            .spawn(move || self.serve(&receiver))?;
        Ok(sender)
    }

    fn serve(mut self, attempts: &Receiver<Arc<Attempt>>) {
        let _alarm = Alarm(self.gpu.clone());
        // At most one model is open: a second one would not fit beside it.
        let mut engine: Option<(String, Box<dyn Engine>)> = None;
        while let Ok(attempt) = attempts.recv() {
            attempt.begin();
            let result = self.attempt(&attempt, &mut engine);
            let gpu = attempt.worked_ms();
            let device = result.as_ref().err().filter(|failure| is_device_error(failure));
            let device = device.map(|failure| failure.detail.clone());
            if result.as_ref().is_err_and(|failure| failure.cause == Cause::OutOfMemory) {
                // The retry is to find the device empty.
                engine = None;
            }
            let report = match result {
                Ok(Made { outputs, facts }) => Report::Finished { outputs, facts, gpu },
                Err(Failure { cause, detail, of_child }) => {
                    // Who ends a worker, as a service manager does, may have ended its children too.
                    let drained = of_child && attempt.is_leaving();
                    let cause = match (cause, attempt.stopped()) {
                        _ if drained => Cause::Drained,
                        // Whatever was given up, it was for this.
                        (Cause::Ended, Some(stop)) => stop.cause,
                        _ => cause,
                    };
                    tracing::info!(shard = %attempt.order.shard, %cause, detail, "an attempt ended");
                    Report::Failed { cause, detail, gpu }
                }
            };
            // If an actor is dead, the process is ending.
            self.link.cast(LinkMsg::Ended { key: attempt.key, report }).ok();
            if let Some(detail) = device {
                // Not even dropping a tensor works any more; the process takes them down with it.
                std::mem::forget(engine);
                self.gpu.cast(GpuMsg::DeviceFailed(detail)).ok();
                return;
            }
            self.gpu.cast(GpuMsg::Idle(attempt.key)).ok();
        }
    }

    fn attempt(
        &mut self,
        attempt: &Arc<Attempt>,
        engine: &mut Option<(String, Box<dyn Engine>)>,
    ) -> Result<Made, Failure> {
        check_stop(attempt)?;
        self.link.cast(LinkMsg::Began(attempt.key)).ok(); // as above
        let model = &attempt.order.spec.model;
        if engine.as_ref().is_none_or(|(open, _)| open != model) {
            drop(engine.take());
            attempt.show(Progress { phase: Phase::Loading, done: 0, total: 1 });
            attempt.loading(true);
            let opened = (self.open)(model);
            attempt.loading(false);
            *engine = Some((model.clone(), opened.map_err(own)?));
            check_stop(attempt)?;
        }
        let Some((_, engine)) = engine else {
            return Err(Failure::new(Cause::Refused, "no engine"));
        };
        let engine = engine.as_mut();
        match attempt.order.shard.stage {
            Stage::Encode => self.encode(attempt, engine),
            Stage::Denoise => self.denoise(attempt, engine),
            Stage::Finish => self.finish(attempt, engine),
            Stage::Decode => self.decode(attempt, engine),
        }
    }

    fn watch<'a>(&'a self, attempt: &'a Attempt) -> Watch<'a> {
        let shape = attempt.order.spec.shape();
        let known = self.known.filter(|(of, _)| *of == shape).map(|(_, known)| known);
        Watch {
            pace: Pace::new(attempt.order.checkpoint_every, known.unwrap_or_default()),
            pending: None,
            waited: Duration::ZERO,
            attempt,
            courier: &self.courier,
            metrics: &self.metrics,
            loading: None,
            step_began: Instant::now(),
            failure: None,
        }
    }

    fn encode(&self, attempt: &Attempt, engine: &mut dyn Engine) -> Result<Made, Failure> {
        let mut watch = self.watch(attempt);
        let prompt = engine.encode(&attempt.order.spec, &mut watch);
        watch.settle()?;
        let Some(prompt) = prompt.map_err(own)? else { return Err(stopped(attempt)) };
        if attempt.stops_now() {
            return Err(stopped(attempt));
        }
        let sent = self.courier.store(attempt, Role::Prompt, prompt)?;
        sending(attempt, 0, 1);
        Ok(Made { outputs: vec![sent.wait(attempt)?], facts: None })
    }

    fn denoise(&mut self, attempt: &Attempt, engine: &mut dyn Engine) -> Result<Made, Failure> {
        let order = &attempt.order;
        let prompt = input(attempt, |role| role == Role::Prompt)?;
        let latents = order
            .inputs
            .iter()
            .filter_map(|input| match input.role {
                Role::Latents { step } => Some((step, *input)),
                _ => None,
            })
            .max_by_key(|(step, _)| *step);
        let prompt = self.courier.fetch(attempt, prompt)?;
        let resume = match latents {
            Some((_, latents)) => Some(self.courier.fetch(attempt, latents)?),
            None => None,
        };
        check_stop(attempt)?;
        let mut watch = self.watch(attempt);
        let result = engine.denoise(&order.spec, &prompt, resume.as_deref(), &mut watch);
        let settled = watch.settle();
        self.known = Some((order.spec.shape(), watch.pace.known()));
        settled?;
        match result? {
            (Ended::Done, Some(latents)) => {
                let role = Role::Latents { step: order.spec.steps };
                let sent = self.courier.store(attempt, role, latents)?;
                sending(attempt, 0, 1);
                Ok(Made { outputs: vec![sent.wait(attempt)?], facts: None })
            }
            (Ended::Done, None) => Err(no_output()),
            (Ended::Stopped, _) => Err(stopped(attempt)),
        }
    }

    /// Decodes the chunks of this shard whose segments are not stored yet, and stores each as it is whole.
    fn decode(&self, attempt: &Arc<Attempt>, engine: &mut dyn Engine) -> Result<Made, Failure> {
        let (order, spec) = (&attempt.order, &attempt.order.spec);
        let (chunks, index) = (spec.shape().chunks(), u32::from(order.shard.index));
        let range = chunk_range(chunks, index, order.shards.into());
        let there = |chunk: &u32| {
            order.inputs.iter().any(|input| input.role == Role::Segment { chunk: *chunk })
        };
        let Some(first) = range.clone().find(|chunk| !there(chunk)) else {
            return Ok(Made { outputs: Vec::new(), facts: None });
        };
        let latents = self.final_latents(attempt)?;
        let mut watch = self.watch(attempt);
        let piece = Piece { chunks: first..range.end, sound: spec.audio && first == 0 };
        let mut segments = Segments::new(attempt, &self.courier);
        let began = Instant::now();
        let mut keep = |chunk, bytes| segments.keep(chunk, bytes);
        let mut sink = SegmentSink::new(spec, engine.weights(), first, &mut keep);
        let result = engine.decode_piece(spec, &latents, &piece, &mut sink, &mut watch);
        // What is on its way is worth waiting for, unless nobody wants it: then what was made is not whole.
        let stop = attempt.stops_now();
        let outputs = segments.settle(stop);
        match result {
            Err(error) if !matches!(error, EngineError::Sink(_)) => return Err(error.into()),
            Ok(Ended::Stopped) => return Err(stopped(attempt)),
            _ if stop => return Err(stopped(attempt)),
            _ => {}
        }
        // A segment that is not stored says why its sink failed.
        let outputs = outputs?;
        result?;
        self.metrics.finished_part("decode", began.elapsed());
        Ok(Made { outputs, facts: None })
    }

    fn final_latents(&self, attempt: &Attempt) -> Result<Vec<u8>, Failure> {
        let step = attempt.order.spec.steps;
        let latents = input(attempt, |role| role == Role::Latents { step })?;
        let latents = self.courier.fetch(attempt, latents)?;
        check_stop(attempt)?;
        Ok(latents)
    }

    /// Pours sound and frames into the clip: from the segments if others have decoded them, else from the latents.
    fn pour(
        &self,
        attempt: &Attempt,
        engine: &mut dyn Engine,
        sink: &mut dyn ClipSink,
    ) -> Result<(), Failure> {
        let (spec, inputs) = (&attempt.order.spec, &attempt.order.inputs);
        let mut watch = self.watch(attempt);
        if !inputs.iter().any(|input| matches!(input.role, Role::Segment { .. })) {
            let latents = self.final_latents(attempt)?;
            let result = engine.decode(spec, &latents, sink, &mut watch);
            watch.settle()?;
            return if result? == Ended::Stopped { Err(stopped(attempt)) } else { Ok(()) };
        }
        let chunks = spec.shape().chunks();
        for chunk in 0..chunks {
            if watch.progress(Phase::Decoding, chunk, chunks).is_break() {
                return Err(stopped(attempt));
            }
            let segment = input(attempt, |role| role == Role::Segment { chunk })?;
            let bytes = self.courier.fetch(attempt, segment)?;
            segment::pour(spec, engine.weights(), chunk, &bytes, sink)?;
        }
        Ok(())
    }

    fn finish(&self, attempt: &Arc<Attempt>, engine: &mut dyn Engine) -> Result<Made, Failure> {
        let clip = match self.make(attempt, engine, Strength::Normal)? {
            Err(error @ FinishError::Unmarked(_)) => {
                check_stop(attempt)?;
                tracing::info!(shard = %attempt.order.shard, %error, "marked once more, and stronger");
                self.make(attempt, engine, Strength::Strong)?
            }
            made => made,
        };
        check_stop(attempt)?;
        let clip = clip?;
        let began = Instant::now();
        let send = |(role, file): (Role, &FinishedFile)| {
            let artifact =
                ArtifactRef { role, artifact: file.artifact, bytes: file.payload.bytes() };
            let payload: Payload = file.payload.clone();
            self.courier.send(attempt, artifact, payload)
        };
        // What is said and shown of the clip goes ahead; what it is judged by must be there before it is signed.
        let beside = [Role::Thumbnail, Role::Spritesheet, Role::Marks];
        let files = clip.files().into_iter().filter(|(role, _)| beside.contains(role));
        let mut under_way = files.map(send).collect::<Result<Vec<Pending>, CourierError>>()?;
        let sealing = self.seal(attempt, clip)?;
        attempt.finishing();
        let (told, wanted) = (|| attempt.finishing(), || attempt.stopped().is_none());
        // Whoever judges has limits of its own, and is not the gpu.
        let waiting = Waiting { told: &told, wanted: &wanted };
        let scored = attempt.waiting(|| sealing.scored(waiting));
        check_stop(attempt)?;
        let sealing = scored?;
        attempt.finishing();
        if let Some((part, took)) = sealing.clip().moderated() {
            self.metrics.finished_part(part, took);
        }
        let scores = sealing.clip().scores.as_ref();
        let scores = scores.map(|scores| send((Role::Scores, scores))).transpose()?;
        let scores = scores.map(|pending| pending.wait(attempt)).transpose()?;
        check_stop(attempt)?;
        attempt.finishing();
        let (unsigned, manifest) = (&sealing.clip().clip, sealing.manifest());
        let signature = self.courier.sign(attempt, unsigned, manifest, scores)?;
        let clip = sealing.complete(&signature)?;
        self.metrics.finished_part("sign", began.elapsed());
        check_stop(attempt)?;
        let began = Instant::now();
        under_way.push(send((Role::Clip, &clip.clip))?);
        let total = u32::try_from(under_way.len()).unwrap_or(u32::MAX);
        let mut outputs: Vec<ArtifactRef> = scores.into_iter().collect();
        for (done, pending) in (0..total).zip(under_way) {
            sending(attempt, done, total);
            outputs.push(pending.wait(attempt)?);
        }
        // In the order of their roles, whichever went first.
        outputs.sort_by_key(|output: &ArtifactRef| output.role);
        self.metrics.finished_part("store", began.elapsed());
        Ok(Made { outputs, facts: Some(clip.facts) })
    }

    /// Makes a clip with marks of this strength.
    fn make(
        &self,
        attempt: &Arc<Attempt>,
        engine: &mut dyn Engine,
        strength: Strength,
    ) -> Result<Result<FinishedClip, FinishError>, Failure> {
        let spec = &attempt.order.spec;
        let marks = attempt.order.mark.as_ref().map(|order| ClipMarks::new(order, strength));
        let of = attempt.clone();
        let wanted = Arc::new(move || of.stopped().is_none());
        let mut sink = self.finisher.begin_while(spec, marks.transpose()?, wanted)?;
        let began = Instant::now();
        match self.pour(attempt, engine, sink.as_mut()) {
            // The sink takes nothing more of a clip that is not wanted.
            Err(failure) if failure.of_child && attempt.stopped().is_some() => {
                return Err(stopped(attempt));
            }
            poured => poured?,
        }
        self.metrics.finished_part("decode", began.elapsed());
        check_stop(attempt)?;
        attempt.finishing();
        let made = sink.close(Some(&Handed { attempt, courier: &self.courier }));
        for (part, took) in made.iter().flat_map(|clip| &clip.parts) {
            self.metrics.finished_part(part, *took);
        }
        Ok(made)
    }

    /// Writes the manifest into the finished file, last of all: a byte that changes later breaks the signature.
    fn seal(&self, attempt: &Attempt, clip: FinishedClip) -> Result<Sealing, Failure> {
        let mut terms = self.courier.terms(attempt)?;
        attempt.finishing();
        if !clip.sound_is_marked {
            // The manifest names no mark that is not there.
            terms.marks.retain(|mark| mark.alg != SOUND_ALG);
        }
        Ok(Sealing::begin(clip, &terms, self.finisher.temp())?)
    }
}

/// Hands finished clips to the farm, to have their marks read.
struct Handed<'a> {
    attempt: &'a Attempt,
    courier: &'a Courier,
}

impl FarmReader for Handed<'_> {
    fn hand_over(&self, clip: &FinishedFile) -> Box<dyn FnOnce() -> DraftReading + '_> {
        Box::new(self.courier.draft(self.attempt, clip.artifact, clip.payload.clone()))
    }

    fn went_on(&self) {
        self.attempt.finishing();
    }

    fn wants(&self) -> bool {
        self.attempt.stopped().is_none()
    }
}

fn sending(attempt: &Attempt, done: u32, total: u32) {
    attempt.show(Progress { phase: Phase::Sending, done, total });
}

fn input(attempt: &Attempt, wanted: impl Fn(Role) -> bool) -> Result<ArtifactRef, Failure> {
    attempt.order.inputs.iter().find(|input| wanted(input.role)).copied().ok_or_else(|| {
        let detail = format!("the order of {} lacks an input", attempt.order.shard.stage);
        Failure::new(Cause::ArtifactMissing, detail)
    })
}

/// A failure where there is no input that could be made again: only a prompt or a folder that the engine cannot take.
fn own(error: EngineError) -> Failure {
    match error {
        EngineError::BadInput(_) => Failure::new(Cause::EngineError, error.to_string()),
        error => error.into(),
    }
}

fn no_output() -> Failure {
    Failure::new(Cause::EngineError, "the engine ended without its output")
}

fn stopped(attempt: &Attempt) -> Failure {
    match attempt.stopped() {
        Some(stop) => Failure::new(stop.cause, format!("stopped: {}", stop.cause)),
        None => no_output(),
    }
}

fn check_stop(attempt: &Attempt) -> Result<(), Failure> {
    if attempt.stopped().is_some() { Err(stopped(attempt)) } else { Ok(()) }
}

/// After an error of the device itself, CUDA work fails until the process is started again.
fn is_device_error(failure: &Failure) -> bool {
    let marks =
        ["CUDA error", "CUDNN_STATUS", "cuDNN error", "CUBLAS_STATUS", "device-side assert"];
    failure.cause == Cause::EngineError && marks.iter().any(|mark| failure.detail.contains(mark))
}

/// Watches a stage for the farm: shows progress, stores checkpoints, and stops where it was told to.
struct Watch<'a> {
    attempt: &'a Attempt,
    courier: &'a Courier,
    metrics: &'a Metrics,
    pace: Pace,
    /// The checkpoint that is on its way to the store beside the step in hand.
    pending: Option<Pending>,
    /// Time that the thread waited for it, since the last checkpoint was made.
    waited: Duration,
    loading: Option<Instant>,
    step_began: Instant,
    failure: Option<CourierError>,
}

impl Watch<'_> {
    /// What went wrong in the observer itself, which the engine only saw as a stop.
    fn settle(&mut self) -> Result<(), Failure> {
        match self.failure.take() {
            Some(CourierError::GivenUp) if self.attempt.stopped().is_some() => {
                Err(stopped(self.attempt))
            }
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Waits for the checkpoint that is on its way.
    fn settle_pending(&mut self) -> Result<(), CourierError> {
        if let Some(pending) = self.pending.take() {
            self.pace.arrived(pending.arrive(self.attempt)?);
        }
        Ok(())
    }

    /// The same, where the render can go on without: an attempt that was given up cannot.
    fn settle_or_go_on(&mut self) -> Result<(), CourierError> {
        match self.settle_pending() {
            Err(error) if error != CourierError::GivenUp => {
                let shard = self.attempt.order.shard;
                tracing::warn!(%shard, %error, "a checkpoint is not stored, and the render goes on");
                Ok(())
            }
            settled => settled,
        }
    }

    /// Sends the latents of a step on their way, and waits for the store where the next step must.
    fn checkpoint(&mut self, step: u32, latents: Vec<u8>, wait: bool) -> Result<(), CourierError> {
        self.pending = Some(self.courier.checkpoint(self.attempt, step, latents)?);
        if wait { self.settle_pending() } else { Ok(()) }
    }

    /// Stores the latents of a step if it is time, and notes what that cost. Says whether they are in the store.
    fn keep(
        &mut self,
        step: u32,
        took: Duration,
        stopping: bool,
        latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<Result<bool, CourierError>, EngineError> {
        let began = Instant::now();
        // One at a time: the chain grows in the order of the steps.
        let settled =
            if self.pace.is_own() { self.settle_or_go_on() } else { self.settle_pending() };
        if let Err(error) = settled {
            return Ok(Err(error));
        }
        if !stopping && !self.pace.due(step, took) {
            self.waited += began.elapsed();
            return Ok(Ok(false));
        }
        let bytes = latents()?;
        let wait = stopping || self.pace.waits(took);
        let kept = self.checkpoint(step, bytes, wait).map(|()| wait);
        let cost = began.elapsed() + std::mem::take(&mut self.waited);
        self.pace.made(step, cost);
        self.metrics.checkpoint(&self.attempt.order.spec.model, cost);
        Ok(kept)
    }
}

impl Observer for Watch<'_> {
    fn progress(&mut self, phase: Phase, done: u32, total: u32) -> ControlFlow<()> {
        self.attempt.show(Progress { phase, done, total });
        self.attempt.loading(phase == Phase::Loading);
        if phase == Phase::Loading {
            self.loading.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.loading.take() {
            self.metrics.loaded(&self.attempt.order.spec.model, since.elapsed());
            self.step_began = Instant::now();
        }
        let stop = match self.attempt.stopped().map(|stop| stop.when) {
            None => false,
            Some(StopWhen::Now) => true,
            // A denoising step goes on to its own boundary; elsewhere every chunk is one.
            Some(StopWhen::AfterStep) => self.attempt.order.shard.stage != Stage::Denoise,
        };
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn step_done(
        &mut self,
        step: u32,
        total: u32,
        latents: &mut dyn FnMut() -> Result<Vec<u8>, EngineError>,
    ) -> Result<ControlFlow<()>, EngineError> {
        let took = self.step_began.elapsed();
        self.attempt.note_step(took);
        self.metrics.step(&self.attempt.order.spec.model, took);
        self.attempt.show(Progress { phase: Phase::Denoising, done: step, total });
        if self.attempt.stops_now() {
            return Ok(ControlFlow::Break(()));
        }
        if step >= total {
            // The last latents are the output itself: stopping here would throw a whole render away, and whether they can be
            // stored is seen when they are.
            self.failure = self.settle_or_go_on().err();
            return Ok(match self.failure {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            });
        }
        let stopping = self.attempt.stopped().is_some();
        let stored = match self.keep(step, took, stopping, latents)? {
            Ok(stored) => stored,
            Err(error) => {
                self.failure = Some(error);
                return Ok(ControlFlow::Break(()));
            }
        };
        // The next step begins only now: a kill costs at most the step in hand; or, while its latents are on a way that is short
        // beside a step, that one and a tenth of the next.
        self.step_began = Instant::now();
        // Who was told while the latents were on their way need not make another step.
        let stop = self.attempt.stopped().is_some_and(|stop| stop.when == StopWhen::Now || stored);
        Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}
