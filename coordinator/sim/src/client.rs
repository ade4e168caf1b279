//! The callers: each wants one job, sends again what is not answered, and may cancel or delete it. They note what
//! they were told.

use crate::host::{Effect, limits, models};
use crate::world::{Event, World};
use zoetrope_coordinator::dispatch::books::Entry;
use zoetrope_coordinator::dispatch::farm::{Repeat, repeat};
use zoetrope_coordinator::jobs::Submission;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::job::{Class, ExpiresAfter, JobSpec, RenderSpec, Stage};
use zoetrope_sched::Input;
use zoetrope_sched::input::{Ask as CoreAsk, EndWhy};
use zoetrope_sched::output::JobState;

/// A caller sends again what was not answered within this time.
const PATIENCE: u64 = 5_000;
/// A caller looks at its job this often.
const POLL: u64 = 7_000;

/// What a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Sends the request, as the try of this number.
    Submit(u32),
    /// Looks at the job.
    Read,
    /// Cancels it.
    Cancel,
    /// Deletes it.
    Delete,
}

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request made this job, now or before; how it stands.
    Submitted(JobId, Option<JobState>),
    /// Another request had this key.
    Refused,
    /// How the job stands; none if there is none.
    Stands(Option<JobState>),
    /// How it stands after the cancel.
    Cancelled(Option<JobState>),
    /// Whether there was something to delete.
    Deleted(bool),
}

/// When a caller cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancels {
    /// At any moment.
    Somewhen,
    /// While the pointer of its clip is being written: a moment so short that any other cancel all but never meets it.
    AsItIsPublished,
}

/// A caller.
#[derive(Clone, Debug)]
pub struct Client {
    submission: Submission,
    job: Option<JobId>,
    /// When it cancels, if it does.
    cancels: Option<Cancels>,
    deletes: bool,
    /// The last that it was told of its job.
    pub state: Option<JobState>,
    /// Its cancel was answered.
    pub cancelled: bool,
    /// Its delete was answered.
    pub deleted: bool,
    deleting: bool,
    /// It sends each request twice, whatever the answer.
    twice: bool,
}

impl Client {
    /// The job that was acknowledged.
    pub fn acknowledged(&self) -> Option<JobId> {
        self.job
    }

    /// Whether it wants nothing more.
    pub fn is_done(&self) -> bool {
        let terminal = matches!(self.state, Some(JobState::Completed | JobState::Failed(_)));
        self.job.is_some() && (terminal && !self.deletes || self.deleted)
    }
}

impl World {
    /// Makes the callers and their first requests.
    pub fn make_clients(&mut self) {
        for client in 0..self.plan.jobs as usize {
            let made = self.client(client);
            self.clients.push(made);
            let after = self.chance.range(0, self.plan.submits_until);
            self.at(after, Event::Call { client, ask: Ask::Submit(0) });
            if self.clients[client].cancels == Some(Cancels::Somewhen) {
                let after = after + self.chance.range(0, self.plan.faults_until);
                self.at(after, Event::Call { client, ask: Ask::Cancel });
            }
        }
    }

    fn client(&mut self, number: usize) -> Client {
        let size = Size { width: 288, height: 512 };
        let c = &mut self.chance;
        let fickle = self.plan.fickle;
        let steps = c.range(2, self.plan.steps_max) as u32;
        let render = RenderSpec {
            model: "toybox".to_owned(),
            prompt: format!("a {} ball bounces", ["red", "blue", "green"][c.index(3)]),
            canvas: size,
            deliver: size,
            frames: 96,
            seed: if c.one_in(3) { 1 } else { number as u64 },
            steps,
            audio: true,
        };
        let far = c.one_in(8);
        let deadline = far.then(|| Millis(1_700_000_000_000 + c.range(60_000, 10_000_000)));
        let spec = JobSpec {
            tenant: TenantId(c.range(1, self.plan.caps.len() as u64) as u32),
            class: Class::ALL[c.index(3)],
            asked_model: "toybox".to_owned(),
            render,
            deadline,
            metadata: Vec::new(),
            safety_identifier: None,
            expires_after: ExpiresAfter { from_completion: true, seconds: 2_592_000 },
            warnings: Vec::new(),
        };
        let mut content = [0; 32];
        content[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let mut key = content;
        key[31] = 1;
        Client {
            submission: Submission { job: JobId(0), spec, content, idempotency: Some(key) },
            job: None,
            cancels: (fickle && c.one_in(4)).then(|| match c.one_in(2) {
                true => Cancels::AsItIsPublished,
                false => Cancels::Somewhen,
            }),
            deletes: fickle && c.one_in(6),
            state: None,
            cancelled: false,
            deleted: false,
            deleting: false,
            twice: fickle && c.one_in(3),
        }
    }

    /// A clip's pointer will be written after so many milliseconds; its caller may want to cancel it by then.
    pub fn is_published_after(&mut self, job: JobId, takes: u64) {
        let hurried = |client: &Client| {
            client.job == Some(job) && client.cancels == Some(Cancels::AsItIsPublished)
        };
        if let Some(client) = self.clients.iter().position(hurried) {
            let after = self.chance.range(0, takes);
            self.at(after, Event::Call { client, ask: Ask::Cancel });
        }
    }

    /// A caller does something; it reaches the coordinator, or nobody.
    pub fn call(&mut self, client: usize, ask: Ask) {
        let of = &self.clients[client];
        match ask {
            Ask::Submit(_) if of.job.is_some() && !of.twice => return,
            Ask::Submit(n) if of.job.is_some() && n > 3 => return,
            Ask::Cancel if of.cancelled || of.deleted => return,
            Ask::Delete if of.deleted => return,
            Ask::Read if of.deleted || of.is_done() => return,
            _ => {}
        }
        // Whatever becomes of it: asked again later.
        let (after, again) = match ask {
            Ask::Submit(n) => (PATIENCE, Ask::Submit(n + 1)),
            Ask::Read => (POLL, Ask::Read),
            other => (PATIENCE, other),
        };
        self.at(after, Event::Call { client, ask: again });
        let host = &self.hosts[0];
        if host.running.is_none() || host.paused_until > self.now {
            return;
        }
        match ask {
            Ask::Submit(_) => self.submit(client),
            Ask::Read | Ask::Cancel | Ask::Delete => {
                if let Some(job) = self.clients[client].job {
                    self.about(client, job, ask);
                }
            }
        }
    }

    fn submit(&mut self, client: usize) {
        let now = self.wall(0);
        let mut submission = self.clients[client].submission.clone();
        // The door gives each request an id of its own.
        submission.job =
            JobId((u128::from(self.chance.any()) << 64) | u128::from(self.chance.any()));
        let Some(running) = &self.hosts[0].running else { return };
        match repeat(&running.books.table, now, &submission) {
            Some(Repeat::Same(job)) => {
                let state = running.books.table.row(job).map(|row| row.state);
                self.door(0, client, Answer::Submitted(job, state));
            }
            Some(Repeat::KeyReused) => self.door(0, client, Answer::Refused),
            None => {
                let (job, tenant) = (submission.job, submission.spec.tenant);
                if running.books.core.tenant(tenant).is_none() {
                    let policy = limits(&self.plan).policy_of(tenant);
                    self.input(0, Input::TenantSet { tenant, policy });
                }
                let ask = self.ask(&submission.spec);
                let entry = Entry::Admitted { submission: Box::new(submission), ask };
                self.record(0, entry);
                let state = self.state_of(job);
                self.door(0, client, Answer::Submitted(job, state));
            }
        }
    }

    fn state_of(&self, job: JobId) -> Option<JobState> {
        let running = self.hosts[0].running.as_ref()?;
        running.books.table.row(job).map(|row| row.state)
    }

    fn ask(&self, spec: &JobSpec) -> CoreAsk {
        let models = models(&self.plan);
        let model = models.default();
        let step = self.plan.step_ms;
        let steps = spec.render.steps;
        let expected = |stage| match stage {
            Stage::Encode => Millis(step / 4),
            Stage::Denoise => Millis(step * u64::from(steps)),
            Stage::Decode => Millis(step * 4),
            Stage::Finish => Millis(step * 2),
        };
        CoreAsk {
            tenant: spec.tenant,
            class: spec.class,
            model: model.id,
            steps,
            expected: model.chain().into_iter().map(expected).collect(),
            deadline: spec.deadline,
            learned: true,
            decode: model.decode(spec.render.shape()),
        }
    }

    fn about(&mut self, client: usize, job: JobId, ask: Ask) {
        let tenant = self.clients[client].submission.spec.tenant;
        let Some(running) = &self.hosts[0].running else { return };
        let row = running.books.table.of(tenant, job);
        let state = row.map(|row| row.state);
        let ends = row.is_some_and(|row| !row.is_terminal());
        match ask {
            Ask::Cancel => {
                let cancelled = Input::EndAsked { job, why: EndWhy::Cancelled };
                if ends {
                    self.record(0, Entry::Core(cancelled));
                }
                let state = state.and_then(|_| self.state_of(job));
                self.door(0, client, Answer::Cancelled(state));
            }
            Ask::Delete => {
                let entry = state.is_some().then_some(Entry::Deleted { job });
                let found = entry.is_some();
                self.clients[client].deleting = true;
                if let Some(entry) = entry {
                    self.record(0, entry);
                    self.after_sync(0, Effect::Unpublish(job));
                }
                self.door(0, client, Answer::Deleted(found));
            }
            _ => self.door(0, client, Answer::Stands(state)),
        }
    }

    /// An answer leaves the coordinator.
    pub fn answer(&mut self, client: usize, answer: Answer) {
        let of = &mut self.clients[client];
        match answer {
            Answer::Submitted(job, state) => {
                let first = of.job.is_none();
                self.checker.acknowledged(client, job);
                of.job.get_or_insert(job);
                self.told_state(client, state);
                if first {
                    self.at(POLL, Event::Call { client, ask: Ask::Read });
                }
            }
            Answer::Refused => self.checker.breaks("a request is refused as another's".to_owned()),
            Answer::Stands(state) => self.told_state(client, state),
            Answer::Cancelled(state) => {
                of.cancelled = true;
                self.told_state(client, state);
            }
            Answer::Deleted(found) => {
                of.deleted = true;
                let first = of.job.filter(|_| found);
                self.checker.deleted_job(first);
            }
        }
    }

    fn told_state(&mut self, client: usize, state: Option<JobState>) {
        let of = &mut self.clients[client];
        if of.deleting {
            return;
        }
        let Some(state) = state else {
            return self
                .checker
                .breaks(format!("lost: {:?} was acknowledged and is unknown", of.job));
        };
        if of
            .state
            .is_some_and(|before| rank(before) > rank(state) || terminal(before) && before != state)
        {
            let before = of.state;
            let broken = format!("decided once: {:?} was {before:?} and is {state:?}", of.job);
            return self.checker.breaks(broken);
        }
        of.state = Some(state);
        if terminal(state) && of.deletes {
            let after = self.chance.range(0, 20_000);
            self.at(after, Event::Call { client, ask: Ask::Delete });
        }
    }
}

/// How far a state is.
pub fn rank(state: JobState) -> u8 {
    match state {
        JobState::Queued => 0,
        JobState::InProgress => 1,
        JobState::Completed | JobState::Failed(_) => 2,
    }
}

fn terminal(state: JobState) -> bool {
    rank(state) == 2
}
