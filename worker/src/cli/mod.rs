//! The command line of `zoetrope-worker`.
//!
//! Parses, starts, and turns every error into one sentence that says what to change. The only place besides
//! `main.rs` that uses `anyhow`.

mod engines;
mod memory;
mod render;
mod run;

use crate::emulated::Emulation;
use crate::exit::ExitCode;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use zoetrope_protocol::Stage;
use zoetrope_protocol::clip::{FPS, SECONDS_MAX};
use zoetrope_protocol::version::LinkVersion;

/// Serves one GPU (or the CPU) of a Zoetrope farm.
#[derive(Debug, Parser)]
#[command(name = "zoetrope-worker", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve a farm (what happens without a subcommand)
    Run(RunArgs),
    /// Render one clip without a farm
    Render(RenderArgs),
    /// Time one denoising step and the decode of a clip
    Bench(BenchArgs),
    /// Read an emulation file for `zoetrope up`, which must not start workers that cannot
    #[command(hide = true)]
    CheckEmulation {
        /// The emulation file
        file: PathBuf,
    },
    /// Print how many GPUs torch sees, for `zoetrope up`: the driver may list some that this libtorch cannot use
    #[command(hide = true)]
    Devices,
}

/// Far beyond what any schedule gains from.
const STEPS_MAX: i64 = 1_000;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineKind {
    /// Models of the H3 architecture, with libtorch
    H3,
    /// No model: times and sizes from a file, for load tests
    Emulated,
}

#[derive(Clone, Debug, Args)]
struct EngineArgs {
    /// Engine that renders
    #[arg(long, value_enum, default_value = "h3", env = "ZOETROPE_WORKER_ENGINE")]
    engine: EngineKind,
    /// Emulation file (TOML); required by, and only for, `--engine emulated`
    #[arg(long, value_name = "FILE.toml")]
    emulated: Option<PathBuf>,
    /// Model folder in the diffusers layout, with a manifest.json; may be repeated
    #[arg(long, value_name = "FOLDER", num_args = 1.., env = "ZOETROPE_WORKER_MODEL")]
    model: Vec<PathBuf>,
    /// Device: `auto` (the first GPU, else the CPU), `cpu`, or `cuda:N`
    #[arg(long, default_value = "auto", env = "ZOETROPE_WORKER_DEVICE")]
    device: String,
    /// CPU threads of the engine, 1 to 1024; default: all cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Memory of the device in bytes, where the driver does not say it (a part of a GPU, a driver without the right) or
    /// where less is to be used
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..), env = "ZOETROPE_WORKER_VRAM_BYTES")]
    vram_bytes: Option<u64>,
}

#[derive(Clone, Debug, Args)]
struct ToolArgs {
    /// ffmpeg program
    #[arg(long, default_value = "ffmpeg", env = "ZOETROPE_FFMPEG")]
    ffmpeg: PathBuf,
    /// ffprobe program
    #[arg(long, default_value = "ffprobe", env = "ZOETROPE_FFPROBE")]
    ffprobe: PathBuf,
}

#[derive(Clone, Debug, Args)]
struct ModerationArgs {
    /// Folder of the moderation nets; default: where scripts/setup puts them
    #[arg(long, value_name = "FOLDER", env = "ZOETROPE_MODERATION_MODELS")]
    moderation: Option<PathBuf>,
    /// Who scores sampled frames and listens. `card` is for tests: a policy must ask for it
    #[arg(long, value_enum, default_value_t = ClassifierKind::Nets, env = "ZOETROPE_CLASSIFIER", hide = true)]
    classifier: ClassifierKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClassifierKind {
    Nets,
    Card,
}

#[derive(Clone, Debug, Args)]
struct RunArgs {
    /// Address of the coordinator's worker port, HOST:PORT; of several coordinators separated by commas
    #[arg(long, default_value = "127.0.0.1:8443", env = "ZOETROPE_COORDINATOR", value_parser = addresses)]
    coordinator: String,
    /// Folder of this worker: identity, cached artifacts, temporary files
    #[arg(long, default_value = "zoetrope-worker", env = "ZOETROPE_WORKER_DATA")]
    data: PathBuf,
    /// Join token (`zt1...`); needed on the first start; one that is given near the end of the certificate, or after it, renews it
    #[arg(long, env = "ZOETROPE_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Name of this node, 1 to 64 of a-z, 0-9, `-`, `.`, which no other worker has; default: the machine's name
    #[arg(long, env = "ZOETROPE_WORKER_NAME")]
    name: Option<String>,
    /// The operator's name for the set of workers that this one belongs to
    #[arg(long, default_value = "default", env = "ZOETROPE_WORKER_POOL")]
    pool: String,
    /// Stages that this worker takes, of encode, denoise, decode and finish, separated by commas; default: all. A worker of
    /// `encode,denoise,decode` needs no ffmpeg and no moderation nets; one of `finish` encodes, marks, moderates and signs on
    /// a CPU what others decode, so that no gpu waits for it: the farm then wants `decode_chunks`
    #[arg(long, value_name = "STAGES", value_delimiter = ',', value_parser = stage, env = "ZOETROPE_WORKER_STAGES")]
    stages: Vec<Stage>,
    /// Address for /metrics and /healthz, such as 127.0.0.1:9445; off by default
    #[arg(long, value_name = "ADDR", env = "ZOETROPE_WORKER_METRICS")]
    metrics: Option<SocketAddr>,
    /// Bytes of artifacts kept on disk, at most
    #[arg(long, value_name = "BYTES", default_value_t = crate::cache::CACHE_BYTES_DEFAULT)]
    cache_bytes: u64,
    /// Emulated workers in this process, each with an identity of its own (NAME-1, NAME-2, ...)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2000))]
    count: u32,
    #[arg(long, value_name = "VERSION", default_value_t = LinkVersion::NEWEST, help = link_version_help())]
    link_version_max: LinkVersion,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    tools: ToolArgs,
    #[command(flatten)]
    moderation: ModerationArgs,
}

#[derive(Clone, Debug, Args)]
struct RenderArgs {
    /// What to show
    prompt: String,
    /// File for the clip (MP4)
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Canvas and size of the clip, WIDTHxHEIGHT; default: the model's
    #[arg(long)]
    size: Option<String>,
    /// Length in seconds; default: the model's
    #[arg(long)]
    seconds: Option<u32>,
    /// Length in frames, at 24 a second, instead of seconds
    #[arg(long, conflicts_with = "seconds")]
    frames: Option<u32>,
    /// Denoising steps, 1 to 1000; default: the model's
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=STEPS_MAX))]
    steps: Option<u32>,
    /// Seed of the noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Make a clip without sound
    #[arg(long)]
    silent: bool,
    /// Render it once before, unmeasured, so that weights and memory are as on a worker that has been running
    #[arg(long)]
    warm: bool,
    /// Moderate and mark the clip as a worker of a farm does, with a key that no farm has
    #[arg(long)]
    finish_as_farm: bool,
    /// Print timings and digests as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    tools: ToolArgs,
    #[command(flatten)]
    moderation: ModerationArgs,
}

#[derive(Clone, Debug, Args)]
struct BenchArgs {
    /// Canvas, WIDTHxHEIGHT; default: the model's
    #[arg(long)]
    size: Option<String>,
    /// Frames, 1 to 2880
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..=i64::from(SECONDS_MAX * FPS)))]
    frames: u32,
    /// Denoising steps, 1 to 1000
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=STEPS_MAX))]
    steps: u32,
    #[command(flatten)]
    engine: EngineArgs,
}

fn link_version_help() -> String {
    format!(
        "Newest version of the link that is spoken, one of {}; both sides agree on what both know, so this is for trying a way back",
        LinkVersion::words()
    )
}

/// Addresses to dial. A name need not be known yet; one that is no address never will be.
fn addresses(text: &str) -> Result<String, String> {
    let dialled = |one: &str| {
        let (host, port) = one.trim().rsplit_once(':')?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let named = !host.is_empty() && (bracketed || !host.contains(':'));
        port.parse::<u16>().ok().filter(|port| named && *port > 0)
    };
    if text.split(',').all(|one| dialled(one).is_some()) {
        return Ok(text.to_owned());
    }
    Err("expected HOST:PORT, such as 10.0.0.5:8443 or [::1]:8443; several are separated by commas"
        .to_owned())
}

fn stage(text: &str) -> Result<Stage, String> {
    let known = Stage::ALL.into_iter().find(|stage| stage.word() == text.trim());
    known.ok_or_else(|| format!("expected some of {}", Stage::ALL.map(Stage::word).join(", ")))
}

/// Runs the command line. Errors are printed here.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Left };
            error.print().ok(); // there is no other place to complain
            return code;
        }
    };
    log_to_stderr();
    let done = match cli.command.unwrap_or(Verb::Run(cli.run)) {
        Verb::Run(args) => run::run(&args),
        Verb::Render(args) => render::render(&args).map(|()| ExitCode::Left),
        Verb::Bench(args) => render::bench(&args).map(|()| ExitCode::Left),
        Verb::CheckEmulation { file } => {
            Emulation::read(&file).map(|_| ExitCode::Left).map_err(Into::into)
        }
        Verb::Devices => {
            println!("{}", engines::gpus());
            Ok(ExitCode::Left)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::Start
    })
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let set = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    let filter = set("ZOETROPE_LOG").map(|text| EnvFilter::try_new(&text).map_err(|e| (text, e)));
    let filter = filter.transpose().unwrap_or_else(|(text, error)| {
        eprintln!("ZOETROPE_LOG={text} is not understood, so info is logged: {error}");
        None
    });
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let format = set("ZOETROPE_LOG_FORMAT");
    let json = format.as_deref() == Some("json");
    if let Some(other) = format.filter(|_| !json) {
        eprintln!("ZOETROPE_LOG_FORMAT={other} is not known, so logs are text: it may be json");
    }
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    if json { logs.json().init() } else { logs.with_target(false).init() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_whole() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["w", "--coordinator", "a:1", "--name", "n"]).expect("run");
        assert_eq!(cli.run.coordinator, "a:1");
        for good in ["localhost:8443", "[::1]:1", "a:1,b:2", "a:1, b:2"] {
            assert_eq!(addresses(good).as_deref(), Ok(good));
        }
        for bad in ["", "foo", "localhost", "a:", ":1", "a:0", "a:x", "::1", "a:1,b", "a:1,"] {
            let told = Cli::try_parse_from(["w", "run", "--coordinator", bad]);
            let told = told.expect_err("refused").to_string();
            assert!(told.contains("HOST:PORT"), "{bad}: {told}");
        }
        let bad = Cli::try_parse_from(["w", "--engine", "other"]).expect_err("refused").to_string();
        assert!(bad.contains("h3") && bad.contains("emulated"), "{bad}");
    }
}
