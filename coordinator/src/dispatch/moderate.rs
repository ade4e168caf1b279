//! What is asked of the moderation sidecar, and what its answers become. Fails closed: no answer, or one that
//! cannot be a verdict of this farm's policy, counts as none.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use crate::moderation::{ClipFault, ModerationMsg};
use ractor::ActorRef;
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::Asked;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId};
use zoetrope_protocol::job::{ArtifactRef, Cause, JobSpec, Role};
use zoetrope_protocol::metric;
use zoetrope_protocol::moderation::{Outcome, Verdict};
use zoetrope_protocol::provenance::ModeratedProof;
use zoetrope_sched::Input;
use zoetrope_sched::output::Output;

/// A clip's record is read and judged within milliseconds; who does not answer in this time hangs.
const CLIP_LIMIT: Duration = Duration::from_secs(30);

/// How a clip stands with moderation.
pub(super) enum Moderated {
    /// It passed, by the policy of now.
    Yes(ModeratedProof),
    /// It is being judged, or cannot be now; publishing goes on later.
    Waits,
}

/// The words of a job that are judged, each by itself and all as one.
pub fn words(spec: &JobSpec) -> Vec<String> {
    let pairs = spec.metadata.iter().flat_map(|(key, value)| [key, value]);
    let all = std::iter::once(&spec.render.prompt).chain(pairs);
    all.filter(|text| !text.trim().is_empty()).cloned().collect()
}

impl DispatchState {
    /// The sidecar is there and has its nets.
    pub(super) fn moderation_up(&mut self, sidecar: ActorRef<ModerationMsg>) {
        self.metrics.set(&metric::SIDECAR_UP, &["moderation"], 1.0);
        self.moderation = Some(sidecar);
        if !self.books.intake.is_empty() {
            self.record(Entry::ModerationUp);
        }
    }

    pub(super) fn ask_moderation(&mut self, message: ModerationMsg) -> bool {
        let asked = self.moderation.as_ref().is_some_and(|actor| actor.cast(message).is_ok());
        if !asked {
            self.moderation = None;
        }
        asked
    }

    /// Asks for a verdict on a job's words.
    pub(super) fn judge(&mut self, job: JobId) {
        if self.books.intake.of(job).is_none() {
            return;
        }
        let Some(row) = self.books.table.row(job) else { return };
        let audience = self.books.moderation.of(job).map(|known| known.audience);
        let (texts, audience) = (words(&row.spec), audience.unwrap_or_default());
        let (tenant, back) = (row.spec.tenant, self.myself.clone());
        let message = ModerationMsg::JudgeTexts { job, tenant, texts, audience, back };
        if !self.ask_moderation(message) {
            self.record(Entry::NotJudged { job });
        }
    }

    /// The verdict on a job's words; none if there is no answer.
    pub(super) fn texts_judged(&mut self, job: JobId, verdict: Option<Verdict>) {
        if self.books.intake.of(job).is_none() {
            return;
        }
        match verdict.filter(|verdict| self.is_verdict(job, verdict)) {
            Some(verdict) => {
                self.count_verdict("input", &verdict);
                self.record(Entry::Judged { job, verdict });
            }
            None => self.record(Entry::NotJudged { job }),
        }
    }

    /// Whether an answer can be what it says: of this policy, for this audience, and with a reason exactly if it
    /// stops the job.
    fn is_verdict(&self, job: JobId, verdict: &Verdict) -> bool {
        let audience = self.books.moderation.of(job).map(|known| known.audience);
        let whole = verdict.policy == self.policy
            && Some(verdict.audience) == audience.or(Some(Default::default()))
            && (verdict.outcome == Outcome::Pass) == verdict.categories.is_empty();
        if !whole {
            tracing::error!(%job, "the moderation sidecar gave an answer that is no verdict of this policy");
        }
        whole
    }

    fn count_verdict(&self, what: &str, verdict: &Verdict) {
        self.metrics.count(&metric::MODERATION_VERDICTS, &[what, verdict.outcome.word()]);
    }

    /// Whether a finished clip passed; asks for it to be judged if it was not. `clip` is the file as it was before
    /// it was signed: that is the one whose frames were sampled.
    pub(super) fn moderated(
        &mut self,
        job: JobId,
        fence: Fence,
        clip: ArtifactId,
        outputs: &[ArtifactRef],
    ) -> Moderated {
        let known = self.books.moderation.of(job);
        let audience = known.map(|known| known.audience).unwrap_or_default();
        if let Some((of, verdict)) = known.and_then(|known| known.output.as_ref())
            && *of == fence
            && verdict.policy == self.policy
            && verdict.outcome == Outcome::Pass
        {
            let policy = self.policy.to_string();
            return Moderated::Yes(ModeratedProof { file: clip, policy });
        }
        let find = |role: Role| outputs.iter().find(|output| output.role == role).copied();
        let Some(record) = find(Role::Scores) else {
            tracing::warn!(%job, "a clip came without a record of its sampled frames");
            self.not_moderated(job, Cause::CheckFailed);
            return Moderated::Waits;
        };
        let Some(spec) = self.books.table.row(job).map(|row| &row.spec) else {
            return Moderated::Waits;
        };
        let asked = Asked { clip, frames: spec.render.frames, audio: spec.render.audio };
        let (tenant, back) = (spec.tenant, self.myself.clone());
        let message =
            ModerationMsg::JudgeClip { job, tenant, fence, record, asked, audience, back };
        if self.ask_moderation(message) {
            self.judging.insert(job, (Instant::now(), fence, outputs.to_vec()));
        } else {
            self.not_moderated(job, Cause::DependencyDown);
        }
        Moderated::Waits
    }

    fn not_moderated(&mut self, job: JobId, cause: Cause) {
        if cause != Cause::DependencyDown {
            self.metrics.count(&metric::PUBLISHES_REFUSED, &["moderation"]);
        }
        self.record(Entry::Core(Input::PublishFailed { job, cause }));
    }

    /// The verdict on a clip.
    pub(super) fn clip_judged(
        &mut self,
        job: JobId,
        fence: Fence,
        result: Result<Verdict, ClipFault>,
    ) {
        // An answer that comes after its time, or of an attempt before, is nobody's.
        if self.judging.get(&job).is_some_and(|(_, of, ..)| *of != fence) {
            return self.metrics.count(&metric::STALE_RESULTS, &["publish"]);
        }
        let Some((_, _, outputs)) = self.judging.remove(&job) else { return };
        match result {
            Ok(verdict) if self.is_verdict(job, &verdict) => {
                self.count_verdict("output", &verdict);
                let passed = verdict.outcome == Outcome::Pass;
                self.record(Entry::ClipJudged { job, fence, verdict });
                if passed {
                    let publish = Output::Publish { job, fence, outputs };
                    self.after_sync(Effect::Output(Box::new(publish)));
                }
            }
            Ok(_) | Err(ClipFault::Down) => self.not_moderated(job, Cause::DependencyDown),
            Err(ClipFault::Gone) => self.not_moderated(job, Cause::ArtifactMissing),
            Err(ClipFault::NoEvidence) => self.not_moderated(job, Cause::CheckFailed),
        }
    }

    /// Questions about clips that were not answered in time.
    pub(super) fn judging_due(&mut self) {
        let late = |(_, (asked, ..)): &(&JobId, &(Instant, Fence, Vec<ArtifactRef>))| {
            asked.elapsed() > CLIP_LIMIT
        };
        let jobs: Vec<JobId> = self.judging.iter().filter(late).map(|(job, _)| *job).collect();
        for job in jobs {
            self.judging.remove(&job);
            self.not_moderated(job, Cause::DependencyDown);
        }
    }
}
