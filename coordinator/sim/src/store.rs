//! The artifact store: content-addressed, conditional pointers, outages, and answers that get lost.

use std::collections::{BTreeMap, BTreeSet};
use zoetrope_coordinator::jobs::Assets;
use zoetrope_protocol::id::{ArtifactId, JobId};

/// What became of a publication, as the storage sidecar is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// The pointer is there.
    Done,
    /// A file of the clip is not there.
    Missing,
    /// Another clip was published before.
    Taken,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct Store {
    artifacts: BTreeSet<ArtifactId>,
    /// When each was put, as far as this process of the coordinator remembers.
    fresh: BTreeMap<ArtifactId, u64>,
    /// Published clips.
    pub pointers: BTreeMap<JobId, Assets>,
    /// Errors until this moment.
    pub down_until: u64,
}

impl Store {
    /// Whether it answers.
    pub fn answers(&self, now: u64) -> bool {
        now >= self.down_until
    }

    /// Puts an artifact.
    pub fn put(&mut self, artifact: ArtifactId, now: u64) {
        self.artifacts.insert(artifact);
        self.fresh.insert(artifact, now);
    }

    /// Whether it has an artifact.
    pub fn has(&self, artifact: &ArtifactId) -> bool {
        self.artifacts.contains(artifact)
    }

    /// Deletes an artifact unless it is fresh; whether it is gone.
    pub fn delete(&mut self, artifact: &ArtifactId, keep_fresh: u64, now: u64) -> bool {
        if self.fresh.get(artifact).is_some_and(|at| at + keep_fresh > now) {
            return false;
        }
        self.fresh.remove(artifact);
        self.artifacts.remove(artifact);
        true
    }

    /// An artifact vanishes.
    pub fn lose(&mut self, artifact: &ArtifactId) {
        self.artifacts.remove(artifact);
    }

    /// The process that remembered what is fresh is gone.
    pub fn forget_fresh(&mut self) {
        self.fresh.clear();
    }

    /// All artifacts.
    pub fn list(&self) -> impl Iterator<Item = &ArtifactId> {
        self.artifacts.iter()
    }

    /// Writes the pointer of a job, as `storage.rs` does: files first, then a conditional put.
    pub fn flip(&mut self, job: JobId, assets: &Assets) -> Flip {
        if assets.artifacts().iter().any(|artifact| !self.has(artifact)) {
            return Flip::Missing;
        }
        match self.pointers.get(&job) {
            Some(there) if there == assets => Flip::Done,
            Some(_) => Flip::Taken,
            None => {
                self.pointers.insert(job, assets.clone());
                Flip::Done
            }
        }
    }
}
