//! Runs one of several coordinators of a farm: stands by, leads when etcd elects it, and stands by again.
//!
//! A term is one life of the actors: they start from the journal in etcd when this coordinator is elected and
//! stop when it no longer leads, whatever the reason. A term that ends by itself ends no process. What a person
//! must mend (a configuration that does not fit the journal, a wrong secret, lost records) does.

use crate::authority::CERTIFICATE;
use crate::config::ServeConfig;
use crate::ground::{Common, Ground, make_data};
use crate::http::{ClusterHandle, Roles};
use crate::keys::KeyStore;
use crate::leadership::Leadership;
use crate::registry::{Member, RegistryActor, RegistryArguments, RegistryMsg, Standing};
use crate::serve::{Running, door_limits, start_on};
use crate::sidecar::RestartBudget;
use anyhow::{Context, anyhow, bail};
use ractor::{Actor, ActorRef};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zoetrope_protocol::metric::{self, Metric};

/// Giving the election key back is one request; it ends with its lease otherwise.
const RESIGN_TIMEOUT: Duration = Duration::from_secs(2);
/// A registry that fails more often than this within a minute has a defect.
const REGISTRY_RESTARTS_MAX: usize = 5;
const REGISTRY_WINDOW: Duration = Duration::from_secs(60);
/// Between two tries to start a term: the cause may need a moment to pass.
const PAUSE: Duration = Duration::from_millis(500);

/// What only a leader has something to say of.
const OF_THE_LEADER: [&Metric; 9] = [
    &metric::LEADER,
    &metric::EPOCH,
    &metric::JOBS,
    &metric::SHARDS,
    &metric::WORKERS,
    &metric::JOURNAL_WAITING,
    &metric::SNAPSHOT_TIMESTAMP,
    &metric::SIDECAR_UP,
    &metric::CERTIFICATE_EXPIRY,
];

/// The file in the data folder that says which farm this coordinator has served.
const FARM_FILE: &str = "farm";

/// What is done with the API keys at the beginning of each term; blocking.
pub type FirstKey = Arc<dyn Fn(&KeyStore) -> anyhow::Result<()> + Send + Sync>;

/// How a term ended.
enum Ended {
    /// Another leads, or nobody.
    Deposed(String),
    /// An operator wants another to lead.
    Aside,
    /// The process is asked to end.
    Asked,
}

struct Coordinator {
    config: ServeConfig,
    common: Common,
    me: Member,
    roles: Roles,
    standing: watch::Receiver<Standing>,
    standing_sender: watch::Sender<Standing>,
    links: watch::Receiver<Vec<String>>,
    links_sender: watch::Sender<Vec<String>>,
    registry: ActorRef<RegistryMsg>,
    registry_ended: JoinHandle<()>,
    budget: RestartBudget,
    first_key: FirstKey,
}

/// Serves until `asked` is ready. `listening` hears where the HTTP door is.
///
/// # Errors
/// What a person must mend; the process should then exit non-zero.
pub async fn serve(
    config: ServeConfig,
    first_key: FirstKey,
    listening: impl FnOnce(SocketAddr),
    asked: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let common = Common::new(&config)?;
    make_data(&config.data)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen = {} cannot be bound", config.listen))?;
    let http = listener.local_addr()?;
    let me = member(&config, http);
    let limits = door_limits(&config);
    let roles = Roles::new(common.metrics.clone(), limits.in_flight)?;
    let stop = CancellationToken::new();
    let mut door = tokio::spawn(roles.serve(listener, limits, stop.clone().cancelled_owned()));
    let (standing_sender, standing) = watch::channel(Standing::Standby { leader: None });
    let (links_sender, links) = watch::channel(Vec::new());
    let arguments = RegistryArguments {
        etcd: common.etcd.clone(),
        me: me.clone(),
        standing: standing_sender.clone(),
        links: links_sender.clone(),
        metrics: common.metrics.clone(),
    };
    let (registry, registry_ended) = Actor::spawn(None, RegistryActor, arguments).await?;
    let mut coordinator = Coordinator {
        config,
        common,
        me,
        roles,
        standing,
        standing_sender,
        links,
        links_sender,
        registry,
        registry_ended,
        budget: RestartBudget::new(REGISTRY_RESTARTS_MAX, REGISTRY_WINDOW),
        first_key,
    };
    listening(http);
    tokio::pin!(asked);
    let ended = tokio::select! {
        ended = coordinator.run(asked) => ended,
        end = &mut door => Err(anyhow!("the HTTP door ended: {end:?}")),
    };
    stop.cancel();
    coordinator.resign(false).await;
    if !door.is_finished() {
        door.await??;
    }
    ended
}

impl Coordinator {
    async fn run(&mut self, mut asked: impl Future<Output = ()> + Unpin) -> anyhow::Result<()> {
        loop {
            let now = self.standing.borrow_and_update().clone();
            match now {
                Standing::Standby { leader } => {
                    match &leader {
                        Some(leader) => tracing::info!(leader = leader.http, "standing by"),
                        None => tracing::info!("standing by, no leader"),
                    }
                    self.roles.stand_by(leader.as_ref().map(|leader| leader.http.as_str()));
                    tokio::select! {
                        () = &mut asked => return Ok(()),
                        _ = self.standing.changed() => {}
                        _ = &mut self.registry_ended => self.restart_registry().await?,
                    }
                }
                Standing::Leading(leadership) => match self.term(leadership, &mut asked).await? {
                    Ended::Asked => return Ok(()),
                    Ended::Aside => self.resign(true).await,
                    Ended::Deposed(why) => {
                        tracing::warn!(why, "this coordinator no longer leads");
                        self.resign(false).await;
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Leads, from election to whatever ends it. The farm's state is shown by its leader alone, so that sums over all
    /// coordinators are right: however a term ends, this one shows nothing of it any more.
    async fn term(
        &mut self,
        leadership: Arc<Leadership>,
        asked: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Ended> {
        let ended = self.lead(leadership, asked).await;
        for gauge in OF_THE_LEADER {
            self.common.metrics.clear(gauge);
        }
        ended
    }

    async fn lead(
        &mut self,
        leadership: Arc<Leadership>,
        asked: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Ended> {
        tracing::info!("elected: this coordinator leads");
        let began = Instant::now();
        let ground = self.common.ground(&self.config, leadership.clone(), self.links.clone())?;
        let mut running = match self.start(ground, &leadership).await {
            Ok(running) => running,
            Err(error) if passes(&error, &leadership) => {
                return Ok(Ended::Deposed(format!("{error:#}")));
            }
            Err(error) => return Err(error),
        };
        // Anew for each term: what was asked of the last one too late is nothing to this one.
        let aside = Arc::new(Notify::new());
        let cluster = ClusterHandle { registry: self.registry.clone(), aside: aside.clone() };
        let mut door = running.door(&self.config);
        door.cluster = Some(cluster);
        self.roles.lead(door, leadership.clone());
        self.common.metrics.count(&metric::LEADER_CHANGES, &[]);
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "serving");
        let ended = tokio::select! {
            biased;
            () = &mut *asked => Ended::Asked,
            () = leadership.lost().cancelled() => Ended::Deposed("the leadership is lost".to_owned()),
            () = aside.notified() => Ended::Aside,
            why = running.failed() => Ended::Deposed(why),
            _ = &mut self.registry_ended => Ended::Deposed("the registry ended".to_owned()),
        };
        self.roles.stand_by(None);
        match ended {
            Ended::Asked | Ended::Aside => running.save_and_stop().await,
            Ended::Deposed(_) => running.stop().await,
        }
        self.common.metrics.count(&metric::LEADER_CHANGES, &[]);
        if self.registry_ended.is_finished() {
            self.restart_registry().await?;
        }
        Ok(ended)
    }

    async fn start(&self, ground: Ground, leadership: &Arc<Leadership>) -> anyhow::Result<Running> {
        let mark = self.config.data.join(FARM_FILE);
        let looked =
            tokio::task::spawn_blocking(move || same_farm(&ground, &mark).map(|()| ground));
        let running = start_on(&self.config, looked.await??).await?;
        let (keys, make) = (running.keys.clone(), self.first_key.clone());
        let farm = hex::encode(Sha256::digest(running.authority.certificate()));
        let mark = self.config.data.join(FARM_FILE);
        let made = tokio::task::spawn_blocking(move || {
            std::fs::write(&mark, farm).with_context(|| mark.display().to_string())?;
            make(&keys)
        })
        .await;
        match made.map_err(anyhow::Error::new).and_then(|made| made) {
            Ok(()) => Ok(running),
            Err(error) => {
                leadership.lose();
                running.stop().await;
                Err(error)
            }
        }
    }

    /// Gives the election key back, so that nobody waits for the end of its lease.
    async fn resign(&mut self, aside: bool) {
        let ask = |reply| RegistryMsg::Resign { aside, reply };
        // A registry that is gone has a lease that ends by itself.
        drop(self.registry.call(ask, Some(RESIGN_TIMEOUT)).await);
    }

    async fn restart_registry(&mut self) -> anyhow::Result<()> {
        if !self.budget.take(Instant::now()) {
            bail!("the registry fails again and again");
        }
        tokio::time::sleep(PAUSE).await;
        let arguments = RegistryArguments {
            etcd: self.common.etcd.clone(),
            // A new id: what the old one left in etcd is another's until its lease ends.
            me: Member { id: id(), ..self.me.clone() },
            standing: self.standing_sender.clone(),
            links: self.links_sender.clone(),
            metrics: self.common.metrics.clone(),
        };
        self.standing_sender.send_replace(Standing::Standby { leader: None });
        let (registry, ended) = Actor::spawn(None, RegistryActor, arguments).await?;
        (self.registry, self.registry_ended) = (registry, ended);
        Ok(())
    }
}

/// An etcd that lost its data looks like a new farm. Who has served a farm before does not begin another in its
/// place: jobs would be gone without a word, and no worker's certificate would hold.
fn same_farm(ground: &Ground, mark: &Path) -> anyhow::Result<()> {
    let served = match std::fs::read_to_string(mark) {
        Ok(text) => text.trim().to_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| mark.display().to_string()),
    };
    if served.is_empty() {
        return Ok(());
    }
    let there = ground.authority.read(CERTIFICATE)?;
    let found = there.map(|certificate| hex::encode(Sha256::digest(certificate)));
    if found.as_deref() == Some(served.as_str()) {
        return Ok(());
    }
    let what = if found.is_some() { "another farm" } else { "no farm" };
    bail!(
        "etcd holds {what} under cluster.prefix, and this coordinator has served a farm before: restore etcd from a \
         backup, or remove {} to serve what is there",
        mark.display()
    )
}

/// Whether the next leader, or this one in a moment, may have better luck.
fn passes(error: &anyhow::Error, leadership: &Leadership) -> bool {
    let timed_out = error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut)
    });
    timed_out || !leadership.is_held()
}

fn member(config: &ServeConfig, http: SocketAddr) -> Member {
    let given = |text: &str, otherwise: String| {
        if text.is_empty() { otherwise } else { text.to_owned() }
    };
    Member {
        id: id(),
        http: given(&config.cluster.advertise, format!("http://{http}")),
        link: given(&config.cluster.link_advertise, config.link_listen.to_string()),
    }
}

fn id() -> String {
    hex::encode(rand::random::<[u8; 8]>())
}
