//! A farm of one table, and a client: what the tests of the door share.

use super::{Code, DoorLimits, DoorMetrics, DoorState, Replay, serve};
use crate::config::Classes;
use crate::dispatch::DispatchMsg;
use crate::farm::{
    AssetReader, CancelRefused, Farm, FarmMsg, MoveRefused, NewShare, NoSuchCursor, NoSuchWorker,
    RescanRefused, SubmitRefused, WorkerRow,
};
use crate::jobs::rescan::Left;
use crate::jobs::shares::{Closed, Variant};
use crate::jobs::{
    ArtifactRecord, Asset, Assets, AttemptRecord, History, JobView, ListQuery, Moderation, Page,
    PhaseView, Rescan, RescanState, Share, Submission,
};
use crate::keys::{KeyStore, Project, Role};
use crate::models::Models;
use crate::moderation::Desk;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use serde_json::Value;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zoetrope_moderation::Policy;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::id::{
    ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId, TenantId, WorkerId,
};
use zoetrope_protocol::job::{
    ArtifactRef, Cause, Class, ExpiresAfter, JobSpec, RenderSpec, Role as ArtifactRole, Stage,
};
use zoetrope_protocol::moderation::Audience;
use zoetrope_protocol::wire::Phase;
use zoetrope_sched::input::EndWhy;
use zoetrope_sched::output::{FailWhy, JobState};

/// The time in all tests: a fixed one, so that answers can be compared.
pub const NOW: Millis = Millis(1_800_000_000_000);
/// The bytes of every video of the fake farm.
pub const CLIP: &[u8] = b"0123456789abcdefghij";

/// A job in this state, with all that the state allows to be known.
pub fn view(number: u128, state: JobState) -> JobView {
    let render = RenderSpec {
        model: "toybox".to_owned(),
        prompt: "a red ball".to_owned(),
        canvas: Size { width: 288, height: 512 },
        deliver: Size { width: 720, height: 1280 },
        frames: 96,
        seed: 7,
        steps: 4,
        audio: true,
    };
    let spec = JobSpec {
        tenant: TenantId(1),
        class: Class::Default,
        asked_model: "sora-2".to_owned(),
        render,
        deadline: None,
        metadata: vec![("k".to_owned(), "v".to_owned())],
        safety_identifier: None,
        expires_after: ExpiresAfter { from_completion: true, seconds: 604_800 },
        warnings: Vec::new(),
    };
    let view = JobView {
        job: JobId(number),
        spec,
        content: [0; 32],
        created: NOW,
        state: JobState::Queued,
        in_progress: None,
        ended: None,
        progress: 0,
        phase: None,
        publication: None,
        queue_position: Some(3),
        estimated_start: Some(NOW.plus(Millis(1000))),
        estimated_completion: Some(NOW.plus(Millis(60_000))),
        resolved_model: None,
        gpu: Millis(0),
        assets: None,
        expires: None,
        taken_down: None,
        moderation: Moderation::default(),
        judging: false,
    };
    moved(view, state)
}

/// The job, moved on to this state.
pub fn moved(mut view: JobView, state: JobState) -> JobView {
    view.state = state;
    if state == JobState::Queued {
        return view;
    }
    view.in_progress = Some(NOW);
    view.progress = 40;
    let stage = Stage::Denoise;
    view.phase = Some(PhaseView { stage, phase: Phase::Denoising, done: 1, total: 4 });
    view.resolved_model = Some("toybox@sha256:00".to_owned());
    if state == JobState::InProgress {
        return view;
    }
    view.ended = Some(NOW.plus(Millis(5000)));
    view.gpu = Millis(4200);
    if state == JobState::Completed {
        let asset = |bytes| Asset { artifact: ArtifactId::of(CLIP), bytes };
        let all = CLIP.len() as u64;
        view.progress = 100;
        view.expires = Some(NOW.plus(Millis(604_805_000)));
        view.assets = Some(Assets {
            video: asset(all),
            thumbnail: asset(all),
            spritesheet: asset(all),
            sprite_columns: 4,
            sprite_rows: 2,
        });
    }
    view
}

/// What the fake farm holds; tests change it directly.
#[derive(Default)]
pub struct Table {
    pub jobs: Vec<Held>,
    /// What a submit is refused with.
    pub refuse: Option<SubmitRefused>,
    /// How long a submit, a cancel or the question whether the farm answers takes.
    pub delay: Duration,
    /// If set, their answers wait for a word of the test, each for its own.
    pub gate: Option<Arc<Notify>>,
    /// Submits that came.
    pub submits: usize,
    /// Cancels that came.
    pub cancels: usize,
    /// Questions whether the farm answers.
    pub asked_ready: usize,
    /// Panics of the test's own making in the store.
    pub broken_store: bool,
    /// Answers of files stop behind their first piece.
    pub stuck_store: bool,
    /// The rescan.
    pub rescan: Option<Rescan>,
    /// Share links, of whichever video.
    pub shares: Vec<Share>,
}

/// One job of the fake farm.
pub struct Held {
    pub view: JobView,
    pub key: Option<[u8; 32]>,
    pub deleted: bool,
}

pub type Shared = Arc<Mutex<Table>>;

struct FakeDispatch;

#[ractor::async_trait]
impl Actor for FakeDispatch {
    type Msg = DispatchMsg;
    type State = Shared;
    type Arguments = Shared;

    async fn pre_start(
        &self,
        _: ActorRef<DispatchMsg>,
        table: Shared,
    ) -> Result<Shared, ActorProcessingErr> {
        Ok(table)
    }

    async fn handle(
        &self,
        _: ActorRef<DispatchMsg>,
        message: DispatchMsg,
        table: &mut Shared,
    ) -> Result<(), ActorProcessingErr> {
        #[allow(irrefutable_let_patterns)]
        if let DispatchMsg::Farm(message) = message {
            answer(table.clone(), message);
        }
        Ok(())
    }
}

fn say<T: Send + 'static>(reply: RpcReplyPort<T>, answer: T) {
    // The door may have given up; the real farm does not mind either.
    drop(reply.send(answer));
}

/// Late answers come from tasks, as those of the real farm come after a journal's sync.
fn later<T: Send + 'static>(table: &Table, reply: RpcReplyPort<T>, answer: T) {
    let (delay, gate) = (table.delay, table.gate.clone());
    if delay.is_zero() && gate.is_none() {
        return say(reply, answer);
    }
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        if let Some(gate) = gate {
            gate.notified().await;
        }
        say(reply, answer);
    });
}

fn answer(shared: Shared, message: FarmMsg) {
    let mut table = shared.lock().unwrap();
    match message {
        FarmMsg::Submit(submission, _, reply) => {
            let answer = table.submit(*submission);
            later(&table, reply, answer);
        }
        FarmMsg::Read(tenant, job, reply) => {
            let found = table.find(Some(tenant), job).map(|held| held.view.clone());
            say(reply, found);
        }
        FarmMsg::List(tenant, query, reply) => say(reply, table.page(Some(tenant), query)),
        FarmMsg::AllJobs(query, reply) => say(reply, table.page(None, query)),
        FarmMsg::Cancel(tenant, job, reply) => {
            let answer = table.cancel(tenant, job);
            later(&table, reply, answer);
        }
        FarmMsg::Delete(tenant, job, reply) => {
            let found = table.find(Some(tenant), job).map(|held| held.deleted = true);
            say(reply, found.is_some());
        }
        FarmMsg::FindKeyed(key, reply) => {
            let found = table.jobs.iter().find(|held| held.key == Some(key));
            say(reply, found.map(|held| held.view.clone()));
        }
        FarmMsg::FindResent(tenant, content, reply) => {
            let mut jobs = table.jobs.iter().rev();
            let found = jobs.find(|h| h.view.spec.tenant == tenant && h.view.content == content);
            say(reply, found.map(|held| held.view.clone()));
        }
        FarmMsg::Proofs(_, _, reply) => say(reply, None),
        FarmMsg::Share(_, _, new, reply) => {
            let share = share(new);
            table.shares.push(share.clone());
            say(reply, Ok((share, false)));
        }
        FarmMsg::Shares(tenant, job, reply) => {
            let found = table.find(Some(tenant), job).is_some();
            say(reply, found.then(|| table.shares.clone()));
        }
        FarmMsg::Unshare(_, _, id, reply) => {
            let mut shares = table.shares.iter_mut();
            say(
                reply,
                shares.find(|share| share.id == id).map(|share| {
                    share.revoked = Some(NOW);
                    share.clone()
                }),
            );
        }
        // Every link is one to the first video.
        FarmMsg::OpenShare(id, variant, _, reply) => {
            let open = table.shares.iter().any(|share| share.id == id && share.revoked.is_none());
            let first = table.jobs.first().filter(|_| open).map(|held| held.view.clone());
            let variant = variant.unwrap_or(Variant::Video);
            say(reply, first.map(|view| (Box::new(view), variant, false)).ok_or(Closed::Gone));
        }
        FarmMsg::Why(tenant, job, reply) => {
            say(reply, table.find(tenant, job).map(|_| "no worker is free".to_owned()));
        }
        FarmMsg::History(job, reply) => {
            let view = table.find(None, job).map(|held| held.view.clone());
            say(reply, view.map(|view| (view, history(job))));
        }
        FarmMsg::Ready(reply) => {
            table.asked_ready += 1;
            later(&table, reply, ());
        }
        FarmMsg::Workers(reply) => say(reply, vec![worker_row()]),
        FarmMsg::Drain(workers, _, reply) => {
            let stranger = workers.into_iter().find(|name| name != "worker_1" && name != "node-a");
            say(reply, stranger.map_or(Ok(()), |name| Err(NoSuchWorker(name))));
        }
        FarmMsg::Cordon(worker, _, reply) => say(reply, worker == "worker_1"),
        FarmMsg::Move(job, to, reply) => say(
            reply,
            match (table.jobs.iter().find(|held| held.view.job == job), to.as_deref()) {
                (None, _) => Err(MoveRefused::NoSuchJob),
                (_, Some(to)) if to != "node-a" => Err(MoveRefused::NoSuchWorker),
                (Some(held), _) if held.view.state != JobState::InProgress => {
                    Err(MoveRefused::NothingToMove)
                }
                (Some(_), _) => Ok(()),
            },
        ),
        FarmMsg::Rescan(order, reply) => {
            let began = match &table.rescan {
                Some(rescan) if rescan.is_running() => Err(RescanRefused::Running),
                _ => Ok(table.rescan.insert(Rescan::begin(NOW, *order)).clone()),
            };
            say(reply, began);
        }
        FarmMsg::RescanCancel(reply) => {
            let ended = table.rescan.as_mut().map(|rescan| {
                rescan.end(NOW, RescanState::Cancelled);
                rescan.clone()
            });
            say(reply, ended.ok_or(RescanRefused::None));
        }
        FarmMsg::RescanView(reply) => {
            let left = Left { rows: 7, pending: Some(2) };
            say(reply, table.rescan.clone().map(|rescan| (rescan, left)));
        }
        FarmMsg::JoinToken { uses, ttl, reply } => say(reply, format!("zt1{uses}x{}", ttl.0)),
        #[allow(unreachable_patterns)]
        _ => {}
    }
}

impl Table {
    fn submit(&mut self, submission: Submission) -> Result<JobView, SubmitRefused> {
        self.submits += 1;
        if let Some(refused) = self.refuse.clone() {
            return Err(refused);
        }
        let same = |held: &&Held| held.key.is_some() && held.key == submission.idempotency;
        if let Some(held) = self.jobs.iter().find(same) {
            return Err(if held.view.content == submission.content {
                SubmitRefused::Replay(Box::new(held.view.clone()))
            } else {
                SubmitRefused::KeyReused
            });
        }
        let view = JobView {
            job: submission.job,
            spec: submission.spec,
            content: submission.content,
            ..view(0, JobState::Queued)
        };
        let key = submission.idempotency;
        self.jobs.push(Held { view: view.clone(), key, deleted: false });
        Ok(view)
    }

    pub fn find(&mut self, tenant: Option<TenantId>, job: JobId) -> Option<&mut Held> {
        self.jobs.iter_mut().find(|held| {
            held.view.job == job
                && !held.deleted
                && tenant.is_none_or(|tenant| held.view.spec.tenant == tenant)
        })
    }

    fn cancel(&mut self, tenant: TenantId, job: JobId) -> Result<JobView, CancelRefused> {
        self.cancels += 1;
        let held = self.find(Some(tenant), job).ok_or(CancelRefused::NoSuchJob)?;
        if !super::video::is_unfinished(held.view.state) {
            return Err(CancelRefused::Terminal(Box::new(held.view.clone())));
        }
        let cancelled = JobState::Failed(FailWhy::Ended(EndWhy::Cancelled));
        held.view = moved(held.view.clone(), cancelled);
        Ok(held.view.clone())
    }

    /// In the order of admission, which here is that of creation.
    fn page(&self, tenant: Option<TenantId>, query: ListQuery) -> Result<Page, NoSuchCursor> {
        let mut own: Vec<&Held> = self
            .jobs
            .iter()
            .filter(|held| tenant.is_none_or(|tenant| held.view.spec.tenant == tenant))
            .collect();
        if !query.ascending {
            own.reverse();
        }
        let from = match query.after {
            None => 0,
            Some(after) => own.iter().position(|h| h.view.job == after).ok_or(NoSuchCursor)? + 1,
        };
        let mut rest = own[from..].iter().filter(|held| !held.deleted);
        let jobs = rest.by_ref().take(query.limit).map(|held| held.view.clone()).collect();
        Ok(Page { jobs, has_more: rest.next().is_some() })
    }
}

fn share(new: NewShare) -> Share {
    Share {
        id: new.id,
        created: NOW,
        expires: NOW.plus(Millis(3_600_000)),
        revoked: None,
        variants: new.variants,
        audience: new.audience.unwrap_or(Audience::All),
        downloads_max: new.downloads_max,
        downloads: 0,
        downloaded: None,
        request: new.request,
    }
}

/// A denoising attempt that was lost behind its third step.
fn history(job: JobId) -> History {
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    let role = ArtifactRole::Latents { step: 3 };
    History {
        attempts: vec![AttemptRecord {
            shard: ShardId { job, stage: Stage::Denoise, index: 0 },
            fence,
            worker: WorkerId(1),
            node: Some("node-a".to_owned()),
            from_step: 0,
            began: NOW,
            ended: Some(NOW),
            cause: Some(Cause::WorkerLost),
            gpu: Millis(0),
        }],
        artifacts: vec![ArtifactRecord {
            artifact: ArtifactRef { role, artifact: ArtifactId([7; 32]), bytes: 4 },
            fence,
            stored: NOW,
        }],
        ignored: 0,
    }
}

fn worker_row() -> WorkerRow {
    WorkerRow {
        worker: WorkerId(1),
        node: "node-a".to_owned(),
        pool: "default".to_owned(),
        gpu_kind: "cpu".to_owned(),
        state: "idle".to_owned(),
        models: vec!["toybox".to_owned()],
        running: None,
        progress: None,
    }
}

struct FakeStore(Shared);

impl AssetReader for FakeStore {
    fn read(
        &self,
        _: &Asset,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        if self.0.lock().unwrap().broken_store {
            return futures::stream::iter([Err(std::io::Error::other("gone"))]).boxed();
        }
        let bytes = &CLIP[range.start as usize..range.end as usize];
        // In small pieces, as a disk might give them.
        let pieces = bytes.chunks(7).map(|piece| Ok(Bytes::from_static(piece)));
        if self.0.lock().unwrap().stuck_store {
            let first = futures::stream::iter(pieces.take(1));
            return first.chain(futures::stream::pending()).boxed();
        }
        futures::stream::iter(pieces).boxed()
    }
}

/// Keeps what was counted: the answers; refused submits and repeated answers by their words.
#[derive(Default)]
pub struct Counted(pub Mutex<Vec<(&'static str, &'static str, u16)>>, pub Mutex<Vec<&'static str>>);

impl DoorMetrics for Counted {
    fn text(&self) -> String {
        "zoetrope_up 1\n".to_owned()
    }

    fn answered(&self, route: &'static str, method: &'static str, code: u16, _: Duration) {
        self.0.lock().unwrap().push((route, method, code));
    }

    fn refused(&self, code: Option<Code>) {
        self.1.lock().unwrap().push(code.map_or("none", Code::word));
    }

    fn replayed(&self, why: Replay) {
        self.1.lock().unwrap().push(why.word());
    }

    fn in_flight(&self, _: usize) {}
}

/// A door on a real socket before a fake farm, and its client.
pub struct Stand {
    pub address: SocketAddr,
    pub table: Shared,
    pub counted: Arc<Counted>,
    /// A tenant key of project 1.
    pub key: String,
    /// A tenant key of project 2.
    pub stranger: String,
    /// An operator's key of project 1.
    pub operator: String,
    pub client: reqwest::Client,
    /// The fake farm.
    pub dispatch: ActorRef<DispatchMsg>,
    /// Ends the door.
    pub stop: CancellationToken,
    /// The door, until it has ended.
    pub served: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e} in {:?}", self.bytes))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The error's code, after checking that its envelope is whole.
    pub fn code(&self) -> (u16, Option<String>) {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no envelope: {body}"));
        for key in ["message", "type", "param", "code"] {
            assert!(error.contains_key(key), "{key} is missing in {body}");
        }
        assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
        (self.status, error["code"].as_str().map(str::to_owned))
    }

    pub fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }
}

impl Stand {
    pub async fn new() -> Stand {
        Stand::with(DoorLimits::default()).await
    }

    /// From now on submits, cancels and the question whether the farm answers wait for a word here.
    pub fn gate(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.table.lock().unwrap().gate = Some(gate.clone());
        gate
    }

    /// Waits until so many submits came to the farm.
    pub async fn submitted(&self, submits: usize) {
        while self.table.lock().unwrap().submits < submits {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn with(limits: DoorLimits) -> Stand {
        Stand::at(limits, || NOW).await
    }

    /// With somebody who judges: by words alone, since there are no nets.
    pub async fn judging() -> Stand {
        let text = include_str!("../../../configs/policy.toml")
            .replace("similarity = true", "similarity = false")
            .replace("classifier = \"nets\"", "classifier = \"card\"");
        let rules = include_str!("../../../configs/policy/rules.toml");
        let policy = Policy::of_texts(&text, rules, "").unwrap();
        let desk = Desk::new(Policy::built_in().unwrap()).by(policy, Path::new("none")).unwrap();
        Stand::of(DoorLimits::default(), || NOW, desk).await
    }

    pub async fn at(limits: DoorLimits, now: fn() -> Millis) -> Stand {
        Stand::of(limits, now, Desk::new(Policy::built_in().unwrap())).await
    }

    async fn of(limits: DoorLimits, now: fn() -> Millis, desk: Desk) -> Stand {
        let table = Shared::default();
        let keys = Arc::new(KeyStore::in_memory());
        let key = |project, role| keys.create(project, role, "test").unwrap().text;
        let (operator, stranger) =
            (key(Project::New, Role::Operator), key(Project::New, Role::Tenant));
        let tenant = key(Project::Known(TenantId(1)), Role::Tenant);
        let (dispatch, _) = Actor::spawn(None, FakeDispatch, table.clone()).await.unwrap();
        let counted = Arc::new(Counted::default());
        let classes = Classes {
            most: Class::Priority,
            // The stranger's project.
            named: [(TenantId(2), Class::Default)].into(),
        };
        let state = DoorState {
            finder: None,
            farm: Farm { dispatch: dispatch.clone(), assets: Arc::new(FakeStore(table.clone())) },
            models: Arc::new(Models::with(&[]).unwrap()),
            classes: Arc::new(classes),
            keys,
            limits,
            metrics: counted.clone(),
            desk: Arc::new(desk),
            system_fingerprint: "fp_test".into(),
            inspector: Arc::new(crate::inspect::Inspector::new(
                String::new(),
                std::env::temp_dir(),
            )),
            fsck: crate::fsck::Fsck::new(Arc::new(
                crate::store::Store::open(
                    &std::env::temp_dir().join("zoetrope-door-tests"),
                    Duration::ZERO,
                )
                .unwrap(),
            )),
            links: Arc::new(super::Links::of(b"a secret of the tests", "")),
            now,
            cluster: None,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, state, stop.clone().cancelled_owned()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Stand {
            address,
            table,
            counted,
            key: tenant,
            stranger,
            operator,
            client,
            dispatch,
            stop,
            served,
        }
    }

    /// The fake farm as the door has it.
    pub fn farm(&self) -> Farm {
        let assets = Arc::new(FakeStore(self.table.clone()));
        Farm { dispatch: self.dispatch.clone(), assets }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with the tenant's key.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse::<reqwest::Method>().unwrap();
        self.client.request(method, self.url(path)).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request("GET", path)).await
    }

    pub async fn create(&self, body: &str) -> Answer {
        send(self.post(body)).await
    }

    /// A create with a JSON body.
    pub fn post(&self, body: &str) -> reqwest::RequestBuilder {
        self.request("POST", "/v1/videos")
            .header("content-type", "application/json")
            .body(body.to_owned())
    }

    /// A create with a multipart body of text parts.
    pub async fn create_form(&self, parts: &[(&str, &str)]) -> Answer {
        let form = parts.iter().fold(reqwest::multipart::Form::new(), |form, (name, text)| {
            form.text((*name).to_owned(), (*text).to_owned())
        });
        send(self.request("POST", "/v1/videos").multipart(form)).await
    }

    /// Puts a job of project 1 into the farm.
    pub fn put(&self, number: u128, state: JobState) -> String {
        let view = view(number, state);
        let id = view.job.to_string();
        self.table.lock().unwrap().jobs.push(Held { view, key: None, deleted: false });
        id
    }

    /// Moves a job on.
    pub fn advance(&self, id: &str, state: JobState) {
        let mut table = self.table.lock().unwrap();
        let held = table.find(None, id.parse().unwrap()).unwrap();
        held.view = moved(held.view.clone(), state);
    }
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, bytes: response.bytes().await.unwrap() }
}
