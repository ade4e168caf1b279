//! What a clip's manifest must say, and the way of a claim to the signer and back.
//!
//! The signer is asked only for the attempt that runs, at this worker, under its present fence, once its clip is proven
//! (`signing.rs`); what it signed is on disk before the worker hears of it.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use super::workers::finishes;
use crate::provenance::{ProvenanceMsg, SignRequest};
use ractor::ActorRef;
use zoetrope_mark::MarkId;
use zoetrope_protocol::id::{JobId, WorkerId};
use zoetrope_protocol::job::Cause;
use zoetrope_protocol::mark::{PICTURE_ALG, SOUND_ALG};
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::{MarkBinding, Origin, SIGNATURE_BYTES, SignedClaim, Terms};
use zoetrope_protocol::wire::{Held, ToWorker};

impl DispatchState {
    pub(super) fn provenance_up(&mut self, provenance: ActorRef<ProvenanceMsg>) {
        self.metrics.set(&metric::SIDECAR_UP, &["provenance"], 1.0);
        self.provenance = Some(provenance);
    }

    /// What the manifest of a job's clip must say. The same until the job ends: it is asked for twice.
    pub(super) fn terms(&self, job: JobId) -> Option<Terms> {
        let row = self.books.table.row(job)?;
        let render = &row.spec.render;
        let model = self.models.find(&render.model)?;
        Some(Terms {
            video: job.to_string(),
            farm: env!("CARGO_PKG_VERSION").to_owned(),
            created: row.in_progress.unwrap_or(row.created),
            model: row.resolved_model.clone().unwrap_or_else(|| render.model.clone()),
            license: model.manifest.license.clone(),
            seed: render.seed,
            policy: Some(self.policy.to_string()),
            marks: self.bindings(job, render.audio),
            origin: Origin::Generated,
            signature_bytes: SIGNATURE_BYTES,
        })
    }

    /// The marks that lead back to the manifest. That of the sound is left out of one whose sound cannot carry it.
    fn bindings(&self, job: JobId, audio: bool) -> Vec<MarkBinding> {
        let Some(issued) = self.books.table.marks().of(job) else { return Vec::new() };
        let value = MarkId(issued.mark).codeword().to_vec();
        let binding = |alg: &str| MarkBinding { alg: alg.to_owned(), value: value.clone() };
        let sound = audio.then(|| binding(SOUND_ALG));
        std::iter::once(binding(PICTURE_ALG)).chain(sound).collect()
    }

    /// Whether this worker makes the job's clip at this moment, as this attempt.
    pub(super) fn finishes(&self, worker: WorkerId, held: Held) -> bool {
        finishes(&self.books, worker, held)
    }

    pub(super) fn terms_asked(&mut self, worker: WorkerId, held: Held) {
        let terms = self.terms(held.shard.job).filter(|_| self.finishes(worker, held));
        let Some(terms) = terms else { return self.replaced(worker, held) };
        let answer = ToWorker::Terms { held, terms: Box::new(terms) };
        self.after_sync(Effect::Tell(worker, Box::new(answer)));
    }

    /// Asks the signer.
    pub(super) fn have_signed(&mut self, request: SignRequest) {
        let (worker, held) = (request.worker, request.held);
        let back = self.myself.clone();
        let message = ProvenanceMsg::Sign { request: Box::new(request), back };
        if self.provenance.as_ref().is_none_or(|signer| signer.cast(message).is_err()) {
            self.provenance = None;
            let reason = "the provenance sidecar is down".to_owned();
            self.not_signed(worker, held, (Cause::DependencyDown, reason));
        }
    }

    /// The signer's answer. Meanwhile the attempt may have ended: then the signature goes nowhere.
    pub(super) fn claim_signed(
        &mut self,
        worker: WorkerId,
        held: Held,
        result: Result<(SignedClaim, Vec<u8>), (Cause, String)>,
    ) {
        match result {
            Ok(_) if !self.finishes(worker, held) => self.replaced(worker, held),
            Ok((claim, signature)) => {
                self.record(Entry::Signed { job: held.shard.job, claim });
                let signed = ToWorker::Signed { held, signature };
                self.after_sync(Effect::Tell(worker, Box::new(signed)));
            }
            Err(why) => self.not_signed(worker, held, why),
        }
    }

    /// The attempt that asks is not the one that runs.
    pub(super) fn replaced(&mut self, worker: WorkerId, held: Held) {
        self.metrics.count(&metric::STALE_RESULTS, &["publish"]);
        let reason = "the attempt was replaced".to_owned();
        self.not_signed(worker, held, (Cause::Refused, reason));
    }

    /// A claim is not signed, and why.
    pub(super) fn not_signed(
        &mut self,
        worker: WorkerId,
        held: Held,
        (cause, reason): (Cause, String),
    ) {
        let answer = ToWorker::NotSigned { held, cause, reason };
        self.after_sync(Effect::Tell(worker, Box::new(answer)));
    }
}
