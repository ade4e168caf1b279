//! The section `[provenance]` of the configuration.

use super::{ProvenanceArguments, SignerSource, Stamper};
use crate::config::ConfigError;
use crate::documents::Documents;
use crate::metrics::Metrics;
use crate::outward::{self, ALLOW_MAX, Allow};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zoetrope_provenance::certificates::Shelf;
use zoetrope_provenance::signer::Renew;
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
    /// What the certificate's authority says of its state (OCSP), DER; read anew for each signature.
    pub ocsp: Option<PathBuf>,
    /// Roots of others whose clips count as trusted where files are checked, PEM. Our own is always among them.
    pub trust: Vec<PathBuf>,
    /// Whose time stamps clips carry; none without.
    pub time_stamps: Option<TimeStamps>,
}

/// A time stamp authority (RFC 3161).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStamps {
    /// Where it is asked.
    pub url: String,
    /// The roots that its certificates lead to, PEM.
    pub roots: PathBuf,
    /// Whether clips wait while it gives none; otherwise they go without.
    #[serde(default)]
    pub required: bool,
    /// How long it may take for an answer.
    #[serde(default = "stamp_timeout")]
    pub timeout_seconds: u64,
    /// Hosts and networks that may be dialled although they are not public.
    #[serde(default)]
    pub allow: Vec<String>,
}

fn stamp_timeout() -> u64 {
    3
}

/// An authority that needs longer would make every clip wait for it.
pub(crate) const STAMP_SECONDS_MAX: u64 = 10;

impl TimeStamps {
    fn allowed(&self) -> Result<Allow, ConfigError> {
        let allowed = Allow::read(&self.allow).filter(|_| self.allow.len() <= ALLOW_MAX);
        allowed.ok_or_else(|| {
            let range = format!("at most {ALLOW_MAX} of such as 10.0.0.0/8 or tsa.internal");
            out_of_range("time_stamps.allow", range)
        })
    }

    fn address(&self) -> Result<reqwest::Url, ConfigError> {
        let wrong = |error: outward::UrlError| out_of_range("time_stamps.url", error.to_string());
        outward::url(&self.url, &self.allowed()?).map_err(wrong)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if !(1..=STAMP_SECONDS_MAX).contains(&self.timeout_seconds) {
            let range = format!("1 to {STAMP_SECONDS_MAX}");
            return Err(out_of_range("time_stamps.timeout_seconds", range));
        }
        self.address().map(|_| ())
    }

    /// The text of the roots. Blocking.
    ///
    /// # Errors
    /// If the file cannot be read or holds no certificate.
    pub fn roots(&self) -> anyhow::Result<String> {
        let place = || format!("provenance.time_stamps.roots = {}", self.roots.display());
        let pem = std::fs::read_to_string(&self.roots).with_context(place)?;
        anyhow::ensure!(certificates::fingerprint(&pem).is_some(), "{}: no PEM", place());
        Ok(pem)
    }

    fn open(&self, metrics: Arc<Metrics>) -> anyhow::Result<Arc<Stamper>> {
        let (allow, timeout) = (self.allowed()?, Duration::from_secs(self.timeout_seconds));
        let (url, roots) = (self.address()?, self.roots()?);
        Ok(Arc::new(Stamper::new(url, (&allow, timeout), roots, self.required, metrics)?))
    }
}

fn out_of_range(key: &str, range: String) -> ConfigError {
    ConfigError::Range { key: format!("provenance.{key}"), range }
}

/// Where the farm's own certificates are, if it makes them.
pub enum OwnCertificates {
    /// In a folder, which every coordinator of the farm reaches.
    Folder(PathBuf),
    /// Among the farm's documents.
    Documents {
        /// These.
        documents: Arc<dyn Documents>,
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
        let Provenance { signer, chain, key, root, ocsp, trust, time_stamps } = self;
        let stamps = time_stamps.as_mut().map(|stamps| &mut stamps.roots);
        [signer, chain, key, root, ocsp].into_iter().flatten().chain(trust).chain(stamps)
    }

    /// Holds the keys against each other.
    ///
    /// # Errors
    /// `Range` names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, range: &str| Err(out_of_range(key, range.to_owned()));
        self.time_stamps.as_ref().map_or(Ok(()), TimeStamps::check)?;
        if self.ocsp.is_some() && self.chain.is_none() {
            let answers = "left out unless chain is set: the farm's own authority answers by itself, and a signer has its own";
            return wrong("ocsp", answers);
        }
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
        let (given, stamper) = self.given(metrics.clone())?;
        let (source, root) = match given {
            Some(given) => given,
            None => match own {
                OwnCertificates::Folder(folder) => {
                    let folder = folder.clone();
                    here(Box::new(move || Credential::open(&folder)))?
                }
                OwnCertificates::Documents { documents, root } => {
                    let documents = documents.clone();
                    let made = here(Box::new(move || Credential::open_on(&Drawer(&*documents))))?;
                    show(root, &made.1)
                        .with_context(|| format!("cannot write {}", root.display()))?;
                    made
                }
            },
        };
        Ok(ProvenanceArguments { source, root: root.into(), stamper, metrics })
    }

    /// What the configuration names: who signs and the root, unless the farm's own, and who gives time stamps. Blocking;
    /// nobody is asked.
    ///
    /// # Errors
    /// If a file is not what it must be: which, and why.
    pub fn given(&self, metrics: Arc<Metrics>) -> anyhow::Result<Given> {
        let signs = match (&self.signer, &self.chain, &self.key, &self.root) {
            (Some(socket), _, _, Some(root)) => {
                let pem = std::fs::read_to_string(root)
                    .with_context(|| format!("provenance.root = {}", root.display()))?;
                Some((SignerSource::Socket(socket.clone()), pem))
            }
            (None, Some(chain), Some(key), Some(root)) => {
                let (chain, key, root) = (chain.clone(), key.clone(), root.clone());
                let files = certificates::Files { chain, key, root, ocsp: self.ocsp.clone() };
                Some(here(Box::new(move || Credential::read(&files)))?)
            }
            _ => None,
        };
        let stamper = self.time_stamps.as_ref().map(|stamps| stamps.open(metrics));
        Ok((signs, stamper.transpose()?))
    }

    /// The roots of others, PEM. Blocking.
    ///
    /// # Errors
    /// Which file cannot be read.
    pub fn trusted(&self) -> anyhow::Result<String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("provenance.trust: {}", path.display()))
        };
        self.trust.iter().map(read).collect()
    }
}

/// Who signs, with the root that its signatures lead to, if the farm does not make its own; and who gives time stamps.
pub type Given = (Option<(SignerSource, String)>, Option<Arc<Stamper>>);

/// A signer in this process, with the certificates that this gives.
fn here(open: Renew) -> Result<(SignerSource, String), certificates::CredentialError> {
    let credential = open()?;
    let root = credential.root.clone();
    let signer = Signer::new(credential).renewed_by(open);
    Ok((SignerSource::Here(Arc::new(signer)), root))
}
