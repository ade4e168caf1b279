//! The moderation sidecar: judges the words of jobs, and finished clips by the record of their frames and sound.
//!
//! [`Desk`] has the engine and does the work on blocking threads within limits; the door asks it directly, the
//! dispatch actor through [`ModerationActor`]. Never decides what becomes of a job; an error is never a pass.

mod places;
pub mod remote;
mod rescan;
pub mod settings;

use crate::dispatch::DispatchMsg;
use crate::dispatch::moderate::By;
use crate::jobs::rescan::PolicyTexts;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use places::{Place, Places};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use remote::{Remote, RemoteError};
use rescan::{Rescans, judge_anew};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::{self, Asked, Scores};
use zoetrope_moderation::{Engine, EngineError, Policy};
use zoetrope_protocol::codec;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis, TenantId};
use zoetrope_protocol::job::ArtifactRef;
use zoetrope_protocol::metric;
use zoetrope_protocol::moderation::{
    Audience, FRAMES_MAX, FrameRecord, UTTERANCES_MAX, Verdict, WORDS_BYTES_MAX,
};

/// The longest texts have 700 pieces of 20 ms.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(25);
/// Texts of fewer characters together always fit: their readings have less than 700 pieces.
const FIT_CHARS: usize = 1_000;
/// A create waits so long for a place to find out whether its texts fit: it is to be answered within a second.
const FIT_WAIT: Duration = Duration::from_millis(500);
/// Nets that are missing are looked for again after this time.
const LOAD_AGAIN: Duration = Duration::from_secs(30);
/// Verdicts on texts that are remembered: one takes some hundred bytes, and load tests send the same prompt.
const REMEMBERED: usize = 4_096;
/// The largest record: 1,024 frames of 24 bytes at most, and all utterances at their longest.
const RECORD_BYTES_MAX: u64 =
    (FRAMES_MAX * 32 + UTTERANCES_MAX * (WORDS_BYTES_MAX + 32)) as u64 + 4_096;

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
    /// The remote provider gave no answer.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Who wants a judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A request of this tenant, for itself.
    Door(TenantId),
    /// A job of this tenant, for its words or its clip.
    Job(TenantId),
    /// What is stored, to be judged anew.
    Rescan,
}

impl Asker {
    fn is_door(&self) -> bool {
        matches!(self, Asker::Door(_))
    }
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
    places: Places,
    remembered: Mutex<Remembered>,
    remote: Option<Arc<Remote>>,
}

impl Desk {
    /// A desk without an engine yet.
    pub fn new(policy: Policy) -> Desk {
        Desk::with(policy, None)
    }

    /// The same with a remote provider, which decides too: the policy gets a version of its own.
    pub fn with(policy: Policy, remote: Option<Remote>) -> Desk {
        Desk::of(policy, remote.map(Arc::new))
    }

    fn of(policy: Policy, remote: Option<Arc<Remote>>) -> Desk {
        let words = remote.as_ref().map(|remote| remote.words());
        let policy = words.iter().fold(policy, |policy, words| policy.beside(words));
        Desk {
            policy: Arc::new(policy),
            engine: RwLock::default(),
            places: Places::default(),
            remembered: Mutex::default(),
            remote,
        }
    }

    /// A desk that judges alike. What it judges takes none of the places that jobs wait for.
    ///
    /// # Errors
    /// `NotLoaded`.
    fn again(&self) -> Result<Desk, Unjudged> {
        let engine = self.engine().ok_or(Unjudged::NotLoaded)?;
        Ok(Desk {
            policy: self.policy.clone(),
            engine: RwLock::new(Some(engine)),
            places: Places::default(),
            remembered: Mutex::default(),
            remote: self.remote.clone(),
        })
    }

    /// A desk that judges by another policy, and asks the same provider. It has places of its own too. Blocks, for seconds.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn by(&self, policy: Policy, models: &Path) -> Result<Desk, EngineError> {
        let desk = Desk::of(policy, self.remote.clone());
        desk.set(Engine::load(desk.policy.clone(), models)?);
        Ok(desk)
    }

    /// The policy that it judges by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The engine, once it is loaded.
    pub fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replaces(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.replaces())
    }

    fn set(&self, engine: Engine) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(engine));
    }

    /// Judges texts that belong together.
    ///
    /// # Errors
    /// `Unjudged`, which is never a pass.
    pub async fn texts(
        &self,
        texts: Vec<String>,
        audience: Audience,
        asker: Asker,
    ) -> Result<Verdict, Unjudged> {
        let key = (audience, key_of(&texts));
        if let Some(verdict) = self.remembered(&key) {
            return Ok(verdict);
        }
        let scores = self.scores(texts, audience, asker).await?;
        let verdict = judge::text(&self.policy, audience, &scores);
        self.remember(key, verdict.clone());
        Ok(verdict)
    }

    /// What all who judge think of texts that belong together.
    async fn scores(
        &self,
        texts: Vec<String>,
        audience: Audience,
        asker: Asker,
    ) -> Result<Scores, Unjudged> {
        // Nobody is asked for an opinion that cannot be used.
        self.engine().ok_or(Unjudged::NotLoaded)?;
        let opinion = self.opinion(&texts, audience, asker).await?;
        let replaces = self.replaces();
        let mut scores = self
            .run(asker, move |engine| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                if replaces { Ok(engine.score_minors(&texts)) } else { engine.score_texts(&texts) }
            })
            .await?;
        judge::raise(&mut scores, opinion);
        Ok(scores)
    }

    /// Whether texts that belong together can be judged in full, so that one that cannot is refused at once. Not known
    /// where the nets are not loaded, or where too much else is judged: then the judgement itself finds it out.
    ///
    /// # Errors
    /// `Engine` with `TooLong`; `Late` if it was not found out.
    pub async fn fit(&self, texts: Vec<String>, asker: Asker) -> Result<(), Unjudged> {
        let chars: usize = texts.iter().map(|text| text.chars().count()).sum();
        let Some(engine) = self.engine().filter(|_| !self.replaces() && chars > FIT_CHARS) else {
            return Ok(());
        };
        let Ok(waiting) = self.places.wait(asker) else { return Ok(()) };
        let Ok(place) = tokio::time::timeout(FIT_WAIT, waiting.place()).await else {
            return Ok(());
        };
        let Ok(place) = place else { return Ok(()) };
        judged(place, engine, move |engine| {
            engine.fit(&texts.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
    }

    /// What the remote provider thinks of texts that belong together; nothing where there is none. What it flags is
    /// blocked, whatever score it gives.
    async fn opinion(
        &self,
        texts: &[String],
        audience: Audience,
        asker: Asker,
    ) -> Result<Scores, Unjudged> {
        let mut asked = texts.to_vec();
        if texts.len() > 1 {
            asked.push(texts.join(" "));
        }
        let mut all = Scores::new();
        for opinion in self.opinions(&asked, audience, asker).await? {
            judge::raise(&mut all, opinion);
        }
        Ok(all)
    }

    /// The same of texts that do not belong together; one for each.
    async fn opinions(
        &self,
        texts: &[String],
        audience: Audience,
        asker: Asker,
    ) -> Result<Vec<Scores>, Unjudged> {
        let Some(remote) = self.remote.as_ref().filter(|_| !texts.is_empty()) else {
            return Ok(Vec::new());
        };
        let block = |category| (category, self.policy.thresholds(category, audience).block);
        let scores = |opinion: remote::Opinion| {
            let mut scores = opinion.scores;
            judge::raise(&mut scores, opinion.flagged.into_iter().map(block).collect());
            scores
        };
        let waiting = remote.places.wait(asker)?;
        let place = tokio::time::timeout(JUDGE_TIMEOUT, waiting.place()).await;
        // Held until the answer is there.
        let _place = place.map_err(|_| Unjudged::Late)??;
        Ok(remote.ask(texts).await?.into_iter().map(scores).collect())
    }

    /// Judges a clip by its record; the remote provider is asked about what is said in it.
    ///
    /// # Errors
    /// `Unjudged`; `Engine` with a `Record` error for what is no evidence.
    pub async fn clip(
        &self,
        record: FrameRecord,
        asked: Asked,
        audience: Audience,
        asker: Asker,
    ) -> Result<Verdict, Unjudged> {
        let policy = self.policy.clone();
        let evidence = judge::evidence(&policy, &record, &asked);
        evidence.map_err(|error| Unjudged::Engine(error.into()))?;
        let mut words: Vec<String> =
            judge::said(&policy, &record).map(|one| one.words.trim().to_owned()).collect();
        if words.len() > 1 {
            words.push(words.join(" "));
        }
        let opinions = self.opinions(&words, audience, asker).await?;
        let replaces = self.replaces();
        self.run(asker, move |engine| {
            let mut heard = engine.heard(&record, replaces)?;
            // One for each utterance, in the same order; behind them one for all, where there are several.
            for (heard, opinion) in heard.iter_mut().zip(opinions) {
                judge::raise(&mut heard.scores, opinion);
            }
            Ok(judge::clip(engine.policy(), audience, &record, &heard))
        })
        .await
    }

    /// Judges an image of at most `frames_max` different frames, for a request of this tenant; beside the verdict are those it has.
    ///
    /// # Errors
    /// `Unjudged`; `Engine` with an `Image` error for one that is refused.
    pub async fn image(
        &self,
        bytes: Vec<u8>,
        audience: Audience,
        frames_max: usize,
        tenant: TenantId,
    ) -> Result<(Verdict, usize), Unjudged> {
        let judge = move |engine: &Engine| engine.judge_image(&bytes, audience, frames_max);
        self.run(Asker::Door(tenant), judge).await
    }

    /// Runs a judgement on a blocking thread. One that takes too long keeps its place until it ends, so stuck
    /// ones cannot pile up.
    async fn run<T: Send + 'static>(
        &self,
        asker: Asker,
        judge: impl FnOnce(&Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, Unjudged> {
        let engine = self.engine().ok_or(Unjudged::NotLoaded)?;
        let waiting = self.places.wait(asker)?;
        let work = async move {
            let place = waiting.place().await?;
            judged(place, engine, judge).await
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

/// Judges on a blocking thread, in this place until it ends.
async fn judged<T: Send + 'static>(
    place: Place,
    engine: Arc<Engine>,
    judge: impl FnOnce(&Engine) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, Unjudged> {
    let task = tokio::task::spawn_blocking(move || {
        let _held = place;
        judge(&engine)
    });
    // A judgement that panicked gave no verdict.
    Ok(task.await.map_err(|_| Unjudged::Late)??)
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
    /// What the worker sent is not in the store any more.
    Gone,
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
        /// Whose it is.
        tenant: TenantId,
        /// Its words.
        texts: Vec<String>,
        /// For whom its clip is.
        audience: Audience,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Judge a clip by the record of its frames and sound; answered with `DispatchMsg::ClipJudged`.
    JudgeClip {
        /// The job.
        job: JobId,
        /// Whose it is.
        tenant: TenantId,
        /// The finish attempt.
        fence: Fence,
        /// The record.
        record: ArtifactRef,
        /// The clip that it must be about.
        asked: Asked,
        /// For whom the clip is.
        audience: Audience,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Judge stored jobs anew; answered with `DispatchMsg::Rescanned`.
    Rescan {
        /// Of the rescan that began then.
        began: Millis,
        /// By which policy; none: by that of now.
        policy: Option<PolicyTexts>,
        /// What is to be judged.
        items: Vec<RescanItem>,
        /// The last row of the batch. One that is not judged to its end goes through the last row that was.
        through: Option<(Millis, JobId)>,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
}

/// A stored job that is judged anew.
#[derive(Clone, Debug)]
pub struct RescanItem {
    /// The job.
    pub job: JobId,
    /// When it was created.
    pub created: Millis,
    /// For whom its clip is.
    pub audience: Audience,
    /// Its words.
    pub words: Vec<String>,
    /// What they were judged to be when it came.
    pub input: Option<Verdict>,
    /// Of a published clip: its record and what that must be about; none inside if there is no such record. None for
    /// a job that is not finished.
    pub record: Option<Option<(ArtifactRef, Asked)>>,
    /// Whether it is looked at again once its clip is done. It passes then, not now.
    pub again: bool,
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
    rescans: Arc<Rescans>,
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
        Ok(ModerationState { arguments, rescans: Arc::default() })
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
            ModerationMsg::JudgeTexts { job, tenant, texts, audience, back } => {
                state.judge_texts(job, Asker::Job(tenant), texts, audience, back);
            }
            ModerationMsg::JudgeClip { job, tenant, fence, record, asked, audience, back } => {
                let clip = (fence, record, asked);
                state.judge_clip(job, Asker::Job(tenant), clip, audience, back);
            }
            ModerationMsg::Rescan { began, policy, items, through, back } => {
                state.rescan(began, policy, items, through, back);
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
        asker: Asker,
        texts: Vec<String>,
        audience: Audience,
        back: ActorRef<DispatchMsg>,
    ) {
        let ModerationArguments { desk, metrics, .. } = self.arguments.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let verdict = match desk.texts(texts, audience, asker).await {
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
        asker: Asker,
        (fence, record, asked): (Fence, ArtifactRef, Asked),
        audience: Audience,
        back: ActorRef<DispatchMsg>,
    ) {
        let ModerationArguments { desk, metrics, store, .. } = self.arguments.clone();
        let by = By { clip: asked.clip, record: record.artifact };
        tokio::spawn(async move {
            let began = Instant::now();
            let result = match fetch(&store, record).await {
                Ok(record) => desk.clip(record, asked, audience, asker).await.map_err(|error| {
                    tracing::warn!(%job, %error, "a clip could not be judged");
                    match error {
                        Unjudged::Engine(EngineError::Record(_)) => ClipFault::NoEvidence,
                        _ => ClipFault::Down,
                    }
                }),
                Err(fault) => Err(fault),
            };
            count(&metrics, result.is_ok(), began);
            drop(back.cast(DispatchMsg::ClipJudged { job, fence, by, result }));
        });
    }
}

impl ModerationState {
    fn rescan(
        &self,
        began: Millis,
        policy: Option<PolicyTexts>,
        items: Vec<RescanItem>,
        through: Option<(Millis, JobId)>,
        back: ActorRef<DispatchMsg>,
    ) {
        let ModerationArguments { desk, models, store, .. } = self.arguments.clone();
        let rescans = self.rescans.clone();
        tokio::spawn(async move {
            let judged = async {
                let desk = rescans.desk(began, policy, &desk, &models).await?;
                let stuck = |job| rescans.stuck_for(began, job) >= rescan::STUCK;
                judge_anew(&desk, &store, items, through, stuck).await
            };
            let batch = match judged.await {
                Ok(batch) => Some(batch),
                Err(reason) => {
                    tracing::warn!(reason, "the rescan waits: it tries again");
                    None
                }
            };
            // Without a dispatch actor the process ends; the next start goes on.
            drop(back.cast(DispatchMsg::Rescanned { began, batch }));
            tokio::time::sleep(rescan::IDLE).await;
            rescans.forget_idle(rescan::IDLE);
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
    let read = tokio::time::timeout(
        JUDGE_TIMEOUT,
        store.small(&record.artifact, record.bytes, RECORD_BYTES_MAX),
    );
    let bytes = read.await.map_err(|_| ClipFault::Down)?.map_err(|error| {
        tracing::warn!(%error, "a record of sampled frames cannot be read");
        match error {
            StoreError::Missing => ClipFault::Gone,
            error if error.is_trouble() => ClipFault::Down,
            _ => ClipFault::NoEvidence,
        }
    })?;
    codec::decode(&bytes).map_err(|_| ClipFault::NoEvidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use zoetrope_protocol::moderation::{Category, Outcome};

    /// The built-in policy, without nets.
    fn without_nets() -> Policy {
        let text = include_str!("../../configs/policy.toml")
            .replace("similarity = true", "similarity = false")
            .replace("classifier = \"nets\"", "classifier = \"card\"");
        let rules = include_str!("../../configs/policy/rules.toml");
        Policy::of_texts(&text, rules, "").unwrap()
    }

    /// Promise: a look whether texts fit takes a place as a judgement does, and keeps no create waiting for long.
    #[tokio::test]
    async fn whether_texts_fit_is_found_out_in_a_place() {
        let policy = without_nets();
        let desk = Desk::new(Policy::built_in().unwrap()).by(policy, Path::new("none")).unwrap();
        let fit = || desk.fit(vec!["a ".repeat(FIT_CHARS)], Asker::Job(TenantId(1)));
        let mut taken = Vec::new();
        while let Ok(Ok(place)) = tokio::time::timeout(
            Duration::from_millis(50),
            desk.places.wait(Asker::Rescan).unwrap().place(),
        )
        .await
        {
            taken.push(place);
        }
        let began = Instant::now();
        assert!(fit().await.is_ok(), "the judgement finds it out");
        assert!(began.elapsed() >= FIT_WAIT);
        taken.pop();
        // Who waits in vain takes `FIT_WAIT` each time; a machine that is busy for a moment does not.
        let mut quickest = Duration::MAX;
        for _ in 0..20 {
            let began = Instant::now();
            assert!(fit().await.is_ok());
            quickest = quickest.min(began.elapsed());
            if quickest < FIT_WAIT {
                break;
            }
        }
        assert!(quickest < FIT_WAIT, "there is a place: {quickest:?}");
    }

    /// A provider that answers that nothing is wrong, after a while. How many asked at once at most, and its address.
    async fn provider() -> (Arc<AtomicUsize>, reqwest::Url) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let all = |value: &str| {
            let pair = |category: &Category| format!("\"{}\":{value}", category.word());
            Category::of_api().iter().map(pair).collect::<Vec<_>>().join(",")
        };
        let (is, scores) = (all("false"), all("0.01"));
        let result = format!(
            "{{\"flagged\":false,\"categories\":{{{is}}},\"category_scores\":{{{scores}}}}}"
        );
        let body = format!("{{\"results\":[{result}]}}");
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let (asking, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = most.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asking, most, answer) = (asking.clone(), most.clone(), answer.clone());
                tokio::spawn(async move {
                    most.fetch_max(asking.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut question = Vec::new();
                    while !question.ends_with(b"}") {
                        stream.read_buf(&mut question).await.expect("reads");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    asking.fetch_sub(1, Ordering::SeqCst);
                    stream.write_all(answer.as_bytes()).await.expect("writes");
                });
            }
        });
        (seen, url.parse().expect("an address"))
    }

    /// Promise: however many wait for an opinion, a provider is asked only so much at a time.
    #[tokio::test]
    async fn a_provider_is_not_asked_everything_at_once() {
        let (most, url) = provider().await;
        let remote = Remote::new(remote::Provider {
            url,
            allow: crate::outward::Allow::read(&["127.0.0.1".to_owned()]).expect("an address"),
            key_file: None,
            model: "m".to_owned(),
            timeout: Duration::from_secs(20),
            replaces: true,
        });
        let remote = remote.expect("a client");
        let policy = without_nets();
        let live = Desk::with(Policy::built_in().expect("a policy"), Some(remote));
        let desk = live.by(policy, Path::new("none")).expect("needs no nets");
        let asks = (0..100).map(|n| {
            let words = vec![format!("a kite and {n} clouds")];
            desk.texts(words, Audience::All, Asker::Job(TenantId(n % 3)))
        });
        for verdict in futures::future::join_all(asks).await {
            assert_eq!(verdict.expect("a verdict").outcome, Outcome::Pass);
        }
        assert_eq!(most.load(Ordering::SeqCst), remote::QUESTIONS_MAX);
    }
}
