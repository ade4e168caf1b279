//! Has everything stored judged anew, a few rows at each tick, and takes down what fails.
//!
//! One batch is out at a time; what it came to is journalled with how far it went, so a restart loses at most one
//! batch of work and nothing twice. While jobs wait to be judged, only one row is looked at a second. Behind the last row
//! comes a second pass over the jobs that were not finished when the rescan began, if their clips were judged by another
//! policy. Only that pass begins anew after a restart, and counts its first rows again.

use super::books::Entry;
use super::effects::Effect;
use super::state::DispatchState;
use crate::farm::RescanRefused;
use crate::jobs::moderation::Moderation;
use crate::jobs::rescan::{Batch, Left, Rescan, RescanOrder};
use crate::jobs::{JobRow, RescanState};
use crate::moderation::{ModerationMsg, RescanItem};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};
use zoetrope_moderation::judge::Asked;
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_sched::output::JobState;

/// Who does not answer in this time hangs: a batch ends after 30 s, and its last row and the nets of a policy take some more.
const BATCH_LIMIT: Duration = Duration::from_secs(120);
/// Between two tries where nothing can be judged now.
const PAUSE: Duration = Duration::from_secs(2);
/// Rows of the second pass that are looked at in one tick: two milliseconds.
const AGAIN_MAX: usize = 10_000;

/// The place of a row in the walk.
type Place = (Millis, JobId);

/// What is known of the rescan beside the books.
#[derive(Default)]
pub(super) struct Rescanning {
    /// The batch that is out, since when.
    out: Option<(Instant, Pass)>,
    /// Since when it pauses.
    paused: Option<Instant>,
    /// Jobs that were passed and are to be looked at again; not known after a start.
    later: Option<BTreeSet<Place>>,
    /// The last of them that was.
    again: Option<Place>,
}

/// Which rows a batch is of.
enum Pass {
    /// Rows that were not looked at before.
    First,
    /// Rows that were passed before. These are done, or gone, once they are judged.
    Again(Vec<Place>),
}

impl DispatchState {
    /// Begins a rescan, unless one goes on.
    pub(super) fn rescan(&mut self, order: RescanOrder) -> Result<Rescan, RescanRefused> {
        if self.books.rescan.as_ref().is_some_and(Rescan::is_running) {
            return Err(RescanRefused::Running);
        }
        self.rescanning = Rescanning { later: Some(BTreeSet::new()), ..Rescanning::default() };
        self.record(Entry::RescanBegan { order: Box::new(order) });
        self.books.rescan.clone().ok_or(RescanRefused::None)
    }

    /// Ends a rescan; what was taken down stays down.
    pub(super) fn cancel_rescan(&mut self) -> Result<Rescan, RescanRefused> {
        if self.books.rescan.as_ref().is_some_and(Rescan::is_running) {
            self.rescanning.out = None;
            self.record(Entry::RescanCancelled);
        }
        self.books.rescan.clone().ok_or(RescanRefused::None)
    }

    /// The next batch, once a second.
    pub(super) fn rescan_due(&mut self) {
        let Some(rescan) = self.books.rescan.as_ref().filter(|rescan| rescan.is_running()) else {
            return;
        };
        match &self.rescanning.out {
            Some((asked, _)) if asked.elapsed() < BATCH_LIMIT => return,
            Some(_) => tracing::warn!("a batch of the rescan was not answered in time; again"),
            None => {}
        }
        if self.rescanning.paused.is_some_and(|since| since.elapsed() < PAUSE) {
            return;
        }
        if self.rescanning.later.is_none() {
            self.rescanning.later = Some(self.passed_by(rescan, None, rescan.through));
        }
        let busy = !self.books.intake.is_empty() || !self.judging.is_empty();
        let count = if busy { 1 } else { rescan.order.per_second as usize };
        let rows: Vec<&JobRow> = self.books.table.behind(rescan.through).take(count).collect();
        let (through, pass, items) = match rows.last() {
            Some(last) => {
                let item = |row: &&JobRow| {
                    let item = self.rescan_item(row)?;
                    let again = rescan.comes_back_to(row);
                    let record = item.record.filter(|_| !again);
                    Some(RescanItem { record, again, ..item })
                };
                let items = rows.iter().filter_map(item).collect();
                (Some((last.created, last.job)), Pass::First, items)
            }
            None => self.again(count),
        };
        if items.is_empty() {
            let batch = Batch { through, ..Batch::default() };
            return self.went(pass, batch);
        }
        let (policy, back) = (rescan.order.policy.clone(), self.myself.clone());
        let began = rescan.began;
        let message = ModerationMsg::Rescan { began, policy, items, through, back };
        self.rescanning.out = self.ask_moderation(message).then(|| (Instant::now(), pass));
    }

    /// Jobs between two places of the walk that are to be looked at again.
    fn passed_by(
        &self,
        rescan: &Rescan,
        from: Option<Place>,
        through: Option<Place>,
    ) -> BTreeSet<Place> {
        let rows = self.books.table.behind(from).map(|row| ((row.created, row.job), row));
        let rows = rows.take_while(|(place, _)| through.is_some_and(|through| *place <= through));
        rows.filter(|(_, row)| rescan.comes_back_to(row)).map(|(place, _)| place).collect()
    }

    /// The next rows of the second pass, and the last one that was looked at; none if there are no more.
    fn again(&self, count: usize) -> (Option<Place>, Pass, Vec<RescanItem>) {
        let (mut last, mut done, mut items) = (None, Vec::new(), Vec::new());
        let from = self.rescanning.again.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.rescanning.later.iter().flat_map(|l| l.range((from, Bound::Unbounded)));
        for place in later.take(AGAIN_MAX) {
            last = Some(*place);
            let row = self.books.table.row(place.1).filter(|row| row.keeps_pointer());
            if row.is_none_or(|row| row.state == JobState::Completed) {
                done.push(*place);
                items.extend(row.and_then(|row| self.rescan_item(row)));
            }
            if items.len() == count {
                break;
            }
        }
        (last, Pass::Again(done), items)
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
            JobState::Failed(_) => return None,
            JobState::Completed => {
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
        Some(RescanItem {
            job: row.job,
            created: row.created,
            audience,
            words,
            input,
            record,
            again: false,
        })
    }

    /// What a batch came to; none if it could not be judged now.
    pub(super) fn rescanned(&mut self, began: Millis, batch: Option<Batch>) {
        let current = self.books.rescan.as_ref();
        if current.is_none_or(|rescan| !rescan.is_running() || rescan.began != began) {
            return;
        }
        // An answer that comes after its time was asked for again.
        let Some((_, pass)) = self.rescanning.out.take() else { return };
        self.rescanning.paused = batch.is_none().then(Instant::now);
        if let Some(batch) = batch {
            self.went(pass, batch);
        }
    }

    /// Journals how far it is, and takes down what fails.
    fn went(&mut self, pass: Pass, mut batch: Batch) {
        let Some(rescan) = &self.books.rescan else { return };
        let (dry_run, place) = (rescan.order.dry_run, batch.through);
        let failing: BTreeSet<JobId> = batch.failing.iter().map(|one| one.job).collect();
        match &pass {
            Pass::First => {
                let mut passed = self.passed_by(rescan, rescan.through, place);
                // What fails by its words need not be looked at again.
                passed.retain(|(_, job)| !failing.contains(job));
                self.rescanning.later.get_or_insert_default().append(&mut passed);
            }
            Pass::Again(done) => {
                let later = self.rescanning.later.get_or_insert_default();
                for one in done.iter().filter(|one| place.is_some_and(|place| **one <= place)) {
                    later.remove(one);
                }
                // The walk is where it was; without a place it is done.
                batch.through = place.and(rescan.through);
                self.rescanning.again = place;
                let idle = batch.passed == 0 && failing.is_empty() && batch.unjudged.is_empty();
                if idle && place.is_some() {
                    return;
                }
            }
        }
        self.record(Entry::RescanWent { batch: Box::new(batch) });
        if !dry_run {
            for job in failing {
                tracing::info!(%job, "the rescan takes a job down");
                self.after_sync(Effect::Unpublish(job));
            }
        }
    }

    /// How the rescan stands, and what it has not judged.
    pub(super) fn rescan_view(&self) -> Option<(Rescan, Left)> {
        let rescan = self.books.rescan.clone()?;
        let rows = match rescan.state {
            RescanState::Running => self.books.table.count_behind(rescan.through) as u64,
            RescanState::Done | RescanState::Cancelled => 0,
        };
        let pending = self.rescanning.later.as_ref().map(|later| later.len() as u64);
        Some((rescan, Left { rows, pending }))
    }
}
