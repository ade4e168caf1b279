//! `rescan`: has everything stored judged anew, shows how far that is, and prints what it found.

use super::Target;
use super::client::Client;
use super::table::{columns, print, print_json};
use crate::jobs::rescan::{POLICY_BYTES_MAX, RATE_MAX};
use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zoetrope_moderation::Policy;

/// How often it is asked for: batches are judged once a second.
const POLL: Duration = Duration::from_secs(1);

/// What `rescan` takes.
#[derive(Args)]
pub struct RescanArgs {
    /// A policy file, with its lists beside it, of at most 256 KiB together [default: the policy that the farm has now]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Look only: say what would be taken down
    #[arg(long)]
    dry_run: bool,
    /// Jobs that are looked at in a second, 1 to 2000 [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    per_second: Option<u32>,
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Show the rescan that goes on, or the last one
    #[arg(long, conflicts_with_all = ["policy", "dry_run", "per_second", "no_wait", "cancel"])]
    status: bool,
    /// End the rescan that goes on; what was taken down stays down
    #[arg(long, conflicts_with_all = ["policy", "dry_run", "per_second", "no_wait"])]
    cancel: bool,
}

/// Has everything stored judged anew.
pub async fn rescan(args: RescanArgs, target: &Target) -> anyhow::Result<()> {
    let client = Client::of(target)?;
    let known = if args.cancel {
        cancel(&client).await?
    } else if args.status {
        client.read("/farm/rescan").await?
    } else {
        let began = client.send("/farm/rescan", &order(&args)?).await?;
        if args.no_wait { began } else { wait(&client).await? }
    };
    if target.json {
        print_json(&known);
    } else {
        print(&report(&known));
    }
    let waited = !(args.cancel || args.status || args.no_wait);
    if waited && known["status"] != "done" {
        let status = known["status"].as_str().unwrap_or("ended");
        bail!("the rescan was {status} before everything was looked at");
    }
    Ok(())
}

/// Ends the rescan that goes on. The farm answers a request that is sent again as the first one, so whether there is
/// something to end is asked before.
async fn cancel(client: &Client) -> anyhow::Result<Value> {
    let known = client.read("/farm/rescan").await?;
    if known["status"] == "running" {
        let ended = client.delete("/farm/rescan").await?;
        if ended["status"] == "cancelled" {
            return Ok(ended);
        }
    }
    bail!("no rescan is running; `zoetrope rescan --status` shows the last one")
}

fn order(args: &RescanArgs) -> anyhow::Result<Value> {
    let mut order = Map::new();
    order.insert("dry_run".to_owned(), json!(args.dry_run));
    if let Some(per_second) = args.per_second {
        order.insert("per_second".to_owned(), json!(per_second));
    }
    if let Some(path) = &args.policy {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let text = read(path)?;
        let [rules, pairs] = Policy::lists(&path.display().to_string(), &text)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let (rules, pairs) = (read(&base.join(rules))?, read(&base.join(pairs))?);
        let bytes = text.len() + rules.len() + pairs.len();
        if bytes > POLICY_BYTES_MAX {
            bail!(
                "{} and its lists have {bytes} bytes, a rescan takes at most {POLICY_BYTES_MAX}; a larger policy can be made that of the farm, and `zoetrope rescan` judges by it",
                path.display()
            );
        }
        order.insert("rules".to_owned(), json!(rules));
        order.insert("pairs".to_owned(), json!(pairs));
        order.insert("policy".to_owned(), json!(text));
    }
    Ok(Value::Object(order))
}

async fn wait(client: &Client) -> anyhow::Result<Value> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("rescan {wide_bar} {pos}/{len} {msg}")?);
    loop {
        let known = client.read("/farm/rescan").await?;
        let count = |key: &str| known[key].as_u64().unwrap_or(0);
        let looked_at = count("passed") + count("failed") + count("unjudged");
        bar.set_length(looked_at + count("left") + count("pending"));
        bar.set_position(looked_at);
        bar.set_message(format!("{} fail", count("failed")));
        if known["status"] != "running" {
            bar.finish_and_clear();
            return Ok(known);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn report(known: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let only = if known["dry_run"] == true { " (only looked)" } else { "" };
    let mut report = format!(
        "rescan {}{only}: {} pass, {} fail, {} cannot be judged\n",
        text(&known["status"]),
        known["passed"],
        known["failed"],
        known["unjudged"],
    );
    if let Some(pending) = known["pending"].as_u64().filter(|pending| *pending > 0) {
        report.push_str(&format!(
            "{pending} not judged: they were not finished yet; a rescan judges them once they are\n"
        ));
    }
    let mut table = vec![["JOB", "WHY"].map(str::to_owned).to_vec()];
    for one in known["failing"].as_array().into_iter().flatten() {
        let why: Vec<String> =
            one["categories"].as_array().into_iter().flatten().map(text).collect();
        table.push(vec![text(&one["id"]), why.join(", ")]);
    }
    for job in known["unjudgeable"].as_array().into_iter().flatten() {
        table.push(vec![text(job), "no record by the nets of this policy: it stays".to_owned()]);
    }
    if table.len() > 1 {
        report.push_str(&columns(&table));
    }
    report
}
