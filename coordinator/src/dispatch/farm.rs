//! Answers the door: admits jobs, shows them, ends them. Every answer waits for the sync behind it.

use super::books::Entry;
use super::effects::Effect;
use super::estimate;
use super::state::DispatchState;
use super::words::FailWord;
use crate::clock;
use crate::farm::{CancelRefused, FarmMsg, SubmitRefused};
use crate::fsck::Listed;
use crate::jobs::{JobRow, JobTable, JobView, ListQuery, Publication, Submission};
use ractor::RpcReplyPort;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::metric;
use zoetrope_protocol::moderation::{Audience, Outcome};
use zoetrope_protocol::mutant::{Mutant, on};
use zoetrope_sched::Input;
use zoetrope_sched::input::{Ask, EndWhy};
use zoetrope_sched::output::{FailWhy, JobState};

/// Sends an answer. Who asked may be gone, and that is no news.
fn answer<T: Send + 'static>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

/// What a request is that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The same request: this is its job.
    Same(JobId),
    /// Another request under the same key, or with a job's id.
    KeyReused,
}

/// Whether a request came before.
pub fn repeat(table: &JobTable, now: Millis, submission: &Submission) -> Option<Repeat> {
    let key = submission.idempotency.filter(|_| !on(Mutant::NoIdempotency));
    if let Some(row) = key.and_then(|key| table.by_key(now, &key)) {
        let same = row.content == submission.content;
        return Some(if same { Repeat::Same(row.job) } else { Repeat::KeyReused });
    }
    // An id that is taken cannot be random; it would show one caller's job to another.
    table.row(submission.job).map(|_| Repeat::KeyReused)
}

impl DispatchState {
    pub(super) fn farm(&mut self, message: FarmMsg) {
        match message {
            FarmMsg::Submit(submission, audience, reply) => {
                self.submit(*submission, audience, reply);
            }
            FarmMsg::Read(tenant, job, reply) => {
                self.read(reply, move |state| {
                    state.books.table.of(tenant, job).map(|row| state.view(row))
                });
            }
            FarmMsg::List(tenant, query, reply) => {
                self.read(reply, move |state| state.list(Some(tenant), query));
            }
            FarmMsg::AllJobs(query, reply) => {
                self.read(reply, move |state| state.list(None, query))
            }
            FarmMsg::Cancel(tenant, job, reply) => self.cancel(tenant, job, reply),
            FarmMsg::Delete(tenant, job, reply) => self.delete(tenant, job, reply),
            FarmMsg::FindKeyed(key, reply) => {
                let row = self.books.table.by_key(clock::now(), &key);
                match row.map(|row| self.view(row)) {
                    // Nothing is shown that a crash could take back, and most requests with a key are the first.
                    None => answer(reply, None),
                    found => self.read(reply, move |_| found),
                }
            }
            FarmMsg::FindResent(tenant, content, reply) => self.read(reply, move |state| {
                let row = state.books.table.resent(clock::now(), tenant, &content);
                row.map(|row| state.view(row))
            }),
            FarmMsg::Proofs(tenant, job, reply) => self.read(reply, move |state| {
                let row = state.books.table.of(tenant, job)?;
                state.books.table.proofs().of(row.job).cloned()
            }),
            FarmMsg::Share(tenant, job, new, reply) => self.share(tenant, job, new, reply),
            FarmMsg::Shares(tenant, job, reply) => self.shares(tenant, job, reply),
            FarmMsg::Unshare(tenant, job, share, reply) => self.unshare(tenant, job, share, reply),
            FarmMsg::OpenShare(share, variant, read, reply) => {
                self.open_share(share, variant, read, reply);
            }
            FarmMsg::Listed(after, at_most, reply) => {
                self.read(reply, move |state| state.listed(after, at_most));
            }
            FarmMsg::ListedOne(job, reply) => self.read(reply, move |state| {
                state.books.table.row(job).map(|row| state.listed_row(row))
            }),
            FarmMsg::PointerStale(jobs, reply) => self.read(reply, move |state| {
                let keeps =
                    |job: &JobId| state.books.table.row(*job).is_some_and(JobRow::keeps_pointer);
                jobs.into_iter().filter(|job| !keeps(job)).collect()
            }),
            FarmMsg::PointerUnknown(jobs, reply) => self.read(reply, move |state| {
                jobs.iter().any(|job| state.books.table.row(*job).is_none())
            }),
            FarmMsg::Unused(artifacts, reply) => {
                self.read(reply, move |state| state.unused(artifacts));
            }
            FarmMsg::Marked(mark, reply) => self.read(reply, move |state| {
                let row = state.books.table.row(state.books.table.marks().job_of(mark)?)?;
                (!row.deleted).then(|| (row.spec.tenant, state.view(row)))
            }),
            FarmMsg::MarksIssued(reply) => {
                self.read(reply, |state| state.books.table.marks().next().unwrap_or(u32::MAX));
            }
            FarmMsg::Why(tenant, job, reply) => {
                self.read(reply, move |state| state.why(tenant, job))
            }
            FarmMsg::History(job, reply) => self.read(reply, move |state| {
                let row = state.books.table.row(job).filter(|row| !row.deleted)?;
                Some((state.view(row), row.history.clone()))
            }),
            FarmMsg::Ready(reply) => self.read(reply, |_| ()),
            FarmMsg::Workers(reply) => self.read(reply, DispatchState::worker_rows),
            FarmMsg::Drain(workers, drain, reply) => {
                let drained = self.drain(&workers, drain);
                self.read(reply, move |_| drained);
            }
            FarmMsg::Cordon(worker, cordoned, reply) => {
                let found = self.cordon(&worker, cordoned);
                self.read(reply, move |_| found);
            }
            FarmMsg::Move(job, to, reply) => {
                let moved = self.move_job(job, to.as_deref());
                self.read(reply, move |_| moved);
            }
            FarmMsg::Rescan(order, reply) => {
                let began = self.rescan(*order);
                self.read(reply, move |_| began);
            }
            FarmMsg::RescanCancel(reply) => {
                let ended = self.cancel_rescan();
                self.read(reply, move |_| ended);
            }
            FarmMsg::RescanView(reply) => self.read(reply, DispatchState::rescan_view),
            FarmMsg::JoinToken { uses, ttl, reply } => self.join_token(uses, ttl, reply),
        }
    }

    /// Answers once all that the answer shows is on disk. It is made now: later the books may be ahead of the disk
    /// again, and what a crash takes back must not have been shown.
    pub(super) fn read<T: Send + 'static>(
        &mut self,
        reply: RpcReplyPort<T>,
        make: impl FnOnce(&DispatchState) -> T,
    ) {
        let value = make(self);
        self.after_sync(Effect::Answer(Box::new(move || answer(reply, value))));
    }

    fn submit(
        &mut self,
        submission: Submission,
        audience: Audience,
        reply: RpcReplyPort<Result<JobView, SubmitRefused>>,
    ) {
        let (job, tenant) = (submission.job, submission.spec.tenant);
        match self.admission(&submission) {
            Err(refused) => {
                // A repeated answer shows a job that may not be on disk yet.
                self.read(reply, move |state| Err(state.refusal(refused)));
            }
            Ok(ask) => {
                if self.books.core.tenant(tenant).is_none() {
                    let policy = self.limits.policy_of(tenant);
                    self.record(Entry::Core(Input::TenantSet { tenant, policy }));
                }
                let class = submission.spec.class.word();
                let model = submission.spec.render.model.clone();
                self.record(Entry::Asked { submission: Box::new(submission), ask, audience });
                self.metrics.count(&metric::JOBS_SUBMITTED, &[class, &model]);
                self.note_estimate(job);
                if let Some(view) = self.books.table.row(job).map(|row| self.view(row)) {
                    self.read(reply, |_| Ok(view));
                }
            }
        }
    }

    /// Remembers when the job was said to end, to be held against when it does.
    fn note_estimate(&mut self, job: JobId) {
        let view = self.books.table.row(job).map(|row| self.view(row));
        if let Some(end) = view.and_then(|view| view.estimated_completion) {
            self.estimates.insert(job, end);
        }
    }

    fn refusal(&self, refused: Refused) -> SubmitRefused {
        match refused {
            Refused::Because(why) => why,
            Refused::Replay(job) => match self.books.table.row(job) {
                Some(row) => SubmitRefused::Replay(Box::new(self.view(row))),
                None => SubmitRefused::KeyReused,
            },
        }
    }

    fn admission(&self, submission: &Submission) -> Result<Ask, Refused> {
        let spec = &submission.spec;
        let now = clock::now();
        match repeat(&self.books.table, now, submission) {
            Some(Repeat::Same(job)) => return Err(Refused::Replay(job)),
            Some(Repeat::KeyReused) => return Err(Refused::Because(SubmitRefused::KeyReused)),
            None => {}
        }
        let unfinished = self.books.core.tenant(spec.tenant).map_or(0, |tenant| tenant.unfinished)
            + self.books.intake.of_tenant(spec.tenant);
        let words = self.books.table.is_full_of(spec.tenant);
        if unfinished >= self.limits.jobs_of_tenant || words {
            let seconds = self.retry_seconds(Some(spec.tenant));
            return Err(Refused::Because(SubmitRefused::TenantQueueFull { seconds }));
        }
        let waiting = self.books.intake.len();
        let farm = self.books.core.counts().unfinished() + waiting as u64;
        let full = farm >= self.limits.jobs_of_farm || self.books.table.is_full();
        if full || self.is_behind() {
            let seconds = self.retry_seconds(None);
            return Err(Refused::Because(SubmitRefused::FarmQueueFull { seconds }));
        }
        // The door checked the name; a model that is gone since cannot be rendered by anyone.
        let model = self.models.find(&spec.render.model).unwrap_or_else(|| self.models.default());
        let expected = self.medians.expected(model, &spec.render);
        let learned = self.medians.learned(model, &spec.render);
        let ask = Ask {
            tenant: spec.tenant,
            class: spec.class,
            model: model.id,
            steps: spec.render.steps,
            expected,
            deadline: spec.deadline,
            learned,
            decode: model.decode(spec.render.shape()),
        };
        if !self.books.core.feasible(now, &ask, self.books.intake.asks_of(spec.tenant)) {
            return Err(Refused::Because(SubmitRefused::DeadlineInfeasible));
        }
        Ok(ask)
    }

    fn cancel(
        &mut self,
        tenant: TenantId,
        job: JobId,
        reply: RpcReplyPort<Result<JobView, CancelRefused>>,
    ) {
        let ends = match self.books.table.of(tenant, job) {
            None => return self.read(reply, |_| Err(CancelRefused::NoSuchJob)),
            Some(row) => !row.is_terminal(),
        };
        if ends {
            self.record(Entry::Core(Input::EndAsked { job, why: EndWhy::Cancelled }));
        }
        self.read(reply, move |state| match state.books.table.of(tenant, job) {
            None => Err(CancelRefused::NoSuchJob),
            Some(row) if ends => Ok(state.view(row)),
            Some(row) => Err(CancelRefused::Terminal(Box::new(state.view(row)))),
        });
    }

    fn delete(&mut self, tenant: TenantId, job: JobId, reply: RpcReplyPort<bool>) {
        let found = self.books.table.of(tenant, job).is_some();
        if found {
            self.record(Entry::Deleted { job });
            self.after_sync(Effect::Unpublish(job));
        }
        self.read(reply, move |_| found);
    }

    fn listed(&self, after: Option<JobId>, at_most: usize) -> Vec<Listed> {
        let rows = self.books.table.rows_after(after);
        rows.take(at_most).map(|row| self.listed_row(row)).collect()
    }

    fn listed_row(&self, row: &JobRow) -> Listed {
        Listed::of(row, self.books.table.proofs().of(row.job))
    }

    fn why(&self, tenant: Option<TenantId>, job: JobId) -> Option<String> {
        let row = self.books.table.row(job).filter(|row| !row.deleted)?;
        if tenant.is_some_and(|tenant| tenant != row.spec.tenant) {
            return None;
        }
        if row.is_terminal() {
            return Some(ended(row));
        }
        let (now, core) = (clock::now(), &self.books.core);
        let stands = || match tenant {
            None => core.why(now, job),
            // What others do and what runs where is not a tenant's to know.
            Some(_) => core.why_for_tenant(now, job),
        };
        self.books.intake.why(now, job).or_else(|| stands().map(|why| why.to_string()))
    }

    fn list(
        &self,
        tenant: Option<TenantId>,
        query: ListQuery,
    ) -> Result<crate::jobs::Page, crate::farm::NoSuchCursor> {
        self.books.table.list(tenant, query, |row| self.view(row))
    }

    fn join_token(&mut self, uses: u32, ttl: Millis, reply: RpcReplyPort<String>) {
        let authority = self.authority.clone();
        tokio::task::spawn_blocking(move || match authority.new_token(clock::now(), uses, ttl) {
            Ok(token) => answer(reply, token),
            // Dropping the port tells the caller that there is no answer.
            Err(error) => tracing::error!(%error, "no join token could be made"),
        });
    }

    /// When a full queue has room again, in whole seconds.
    fn retry_seconds(&self, tenant: Option<TenantId>) -> u32 {
        let wait = self.books.core.retry_after(tenant);
        u32::try_from(wait.0.div_ceil(1_000)).unwrap_or(u32::MAX)
    }

    /// How the clip of an unfinished job stands, once there is one.
    fn publication(&self, row: &JobRow) -> Option<Publication> {
        if self.signing.judges(row.job) {
            return Some(Publication::Moderating);
        }
        let (fence, _) = row.publishing.as_ref()?;
        let is_finished = self.books.core.job(row.job).is_some_and(|job| job.publishing);
        let judged = self.books.moderation.of(row.job).and_then(|known| known.output.as_ref());
        let passed = judged.is_some_and(|(of, verdict)| {
            of == fence && verdict.policy == self.policy && verdict.outcome == Outcome::Pass
        });
        is_finished.then_some(match passed {
            true => Publication::Publishing,
            false => Publication::Moderating,
        })
    }

    /// All that may be shown of a job now.
    pub(super) fn view(&self, row: &JobRow) -> JobView {
        let mut view = row.view();
        view.judging = self.books.intake.of(row.job).is_some();
        if let Some(known) = self.books.moderation.of(row.job) {
            view.moderation = known.clone();
        }
        match row.state {
            JobState::Completed => {
                view.progress = 100;
                return view;
            }
            JobState::Queued | JobState::InProgress => {
                (view.progress, view.phase) = self.board.of(row);
                view.publication = self.publication(row);
            }
            JobState::Failed(_) => {
                view.progress = self.board.of(row).0;
                return view;
            }
        }
        let now = clock::now();
        let model = self.models.find(&row.spec.render.model);
        let expected = model.map(|model| self.medians.expected(model, &row.spec.render));
        let left = expected.map(|expected| estimate::left(&expected, view.progress));
        let (core, waiting) = (&self.books.core, self.books.intake.of(row.job));
        let known = match waiting {
            Some(waiting) => core.estimate(now, &waiting.ask),
            None => core.estimate_of(now, row.job),
        };
        if row.state == JobState::Queued {
            // Behind all that wait already, until its words are judged.
            let last = || u32::try_from(core.counts().queued()).unwrap_or(u32::MAX);
            view.queue_position = core.queue_position(row.job).or_else(|| waiting.map(|_| last()));
            view.estimated_start = known.map(|known| known.start);
        }
        let began = row.state == JobState::InProgress;
        view.estimated_completion = estimate::end(now, known, left, began);
        view
    }
}

/// How a job has ended, in words.
fn ended(row: &JobRow) -> String {
    match row.state {
        JobState::Failed(why) => {
            let code = FailWord::of(why).word();
            match why {
                FailWhy::Poison(cause) => {
                    format!("it ended without a clip: {code} (the last cause was {cause})")
                }
                FailWhy::NotPublished(cause) => {
                    format!("it ended without a clip: {code} (not published: {cause})")
                }
                _ => format!("it ended without a clip: {code}"),
            }
        }
        _ if row.taken_down.is_some() => "it is completed, and a rescan took it down".to_owned(),
        _ if row.assets_gone => "it is completed, and its files have expired".to_owned(),
        _ => "it waits for nothing: it is completed".to_owned(),
    }
}

/// Why a submit makes no job.
enum Refused {
    Because(SubmitRefused),
    Replay(JobId),
}
