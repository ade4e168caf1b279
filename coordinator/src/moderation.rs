//! The moderation sidecar: judges the words of jobs, and finished clips by the record of their frames.
//!
//! [`Desk`] has the engine and does the work on blocking threads within limits; the door asks it directly, the
//! dispatch actor through [`ModerationActor`]. Never decides what becomes of a job; an error is never a pass.

use crate::dispatch::DispatchMsg;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use futures::TryStreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use zoetrope_moderation::{Engine, EngineError, Policy};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::metric;
use zoetrope_protocol::moderation::{Audience, FRAMES_MAX, FrameRecord, Verdict};

/// Judgements that run at a time: each takes one core for some ten milliseconds.
const AT_ONCE: usize = 2;
/// Judgements that may wait for that: at 20 ms each a second of work for each core, far below any timeout.
const WAITING_MAX: usize = 1_000;
/// The longest prompt has some 250 pieces of 20 ms.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(25);
/// Nets that are missing are looked for again after this time.
const LOAD_AGAIN: Duration = Duration::from_secs(30);
/// Verdicts on texts that are remembered: one takes some hundred bytes, and load tests send the same prompt.
const REMEMBERED: usize = 4_096;
/// The largest record: 1,024 frames of 24 bytes at most.
const RECORD_BYTES_MAX: u64 = (FRAMES_MAX as u64) * 32 + 4_096;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Unjudged {
    /// The nets are not loaded.
    #[error("moderation is not available: its nets are not loaded")]
    NotLoaded,
    /// Too much at once, or it took too long.
    #[error("moderation did not answer in time")]
    Late,
    /// The engine says why.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

type Key = (Audience, ArtifactId);

#[derive(Default)]
struct Remembered {
    verdicts: HashMap<Key, Verdict>,
    order: VecDeque<Key>,
}

/// Who judges. Shared by the sidecar and the door.
pub struct Desk {
    policy: Arc<Policy>,
    engine: RwLock<Option<Arc<Engine>>>,
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    remembered: Mutex<Remembered>,
}

impl Desk {
    /// A desk without an engine yet.
    pub fn new(policy: Policy) -> Desk {
        Desk {
            policy: Arc::new(policy),
            engine: RwLock::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            remembered: Mutex::default(),
        }
    }

    /// The policy that it judges by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The engine, once it is loaded.
    pub fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, engine: Engine) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(engine));
    }

    /// Judges texts that belong together.
    ///
    /// # Errors
    /// `Unjudged`, which is never a pass.
    pub async fn texts(&self, texts: Vec<String>, audience: Audience) -> Result<Verdict, Unjudged> {
        let key = (audience, key_of(&texts));
        if let Some(verdict) = self.remembered(&key) {
            return Ok(verdict);
        }
        let verdict = self
            .run(move |engine| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                engine.judge_texts(&texts, audience)
            })
            .await?;
        self.remember(key, verdict.clone());
        Ok(verdict)
    }

    /// Judges an image.
    ///
    /// # Errors
    /// `Unjudged`; `Engine` with an `Image` error for one that is refused.
    pub async fn image(&self, bytes: Vec<u8>, audience: Audience) -> Result<Verdict, Unjudged> {
        self.run(move |engine| engine.judge_image(&bytes, audience)).await
    }

    /// Runs a judgement on a blocking thread. One that takes too long keeps its place until it ends, so stuck
    /// ones cannot pile up.
    async fn run<T: Send + 'static>(
        &self,
        judge: impl FnOnce(&Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, Unjudged> {
        let engine = self.engine().ok_or(Unjudged::NotLoaded)?;
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| Unjudged::Late)?;
        let permits = self.permits.clone();
        let work = async move {
            let permit = permits.acquire_owned().await.map_err(|_| Unjudged::Late)?;
            let task = tokio::task::spawn_blocking(move || {
                let _held = (permit, place);
                judge(&engine)
            });
            // A judgement that panicked gave no verdict.
            Ok(task.await.map_err(|_| Unjudged::Late)??)
        };
        tokio::time::timeout(JUDGE_TIMEOUT, work).await.map_err(|_| Unjudged::Late)?
    }

    fn remembered(&self, key: &Key) -> Option<Verdict> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.verdicts.get(key).cloned()
    }

    fn remember(&self, key: Key, verdict: Verdict) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.verdicts.insert(key, verdict).is_none() {
            remembered.order.push_back(key);
        }
        if remembered.order.len() > REMEMBERED
            && let Some(oldest) = remembered.order.pop_front()
        {
            remembered.verdicts.remove(&oldest);
        }
    }
}

fn key_of(texts: &[String]) -> ArtifactId {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    }
    ArtifactId(digest.finalize().into())
}

/// Why a clip has no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipFault {
    /// The store or the engine does not answer: another try may help.
    Down,
    /// What the worker sent is no evidence for this clip.
    NoEvidence,
}

/// Judges for the dispatch actor.
pub struct ModerationActor;

/// What the moderation sidecar is told.
pub enum ModerationMsg {
    /// Load the nets, if that was not done yet.
    Load,
    /// The nets are loaded, or why not.
    Loaded(Result<(), String>),
    /// Judge a job's words; answered with `DispatchMsg::TextsJudged`.
    JudgeTexts {
        /// The job.
        job: JobId,
        /// Its words.
        texts: Vec<String>,
        /// For whom its clip is.
        audience: Audience,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Judge a clip by the record of its frames; answered with `DispatchMsg::ClipJudged`.
    JudgeClip {
        /// The job.
        job: JobId,
        /// The finish attempt.
        fence: Fence,
        /// The record.
        record: ArtifactRef,
        /// The clip that it must be about.
        clip: ArtifactId,
        /// Frames of the clip.
        frames: u32,
        /// For whom the clip is.
        audience: Audience,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
}

/// What the moderation sidecar needs.
#[derive(Clone)]
pub struct ModerationArguments {
    /// Who judges.
    pub desk: Arc<Desk>,
    /// The folder of the nets.
    pub models: PathBuf,
    /// The store, where records are.
    pub store: Arc<Store>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Who is told that it can judge.
    pub dispatch: ActorRef<DispatchMsg>,
}

/// The sidecar's own.
pub struct ModerationState {
    arguments: ModerationArguments,
}

#[ractor::async_trait]
impl Actor for ModerationActor {
    type Msg = ModerationMsg;
    type State = ModerationState;
    type Arguments = ModerationArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ModerationMsg>,
        arguments: ModerationArguments,
    ) -> Result<ModerationState, ActorProcessingErr> {
        myself.cast(ModerationMsg::Load)?;
        Ok(ModerationState { arguments })
    }

    async fn handle(
        &self,
        myself: ActorRef<ModerationMsg>,
        message: ModerationMsg,
        state: &mut ModerationState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ModerationMsg::Load => state.load(myself),
            ModerationMsg::Loaded(result) => state.loaded(myself, result),
            ModerationMsg::JudgeTexts { job, texts, audience, back } => {
                state.judge_texts(job, texts, audience, back);
            }
            ModerationMsg::JudgeClip { job, fence, record, clip, frames, audience, back } => {
                state.judge_clip(job, fence, record, (clip, frames), audience, back);
            }
        }
        Ok(())
    }
}

impl ModerationState {
    fn load(&self, myself: ActorRef<ModerationMsg>) {
        let ModerationArguments { desk, models, .. } = self.arguments.clone();
        tokio::task::spawn_blocking(move || {
            let result = match desk.engine() {
                Some(_) => Ok(()),
                None => Engine::load(desk.policy.clone(), &models)
                    .map(|engine| desk.set(engine))
                    .map_err(|error| error.to_string()),
            };
            // A sidecar that is gone is started again and asks again.
            drop(myself.cast(ModerationMsg::Loaded(result)));
        });
    }

    fn loaded(&self, myself: ActorRef<ModerationMsg>, result: Result<(), String>) {
        match result {
            Ok(()) => {
                let up = DispatchMsg::ModerationUp(myself);
                // Without a dispatch actor the process ends.
                drop(self.arguments.dispatch.cast(up));
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "moderation is not available: jobs wait until its nets are there"
                );
                myself.send_after(LOAD_AGAIN, || ModerationMsg::Load);
            }
        }
    }

    fn judge_texts(
        &self,
        job: JobId,
        texts: Vec<String>,
        audience: Audience,
        back: ActorRef<DispatchMsg>,
    ) {
        let ModerationArguments { desk, metrics, .. } = self.arguments.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let verdict = match desk.texts(texts, audience).await {
                Ok(verdict) => Some(verdict),
                Err(error) => {
                    tracing::warn!(%job, %error, "a job's words could not be judged");
                    None
                }
            };
            count(&metrics, verdict.is_some(), began);
            // Without a dispatch actor the process ends; the next start asks again.
            drop(back.cast(DispatchMsg::TextsJudged { job, verdict }));
        });
    }

    fn judge_clip(
        &self,
        job: JobId,
        fence: Fence,
        record: ArtifactRef,
        (clip, frames): (ArtifactId, u32),
        audience: Audience,
        back: ActorRef<DispatchMsg>,
    ) {
        let ModerationArguments { desk, metrics, store, .. } = self.arguments.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let result = match fetch(&store, record).await {
                Ok(record) => {
                    let judged =
                        move |engine: &Engine| engine.judge_clip(&record, clip, frames, audience);
                    desk.run(judged).await.map_err(|error| {
                        tracing::warn!(%job, %error, "a clip could not be judged");
                        match error {
                            Unjudged::Engine(EngineError::Record(_)) => ClipFault::NoEvidence,
                            _ => ClipFault::Down,
                        }
                    })
                }
                Err(fault) => Err(fault),
            };
            count(&metrics, result.is_ok(), began);
            drop(back.cast(DispatchMsg::ClipJudged { job, fence, result }));
        });
    }
}

fn count(metrics: &Metrics, ok: bool, began: Instant) {
    let outcome = if ok { "ok" } else { "error" };
    metrics.count(&metric::SIDECAR_REQUESTS, &["moderation", outcome]);
    metrics.observe(&metric::SIDECAR_DURATION, &["moderation"], began.elapsed());
}

/// The record, whose bytes match its address.
async fn fetch(store: &Store, record: ArtifactRef) -> Result<FrameRecord, ClipFault> {
    if record.bytes > RECORD_BYTES_MAX {
        return Err(ClipFault::NoEvidence);
    }
    let fault = |error: StoreError| {
        tracing::warn!(%error, "a record of sampled frames cannot be read");
        match error {
            StoreError::Failed(_) | StoreError::Io(_) => ClipFault::Down,
            _ => ClipFault::NoEvidence,
        }
    };
    let read = async {
        let mut stream = store.get(&record.artifact, None).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > RECORD_BYTES_MAX {
                break;
            }
        }
        Ok(bytes)
    };
    let read = tokio::time::timeout(JUDGE_TIMEOUT, read).await.map_err(|_| ClipFault::Down)?;
    let bytes = read.map_err(fault)?;
    if ArtifactId::of(&bytes) != record.artifact {
        return Err(ClipFault::NoEvidence);
    }
    codec::decode(&bytes).map_err(|_| ClipFault::NoEvidence)
}
