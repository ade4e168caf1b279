//! `jobs`, `show`, `cancel`, `why`, `move`.

use super::Target;
use super::client::{Client, checked, rows};
use super::operate::is_named;
use super::table::{columns, print, print_json};
use super::video::{Video, now, span};
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

/// The most that the API lists at once.
const PAGE: usize = 100;
/// How often a job that moves is asked for: a step takes seconds.
const POLL: Duration = Duration::from_millis(500);

/// What `jobs` takes.
#[derive(Args)]
pub struct JobsArgs {
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 20)]
    limit: usize,
    /// The jobs of all projects (needs an operator's key)
    #[arg(long)]
    all: bool,
}

/// A job.
#[derive(Args)]
pub struct JobArg {
    /// The job's id, `video_…`
    #[arg(value_name = "ID")]
    id: String,
}

/// What `show` takes.
#[derive(Args)]
pub struct ShowArgs {
    /// The job's id, `video_…`
    #[arg(value_name = "ID")]
    id: String,
    /// Show its attempts and the artifacts that they made (needs an operator's key)
    #[arg(long)]
    history: bool,
}

/// What `move` takes.
#[derive(Args)]
pub struct MoveArgs {
    /// The job's id, `video_…`
    #[arg(value_name = "ID")]
    id: String,
    /// The number or node name of the worker that is to go on with it [default: any other]
    #[arg(long, value_name = "WORKER")]
    to: Option<String>,
    /// Do not wait until it runs there
    #[arg(long)]
    no_wait: bool,
}

/// Lets a job go on on another worker; needs an operator's key. Done when it runs there, or has ended before it could:
/// Ctrl-C ends the waiting and not the move.
pub async fn move_job(args: MoveArgs, target: &Target) -> anyhow::Result<()> {
    let id = checked(&args.id, "job")?;
    let client = Client::of(target)?;
    let path = format!("/farm/jobs/{id}");
    let before = client.read(&path).await?;
    let body = args.to.as_ref().map_or_else(|| json!({}), |to| json!({"to": to}));
    let answer = client.send(&format!("{path}/move"), &body).await?;
    if !target.json {
        let to = args.to.as_deref().unwrap_or("another worker");
        print(&format!("{id} is to go on on {to} after the step in hand\n"));
    }
    if args.no_wait {
        if target.json {
            print_json(&answer);
        }
        return Ok(());
    }
    loop {
        let job = client.read(&path).await?;
        if let Some(attempt) = elsewhere(&before, &job, args.to.as_deref()) {
            if target.json {
                let (worker, node) = (&attempt["worker"], &attempt["node"]);
                print_json(&json!({"id": id, "moved": true, "worker": worker, "node": node}));
            } else {
                print(&format!("{id} runs on {}\n", where_of(attempt)));
            }
            return Ok(());
        }
        let video = Video::of(&job["video"])?;
        if video.ended() {
            if target.json {
                print_json(&json!({"id": id, "moved": false, "status": video.status}));
            } else {
                print(&format!("{id} ended before it could move: {}\n", video.doing()));
            }
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The attempt of a job that runs where it was to go on: on the worker that was named, or on none of those that it ran
/// on `before`.
fn elsewhere<'a>(before: &Value, job: &'a Value, to: Option<&str>) -> Option<&'a Value> {
    running(job).find(|attempt| match to {
        Some(to) => is_named(attempt, to),
        None => running(before).all(|old| where_of(old) != where_of(attempt)),
    })
}

fn running(job: &Value) -> impl Iterator<Item = &Value> {
    let attempts = job["attempts"].as_array().into_iter().flatten();
    attempts.filter(|attempt| attempt["ended_at_ms"].is_null())
}

/// The node of an attempt; its worker's number if the node is forgotten.
fn where_of(attempt: &Value) -> String {
    attempt["node"].as_str().map_or_else(|| attempt["worker"].to_string(), str::to_owned)
}

/// Lists jobs, newest first.
pub async fn jobs(args: JobsArgs, target: &Target) -> anyhow::Result<()> {
    let client = Client::of(target)?;
    let path = if args.all { "/farm/jobs" } else { "/v1/videos" };
    let mut all: Vec<Value> = Vec::new();
    loop {
        let limit = PAGE.min(args.limit - all.len());
        let after = all.last().and_then(|job| job["id"].as_str()).map(|id| format!("&after={id}"));
        let page =
            client.read(&format!("{path}?limit={limit}{}", after.unwrap_or_default())).await?;
        all.extend_from_slice(rows(&page));
        let more = page["has_more"].as_bool() == Some(true) && !rows(&page).is_empty();
        if !more || all.len() >= args.limit {
            break;
        }
    }
    if target.json {
        print_json(&Value::Array(all));
        return Ok(());
    }
    let mut table = vec![Video::head()];
    for job in &all {
        table.push(Video::of(job)?.row());
    }
    print(&columns(&table));
    Ok(())
}

/// Shows one job.
pub async fn show(args: ShowArgs, target: &Target) -> anyhow::Result<()> {
    let id = checked(&args.id, "job")?;
    if args.history {
        let job = Client::of(target)?.read(&format!("/farm/jobs/{id}")).await?;
        if target.json {
            print_json(&job);
        } else {
            print(&format!("{}\n{}", told(&job["video"])?, lived(&job)));
        }
        return Ok(());
    }
    let job = Client::of(target)?.read(&format!("/v1/videos/{id}")).await?;
    if target.json {
        print_json(&job);
    } else {
        print(&told(&job)?);
    }
    Ok(())
}

/// Cancels a job; done when the scheduler has recorded it.
pub async fn cancel(args: JobArg, target: &Target) -> anyhow::Result<()> {
    let id = checked(&args.id, "job")?;
    let job = Client::of(target)?.send(&format!("/v1/videos/{id}/cancel"), &json!({})).await?;
    if target.json {
        print_json(&job);
    } else {
        print(&format!("{id} is {}\n", Video::of(&job)?.doing()));
    }
    Ok(())
}

/// Says why a job waits, or how it has ended.
pub async fn why(args: JobArg, target: &Target) -> anyhow::Result<()> {
    let id = checked(&args.id, "job")?;
    let answer = Client::of(target)?.read(&format!("/farm/jobs/{id}/why")).await?;
    if target.json {
        print_json(&answer);
    } else {
        print(&format!("{}\n", answer["why"].as_str().unwrap_or("the farm gave no reason")));
    }
    Ok(())
}

/// A job in lines of name and value: first what one looks for, then the rest as it came.
fn told(job: &Value) -> anyhow::Result<String> {
    let video = Video::of(job)?;
    let mut lines = vec![
        row("job", &video.id),
        row("state", &format!("{} ({} %)", video.doing(), video.progress)),
        row("prompt", &super::table::shortened(&video.prompt, 2_000)),
        row("clip", &format!("{}, {} s, {}", video.size, video.seconds, video.model)),
        row("age", &span(now().saturating_sub(video.created_at))),
    ];
    if let Some(done) = video.completed_at {
        lines.push(row("took", &span(done.saturating_sub(video.created_at))));
    }
    if let Some(at) = video.estimated_completion_at {
        lines.push(row("expected in", &span(at.saturating_sub(now()))));
    }
    if let Some(error) = &video.error {
        lines.push(row("error", &format!("{}: {}", error.code, error.message)));
    }
    for warning in &video.warnings {
        lines.push(row("warning", &warning.message));
    }
    for key in ["seed", "service_tier", "resolved_model", "usage", "assets"] {
        if !job[key].is_null() {
            let text = job[key].as_str().map_or_else(|| job[key].to_string(), str::to_owned);
            lines.push(row(key, &text));
        }
    }
    Ok(columns(&lines))
}

/// The attempts of a job and the chain that they made, in two tables.
fn lived(job: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let table = |list: &Value, keys: &[&str]| {
        let head = keys.iter().map(|key| key.to_uppercase().replace('_', " ")).collect();
        let rows = list.as_array().into_iter().flatten();
        let cells = |row: &Value| keys.iter().map(|key| text(&row[*key])).collect();
        columns(&std::iter::once(head).chain(rows.map(cells)).collect::<Vec<Vec<String>>>())
    };
    let attempts = ["stage", "index", "epoch", "attempt", "node", "from_step", "cause", "gpu_ms"];
    let artifacts = ["role", "number", "epoch", "attempt", "bytes", "sha256"];
    format!("{}\n{}", table(&job["attempts"], &attempts), table(&job["artifacts"], &artifacts))
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a move is done when the job runs elsewhere, and not when the wish is noted.
    #[test]
    fn a_job_has_moved_when_it_runs_where_it_was_to() {
        let attempt = |worker: u64, node: &str, ended: Option<u64>| json!({"worker": worker, "node": node, "ended_at_ms": ended});
        let job = |attempts: &[Value]| json!({"attempts": attempts});
        let before = job(&[attempt(1, "gpu0", None)]);
        assert_eq!(elsewhere(&before, &before, None), None);
        let between = job(&[attempt(1, "gpu0", Some(9))]);
        assert_eq!(elsewhere(&before, &between, None), None);
        let back = job(&[attempt(1, "gpu0", Some(9)), attempt(1, "gpu0", None)]);
        assert_eq!(elsewhere(&before, &back, None), None);
        let there = job(&[attempt(1, "gpu0", Some(9)), attempt(2, "gpu1", None)]);
        for to in [None, Some("gpu1"), Some("2"), Some("worker_2")] {
            assert_eq!(elsewhere(&before, &there, to), Some(&there["attempts"][1]), "{to:?}");
        }
        assert_eq!(elsewhere(&before, &there, Some("gpu2")), None);
        // What waited to be tried again is wanted anywhere.
        assert!(elsewhere(&between, &back, None).is_some());
    }
}
