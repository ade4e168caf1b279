//! Which artifacts count as stored for which job, and the other way round: an index, because each deletion asks whose it was.

use std::collections::BTreeMap;
use zoetrope_protocol::id::{ArtifactId, JobId};
use zoetrope_protocol::job::ArtifactRef;

/// Artifacts by job. A job may have one twice.
#[derive(Default)]
pub struct Holdings {
    of: BTreeMap<JobId, Vec<ArtifactRef>>,
    users: BTreeMap<ArtifactId, Vec<JobId>>,
}

impl Holdings {
    /// What the job has, in the order in which it came.
    pub fn of(&self, job: JobId) -> &[ArtifactRef] {
        self.of.get(&job).map_or(&[], Vec::as_slice)
    }

    /// A job that has it.
    pub fn user_of(&self, artifact: &ArtifactId) -> Option<JobId> {
        self.users.get(artifact)?.first().copied()
    }

    /// The job has these too.
    pub fn add(&mut self, job: JobId, artifacts: &[ArtifactRef]) {
        if artifacts.is_empty() {
            return;
        }
        for artifact in artifacts {
            self.users.entry(artifact.artifact).or_default().push(job);
        }
        self.of.entry(job).or_default().extend_from_slice(artifacts);
    }

    /// The job has nothing any more; this is what it had.
    pub fn remove(&mut self, job: JobId) -> Vec<ArtifactRef> {
        let had = self.of.remove(&job).unwrap_or_default();
        for artifact in &had {
            self.forget(job, artifact.artifact);
        }
        had
    }

    /// The job has no longer what is not to be kept.
    pub fn retain(&mut self, job: JobId, keep: impl Fn(&ArtifactRef) -> bool) {
        let had = self.remove(job);
        let kept: Vec<ArtifactRef> = had.into_iter().filter(keep).collect();
        self.add(job, &kept);
    }

    fn forget(&mut self, job: JobId, artifact: ArtifactId) {
        let Some(users) = self.users.get_mut(&artifact) else { return };
        if let Some(at) = users.iter().position(|user| *user == job) {
            users.remove(at);
        }
        if users.is_empty() {
            self.users.remove(&artifact);
        }
    }
}
