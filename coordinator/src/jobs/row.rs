//! One row of the job table: all that is remembered of a job, and what follows from it alone.

use super::{Asset, Assets, History, JobView, Moderation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use zoetrope_protocol::id::{ArtifactId, Fence, JobId, Millis};
use zoetrope_protocol::job::{ArtifactRef, ClipFacts, JobSpec, Role};
use zoetrope_sched::output::{FailWhy, JobState};

/// The shortest life of the files of a job, counted from completion.
const EXPIRY_MIN: Millis = Millis(3_600_000);

/// What is remembered of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// The job.
    pub job: JobId,
    /// What was asked.
    pub spec: JobSpec,
    /// Content hash of the request.
    pub content: [u8; 32],
    /// Hash of the caller's idempotency key.
    pub idempotency: Option<[u8; 32]>,
    /// When it was admitted.
    pub created: Millis,
    /// Where it stands.
    pub state: JobState,
    /// When its first attempt was placed.
    pub in_progress: Option<Millis>,
    /// When it ended.
    pub ended: Option<Millis>,
    /// Denoising steps that are safe in the store.
    pub steps_done: u32,
    /// `model@sha256:…`, once known.
    pub resolved_model: Option<String>,
    /// GPU time of all attempts.
    pub gpu: Millis,
    /// What was measured on the clip of a finish attempt.
    pub facts: Option<(Fence, ClipFacts)>,
    /// The finish attempt's outputs that are being published.
    pub publishing: Option<(Fence, Vec<ArtifactRef>)>,
    /// Its files, once completed.
    pub assets: Option<Assets>,
    /// Whether its files are gone: expired, or the job was deleted.
    pub assets_gone: bool,
    /// Hidden for ever.
    pub deleted: bool,
    /// Artifacts that the unfinished job may still need; of an ended one, those that have not gone yet.
    pub working: BTreeSet<ArtifactId>,
    /// Its attempts and its chain, for operators.
    pub history: History,
    /// What its clip was judged by; kept as long as its files, so that it can be judged anew.
    pub record: Option<ArtifactRef>,
    /// When a rescan took it down.
    pub taken_down: Option<Millis>,
}

impl JobRow {
    /// What the table alone can say of the job; the dispatch actor adds progress, queue and estimates.
    pub fn view(&self) -> JobView {
        JobView {
            job: self.job,
            spec: self.spec.clone(),
            content: self.content,
            created: self.created,
            state: self.state,
            in_progress: self.in_progress,
            ended: self.ended,
            progress: 0,
            phase: None,
            publication: None,
            queue_position: None,
            estimated_start: None,
            estimated_completion: None,
            resolved_model: self.resolved_model.clone(),
            gpu: self.gpu,
            assets: self.assets.clone(),
            expires: self.expires(),
            taken_down: self.taken_down,
            moderation: Moderation::default(),
            judging: false,
        }
    }

    /// Whether it ended.
    pub fn is_terminal(&self) -> bool {
        matches!(self.state, JobState::Completed | JobState::Failed(_))
    }

    /// Whether its clip can be read, or may still come to be: its pointer stays.
    pub fn keeps_pointer(&self) -> bool {
        let taken = self.taken_down.is_some() || self.assets_gone;
        !self.deleted && !taken && !matches!(self.state, JobState::Failed(_))
    }

    /// Whether nothing but the row is left of it.
    pub(super) fn may_leave(&self) -> bool {
        let no_files = self.assets.is_none() || self.assets_gone;
        self.ended.is_some() && self.working.is_empty() && no_files
    }

    /// Bytes of what its caller wrote.
    pub(super) fn words_bytes(&self) -> u64 {
        let pairs = self.spec.metadata.iter().map(|(name, value)| name.len() + value.len());
        let warnings = self.spec.warnings.iter().map(|warning| warning.message.len());
        let user = self.spec.safety_identifier.as_ref().map_or(0, String::len);
        let words = self.spec.render.prompt.len() + user + pairs.chain(warnings).sum::<usize>();
        words as u64
    }

    /// What its caller wrote goes.
    pub(super) fn forget_words(&mut self) {
        self.spec.render.prompt = String::new();
        self.spec.metadata.clear();
        self.spec.safety_identifier = None;
        self.spec.warnings.clear();
    }

    /// Whether it ended without a clip.
    pub fn failed(&self) -> bool {
        matches!(self.state, JobState::Failed(_))
    }

    /// Since when what is left of it counts as left. What was cancelled, deleted or blocked is not to be looked into: it
    /// is long since.
    pub(super) fn left_since(&self) -> Option<Millis> {
        let outside = matches!(self.state, JobState::Failed(FailWhy::Ended(_)));
        self.ended.map(|ended| if outside { Millis(0) } else { ended })
    }

    /// What is left of the way to its clip, and is neither of its files nor what was measured of them.
    pub(super) fn intermediates(&self) -> impl Iterator<Item = &ArtifactId> {
        let outputs = self.publishing.iter().flat_map(|(_, outputs)| outputs);
        let kept: Vec<ArtifactId> = outputs
            .filter(|_| self.state == JobState::Completed && !self.assets_gone)
            .map(|output| output.artifact)
            .collect();
        self.working.iter().filter(move |artifact| !kept.contains(artifact))
    }

    /// When its files go; none unless completed.
    pub fn expires(&self) -> Option<Millis> {
        let ended = self.ended.filter(|_| self.state == JobState::Completed)?;
        let after = self.spec.expires_after;
        let life = Millis(u64::from(after.seconds) * 1_000);
        let from = if after.from_completion { ended } else { self.created };
        Some(from.plus(life).max(ended.plus(EXPIRY_MIN)))
    }

    /// Artifacts that must stay for it.
    pub(super) fn uses(&self) -> BTreeSet<ArtifactId> {
        let mut all = self.working.clone();
        if let Some(assets) = self.assets.as_ref().filter(|_| !self.assets_gone) {
            all.extend(assets.artifacts());
            all.extend(self.record.map(|record| record.artifact));
        }
        all
    }

    /// The files of the clip that is being published, if it is complete and was measured.
    pub fn published(&self) -> Option<Assets> {
        let (fence, outputs) = self.publishing.as_ref()?;
        let (measured, facts) = self.facts.as_ref()?;
        let find = |role: Role| {
            let found = outputs.iter().find(|output| output.role == role)?;
            Some(Asset { artifact: found.artifact, bytes: found.bytes })
        };
        let assets = Assets {
            video: find(Role::Clip)?,
            thumbnail: find(Role::Thumbnail)?,
            spritesheet: find(Role::Spritesheet)?,
            sprite_columns: facts.sprite_columns,
            sprite_rows: facts.sprite_rows,
        };
        (fence == measured).then_some(assets)
    }

    /// The record that the clip that is being published was judged by.
    pub fn judged_by(&self) -> Option<ArtifactRef> {
        let (_, outputs) = self.publishing.as_ref()?;
        outputs.iter().find(|output| output.role == Role::Scores).copied()
    }
}
