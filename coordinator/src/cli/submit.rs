//! `submit`: renders a prompt through the API, shows how far it is, and downloads the clip.

use super::Target;
use super::client::{Client, checked};
use super::table::{print, print_json};
use super::video::{Video, now, span};
use anyhow::{Context, bail};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How often a job is asked for: often enough that the bar moves with each denoising step of the small model.
const POLL: Duration = Duration::from_millis(500);
/// Tries of a download; each begins anew.
const DOWNLOADS: u32 = 3;

/// What `submit` takes.
#[derive(Args)]
pub struct SubmitArgs {
    /// What the clip shows
    prompt: String,
    /// Where the clip goes [default: ID.mp4 in this folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Width and height in pixels, such as 288x512 [default: the model's]
    #[arg(long, value_name = "WxH")]
    size: Option<String>,
    /// Length in seconds [default: the model's]
    #[arg(long)]
    seconds: Option<u32>,
    /// Seed of the noise: the same seed gives the same clip [default: a new one]
    #[arg(long)]
    seed: Option<u64>,
    /// Which model renders it [default: the farm's]
    #[arg(long)]
    model: Option<String>,
    /// Denoising steps
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Queue class: priority, default or flex
    #[arg(long, value_name = "CLASS")]
    tier: Option<String>,
    /// A clip without sound
    #[arg(long)]
    silent: bool,
    /// Return when the job is accepted, without waiting for the clip
    #[arg(long, conflicts_with = "output")]
    no_wait: bool,
}

/// Submits, waits, downloads.
pub async fn submit(args: SubmitArgs, target: &Target) -> anyhow::Result<()> {
    if let Some(file) = &args.output {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("there is no folder {} to put the clip in", folder.display());
        }
        if file.is_dir() {
            bail!("{} is a folder; name a file", file.display());
        }
    }
    let client = Client::of(target)?;
    let accepted = client.send("/v1/videos", &body(&args)).await?;
    let video = Video::of(&accepted)?;
    let id = checked(&video.id, "job").context("the farm's answer")?.to_owned();
    for warning in &video.warnings {
        eprintln!("note: {}", warning.message);
    }
    if args.no_wait {
        if target.json {
            print_json(&accepted);
        } else {
            print(&format!("{id}\n"));
        }
        return Ok(());
    }
    let bar = bar(target.json);
    // Asked for once: a signal between the two waits below must not be lost.
    let mut stopped = std::pin::pin!(tokio::signal::ctrl_c());
    let outcome = tokio::select! {
        outcome = ended(&client, &id, &bar) => outcome?,
        _ = &mut stopped => {
            bar.abandon();
            bail!("{id} goes on without you: see it with `zoetrope show {id}`, end it with `zoetrope cancel {id}`");
        }
    };
    bar.finish_and_clear();
    let done = Video::of(&outcome)?;
    if done.status != "completed" {
        let error = done.error.unwrap_or_default();
        bail!("{id} failed ({}): {}", error.code, error.message);
    }
    let file = args.output.unwrap_or_else(|| PathBuf::from(format!("{id}.mp4")));
    let part = part_of(&file);
    let downloaded = tokio::select! {
        downloaded = download(&client, &done, &file, &part) => downloaded,
        _ = &mut stopped => Err(anyhow::anyhow!(
            "stopped: {id} is rendered, its clip was not downloaded; GET /v1/videos/{id}/content gives it"
        )),
    };
    if downloaded.is_err() {
        // What came of it is of no use; where nothing came, there is nothing to remove.
        tokio::fs::remove_file(&part).await.ok();
    }
    let bytes = downloaded?;
    if target.json {
        let mut answer = outcome;
        answer["file"] = json!(file);
        print_json(&answer);
    } else {
        let took = span(done.completed_at.unwrap_or_else(now).saturating_sub(done.created_at));
        let kilobytes = bytes.div_ceil(1000);
        print(&format!(
            "{}: {} s of {}, {kilobytes} kB, in {took}\n",
            file.display(),
            done.seconds,
            done.size
        ));
    }
    Ok(())
}

/// The body of the request: only what was said, so that the farm's defaults hold.
fn body(args: &SubmitArgs) -> Value {
    let mut body = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    put("prompt", Some(json!(args.prompt)));
    put("size", args.size.as_ref().map(|size| json!(size)));
    put("seconds", args.seconds.map(|seconds| json!(seconds.to_string())));
    put("seed", args.seed.map(|seed| json!(seed)));
    put("model", args.model.as_ref().map(|model| json!(model)));
    put("num_inference_steps", args.steps.map(|steps| json!(steps)));
    put("service_tier", args.tier.as_ref().map(|tier| json!(tier)));
    put("generate_audio", args.silent.then_some(Value::Bool(false)));
    Value::Object(body)
}

fn bar(quiet: bool) -> ProgressBar {
    let bar = ProgressBar::new(100);
    if quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:32} {pos:>3} %  {elapsed:>4}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Follows a job to its end.
async fn ended(client: &Client, id: &str, bar: &ProgressBar) -> anyhow::Result<Value> {
    loop {
        let answer = client.read(&format!("/v1/videos/{id}")).await?;
        let video = Video::of(&answer)?;
        bar.set_position(video.progress);
        let left = video.estimated_completion_at.map(|at| at.saturating_sub(now()));
        let left = left.filter(|s| *s > 0).map(|s| format!(", about {} left", span(s)));
        bar.set_message(format!("{}{}", video.doing(), left.unwrap_or_default()));
        if video.ended() {
            return Ok(answer);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where a clip is written until it is whole: beside its place.
fn part_of(file: &Path) -> PathBuf {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    PathBuf::from(part)
}

/// Writes the clip to `part` and moves it to its place when it is whole and its digest is right.
async fn download(client: &Client, video: &Video, file: &Path, part: &Path) -> anyhow::Result<u64> {
    let wanted = video.assets["video"]["sha256"].as_str();
    let mut tried = 0;
    let bytes = loop {
        tried += 1;
        match once(client, &video.id, part).await {
            Ok((_, digest))
                if wanted.is_some_and(|wanted| wanted != digest) && tried < DOWNLOADS => {}
            Ok((_, digest)) if wanted.is_some_and(|wanted| wanted != digest) => {
                bail!("the clip came with other bytes than the farm promised, {DOWNLOADS} times")
            }
            Ok((bytes, _)) => break bytes,
            Err(e) if tried == DOWNLOADS => {
                let again = format!("{} is rendered, but could not be downloaded", video.id);
                return Err(e).context(again);
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    tokio::fs::rename(part, file)
        .await
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(bytes)
}

async fn once(client: &Client, id: &str, part: &Path) -> anyhow::Result<(u64, String)> {
    let answer = client.download(&format!("/v1/videos/{id}/content")).await?;
    let mut out = tokio::fs::File::create(part)
        .await
        .with_context(|| format!("cannot write {}", part.display()))?;
    let (mut bytes, mut digest) = (0, Sha256::new());
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        digest.update(&chunk);
        out.write_all(&chunk).await?;
    }
    out.flush().await?;
    Ok((bytes, hex::encode(digest.finalize())))
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::Parser;

    #[test]
    fn only_what_was_said_is_sent() {
        let words = ["zoetrope", "submit", "a ball", "--seconds", "4", "--silent"];
        let cli = Cli::try_parse_from(words).expect("parses");
        let super::super::Verb::Submit(args) = cli.verb else { panic!("another verb") };
        let expected = json!({"prompt": "a ball", "seconds": "4", "generate_audio": false});
        assert_eq!(body(&args), expected);
    }
}
