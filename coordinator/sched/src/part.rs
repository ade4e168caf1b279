//! The decode of one clip, shared by several workers: its parts.
//!
//! To queues, workers and the failure policy a part is a job of its own; its name, its tenant and what it makes are
//! those of the job that it is part of. Parts come when the latents are whole and go one by one; with the last one
//! the job goes on. A part that fails for good takes its job with it, and nothing but its own chunks is done twice.

use crate::core::Core;
use crate::job::{CHAIN_MAX, Job, Live, Standing};
use crate::output::Output;
use crate::slab::Slot;
use serde::{Deserialize, Serialize};
use zoetrope_protocol::clip::chunk_range;
use zoetrope_protocol::id::ShardId;
use zoetrope_protocol::job::{Cause, Stage};

/// Which part of which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The job.
    pub of: Slot,
    /// Its number among the parts, from 0.
    pub index: u16,
}

/// How the decode of a clip is cut, as it was asked: chunks in all, and shards; never more than chunks.
pub(crate) fn cut(chunks: u16, shards: u16) -> ((u16, u16), u16) {
    ((0, chunks), shards.min(chunks).max(1))
}

impl Core {
    /// The job that a part is of; a job itself.
    pub(crate) fn owner(&self, slot: Slot) -> Slot {
        self.state.jobs[slot].part.map_or(slot, |part| part.of)
    }

    /// The place of an unfinished shard: its job, or its part.
    pub(crate) fn shard_slot(&self, shard: ShardId) -> Option<Slot> {
        let slot = self.job_slot(shard.job)?;
        let job = &self.state.jobs[slot];
        if shard.stage != Stage::Decode || job.shards == 1 {
            return (shard.index == 0).then_some(slot);
        }
        let mut parts = job.live.as_ref()?.parts.iter();
        parts.find(|part| self.state.jobs[**part].index() == shard.index).copied()
    }

    /// All shards of a job that are to be placed now, or run: its parts, or itself.
    pub(crate) fn shards_of(&self, slot: Slot) -> Vec<Slot> {
        match &self.state.jobs[slot].live {
            Some(live) if live.standing == Standing::Parted => live.parts.to_vec(),
            _ => vec![slot],
        }
    }

    /// The parts of a job whose latents are whole become ready, but for those whose segments are all there.
    pub(crate) fn make_parts(&mut self, slot: Slot) {
        for index in 0..self.state.jobs[slot].shards {
            let Some(part) = self.part(slot, index) else { continue };
            self.state.next_seq += 1;
            let place = self.state.jobs.insert(part);
            if let Some(live) = &mut self.state.jobs[slot].live {
                live.parts.push(place);
            }
            self.enqueue(place);
            self.count(place);
            self.todo.shards.push(place);
        }
    }

    fn part(&self, slot: Slot, index: u16) -> Option<Job> {
        let job = &self.state.jobs[slot];
        let of = job.live.as_ref()?;
        let all = u32::from(job.chunks.1);
        let range = chunk_range(all, index.into(), job.shards.into());
        let chunks = (range.start as u16, range.end as u16);
        if of.has_decoded(chunks) {
            return None;
        }
        let position = job.position as usize;
        let mut expected_ms = [0; CHAIN_MAX];
        let share = u64::from(job.expected_ms[position]) * u64::from(chunks.1 - chunks.0);
        expected_ms[position] = u32::try_from(share / u64::from(all.max(1))).unwrap_or(u32::MAX);
        let mut live = Live::new(self.state.now);
        if let Some(latents) = of.latents.newest() {
            live.latents.push(*latents);
        }
        for segment in of.segments_in(chunks) {
            live.add_segment(segment);
        }
        live.maker = of.maker;
        live.attempts[position] = of.part_attempts.get(usize::from(index)).copied().unwrap_or(0);
        Some(Job {
            seq: self.state.next_seq,
            deadline: None,
            older: None,
            younger: None,
            expected_ms,
            chunks,
            part: Some(Part { of: slot, index }),
            live: Some(Box::new(live)),
            id: job.id,
            tenant: job.tenant,
            model: job.model,
            class: job.class,
            rank: job.rank,
            position: job.position,
            steps: job.steps,
            submitted: job.submitted,
            shards: job.shards,
            learned: job.learned,
        })
    }

    /// Whether a part has all its segments.
    pub(crate) fn is_decoded(&self, slot: Slot) -> bool {
        let job = &self.state.jobs[slot];
        job.live.as_ref().is_some_and(|live| live.has_decoded(job.chunks))
    }

    /// A part is done: its segments are its job's, which goes on if it was the last one.
    pub(crate) fn part_done(&mut self, slot: Slot, out: &mut Vec<Output>) {
        let owner = self.owner(slot);
        self.take_part(slot);
        let live = self.state.jobs[owner].live.as_ref();
        if live.is_some_and(|live| live.parts.is_empty()) {
            self.advance(owner, out);
        }
    }

    /// Ends all parts of a job, whatever they do; what they have made is kept.
    pub(crate) fn drop_parts(&mut self, slot: Slot, cause: Cause, out: &mut Vec<Output>) {
        let Some(live) = &self.state.jobs[slot].live else { return };
        let parts = live.parts.to_vec();
        for part in parts {
            match self.state.jobs[part].standing() {
                Standing::Ready => self.dequeue(part),
                Standing::Running { worker } => self.end_running(worker, cause, out),
                _ => {}
            }
            self.take_part(part);
        }
    }

    /// Takes a part that neither waits nor runs out of everything, and what it made over to its job.
    fn take_part(&mut self, slot: Slot) {
        self.uncount(slot);
        let Some(job) = self.state.jobs.take(slot) else { return };
        let (Some(part), Some(live)) = (job.part, job.live) else { return };
        let shards = usize::from(job.shards);
        let Some(of) = &mut self.state.jobs[part.of].live else { return };
        of.parts.retain(|other| *other != slot);
        of.part_attempts.list().resize(shards, 0);
        of.part_attempts.list()[usize::from(part.index)] = live.attempts[job.position as usize];
        for segment in &live.segments {
            of.add_segment(*segment);
        }
        of.leftover.extend(live.leftover.iter().copied());
        of.maker = live.maker;
    }

    /// The invariants of parts.
    pub(crate) fn check_parts(&self) -> Result<(), String> {
        let mut listed = 0;
        for (slot, job) in self.state.jobs.iter() {
            let id = job.id;
            let parted = job.standing() == Standing::Parted;
            let parts = job.live.as_ref().map_or(&[][..], |live| &live.parts);
            listed += parts.len();
            if parted == parts.is_empty() {
                return Err(format!("{id} has {} parts and stands otherwise", parts.len()));
            }
            for place in parts {
                let part = self.state.jobs.get(*place);
                if part.is_none_or(|part| part.id != id || part.part.is_none_or(|p| p.of != slot)) {
                    return Err(format!("{id} has a part that is none"));
                }
            }
            let foreign = job.part.is_some_and(|part| {
                let of = self.state.jobs.get(part.of).and_then(|of| of.live.as_ref());
                of.is_none_or(|of| !of.parts.contains(&slot))
            });
            if foreign {
                return Err(format!("a part of {id} is nobody's"));
            }
        }
        let parts = self.state.jobs.iter().filter(|(_, job)| job.part.is_some()).count();
        if listed == parts { Ok(()) } else { Err("a part is listed twice".to_owned()) }
    }
}
