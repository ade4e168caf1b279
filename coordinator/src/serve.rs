//! Runs a coordinator: recovers the books, starts the actors, opens the doors, and ends in good order.

use crate::authority::Authority;
use crate::config::ServeConfig;
use crate::dispatch::{DispatchArguments, DispatchMsg, ProgressBoard, Recovery, progress, recover};
use crate::farm::Farm;
use crate::fsck::Fsck;
use crate::gate::Gate;
use crate::ground::Ground;
use crate::http::{self, DoorLimits, DoorState, Links};
use crate::inspect::Inspector;
use crate::journal::JournalArguments;
use crate::keys::KeyStore;
use crate::leadership::Leadership;
use crate::link::draft::Drafts;
use crate::link::{self, LinkSupArguments};
use crate::metrics::Metrics;
use crate::models::Models;
use crate::moderation::remote::Remote;
use crate::moderation::settings::RemoteModeration;
use crate::moderation::{Desk, ModerationArguments};
use crate::root::{RootActor, RootArguments, RootMsg};
use crate::scratch::ScratchFolder;
use crate::sidecar::SidecarSupArguments;
use crate::storage::StorageArguments;
use crate::store::{Conditional, Owner, Store, StoreError, StoreReader};
use crate::watermark::{Finder, MarkDesk, Prover, WatermarkArguments};
use crate::{clock, expiry};
use anyhow::{Context, bail};
use futures::TryStreamExt;
use ractor::{Actor, ActorRef, ActorStatus};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::metric;
use zoetrope_protocol::provenance::Demand;
use zoetrope_provenance::private;

/// After so long the pointers are listed again in a store that was down.
const SWEEP_AGAIN: Duration = Duration::from_secs(60);
/// The last sync takes milliseconds, and a snapshot of 100,000 jobs a second or two.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Asking the store something takes four requests; a start does not wait longer than this for one that is down.
const STORE_LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a caller of [`serve`] learns once the farm is ready.
#[derive(Clone)]
pub struct ServeInfo {
    /// Where the HTTP door listens.
    pub http: SocketAddr,
    /// Where workers connect.
    pub link: SocketAddr,
    /// The API keys: the one-machine command makes one at its first start.
    pub keys: Arc<KeyStore>,
    /// The authority: the one-machine command makes join tokens for its own workers.
    pub authority: Arc<Authority>,
    /// Ends the farm in good order.
    pub stop: CancellationToken,
}

/// The actors of a running coordinator, without the HTTP door.
pub struct Running {
    /// The dispatch actor.
    pub dispatch: ActorRef<DispatchMsg>,
    /// Where workers connect.
    pub link: SocketAddr,
    /// Who issues certificates.
    pub authority: Arc<Authority>,
    /// The store.
    pub store: Arc<Store>,
    /// The models.
    pub models: Arc<Models>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The API keys.
    pub keys: Arc<KeyStore>,
    /// The addresses of share links.
    links: Arc<Links>,
    /// The root that clips are signed under, PEM.
    pub root: Arc<str>,
    inspector: Arc<Inspector>,
    finder: Arc<Finder>,
    /// Who judges.
    pub desk: Arc<Desk>,
    leadership: Arc<Leadership>,
    actors: ActorRef<RootMsg>,
    ended: JoinHandle<()>,
    fatal: oneshot::Receiver<String>,
    journal_ended: watch::Receiver<u64>,
    _progress: AbortOnDropHandle<()>,
    _expiry: AbortOnDropHandle<()>,
}

/// Serves until the token in [`ServeInfo`] is cancelled, a signal asks for the end, or the farm cannot go on.
///
/// # Errors
/// Whatever stops the farm from starting or from going on; the process should then exit non-zero.
pub async fn serve(config: ServeConfig, ready: impl FnOnce(ServeInfo)) -> anyhow::Result<()> {
    serve_until(config, ready, signalled()).await
}

/// The same until `asked` is ready, for a caller that has something to do before the coordinator ends.
///
/// # Errors
/// As [`serve`].
pub async fn serve_until(
    config: ServeConfig,
    ready: impl FnOnce(ServeInfo),
    asked: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen = {} cannot be bound", config.listen))?;
    let http = listener.local_addr()?;
    let mut running = start(&config).await?;
    let keys = running.keys.clone();
    let stop = CancellationToken::new();
    let door = running.door(&config);
    let mut door = tokio::spawn(http::serve(listener, door, stop.clone().cancelled_owned()));
    ready(ServeInfo {
        http,
        link: running.link,
        keys,
        authority: running.authority.clone(),
        stop: stop.clone(),
    });
    let ended = tokio::select! {
        // The door hears the token too, and may have ended by the time we look: that is no failure.
        biased;
        () = stop.cancelled() => Ok(()),
        () = asked => Ok(()),
        why = running.failed() => Err(anyhow::anyhow!(why)),
        end = &mut door => Err(anyhow::anyhow!("the HTTP door ended: {end:?}")),
    };
    if ended.is_ok() {
        // New requests are refused, those in hand are answered; then the actors stop.
        stop.cancel();
        (&mut door).await??;
    }
    match ended {
        Ok(()) => running.save_and_stop().await,
        Err(_) => running.stop().await,
    }
    ended
}

/// Starts everything but the HTTP door, with the journal in the data folder.
///
/// # Errors
/// Whatever stops the farm from starting.
pub async fn start(config: &ServeConfig) -> anyhow::Result<Running> {
    config.check()?;
    start_on(config, Ground::alone(config)?).await
}

/// Starts everything but the HTTP door.
///
/// # Errors
/// Whatever stops the farm from starting; a `JournalError::Deposed` among the causes says that another leads.
pub async fn start_on(config: &ServeConfig, ground: Ground) -> anyhow::Result<Running> {
    let Ground { models, metrics, journal, authority, keys, links, store, .. } = ground;
    let Ground { progress: kept, leadership, coordinators, mark, certificates, .. } = ground;
    let looks = config.watermark.open()?;
    let (epoch, watermark) = (config.watermark.epoch, config.watermark.clone());
    look_at(&store, config).await?;
    let public_url = config.public_url.clone();
    // Nobody waits for it: a farm without it takes jobs.
    drop(tokio::task::spawn_blocking(move || {
        if let Some(problem) = watermark.problem() {
            tracing::error!(problem, "marks cannot be read, so no clip is published: jobs wait");
        }
    }));
    let opened = tokio::task::spawn_blocking(move || {
        let (authority, keys) = (Authority::of(authority)?, KeyStore::of(keys)?);
        let links = Links::open(&*links, &public_url).context("the secret of share links")?;
        let recovered = recover(journal)?;
        let issued = recovered.books.table.marks().any();
        let marks = MarkDesk::open(mark.as_ref(), epoch, looks, issued)?;
        anyhow::Ok((authority, keys, links, marks, recovered))
    });
    let (authority, keys, links, marks, recovered) = opened.await??;
    let marks = Arc::new(marks);
    let finder = Arc::new(Finder::new(marks.clone(), config.watermark.ffmpeg.clone()));
    let (authority, keys, links) = (Arc::new(authority), Arc::new(keys), Arc::new(links));
    let Recovery { books, writer, snapshot, replayed, loss, took } = recovered;
    whose(&store, config, &authority, loss.is_some()).await?;
    crate::clock::not_before(books.now());
    let data = &config.data;
    private::make(data).with_context(|| format!("data = {}", data.display()))?;
    let remote = config.moderation.remote.as_ref().map(RemoteModeration::provider).transpose()?;
    let remote = remote.map(Remote::new).transpose()?;
    let desk = Arc::new(Desk::with(config.moderation.open()?, remote));
    // Coordinators of one farm must sign under one root, so theirs lies where all reach it.
    let (settings, counts) = (config.provenance.clone(), metrics.clone());
    let opened = tokio::task::spawn_blocking(move || settings.open(&certificates, counts));
    let provenance = opened.await??;
    let own = config.provenance.chain.is_none();
    let certificates = expiry::of(&authority, &provenance.source, own);
    let expiry = AbortOnDropHandle::new(tokio::spawn(expiry::watch(certificates, metrics.clone())));
    let root = provenance.root.clone();
    let roots = format!("{root}{}", config.provenance.trusted()?);
    let inspector = Arc::new(Inspector::new(roots, data.join("scratch")));
    let demand = Demand { policy: Some(desk.policy().version.to_string()), marked: true };
    let prover = Prover::new(marks.clone(), config.watermark.ffmpeg.clone(), metrics.clone());
    let scratch = ScratchFolder::open(&data.join("scratch")).context("data/scratch")?;
    let drafts = Drafts::new(scratch.clone());
    let gate =
        Gate::new(&root, demand, prover, scratch).context("the gate in front of publication")?;
    let gate = Arc::new(gate);
    metrics.set(&metric::RECOVERY_DURATION, &[], took.as_secs_f64());
    if let Some(Millis(taken)) = snapshot {
        metrics.snapshot_of(Duration::from_millis(taken));
    }
    tracing::info!(
        replayed,
        jobs = books.table.len(),
        took_ms = took.as_millis() as u64,
        "recovered"
    );
    for model in models.all() {
        let (id, name) = (model.id, &model.manifest.id);
        if let Some(before) = books.table.model_name(id).filter(|before| before != name) {
            bail!(
                "models: number {} was {before} and is {name} now; only append to the list",
                id.0
            );
        }
    }
    let unread: BTreeSet<JobId> = books.table.without_pointer().collect();
    let endpoint =
        link::listen(&authority, config.link_listen, &config.names, config.link.versions())
            .with_context(|| format!("link_listen = {}", config.link_listen))?;
    let link = endpoint.local_addr()?;
    let standing = |job| progress::Standing::of(books.table.row(job));
    let board = Arc::new(ProgressBoard::restore(&kept, standing).await);
    let progress = AbortOnDropHandle::new(tokio::spawn(progress::keep(board.clone(), kept)));
    let waiting = Arc::new(AtomicU64::new(0));
    let (next, replayed) = (writer.next(), replayed as u64);
    let (synced, on_disk) = watch::channel(next - 1);
    let limits = config.dispatch_limits()?;
    let (started, dispatch) = oneshot::channel();
    let (fatal_sender, fatal) = oneshot::channel();
    let arguments = RootArguments {
        journal: JournalArguments {
            writer,
            synced,
            waiting: waiting.clone(),
            metrics: metrics.clone(),
        },
        dispatch: {
            let (models, authority) = (models.clone(), authority.clone());
            let (board, metrics, synced) = (board.clone(), metrics.clone(), on_disk.clone());
            let (snapshot_now, policy) = (loss.is_some(), desk.policy().version);
            let leadership = leadership.clone();
            Box::new(move |journal| DispatchArguments {
                books,
                next,
                replayed,
                journal,
                synced,
                waiting,
                models,
                authority,
                board,
                metrics,
                limits,
                policy,
                snapshot_now,
                leadership,
            })
        },
        links: {
            let (authority, store, metrics) = (authority.clone(), store.clone(), metrics.clone());
            let limits = config.link_limits();
            Box::new(move |dispatch| LinkSupArguments {
                endpoint,
                authority,
                dispatch,
                store,
                drafts,
                board,
                metrics,
                limits,
                coordinators,
            })
        },
        sidecars: {
            let (store, metrics, desk) = (store.clone(), metrics.clone(), desk.clone());
            let (marks, led) = (marks.clone(), leadership.clone());
            let models = zoetrope_moderation::models::find(config.moderation.models.as_deref());
            Box::new(move |dispatch: ActorRef<DispatchMsg>| SidecarSupArguments {
                storage: StorageArguments {
                    store: store.clone(),
                    metrics: metrics.clone(),
                    gate: gate.clone(),
                    leadership: led.clone(),
                },
                moderation: ModerationArguments {
                    desk,
                    models,
                    store: store.clone(),
                    metrics: metrics.clone(),
                    dispatch: dispatch.clone(),
                },
                watermark: WatermarkArguments { desk: marks, store, metrics: metrics.clone() },
                provenance: provenance.clone(),
                metrics,
                dispatch,
            })
        },
        started,
        fatal: fatal_sender,
    };
    let (actors, ended) = Actor::spawn(None, RootActor, arguments).await?;
    let dispatch = dispatch.await.context("the actors did not start")?;
    let sweeping = sweep_pointers(store.clone(), unread, leadership.clone(), dispatch.clone());
    tokio::spawn(sweeping);
    let journal_ended = on_disk;
    Ok(Running {
        dispatch,
        link,
        authority,
        store,
        models,
        metrics,
        keys,
        links,
        leadership,
        desk,
        root,
        inspector,
        finder,
        actors,
        ended,
        fatal,
        journal_ended,
        _progress: progress,
        _expiry: expiry,
    })
}

impl Running {
    /// What the HTTP door needs.
    pub fn door(&self, config: &ServeConfig) -> DoorState {
        DoorState {
            farm: Farm {
                dispatch: self.dispatch.clone(),
                assets: Arc::new(StoreReader::new(self.store.clone())),
            },
            models: self.models.clone(),
            classes: Arc::new(config.classes()),
            keys: self.keys.clone(),
            limits: door_limits(config),
            metrics: self.metrics.clone(),
            links: self.links.clone(),
            fsck: Fsck::new(self.store.clone()),
            inspector: self.inspector.clone(),
            finder: Some(self.finder.clone()),
            desk: self.desk.clone(),
            system_fingerprint: format!("fp_zoetrope_{}", env!("CARGO_PKG_VERSION")).into(),
            now: clock::now,
            cluster: None,
        }
    }

    /// Waits until the farm cannot go on, and says why. Cancel-safe.
    pub async fn failed(&mut self) -> String {
        (&mut self.fatal).await.unwrap_or_else(|_| "the actors ended".to_owned())
    }

    /// Stops the actors in order and returns when the data folder is free.
    pub async fn stop(self) {
        self.actors.stop(None);
        self.stopped().await;
    }

    /// The same, and leaves the books as a snapshot, so that another release that starts on them need not decide as
    /// this one did. It takes no longer than any other stop may.
    pub async fn save_and_stop(self) {
        if self.actors.cast(RootMsg::SaveAndStop).is_err() {
            tracing::debug!("the actors have ended already");
        }
        self.stopped().await;
    }

    async fn stopped(mut self) {
        if let Err(error) = self.ended.await {
            tracing::error!(%error, "the actors did not end in good order");
        }
        // Its sender goes when the journal's thread has ended. The storage engine may hang on a disk that
        // fails; then nothing of what it still holds was acknowledged.
        let ended = async { while self.journal_ended.changed().await.is_ok() {} };
        tokio::pin!(ended);
        if tokio::time::timeout(JOURNAL_TIMEOUT, &mut ended).await.is_err() {
            // One that waits for etcd gives up what it was not told to be durable.
            self.leadership.lose();
            if tokio::time::timeout(JOURNAL_TIMEOUT, ended).await.is_err() {
                tracing::warn!("the journal's thread does not end");
            }
        }
    }
}

/// The door's limits as the configuration sets them.
pub fn door_limits(config: &ServeConfig) -> DoorLimits {
    DoorLimits {
        requests_per_second: config.limits.requests_per_second,
        burst: config.limits.burst,
        connections: config.limits.connections,
        in_flight: config.limits.in_flight,
        ..DoorLimits::default()
    }
}

/// Says what the store does with conditional writes. Several coordinators need them kept: one that was deposed may
/// still be writing a pointer. A store that is down is no reason not to start: jobs wait for it.
async fn look_at(store: &Store, config: &ServeConfig) -> anyhow::Result<()> {
    let place = config.store_place();
    match tokio::time::timeout(STORE_LOOK_TIMEOUT, store.conditional()).await {
        Ok(Ok(Conditional::Kept)) => {}
        Ok(Err(error @ StoreError::Unconditional)) => {
            bail!(
                "store.place = {place}: {error}; use a service that keeps them, or one coordinator"
            )
        }
        Ok(Ok(Conditional::Ignored)) => {
            tracing::info!(%place, "the store ignores conditional writes: this coordinator looks before it publishes");
        }
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(%place, "the store does not answer; jobs wait for it: {error:#}");
        }
        Err(_) => tracing::warn!(%place, "the store does not answer; jobs wait for it"),
    }
    Ok(())
}

/// Refuses a store that belongs to another farm's journal. Of records that were lost the store is told before they are
/// forgotten, so that no later start sweeps what they spoke of.
async fn whose(
    store: &Store,
    config: &ServeConfig,
    authority: &Authority,
    lost: bool,
) -> anyhow::Result<()> {
    let place = config.store_place();
    store.belongs_to(hex::encode(Sha256::digest(authority.certificate())));
    let asked = async {
        let owner = store.owner().await?;
        if owner == Owner::We && lost {
            store.forbid_sweeps().await?;
        }
        Ok::<_, StoreError>(owner)
    };
    match tokio::time::timeout(STORE_LOOK_TIMEOUT, asked).await {
        Ok(Ok(Owner::We)) => Ok(()),
        Ok(Ok(Owner::Another)) => bail!(
            "store.place = {place}: the store belongs to another farm, whose clips a sweep would delete: name the store of \
             this journal, or an empty one; if it is this farm's after all (its ca was made anew), remove the object \
             `farm` in it"
        ),
        Ok(Err(error)) if lost => Err(error).with_context(|| {
            format!("store.place = {place}: it must be told that records were lost; start again when it answers")
        }),
        Err(_) if lost => bail!(
            "store.place = {place}: it does not answer, and must be told that records were lost; start again when it does"
        ),
        // Nothing is changed in it until it has said whose it is.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// Removes pointers of jobs that ended without a clip or were deleted: a crash between such an end and the removal
/// leaves them behind.
async fn sweep_pointers(
    store: Arc<Store>,
    unread: BTreeSet<JobId>,
    leadership: Arc<Leadership>,
    dispatch: ActorRef<DispatchMsg>,
) {
    let pointers = loop {
        match store.pointers().try_collect::<Vec<JobId>>().await {
            Ok(pointers) => break pointers,
            Err(error) => {
                tracing::warn!(%error, "the pointers could not be swept; it is tried again")
            }
        }
        tokio::time::sleep(SWEEP_AGAIN).await;
        if dispatch.get_status() >= ActorStatus::Stopping {
            return;
        }
    };
    for job in pointers.into_iter().filter(|job| unread.contains(job)) {
        if !leadership.is_held() {
            return;
        }
        if let Err(error) = store.unpublish(job).await {
            tracing::warn!(%job, %error, "a pointer could not be removed; it is tried again");
            // Without a dispatch actor the process ends; the next start sweeps again.
            drop(dispatch.cast(DispatchMsg::NotUnpublished(job)));
        }
    }
}

/// Returns when the process is asked to end.
pub async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    #[cfg(not(unix))]
    {
        // Without a handler the process ends the hard way, which recovery is made for.
        drop(tokio::signal::ctrl_c().await);
    }
}
