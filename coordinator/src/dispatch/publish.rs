//! Publication: the checks before a clip can be read. Fails closed: what is not proven is not published.

use super::books::{Books, Entry};
use super::effects::Effect;
use super::moderate::Moderated;
use super::state::DispatchState;
use crate::gate::Candidate;
use crate::jobs::{Assets, JobRow};
use crate::storage::StorageMsg;
use zoetrope_protocol::clip::sprite_grid;
use zoetrope_protocol::id::{Fence, JobId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};
use zoetrope_protocol::metric;
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_protocol::provenance::{MarkedProof, Proofs};
use zoetrope_sched::Input;

/// The largest gap between the lengths of sound and picture: one AAC frame at 48 kHz, rounded down. The worker's word is
/// taken here; the gate reads the lengths in the file.
pub const AV_GAP_MAX_MICROS: u32 = 21_333;

/// A proof that is missing or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not measured, or not what was ordered.
    Facts,
    /// Sound and picture differ in length.
    AvGap,
    /// One of the three files is missing.
    Files,
    /// No claim of this clip was signed.
    Unsigned,
}

impl Refusal {
    /// The word for it in metrics.
    fn proof(self) -> &'static str {
        match self {
            Refusal::AvGap => "av_gap",
            Refusal::Unsigned => "signature",
            Refusal::Facts | Refusal::Files => "digest",
        }
    }
}

fn check(row: &JobRow, fence: Fence) -> Result<(), Refusal> {
    let measured = row.facts.filter(|(of, _)| *of == fence);
    let Some((_, facts)) = measured else { return Err(Refusal::Facts) };
    let render = &row.spec.render;
    if facts.size != render.deliver || facts.frames != render.frames {
        return Err(Refusal::Facts);
    }
    if facts.av_gap_micros > AV_GAP_MAX_MICROS {
        return Err(Refusal::AvGap);
    }
    // That the file has this grid, the gate sees.
    if (facts.sprite_columns, facts.sprite_rows) != sprite_grid(render.frames) {
        return Err(Refusal::Facts);
    }
    Ok(())
}

/// The files of a clip that may be published: all proofs are there.
///
/// # Errors
/// Which proof is missing or wrong.
pub fn proven(row: &JobRow, fence: Fence) -> Result<Assets, Refusal> {
    if !on(Mutant::NoProof) {
        check(row, fence)?;
    }
    row.published().ok_or(Refusal::Files)
}

impl DispatchState {
    /// Checks the clip and has the storage sidecar flip its pointer. `marked`: what the watermark sidecar found in the
    /// worker's record, where there is one; it is asked first.
    pub(super) fn publish(
        &mut self,
        job: JobId,
        fence: Fence,
        outputs: &[ArtifactRef],
        marked: Option<MarkedProof>,
    ) {
        // A verdict that stops the clip has ended the job by the time that this is carried out.
        if self.books.table.row(job).is_none_or(JobRow::is_terminal) {
            return;
        }
        // Attempts before this one may have had claims of theirs signed; an attempt has one.
        let Some(claim) = self.books.table.proofs().claims(job).last().copied() else {
            return self.refuse(job, Refusal::Unsigned);
        };
        let Moderated::Yes(moderated) = self.moderated(job, fence, claim.unsigned, outputs) else {
            return;
        };
        let recorded = outputs.iter().any(|output| output.role == Role::Marks);
        if recorded && marked.is_none() {
            return self.read_marks(job, fence, claim.unsigned, outputs);
        }
        let Some(row) = self.books.table.row(job) else { return };
        let Some(issued) = self.books.table.marks().of(job) else {
            return self.not_marked(job, Cause::CheckFailed);
        };
        // Whose worker kept no record of what it read: the gate opens for what it has read itself alone.
        let marked = marked.unwrap_or(MarkedProof { file: claim.unsigned, mark: issued.mark });
        let render = row.spec.render.clone();
        let candidate = match proven(row, fence) {
            Ok(assets) => Box::new(Candidate { assets, claim, moderated, marked, issued, render }),
            Err(refusal) => return self.refuse(job, refusal),
        };
        let message = StorageMsg::Publish { job, candidate, back: self.myself.clone() };
        if self.storage.as_ref().is_none_or(|storage| storage.cast(message).is_err()) {
            self.storage = None;
            let cause = Cause::DependencyDown;
            self.record(Entry::Core(Input::PublishFailed { job, cause }));
            return;
        }
        self.publishing.insert(job);
    }

    fn refuse(&mut self, job: JobId, refusal: Refusal) {
        tracing::warn!(%job, ?refusal, "a clip is not published");
        self.metrics.count(&metric::PUBLISHES_REFUSED, &[refusal.proof()]);
        let cause = Cause::CheckFailed;
        self.record(Entry::Core(Input::PublishFailed { job, cause }));
    }

    /// The storage sidecar's answer.
    pub(super) fn published(&mut self, job: JobId, result: Result<Proofs, Cause>) {
        self.publishing.remove(&job);
        self.record(match result {
            Ok(proofs) => Entry::Proven { job, proofs },
            Err(cause) => Entry::Core(Input::PublishFailed { job, cause }),
        });
        if is_orphan(&self.books, job) {
            self.after_sync(Effect::Unpublish(job));
        }
    }
}

/// Whether a pointer that was just written, or may have been, is nobody's: the job ended or was deleted while the
/// storage sidecar was at it.
pub fn is_orphan(books: &Books, job: JobId) -> bool {
    books.table.row(job).is_some_and(|row| !row.keeps_pointer())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::books::Books;
    use crate::testing::submission;
    use zoetrope_protocol::clip::Size;
    use zoetrope_protocol::id::{AttemptNumber, Epoch, Millis};
    use zoetrope_protocol::job::ClipFacts;

    #[test]
    fn a_clip_whose_sound_is_an_audio_frame_too_long_is_refused() {
        let mut books = Books::new(zoetrope_sched::Config::default());
        let submission = submission(1);
        let (job, render) = (submission.job, submission.spec.render.clone());
        books.table.admit(Millis(0), submission);
        let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
        let facts = ClipFacts {
            size: render.deliver,
            frames: render.frames,
            av_gap_micros: AV_GAP_MAX_MICROS,
            sprite_columns: 5,
            sprite_rows: 5,
        };
        let mut verdict = |facts, fence| {
            books.table.measured(job, fence, facts);
            check(
                books.table.row(job).expect("is there"),
                Fence { epoch: Epoch(1), attempt: AttemptNumber(1) },
            )
        };
        assert_eq!(verdict(facts, fence), Ok(()));
        let long = ClipFacts { av_gap_micros: AV_GAP_MAX_MICROS + 1, ..facts };
        assert_eq!(verdict(long, fence), Err(Refusal::AvGap));
        let small = ClipFacts { size: Size { width: 32, height: 32 }, ..facts };
        assert_eq!(verdict(small, fence), Err(Refusal::Facts));
        let sheet = ClipFacts { sprite_rows: 2, ..facts };
        assert_eq!(verdict(sheet, fence), Err(Refusal::Facts), "fewer pictures than it has");
        let other = Fence { attempt: AttemptNumber(2), ..fence };
        assert_eq!(verdict(facts, other), Err(Refusal::Facts), "another attempt was measured");
    }
}
