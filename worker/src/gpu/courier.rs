//! How the gpu thread gets artifacts in and out: it asks, and waits for the answer.
//!
//! The link is behind it; tests put a map behind it. Called only on the gpu thread, which may block.

use super::attempt::{Attempt, AttemptKey};
use crate::cache::ArtifactCache;
use crate::finish::FinishedFile;
use crate::link::LinkMsg;
use crate::link::stream::Payload;
use crate::pack::{Content, pack, unpack};
use bytes::Bytes;
use ractor::ActorRef;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use zoetrope_protocol::ArtifactId;
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::mark::DraftReading;
use zoetrope_protocol::provenance::Terms;

/// How often a draft is sent again that the farm does not have any more: it was started again, or kept the draft for too long.
const DRAFT_TRIES_MAX: u32 = 3;
/// For how long a finished clip waits for whoever proves and signs it: a coordinator that starts again needs seconds for its
/// nets, a film that is long to be played a minute. To make the clip again would take longer.
const SIGN_PATIENCE: Duration = Duration::from_secs(120);
/// Between two questions, at first and at most.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];
/// Between two looks whether the attempt is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Why an artifact did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CourierError {
    /// It is gone, or its bytes are not what its address says.
    #[error("{0}")]
    Missing(String),
    /// The store or the link does not answer.
    #[error("{0}")]
    Down(String),
    /// Our disk.
    #[error("{0}")]
    Disk(String),
    /// The signer will not sign this clip.
    #[error("{0}")]
    Refused(String),
    /// The attempt was dropped or stopped meanwhile.
    #[error("the attempt was given up")]
    GivenUp,
}

impl CourierError {
    /// What the report names. A dropped attempt's report reaches nobody.
    pub fn cause(&self) -> Cause {
        match self {
            CourierError::Missing(_) => Cause::ArtifactMissing,
            CourierError::Down(_) => Cause::DependencyDown,
            CourierError::Disk(_) => Cause::EngineError,
            CourierError::Refused(_) => Cause::CheckFailed,
            CourierError::GivenUp => Cause::Ended,
        }
    }
}

/// An artifact to be stored.
pub struct StoreRequest {
    /// Of which attempt.
    pub key: AttemptKey,
    /// What it is.
    pub artifact: ArtifactRef,
    /// Its bytes.
    pub payload: Payload,
    /// Answered once it is stored, read or given up.
    pub reply: StoreReply,
}

/// Who waits for what becomes of an artifact.
pub enum StoreReply {
    /// Whether it is in the store, and since when we know.
    Stored(oneshot::Sender<Result<Instant, CourierError>>),
    /// What the coordinator read in it: it is a draft.
    Read(oneshot::Sender<DraftReading>),
}

impl StoreReply {
    /// The coordinator has it.
    pub fn stored(self) {
        // The gpu thread may have given the attempt up and no longer listen, here and below: that is no news.
        match self {
            StoreReply::Stored(waiting) => drop(waiting.send(Ok(Instant::now()))),
            StoreReply::Read(waiting) => drop(waiting.send(DraftReading::Unread)),
        }
    }

    /// The coordinator has read it.
    pub fn read(self, reading: DraftReading) {
        match self {
            StoreReply::Read(waiting) => drop(waiting.send(reading)),
            StoreReply::Stored(waiting) => drop(waiting.send(Err(CourierError::GivenUp))),
        }
    }

    /// It did not get through.
    pub fn failed(self, error: CourierError) {
        match self {
            StoreReply::Stored(waiting) => drop(waiting.send(Err(error))),
            StoreReply::Read(waiting) => drop(waiting.send(DraftReading::Unread)),
        }
    }
}

/// An artifact to be fetched.
pub struct FetchRequest {
    /// For which attempt.
    pub key: AttemptKey,
    /// Which, and how large it must be.
    pub artifact: ArtifactRef,
    /// Answered with the file that has the bytes, proven by digest.
    pub reply: oneshot::Sender<Result<PathBuf, CourierError>>,
}

/// What the farm's signer is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What must the manifest say?
    Terms,
    /// Sign its claim.
    Sign {
        /// SHA-256 of the clip without its manifest.
        unsigned: ArtifactId,
        /// The manifest store.
        manifest: Vec<u8>,
        /// The record that the clip is judged by, which is in the store.
        scores: Option<ArtifactRef>,
    },
}

/// What the farm's signer gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// What the manifest must say.
    Terms(Box<Terms>),
    /// What goes into its room.
    Signature(Vec<u8>),
}

/// A question to the farm's signer.
pub struct ClaimRequest {
    /// Of which attempt.
    pub key: AttemptKey,
    /// What is asked.
    pub question: Question,
    /// Answered once it is.
    pub reply: oneshot::Sender<Result<Given, CourierError>>,
}

/// An upload on its way.
pub struct Pending {
    /// What was sent.
    pub artifact: ArtifactRef,
    sent: Instant,
    answer: oneshot::Receiver<Result<Instant, CourierError>>,
}

impl Pending {
    /// Waits until the artifact is acknowledged. Its time does not count against the hard limit.
    ///
    /// # Errors
    /// As the link says.
    pub fn wait(self, attempt: &Attempt) -> Result<ArtifactRef, CourierError> {
        let artifact = self.artifact;
        self.arrive(attempt).map(|_| artifact)
    }

    /// The same; gives how long it was on its way.
    ///
    /// # Errors
    /// As the link says.
    pub fn arrive(self, attempt: &Attempt) -> Result<Duration, CourierError> {
        let answer = attempt.waiting(|| self.answer.blocking_recv());
        let stored = answer.unwrap_or(Err(CourierError::GivenUp))?;
        Ok(stored.saturating_duration_since(self.sent))
    }
}

/// The gpu thread's way to artifacts.
pub struct Courier {
    link: ActorRef<LinkMsg>,
    cache: Arc<ArtifactCache>,
}

impl Courier {
    /// A courier of this link.
    pub fn new(link: ActorRef<LinkMsg>, cache: Arc<ArtifactCache>) -> Self {
        Courier { link, cache }
    }

    /// The bytes of an input: from the cache, or from the coordinator.
    ///
    /// # Errors
    /// `Missing`, `Down`, `Disk`, `GivenUp`.
    pub fn fetch(&self, attempt: &Attempt, artifact: ArtifactRef) -> Result<Vec<u8>, CourierError> {
        if let Some(bytes) = self.cache.read(artifact.artifact) {
            return unpacked(bytes);
        }
        let (reply, answer) = oneshot::channel();
        let request = FetchRequest { key: attempt.key, artifact, reply };
        self.link.cast(LinkMsg::Fetch(request)).map_err(|_| CourierError::GivenUp)?;
        let path =
            attempt.waiting(|| answer.blocking_recv()).unwrap_or(Err(CourierError::GivenUp))?;
        let bytes = std::fs::read(&path)
            .map_err(|error| CourierError::Disk(format!("{}: {error}", path.display())))?;
        self.cache.adopt(artifact.artifact, &path);
        unpacked(bytes)
    }

    /// Sends bytes made here to the store, packed where that pays, and keeps a copy for whatever stage comes next.
    ///
    /// # Errors
    /// `GivenUp` if the link is gone.
    pub fn store(
        &self,
        attempt: &Attempt,
        role: Role,
        bytes: Vec<u8>,
    ) -> Result<Pending, CourierError> {
        let bytes = packed(role, bytes);
        let pending = self.send_made(attempt, role, bytes.clone())?;
        // While it is under way: the copy on disk is an optimisation, and may fail.
        self.cache.put(pending.artifact.artifact, &bytes);
        Ok(pending)
    }

    /// Sends latents of a step to the store. No copy is kept: as a rule the next step replaces them, and whoever goes
    /// on from them after a stop may well be another worker.
    ///
    /// # Errors
    /// `GivenUp` if the link is gone.
    pub fn checkpoint(
        &self,
        attempt: &Attempt,
        step: u32,
        latents: Vec<u8>,
    ) -> Result<Pending, CourierError> {
        let role = Role::Latents { step };
        self.send_made(attempt, role, packed(role, latents))
    }

    fn send_made(
        &self,
        attempt: &Attempt,
        role: Role,
        bytes: Bytes,
    ) -> Result<Pending, CourierError> {
        let artifact = ArtifactId::of(&bytes);
        let artifact = ArtifactRef { role, artifact, bytes: bytes.len() as u64 };
        self.send(attempt, artifact, Payload::Memory(bytes))
    }

    /// Asks what the manifest of this attempt's clip must say.
    ///
    /// # Errors
    /// `Down`, `Refused`, `GivenUp`.
    pub fn terms(&self, attempt: &Attempt) -> Result<Terms, CourierError> {
        match self.ask(attempt, Question::Terms)? {
            Given::Terms(terms) => Ok(*terms),
            Given::Signature(_) => Err(CourierError::GivenUp),
        }
    }

    /// Has the claim of a manifest signed. `clip` has none yet: it is sent again where the farm does not have it any more,
    /// for it signs nothing that it has not seen. `scores` must be in the store. Where it cannot be proven or signed now, it is
    /// asked again for a while.
    ///
    /// # Errors
    /// `Down` if it still cannot, or still does not have the clip; `Refused`, `GivenUp`.
    pub fn sign(
        &self,
        attempt: &Attempt,
        clip: &FinishedFile,
        manifest: &[u8],
        scores: Option<ArtifactRef>,
    ) -> Result<Vec<u8>, CourierError> {
        let (mut drafts, mut pause, since) = (0, ASK_AGAIN[0], Instant::now());
        loop {
            if attempt.stops_now() {
                return Err(CourierError::GivenUp);
            }
            let (unsigned, manifest) = (clip.artifact, manifest.to_vec());
            match self.ask(attempt, Question::Sign { unsigned, manifest, scores }) {
                Ok(Given::Signature(signature)) => return Ok(signature),
                Ok(Given::Terms(_)) => return Err(CourierError::GivenUp),
                Err(CourierError::Missing(_)) if drafts < DRAFT_TRIES_MAX => {
                    drafts += 1;
                    attempt.finishing();
                    // What it shows was said before, or is seen when it is proven.
                    self.draft(attempt, clip.artifact, clip.payload.clone())();
                    attempt.finishing();
                }
                // Nothing that the attempt needs is missing: the farm had no room for the clip.
                Err(CourierError::Missing(reason)) => return Err(CourierError::Down(reason)),
                Err(CourierError::Down(_)) if since.elapsed() + pause < SIGN_PATIENCE => {
                    attempt.finishing();
                    Self::pause(attempt, pause)?;
                    pause = ASK_AGAIN[1].min(pause * 2);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn pause(attempt: &Attempt, pause: Duration) -> Result<(), CourierError> {
        let (since, mut stopped) = (Instant::now(), false);
        attempt.waiting(|| {
            while since.elapsed() < pause && !stopped {
                std::thread::sleep(LOOK);
                stopped = attempt.stops_now();
            }
        });
        if stopped { Err(CourierError::GivenUp) } else { Ok(()) }
    }

    fn ask(&self, attempt: &Attempt, question: Question) -> Result<Given, CourierError> {
        let (reply, answer) = oneshot::channel();
        let request = ClaimRequest { key: attempt.key, question, reply };
        self.link.cast(LinkMsg::Claim(request)).map_err(|_| CourierError::GivenUp)?;
        attempt.waiting(|| answer.blocking_recv()).unwrap_or(Err(CourierError::GivenUp))
    }

    /// Sends an artifact whose address is known, without keeping a copy.
    ///
    /// # Errors
    /// `GivenUp` if the link is gone.
    pub fn send(
        &self,
        attempt: &Attempt,
        artifact: ArtifactRef,
        payload: Payload,
    ) -> Result<Pending, CourierError> {
        let (reply, answer) = oneshot::channel();
        let (reply, sent) = (StoreReply::Stored(reply), Instant::now());
        let request = StoreRequest { key: attempt.key, artifact, payload, reply };
        self.link.cast(LinkMsg::Store(request)).map_err(|_| CourierError::GivenUp)?;
        Ok(Pending { artifact, sent, answer })
    }

    /// Sends a clip that is not signed yet, to have its marks read; what is given waits for that.
    pub fn draft<'a>(
        &self,
        attempt: &'a Attempt,
        artifact: ArtifactId,
        payload: Payload,
    ) -> impl FnOnce() -> DraftReading + use<'a> {
        let (reply, answer) = oneshot::channel();
        let artifact = ArtifactRef { role: Role::Draft, artifact, bytes: payload.bytes() };
        let reply = StoreReply::Read(reply);
        let request = StoreRequest { key: attempt.key, artifact, payload, reply };
        // Without a link the sender is dropped, and nobody reads it.
        drop(self.link.cast(LinkMsg::Store(request)));
        move || attempt.waiting(|| answer.blocking_recv()).unwrap_or(DraftReading::Unread)
    }
}

/// The bytes as they are stored: packed where that pays.
fn packed(role: Role, bytes: Vec<u8>) -> Bytes {
    let content = match role {
        Role::Segment { .. } => Content::Pixels,
        _ => Content::Words,
    };
    Bytes::from(pack(bytes, content))
}

/// What the digest has proven unpacks, unless whoever made it was broken: then it is to be made again.
fn unpacked(bytes: Vec<u8>) -> Result<Vec<u8>, CourierError> {
    unpack(bytes).map_err(|error| CourierError::Missing(error.to_string()))
}
