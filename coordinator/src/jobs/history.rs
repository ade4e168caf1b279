//! What became of a job: its attempts, and the chain of artifacts that they made. Pure; part of its row.
//!
//! For operators, and for those who check the farm's promises from outside: it decides nothing. Bounded, so that a
//! job of many tries cannot fill the memory; then the oldest leave.

use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{Fence, Millis, ShardId, WorkerId};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role};

/// Attempts remembered of a job: one a stage, and one more for each loss. A shard is given up after a hundred.
const ATTEMPTS_MAX: usize = 64;
/// Artifacts remembered of a job: latents of each step, and some files. 256 of them take 25 KiB.
const ARTIFACTS_MAX: usize = 256;

/// Of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Its attempts, the oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// The artifacts that extended its chain, in the order in which they came.
    pub artifacts: Vec<ArtifactRecord>,
    /// Artifacts that came and changed nothing: the chain had them, or their attempt had been replaced.
    pub ignored: u32,
}

/// One try of one of its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The shard.
    pub shard: ShardId,
    /// Its fence; the newest, where a restart of the coordinator gave it another.
    pub fence: Fence,
    /// The connection that it runs on.
    pub worker: WorkerId,
    /// The worker's node; none if the worker is forgotten.
    pub node: Option<String>,
    /// Steps that it found done.
    pub from_step: u32,
    /// When it was ordered.
    pub began: Millis,
    /// When it ended.
    pub ended: Option<Millis>,
    /// Why it ended without its last artifact; none while it runs, and if it made it.
    pub cause: Option<Cause>,
    /// Time on the gpu thread as its worker reported it; without a report, the time that it lasted.
    pub gpu: Millis,
}

/// One link of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// What and where it is.
    pub artifact: ArtifactRef,
    /// The attempt that made it.
    pub fence: Fence,
    /// When it was known to be safe in the store.
    pub stored: Millis,
}

fn push<T>(list: &mut Vec<T>, item: T, most: usize) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(item);
}

impl History {
    pub(super) fn assigned(&mut self, attempt: AttemptRecord) {
        push(&mut self.attempts, attempt, ATTEMPTS_MAX);
    }

    /// The newest attempt of a shard goes on under another fence. Its worker may name it by an older one than ours.
    pub(super) fn kept(&mut self, shard: ShardId, fence: Fence, worker: WorkerId) {
        if let Some(attempt) = self.attempts.iter_mut().rev().find(|one| one.shard == shard) {
            (attempt.fence, attempt.worker) = (fence, worker);
            (attempt.ended, attempt.cause) = (None, None);
        }
    }

    pub(super) fn ended(
        &mut self,
        now: Millis,
        shard: ShardId,
        fence: Fence,
        cause: Option<Cause>,
        gpu: Millis,
    ) {
        if let Some(attempt) = self.attempt(shard, fence) {
            (attempt.ended, attempt.cause, attempt.gpu) = (Some(now), cause, gpu);
        }
    }

    /// An artifact extended the chain. Those of a finished shard may have been told of before.
    pub(super) fn stored(&mut self, now: Millis, fence: Fence, artifact: ArtifactRef) {
        let known = |record: &ArtifactRecord| record.artifact == artifact;
        // The newest come again, if any: outputs of the attempt that just finished, perhaps under another fence.
        if !self.artifacts.iter().rev().any(known) {
            let record = ArtifactRecord { artifact, fence, stored: now };
            push(&mut self.artifacts, record, ARTIFACTS_MAX);
        }
    }

    fn attempt(&mut self, shard: ShardId, fence: Fence) -> Option<&mut AttemptRecord> {
        self.attempts.iter_mut().rev().find(|one| one.shard == shard && one.fence == fence)
    }
}

/// Steps done, of the newest latents among the inputs of an order.
pub(super) fn steps_of(inputs: &[ArtifactRef]) -> u32 {
    let step = |input: &ArtifactRef| match input.role {
        Role::Latents { step } => step,
        _ => 0,
    };
    inputs.iter().map(step).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, JobId};
    use zoetrope_protocol::job::Stage;

    fn fence(attempt: u32) -> Fence {
        Fence { epoch: Epoch(1), attempt: AttemptNumber(attempt) }
    }

    fn latents(step: u32) -> ArtifactRef {
        let artifact = ArtifactId::of(&step.to_le_bytes());
        ArtifactRef { role: Role::Latents { step }, artifact, bytes: 4 }
    }

    fn attempt(number: u32) -> AttemptRecord {
        AttemptRecord {
            shard: ShardId { job: JobId(1), stage: Stage::Denoise, index: 0 },
            fence: fence(number),
            worker: WorkerId(1),
            node: None,
            from_step: 0,
            began: Millis(0),
            ended: None,
            cause: None,
            gpu: Millis(0),
        }
    }

    #[test]
    fn a_kept_attempt_ends_under_its_new_fence() {
        let mut history = History::default();
        history.assigned(attempt(1));
        let shard = history.attempts[0].shard;
        let after = Fence { epoch: Epoch(2), ..fence(1) };
        history.kept(shard, after, WorkerId(7));
        history.ended(Millis(5), shard, fence(1), Some(Cause::WorkerLost), Millis(0));
        assert_eq!(history.attempts[0].ended, None, "a report of the old fence is not its end");
        history.ended(Millis(9), shard, after, None, Millis(3));
        let ended = &history.attempts[0];
        assert_eq!(
            (ended.worker, ended.ended, ended.gpu),
            (WorkerId(7), Some(Millis(9)), Millis(3))
        );
    }

    #[test]
    fn outputs_that_were_told_of_before_are_one_link() {
        let mut history = History::default();
        history.stored(Millis(1), fence(1), latents(1));
        history.stored(Millis(2), fence(2), latents(1));
        history.stored(Millis(3), fence(2), latents(2));
        assert_eq!(history.artifacts.len(), 2);
        assert_eq!(steps_of(&[latents(1), latents(2)]), 2);
    }

    #[test]
    fn the_oldest_leave() {
        let mut history = History::default();
        for number in 0..1_000 {
            history.assigned(attempt(number));
            history.stored(Millis(1), fence(1), latents(number));
        }
        assert_eq!(
            (history.attempts.len(), history.artifacts.len()),
            (ATTEMPTS_MAX, ARTIFACTS_MAX)
        );
        assert_eq!(history.artifacts.last().map(|last| last.artifact), Some(latents(999)));
    }
}
