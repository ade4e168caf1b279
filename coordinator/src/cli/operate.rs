//! Operators' verbs: `workers`, `drain`, `cordon`, `uncordon`, `join-token`, `key`. All need an operator's key.

use super::Target;
use super::client::{Client, checked, rows};
use super::table::{columns, print, print_json, write};
use super::video::{now, span};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How often drained workers are asked for: a step takes seconds.
const POLL: Duration = Duration::from_millis(500);
/// What a worker may take to leave once its deadline has passed: it is killed by then.
const FAREWELL: Duration = Duration::from_secs(10);

/// A worker.
#[derive(Args)]
pub struct WorkerArg {
    /// The worker's number or node name
    worker: String,
}

/// What `drain` takes.
#[derive(Args)]
pub struct DrainArgs {
    /// The workers' numbers or node names; several are drained at once, so that none gets the work of another
    #[arg(required = true, num_args = 1..=100, value_name = "WORKER")]
    workers: Vec<String>,
    /// How soon they stop
    #[arg(long, value_enum, default_value_t = Kind::Step)]
    kind: Kind,
    /// With `--kind deadline`: be gone after so many seconds, 1 to 86400
    #[arg(long, value_name = "SECONDS", required_if_eq("kind", "deadline"), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    within: Option<u64>,
    /// Do not wait until they have left
    #[arg(long)]
    no_wait: bool,
}

/// How soon a drained worker stops.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Now; what it stored last stays
    Immediate,
    /// When the denoising step in hand is stored
    Step,
    /// When the shard in hand is finished
    Shard,
    /// As shard, but be gone after `--within`
    Deadline,
}

/// What `join-token` takes.
#[derive(Args)]
pub struct TokenArgs {
    /// How many workers may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: u32,
    /// How many minutes it is good for, at most a day
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
}

/// What to do about the leader.
#[derive(Clone, Copy, Subcommand)]
pub enum LeaderVerb {
    /// Let another coordinator lead; renders go on
    Move,
}

/// What can be done with keys.
#[derive(Subcommand)]
pub enum KeyVerb {
    /// Make a key; its text is shown once
    Create {
        /// What its owner calls it
        #[arg(long, default_value = "")]
        name: String,
        /// For this project, `proj_…` [default: a new one]
        #[arg(long)]
        project: Option<String>,
        /// Let it use operators' verbs
        #[arg(long)]
        operator: bool,
    },
    /// List keys, without their texts
    List,
    /// Make a key useless at once
    Revoke {
        /// The key's id, `key_…`
        id: String,
    },
}

/// Lists the workers.
pub async fn workers(target: &Target) -> anyhow::Result<()> {
    let answer = Client::of(target)?.read("/farm/workers").await?;
    if target.json {
        print_json(&answer);
        return Ok(());
    }
    let head = ["WORKER", "NODE", "POOL", "GPU", "STATE", "MODELS", "RUNNING", "PROGRESS"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for worker in rows(&answer) {
        let keys = ["worker", "node", "pool", "gpu_kind", "state", "models", "running", "progress"];
        table.push(keys.map(|key| cell(&worker[key])).to_vec());
    }
    print(&columns(&table));
    Ok(())
}

/// Empties workers. Work of one must not go to another that is about to be emptied, so the farm is told of all at once.
pub async fn drain(args: DrainArgs, target: &Target) -> anyhow::Result<()> {
    if args.within.is_some() && args.kind != Kind::Deadline {
        bail!("--within SECONDS is only for --kind deadline");
    }
    let client = Client::of(target)?;
    let workers: Vec<&str> =
        args.workers.iter().map(|worker| checked(worker, "worker")).collect::<Result<_, _>>()?;
    let mut body = Map::new();
    body.insert("kind".to_owned(), json!(args.kind.word()));
    if let Some(seconds) = args.within {
        body.insert("seconds".to_owned(), json!(seconds));
    }
    let Some((first, others)) = workers.split_first() else { return Ok(()) };
    if !others.is_empty() {
        body.insert("with".to_owned(), json!(others));
    }
    client.send(&format!("/farm/workers/{first}/drain"), &Value::Object(body)).await?;
    if !target.json {
        for worker in &workers {
            print(&format!("{worker} drains ({})\n", args.kind.word()));
        }
    }
    // Who reads JSON is told of the end alone: one document.
    let told = if args.no_wait { "draining" } else { "left" };
    if !args.no_wait {
        wait_until_left(&client, workers.clone(), args.within, target).await?;
    }
    if target.json {
        print_json(&ended(&workers, told));
    }
    Ok(())
}

/// What became of drained workers: of one, or a list.
fn ended(workers: &[&str], told: &str) -> Value {
    let rows: Vec<Value> =
        workers.iter().map(|worker| json!({"worker": worker, told: true})).collect();
    match <[Value; 1]>::try_from(rows) {
        Ok([row]) => row,
        Err(rows) => json!({ "data": rows }),
    }
}

/// Waits until workers that drain have left; Ctrl-C ends the waiting and not the drain.
async fn wait_until_left(
    client: &Client,
    mut workers: Vec<&str>,
    within: Option<u64>,
    target: &Target,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let limit = within.map(|seconds| Duration::from_secs(seconds) + FAREWELL);
    loop {
        let known = client.read("/farm/workers").await?;
        let (stay, left): (Vec<&str>, Vec<&str>) =
            workers.into_iter().partition(|worker| stays(&known, worker));
        workers = stay;
        for worker in left.into_iter().filter(|_| !target.json) {
            print(&format!("{worker} has left\n"));
        }
        if workers.is_empty() {
            return Ok(());
        }
        if limit.is_some_and(|limit| began.elapsed() > limit) {
            bail!("{} has not left in time; `zoetrope workers` shows it", workers.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a worker that was drained is still there. One that is back after it left gets work again.
fn stays(known: &Value, worker: &str) -> bool {
    rows(known)
        .iter()
        .any(|row| is_named(row, worker) && (row["state"] == "draining" || row["state"] == "away"))
}

/// Whether a row with `worker` and `node` is of the worker with this number or node name.
pub(super) fn is_named(row: &Value, worker: &str) -> bool {
    let number: Option<u64> = worker.strip_prefix("worker_").unwrap_or(worker).parse().ok();
    row["node"] == worker || (number.is_some() && row["worker"].as_u64() == number)
}

/// Gives a worker no new work, or work again.
pub async fn cordon(args: WorkerArg, on: bool, target: &Target) -> anyhow::Result<()> {
    let worker = checked(&args.worker, "worker")?;
    let verb = if on { "cordon" } else { "uncordon" };
    let path = format!("/farm/workers/{worker}/{verb}");
    let answer = Client::of(target)?.send(&path, &json!({})).await?;
    let now = if on { "gets no new work" } else { "gets work again" };
    done(target, &answer, &format!("{worker} {now}"));
    Ok(())
}

/// Makes a token for new workers.
pub async fn join_token(args: TokenArgs, target: &Target) -> anyhow::Result<()> {
    let body = json!({"uses": args.uses, "ttl_seconds": args.minutes * 60});
    let answer = Client::of(target)?.send("/farm/join_tokens", &body).await?;
    let token = cell(&answer["token"]);
    shown_once(target, &answer, &token)
        .context("the token was made and could not be shown; it ends by itself, make another one")
}

/// Shows the coordinators of the farm and which of them leads, or has another lead.
pub async fn leader(what: Option<LeaderVerb>, target: &Target) -> anyhow::Result<()> {
    let client = Client::of(target)?;
    if let Some(LeaderVerb::Move) = what {
        let answer = client.send("/farm/leader/move", &json!({})).await?;
        let line = format!("{} lets another lead", cell(&answer["leader"]["http"]));
        done(target, &answer, &line);
        return Ok(());
    }
    let answer = client.read("/farm/leader").await?;
    if target.json {
        print_json(&answer);
        return Ok(());
    }
    let mut table = vec![["ROLE", "API", "WORKERS"].map(str::to_owned).to_vec()];
    for one in answer["coordinators"].as_array().into_iter().flatten() {
        let leads = one["id"] == answer["leader"]["id"];
        let role = if leads { "leader" } else { "standby" };
        table.push(vec![role.to_owned(), cell(&one["http"]), cell(&one["link"])]);
    }
    print(&columns(&table));
    Ok(())
}

/// Makes, lists and revokes keys.
pub async fn key(what: KeyVerb, target: &Target) -> anyhow::Result<()> {
    let client = Client::of(target)?;
    match what {
        KeyVerb::Create { name, project, operator } => {
            let role = if operator { "operator" } else { "tenant" };
            let body = json!({"name": name, "project": project, "role": role});
            let answer = client.send("/farm/keys", &body).await?;
            let text = cell(&answer["key"]);
            shown_once(target, &answer, &text).with_context(|| {
                let id = cell(&answer["id"]);
                format!(
                    "the key was made and could not be shown; revoke it with `zoetrope key revoke {id}`, and make another one"
                )
            })?;
        }
        KeyVerb::List => {
            let answer = client.read("/farm/keys").await?;
            if target.json {
                print_json(&answer);
                return Ok(());
            }
            let mut table =
                vec![["ID", "PROJECT", "ROLE", "AGE", "NAME"].map(str::to_owned).to_vec()];
            for key in rows(&answer) {
                let age = now().saturating_sub(key["created_at"].as_u64().unwrap_or_default());
                let cells = ["id", "project", "role"].map(|name| cell(&key[name]));
                table.push([cells.as_slice(), &[span(age), cell(&key["name"])]].concat());
            }
            print(&columns(&table));
        }
        KeyVerb::Revoke { id } => {
            let id = checked(&id, "key")?;
            let answer = client.delete(&format!("/farm/keys/{id}")).await?;
            done(target, &answer, &format!("{id} is revoked"));
        }
    }
    Ok(())
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Immediate => "immediate",
            Kind::Step => "step",
            Kind::Shard => "shard",
            Kind::Deadline => "deadline",
        }
    }
}

fn done(target: &Target, answer: &Value, line: &str) {
    print(&told(target, answer, line));
}

/// The same, of what nobody can ask for again.
fn shown_once(target: &Target, answer: &Value, line: &str) -> anyhow::Result<()> {
    Ok(write(&told(target, answer, line))?)
}

fn told(target: &Target, answer: &Value, line: &str) -> String {
    if target.json { format!("{answer:#}\n") } else { format!("{line}\n") }
}

/// A value as a cell of a table: nothing for null, words joined by commas.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(many) => many.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    /// Promise: the verb and its endpoint drain alike if nobody says how.
    #[test]
    fn a_drain_is_by_step_unless_told_otherwise() {
        let command = DrainArgs::augment_args(clap::Command::new("drain"));
        let read = DrainArgs::from_arg_matches(&command.get_matches_from(["drain", "gpu0"]));
        assert_eq!(read.expect("parses").kind.word(), "step");
    }

    /// Promise: `--json` prints one document.
    #[test]
    fn drained_workers_are_one_document() {
        assert_eq!(ended(&["a"], "left"), json!({"worker": "a", "left": true}));
        let rows = json!([{"worker": "a", "left": true}, {"worker": "b", "left": true}]);
        assert_eq!(ended(&["a", "b"], "left"), json!({ "data": rows }));
    }

    #[test]
    fn a_worker_stays_until_it_is_gone_or_back_at_work() {
        let row = |state: &str| json!({"data": [{"worker": 7, "node": "gpu0", "state": state}]});
        for name in ["gpu0", "7", "worker_7"] {
            assert!(stays(&row("draining"), name) && stays(&row("away"), name), "{name}");
            assert!(!stays(&row("idle"), name) && !stays(&json!({"data": []}), name), "{name}");
        }
        assert!(!stays(&row("draining"), "gpu1"));
    }
}
