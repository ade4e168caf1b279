use super::Target;
use clap::Args;
/// What `up` takes.
#[derive(Args)]
pub struct UpArgs {}
pub async fn up(_args: UpArgs, _target: &Target) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
