//! What must be proven of a clip before it is signed: that it shows its mark, that it passed moderation, and that it is
//! what its manifest binds. All of exactly the bytes that its worker sent.
//!
//! So a worker that was taken over cannot have the farm's signature for anything that the farm would not publish. The
//! signer is asked only once all of that is known; fails closed.

use super::SignAsk;
use super::moderate::By;
use super::state::DispatchState;
use crate::gate::Prove;
use crate::moderation::ClipFault;
use crate::provenance::SignRequest;
use crate::storage::StorageMsg;
use ractor::ActorId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use zoetrope_protocol::id::{Fence, JobId};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::metric;
use zoetrope_protocol::wire::Held;

/// A record is judged within milliseconds, or by a remote judge within some 20 s; a draft was played already, as a rule. The
/// worker waits for 60 s, and asks again then: what was seen meanwhile is known.
const PROVE_LIMIT: Duration = Duration::from_secs(50);

/// Clips that are being proven, to be signed.
#[derive(Default)]
pub(super) struct Signing {
    open: BTreeMap<JobId, Open>,
    /// Of the last question.
    number: u64,
}

impl Signing {
    /// Whether the job's clip is being judged.
    pub(super) fn judges(&self, job: JobId) -> bool {
        self.open.get(&job).is_some_and(|open| !open.judged || !open.words)
    }
}

/// One that is being proven.
struct Open {
    since: Instant,
    number: u64,
    request: SignRequest,
    /// Whether it passed, its job's words passed, and it shows its mark and is bound.
    judged: bool,
    words: bool,
    bound: bool,
    by: By,
}

impl DispatchState {
    /// A worker wants a claim signed.
    pub(super) fn sign_asked(&mut self, link: ActorId, ask: SignAsk) {
        // A link that was given up may still have had something to say.
        let Some(worker) = self.workers.get(&link).copied() else { return };
        let SignAsk { held, unsigned, manifest, evidence } = ask;
        let terms = self.terms(held.shard.job).filter(|_| self.finishes(worker, held));
        let Some(terms) = terms else { return self.replaced(worker, held) };
        let request = SignRequest { worker, held, unsigned, terms, manifest };
        let Some(evidence) = evidence else { return self.have_signed(request) };
        let Some(scores) = evidence.scores else {
            self.metrics.count(&metric::PUBLISHES_REFUSED, &["moderation"]);
            let reason = "the clip came without a record of its sampled frames".to_owned();
            return self.not_signed(worker, held, (Cause::CheckFailed, reason));
        };
        let job = held.shard.job;
        let by = By { clip: unsigned, record: scores.artifact };
        let before = self.signing.open.get(&job).filter(|open| open.request.held == held);
        if before.is_some_and(|open| open.by != by) {
            let reason = "another claim of this attempt is being signed".to_owned();
            return self.not_signed(worker, held, (Cause::CheckFailed, reason));
        }
        let (issued, row) = (self.books.table.marks().of(job), self.books.table.row(job));
        let (Some(issued), Some(row)) = (issued, row) else { return self.replaced(worker, held) };
        let (draft, render) = (evidence.draft, row.spec.render.clone());
        let (terms, manifest) = (request.terms.clone(), request.manifest.clone());
        let prove = Box::new(Prove { draft, manifest, terms, issued, render });
        self.signing.number += 1;
        let number = self.signing.number;
        let judged = self.passed(job, held.fence, by);
        let words = self.words_pass(job);
        let (since, bound) = (Instant::now(), false);
        let open = Open { since, number, request, judged, words, bound, by };
        // An attempt before this one may still wait; the same one asks again where its link, and with it the answer, was lost.
        let before = self.signing.open.insert(job, open).map(|open| open.request);
        if let Some(SignRequest { worker, held: other, .. }) = before.filter(|of| of.held != held) {
            self.replaced(worker, other);
        }
        let message = StorageMsg::Prove { prove, held, number, back: self.myself.clone() };
        if self.storage.as_ref().is_none_or(|storage| storage.cast(message).is_err()) {
            self.storage = None;
            self.unproven(job, (Cause::DependencyDown, "the storage sidecar is down".to_owned()));
        } else if (!judged && !self.ask_verdict(job, held.fence, by.clip, scores))
            || (!words && !self.ask_of_words(job))
        {
            self.unmoderated(job, "the moderation sidecar is down");
        }
    }

    /// The storage sidecar's answer.
    pub(super) fn bound(&mut self, held: Held, number: u64, result: Result<(), (Cause, String)>) {
        let job = held.shard.job;
        let Some(open) = self.signing.open.get_mut(&job).filter(|open| open.number == number)
        else {
            return;
        };
        match result {
            Ok(()) => {
                open.bound = true;
                self.sign_if_proven(job);
            }
            Err(why) => self.unproven(job, why),
        }
    }

    /// Whether a clip waits for this verdict to be signed.
    pub(super) fn waits_for_verdict(&self, job: JobId, fence: Fence, by: By) -> bool {
        let open = self.signing.open.get(&job);
        open.is_some_and(|open| open.request.held.fence == fence && open.by == by && !open.judged)
    }

    /// The verdict on a clip that waits for it: whether it passed. One that stops the clip has ended the job.
    pub(super) fn judged_to_be_signed(&mut self, job: JobId, result: Result<bool, ClipFault>) {
        let refused = |cause, reason: &str| (cause, reason.to_owned());
        match result {
            Ok(true) => {
                if let Some(open) = self.signing.open.get_mut(&job) {
                    open.judged = true;
                }
                self.sign_if_proven(job);
            }
            Ok(false) => {
                self.unproven(job, refused(Cause::Refused, "the clip did not pass moderation"));
            }
            Err(ClipFault::Down) => self.unmoderated(job, "the clip could not be judged"),
            Err(ClipFault::Gone) => {
                // Not `ArtifactMissing`: that calls for the clip again.
                let why = refused(Cause::DependencyDown, "the clip's record is not in the store");
                self.unproven(job, why);
            }
            Err(ClipFault::NoEvidence) => {
                let why = refused(Cause::CheckFailed, "the clip's record is none of this clip");
                self.unproven(job, why);
            }
        }
    }

    /// Whether a clip waits for a verdict on its job's words to be signed.
    pub(super) fn signs_by_words(&self, job: JobId) -> bool {
        self.signing.open.get(&job).is_some_and(|open| !open.words)
    }

    /// That verdict: whether they passed; none if there is no verdict.
    pub(super) fn words_judged_to_be_signed(&mut self, job: JobId, passed: Option<bool>) {
        let Some(open) = self.signing.open.get_mut(&job).filter(|open| !open.words) else { return };
        match passed {
            Some(true) => {
                open.words = true;
                self.sign_if_proven(job);
            }
            Some(false) => {
                let reason = "the job's words do not pass moderation".to_owned();
                self.unproven(job, (Cause::Refused, reason));
            }
            None => self.unmoderated(job, "the job's words could not be judged"),
        }
    }

    fn sign_if_proven(&mut self, job: JobId) {
        let proven = |open: &Open| open.judged && open.words && open.bound;
        if !self.signing.open.get(&job).is_some_and(proven) {
            return;
        }
        let Some(Open { request, .. }) = self.signing.open.remove(&job) else { return };
        // Meanwhile the attempt may have ended: nothing is signed for it.
        if self.finishes(request.worker, request.held) {
            self.have_signed(request);
        } else {
            self.replaced(request.worker, request.held);
        }
    }

    fn unmoderated(&mut self, job: JobId, reason: &str) {
        self.unanswered(job);
        self.unproven(job, (Cause::DependencyDown, reason.to_owned()));
    }

    fn unproven(&mut self, job: JobId, why: (Cause, String)) {
        let Some(open) = self.signing.open.remove(&job) else { return };
        let (worker, held) = (open.request.worker, open.request.held);
        self.not_signed(worker, held, why);
    }

    /// Clips that could not be proven in time.
    pub(super) fn signing_due(&mut self) {
        let open = self.signing.open.iter();
        let late = open.filter(|(_, open)| open.since.elapsed() > PROVE_LIMIT);
        let late: Vec<JobId> = late.map(|(job, _)| *job).collect();
        for job in late {
            if self.signing.judges(job) {
                self.unanswered(job);
            }
            let reason = "the clip could not be proven in time".to_owned();
            self.unproven(job, (Cause::DependencyDown, reason));
        }
    }
}
