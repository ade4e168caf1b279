//! The dispatch actor: journals each input and feeds the core; what the core says leaves once that is on disk.
//!
//! The core may run ahead of the disk by some milliseconds, so that one sync carries many inputs. Nothing that
//! it decided is told to anyone before: outputs, answers and reads wait for the sync of the record behind them.
//! The only caller of the core. An `if` about jobs does not belong here.

pub mod books;
pub mod effects;
pub mod estimate;
pub mod farm;
pub mod intake;
pub mod ledger;
pub mod mark;
pub mod moderate;
pub mod progress;
pub mod provenance;
pub mod publish;
pub mod recovery;
pub mod rescan;
pub mod shares;
pub mod signing;
pub mod state;
pub mod words;
pub mod workers;

pub use progress::ProgressBoard;
pub use recovery::{Recovery, RecoveryError, rebuild, recover};
pub use state::{DispatchArguments, DispatchLimits, DispatchState, opening};

use crate::farm::FarmMsg;
use crate::jobs::rescan::Batch;
use crate::link::LinkMsg;
use crate::link::draft::Draft;
use crate::moderation::{ClipFault, ModerationMsg};
use crate::provenance::ProvenanceMsg;
use crate::storage::StorageMsg;
use crate::watermark::{MarkFault, TileRequest, WatermarkMsg};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort};
use std::sync::Arc;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts};
use zoetrope_protocol::mark::{DraftReading, Issued, MarkOrder};
use zoetrope_protocol::moderation::Verdict;
use zoetrope_protocol::provenance::{MarkedProof, Proofs, SignedClaim};
use zoetrope_protocol::wire::{Held, Identity, Profile};
use zoetrope_sched::input::LostHow;

/// Owns the core and the job table.
pub struct DispatchActor;

/// What the dispatch actor is told.
pub enum DispatchMsg {
    /// A question or wish from the door.
    Farm(FarmMsg),
    /// A worker said hello on a new link.
    Hello {
        /// Its link.
        link: ActorRef<LinkMsg>,
        /// Who it is.
        identity: Identity,
        /// What it can do.
        profile: Profile,
        /// What it still runs.
        held: Vec<Held>,
    },
    /// A worker's report, or its link's verdict.
    Report {
        /// The link.
        link: ActorId,
        /// What it says.
        report: Report,
    },
    /// Reports wait: the actor's own word to itself, behind what was in its mailbox when the first of them came.
    Reported,
    /// A link ended. Said twice is as good as once.
    LinkLost {
        /// The link.
        link: ActorId,
        /// How.
        how: LostHow,
    },
    /// A clip can be read, or why not.
    Published {
        /// The job.
        job: JobId,
        /// What became of it: the proofs that opened the gate.
        result: Result<Proofs, Cause>,
    },
    /// An attempt wants its claim signed.
    SignAsked {
        /// The link.
        link: ActorId,
        /// Which.
        ask: Box<SignAsk>,
    },
    /// Whether a clip that is to be signed shows its mark and is what its manifest binds.
    Bound {
        /// The attempt.
        held: Held,
        /// Which question this answers.
        number: u64,
        /// What is wrong.
        result: Result<(), (Cause, String)>,
    },
    /// The signer's answer.
    ClaimSigned {
        /// Who asked.
        worker: WorkerId,
        /// For which attempt.
        held: Held,
        /// What the signer noted and what goes into the manifest; or why there is none.
        result: Result<(SignedClaim, Vec<u8>), (Cause, String)>,
    },
    /// A job's pointer is gone.
    Unpublished(JobId),
    /// It could not be removed yet.
    NotUnpublished(JobId),
    /// These artifacts could not be deleted yet.
    NotDeleted(Vec<ArtifactId>),
    /// Artifacts that the store has: the answer to a sweep, piece by piece.
    Listed(Vec<ArtifactId>),
    /// The storage sidecar runs (again, perhaps).
    StorageUp(ActorRef<StorageMsg>),
    /// The provenance sidecar runs (again, perhaps).
    ProvenanceUp(ActorRef<ProvenanceMsg>),
    /// The moderation sidecar can judge (again, perhaps).
    ModerationUp(ActorRef<ModerationMsg>),
    /// A job's words were judged.
    TextsJudged {
        /// The job.
        job: JobId,
        /// The verdict; none if there is no answer.
        verdict: Option<Verdict>,
    },
    /// A clip was judged.
    ClipJudged {
        /// The job.
        job: JobId,
        /// The finish attempt.
        fence: Fence,
        /// Which clip, by which record.
        by: moderate::By,
        /// The verdict, or why there is none.
        result: Result<Verdict, ClipFault>,
    },
    /// A batch of a rescan was judged.
    Rescanned {
        /// Of the rescan that began then.
        began: Millis,
        /// What it came to; none if it could not be judged now.
        batch: Option<Batch>,
    },
    /// The watermark sidecar runs (again, perhaps).
    WatermarkUp(ActorRef<WatermarkMsg>),
    /// The tiles of an order are made.
    TilesMade {
        /// What was asked.
        request: Box<TileRequest>,
        /// The job's mark.
        issued: Issued,
        /// What the worker embeds.
        mark: MarkOrder,
    },
    /// A clip's marks were read.
    MarksRead {
        /// The job.
        job: JobId,
        /// The finish attempt.
        fence: Fence,
        /// The proof, or why there is none.
        result: Result<MarkedProof, MarkFault>,
    },
    /// A worker sent a clip that is not signed yet, to have its marks read.
    Drafted {
        /// The link.
        link: ActorId,
        /// The attempt.
        held: Held,
        /// The clip.
        draft: Arc<Draft>,
    },
    /// What a draft shows.
    DraftRead {
        /// Who sent it.
        worker: WorkerId,
        /// For which attempt.
        held: Held,
        /// Its digest.
        draft: ArtifactId,
        /// What it shows.
        reading: DraftReading,
    },
    /// All records up to this number are on disk.
    Synced(u64),
    /// Save the books behind all that was recorded, for this process ends; answered when the journal was told.
    Save(RpcReplyPort<()>),
    /// The core's moment is here.
    Wake,
    /// A second passed.
    Tick,
    /// What an operator or a test may see.
    Observe(RpcReplyPort<DispatchView>),
}

/// A claim that an attempt wants signed.
#[derive(Debug)]
pub struct SignAsk {
    /// The attempt.
    pub held: Held,
    /// SHA-256 of the clip without its manifest.
    pub unsigned: ArtifactId,
    /// The manifest store.
    pub manifest: Vec<u8>,
    /// What the clip is proven by; none on a link of before that, where the operator lets workers speak it.
    pub evidence: Option<Evidence>,
}

/// What a clip is proven by before it is signed.
#[derive(Debug)]
pub struct Evidence {
    /// The clip without its manifest.
    pub draft: Arc<Draft>,
    /// The record that it is judged by, in the store.
    pub scores: Option<ArtifactRef>,
}

/// What a link reports of its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An artifact is safe in the store.
    Stored {
        /// The attempt.
        held: Held,
        /// What it is.
        artifact: ArtifactRef,
    },
    /// The order is carried out.
    Finished {
        /// The attempt.
        held: Held,
        /// What it made.
        outputs: Vec<ArtifactRef>,
        /// Of a `Finish` shard: what was measured.
        facts: Option<ClipFacts>,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// The attempt ended without its last artifact.
    Failed {
        /// The attempt.
        held: Held,
        /// Why.
        cause: Cause,
        /// For the operator.
        detail: String,
        /// Time on the gpu thread.
        gpu: Millis,
    },
    /// The link's verdict: it does not move on.
    Stalled {
        /// The attempt.
        held: Held,
    },
    /// An attempt wants to know what its manifest must say.
    TermsAsked {
        /// The attempt.
        held: Held,
    },
    /// The worker ends within this time.
    Leaving {
        /// How long it goes on.
        within: Millis,
    },
    /// The worker's last word.
    Left,
}

/// The dispatch actor at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchView {
    /// The last record made.
    pub recorded: u64,
    /// The last record on disk.
    pub synced: u64,
    /// Effects that wait for the disk.
    pub held: usize,
    /// Links that are open.
    pub links: usize,
    /// Unfinished jobs.
    pub unfinished: u64,
    /// Artifacts that wait to be deleted.
    pub deleting: usize,
}

#[ractor::async_trait]
impl Actor for DispatchActor {
    type Msg = DispatchMsg;
    type State = DispatchState;
    type Arguments = DispatchArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<DispatchMsg>,
        arguments: DispatchArguments,
    ) -> Result<DispatchState, ActorProcessingErr> {
        Ok(DispatchState::new(myself, arguments))
    }

    async fn post_start(
        &self,
        _myself: ActorRef<DispatchMsg>,
        state: &mut DispatchState,
    ) -> Result<(), ActorProcessingErr> {
        state.begin();
        state.commit()
    }

    async fn handle(
        &self,
        _myself: ActorRef<DispatchMsg>,
        message: DispatchMsg,
        state: &mut DispatchState,
    ) -> Result<(), ActorProcessingErr> {
        if let DispatchMsg::Report { link, report } = message {
            return state.reported(link, report);
        }
        // In the order in which it was all said.
        state.take_reports();
        match message {
            DispatchMsg::Farm(message) => state.farm(message),
            DispatchMsg::Hello { link, identity, profile, held } => {
                state.hello(link, identity, profile, held);
            }
            DispatchMsg::Report { .. } | DispatchMsg::Reported => {}
            DispatchMsg::LinkLost { link, how } => state.link_lost(link, how),
            DispatchMsg::Published { job, result } => state.published(job, result),
            DispatchMsg::SignAsked { link, ask } => state.sign_asked(link, *ask),
            DispatchMsg::Bound { held, number, result } => state.bound(held, number, result),
            DispatchMsg::ClaimSigned { worker, held, result } => {
                state.claim_signed(worker, held, result);
            }
            DispatchMsg::Unpublished(job) => state.unpublished(job),
            DispatchMsg::NotUnpublished(job) => state.unpublish_later(job),
            DispatchMsg::NotDeleted(artifacts) => state.delete_later(artifacts),
            DispatchMsg::Listed(artifacts) => state.swept(artifacts),
            DispatchMsg::StorageUp(storage) => state.storage_up(storage),
            DispatchMsg::ProvenanceUp(provenance) => state.provenance_up(provenance),
            DispatchMsg::ModerationUp(sidecar) => state.moderation_up(sidecar),
            DispatchMsg::TextsJudged { job, verdict } => state.texts_judged(job, verdict),
            DispatchMsg::ClipJudged { job, fence, by, result } => {
                state.clip_judged(job, fence, by, result);
            }
            DispatchMsg::Rescanned { began, batch } => state.rescanned(began, batch),
            DispatchMsg::WatermarkUp(watermark) => state.watermark_up(watermark),
            DispatchMsg::TilesMade { request, issued, mark } => {
                state.tiles_made(*request, issued, mark);
            }
            DispatchMsg::MarksRead { job, fence, result } => state.marks_read(job, fence, result),
            DispatchMsg::Drafted { link, held, draft } => state.drafted(link, held, draft),
            DispatchMsg::DraftRead { worker, held, draft, reading } => {
                state.draft_read(worker, held, draft, reading);
            }
            DispatchMsg::Synced(through) => state.synced(through),
            DispatchMsg::Save(reply) => state.save_last(reply)?,
            DispatchMsg::Wake => state.wake(),
            DispatchMsg::Tick => state.tick(),
            DispatchMsg::Observe(reply) => state.observe(reply),
        }
        state.commit()
    }
}
