//! The words that the dispatch actor counts by: closed sets, whose series exist from the start. What counts by them
//! says which variant it is; a variant cannot be missing among the series.

use super::books::Entry;
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::words;
use zoetrope_sched::Input;
use zoetrope_sched::input::{EndWhy, LostHow};
use zoetrope_sched::output::{FailWhy, GoneHow};

words! {
    /// What an entry of the journal is.
    InputWord {
        /// A job was admitted or reached the core.
        Submitted = "submitted",
        /// A worker said hello.
        WorkerJoined = "worker_joined",
        /// A finished clip was measured.
        Measured = "measured",
        /// A caller deleted its job.
        Deleted = "deleted",
        /// A clip's time was over.
        Expired = "expired",
        /// What led to a clip went.
        CleanedUp = "cleaned_up",
        /// A claim was signed.
        Signed = "signed",
        /// A clip can be read.
        Published = "published",
        /// A job's words were judged.
        Judged = "judged",
        /// Nobody judged them.
        NotJudged = "not_judged",
        /// The moderation sidecar is there again.
        ModerationUp = "moderation_up",
        /// A clip was judged.
        ClipJudged = "clip_judged",
        /// Words were judged by another policy than before.
        Rejudged = "rejudged",
        /// A share link was made.
        Shared = "shared",
        /// A share link was revoked.
        ShareRevoked = "share_revoked",
        /// A download through a share link was counted.
        ShareRead = "share_read",
        /// A rescan began or was cancelled.
        Rescan = "rescan",
        /// A batch of a rescan was judged.
        Rescanned = "rescanned",
        /// A job got its mark.
        Marked = "marked",
        /// A coordinator began to lead.
        EpochBegan = "epoch_began",
        /// A model, as it is configured.
        ModelSet = "model_set",
        /// A tenant, as it is configured.
        TenantSet = "tenant_set",
        /// A job is to end.
        EndAsked = "end_asked",
        /// A worker is lost.
        WorkerLost = "worker_lost",
        /// A worker said goodbye.
        WorkerLeft = "worker_left",
        /// A worker is to be emptied.
        DrainAsked = "drain_asked",
        /// A worker is to get no new work, or may again.
        CordonSet = "cordon_set",
        /// An artifact is in the store.
        ArtifactStored = "artifact_stored",
        /// An attempt made its last artifact.
        ShardFinished = "shard_finished",
        /// An attempt ended without it.
        ShardFailed = "shard_failed",
        /// An attempt stands still.
        Stalled = "stalled",
        /// A clip could not be published.
        PublishFailed = "publish_failed",
        /// A stored artifact is gone or damaged.
        ArtifactGone = "artifact_gone",
        /// The moment that the core waited for is here.
        TimePassed = "time_passed",
        /// A job is to go on elsewhere.
        MoveAsked = "move_asked",
        /// How long verdicts are waited for is another.
        VerdictGraceSet = "verdict_grace_set",
        /// By which decisions the journal goes on.
        DecisionsSet = "decisions_set",
    }
}

impl InputWord {
    /// That of an entry.
    pub fn of(entry: &Entry) -> InputWord {
        match entry {
            Entry::Admitted { .. } => InputWord::Submitted,
            Entry::Joined { .. } => InputWord::WorkerJoined,
            Entry::Measured { .. } => InputWord::Measured,
            Entry::Deleted { .. } => InputWord::Deleted,
            Entry::Expired { .. } => InputWord::Expired,
            Entry::CleanedUp { .. } => InputWord::CleanedUp,
            Entry::Signed { .. } => InputWord::Signed,
            Entry::Proven { .. } => InputWord::Published,
            Entry::Asked { .. } => InputWord::Submitted,
            Entry::Judged { .. } => InputWord::Judged,
            Entry::NotJudged { .. } => InputWord::NotJudged,
            Entry::ModerationUp => InputWord::ModerationUp,
            Entry::ClipJudged { .. } => InputWord::ClipJudged,
            Entry::Rejudged { .. } => InputWord::Rejudged,
            Entry::Shared { .. } => InputWord::Shared,
            Entry::ShareRevoked { .. } => InputWord::ShareRevoked,
            Entry::ShareRead { .. } => InputWord::ShareRead,
            Entry::RescanBegan { .. } | Entry::RescanCancelled => InputWord::Rescan,
            Entry::RescanWent { .. } => InputWord::Rescanned,
            Entry::Marked { .. } => InputWord::Marked,
            Entry::DecisionsSet { .. } => InputWord::DecisionsSet,
            Entry::Core(input) => match input {
                Input::EpochBegan { .. } => InputWord::EpochBegan,
                Input::ModelSet { .. } => InputWord::ModelSet,
                Input::TenantSet { .. } => InputWord::TenantSet,
                Input::Submitted { .. } => InputWord::Submitted,
                Input::EndAsked { .. } => InputWord::EndAsked,
                Input::WorkerJoined { .. } => InputWord::WorkerJoined,
                Input::WorkerLost { .. } => InputWord::WorkerLost,
                Input::WorkerLeft { .. } => InputWord::WorkerLeft,
                Input::DrainAsked { .. } => InputWord::DrainAsked,
                Input::CordonSet { .. } => InputWord::CordonSet,
                Input::ArtifactStored { .. } => InputWord::ArtifactStored,
                Input::ShardFinished { .. } => InputWord::ShardFinished,
                Input::ShardFailed { .. } => InputWord::ShardFailed,
                Input::Stalled { .. } => InputWord::Stalled,
                Input::Published { .. } => InputWord::Published,
                Input::PublishFailed { .. } => InputWord::PublishFailed,
                Input::ArtifactGone { .. } => InputWord::ArtifactGone,
                Input::TimePassed => InputWord::TimePassed,
                Input::MoveAsked { .. } => InputWord::MoveAsked,
                Input::VerdictGraceSet { .. } => InputWord::VerdictGraceSet,
            },
        }
    }
}

words! {
    /// The error code of a job without a clip, as its caller sees it.
    FailWord {
        /// Its caller ended it.
        Cancelled = "cancelled",
        /// Its caller deleted it, so nobody sees the code.
        Deleted = "deleted",
        /// Moderation stopped it.
        Blocked = "moderation_blocked",
        /// Nobody could judge it.
        Unmoderated = "moderation_unavailable",
        /// It was too late, or too old.
        DeadlineExceeded = "deadline_exceeded",
        /// Its workers were lost.
        WorkerLost = "worker_lost",
        /// No device had enough memory.
        OutOfMemory = "out_of_memory",
        /// It could not be rendered.
        EngineError = "engine_error",
    }
}

impl FailWord {
    /// That of a failure.
    pub fn of(why: FailWhy) -> FailWord {
        match why {
            FailWhy::Ended(EndWhy::Cancelled) => FailWord::Cancelled,
            FailWhy::Ended(EndWhy::Deleted) => FailWord::Deleted,
            FailWhy::Ended(EndWhy::Blocked) => FailWord::Blocked,
            FailWhy::Ended(EndWhy::Unmoderated) => FailWord::Unmoderated,
            FailWhy::DeadlineExceeded | FailWhy::TooOld => FailWord::DeadlineExceeded,
            FailWhy::Poison(cause) | FailWhy::NotPublished(cause) => match cause {
                Cause::WorkerLost | Cause::MachineLost => FailWord::WorkerLost,
                Cause::OutOfMemory => FailWord::OutOfMemory,
                _ => FailWord::EngineError,
            },
        }
    }

    /// Whose fault it is: the caller's or the farm's.
    pub fn fault(self) -> &'static str {
        match self {
            FailWord::Cancelled | FailWord::Deleted | FailWord::Blocked => "caller",
            FailWord::Unmoderated
            | FailWord::DeadlineExceeded
            | FailWord::WorkerLost
            | FailWord::OutOfMemory
            | FailWord::EngineError => "farm",
        }
    }
}

words! {
    /// How a worker was lost.
    LossWord {
        /// Nothing was heard of it.
        Silence = "silence",
        /// Its connection ended.
        Closed = "closed",
        /// Its node was started anew.
        NewBoot = "new_boot",
    }
}

impl LossWord {
    /// That of a worker that is gone; none for one that was not lost.
    pub fn of(how: GoneHow) -> Option<LossWord> {
        match how {
            GoneHow::Lost(LostHow::Silence) | GoneHow::NotBack => Some(LossWord::Silence),
            GoneHow::Lost(LostHow::Closed) => Some(LossWord::Closed),
            GoneHow::NewBoot => Some(LossWord::NewBoot),
            GoneHow::Left | GoneHow::Replaced => None,
        }
    }
}

words! {
    /// What the time of a gpu thread was good for.
    UseWord {
        /// It ended in an accepted artifact.
        Useful = "useful",
        /// It did not.
        Lost = "lost",
    }
}
