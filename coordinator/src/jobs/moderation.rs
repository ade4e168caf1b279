//! What was judged of each job: its words before it was queued, its clip before it was published. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use zoetrope_protocol::id::{Fence, JobId};
use zoetrope_protocol::moderation::{Audience, Verdict};

/// Of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moderation {
    /// For whom its clip is.
    pub audience: Audience,
    /// Of its words.
    pub input: Option<Verdict>,
    /// Of the frames of a finish attempt.
    pub output: Option<(Fence, Verdict)>,
}

/// Of all jobs that came since there is moderation.
#[derive(Clone, Debug, Default)]
pub struct ModerationTable {
    jobs: BTreeMap<JobId, Arc<Moderation>>,
}

impl ModerationTable {
    /// The table of a snapshot.
    pub fn from_rows(rows: Vec<(JobId, Arc<Moderation>)>) -> ModerationTable {
        ModerationTable { jobs: rows.into_iter().collect() }
    }

    /// What a snapshot must hold; rows are shared, so this is quick.
    pub fn to_rows(&self) -> Vec<(JobId, Arc<Moderation>)> {
        self.jobs.iter().map(|(job, row)| (*job, row.clone())).collect()
    }

    /// What is known of a job.
    pub fn of(&self, job: JobId) -> Option<&Moderation> {
        self.jobs.get(&job).map(Arc::as_ref)
    }

    /// All that is known, by job.
    pub fn all(&self) -> impl Iterator<Item = (JobId, &Moderation)> {
        self.jobs.iter().map(|(job, row)| (*job, row.as_ref()))
    }

    /// How many jobs it knows.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// A job was admitted.
    pub fn admit(&mut self, job: JobId, audience: Audience) {
        self.jobs.insert(job, Arc::new(Moderation { audience, ..Moderation::default() }));
    }

    /// Its words were judged.
    pub fn input(&mut self, job: JobId, verdict: Verdict) {
        Arc::make_mut(self.jobs.entry(job).or_default()).input = Some(verdict);
    }

    /// The clip of a finish attempt was judged.
    pub fn output(&mut self, job: JobId, fence: Fence, verdict: Verdict) {
        Arc::make_mut(self.jobs.entry(job).or_default()).output = Some((fence, verdict));
    }

    /// Forgets the jobs that nobody else knows any more.
    pub fn keep(&mut self, known: impl Fn(JobId) -> bool) {
        self.jobs.retain(|job, _| known(*job));
    }
}
