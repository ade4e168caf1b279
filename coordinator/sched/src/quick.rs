//! Results that come too quickly to be true. Such a result is dropped and made again elsewhere; if the same bytes come
//! out, it was right, and what was expected was not.
//!
//! Only of stages whose bytes are the same on every worker of a kind: prompt embeddings and latents. A clip carries
//! marks and a signature of its attempt, so nothing could confirm it.

use crate::core::Core;
use crate::job::{Quick, step_of};
use crate::output::Output;
use crate::slab::Slot;
use crate::worker::Running;
use zoetrope_protocol::id::{ArtifactId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, Role, Stage};

impl Core {
    /// Whether an attempt took far less than a measured expected time.
    pub(crate) fn is_too_quick(&self, running: &Running, gpu: Millis) -> bool {
        let config = &self.state.config;
        let limit = running.charged_ms / u64::from(config.quick_part.max(1));
        matches!(running.stage, Stage::Encode | Stage::Denoise)
            && self.state.jobs[running.job].learned
            && self.state.kinds[running.kind as usize].relearn == 0
            && limit >= config.quick_least.0
            && gpu.0 < limit
    }

    /// Whether the same bytes came too quickly before, however long they took now. Then all who made them are absolved, and
    /// the time is learned anew.
    pub(crate) fn is_confirmed(&mut self, running: &Running, outputs: &[ArtifactRef]) -> bool {
        let live = self.state.jobs[running.job].live.as_ref();
        if live.is_none_or(|live| live.quick.is_empty()) {
            return false;
        }
        let made = self.result_of(running, outputs);
        let relearn = self.state.config.quick_relearn;
        let shard = self.held(running).shard;
        let Some(live) = &mut self.state.jobs[running.job].live else { return false };
        let same = |quick: &Quick| Some(quick.artifact) == made;
        if !live.quick.iter().any(same) {
            return false;
        }
        let right: Vec<Quick> = live.quick.iter().copied().filter(same).collect();
        live.quick.clear();
        live.soft.retain(|soft| {
            let of = |quick: &Quick| (quick.node, quick.attempt) == (soft.node, soft.attempt);
            let quick = soft.cause == Cause::TooQuick && soft.stage == running.stage;
            !quick || !right.iter().any(of)
        });
        for quick in right {
            self.forgive_attempt(quick.node, running.kind, (shard, quick.attempt));
        }
        self.state.kinds[running.kind as usize].relearn = relearn;
        true
    }

    /// An attempt of a kind made its artifact.
    pub(crate) fn accepted(&mut self, running: &Running) {
        let relearn = &mut self.state.kinds[running.kind as usize].relearn;
        *relearn = relearn.saturating_sub(1);
    }

    /// Drops a result that came too quickly, with all that its attempt added to the chain.
    pub(crate) fn drop_quick(
        &mut self,
        worker: Slot,
        running: &Running,
        outputs: &[ArtifactRef],
        gpu: Millis,
        out: &mut Vec<Output>,
    ) {
        let made = self.result_of(running, outputs);
        let node = self.state.workers[worker].node;
        let attempt = running.fence.attempt;
        if let Some(live) = &mut self.state.jobs[running.job].live {
            let quick = made.map(|artifact| Quick { node, attempt, artifact });
            live.quick.extend(quick);
            match running.stage {
                Stage::Encode => live.leftover.extend(live.prompt.take()),
                _ => {
                    let is_new = |latents: &ArtifactRef| step_of(latents.role) > running.from_step;
                    live.leftover.extend(live.latents.take_if(is_new).into_iter().flatten());
                }
            }
            live.leftover.extend(outputs.iter().copied());
        }
        self.end_attempt(worker, Some(Cause::TooQuick), Some(gpu), out);
        self.set_idle(worker);
        // What it added is gone again, so it counts as if there had been nothing.
        let running = Running { progressed: false, ..*running };
        self.fail(worker, &running, Cause::TooQuick, out);
    }

    /// The address of a stage's result.
    fn result_of(&self, running: &Running, outputs: &[ArtifactRef]) -> Option<ArtifactId> {
        let job = &self.state.jobs[running.job];
        let is = |artifact: &&ArtifactRef| match running.stage {
            Stage::Encode => artifact.role == Role::Prompt,
            _ => artifact.role == Role::Latents { step: job.steps },
        };
        // What was told by `ArtifactStored` need not be told again.
        let live = job.live.as_ref();
        let chain = live.into_iter().flat_map(|live| live.prompt.iter().chain(live.latents.iter()));
        outputs.iter().chain(chain).find(is).map(|artifact| artifact.artifact)
    }
}
