//! The intake: jobs whose words are not judged yet. None of them is in the core; only a verdict lets one through.
//!
//! A moderation sidecar that is down, hangs or answers nonsense makes a job wait and be asked about again, with
//! growing pauses; after half an hour the job ends as `moderation_unavailable`. Pure: part of the books, so live
//! and in recovery the same happens; time is an argument.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::job::Class;
use zoetrope_sched::input::{Ask, EndWhy};
use zoetrope_sched::output::FailWhy;

/// A verdict takes some ten milliseconds, behind a full queue seconds; who does not answer in this time hangs.
const ANSWER_LIMIT: Millis = Millis(30_000);
/// The first pause after a question without an answer; it doubles each time.
const PAUSE_FIRST: Millis = Millis(1_000);
/// The longest pause.
const PAUSE_MAX: Millis = Millis(60_000);
/// A job that nobody could judge for so long ends. The core gives up on dependencies after the same time.
const GIVE_UP: Millis = Millis(30 * 60_000);

/// A job that waits for its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What the core will be told.
    pub ask: Ask,
    /// Since when it waits.
    pub since: Millis,
    /// Questions without an answer so far.
    pub tries: u32,
    /// Whether a question is open; otherwise it pauses.
    pub asked: bool,
    /// Until when: the question, or the pause.
    pub until: Millis,
}

impl Waiting {
    fn wakes(&self) -> Millis {
        let gives_up = self.since.plus(GIVE_UP);
        self.until.min(gives_up).min(self.ask.deadline.unwrap_or(gives_up))
    }
}

/// What time brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fired {
    /// Ask about these.
    pub ask: Vec<JobId>,
    /// These end.
    pub end: Vec<(JobId, FailWhy)>,
}

/// All jobs that wait for a verdict on their words.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    jobs: BTreeMap<JobId, Waiting>,
    wakeups: BTreeSet<(Millis, JobId)>,
    /// Each tenant's, by id. No set is empty.
    tenants: BTreeMap<TenantId, BTreeSet<JobId>>,
    /// By the class's place in `Class::ALL`.
    classes: [u64; Class::ALL.len()],
}

impl Intake {
    /// The intake of a snapshot.
    pub fn from_rows(rows: Vec<(JobId, Waiting)>) -> Intake {
        let mut intake = Intake::default();
        for (job, waiting) in rows {
            intake.insert(job, waiting);
        }
        intake
    }

    /// What a snapshot must hold.
    pub fn to_rows(&self) -> Vec<(JobId, Waiting)> {
        self.jobs.iter().map(|(job, waiting)| (*job, waiting.clone())).collect()
    }

    /// A job that waits.
    pub fn of(&self, job: JobId) -> Option<&Waiting> {
        self.jobs.get(&job)
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Jobs of a tenant that wait.
    pub fn of_tenant(&self, tenant: TenantId) -> u32 {
        self.tenants.get(&tenant).map_or(0, |jobs| jobs.len() as u32)
    }

    /// What the core will be told of a tenant's jobs.
    pub fn asks_of(&self, tenant: TenantId) -> impl Iterator<Item = &Ask> {
        let jobs = self.tenants.get(&tenant).into_iter().flatten();
        jobs.map(|job| &self.jobs[job].ask)
    }

    /// Jobs of a class that wait.
    pub fn of_class(&self, class: Class) -> u64 {
        self.classes[class as usize]
    }

    /// When [`fire`](Intake::fire) is due.
    pub fn next_wakeup(&self) -> Option<Millis> {
        self.wakeups.first().map(|(at, _)| *at)
    }

    /// A job was admitted and is to be asked about.
    pub fn admit(&mut self, now: Millis, job: JobId, ask: Ask) {
        let until = now.plus(ANSWER_LIMIT);
        self.insert(job, Waiting { ask, since: now, tries: 0, asked: true, until });
    }

    /// The job leaves: it was judged, or is to end.
    pub fn take(&mut self, job: JobId) -> Option<Waiting> {
        let waiting = self.jobs.remove(&job)?;
        self.wakeups.remove(&(waiting.wakes(), job));
        self.classes[waiting.ask.class as usize] -= 1;
        if let Some(jobs) = self.tenants.get_mut(&waiting.ask.tenant) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.tenants.remove(&waiting.ask.tenant);
            }
        }
        Some(waiting)
    }

    /// There was no verdict: asks again after a pause.
    pub fn failed(&mut self, now: Millis, job: JobId) {
        let Some(waiting) = self.take(job) else { return };
        let doubled = PAUSE_FIRST.0.saturating_mul(1 << waiting.tries.min(20));
        let until = now.plus(Millis(doubled.min(PAUSE_MAX.0)));
        let tries = waiting.tries.saturating_add(1);
        self.insert(job, Waiting { tries, asked: false, until, ..waiting });
    }

    /// Whoever judges is there (again): asks about all.
    pub fn ask_all(&mut self, now: Millis) -> Vec<JobId> {
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for job in &jobs {
            self.ask(now, *job);
        }
        jobs
    }

    /// For so long nobody was asked, for the coordinator itself was down.
    pub fn excuse(&mut self, now: Millis, gap: Millis) {
        for (job, waiting) in self.to_rows() {
            self.take(job);
            self.insert(job, Waiting { since: waiting.since.plus(gap).min(now), ..waiting });
        }
    }

    /// Does what is due.
    pub fn fire(&mut self, now: Millis) -> Fired {
        let mut fired = Fired::default();
        while let Some((_, job)) = self.wakeups.first().copied().filter(|(at, _)| *at <= now) {
            let waiting = &self.jobs[&job];
            if waiting.ask.deadline.is_some_and(|at| at <= now) {
                self.take(job);
                fired.end.push((job, FailWhy::DeadlineExceeded));
            } else if waiting.since.plus(GIVE_UP) <= now {
                self.take(job);
                fired.end.push((job, FailWhy::Ended(EndWhy::Unmoderated)));
            } else if waiting.asked {
                self.failed(now, job);
            } else {
                self.ask(now, job);
                fired.ask.push(job);
            }
        }
        fired
    }

    /// Why a job waits, for an operator.
    pub fn why(&self, now: Millis, job: JobId) -> Option<String> {
        let waiting = self.jobs.get(&job)?;
        let seconds = now.minus(waiting.since).seconds();
        Some(if waiting.tries == 0 {
            format!(
                "{job} is queued\n  moderation: its words are being judged for {seconds} s (nobody has to act)\n"
            )
        } else {
            format!(
                "{job} is queued\n  moderation: dependency_down for {seconds} s, asked {} times; whoever judges its \
                 words does not answer (the operator can act)\n",
                waiting.tries
            )
        })
    }

    fn ask(&mut self, now: Millis, job: JobId) {
        if let Some(waiting) = self.take(job) {
            let until = now.plus(ANSWER_LIMIT);
            self.insert(job, Waiting { asked: true, until, ..waiting });
        }
    }

    fn insert(&mut self, job: JobId, waiting: Waiting) {
        self.wakeups.insert((waiting.wakes(), job));
        self.classes[waiting.ask.class as usize] += 1;
        self.tenants.entry(waiting.ask.tenant).or_default().insert(job);
        self.jobs.insert(job, waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_protocol::id::ModelId;
    use zoetrope_sched::input::Decode;

    fn ask(deadline: Option<Millis>) -> Ask {
        let (tenant, class, model) = (TenantId(1), Class::Default, ModelId(0));
        Ask {
            tenant,
            class,
            model,
            steps: 4,
            expected: vec![],
            deadline,
            learned: false,
            decode: Decode::default(),
        }
    }

    /// Promise: a sidecar that hangs or fails never lets a job through; it is asked again, and in the end says so.
    #[test]
    fn a_silent_sidecar_makes_a_job_wait_and_then_end() {
        let (mut intake, job) = (Intake::default(), JobId(1));
        intake.admit(Millis(0), job, ask(None));
        assert_eq!(intake.next_wakeup(), Some(ANSWER_LIMIT));
        assert_eq!(intake.fire(ANSWER_LIMIT), Fired::default(), "it pauses first");
        let mut asked = 0;
        loop {
            let at = intake.next_wakeup().expect("there is always a next event");
            let fired = intake.fire(at);
            asked += fired.ask.len();
            if let Some(end) = fired.end.first() {
                assert_eq!(*end, (job, FailWhy::Ended(EndWhy::Unmoderated)));
                assert_eq!(at, GIVE_UP);
                break;
            }
            assert!(intake.of(job).is_some());
        }
        assert!((10..200).contains(&asked), "{asked}");
        assert!(intake.is_empty() && intake.next_wakeup().is_none());
        assert_eq!((intake.of_tenant(TenantId(1)), intake.of_class(Class::Default)), (0, 0));
    }

    #[test]
    fn a_deadline_ends_a_job_that_nobody_judges() {
        let (mut intake, job) = (Intake::default(), JobId(1));
        intake.admit(Millis(0), job, ask(Some(Millis(5_000))));
        intake.failed(Millis(10), job);
        assert_eq!(intake.fire(Millis(1_100)).ask, [job]);
        assert_eq!(intake.fire(Millis(5_000)).end, [(job, FailWhy::DeadlineExceeded)]);
    }

    /// Promise: the time in which the coordinator was down is nobody's failure.
    #[test]
    fn a_coordinator_that_was_down_gives_nobody_up() {
        let (mut intake, job) = (Intake::default(), JobId(1));
        intake.admit(Millis(0), job, ask(None));
        let now = GIVE_UP.plus(Millis(1_000));
        intake.excuse(now, GIVE_UP);
        assert_eq!(intake.ask_all(now), [job]);
        assert_eq!(intake.fire(now), Fired::default());
        assert_eq!(intake.of(job).map(|waiting| waiting.since), Some(GIVE_UP));
    }

    #[test]
    fn a_snapshot_goes_on_where_it_was() {
        let mut intake = Intake::default();
        for n in 1..=3 {
            intake.admit(Millis(n), JobId(n.into()), ask(None));
        }
        intake.failed(Millis(9), JobId(2));
        let mut again = Intake::from_rows(intake.to_rows());
        assert_eq!(again.next_wakeup(), intake.next_wakeup());
        assert_eq!((again.of_tenant(TenantId(1)), again.of_class(Class::Default)), (3, 3));
        let asks = |tenant| again.asks_of(TenantId(tenant)).count();
        assert_eq!((asks(1), asks(2)), (3, 0));
        assert_eq!(again.ask_all(Millis(20)).len(), 3);
        assert!(again.take(JobId(2)).is_some_and(|waiting| waiting.asked));
    }
}
