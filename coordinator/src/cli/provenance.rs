//! The verbs `signer`, `provenance verify` and `provenance rotate`.

use super::Target;
use super::table::{print, print_json};
use crate::inspect::{HEAD_BYTES, NO_SUCH_KIND, format_of};
use crate::provenance::socket;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use std::io::{Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use zoetrope_provenance::{Credential, Signer, State, Trust, certificates};

/// What `signer` takes.
#[derive(Args)]
pub struct SignerArgs {
    /// The socket to listen on; its folder should be open to the coordinator's user alone
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The folder with the certificates and the key; made at the first start
    #[arg(long, value_name = "DIR", required_unless_present = "chain")]
    folder: Option<PathBuf>,
    /// PEM: a certificate of your own and its issuers, leaf first
    #[arg(long, value_name = "FILE", requires_all = ["private_key", "root"])]
    chain: Option<PathBuf>,
    /// PEM: its private key
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// PEM: the root that readers trust
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// DER: what its authority says of the certificate's state (OCSP); read anew for each signature
    #[arg(long, value_name = "FILE", requires = "chain")]
    ocsp: Option<PathBuf>,
}

/// What can be done about provenance.
#[derive(Subcommand)]
pub enum ProvenanceVerb {
    /// Read the manifest of a file and say how far it can be believed; exits with 0 if it is trusted
    Verify {
        /// The clip
        file: PathBuf,
        /// PEM: a root to trust [default: the farm's own, `provenance/root.pem` in the data folder; coordinators that
        /// share an etcd and a folder keep it in the folder `cluster.store`]
        #[arg(long, value_name = "FILE")]
        trust: Vec<PathBuf>,
    },
    /// Make a new signing key and certificate; the coordinator or signer takes it up at its next start
    Rotate {
        /// The folder with the certificates [default: `provenance` in the data folder]; coordinators that share an etcd
        /// and a folder keep them in `provenance` of the folder `cluster.store`
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// Serves until a signal asks for the end.
pub async fn signer(args: SignerArgs) -> anyhow::Result<()> {
    super::serve::log_to_stderr("info");
    let signer = match (args.chain, args.private_key, args.root, args.folder) {
        (Some(chain), Some(key), Some(root), _) => {
            let files = certificates::Files { chain, key, root, ocsp: args.ocsp };
            Signer::new(Credential::read(&files)?)
                .renewed_by(Box::new(move || Credential::read(&files)))
        }
        (_, _, _, Some(folder)) => Signer::new(Credential::open(&folder)?)
            .renewed_by(Box::new(move || Credential::open(&folder))),
        _ => bail!("give --folder, or --chain with --private-key and --root"),
    };
    let path = args.socket;
    // What is left of an earlier process; a socket that somebody listens on is not taken over, and a file is no socket.
    if let Ok(there) = std::fs::symlink_metadata(&path) {
        if !there.file_type().is_socket() {
            bail!("--socket {}: there is a file that is no socket", path.display());
        }
        if tokio::net::UnixStream::connect(&path).await.is_ok() {
            bail!("{} has a signer already", path.display());
        }
        std::fs::remove_file(&path).with_context(|| format!("--socket {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("--socket {}", path.display()))?;
    private(&path)?;
    tracing::info!(socket = %path.display(), "the signer is ready");
    tokio::select! {
        ended = socket::serve(listener, Arc::new(signer)) => ended?,
        () = crate::serve::signalled() => {}
    }
    std::fs::remove_file(&path).with_context(|| format!("--socket {}", path.display()))
}

#[cfg(unix)]
fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

/// What `read-manifest` takes; roots to trust stand on standard input.
#[derive(Args)]
pub struct ReadArgs {
    /// Media type
    format: String,
    /// The file
    file: PathBuf,
}

/// Reads a file of a stranger. Its limits were set by who called.
pub fn read_manifest(args: &ReadArgs) -> anyhow::Result<()> {
    let roots = std::io::read_to_string(std::io::stdin())?;
    let file = std::fs::File::open(&args.file)?;
    let verdict = zoetrope_provenance::read(&args.format, file, &Trust { roots });
    serde_json::to_writer(std::io::stdout(), &verdict)?;
    Ok(())
}

/// Carries out `provenance …`.
pub fn provenance(what: ProvenanceVerb, target: &Target) -> anyhow::Result<()> {
    let own = || -> anyhow::Result<PathBuf> {
        Ok(super::places::data_folder(target.data.as_deref())?.join("provenance"))
    };
    match what {
        ProvenanceVerb::Verify { file, trust } => {
            let roots = if trust.is_empty() { vec![own()?.join("root.pem")] } else { trust };
            verify(&file, &roots, target.json)
        }
        ProvenanceVerb::Rotate { folder } => {
            let named = folder.is_some();
            let folder = folder.map_or_else(own, Ok)?;
            let rotated = certificates::rotate(&folder).map_err(anyhow::Error::new);
            rotated.map_err(|error| match named {
                true => error,
                false => error.context("name the folder of the certificates with --folder"),
            })?;
            let chain = folder.join("chain.pem");
            if target.json {
                print_json(&json!({ "chain": chain }));
            } else {
                print(&format!("{} is new; restart what signs with it\n", chain.display()));
            }
            Ok(())
        }
    }
}

fn verify(file: &Path, roots: &[PathBuf], json: bool) -> anyhow::Result<()> {
    let mut trust = Trust::default();
    for root in roots {
        let pem = std::fs::read_to_string(root)
            .with_context(|| format!("the root {}; name one with --trust", root.display()))?;
        trust.roots.push_str(&pem);
    }
    let mut opened = std::fs::File::open(file).with_context(|| format!("{}", file.display()))?;
    let mut head = Vec::new();
    opened.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let format = format_of(&head).with_context(|| format!("{}: {NO_SUCH_KIND}", file.display()))?;
    opened.rewind()?;
    let verdict = zoetrope_provenance::read(format, opened, &trust);
    if json {
        print_json(&serde_json::to_value(&verdict)?);
    } else {
        let word = serde_json::to_value(verdict.state)?;
        let mut lines = vec![format!("state    {}", word.as_str().unwrap_or_default())];
        lines.extend(verdict.issuer.as_ref().map(|issuer| format!("issuer   {issuer}")));
        let render = verdict.render.as_ref().and_then(|render| render.as_object());
        let said = render.into_iter().flatten();
        lines.extend(said.map(|(key, value)| format!("{key:<16} {value}")));
        lines.extend(verdict.failures.iter().map(|failure| format!("wrong    {failure}")));
        print(&format!("{}\n", lines.join("\n")));
    }
    if verdict.state == State::Trusted { Ok(()) } else { bail!("the clip is not trusted") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Coordinators of a cluster keep certificates elsewhere than in a data folder: who looks in the wrong place is told.
    #[test]
    fn certificates_that_are_not_in_the_data_folder_are_asked_for() {
        let empty = tempfile::tempdir().expect("folder");
        let target = Target {
            url: None,
            key: None,
            key_file: None,
            data: Some(empty.path().to_owned()),
            json: true,
        };
        let error = provenance(ProvenanceVerb::Rotate { folder: None }, &target);
        let error = format!("{:#}", error.expect_err("nothing is there"));
        assert!(error.contains("--folder") && error.contains("is not there"), "{error}");
        let folder = Some(empty.path().to_owned());
        let error = provenance(ProvenanceVerb::Rotate { folder }, &target);
        let error = format!("{:#}", error.expect_err("nothing is there"));
        assert!(!error.contains("--folder"), "{error}");
    }
}
