//! `serve` and `check-config`: a coordinator alone, as a configuration file says.

use super::Target;
use super::places::{self, KEY_FILE};
use super::table::{print, print_json};
use crate::config::{JournalStore, check_config as read};
use crate::keys::{KeyStore, Project, Role, new_text};
use crate::serve::{ServeInfo, serve as run, signalled};
use crate::{cluster, ground};
use anyhow::bail;
use clap::Args;
use serde_json::json;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// What `serve` takes.
#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "ZOETROPE_CONFIG")]
    config: PathBuf,
    /// Start although the journal has lost records; what is lost is told
    #[arg(long)]
    accept_journal_loss: bool,
}

/// What `check-config` takes.
#[derive(Args)]
pub struct CheckArgs {
    /// The configuration file
    file: PathBuf,
}

/// Runs a coordinator until it is told to stop.
pub async fn serve(args: ServeArgs, target: &Target) -> anyhow::Result<()> {
    log_to_stderr("info");
    let mut config = read(&args.config)?;
    config.accept_journal_loss = args.accept_journal_loss;
    let (data, json) = (config.data.clone(), target.json);
    // One that never listened, perhaps as another has the folder or the port, must not take away the other's address.
    let mut listened = false;
    if config.journal.store == JournalStore::Etcd {
        let file = data.join(KEY_FILE);
        let first = move |keys: &KeyStore| first_key(keys, &file);
        let link = config.link_listen;
        let listening = |http: SocketAddr| {
            listened = true;
            if let Err(error) = places::write_url(&data, http) {
                tracing::warn!("clients on this machine must be told the address: {error:#}");
            }
            if json {
                print_json(&json!({"http": http, "link": link}));
            } else {
                print(&format!("API on http://{http}/v1, workers on {link}\n"));
            }
        };
        let ended = cluster::serve(config, Arc::new(first), listening, signalled()).await;
        if listened {
            places::forget_url(&data);
        }
        return ended;
    }
    let mut first_key = Ok(());
    let ended = run(config, |info| {
        listened = true;
        first_key = ready(&data, &info, json);
        if first_key.is_err() {
            info.stop.cancel();
        }
    })
    .await;
    if listened {
        places::forget_url(&data);
    }
    ended.and(first_key)
}

/// Says where it listens, once there is a key to ask with.
fn ready(data: &Path, info: &ServeInfo, json: bool) -> anyhow::Result<()> {
    let file = data.join(KEY_FILE);
    first_key(&info.keys, &file)?;
    places::write_url(data, info.http)?;
    if json {
        print_json(&json!({"http": info.http, "link": info.link, "key_file": file}));
    } else {
        print(&format!("API on http://{}/v1, workers on {}\n", info.http, info.link));
    }
    Ok(())
}

/// Makes an operator's key for a farm that has none, as nobody else could make one. Its text is safe before the key counts: a start that ends
/// between the two leaves a text that opens nothing, and the next one makes another.
fn first_key(keys: &KeyStore, file: &Path) -> anyhow::Result<()> {
    if keys.any(Role::Operator) {
        return Ok(());
    }
    let text = new_text();
    places::write(file, &text)?;
    keys.create_as(text, Project::New, Role::Operator, "first operator")?;
    tracing::info!(file = %file.display(), "made an operator's key");
    Ok(())
}

/// Says whether a configuration file is good, and what it comes to.
pub fn check_config(args: &CheckArgs, target: &Target) -> anyhow::Result<()> {
    let config = read(&args.file)?;
    ground::look(&config)?;
    if let Some(problem) = config.watermark.problem() {
        bail!("no clip would be published: {problem}");
    }
    for problem in config.moderation.problems()? {
        eprintln!("moderation will not be available: {problem}");
    }
    if target.json {
        print_json(&serde_json::to_value(&config)?);
    } else {
        print(&toml::to_string_pretty(&config)?);
        eprintln!("{} is good", args.file.display());
    }
    Ok(())
}

/// Logs to standard error: `ZOETROPE_LOG` says how much, `ZOETROPE_LOG_FORMAT=json` for machines.
pub fn log_to_stderr(default: &str) {
    let set = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    let filter = set("ZOETROPE_LOG").map(|text| EnvFilter::try_new(&text).map_err(|e| (text, e)));
    let filter = filter.transpose().unwrap_or_else(|(text, error)| {
        eprintln!("ZOETROPE_LOG={text} is not understood, so {default} is logged: {error}");
        None
    });
    let filter = filter.unwrap_or_else(|| EnvFilter::new(default));
    let format = set("ZOETROPE_LOG_FORMAT");
    if let Some(other) = format.as_deref().filter(|format| *format != "json") {
        eprintln!("ZOETROPE_LOG_FORMAT={other} is not known, so logs are text: it may be json");
    }
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    match format.as_deref() {
        Some("json") => logs.json().init(),
        _ => logs.with_target(false).init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk at the first start must not leave a farm whose only key nobody knows.
    #[test]
    fn a_first_key_whose_text_could_not_be_kept_is_made_again() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = KeyStore::open(folder.path()).expect("opens");
        let blocked = folder.path().join(KEY_FILE);
        std::fs::create_dir(&blocked).expect("folder");
        first_key(&keys, &blocked).expect_err("a folder is in the way");
        assert_eq!(keys.list(), []);
        std::fs::remove_dir(&blocked).expect("is empty");
        first_key(&keys, &blocked).expect("now it can be written");
        let text = places::word_in(&blocked).expect("is there");
        assert_eq!(keys.verify(&text).map(|key| key.role), Some(Role::Operator));
        first_key(&keys, &blocked).expect("there is one");
        assert_eq!((keys.list().len(), places::word_in(&blocked)), (1, Some(text)));
    }

    /// Farms of an earlier release may have lost their last operator's key: a start gives them another.
    #[test]
    fn a_farm_of_tenants_alone_gets_an_operators_key() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = KeyStore::open(folder.path()).expect("opens");
        keys.create(Project::New, Role::Tenant, "a customer").expect("is made");
        let file = folder.path().join(KEY_FILE);
        first_key(&keys, &file).expect("is made");
        let text = places::word_in(&file).expect("is there");
        assert_eq!(keys.verify(&text).map(|key| key.role), Some(Role::Operator));
    }
}
