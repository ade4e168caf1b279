//! `up`: a whole farm on this machine. The coordinator runs in this process, each worker in one of its own.
//!
//! On the first start it makes the data folder, the farm's authority and an operator's key. Killed and started
//! again, it finds its workers still rendering. Decides nothing about jobs.

use super::Target;
use super::children::{self, Post};
use super::places::{self, KEY_FILE};
use super::table::{print, print_json};
use crate::clock;
use crate::config::{ServeConfig, address};
use crate::keys::{Project, Role};
use crate::models::DECODE_CHUNKS_MAX;
use crate::serve::{ServeInfo, serve_until, signalled};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zoetrope_protocol::id::Millis;
use zoetrope_provenance::{expiry, private};

/// The file with the address of the workers' port, so that workers of a killed farm find the next one there.
const LINK_FILE: &str = "link";
/// What says which GPUs a process may use.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
/// What workers take whose clips are finished by others, and what those take.
const RENDER: [&str; 2] = ["--stages", "encode,denoise,decode"];
const FINISH: [&str; 4] = ["--stages", "finish", "--device", "cpu"];
/// More workers than this on one machine want `zoetrope serve`, and a file that says how they share it.
const WORKERS_MAX: u32 = 64;
/// A worker joins as soon as it has started; loading torch on a busy machine takes some seconds.
const TOKEN_TTL: Millis = Millis(15 * 60 * 1000);

/// What `up` takes.
#[derive(Args)]
pub struct UpArgs {
    /// Address of the HTTP API; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// How many workers [default: one for each GPU, else one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(WORKERS_MAX)))]
    workers: Option<u32>,
    /// How many workers beside them only encode, mark, moderate and sign clips, on the CPU, so that no GPU waits for that;
    /// implies `--decode-chunks`
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(WORKERS_MAX)))]
    finishers: u32,
    /// Folder of a model with its manifest.json [default: the toybox model of the project]
    #[arg(long, value_name = "FOLDER", env = "ZOETROPE_MODEL")]
    model: Option<PathBuf>,
    /// What renders
    #[arg(long, value_enum, default_value_t = Engine::H3)]
    engine: Engine,
    /// With `--engine emulated`: the file with its times
    #[arg(long, value_name = "FILE", required_if_eq("engine", "emulated"))]
    emulated: Option<PathBuf>,
    /// The worker's program [default: the one beside this program]
    #[arg(long, value_name = "FILE", env = "ZOETROPE_WORKER_PROGRAM")]
    worker_program: Option<PathBuf>,
    /// The socket of a `zoetrope signer` that signs the clips [default: this process signs]
    #[arg(long, value_name = "PATH", requires = "signer_root")]
    signer: Option<PathBuf>,
    /// PEM: the root that its signatures must lead to
    #[arg(long, value_name = "FILE", requires = "signer")]
    signer_root: Option<PathBuf>,
    /// The moderation policy [default: the one that is built in]
    #[arg(long, value_name = "FILE", env = "ZOETROPE_POLICY")]
    policy: Option<PathBuf>,
    /// Decode chunks (of 17 frames) of one decode shard: longer clips are decoded by several workers at once
    /// [default: clips are decoded as they are finished]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(DECODE_CHUNKS_MAX)))]
    decode_chunks: Option<u16>,
    /// Start although the journal has lost records; what is lost is told
    #[arg(long)]
    accept_journal_loss: bool,
}

/// What renders.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// A model
    H3,
    /// Nothing: stages take the times of a file. For load tests
    Emulated,
}

/// Runs the farm until it is told to stop.
pub async fn up(args: UpArgs, target: &Target) -> anyhow::Result<()> {
    super::serve::log_to_stderr("warn");
    let data = std::path::absolute(places::data_folder(target.data.as_deref())?)?;
    private::make(&data)
        .with_context(|| format!("cannot make the data folder {}", data.display()))?;
    // What can be wrong with the workers is said before anything is started.
    let program = places::worker_program(args.worker_program.as_deref())?;
    let engine = engine_arguments(&args)?;
    if let Some(file) = &args.emulated {
        check_emulation(&program, file)?;
    }
    let mut config = ServeConfig {
        listen: args.listen,
        link_listen: link_address(&data),
        data: data.clone(),
        accept_journal_loss: args.accept_journal_loss,
        ..ServeConfig::default()
    };
    config.provenance.signer = args.signer.clone();
    config.provenance.root = args.signer_root.clone();
    config.moderation.policy = args.policy.clone();
    for problem in config.moderation.problems()? {
        eprintln!("moderation is not available, so jobs will wait: {problem}");
    }
    if let Some(folder) = &args.model
        && !is_toybox(folder)
    {
        config.models = vec![std::path::absolute(folder)?.join("manifest.json")];
    }
    // What is finished elsewhere is decoded apart, by default in one piece.
    let apart = (args.finishers > 0).then_some(DECODE_CHUNKS_MAX);
    if let Some(chunks) = args.decode_chunks.or(apart) {
        let models = crate::ground::models(&config)?;
        let names = models.all().iter().map(|model| model.manifest.id.clone());
        config.decode_chunks = names.map(|name| (name, chunks)).collect();
    }
    let (tell, told) = oneshot::channel();
    // Nobody listens only if this function has ended already.
    let mut farm = Box::pin(serve_until(config, |info| drop(tell.send(info)), pending()));
    let info = tokio::select! {
        info = told => info?,
        ended = &mut farm => return ended.and_then(|()| bail!("the farm was stopped while it started")),
    };
    let key_file = key_file(&data, &info)?;
    places::write(&data.join(LINK_FILE), &info.link.to_string())?;
    let url = places::write_url(&data, info.http)?;
    let mut posts = posts(&args, &data, &program, &engine, &info)?;
    announce(&url, &key_file, posts.len(), target);

    let stop = CancellationToken::new();
    let mut workers = JoinSet::new();
    for post in &mut posts {
        give_token(post, &info).await?;
        workers.spawn(children::keep(post.clone(), stop.clone()));
    }
    let ended = tokio::select! {
        ended = &mut farm => ended,
        () = signalled() => {
            eprintln!("stopping");
            stop.cancel();
            // The workers leave first, while somebody hears them: what they stored last is then on record.
            tokio::select! {
                ended = &mut farm => ended,
                () = all_left(&mut workers) => {
                    info.stop.cancel();
                    farm.await
                }
            }
        }
    };
    stop.cancel();
    all_left(&mut workers).await;
    places::forget_url(&data);
    ended
}

async fn all_left(workers: &mut JoinSet<()>) {
    while workers.join_next().await.is_some() {}
}

fn announce(url: &str, key_file: &Path, workers: usize, target: &Target) {
    if target.json {
        print_json(&json!({"url": url, "key_file": key_file, "workers": workers}));
        return;
    }
    // Who tries it must find the same folder.
    let data = target.data.as_deref().map(|data| format!(" --data {}", quoted(data)));
    print(&format!(
        "The farm is up, with {workers} worker{}.\n  API       {url}/v1\n  key file  {}\n  try       \
         zoetrope submit{} \"a red ball bounces on grass in daylight\" -o clip.mp4\nCtrl-C stops it.\n",
        if workers == 1 { "" } else { "s" },
        key_file.display(),
        data.unwrap_or_default()
    ));
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// Where workers connect: where they did before, so that those which still run find us.
fn link_address(data: &Path) -> SocketAddr {
    let kept = places::word_in(&data.join(LINK_FILE)).and_then(|text| text.parse().ok());
    let kept = kept.filter(|address| std::net::UdpSocket::bind(address).is_ok());
    kept.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// The file with the operator's key; made if there is none, or if its key was revoked.
fn key_file(data: &Path, info: &ServeInfo) -> anyhow::Result<PathBuf> {
    let file = data.join(KEY_FILE);
    if places::word_in(&file).is_none_or(|key| info.keys.verify(&key).is_none()) {
        let made = info.keys.create(Project::New, Role::Operator, "zoetrope up")?;
        places::write(&file, &made.text)?;
    }
    Ok(file)
}

fn is_toybox(folder: &Path) -> bool {
    let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&text)
        .is_ok_and(|manifest| manifest["id"] == "toybox")
}

fn engine_arguments(args: &UpArgs) -> anyhow::Result<Vec<String>> {
    let text = |path: PathBuf| path.display().to_string();
    match (args.engine, &args.emulated) {
        (Engine::H3, Some(_)) => bail!("--emulated FILE is only for --engine emulated"),
        (Engine::H3, None) => {
            let model = places::model_folder(args.model.as_deref())?;
            Ok(vec!["--engine".into(), "h3".into(), "--model".into(), text(model)])
        }
        (Engine::Emulated, Some(file)) => {
            let file = std::path::absolute(file)?;
            if !file.is_file() {
                bail!("there is no emulation file {}", file.display());
            }
            Ok(vec!["--engine".into(), "emulated".into(), "--emulated".into(), text(file)])
        }
        (Engine::Emulated, None) => bail!("--engine emulated wants --emulated FILE"),
    }
}

/// Has the worker's program read the emulation file: a worker that cannot would be started again for ever.
fn check_emulation(program: &Path, file: &Path) -> anyhow::Result<()> {
    let read = std::process::Command::new(program).arg("check-emulation").arg(file).output();
    let read = read.with_context(|| format!("cannot start {}", program.display()))?;
    if read.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&read.stderr);
    let said = said.trim();
    bail!("--emulated {}: {}", file.display(), said.strip_prefix("error: ").unwrap_or(said))
}

/// The workers of this machine: one for each GPU, or as many as were asked for; they share the cores. And those beside them
/// that finish what they render.
fn posts(
    args: &UpArgs,
    data: &Path,
    program: &Path,
    engine: &[String],
    info: &ServeInfo,
) -> anyhow::Result<Vec<Post>> {
    let gpus = if args.engine == Engine::Emulated { Vec::new() } else { gpus(program) };
    let fit = u32::try_from(gpus.len()).unwrap_or(WORKERS_MAX);
    let count = args.workers.unwrap_or(fit.max(1)).min(WORKERS_MAX);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = |count: u32| (cores / (count as usize).max(1)).max(1);
    let kind = if gpus.is_empty() { "cpu" } else { "gpu" };
    let post = |node: String, threads: usize, more: &[&str], gpu: Option<&String>| {
        let folder = data.join("workers").join(&node);
        let mut arguments: Vec<String> = ["run", "--coordinator"].map(str::to_owned).to_vec();
        arguments.extend([info.link.to_string(), "--data".into(), folder.display().to_string()]);
        arguments.extend(["--name".into(), node.clone()]);
        arguments.extend(["--threads".into(), threads.to_string()]);
        arguments.extend_from_slice(engine);
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let mut environment = Vec::new();
        if let Some(gpu) = gpu {
            environment.push((VISIBLE.to_owned(), gpu.clone()));
        }
        if std::env::var_os("ZOETROPE_LOG").is_none() {
            environment.push(("ZOETROPE_LOG".to_owned(), "warn".to_owned()));
        }
        Post { node, program: program.to_owned(), folder, arguments, environment }
    };
    let render: &[&str] = if args.finishers > 0 { &RENDER } else { &[] };
    let renders = |n: u32| {
        let gpu = gpus.get(n as usize % gpus.len().max(1));
        post(format!("{kind}{n}"), share(count), render, gpu)
    };
    let finishes = |n: u32| post(format!("finish{n}"), share(args.finishers), &FINISH, None);
    Ok((0..count).map(renders).chain((0..args.finishers).map(finishes)).collect())
}

/// A worker without an identity, or whose certificate ends soon, gets a token to join with, by its environment: others can read arguments.
async fn give_token(post: &mut Post, info: &ServeInfo) -> anyhow::Result<()> {
    let certificate = std::fs::read(post.folder.join("identity/certificate.der"));
    let ends = certificate.ok().and_then(|der| expiry::ends(&der));
    if ends.is_some_and(|ends| !expiry::is_due(expiry::now(), ends)) {
        return Ok(());
    }
    let authority = info.authority.clone();
    // It may be started a second time before it has joined.
    let make = move || authority.new_token(clock::now(), 3, TOKEN_TTL);
    let token = tokio::task::spawn_blocking(make).await??;
    post.environment.push(("ZOETROPE_JOIN_TOKEN".to_owned(), token));
    Ok(())
}

/// The GPUs that a worker can be given, by what `CUDA_VISIBLE_DEVICES` calls them. The driver lists also those that the
/// worker's libtorch cannot use; such a worker renders on the CPU, and says so.
fn gpus(program: &Path) -> Vec<String> {
    let words = |program: &Path, word: &str| {
        let output = std::process::Command::new(program).arg(word).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let listed = words(Path::new("nvidia-smi"), "-L").unwrap_or_default();
    // Loading torch takes a second or two, which a machine without a GPU need not wait.
    if !listed.lines().any(|line| line.starts_with("GPU ")) {
        return Vec::new();
    }
    let seen = words(program, "devices").unwrap_or_default();
    let visible = std::env::var(VISIBLE).unwrap_or_default();
    named(seen.trim().parse().unwrap_or(0), &visible)
}

/// Torch counts among those that it may see.
fn named(seen: usize, visible: &str) -> Vec<String> {
    let ids: Vec<&str> = visible.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
    let name = |n: usize| ids.get(n).map_or_else(|| n.to_string(), |id| (*id).to_owned());
    (0..seen).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for (path, word) in [("/srv/farm-1", "/srv/farm-1"), ("/my farm", "'/my farm'")] {
            assert_eq!(quoted(Path::new(path)), word);
        }
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }

    #[test]
    fn workers_share_the_gpus_that_this_process_may_see() {
        assert_eq!(named(0, ""), Vec::<String>::new());
        assert_eq!(named(2, ""), ["0", "1"]);
        assert_eq!(named(2, "3, GPU-aaaa"), ["3", "GPU-aaaa"]);
    }
}
