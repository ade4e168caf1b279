//! `zoetrope-worker run`: joins if it must, starts the worker (or many emulated ones), and waits for its end.

use super::engines::{Engines, judges};
use super::{EngineKind, RunArgs};
use crate::asked::Alarm;
use crate::cache::ArtifactCache;
use crate::exit::ExitCode;
use crate::finish::Finisher;
use crate::gpu::STUCK_AFTER;
use crate::identity::{NodeIdentity, Token, check_name, default_name};
use crate::link::LinkTimes;
use crate::link::dial::{endpoint, join_patiently};
use crate::link::tls::link_config;
use crate::metrics::Metrics;
use crate::root::{RootMsg, Worker, WorkerArguments};
use anyhow::{Context, bail};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use quinn::Endpoint;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zoetrope_protocol::wire::{NAME_BYTES_MAX, Profile};
use zoetrope_provenance::{expiry, private};

/// How long a first start waits for a coordinator that does not answer; a token lives 15 minutes.
const JOIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long the last packets may take: all that matters was said and heard before.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Emulated workers that share a socket. One socket's buffers are enough for so many quiet links.
const LINKS_PER_SOCKET: usize = 64;

/// Emulated workers that join at a time: the coordinator syncs its disk for each.
const JOINS_AT_ONCE: usize = 16;

/// What all workers of the process share.
struct Shared {
    engines: Engines,
    finisher: Finisher,
    metrics: Arc<Metrics>,
    pool: String,
    /// Rung when a thread that judges clips dies.
    alarm: Alarm,
}

/// Runs until the worker ends.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if args.count > 1 && args.engine.engine != EngineKind::Emulated {
        bail!("`--count` is only for `--engine emulated`: one process serves one GPU");
    }
    if args.pool.is_empty() || args.pool.len() > NAME_BYTES_MAX {
        bail!("`--pool` takes 1 to {NAME_BYTES_MAX} characters");
    }
    let token = args.token.as_deref().map(str::parse::<Token>).transpose()?;
    let told = private::make_told(&args.data)
        .with_context(|| format!("cannot make the folder {} (--data)", args.data.display()))?;
    if let Some(open) = told {
        tracing::warn!("{open}");
    }
    let _lock = lock(&args.data)?;
    let temp = args.data.join("tmp");
    if temp.exists() {
        // What a killed process left behind.
        std::fs::remove_dir_all(&temp)
            .with_context(|| format!("cannot clean {}", temp.display()))?;
    }
    let mut engines = Engines::new(&args.engine, Some(&args.data))?;
    engines.serve_only(&args.stages)?;
    let alarm = Alarm::default();
    let finisher = match engines.finishes() {
        true => engines.finisher(&args.tools, &temp, Some(judges(&args.moderation, &alarm)?))?,
        // Who makes no clips needs no encoder and no nets.
        false => Finisher::Nobody(temp.into()),
    };
    let models: Vec<String> = engines.served.iter().map(|served| served.id.clone()).collect();
    let metrics = Arc::new(Metrics::new(&models)?);
    let shared = Shared { engines, finisher, metrics, pool: args.pool.clone(), alarm };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The engine has its own threads; links and files are light.
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let code = runtime.block_on(serve(args, token.as_ref(), shared))?;
    tracing::info!(%code, "ended");
    // A stuck gpu thread must not keep the process: do not wait for anything.
    runtime.shutdown_background();
    Ok(code)
}

/// One process a folder: two would tear each other's files.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("another worker uses the folder {}: give this one its own --data", data.display());
    }
    Ok(file)
}

async fn serve(args: &RunArgs, token: Option<&Token>, shared: Shared) -> anyhow::Result<ExitCode> {
    let places = places(args)?;
    let sockets = (0..places.len().div_ceil(LINKS_PER_SOCKET))
        .map(|_| endpoint())
        .collect::<Result<Vec<Endpoint>, _>>()
        .context("cannot open a UDP socket")?;
    let joins = places.into_iter().enumerate().map(|(n, (data, name))| {
        let socket = &sockets[n / LINKS_PER_SOCKET];
        async move {
            let identity = identify(args, token, socket, &data, name.as_deref()).await?;
            anyhow::Ok((socket, data, identity))
        }
    });
    let joined: Vec<_> = stream::iter(joins).buffered(JOINS_AT_ONCE).try_collect().await?;
    if let Some(ends) = joined.iter().filter_map(|(.., identity)| identity.ends()).min() {
        shared.metrics.certificate_ends(ends);
        // Until the process ends.
        drop(tokio::spawn(watch_certificates(ends)));
    }
    let mut workers = Vec::new();
    let mut linked = Vec::new();
    for (socket, data, identity) in joined {
        let is_linked = Arc::new(AtomicBool::new(false));
        linked.push(is_linked.clone());
        let arguments = compose(args, &shared, socket, &data, &identity, is_linked)?;
        workers.push(Worker::start(arguments).await?);
    }
    if let Some(address) = args.metrics {
        let address = crate::http::serve(address, shared.metrics.clone(), linked)
            .await
            .with_context(|| format!("cannot listen on {address} (--metrics)"))?;
        tracing::info!(%address, "metrics");
    }
    let roots: Vec<_> = workers.iter().map(|worker| worker.root.clone()).collect();
    let (alarm, ended) = (shared.alarm.clone(), roots.clone());
    tokio::spawn(async move {
        alarm.notified().await;
        tracing::error!("a thread that judges clips died: the process ends, start it again");
        for root in &ended {
            root.cast(RootMsg::End(ExitCode::PartDied)).ok(); // one that has ended needs no end
        }
    });
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut notice)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::user_defined1()),
        ) else {
            tracing::error!("signals are not caught: the process cannot leave in order");
            return;
        };
        loop {
            let told = tokio::select! {
                _ = terminate.recv() => || RootMsg::Signal,
                _ = interrupt.recv() => || RootMsg::Signal,
                _ = notice.recv() => || RootMsg::Notice,
            };
            for root in &roots {
                root.cast(told()).ok(); // one that has ended needs no signal
            }
        }
    });
    let code = all_ended(workers.into_iter().map(|worker| worker.ended)).await;
    let farewell = futures::future::join_all(sockets.iter().map(Endpoint::wait_idle));
    tokio::time::timeout(FAREWELL_LIMIT, farewell).await.ok(); // the peer's own time-out does the rest
    Ok(code)
}

/// Waits for the end of all workers, or of the first whose gpu or device failed: that one ends the process at once,
/// whatever its siblings do.
async fn all_ended(ends: impl Iterator<Item = oneshot::Receiver<ExitCode>>) -> ExitCode {
    let mut ends: FuturesUnordered<_> = ends.collect();
    let mut code = ExitCode::Left;
    while let Some(ended) = ends.next().await {
        let ended = ended.unwrap_or(ExitCode::PartDied);
        if ended != ExitCode::Left {
            code = ended;
        }
        if matches!(code, ExitCode::GpuStuck | ExitCode::DeviceFailed | ExitCode::PartDied) {
            break;
        }
    }
    code
}

/// Folder and name of each worker of this process.
fn places(args: &RunArgs) -> anyhow::Result<Vec<(PathBuf, Option<String>)>> {
    if args.count == 1 {
        return Ok(vec![(args.data.clone(), args.name.clone())]);
    }
    let name = args.name.clone().unwrap_or_else(default_name);
    (1..=args.count)
        .map(|n| {
            let name = format!("{name}-{n}");
            check_name(&name)?;
            Ok((args.data.join("workers").join(n.to_string()), Some(name)))
        })
        .collect()
}

async fn identify(
    args: &RunArgs,
    token: Option<&Token>,
    socket: &Endpoint,
    data: &Path,
    name: Option<&str>,
) -> anyhow::Result<NodeIdentity> {
    private::make(data).with_context(|| format!("cannot make the folder {}", data.display()))?;
    let known = NodeIdentity::load(data, name)?;
    if let Some(identity) = &known {
        let ends = identity.ends().unwrap_or(u64::MAX);
        let (over, due) = (expiry::now() >= ends, expiry::is_due(expiry::now(), ends));
        // Until it is over, only a token of the same farm renews it: the worker is that one's.
        let renews = |token: &&Token| due && (over || token.names(&identity.authority));
        let node = &identity.node;
        match token.filter(renews) {
            None if over => bail!(
                "the certificate of {node} has ended: give a new join token with --token (or ZOETROPE_JOIN_TOKEN); \
                 `zoetrope join-token` makes one"
            ),
            None => return Ok(identity.clone()),
            Some(token) => match join(args, socket, data, token, node).await {
                Ok(renewed) => return Ok(renewed),
                Err(error) if over => return Err(error),
                Err(error) => {
                    tracing::warn!("the certificate of {node} is not renewed: {error:#}");
                    return Ok(identity.clone());
                }
            },
        }
    }
    let Some(token) = token else {
        bail!(
            "{} has no identity yet: give a join token with --token (or ZOETROPE_JOIN_TOKEN); \
             `zoetrope join-token` makes one",
            data.display()
        );
    };
    let node = name.map_or_else(default_name, String::from);
    join(args, socket, data, token, &node).await
}

async fn join(
    args: &RunArgs,
    socket: &Endpoint,
    data: &Path,
    token: &Token,
    node: &str,
) -> anyhow::Result<NodeIdentity> {
    let identity = join_patiently(socket, &args.coordinator, token, node, JOIN_PATIENCE).await?;
    identity.store(data)?;
    tracing::info!(node, "joined the farm");
    Ok(identity)
}

/// Says each day, from a month before on, that the first of these certificates ends.
async fn watch_certificates(ends: u64) {
    let mut every = tokio::time::interval(expiry::EVERY);
    let advice = "start the worker anew with a new --token, which `zoetrope join-token` makes";
    loop {
        every.tick().await;
        if let Some(told) = expiry::told(expiry::now(), ends, "the worker's certificate", advice) {
            tracing::warn!("{told}");
        }
    }
}

fn compose(
    args: &RunArgs,
    shared: &Shared,
    socket: &Endpoint,
    data: &Path,
    identity: &NodeIdentity,
    linked: Arc<AtomicBool>,
) -> anyhow::Result<WorkerArguments> {
    let profile = Profile {
        pool: shared.pool.clone(),
        gpu_kind: shared.engines.gpu_kind.clone(),
        vram_bytes: shared.engines.vram_bytes,
        version: env!("CARGO_PKG_VERSION").into(),
        models: shared.engines.served.clone(),
        machine: machine(),
    };
    let gpu = (shared.engines.uuid.as_str(), shared.engines.instance.as_str());
    shared.metrics.serves(&identity.node, &profile, gpu);
    let cache = data.join("artifacts");
    let cache = ArtifactCache::open(cache.clone(), args.cache_bytes / u64::from(args.count))
        .with_context(|| format!("cannot use the folder {}", cache.display()))?;
    Ok(WorkerArguments {
        coordinator: args.coordinator.clone(),
        node: identity.node.clone(),
        endpoint: socket.clone(),
        config: link_config(identity, args.link_version_max)?,
        profile,
        open: shared.engines.opener(),
        finisher: shared.finisher.clone(),
        cache: Arc::new(cache),
        metrics: shared.metrics.clone(),
        linked,
        times: LinkTimes::default(),
        stuck_after: STUCK_AFTER,
    })
}

/// The host, as long as it runs: the kernel's name of this boot, which containers on it share and copies of its disk do
/// not. Empty where there is none.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: whichever of several workers fails ends the process, and those that leave one after the other do not.
    #[tokio::test]
    async fn any_worker_that_fails_ends_the_process() {
        for stuck in 0..3 {
            let (mut told, ends): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
            told.remove(stuck).send(ExitCode::GpuStuck).expect("is waited for");
            assert_eq!(all_ended(ends.into_iter()).await, ExitCode::GpuStuck);
        }
        let (told, ends): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let codes = [ExitCode::LeftUnheard, ExitCode::Left, ExitCode::Left];
        for (told, code) in told.into_iter().zip(codes) {
            told.send(code).expect("is waited for");
        }
        assert_eq!(all_ended(ends.into_iter()).await, ExitCode::LeftUnheard);
    }
}
