//! `jobs`, `show`, `cancel`, `why`, `move`.

use super::Target;
use super::client::{Client, checked, rows};
use super::table::{columns, print, print_json};
use super::video::{Video, now, span};
use clap::Args;
use serde_json::{Value, json};

/// The most that the API lists at once.
const PAGE: usize = 100;

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
}

/// Lets a job go on on another worker; needs an operator's key.
pub async fn move_job(args: MoveArgs, target: &Target) -> anyhow::Result<()> {
    let id = checked(&args.id, "job")?;
    let body = args.to.as_ref().map_or_else(|| json!({}), |to| json!({"to": to}));
    let answer = Client::of(target)?.send(&format!("/farm/jobs/{id}/move"), &body).await?;
    if target.json {
        print_json(&answer);
    } else {
        let to = args.to.as_deref().unwrap_or("another worker");
        print(&format!("{id} goes on on {to} after the step in hand\n"));
    }
    Ok(())
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
