//! A job in the core: a compact record for the million that wait, and a boxed part for those that began.
//! Also the chain of artifacts: which shard comes next. Does nothing by itself; `attempt.rs` and `place.rs` do.

use crate::few::{Few, Latents};
use crate::node::NodeId;
use crate::part::Part;
use crate::slab::Slot;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Fence, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, Role, Stage};

/// Nodes that a shard avoids: beyond it the oldest is forgotten. More than poison allows.
const AVOID_MAX: usize = 8;
/// More chunks than the longest clip has: 2,880 frames are 170.
const CHUNKS_MAX: u32 = 256;
/// The longest chain: each stage once.
pub(crate) const CHAIN_MAX: usize = Stage::ALL.len();

/// An unfinished job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub id: JobId,
    /// Its number in the order of admission. Never reused, so (slot, seq) names a job for ever.
    pub seq: u64,
    /// Place of its tenant.
    pub tenant: u32,
    /// Place of its model.
    pub model: u16,
    pub class: Class,
    /// The class that it is served in: an old job of class flex is served as default.
    pub rank: Class,
    /// Place of the current shard's stage in the model's chain.
    pub position: u8,
    /// At least 1.
    pub steps: u32,
    /// Expected GPU time by place in the chain, in milliseconds.
    pub expected_ms: [u32; CHAIN_MAX],
    pub submitted: Millis,
    pub deadline: Option<Millis>,
    /// Its expected times are measured.
    pub learned: bool,
    /// Neighbours in the list of jobs by age.
    pub older: Option<Slot>,
    pub younger: Option<Slot>,
    /// The chunks that are to be decoded: of a whole clip from 0; none where nobody said how many.
    pub chunks: (u16, u16),
    /// Into how many shards the decode is cut, at least 1.
    pub shards: u16,
    /// It is no job but a part of one: a decode shard beside others.
    pub part: Option<Part>,
    /// None as long as nothing of it was placed.
    pub live: Option<Box<Live>>,
}

/// How the current shard of a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// In its tenant's queue.
    Ready,
    /// Waits for a dependency, then becomes ready.
    BackingOff { until: Millis },
    /// Runs on the worker of this place.
    Running { worker: Slot },
    /// Its decode is cut, and the parts are at work.
    Parted,
    /// All stages are done, `Publish` was put out.
    Publishing,
    /// Publishing failed for a dependency and is put out again.
    PublishBackingOff { until: Millis },
}

/// What there is of a job that began.
// In memory in this order too: what every placement needs comes first, and lies side by side.
#[repr(C)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Live {
    pub standing: Standing,
    /// Since when it stands so.
    pub since: Millis,
    /// Attempts made, by place in the chain. Never goes back.
    pub attempts: [u32; CHAIN_MAX],
    /// The shard was tried before, so it stands in front of its tenant's queue.
    pub front: bool,
    /// The prompt's embeddings.
    pub prompt: Option<ArtifactRef>,
    pub latents: Latents,
    /// Decoded segments, by chunk.
    pub segments: Few<ArtifactRef>,
    /// The parts that are not done, by index.
    pub parts: Few<Slot>,
    /// Attempts made of each part, by index. Never goes back.
    pub part_attempts: Few<u32>,
    /// The last stage's attempt and outputs.
    pub finished: Option<(Fence, Vec<ArtifactRef>)>,
    /// Stored, but of no use any more; forgotten with the job.
    pub leftover: Few<ArtifactRef>,
    /// The soft failures of the job.
    pub soft: Few<SoftFailure>,
    /// The nodes that failed the current shard.
    pub avoid: Few<NodeId>,
    /// From here on they may try it again, where no other fits.
    pub retry_at: Millis,
    /// The node that made the current shard's inputs.
    pub maker: Option<NodeId>,
    /// The attempt that was lost with its worker: taken up again should that boot return in time. Kept while it then
    /// runs, until a report under its new number: the boot may know it by this one still.
    pub lost: Option<Box<Lost>>,
    /// How often it ran out of memory.
    pub memory_failures: u32,
    /// How often the current shard did: another stage needs what it needs.
    pub shard_memory_failures: u32,
    /// A dependency is down for it.
    pub outage: Option<Box<Outage>>,
    /// Roles whose artifact was gone once.
    pub gone: Few<Role>,
    /// How often it was preempted.
    pub preemptions: u32,
    /// When it was preempted last, and how many steps were done then.
    pub preempted: Option<Box<(Millis, u32)>>,
    /// Where an operator wants it to go on, for a while.
    pub wish: Option<Box<Wish>>,
    /// How often the current shard was lost with a machine.
    pub machine_losses: u32,
    /// Results of the current shard that came too quickly to be believed.
    pub quick: Few<Quick>,
}

/// A result that was dropped because it came too quickly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quick {
    pub node: NodeId,
    pub attempt: AttemptNumber,
    pub artifact: ArtifactId,
}

/// Where an operator wants a job to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub node: NodeId,
    /// On that node; or else on any but that one.
    pub there: bool,
    /// From here on anywhere.
    pub until: Millis,
}

/// A soft failure of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SoftFailure {
    pub node: NodeId,
    pub stage: Stage,
    pub attempt: AttemptNumber,
    pub cause: Cause,
}

/// An attempt that ended with its worker's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub node: NodeId,
    pub boot: u64,
    pub fence: Fence,
    pub position: u8,
}

/// Since when a dependency is down for a job, and how often it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outage {
    pub since: Millis,
    pub tries: u32,
}

impl Live {
    pub fn new(since: Millis) -> Self {
        Live {
            standing: Standing::Ready,
            since,
            attempts: [0; CHAIN_MAX],
            front: false,
            prompt: None,
            latents: Latents::default(),
            segments: Few::default(),
            parts: Few::default(),
            part_attempts: Few::default(),
            finished: None,
            leftover: Few::default(),
            soft: Few::default(),
            avoid: Few::default(),
            retry_at: Millis(0),
            maker: None,
            lost: None,
            memory_failures: 0,
            shard_memory_failures: 0,
            outage: None,
            gone: Few::default(),
            preemptions: 0,
            preempted: None,
            wish: None,
            machine_losses: 0,
            quick: Few::default(),
        }
    }

    /// A node failed the shard, which goes elsewhere if it can.
    pub fn shun(&mut self, node: NodeId) {
        self.avoid.retain(|avoided| *avoided != node);
        if self.avoid.len() == AVOID_MAX {
            self.avoid.list().remove(0);
        }
        self.avoid.push(node);
    }

    /// Whether its shard does not go to just any worker.
    pub fn choosy(&self) -> bool {
        !self.avoid.is_empty() || self.wish.is_some()
    }

    /// Steps of the newest latents.
    pub fn newest_step(&self) -> u32 {
        self.latents.newest().map_or(0, |latents| step_of(latents.role))
    }

    /// Whether a stage's output is there, for a stage that is not the last.
    fn has_output_of(&self, stage: Stage, steps: u32, chunks: (u16, u16)) -> bool {
        match stage {
            Stage::Encode => self.prompt.is_some(),
            Stage::Denoise => self.newest_step() >= steps,
            Stage::Decode => self.has_decoded(chunks),
            Stage::Finish => self.finished.is_some(),
        }
    }

    /// The place in the chain where the work goes on: the last stage whose inputs are all there.
    pub fn next_position(&self, chain: &[Stage], steps: u32, chunks: (u16, u16)) -> u8 {
        let mut position = chain.len() - 1;
        while position > 0 && !self.has_output_of(chain[position - 1], steps, chunks) {
            position -= 1;
        }
        position as u8
    }

    /// What a shard of this stage starts from.
    pub fn inputs_of(&self, stage: Stage) -> Vec<ArtifactRef> {
        let newest = self.latents.newest();
        match stage {
            Stage::Encode => Vec::new(),
            Stage::Denoise => self.prompt.iter().chain(newest).copied().collect(),
            Stage::Decode => newest.into_iter().chain(&self.segments).copied().collect(),
            Stage::Finish if self.segments.is_empty() => newest.into_iter().copied().collect(),
            Stage::Finish => self.segments.to_vec(),
        }
    }

    /// Whether the segments of these chunks are all there; of unknown chunks, whether there are some.
    pub fn has_decoded(&self, (from, to): (u16, u16)) -> bool {
        let there = |chunk: u16| self.segment(chunk.into()).is_ok();
        if from == to { !self.segments.is_empty() } else { (from..to).all(there) }
    }

    /// Whether these chunks would all be there with `more`.
    pub fn would_decode(&self, more: &[ArtifactRef], (from, to): (u16, u16)) -> bool {
        let is = |role: Role| matches!(role, Role::Segment { .. });
        let made = |chunk: u16| more.iter().any(|m| is(m.role) && chunk_of(m.role) == chunk.into());
        if from == to {
            return more.iter().any(|m| is(m.role));
        }
        (from..to).all(|chunk| self.segment(chunk.into()).is_ok() || made(chunk))
    }

    /// Where the segment of a chunk is, or belongs.
    fn segment(&self, chunk: u32) -> Result<usize, usize> {
        self.segments.binary_search_by_key(&chunk, |segment| chunk_of(segment.role))
    }

    /// The segments of these chunks that are there.
    pub fn segments_in(&self, (from, to): (u16, u16)) -> impl Iterator<Item = ArtifactRef> {
        let range = u32::from(from)..u32::from(to);
        let segments = self.segments.iter().copied();
        segments.filter(move |segment| range.contains(&chunk_of(segment.role)))
    }

    /// Takes a segment in; whether it is new.
    pub fn add_segment(&mut self, segment: ArtifactRef) -> bool {
        match self.segment(chunk_of(segment.role)) {
            Ok(_) => false,
            Err(at) => {
                self.segments.list().insert(at, segment);
                true
            }
        }
    }

    /// Appends an artifact of a running attempt to the chain. What it makes superfluous is returned.
    ///
    /// # Errors
    /// `NothingNew` for one that is there already or older than what is there, `Foreign` for one that this stage
    /// does not make: a segment of another shard's chunks too, so that no attempt stores without end.
    pub fn append(
        &mut self,
        stage: Stage,
        (steps, chunks): (u32, (u16, u16)),
        artifact: ArtifactRef,
    ) -> Result<Option<ArtifactRef>, AppendError> {
        match (stage, artifact.role) {
            (Stage::Encode, Role::Prompt) if self.prompt.is_none() => {
                self.prompt = Some(artifact);
                Ok(None)
            }
            (Stage::Denoise, Role::Latents { step }) if step >= 1 && step <= steps => {
                if step <= self.newest_step() {
                    return Err(AppendError::NothingNew);
                }
                Ok(self.latents.push(artifact))
            }
            (Stage::Encode, Role::Prompt) => Err(AppendError::NothingNew),
            (Stage::Decode, Role::Segment { chunk }) if is_of(chunk, chunks) => {
                if self.add_segment(artifact) { Ok(None) } else { Err(AppendError::NothingNew) }
            }
            (
                Stage::Finish,
                Role::Clip | Role::Thumbnail | Role::Spritesheet | Role::Scores | Role::Marks,
            ) => {
                // Of no use before the attempt is finished; remembered so that it is forgotten. Of each role the newest
                // counts, whichever attempt made the others.
                if self.leftover.contains(&artifact) {
                    return Err(AppendError::NothingNew);
                }
                let old = self.leftover.iter().find(|old| old.role == artifact.role).copied();
                self.leftover.retain(|other| other.role != artifact.role);
                self.leftover.push(artifact);
                let is_used = |old: &ArtifactRef| {
                    self.has(*old) || self.leftover.iter().any(|o| o.artifact == old.artifact)
                };
                Ok(old.filter(|old| !is_used(old)))
            }
            _ => Err(AppendError::Foreign),
        }
    }

    /// Whether an artifact is on the chain.
    pub fn has(&self, artifact: ArtifactRef) -> bool {
        let finished = self.finished.iter().flat_map(|(_, outputs)| outputs);
        let chain = self.prompt.iter().chain(self.latents.iter()).chain(&self.segments);
        chain.chain(finished).any(|other| other.artifact == artifact.artifact)
    }

    /// Takes an artifact off the chain.
    pub fn lose(&mut self, gone: ArtifactRef) {
        let is = |artifact: &ArtifactRef| artifact.artifact == gone.artifact;
        self.prompt.take_if(|prompt| is(prompt));
        self.latents.take_if(is);
        if self.segments.iter().any(is) {
            // Whoever could not read one does not say which: all are made anew.
            self.leftover.extend(self.segments.take());
        }
        if let Some((_, outputs)) = self.finished.take_if(|(_, all)| all.iter().any(is)) {
            self.leftover.extend(outputs.into_iter().filter(|output| !is(output)));
        }
    }

    /// All artifacts that the job keeps, but for those of `published`, by address and once each.
    pub fn all_but(&self, published: &[ArtifactRef]) -> Vec<ArtifactRef> {
        let kept =
            |artifact: &ArtifactRef| published.iter().any(|p| p.artifact == artifact.artifact);
        let finished = self.finished.iter().flat_map(|(_, outputs)| outputs);
        let chain = self.prompt.iter().chain(self.latents.iter()).chain(&self.segments);
        let mut all: Vec<_> = chain.chain(finished).chain(&self.leftover).copied().collect();
        all.retain(|artifact| !kept(artifact));
        all.sort_by_key(|artifact| (artifact.artifact, artifact.role));
        all.dedup_by_key(|artifact| artifact.artifact);
        all
    }
}

/// Why an artifact did not extend the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendError {
    NothingNew,
    Foreign,
}

/// Whether a chunk is one of these; where nobody said how many there are, of the longest clip's.
fn is_of(chunk: u32, (from, to): (u16, u16)) -> bool {
    if from == to { chunk < CHUNKS_MAX } else { (u32::from(from)..u32::from(to)).contains(&chunk) }
}

/// The chunk of a segment; 0 of all else.
fn chunk_of(role: Role) -> u32 {
    if let Role::Segment { chunk } = role { chunk } else { 0 }
}

/// Steps done, of latents; 0 of all else.
pub(crate) fn step_of(role: Role) -> u32 {
    if let Role::Latents { step } = role { step } else { 0 }
}

impl Job {
    /// Which shard of its stage the current one is.
    pub fn index(&self) -> u16 {
        self.part.map_or(0, |part| part.index)
    }

    pub fn standing(&self) -> Standing {
        self.live.as_ref().map_or(Standing::Ready, |live| live.standing)
    }

    /// Since when it stands so.
    pub fn since(&self) -> Millis {
        self.live.as_ref().map_or(self.submitted, |live| live.since)
    }

    /// Expected GPU time of the current shard and of all that follow, as if the current one had not begun: it stays
    /// the same while the shard waits.
    pub fn left_ms(&self) -> u64 {
        // All of them, with nothing for those before: no loop and no branch.
        let from = self.position as usize;
        let left = |(at, ms): (usize, u32)| if at < from { 0 } else { u64::from(ms) };
        self.expected_ms.into_iter().enumerate().map(left).sum()
    }

    /// Expected GPU time of what the current shard still has to do.
    pub fn expected(&self, stage: Stage) -> u64 {
        let whole = u64::from(self.expected_ms[self.position as usize]);
        let done = match (&self.live, stage) {
            (Some(live), Stage::Denoise) => live.newest_step().min(self.steps),
            _ => 0,
        };
        whole * u64::from(self.steps - done) / u64::from(self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: what one attempt can have the farm keep is bounded, however much it stores.
    #[test]
    fn of_each_file_of_a_clip_the_newest_is_kept() {
        let mut live = Live::new(Millis(0));
        let made = |role, name: &str| {
            let artifact = ArtifactId::of(name.as_bytes());
            ArtifactRef { role, artifact, bytes: 1 }
        };
        let mut stored = |artifact| live.append(Stage::Finish, (4, (0, 0)), artifact);
        let (first, second) = (made(Role::Clip, "first"), made(Role::Clip, "second"));
        assert_eq!(stored(first), Ok(None));
        assert_eq!(stored(first), Err(AppendError::NothingNew));
        assert_eq!(stored(second), Ok(Some(first)));
        // The same bytes in two roles go with the last of them.
        assert_eq!(stored(made(Role::Scores, "second")), Ok(None));
        assert_eq!(stored(made(Role::Clip, "third")), Ok(None));
        assert_eq!(stored(made(Role::Scores, "other")), Ok(Some(made(Role::Scores, "second"))));
        for n in 0..100 {
            stored(made(Role::Thumbnail, &n.to_string())).expect("is new");
        }
        assert_eq!(live.leftover.len(), 3);
    }
}
