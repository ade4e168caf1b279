//! What is asked of the moderation sidecar, and what its answers become. Fails closed: no answer, or one that
//! cannot be a verdict of this farm's policy, counts as none.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use crate::clock;
use crate::moderation::{ClipFault, ModerationMsg};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::Asked;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, JobSpec, Role};
use zoetrope_protocol::metric;
use zoetrope_protocol::moderation::{Outcome, Verdict};
use zoetrope_protocol::provenance::ModeratedProof;
use zoetrope_sched::Input;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::Output;

/// A clip's record is read and judged within milliseconds; who does not answer in this time hangs.
const CLIP_LIMIT: Duration = Duration::from_secs(30);
/// Two ticks.
const BEFORE_GIVEN_UP: Millis = Millis(2_000);

/// By what a clip is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// The clip as it was before it was signed.
    pub clip: ArtifactId,
    /// The record of its frames and sound.
    pub record: ArtifactId,
}

/// Clips that are judged to be published.
#[derive(Default)]
pub(super) struct Judging {
    /// Those that wait for a verdict.
    open: BTreeMap<JobId, Open>,
    /// Those that wait for a verdict on their words, by the policy of now.
    words: BTreeMap<JobId, (Instant, Fence, Vec<ArtifactRef>)>,
    /// Those whose last question, about a clip or the words for it, had no answer.
    unanswered: BTreeSet<JobId>,
    /// What the last verdict of a clip's attempt was about, if it passed. The verdict itself is in the books.
    passed: BTreeMap<JobId, (Fence, By)>,
}

struct Open {
    since: Instant,
    fence: Fence,
    by: By,
    outputs: Vec<ArtifactRef>,
}

impl Judging {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.words.is_empty()
    }
}

/// How a clip stands with moderation.
pub(super) enum Moderated {
    /// It passed, by the policy of now.
    Yes(ModeratedProof),
    /// It is being judged, or cannot be now; publishing goes on later.
    Waits,
}

/// The words of a job that are judged, each by itself and all as one. A key of its metadata is a program's name as a rule, such
/// as `child_id`, and no word of a scene; one that has spaces in it was written for people.
pub fn words(spec: &JobSpec) -> Vec<String> {
    let written = |key: &&String| key.trim().contains(char::is_whitespace);
    let pairs = spec.metadata.iter();
    let pairs = pairs.flat_map(|(key, value)| Some(key).filter(written).into_iter().chain([value]));
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
        if self.books.intake.of(job).is_some() && !self.ask_of_words(job) {
            self.record(Entry::NotJudged { job });
        }
    }

    /// Asks for a verdict on the words of a job. Whether somebody is there to give one.
    pub(super) fn ask_of_words(&mut self, job: JobId) -> bool {
        let Some(row) = self.books.table.row(job) else { return false };
        let audience = self.books.moderation.of(job).map(|known| known.audience);
        let (texts, audience) = (words(&row.spec), audience.unwrap_or_default());
        let (tenant, back) = (row.spec.tenant, self.myself.clone());
        self.ask_moderation(ModerationMsg::JudgeTexts { job, tenant, texts, audience, back })
    }

    /// Whether a job's words passed by the policy of now: it may be another one than when the job was admitted.
    pub(super) fn words_pass(&self, job: JobId) -> bool {
        let input = self.books.moderation.of(job).and_then(|known| known.input.as_ref());
        input.is_some_and(|verdict| {
            verdict.policy == self.policy && verdict.outcome == Outcome::Pass
        })
    }

    /// The verdict on a job's words; none if there is no answer.
    pub(super) fn texts_judged(&mut self, job: JobId, verdict: Option<Verdict>) {
        if self.books.intake.of(job).is_none() {
            return self.words_judged_again(job, verdict);
        }
        match verdict.filter(|verdict| self.is_verdict(job, verdict)) {
            Some(verdict) => {
                self.count_verdict("input", &verdict);
                self.record(Entry::Judged { job, verdict });
            }
            None => self.record(Entry::NotJudged { job }),
        }
    }

    /// The same of a job whose clip waits for it.
    fn words_judged_again(&mut self, job: JobId, verdict: Option<Verdict>) {
        let publishes = self.judging.words.remove(&job);
        if publishes.is_none() && !self.signs_by_words(job) {
            return;
        }
        let verdict = verdict.filter(|verdict| self.is_verdict(job, verdict));
        let passed = verdict.map(|verdict| {
            self.judging.unanswered.remove(&job);
            self.count_verdict("input", &verdict);
            let passed = verdict.outcome == Outcome::Pass;
            self.record(Entry::Rejudged { job, verdict });
            passed
        });
        match (publishes, passed) {
            (Some((_, fence, outputs)), Some(true)) => {
                let publish = Output::Publish { job, fence, outputs };
                self.after_sync(Effect::Output(Box::new(publish)));
            }
            (Some(_), None) => self.not_moderated(job, Cause::DependencyDown),
            // What does not pass has ended the job.
            (Some(_), Some(false)) | (None, _) => {}
        }
        self.words_judged_to_be_signed(job, passed);
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
        if !self.words_pass(job) {
            if self.ask_of_words(job) {
                self.judging.words.insert(job, (Instant::now(), fence, outputs.to_vec()));
            } else {
                self.not_moderated(job, Cause::DependencyDown);
            }
            return Moderated::Waits;
        }
        let find = |role: Role| outputs.iter().find(|output| output.role == role).copied();
        let Some(record) = find(Role::Scores) else {
            tracing::warn!(%job, "a clip came without a record of its sampled frames");
            self.not_moderated(job, Cause::CheckFailed);
            return Moderated::Waits;
        };
        let by = By { clip, record: record.artifact };
        if self.passed(job, fence, by) {
            self.judging.unanswered.remove(&job);
            let policy = self.policy.to_string();
            return Moderated::Yes(ModeratedProof { file: clip, policy });
        }
        if self.ask_verdict(job, fence, clip, record) {
            let (since, outputs) = (Instant::now(), outputs.to_vec());
            self.judging.open.insert(job, Open { since, fence, by, outputs });
        } else {
            self.not_moderated(job, Cause::DependencyDown);
        }
        Moderated::Waits
    }

    /// Whether this clip passed by this record and the policy of now, as far as this run of the coordinator knows.
    pub(super) fn passed(&self, job: JobId, fence: Fence, by: By) -> bool {
        let output = self.books.moderation.of(job).and_then(|known| known.output.as_ref());
        let verdict = |(of, verdict): &(Fence, Verdict)| {
            *of == fence && verdict.policy == self.policy && verdict.outcome == Outcome::Pass
        };
        output.is_some_and(verdict) && self.judging.passed.get(&job) == Some(&(fence, by))
    }

    /// Asks for a verdict on a clip by its record. Whether somebody is there to give one.
    pub(super) fn ask_verdict(
        &mut self,
        job: JobId,
        fence: Fence,
        clip: ArtifactId,
        record: ArtifactRef,
    ) -> bool {
        let audience = self.books.moderation.of(job).map(|known| known.audience);
        let audience = audience.unwrap_or_default();
        let Some(spec) = self.books.table.row(job).map(|row| &row.spec) else { return false };
        let asked = Asked { clip, frames: spec.render.frames, audio: spec.render.audio };
        let (tenant, back) = (spec.tenant, self.myself.clone());
        let message =
            ModerationMsg::JudgeClip { job, tenant, fence, record, asked, audience, back };
        self.ask_moderation(message)
    }

    fn not_moderated(&mut self, job: JobId, cause: Cause) {
        if cause != Cause::DependencyDown {
            self.metrics.count(&metric::PUBLISHES_REFUSED, &["moderation"]);
        } else if self.unanswered(job) {
            return;
        }
        self.record(Entry::Core(Input::PublishFailed { job, cause }));
    }

    /// Nobody could judge a clip, or the words for it. Whether that ends the job: the core would give it up, but does not
    /// know on whom it waited.
    pub(super) fn unanswered(&mut self, job: JobId) -> bool {
        let ends = self.books.core.is_last_try(job, clock::now().plus(BEFORE_GIVEN_UP));
        if ends {
            self.record(Entry::Core(Input::EndAsked { job, why: EndWhy::Unmoderated }));
        } else {
            self.judging.unanswered.insert(job);
        }
        ends
    }

    /// Ends the jobs of which the core is about to say the same because nothing is placed any more.
    fn unanswered_due(&mut self) {
        let (core, by) = (&self.books.core, clock::now().plus(BEFORE_GIVEN_UP));
        let unanswered = &mut self.judging.unanswered;
        unanswered.retain(|job| core.job(*job).is_some());
        let in_vain: Vec<JobId> =
            unanswered.extract_if(.., |job| core.waits_in_vain(*job, by)).collect();
        for job in in_vain {
            self.record(Entry::Core(Input::EndAsked { job, why: EndWhy::Unmoderated }));
        }
    }

    /// The verdict on a clip.
    pub(super) fn clip_judged(
        &mut self,
        job: JobId,
        fence: Fence,
        by: By,
        result: Result<Verdict, ClipFault>,
    ) {
        if self.waits_for_verdict(job, fence, by) {
            let result = result.and_then(|verdict| match self.is_verdict(job, &verdict) {
                true => Ok(self.take_verdict(job, fence, by, verdict)),
                false => Err(ClipFault::Down),
            });
            if result == Err(ClipFault::NoEvidence) {
                self.metrics.count(&metric::PUBLISHES_REFUSED, &["moderation"]);
            }
            return self.judged_to_be_signed(job, result);
        }
        // An answer that comes after its time, or of an attempt before, is nobody's.
        let of_this = |open: &Open| (open.fence, open.by) == (fence, by);
        if self.judging.open.get(&job).is_some_and(|open| !of_this(open)) {
            return self.metrics.count(&metric::STALE_RESULTS, &["publish"]);
        }
        let Some(Open { outputs, .. }) = self.judging.open.remove(&job) else { return };
        match result {
            Ok(verdict) if self.is_verdict(job, &verdict) => {
                if self.take_verdict(job, fence, by, verdict) {
                    let publish = Output::Publish { job, fence, outputs };
                    self.after_sync(Effect::Output(Box::new(publish)));
                }
            }
            Ok(_) | Err(ClipFault::Down) => self.not_moderated(job, Cause::DependencyDown),
            Err(ClipFault::Gone) => self.not_moderated(job, Cause::ArtifactMissing),
            Err(ClipFault::NoEvidence) => self.not_moderated(job, Cause::CheckFailed),
        }
    }

    /// Notes a verdict. Whether the clip passed; else its job has ended.
    fn take_verdict(&mut self, job: JobId, fence: Fence, by: By, verdict: Verdict) -> bool {
        self.judging.unanswered.remove(&job);
        self.count_verdict("output", &verdict);
        let passed = verdict.outcome == Outcome::Pass;
        if passed {
            self.judging.passed.insert(job, (fence, by));
        }
        self.record(Entry::ClipJudged { job, fence, verdict });
        passed
    }

    /// Questions about clips that were not answered in time.
    pub(super) fn judging_due(&mut self) {
        let late = |open: &Open| open.since.elapsed() > CLIP_LIMIT;
        let open = self.judging.open.iter();
        let jobs: Vec<JobId> = open.filter(|(_, o)| late(o)).map(|(job, _)| *job).collect();
        for job in jobs {
            self.judging.open.remove(&job);
            self.not_moderated(job, Cause::DependencyDown);
        }
        let words = self.judging.words.iter();
        let late = words.filter(|(_, (since, ..))| since.elapsed() > CLIP_LIMIT);
        let late: Vec<JobId> = late.map(|(job, _)| *job).collect();
        for job in late {
            self.words_judged_again(job, None);
        }
        self.unanswered_due();
        let table = &self.books.table;
        self.judging.passed.retain(|job, _| table.row(*job).is_some_and(|row| !row.is_terminal()));
    }
}
