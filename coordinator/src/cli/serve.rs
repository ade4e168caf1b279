//! `serve` and `check-config`.
use super::Target;
use clap::Args;
use std::path::PathBuf;

/// What `serve` takes.
#[derive(Args)]
pub struct ServeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What `check-config` takes.
#[derive(Args)]
pub struct CheckArgs {
    /// The configuration file
    file: PathBuf,
}

pub async fn serve(_args: ServeArgs, _target: &Target) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
pub fn check_config(_args: &CheckArgs, _target: &Target) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
