//! The command line. Each verb is one function in a file of its own; this file says what the verbs are.
//!
//! Verbs that talk to a farm use its HTTP API alone, like any other client. A verb exits with 0 only if what was
//! asked is done, and an error says what to do next.

mod children;
mod client;
mod fsck;
mod jobs;
mod operate;
mod places;
mod provenance;
mod rescan;
mod serve;
mod submit;
mod table;
mod up;
mod video;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

/// Zoetrope: a render farm for short videos with sound.
#[derive(Parser)]
#[command(name = "zoetrope", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    target: Target,
}

/// Which farm, with which key. Every verb that talks to a farm takes these; others refuse what they do not heed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The farm's address, such as http://127.0.0.1:8080 [default: of the farm in the data folder]
    #[arg(long, global = true, env = "ZOETROPE_URL", help_heading = "Farm")]
    url: Option<String>,
    /// The API key
    #[arg(
        long,
        global = true,
        env = "ZOETROPE_API_KEY",
        hide_env_values = true,
        help_heading = "Farm"
    )]
    key: Option<String>,
    /// A file with the API key [default: `api-key` in the data folder]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Farm")]
    key_file: Option<PathBuf>,
    /// The data folder of the farm: where `zoetrope up` keeps its state, and where others find address and key; given
    /// here, it comes before ZOETROPE_URL and ZOETROPE_API_KEY
    #[arg(long, global = true, value_name = "DIR", env = "ZOETROPE_DATA", help_heading = "Farm")]
    data: Option<PathBuf>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a farm on this machine: a coordinator and one worker for each device
    Up(up::UpArgs),
    /// Run a coordinator with a configuration file
    Serve(serve::ServeArgs),
    /// Check a configuration file and print what it means
    CheckConfig(serve::CheckArgs),
    /// Render a prompt, wait for the clip and download it
    Submit(submit::SubmitArgs),
    /// List jobs, newest first
    Jobs(jobs::JobsArgs),
    /// Show one job
    Show(jobs::ShowArgs),
    /// Cancel a job
    Cancel(jobs::JobArg),
    /// Say why a job waits, or how it has ended
    Why(jobs::JobArg),
    /// List the workers
    Workers,
    /// Empty workers and let them leave
    Drain(operate::DrainArgs),
    /// Let a job go on on another worker
    Move(jobs::MoveArgs),
    /// Give a worker no new work
    Cordon(operate::WorkerArg),
    /// Give a worker work again
    Uncordon(operate::WorkerArg),
    /// Hold every stored file against the journal; mends nothing unless told to
    Fsck(fsck::FsckArgs),
    /// Judge everything stored anew, and take down what fails
    Rescan(rescan::RescanArgs),
    /// Make a token with which new workers may join
    JoinToken(operate::TokenArgs),
    /// Show which coordinator leads, or let another lead
    Leader {
        #[command(subcommand)]
        what: Option<operate::LeaderVerb>,
    },
    /// Make, list and revoke API keys
    Key {
        #[command(subcommand)]
        what: operate::KeyVerb,
    },
    /// Sign for a coordinator, in a process of its own
    Signer(provenance::SignerArgs),
    /// Look at what proves where a clip comes from
    Provenance {
        #[command(subcommand)]
        what: provenance::ProvenanceVerb,
    },
    /// Read a manifest for the coordinator, within limits that it set
    #[command(hide = true)]
    ReadManifest(provenance::ReadArgs),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: Shell,
    },
}

impl Cli {
    /// What the words on the command line and the environment come to. A data folder on the command line is a farm with
    /// its own address and key: those that the environment has are another's.
    fn read(matches: &ArgMatches) -> Result<Cli, clap::Error> {
        let mut cli = Cli::from_arg_matches(matches)?;
        let from = |option: &str| matches.value_source(option);
        if from("data") == Some(ValueSource::CommandLine) {
            cli.target.url =
                cli.target.url.filter(|_| from("url") != Some(ValueSource::EnvVariable));
            cli.target.key =
                cli.target.key.filter(|_| from("key") != Some(ValueSource::EnvVariable));
        }
        // The environment is for all verbs, so what it says is no question to those that do not heed it.
        let (name, heeded) = cli.verb.heeds();
        let unheeded = OPTIONS.iter().find(|option| {
            !heeded.contains(option) && from(option) == Some(ValueSource::CommandLine)
        });
        if let Some(option) = unheeded {
            let why = match (&cli.verb, *option) {
                (Verb::Serve(_) | Verb::CheckConfig(_), "data") => {
                    ", whose data folder is the key `data` of its configuration file"
                }
                (_, "json") => ", which prints nothing that could be JSON",
                _ => ", which asks no farm",
            };
            let option = option.replace('_', "-");
            let why = format!("--{option} is not for `{name}`{why}");
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(cli)
    }
}

/// The options of [`Target`], by their ids.
const OPTIONS: [&str; 5] = ["url", "key", "key_file", "data", "json"];

impl Verb {
    /// The verb's name, and which of the options of [`Target`] it heeds; others are refused.
    fn heeds(&self) -> (&'static str, &'static [&'static str]) {
        match self {
            Verb::Up(_) => ("up", &["data", "json"]),
            Verb::Provenance { .. } => ("provenance", &["data", "json"]),
            Verb::Serve(_) => ("serve", &["json"]),
            Verb::CheckConfig(_) => ("check-config", &["json"]),
            Verb::Signer(_) => ("signer", &[]),
            Verb::ReadManifest(_) => ("read-manifest", &[]),
            Verb::Completions { .. } => ("completions", &[]),
            Verb::Submit(_)
            | Verb::Jobs(_)
            | Verb::Show(_)
            | Verb::Cancel(_)
            | Verb::Why(_)
            | Verb::Workers
            | Verb::Drain(_)
            | Verb::Move(_)
            | Verb::Cordon(_)
            | Verb::Uncordon(_)
            | Verb::Fsck(_)
            | Verb::Rescan(_)
            | Verb::JoinToken(_)
            | Verb::Leader { .. }
            | Verb::Key { .. } => ("", &OPTIONS),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::read(&Cli::command().get_matches()).unwrap_or_else(|error| error.exit());
    if matches!(cli.verb, Verb::Up(_) | Verb::Serve(_)) {
        crate::start::settle_process();
    }
    let json = cli.target.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return told(&anyhow::Error::new(e).context("cannot start threads"), json),
    };
    let outcome = runtime.block_on(run(cli));
    // Nothing that was asked is still open: what is left are idle connections and name lookups.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => told(&error, json),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { verb, target } = cli;
    match verb {
        Verb::Up(args) => up::up(args, &target).await,
        Verb::Serve(args) => serve::serve(args, &target).await,
        Verb::CheckConfig(args) => serve::check_config(&args, &target),
        Verb::Submit(args) => submit::submit(args, &target).await,
        Verb::Jobs(args) => jobs::jobs(args, &target).await,
        Verb::Show(args) => jobs::show(args, &target).await,
        Verb::Cancel(args) => jobs::cancel(args, &target).await,
        Verb::Why(args) => jobs::why(args, &target).await,
        Verb::Workers => operate::workers(&target).await,
        Verb::Drain(args) => operate::drain(args, &target).await,
        Verb::Move(args) => jobs::move_job(args, &target).await,
        Verb::Cordon(args) => operate::cordon(args, true, &target).await,
        Verb::Uncordon(args) => operate::cordon(args, false, &target).await,
        Verb::Fsck(args) => fsck::fsck(args, &target).await,
        Verb::Rescan(args) => rescan::rescan(args, &target).await,
        Verb::JoinToken(args) => operate::join_token(args, &target).await,
        Verb::Leader { what } => operate::leader(what, &target).await,
        Verb::Key { what } => operate::key(what, &target).await,
        Verb::Signer(args) => provenance::signer(args).await,
        Verb::ReadManifest(args) => provenance::read_manifest(&args),
        Verb::Provenance { what } => provenance::provenance(what, &target),
        Verb::Completions { shell } => {
            // The generator panics where it cannot write, so it writes into memory.
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "zoetrope", &mut text);
            table::print(&String::from_utf8_lossy(&text));
            Ok(())
        }
    }
}

/// Tells an error, with its causes, where a person or a program looks for it.
fn told(error: &anyhow::Error, json: bool) -> ExitCode {
    let message = format!("{error:#}");
    if json {
        let code = error.downcast_ref::<client::ApiError>().and_then(|e| e.code.clone());
        eprintln!("{}", serde_json::json!({"error": {"message": message, "code": code}}));
    } else {
        eprintln!("error: {message}");
    }
    match error.downcast_ref::<fsck::ProblemsLeft>() {
        Some(_) => ExitCode::from(fsck::PROBLEMS_LEFT),
        None => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Promise: what a verb does not heed it refuses; the environment, which is for other verbs too, is no question to it.
    #[test]
    fn a_verb_refuses_the_options_that_it_does_not_heed() {
        let read = |words: &str| Cli::read(&Cli::command().get_matches_from(words.split(' ')));
        for (words, why) in [
            ("zoetrope serve --config farm.toml --data d", "configuration file"),
            ("zoetrope --data d check-config farm.toml", "configuration file"),
            ("zoetrope serve --config farm.toml --url http://x", "--url is not for `serve`"),
            ("zoetrope up --key k", "asks no farm"),
            ("zoetrope signer --socket s --folder f --key-file k", "--key-file"),
            ("zoetrope signer --socket s --folder f --json", "JSON"),
            ("zoetrope completions bash --json", "JSON"),
            ("zoetrope provenance rotate --url http://x", "asks no farm"),
        ] {
            let error = read(words).err().unwrap_or_else(|| panic!("{words}")).to_string();
            assert!(error.contains(why), "{words}: {error}");
        }
        for words in [
            "zoetrope serve --config farm.toml --json",
            "zoetrope up --data d --json",
            "zoetrope check-config farm.toml --json",
            "zoetrope provenance verify clip.mp4 --data d --json",
            "zoetrope jobs --data d --url http://x --key k --json",
            "zoetrope completions bash",
        ] {
            assert!(read(words).is_ok(), "{words}");
        }
    }

    #[test]
    fn farm_options_stand_before_or_behind_the_verb() {
        for words in
            [["zoetrope", "--url", "http://x", "jobs"], ["zoetrope", "jobs", "--url", "http://x"]]
        {
            let cli = Cli::try_parse_from(words).expect("parses");
            assert_eq!(cli.target.url.as_deref(), Some("http://x"));
        }
    }
}
