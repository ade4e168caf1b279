//! The storage sidecar: has the marks of drafts read and drafts proven that are to be signed, reads a clip's files back, flips its
//! pointer if the proofs close on exactly these bytes, and deletes what nobody needs. Never decides what to keep. Called by
//! `DispatchActor`; answers with `DispatchMsg::DraftRead`, `DispatchMsg::Bound`, `DispatchMsg::Published`,
//! `DispatchMsg::Unpublished`, `DispatchMsg::NotUnpublished`, `DispatchMsg::NotDeleted` and `DispatchMsg::Listed`.

use crate::dispatch::DispatchMsg;
use crate::farm::{ASK_TIMEOUT, FarmMsg};
use crate::fsck::UNDER_WAY;
use crate::gate::{Candidate, Closed, Gate, Prove};
use crate::jobs::{Asset, Assets};
use crate::leadership::Leadership;
use crate::link::draft::Draft;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use futures::{StreamExt, TryStreamExt};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use zoetrope_protocol::id::{ArtifactId, JobId, WorkerId};
use zoetrope_protocol::job::{Cause, RenderSpec};
use zoetrope_protocol::mark::Issued;
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::Proofs;
use zoetrope_protocol::wire::Held;

/// Reading three files back and writing a pointer takes well under a second on a disk; reading marks has its own limit.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// Publications that run at a time; each holds a few open files.
const PUBLISHING_MAX: usize = 32;
/// Pointers that are removed at a time; a tick expires some hundred.
const UNPUBLISHING_MAX: usize = 16;
/// Artifacts of a batch that are deleted at a time: a service takes some 50 ms for each.
const DELETING_MAX: usize = 16;
/// Artifacts that a sweep names at a time: a message of 32 KiB, looked at in well under a millisecond.
const SWEEP_CHUNK: usize = 1_024;

/// Looks after the store.
pub struct StorageActor;

/// What the storage sidecar is told.
pub enum StorageMsg {
    /// Make these files readable as the job's clip. Safe to repeat.
    Publish {
        /// The job.
        job: JobId,
        /// Its files and what is said of them.
        candidate: Box<Candidate>,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Read the marks of a clip that is not signed yet.
    ReadDraft {
        /// The clip.
        draft: Arc<Draft>,
        /// The mark that it must show.
        issued: Issued,
        /// What was ordered.
        render: Box<RenderSpec>,
        /// Who sent it.
        worker: WorkerId,
        /// For which attempt.
        held: Held,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// This clip is likely to be published in a moment: read it back already.
    Foresee(Asset),
    /// Say whether a clip that is to be signed shows its mark and is what its manifest binds.
    Prove {
        /// Which clip, and what is said of it.
        prove: Box<Prove>,
        /// For which attempt.
        held: Held,
        /// Which question this is.
        number: u64,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Remove the job's pointer.
    Unpublish {
        /// The job.
        job: JobId,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Delete these artifacts; those that cannot go yet are reported.
    Delete {
        /// Which ones.
        artifacts: Vec<ArtifactId>,
        /// Dropped when the batch is over, however it ends.
        turn: OwnedSemaphorePermit,
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// Name everything that is in the store, and remove what uploads left that were cut off long ago.
    Sweep {
        /// Who wants to know.
        back: ActorRef<DispatchMsg>,
    },
    /// What an operator may see.
    Observe(RpcReplyPort<StorageView>),
}

/// The storage sidecar at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageView {
    /// Tasks that run.
    pub running: usize,
}

/// What the storage sidecar needs.
#[derive(Clone)]
pub struct StorageArguments {
    /// The store.
    pub store: Arc<Store>,
    /// Where its requests are counted.
    pub metrics: Arc<Metrics>,
    /// What it holds a clip against before it is readable.
    pub gate: Arc<Gate>,
    /// Whether this coordinator leads: asked before anything in the store is changed.
    pub leadership: Arc<Leadership>,
}

/// The store, its tasks and their permits: each kind has its own, so that none waits for another.
pub struct StorageState {
    store: Arc<Store>,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    leadership: Arc<Leadership>,
    publishing: Arc<Semaphore>,
    unpublishing: Arc<Semaphore>,
    sweeping: Arc<Semaphore>,
    /// Attempts whose clips are being proven.
    proving: Arc<Mutex<BTreeSet<Held>>>,
    /// What changes the store. It ends with the actor: whoever leads next must not meet it.
    tasks: JoinSet<()>,
}

#[ractor::async_trait]
impl Actor for StorageActor {
    type Msg = StorageMsg;
    type State = StorageState;
    type Arguments = StorageArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<StorageMsg>,
        StorageArguments { store, metrics, gate, leadership }: StorageArguments,
    ) -> Result<StorageState, ActorProcessingErr> {
        let permits = |at_a_time| Arc::new(Semaphore::new(at_a_time));
        let (publishing, unpublishing) = (permits(PUBLISHING_MAX), permits(UNPUBLISHING_MAX));
        let (sweeping, tasks) = (permits(1), JoinSet::new());
        let proving = Arc::default();
        Ok(StorageState {
            store,
            gate,
            metrics,
            leadership,
            publishing,
            unpublishing,
            sweeping,
            proving,
            tasks,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<StorageMsg>,
        message: StorageMsg,
        state: &mut StorageState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            StorageMsg::Publish { job, candidate, back } => state.publish(job, candidate, back),
            StorageMsg::ReadDraft { draft, issued, render, worker, held, back } => {
                state.read_draft(draft, issued, *render, (worker, held), back);
            }
            StorageMsg::Prove { prove, held, number, back } => {
                state.prove(*prove, held, number, back);
            }
            StorageMsg::Foresee(clip) => state.foresee(clip),
            StorageMsg::Unpublish { job, back } => state.unpublish(job, back),
            StorageMsg::Delete { artifacts, turn, back } => state.delete(artifacts, turn, back),
            StorageMsg::Sweep { back } => state.sweep(back),
            StorageMsg::Observe(reply) => state.observe(reply),
        }
        Ok(())
    }
}

/// An attempt whose clip is being proven, until it is dropped.
struct Proving(Arc<Mutex<BTreeSet<Held>>>, Held);

impl Proving {
    /// None if it is being proven already.
    fn begin(all: &Arc<Mutex<BTreeSet<Held>>>, held: Held) -> Option<Proving> {
        let new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(held);
        new.then(|| Proving(all.clone(), held))
    }
}

impl Drop for Proving {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl StorageState {
    /// Runs what changes the store.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    fn publish(&mut self, job: JobId, candidate: Box<Candidate>, back: ActorRef<DispatchMsg>) {
        let (store, metrics, permits) =
            (self.store.clone(), self.metrics.clone(), self.publishing.clone());
        let (gate, leadership) = (self.gate.clone(), self.leadership.clone());
        self.spawn(async move {
            let permit = permits.acquire_owned().await;
            let began = Instant::now();
            let flipping = flip(&store, &gate, &leadership, job, &candidate);
            let limit = PUBLISH_TIMEOUT + gate.reading_limit(&candidate);
            let tried = tokio::time::timeout(limit, flipping).await;
            drop(permit);
            let result = match tried {
                Ok(Ok(proofs)) => Ok(proofs),
                Ok(Err(error)) => {
                    tracing::warn!(%job, %error, "a clip could not be published");
                    if let Some(proof) = error.proof() {
                        metrics.count(&metric::PUBLISHES_REFUSED, &[proof]);
                    }
                    Err(error.cause())
                }
                Err(_) => Err(Cause::DependencyDown),
            };
            let outcome = match &result {
                Ok(_) => "ok",
                Err(Cause::DependencyDown) => "error",
                Err(_) => "refused",
            };
            metrics.count(&metric::SIDECAR_REQUESTS, &["storage", outcome]);
            metrics.observe(&metric::SIDECAR_DURATION, &["storage"], began.elapsed());
            // Without a dispatch actor the process ends; the core publishes again after the restart.
            drop(back.cast(DispatchMsg::Published { job, result }));
        });
    }

    fn read_draft(
        &self,
        draft: Arc<Draft>,
        issued: Issued,
        render: RenderSpec,
        (worker, held): (WorkerId, Held),
        back: ActorRef<DispatchMsg>,
    ) {
        let gate = self.gate.clone();
        // The gate plays a few at a time; a worker has one.
        tokio::spawn(async move {
            let artifact = draft.artifact;
            let reading = gate.read_draft(&draft, issued, render).await;
            drop(draft);
            // Without a dispatch actor the process ends; the worker sends it to the next one.
            drop(back.cast(DispatchMsg::DraftRead { worker, held, draft: artifact, reading }));
        });
    }

    fn prove(&self, prove: Prove, held: Held, number: u64, back: ActorRef<DispatchMsg>) {
        // One at a time: a worker may ask as often as it likes.
        let Some(turn) = Proving::begin(&self.proving, held) else {
            let why = (Cause::DependencyDown, "the clip is being proven already".to_owned());
            drop(back.cast(DispatchMsg::Bound { held, number, result: Err(why) }));
            return;
        };
        let (gate, metrics) = (self.gate.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let result = gate.prove(prove).await;
            drop(turn);
            let result = result.map_err(|closed| {
                tracing::warn!(shard = %held.shard, error = %closed, "a clip is not proven, and so not signed");
                if let Some(proof) = closed.proof() {
                    metrics.count(&metric::PUBLISHES_REFUSED, &[proof]);
                }
                (closed.cause(), closed.to_string())
            });
            // Without a dispatch actor the process ends; the worker asks the next one.
            drop(back.cast(DispatchMsg::Bound { held, number, result }));
        });
    }

    fn foresee(&self, clip: Asset) {
        let (store, gate) = (self.store.clone(), self.gate.clone());
        tokio::spawn(async move {
            // Who publishes it meanwhile waits for the same reading, with a limit of its own.
            drop(tokio::time::timeout(PUBLISH_TIMEOUT, gate.foresee(&store, &clip)).await);
        });
    }

    fn unpublish(&mut self, job: JobId, back: ActorRef<DispatchMsg>) {
        let (store, leadership) = (self.store.clone(), self.leadership.clone());
        let permits = self.unpublishing.clone();
        self.spawn(async move {
            let permit = permits.acquire_owned().await;
            let removed = if leadership.is_held() {
                store.unpublish(job).await.map_err(|error| {
                    tracing::warn!(%job, %error, "a pointer could not be removed; it is tried again");
                })
            } else {
                Err(())
            };
            drop(permit);
            let answer = match removed {
                Ok(()) => DispatchMsg::Unpublished(job),
                Err(()) => DispatchMsg::NotUnpublished(job),
            };
            // Without a dispatch actor the process ends; the next start of whoever leads sweeps the pointers.
            drop(back.cast(answer));
        });
    }

    fn delete(
        &mut self,
        artifacts: Vec<ArtifactId>,
        turn: OwnedSemaphorePermit,
        back: ActorRef<DispatchMsg>,
    ) {
        let (store, leadership) = (self.store.clone(), self.leadership.clone());
        self.spawn(async move {
            let deletions = artifacts.into_iter().map(async |artifact| {
                let held = leadership.is_held();
                let deleted = if held { store.delete(&artifact).await } else { Ok(false) };
                (artifact, deleted)
            });
            let mut ended = futures::stream::iter(deletions).buffer_unordered(DELETING_MAX);
            let (mut kept, mut failed) = (Vec::new(), 0);
            while let Some((artifact, deleted)) = ended.next().await {
                match deleted {
                    Ok(true) => continue,
                    Ok(false) => {}
                    // A store that is down fails for all of them.
                    Err(error) if failed == 0 => {
                        failed += 1;
                        tracing::warn!(%artifact, %error, "an artifact could not be deleted");
                    }
                    Err(_) => failed += 1,
                }
                kept.push(artifact);
            }
            if failed > 1 {
                tracing::warn!(failed, "artifacts could not be deleted; they are tried again");
            }
            if !kept.is_empty() {
                // Without a dispatch actor the process ends; the next start sweeps the store.
                drop(back.cast(DispatchMsg::NotDeleted(kept)));
            }
            drop(turn);
        });
    }

    fn sweep(&mut self, back: ActorRef<DispatchMsg>) {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let permits = self.sweeping.clone();
        self.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let allowed = may_sweep(&store, &back).await.unwrap_or_else(|error| {
                let error = anyhow::Error::new(error);
                tracing::warn!("the store could not be swept: {error:#}");
                false
            });
            let mut listed = store.list().try_chunks(SWEEP_CHUNK);
            let outcome = loop {
                if !allowed {
                    break "error";
                }
                match listed.try_next().await {
                    Ok(Some(artifacts)) => {
                        // Without a dispatch actor the process ends; the next start sweeps again.
                        drop(back.cast(DispatchMsg::Listed(artifacts)));
                    }
                    Ok(None) => match store.uploads_left(UNDER_WAY, true).await {
                        Ok(left) if left.is_empty() => break "ok",
                        Ok(left) => {
                            let count = left.len();
                            tracing::info!(count, "files of uploads that were cut off are gone");
                            break "ok";
                        }
                        Err(error) => {
                            tracing::warn!(%error, "files of cut-off uploads stay");
                            break "error";
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "the store could not be swept");
                        break "error";
                    }
                }
            };
            metrics.count(&metric::STORE_SWEEPS, &[outcome]);
        });
    }

    fn observe(&self, reply: RpcReplyPort<StorageView>) {
        // Who asked may be gone.
        drop(reply.send(StorageView { running: self.tasks.len() }));
    }
}

/// Whether what no job uses may go by itself: not while the journal is not the one that the store was filled by, or
/// lacks records of it.
async fn may_sweep(store: &Store, dispatch: &ActorRef<DispatchMsg>) -> Result<bool, StoreError> {
    let hint = "nothing in the store is deleted by itself until `zoetrope fsck --repair` has run";
    if !store.may_be_swept().await? {
        tracing::warn!("records of the journal were lost: {hint}");
        return Ok(false);
    }
    let mut pointers = store.pointers().try_chunks(SWEEP_CHUNK);
    while let Some(jobs) = pointers.try_next().await.map_err(|broken| broken.1)? {
        let ask = |reply| DispatchMsg::Farm(FarmMsg::PointerUnknown(jobs, reply));
        match dispatch.call(ask, Some(ASK_TIMEOUT)).await {
            Ok(CallResult::Success(false)) => {}
            Ok(CallResult::Success(true)) => {
                tracing::warn!(
                    "the store has clips of jobs that the journal does not know: {hint}"
                );
                return Ok(false);
            }
            // Without a dispatch actor the process ends; the next start sweeps again.
            _ => return Ok(false),
        }
    }
    Ok(true)
}

async fn flip(
    store: &Store,
    gate: &Gate,
    leadership: &Leadership,
    job: JobId,
    candidate: &Candidate,
) -> Result<Proofs, Closed> {
    let proofs = gate.open(store, job, candidate).await?;
    if !leadership.is_held() {
        // Playing a clip may take longer than a lease: whoever leads now decides what becomes of the job.
        return Err(
            StoreError::from(std::io::Error::other("this coordinator leads no more")).into()
        );
    }
    store.publish(job, pointer(job, &candidate.assets)).await?;
    Ok(proofs)
}

/// What the pointer of a clip says.
pub fn pointer(job: JobId, assets: &Assets) -> Vec<u8> {
    let name = |asset: &Asset| asset.artifact.to_string();
    let pointer = serde_json::json!({
        "job": job.to_string(),
        "video": name(&assets.video),
        "thumbnail": name(&assets.thumbnail),
        "spritesheet": name(&assets.spritesheet),
    });
    pointer.to_string().into_bytes()
}
