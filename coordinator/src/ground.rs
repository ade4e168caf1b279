//! What a leading coordinator stands on: alone its data folder; in a cluster etcd and a store that all reach.

use crate::authority::try_names;
use crate::config::{JournalStore, ServeConfig};
use crate::dispatch::progress::Kept;
use crate::documents::{Documents, Folder, Sealed, Secret};
use crate::etcd::{Etcd, EtcdOptions};
use crate::journal::shared::Shared;
use crate::journal::{self, JournalError, Recovered};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::moderation::remote::Remote;
use crate::moderation::settings::RemoteModeration;
use crate::provenance::settings::OwnCertificates;
use crate::store::{Store, Writers};
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use zoetrope_provenance::private;

/// Opens the journal; blocking.
pub type OpenJournal = Box<dyn FnOnce() -> Result<Recovered, JournalError> + Send>;

/// What one term of leading needs from outside.
pub struct Ground {
    /// The models of the farm.
    pub models: Arc<Models>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Opens the journal.
    pub journal: OpenJournal,
    /// The authority's documents.
    pub authority: Box<dyn Documents>,
    /// The API keys' document.
    pub keys: Box<dyn Documents>,
    /// The certificates that clips are signed under, if the farm makes its own.
    pub certificates: OwnCertificates,
    /// The secret of share links.
    pub links: Box<dyn Documents>,
    /// The document of the watermark's key.
    pub mark: Box<dyn Documents>,
    /// The store.
    pub store: Arc<Store>,
    /// Where what was shown of running jobs is kept.
    pub progress: Kept,
    /// Whether this coordinator leads.
    pub leadership: Arc<Leadership>,
    /// Where workers find the coordinators of the farm; empty for one alone.
    pub coordinators: watch::Receiver<Vec<String>>,
}

impl Ground {
    /// Of the only coordinator of a farm.
    ///
    /// # Errors
    /// If a folder or a model cannot be used.
    pub fn alone(config: &ServeConfig) -> anyhow::Result<Ground> {
        let data = &config.data;
        make_data(data)?;
        let models = models(config)?;
        let metrics = metrics(&models);
        let (folder, accept_loss) = (data.join("journal"), config.accept_journal_loss);
        Ok(Ground {
            models,
            metrics,
            journal: Box::new(move || journal::open(&folder, accept_loss)),
            authority: Box::new(Folder(data.join("ca"))),
            keys: Box::new(Folder(data.clone())),
            certificates: OwnCertificates::Folder(data.join("provenance")),
            links: Box::new(Folder(data.clone())),
            mark: Box::new(Folder(data.join("watermark"))),
            store: store(config, Writers::One)?,
            progress: Kept::File(data.join("progress")),
            leadership: Leadership::alone(),
            coordinators: watch::channel(Vec::new()).1,
        })
    }
}

/// What a coordinator of a cluster keeps from one term to the next.
#[derive(Clone)]
pub struct Common {
    /// The farm's etcd.
    pub etcd: Etcd,
    /// The models of the farm.
    pub models: Arc<Models>,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    secret: Arc<Secret>,
}

impl Common {
    /// Reads what the configuration names. Nothing is asked of etcd yet.
    ///
    /// # Errors
    /// If a file, a folder or a model cannot be used.
    pub fn new(config: &ServeConfig) -> anyhow::Result<Common> {
        config.check()?;
        let cluster = &config.cluster;
        let models = models(config)?;
        let metrics = metrics(&models);
        let pem = |key: &str, file: &Path| -> anyhow::Result<Option<Vec<u8>>> {
            if file.as_os_str().is_empty() {
                return Ok(None);
            }
            let read = std::fs::read(file);
            read.map(Some).with_context(|| format!("cluster.{key} = {}", file.display()))
        };
        let certificate = pem("certificate_file", &cluster.certificate_file)?;
        let options = EtcdOptions {
            endpoints: cluster.endpoints.clone(),
            prefix: cluster.prefix.clone(),
            authority: pem("ca_file", &cluster.ca_file)?,
            identity: certificate.zip(pem("key_file", &cluster.key_file)?),
        };
        let file = &cluster.secret_file;
        let secret = Secret::read(file)
            .map_err(|why| anyhow!("cluster.secret_file = {}: {why}", file.display()))?;
        let etcd = Etcd::new(options, metrics.clone());
        Ok(Common { etcd, models, metrics, secret: Arc::new(secret) })
    }

    /// The ground of one term.
    ///
    /// # Errors
    /// If the store's folder cannot be used.
    pub fn ground(
        &self,
        config: &ServeConfig,
        leadership: Arc<Leadership>,
        coordinators: watch::Receiver<Vec<String>>,
    ) -> anyhow::Result<Ground> {
        let store = store(config, Writers::Several)?;
        let documents = Sealed {
            etcd: self.etcd.clone(),
            leadership: leadership.clone(),
            secret: self.secret.clone(),
            runtime: Handle::current(),
        };
        let shared = Shared {
            etcd: self.etcd.clone(),
            leadership: leadership.clone(),
            store: store.clone(),
            runtime: Handle::current(),
            turn: Arc::new(Mutex::new(())),
            failed: None,
        };
        let accept_loss = config.accept_journal_loss;
        let folder = &config.cluster.store;
        // Without a folder that all reach, what lay there lies with the other documents, or in the store.
        let (progress, certificates) = if folder.as_os_str().is_empty() {
            let root = config.data.join("provenance/root.pem");
            let documents = Arc::new(documents.clone());
            (Kept::Store(store.clone()), OwnCertificates::Documents { documents, root })
        } else {
            let certificates = folder.join("provenance");
            (Kept::File(folder.join("progress")), OwnCertificates::Folder(certificates))
        };
        Ok(Ground {
            models: self.models.clone(),
            metrics: self.metrics.clone(),
            journal: Box::new(move || journal::shared::open(shared, accept_loss)),
            authority: Box::new(documents.clone()),
            keys: Box::new(documents.clone()),
            certificates,
            links: Box::new(documents.clone()),
            mark: Box::new(documents),
            store,
            progress,
            leadership,
            coordinators,
        })
    }
}

/// Makes the data folder, which other users of the machine have no business in.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_data(data: &Path) -> anyhow::Result<()> {
    let told = private::make_told(data).with_context(|| format!("data = {}", data.display()))?;
    if let Some(open) = told {
        tracing::warn!("{open}");
    }
    Ok(())
}

fn store(config: &ServeConfig, writers: Writers) -> anyhow::Result<Arc<Store>> {
    let keep_unused = Duration::from_secs(config.limits.keep_unused_seconds);
    let place = config.store_place();
    let store = Store::at(&place, writers, keep_unused);
    Ok(Arc::new(store.with_context(|| format!("the store in {place}"))?))
}

/// The model table of the configuration.
///
/// # Errors
/// Which manifest is not to be read, or wrong.
pub(crate) fn models(config: &ServeConfig) -> anyhow::Result<Arc<Models>> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("models: {}", path.display()))
    };
    let texts = config.models.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    let table = Models::with(&texts)?.named(&config.default_model, &config.aliases)?;
    for name in config.vram_bytes.keys() {
        table.known(&format!("vram_bytes.{name}"), name)?;
    }
    Ok(Arc::new(table.cut(&config.decode_chunks)?))
}

/// Reads all files that a coordinator with this configuration reads at its start, makes nothing and asks nobody.
///
/// # Errors
/// What would keep it from starting.
pub fn look(config: &ServeConfig) -> anyhow::Result<()> {
    let metrics = metrics(&*models(config)?);
    if config.journal.store == JournalStore::Etcd {
        Common::new(config)?;
    }
    config
        .store_place()
        .look()
        .with_context(|| format!("the store in {}", config.store_place()))?;
    try_names(&config.names).with_context(|| format!("names = {:?}", config.names))?;
    config.watermark.open()?;
    config.moderation.open()?;
    let remote = config.moderation.remote.as_ref().map(RemoteModeration::provider).transpose()?;
    remote.map(Remote::new).transpose()?;
    config.provenance.given(metrics)?;
    config.provenance.trusted().map(drop)
}

fn metrics(models: &Models) -> Arc<Metrics> {
    let names: Vec<String> = models.all().iter().map(|m| m.manifest.id.clone()).collect();
    Arc::new(Metrics::new(&names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoetrope_provenance::Credential;

    /// Promise: what `zoetrope check-config` calls good, `zoetrope serve` does not refuse; and nothing is made.
    #[test]
    fn a_look_refuses_what_a_start_would_refuse() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["a", "b"] {
            Credential::open(&folder.path().join(name)).expect("certificates");
        }
        let file = folder.path().join("coordinator.toml");
        let looked = |text: &str| {
            std::fs::write(&file, text).expect("writes");
            let config = ServeConfig::read(&file).map_err(|error| error.to_string())?;
            look(&config).map_err(|error| format!("{error:#}"))
        };
        let certificate = |key: &str| {
            format!(
                "[provenance]\nroot = \"a/root.pem\"\nchain = \"a/chain.pem\"\nkey = \"{key}\"\n"
            )
        };
        assert_eq!(looked(""), Ok(()));
        assert_eq!(looked(&certificate("a/leaf.key.pem")), Ok(()));
        for (text, named) in [
            ("models = [\"nope.json\"]\n", "nope.json"),
            ("default_model = \"h4\"\n", "default_model = h4: no such model; there are toybox"),
            ("[aliases]\nsora-2 = \"x\"\n", "aliases.sora-2 = x: no such model"),
            ("[decode_chunks]\nnope = 3\n", "decode_chunks.nope: no such model"),
            ("[vram_bytes]\nnope = 1\n", "vram_bytes.nope: no such model"),
            ("names = [\"bücher.example\"]\n", "names must be host names or IP addresses, got"),
            ("[store]\nplace = \"coordinator.toml\"\n", "the store in"),
            ("[provenance]\ntrust = [\"nope.pem\"]\n", "nope.pem"),
            (&certificate("b/leaf.key.pem"), "is another one"),
        ] {
            let told = looked(text).expect_err(text);
            assert!(told.contains(named), "{told}");
        }
        assert!(!folder.path().join("data").exists());
    }
}
