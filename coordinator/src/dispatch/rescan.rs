//! Has everything stored judged anew, a few rows at each tick, and takes down what fails.
//!
//! One batch is out at a time; what it came to is journalled with how far it went, so a restart loses at most one
//! batch of work and nothing twice. While jobs wait to be judged, only one row is looked at a second.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use crate::farm::RescanRefused;
use crate::jobs::moderation::Moderation;
use crate::jobs::rescan::{Batch, Rescan, RescanOrder};
use crate::jobs::{JobRow, RescanState};
use crate::moderation::{ModerationMsg, RescanItem};
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::Asked;
use zoetrope_protocol::id::{JobId, Millis};

/// Who does not answer in this time hangs: loading the nets of a policy takes seconds, a batch of the highest rate
/// less than one.
const BATCH_LIMIT: Duration = Duration::from_secs(120);

impl DispatchState {
    /// Begins a rescan, unless one goes on.
    pub(super) fn rescan(&mut self, order: RescanOrder) -> Result<Rescan, RescanRefused> {
        if self.books.rescan.as_ref().is_some_and(Rescan::is_running) {
            return Err(RescanRefused::Running);
        }
        self.rescanning = None;
        self.record(Entry::RescanBegan { order: Box::new(order) });
        self.books.rescan.clone().ok_or(RescanRefused::None)
    }

    /// Ends a rescan; what was taken down stays down.
    pub(super) fn cancel_rescan(&mut self) -> Result<Rescan, RescanRefused> {
        if self.books.rescan.as_ref().is_some_and(Rescan::is_running) {
            self.rescanning = None;
            self.record(Entry::RescanCancelled);
        }
        self.books.rescan.clone().ok_or(RescanRefused::None)
    }

    /// The next batch, once a second.
    pub(super) fn rescan_due(&mut self) {
        let Some(rescan) = self.books.rescan.as_ref().filter(|rescan| rescan.is_running()) else {
            return;
        };
        match self.rescanning {
            Some(asked) if asked.elapsed() < BATCH_LIMIT => return,
            Some(_) => tracing::warn!("a batch of the rescan was not answered in time; again"),
            None => {}
        }
        let busy = !self.books.intake.is_empty() || !self.judging.is_empty();
        let count = if busy { 1 } else { rescan.order.per_second as usize };
        let rows: Vec<&JobRow> = self.books.table.behind(rescan.through).take(count).collect();
        let through = rows.last().map(|row| (row.created, row.job));
        let items = rows.into_iter().filter_map(|row| self.rescan_item(row)).collect::<Vec<_>>();
        if items.is_empty() {
            let batch = Batch { through, ..Batch::default() };
            return self.record(Entry::RescanWent { batch: Box::new(batch) });
        }
        let (policy, back) = (rescan.order.policy.clone(), self.myself.clone());
        let began = rescan.began;
        let message = ModerationMsg::Rescan { began, policy, items, through, back };
        self.rescanning = self.ask_moderation(message).then(Instant::now);
    }

    /// What is to be judged of a row; none where nothing can be read any more, or never could.
    fn rescan_item(&self, row: &JobRow) -> Option<RescanItem> {
        if row.deleted || row.assets_gone || row.taken_down.is_some() {
            return None;
        }
        let known = self.books.moderation.of(row.job).cloned().unwrap_or_default();
        let words = super::moderate::words(&row.spec);
        let render = &row.spec.render;
        let asked = |clip| Asked { clip, frames: render.frames, audio: render.audio };
        let record = match row.state {
            zoetrope_sched::output::JobState::Failed(_) => return None,
            zoetrope_sched::output::JobState::Completed => {
                let proofs = self.books.table.proofs().of(row.job);
                let clip = proofs.and_then(|p| p.moderated.as_ref()).map(|proof| proof.file);
                // Without either nobody can say what is in it.
                Some(row.record.zip(clip.map(asked)))
            }
            // Its words are judged by the policy of now, by the intake.
            _ if self.books.intake.of(row.job).is_some() => return None,
            _ => None,
        };
        let Moderation { audience, input, .. } = known;
        let (job, created, again) = (row.job, row.created, false);
        Some(RescanItem { job, created, audience, words, input, record, again })
    }

    /// What a batch came to; none if it could not be judged now.
    pub(super) fn rescanned(&mut self, began: Millis, batch: Option<Batch>) {
        let current = self.books.rescan.as_ref();
        if current.is_none_or(|rescan| !rescan.is_running() || rescan.began != began) {
            return;
        }
        // An answer that comes after its time was asked for again.
        if self.rescanning.take().is_none() {
            return;
        }
        let Some(batch) = batch else { return };
        let dry_run = current.is_some_and(|rescan| rescan.order.dry_run);
        let failing: Vec<JobId> = batch.failing.iter().map(|one| one.job).collect();
        self.record(Entry::RescanWent { batch: Box::new(batch) });
        if !dry_run {
            for job in failing {
                tracing::info!(%job, "the rescan takes a job down");
                self.after_sync(Effect::Unpublish(job));
            }
        }
    }

    /// How the rescan stands, and how many rows there are.
    pub(super) fn rescan_view(&self) -> Option<(Rescan, u64)> {
        let rescan = self.books.rescan.clone()?;
        let left = match rescan.state {
            RescanState::Running => self.books.table.count_behind(rescan.through) as u64,
            RescanState::Done | RescanState::Cancelled => 0,
        };
        Some((rescan, left))
    }
}
