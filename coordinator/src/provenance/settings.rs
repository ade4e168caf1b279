//! The section `[provenance]` of the configuration.

use super::{ProvenanceArguments, SignerSource};
use crate::config::ConfigError;
use crate::documents::Documents;
use crate::metrics::Metrics;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zoetrope_provenance::certificates::Shelf;
use zoetrope_provenance::{Credential, Signer, certificates};

/// Who signs clips, and whom readers must trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provenance {
    /// Socket of a signer in a process of its own; otherwise the coordinator signs itself.
    pub signer: Option<PathBuf>,
    /// The signer's certificate and its issuers, PEM; otherwise the farm makes its own.
    pub chain: Option<PathBuf>,
    /// The private key of the certificate, PEM.
    pub key: Option<PathBuf>,
    /// The root that readers trust, PEM.
    pub root: Option<PathBuf>,
    /// Roots of others whose clips count as trusted where files are checked, PEM. Our own is always among them.
    pub trust: Vec<PathBuf>,
}

/// Where the farm's own certificates are, if it makes them.
pub enum OwnCertificates {
    /// In a folder, which every coordinator of the farm reaches.
    Folder(PathBuf),
    /// Among the farm's documents.
    Documents {
        /// These.
        documents: Box<dyn Documents>,
        /// The file with the root, which is no secret, for whoever is to trust it.
        root: PathBuf,
    },
}

/// What stands before their names there.
const DRAWER: &str = "provenance-";

struct Drawer<'a>(&'a dyn Documents);

impl Shelf for Drawer<'_> {
    fn read(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.0.read(&format!("{DRAWER}{name}"))
    }

    fn write(&self, name: &str, text: &[u8]) -> std::io::Result<()> {
        self.0.write(&format!("{DRAWER}{name}"), text)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.place(&format!("{DRAWER}{name}"))
    }
}

fn show(file: &Path, pem: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, pem)
}

impl Provenance {
    /// All paths, to be made absolute.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Provenance { signer, chain, key, root, trust } = self;
        [signer, chain, key, root].into_iter().flatten().chain(trust)
    }

    /// Holds the keys against each other.
    ///
    /// # Errors
    /// `Range` names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, range: &str| {
            Err(ConfigError::Range { key: format!("provenance.{key}"), range: range.to_owned() })
        };
        let files = [&self.chain, &self.key].map(Option::is_some);
        match (self.signer.is_some(), files, self.root.is_some()) {
            (true, [false, false], true)
            | (false, [true, true], true)
            | (false, [false, false], false) => Ok(()),
            (true, _, false) => {
                wrong("root", "set where signer is: a signer must not say whom to trust")
            }
            (true, ..) => {
                wrong("chain", "left out where signer is set, as must key: the signer has them")
            }
            _ => wrong("chain", "set together with key and root, or all three left out"),
        }
    }

    /// What the provenance sidecar needs; blocking. Makes the farm's own certificates at the first start.
    ///
    /// # Errors
    /// If a file is not what it must be: which, and why.
    pub fn open(
        &self,
        own: &OwnCertificates,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<ProvenanceArguments> {
        let (source, root) = match (&self.signer, &self.chain, &self.key, &self.root) {
            (Some(socket), _, _, Some(root)) => {
                let pem = std::fs::read_to_string(root)
                    .with_context(|| format!("provenance.root = {}", root.display()))?;
                (SignerSource::Socket(socket.clone()), pem)
            }
            (None, Some(chain), Some(key), Some(root)) => {
                let (chain, key, root) = (chain.clone(), key.clone(), root.clone());
                let credential = Credential::read(&certificates::Files { chain, key, root })?;
                let root = credential.root.clone();
                (SignerSource::Here(Arc::new(Signer::new(credential))), root)
            }
            _ => {
                let credential = match own {
                    OwnCertificates::Folder(folder) => Credential::open(folder)?,
                    OwnCertificates::Documents { documents, root } => {
                        let credential = Credential::open_on(&Drawer(&**documents))?;
                        show(root, &credential.root)
                            .with_context(|| format!("cannot write {}", root.display()))?;
                        credential
                    }
                };
                let root = credential.root.clone();
                (SignerSource::Here(Arc::new(Signer::new(credential))), root)
            }
        };
        Ok(ProvenanceArguments { source, root: root.into(), metrics })
    }
}
