//! The coordinator without a GPU: its real actors, journal, store and QUIC links, and workers that are scripted
//! by the tests. Modules are named by the promise that they hold.

mod actors;
mod bucket;
mod cancel;
mod clip;
mod drafts;
mod etcd;
mod fsck;
mod golden;
mod hostile;
mod moderation;
mod operators;
mod overload;
mod provenance;
mod render;
mod rescan;
mod restart;
mod s3;
mod shares;
mod signing;
mod stamps;
mod store;
mod versions;
mod watermark;
mod worker;
mod worker_loss;

use crate::worker::Worker;
use ractor::ActorRef;
use std::time::Duration;
use tempfile::TempDir;
use zoetrope_coordinator::config::ServeConfig;
use zoetrope_coordinator::dispatch::{DispatchMsg, DispatchView};
use zoetrope_coordinator::farm::{Farm, FarmMsg, SubmitRefused};
use zoetrope_coordinator::jobs::{JobView, Submission};
use zoetrope_coordinator::serve::{self, Running};
use zoetrope_coordinator::store::StoreReader;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::id::{JobId, TenantId};
use zoetrope_protocol::job::{Class, ExpiresAfter, JobSpec, RenderSpec};
use zoetrope_protocol::moderation::Audience;
use zoetrope_protocol::version::LinkVersion;
use zoetrope_sched::output::JobState;

/// Nothing in these tests takes so long, on a busy machine with a slow disk either; what does hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A coordinator in a temporary folder.
pub(crate) struct TestFarm {
    pub(crate) folder: TempDir,
    pub(crate) config: ServeConfig,
    pub(crate) running: Running,
}

impl TestFarm {
    pub(crate) async fn start() -> TestFarm {
        TestFarm::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServeConfig)) -> TestFarm {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut config = ServeConfig {
            link_listen: "127.0.0.1:0".parse().expect("an address"),
            data: folder.path().to_owned(),
            ..ServeConfig::default()
        };
        config.moderation.policy = Some(moderation::policy(folder.path()));
        config.link.version_min = LinkVersion::FIRST;
        change(&mut config);
        let running = serve::start(&config).await.expect("the farm starts");
        TestFarm { folder, config, running }
    }

    /// Stops the coordinator and starts another one on the same data.
    pub(crate) async fn restart(self) -> TestFarm {
        let TestFarm { folder, config, running } = self;
        running.stop().await;
        let running = serve::start(&config).await.expect("the farm starts again");
        TestFarm { folder, config, running }
    }

    pub(crate) fn farm(&self) -> Farm {
        Farm {
            dispatch: self.running.dispatch.clone(),
            assets: std::sync::Arc::new(StoreReader::new(self.running.store.clone())),
        }
    }

    pub(crate) async fn submit(&self, submission: Submission) -> Result<JobView, SubmitRefused> {
        let ask = self
            .farm()
            .ask(|reply| FarmMsg::Submit(Box::new(submission), Audience::Adult, reply))
            .await;
        ask.expect("the farm answers")
    }

    pub(crate) async fn read(&self, job: JobId) -> JobView {
        let ask = self.farm().ask(|reply| FarmMsg::Read(TenantId(1), job, reply)).await;
        ask.expect("the farm answers").expect("the job is there")
    }

    pub(crate) async fn observe(&self) -> DispatchView {
        observe(&self.running.dispatch).await
    }

    /// Asks until the view is as wanted: what is asked about takes its course on other tasks.
    pub(crate) async fn until(&self, job: JobId, wanted: impl Fn(&JobView) -> bool) -> JobView {
        let asking = async {
            loop {
                let view = self.read(job).await;
                if wanted(&view) {
                    return view;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, asking).await;
        match seen {
            Ok(view) => view,
            Err(_) => panic!("the job never came there: {:?}", self.read(job).await),
        }
    }

    /// Asks why a job waits until the answer has these words.
    pub(crate) async fn until_why(&self, job: JobId, words: &str) -> String {
        let asking = async {
            loop {
                let why = self.farm().ask(|reply| FarmMsg::Why(None, job, reply)).await;
                match why.expect("the farm answers") {
                    Some(why) if why.contains(words) => return why,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let seen = tokio::time::timeout(PATIENCE, asking).await;
        match seen {
            Ok(why) => why,
            Err(_) => {
                let why = self.farm().ask(|reply| FarmMsg::Why(None, job, reply)).await;
                panic!("nobody says {words:?}, but {why:?}")
            }
        }
    }

    /// Waits until the clip that a worker made was refused: it is not published, and its job is to be finished elsewhere.
    /// Then ends the job; in the worker's place comes one that has failed nothing.
    pub(crate) async fn refused(&self, job: JobId, worker: &mut Worker) {
        self.until_why(job, "every worker that fits has failed it").await;
        let view = self.read(job).await;
        assert_eq!((view.state, view.assets), (JobState::InProgress, None));
        assert!(!moderation::is_published(self, job));
        let cancel = |reply| FarmMsg::Cancel(TenantId(1), job, reply);
        self.farm().ask(cancel).await.expect("the farm answers").expect("it goes on until now");
        let node = format!("after-{}", job.0);
        let mut next = Worker::speaking(self, &node, worker.version).await;
        (next.moves, next.thumbnail) = (worker.moves, worker.thumbnail.take());
        std::mem::replace(worker, next).die();
    }

    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.running.metrics.text();
        let found = text.lines().find_map(|l| l.strip_prefix(line));
        found.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {line}"))
    }
}

pub(crate) async fn observe(dispatch: &ActorRef<DispatchMsg>) -> DispatchView {
    let call = dispatch.call(DispatchMsg::Observe, Some(PATIENCE)).await;
    match call {
        Ok(ractor::rpc::CallResult::Success(view)) => view,
        _ => panic!("the dispatch actor does not answer"),
    }
}

/// A request for a clip of four seconds.
pub(crate) fn submission(job: u128) -> Submission {
    let size = Size { width: 288, height: 512 };
    let render = RenderSpec {
        model: "toybox".to_owned(),
        prompt: "a red ball bounces".to_owned(),
        canvas: size,
        deliver: size,
        frames: 96,
        seed: 1,
        steps: 4,
        audio: true,
    };
    let spec = JobSpec {
        tenant: TenantId(1),
        class: Class::Default,
        asked_model: "sora-2".to_owned(),
        render,
        deadline: None,
        metadata: Vec::new(),
        safety_identifier: None,
        expires_after: ExpiresAfter { from_completion: true, seconds: 3_600 },
        warnings: Vec::new(),
    };
    let mut content = [0; 32];
    content[..16].copy_from_slice(&job.to_le_bytes());
    Submission { job: JobId(job), spec, content, idempotency: None }
}
