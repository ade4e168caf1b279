//! `fsck`: has the farm hold its store against its journal, and shows how far it is and what it found.
//!
//! Exits with 0 if all is well or was mended, 3 if something is wrong that was not mended, 1 if it could not look.

use super::Target;
use super::client::Client;
use super::table::{columns, print, print_json};
use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// The exit code where problems are left.
pub const PROBLEMS_LEFT: u8 = 3;
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// What `fsck` takes.
#[derive(Args)]
pub struct FsckArgs {
    /// Mend what needs no decision: pointers, and files that nobody uses
    #[arg(long)]
    repair: bool,
    /// Compare lengths only; otherwise every byte is read and compared with its digest
    #[arg(long)]
    quick: bool,
}

/// Something is wrong that was not mended.
#[derive(Debug, thiserror::Error)]
#[error("{0} problems are left{1}")]
pub struct ProblemsLeft(u64, &'static str);

/// Runs a check and waits for its end.
pub async fn fsck(args: FsckArgs, target: &Target) -> anyhow::Result<()> {
    let client = Client::of(target)?;
    let body = json!({"repair": args.repair, "quick": args.quick});
    let mut report = client.send("/farm/fsck", &body).await?;
    let shows = !target.json && std::io::stderr().is_terminal();
    while report["state"] == "running" {
        if shows {
            eprint!("\r\x1b[K{}", line(&report));
            std::io::stderr().flush()?;
        }
        tokio::time::sleep(LOOK).await;
        report = client.read("/farm/fsck").await?;
    }
    if shows {
        eprint!("\r\x1b[K");
    }
    if target.json {
        print_json(&report);
    } else {
        print(&text(&report));
    }
    if report["state"] != "done" {
        bail!("the check did not end: {}", report["error"].as_str().unwrap_or("it was stopped"));
    }
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let left = number("problems").saturating_sub(number("repaired"));
    if left > 0 {
        let how = if args.repair { "" } else { "; --repair mends what needs no decision" };
        return Err(ProblemsLeft(left, how).into());
    }
    Ok(())
}

fn line(report: &Value) -> String {
    let word = |key: &str| report[key].as_str().unwrap_or("").to_owned();
    let megabytes = report["bytes"].as_u64().unwrap_or(0) / 1_000_000;
    format!(
        "{}: {} jobs, {} artifacts, {megabytes} MB read, {} problems",
        word("step"),
        report["jobs"],
        report["artifacts"],
        report["problems"]
    )
}

fn text(report: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = report["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|finding| {
            let mended = if finding["repaired"] == true { "mended" } else { "left" };
            let (fault, job) = (word(&finding["fault"]), word(&finding["job"]));
            vec![fault, mended.to_owned(), job, word(&finding["name"])]
        })
        .collect();
    let summary = format!(
        "{} jobs and {} artifacts looked at, {} bytes read: {} problems, {} mended\n",
        report["jobs"],
        report["artifacts"],
        report["bytes"],
        report["problems"],
        report["repaired"]
    );
    if rows.is_empty() {
        return summary;
    }
    format!("{}{summary}", columns(&rows))
}
