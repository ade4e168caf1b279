//! The configuration of `zoetrope serve`: one TOML file, every key with a default, unknown keys refused.
//!
//! `configs/coordinator.toml` is the manual; a test holds it against these defaults.

mod check;
mod cluster;
mod sections;

pub(crate) use check::is_url;
pub use cluster::Cluster;
pub use sections::{Journal, JournalStore, Limits, Link, Share, Tenants};

use crate::dispatch::DispatchLimits;
use crate::jobs::Keep;
use crate::link::LinkLimits;
use crate::models::UPSTREAM_NAMES;
use crate::moderation::settings::Moderation;
use crate::provenance::settings::Provenance;
use crate::store::place::{Bucket, Place, parse_bucket};
use crate::store::settings::StoreConfig;
use crate::watermark::settings::Watermark;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zoetrope_protocol::id::{Millis, TenantId};
use zoetrope_protocol::job::Class;
use zoetrope_sched::input::TenantPolicy;

/// What `zoetrope serve` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// Address of the HTTP door.
    #[serde(deserialize_with = "address_of_text")]
    pub listen: SocketAddr,
    /// URL under which callers reach the HTTP door; empty: as each request names it.
    pub public_url: String,
    /// Address of the workers' links (QUIC, UDP).
    #[serde(deserialize_with = "address_of_text")]
    pub link_listen: SocketAddr,
    /// Further names that the coordinator's certificate holds.
    pub names: Vec<String>,
    /// The data folder.
    pub data: PathBuf,
    /// Manifest files of further models, in the order of their numbers. Only append.
    pub models: Vec<PathBuf>,
    /// The model of a job that names none; empty: `h3` if it is there, else toybox.
    pub default_model: String,
    /// Further names of models; empty: the default model. Upstream's are always among them.
    #[serde(deserialize_with = "with_upstream_names")]
    pub aliases: BTreeMap<String, String>,
    /// Device memory that each stage of a model needs, in bytes.
    pub vram_bytes: BTreeMap<String, u64>,
    /// Decode chunks of one decode shard, by model; clips of others are decoded as they are finished.
    pub decode_chunks: BTreeMap<String, u16>,
    /// Limits.
    pub limits: Limits,
    /// Shares of tenants.
    pub tenants: Tenants,
    /// Patience with workers.
    pub link: Link,
    /// The journal.
    pub journal: Journal,
    /// Artifacts and clips.
    pub store: StoreConfig,
    /// What several coordinators of one farm share. Only with the journal in etcd.
    pub cluster: Cluster,
    /// Who signs clips.
    pub provenance: Provenance,
    /// What is blocked.
    pub moderation: Moderation,
    /// The marks of clips.
    pub watermark: Watermark,
    /// Go on without records that the journal lost. A flag of the command line, never of the file.
    #[serde(skip)]
    pub accept_journal_loss: bool,
}

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: String::new(),
            link_listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            names: Vec::new(),
            data: PathBuf::from("data"),
            models: Vec::new(),
            default_model: String::new(),
            aliases: upstream_names(),
            vram_bytes: BTreeMap::new(),
            decode_chunks: BTreeMap::new(),
            limits: Limits::default(),
            tenants: Tenants::default(),
            link: Link::default(),
            journal: Journal::default(),
            store: StoreConfig::default(),
            cluster: Cluster::default(),
            provenance: Provenance::default(),
            moderation: Moderation::default(),
            watermark: Watermark::default(),
            accept_journal_loss: false,
        }
    }
}

/// An address to listen on. Names are none: what they stand for may change, or be several.
///
/// # Errors
/// What is allowed, with examples.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected IP:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 (all addresses) or [::1]:8080"
            .to_owned()
    })
}

/// What the key of a tenant must be.
pub(crate) const TENANT_NAMES: &str = "named proj_N, or N, with N from 1 on";
/// And how often it may stand there.
pub(crate) const TENANT_TWICE: &str = "the only one of its project";

/// The tenant that a key names.
pub(crate) fn tenant(name: &str) -> Option<TenantId> {
    let number = name.strip_prefix("proj_").unwrap_or(name).parse().ok();
    number.filter(|number| *number > 0).map(TenantId)
}

fn address_of_text<'de, D: Deserializer<'de>>(text: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(text)?;
    address(&text).map_err(serde::de::Error::custom)
}

fn upstream_names() -> BTreeMap<String, String> {
    UPSTREAM_NAMES.into_iter().map(|name| (name.to_owned(), String::new())).collect()
}

/// A name that is left out keeps its default, as any key does.
fn with_upstream_names<'de, D: Deserializer<'de>>(
    table: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let mut aliases = upstream_names();
    aliases.extend(BTreeMap::<String, String>::deserialize(table)?);
    Ok(aliases)
}

/// A configuration that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or a key is unknown or of the wrong type. The text names the key and the line.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A value is out of its range.
    #[error("{key} must be {range}")]
    Range {
        /// The key.
        key: String,
        /// What is allowed.
        range: String,
    },
}

/// The highest class that each tenant may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Of a tenant that is not named.
    pub most: Class,
    /// Of one that is.
    pub named: BTreeMap<TenantId, Class>,
}

impl Classes {
    /// The class of a job of this tenant that asks for this one.
    pub fn allowed(&self, tenant: TenantId, asked: Class) -> Class {
        // The order of classes is that of service.
        asked.max(self.named.get(&tenant).copied().unwrap_or(self.most))
    }
}

impl ServeConfig {
    /// Reads and checks a file. Relative paths are relative to it.
    ///
    /// # Errors
    /// `ConfigError` names the key.
    pub fn read(path: &Path) -> Result<ServeConfig, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = ServeConfig::parse(&text)
            .map_err(|reason| ConfigError::Parse { path: path.to_owned(), reason })?;
        if config.data.as_os_str().is_empty() {
            let range = "a folder, such as \"data\"".to_owned();
            return Err(ConfigError::Range { key: "data".to_owned(), range });
        }
        let base = path.parent().unwrap_or(Path::new("."));
        config.data = base.join(&config.data);
        let remote = config.moderation.remote.as_mut().and_then(|remote| remote.key_file.as_mut());
        if let Some(path) = remote {
            *path = base.join(&*path);
        }
        let own = [&mut config.moderation.policy, &mut config.moderation.models];
        for path in config.models.iter_mut().chain(own.into_iter().flatten()) {
            *path = base.join(&*path);
        }
        for path in config.cluster.paths().into_iter().filter(|path| !path.as_os_str().is_empty()) {
            *path = base.join(&*path);
        }
        config.store.make_absolute(base);
        for path in config.watermark.artwork.values_mut() {
            *path = base.join(&*path);
        }
        // A bare name is looked for in PATH.
        if config.watermark.ffmpeg.components().count() > 1 {
            config.watermark.ffmpeg = base.join(&config.watermark.ffmpeg);
        }
        for path in config.provenance.paths() {
            *path = base.join(&*path);
        }
        config.check()?;
        Ok(config)
    }

    pub(crate) fn parse(text: &str) -> Result<ServeConfig, String> {
        let table: toml::Table = toml::from_str(text).map_err(|e| e.to_string())?;
        check::check_numbers(&table).map_err(|e| e.to_string())?;
        // From the text, so that errors show the line.
        toml::from_str(text).map_err(|e| e.to_string())
    }

    fn named_tenants(&self) -> Result<BTreeMap<TenantId, TenantPolicy>, ConfigError> {
        let mut named = BTreeMap::new();
        for (name, share) in &self.tenants.named {
            let key = format!("tenants.named.{name}");
            let refused = |range: &str| ConfigError::Range { key, range: range.to_owned() };
            let Some(tenant) = tenant(name) else { return Err(refused(TENANT_NAMES)) };
            let Share { weight, running_max, .. } = *share;
            if named.insert(tenant, TenantPolicy { weight, running_max }).is_some() {
                return Err(refused(TENANT_TWICE));
            }
        }
        Ok(named)
    }

    /// The classes that tenants may ask for.
    pub fn classes(&self) -> Classes {
        let own = |(name, share): (&String, &Share)| Some((tenant(name)?, share.class_max?.into()));
        let named = self.tenants.named.iter().filter_map(own).collect();
        Classes { most: self.tenants.class_max.into(), named }
    }

    /// The dispatch actor's limits.
    ///
    /// # Errors
    /// `Range`.
    pub fn dispatch_limits(&self) -> Result<DispatchLimits, ConfigError> {
        let Tenants { weight, running_max, .. } = self.tenants;
        Ok(DispatchLimits {
            jobs_of_tenant: self.limits.jobs_of_tenant,
            jobs_of_farm: self.limits.jobs_of_farm,
            journal_waiting: self.journal.waiting_max,
            snapshot_every: self.journal.snapshot_every,
            checkpoint_every: self.link.checkpoint_every,
            verdict_grace: self.verdict_grace(),
            tenant: TenantPolicy { weight, running_max },
            tenants: self.named_tenants()?,
            vram_bytes: self.vram_bytes.clone(),
            keep_unused: Duration::from_secs(self.limits.keep_unused_seconds),
            keep: Keep {
                completed: Millis(self.limits.keep_intermediate_seconds * 1_000),
                failed: Millis(self.limits.keep_failed_seconds * 1_000),
            },
        })
    }

    /// Where artifacts and clips are.
    pub fn store_place(&self) -> Place {
        let StoreConfig { place, endpoint, region, credentials_file, ca_file } = &self.store;
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        match parse_bucket(place) {
            Some((name, prefix)) => Place::Bucket(Bucket {
                name: name.to_owned(),
                prefix: prefix.to_owned(),
                endpoint: (!endpoint.is_empty()).then(|| endpoint.clone()),
                region: region.clone(),
                credentials: given(credentials_file),
                authority: given(ca_file),
            }),
            None if !place.is_empty() => Place::Folder(PathBuf::from(place)),
            None if self.journal.store == JournalStore::Etcd => {
                Place::Folder(self.cluster.store.clone())
            }
            None => Place::Folder(self.data.join("store")),
        }
    }

    /// The link gives a load up after its time; the core, which sees no progress, must not do so before.
    fn verdict_grace(&self) -> Millis {
        let load = Millis(self.link.load_seconds.saturating_mul(1_000));
        zoetrope_sched::Config::default().verdict_grace.plus(load)
    }

    /// The links' limits.
    pub fn link_limits(&self) -> LinkLimits {
        LinkLimits {
            stall: Duration::from_secs(self.link.stall_seconds),
            load: Duration::from_secs(self.link.load_seconds),
            connections: self.link.connections,
        }
    }
}

/// Reads a file and says that it is good, or what is wrong: `zoetrope check-config`.
///
/// # Errors
/// `ConfigError` names the key.
pub fn check_config(path: &Path) -> Result<ServeConfig, ConfigError> {
    ServeConfig::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of all keys, in order; an empty table counts as none.
    fn keys(table: &toml::Table) -> Vec<String> {
        let path = |(key, value): (&String, &toml::Value)| match value {
            toml::Value::Table(inner) => {
                keys(inner).into_iter().map(|inner| format!("{key}.{inner}")).collect()
            }
            _ => vec![key.clone()],
        };
        table.iter().flat_map(path).collect()
    }

    #[test]
    fn the_commented_file_states_every_default() {
        let text = include_str!("../../configs/coordinator.toml");
        assert_eq!(ServeConfig::parse(text), Ok(ServeConfig::default()));
        // A key that is not there has its default too.
        let stated = keys(&text.parse().expect("TOML"));
        let known = keys(&toml::Table::try_from(ServeConfig::default()).expect("TOML"));
        let missing: Vec<&String> = known.iter().filter(|key| !stated.contains(key)).collect();
        assert!(known.len() > 20 && missing.is_empty(), "not in the file: {missing:?}");
        // Keys that have no default value stand there as comments.
        let as_set: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("#= ").or(Some(line)))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = ServeConfig::parse(&as_set).expect("the examples are right");
        assert!(!config.vram_bytes.is_empty() && !config.decode_chunks.is_empty());
        assert!(!config.tenants.named.is_empty() && !config.watermark.artwork.is_empty());
        assert!(config.moderation.policy.is_some() && config.moderation.models.is_some());
        let remote = keys(&toml::Table::try_from(config.moderation.remote.as_ref()).expect("TOML"));
        assert_eq!(remote, ["allow", "key_file", "mode", "model", "timeout_seconds", "url"]);
        config.check().expect("in range");
        // And what excludes one of these.
        let other: String = text
            .lines()
            .filter(|line| !line.starts_with("#= signer = "))
            .filter_map(|line| line.strip_prefix("#| ").or(line.strip_prefix("#= ")).or(Some(line)))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = ServeConfig::parse(&other).expect("the other examples are right too");
        assert!(config.provenance.chain.is_some() && config.provenance.ocsp.is_some());
        config.check().expect("in range");
    }

    /// Promise: a project has no higher class than the configuration gives it.
    #[test]
    fn classes_are_lowered_to_what_a_tenant_may_have() {
        let text = "[tenants]\nclass_max = \"default\"\n[tenants.named.proj_7]\nweight = 1\n\
                    [tenants.named.8]\nclass_max = \"priority\"\n[tenants.named.9]\nclass_max = \"flex\"\n";
        let classes = ServeConfig::parse(text).expect("parses").classes();
        let of = |tenant| Class::ALL.map(|asked| classes.allowed(TenantId(tenant), asked));
        let (priority, default, flex) = (Class::Priority, Class::Default, Class::Flex);
        assert_eq!([of(1), of(7)], [[default, default, flex]; 2]);
        assert_eq!((of(8), of(9)), ([priority, default, flex], [flex; 3]));
        let classes = ServeConfig::default().classes();
        assert_eq!(classes.allowed(TenantId(1), priority), priority);
    }

    /// Promise: a load takes as long as `link.load_seconds` allows, whatever the hard limit of its attempt.
    #[test]
    fn the_core_waits_for_a_load_as_long_as_the_link_does() {
        let config = ServeConfig::parse("[link]\nload_seconds = 2000\n").expect("parses");
        let limits = config.dispatch_limits().expect("good");
        assert!(limits.verdict_grace >= Millis(2_000_000));
    }

    #[test]
    fn an_unknown_key_and_a_value_out_of_range_are_named() {
        let error = ServeConfig::parse("[limits]\njobs_of_tenent = 5\n").expect_err("a typo");
        assert!(error.contains("jobs_of_tenent") && error.contains("jobs_of_tenant"), "{error}");
        let error = ServeConfig::parse("[link]\nstall_seconds = 1\n").expect_err("too small");
        assert_eq!(error, "link.stall_seconds must be 10 to 86400, got 1");
        for key in ["listen", "link_listen"] {
            let error = ServeConfig::parse(&format!("{key} = \"foo\"\n")).expect_err("no address");
            assert!(error.contains(key) && error.contains("127.0.0.1:8080"), "{error}");
        }
        let error = ServeConfig::parse("[link]\nversion_max = \"9\"\n").expect_err("there is none");
        assert!(error.to_string().contains("this program speaks 1.0, 1.1"), "{error}");
        let config = ServeConfig::parse("[link]\nversion_max = \"1.2\"\n").expect("parses");
        let error = config.check().expect_err("nothing is left to speak").to_string();
        assert_eq!(
            error,
            "link.version_min must be at most link.version_max, which is 1.2, got 1.3"
        );
    }

    /// Promise: an error says which key it is about and what is allowed, also where no type of ours could hold the value.
    #[test]
    fn a_number_that_cannot_be_is_refused_with_its_key_and_range() {
        for (text, wanted) in [
            ("[limits]\nconnections = -1\n", "limits.connections must be 1 to 65536, got -1"),
            ("[limits]\nburst = 1.5\n", "limits.burst must be 1 to 100000, got 1.5"),
            (
                "[decode_chunks]\ntoybox = 70000\n",
                "decode_chunks.toybox must be 1 to 170, got 70000",
            ),
            ("[watermark]\nepoch = -1\n", "watermark.epoch must be 0 to 1000, got -1"),
            (
                "[tenants.named.7]\nrunning_max = 100001\n",
                "tenants.named.7.running_max must be 1 to 100000, got 100001",
            ),
            (
                "[provenance.time_stamps]\ntimeout_seconds = 11\n",
                "provenance.time_stamps.timeout_seconds must be 1 to 10, got 11",
            ),
        ] {
            assert_eq!(ServeConfig::parse(text).expect_err(text), wanted);
        }
        let mut config = ServeConfig::default();
        config.link.stall_seconds = 9;
        let error = config.check().expect_err("not from a file").to_string();
        assert_eq!(error, "link.stall_seconds must be 10 to 86400, got 9");
    }

    #[test]
    fn names_must_be_such_as_can_be_dialled() {
        let told = |names: &str| {
            let config = ServeConfig::parse(&format!("names = [{names}]\n")).expect("parses");
            config.check().map_err(|error| error.to_string())
        };
        assert_eq!(told("\"gpu-0.example.com\", \"10.0.0.1\", \"::1\""), Ok(()));
        for (bad, shown) in [("\"a b\"", "\"a b\""), ("\"a\", \"\"", "\"\"")] {
            let wanted = format!("names must be host names or IP addresses, got {shown}");
            assert_eq!(told(bad), Err(wanted));
        }
    }

    #[test]
    fn an_empty_data_folder_is_none() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("farm.toml");
        std::fs::write(&file, "data = \"\"\n").expect("writes");
        let error = ServeConfig::read(&file).expect_err("no folder").to_string();
        assert!(error.starts_with("data must be a folder"), "{error}");
    }

    #[test]
    fn an_alias_that_is_left_out_keeps_its_default() {
        let config = ServeConfig::parse("[aliases]\nfast = \"toybox\"\n").expect("parses");
        config.check().expect("in range");
        let names: Vec<&str> = config.aliases.keys().map(String::as_str).collect();
        assert_eq!(names, ["fast", "sora-2", "sora-2-pro"]);
        let config = ServeConfig::parse("[aliases]\n\"a b\" = \"toybox\"\n").expect("parses");
        let error = config.check().expect_err("a space").to_string();
        assert!(error.starts_with("aliases must be 1 to 64 letters"), "{error}");
    }

    #[test]
    fn a_named_tenant_has_the_defaults_of_what_it_leaves_out() {
        let config = ServeConfig::parse("[tenants.named.proj_7]\nweight = 3\n").expect("parses");
        let policy = TenantPolicy { weight: 3, running_max: 10_000 };
        assert_eq!(config.named_tenants().expect("in range"), [(TenantId(7), policy)].into());
    }

    #[test]
    fn a_named_tenant_that_cannot_be_is_refused() {
        for (named, wanted) in [
            ("proj_0]\n", "tenants.named.proj_0 must be named proj_N, or N, with N from 1 on"),
            ("x]\n", "tenants.named.x must be named proj_N, or N, with N from 1 on"),
            (
                "7]\n[tenants.named.proj_7]\n",
                "tenants.named.proj_7 must be the only one of its project",
            ),
        ] {
            let config = ServeConfig::parse(&format!("[tenants.named.{named}")).expect("parses");
            assert_eq!(config.check().expect_err("cannot be").to_string(), wanted);
        }
    }

    #[test]
    fn the_store_is_a_folder_or_a_bucket() {
        let of = |text: &str| ServeConfig::parse(text).expect("parses");
        let place = |text: &str| of(text).store_place().to_string();
        assert_eq!(place(""), "data/store");
        assert_eq!(place("[store]\nplace = \"/clips\"\n"), "/clips");
        let bucket = "[store]\nplace = \"s3://clips/farm/\"\nendpoint = \"http://127.0.0.1:9\"\n";
        assert_eq!(place(bucket), "s3://clips/farm");
        of(bucket).check().expect("is whole");
        for (text, key) in [
            ("[store]\nplace = \"gs://clips\"\n", "store.place"),
            ("[store]\nplace = \"s3://NO\"\n", "store.place"),
            ("[store]\nendpoint = \"http://a\"\n", "store.endpoint"),
            ("[store]\ncredentials_file = \"a\"\n", "store.credentials_file"),
            ("[store]\nca_file = \"a\"\n", "store.ca_file"),
            ("[store]\nplace = \"s3://clips\"\nendpoint = \"http://\"\n", "store.endpoint"),
            ("[store]\nplace = \"s3://clips\"\nendpoint = \"a\"\n", "store.endpoint"),
        ] {
            let said = of(text).check().expect_err(text).to_string();
            assert!(said.starts_with(key), "{said}");
        }
    }

    #[test]
    fn a_remote_moderation_is_not_dialled_where_it_must_not() {
        let told = |keys: &str| {
            let text = format!("[moderation.remote]\nmode = \"join\"\n{keys}\n");
            let config = ServeConfig::parse(&text)?;
            config.check().map_err(|error| error.to_string())
        };
        assert_eq!(told("url = \"https://guard.example.com/\""), Ok(()));
        assert_eq!(told("url = \"http://10.0.0.1/\"\nallow = [\"10.0.0.0/8\"]"), Ok(()));
        for (keys, named) in [
            ("url = \"http://guard.example.com/\"", "moderation.remote.url must be"),
            ("url = \"https://10.0.0.1/\"", "moderation.remote.url must be a public address"),
            ("url = \"https://a.b/\"\nallow = [\"x y\"]", "moderation.remote.allow must be"),
            (
                "url = \"https://a.b/\"\ntimeout_seconds = 0",
                "timeout_seconds must be 1 to 20, got 0",
            ),
        ] {
            let error = told(keys).expect_err(keys);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_journal_in_etcd_wants_what_coordinators_share() {
        let good = "[journal]\nstore = \"etcd\"\n[cluster]\nendpoints = [\"http://a:2379\"]\n\
                    secret_file = \"s\"\nstore = \"/shared\"\n";
        ServeConfig::parse(good).expect("parses").check().expect("is whole");
        let wrong = |from: &str, to: &str, key: &str| {
            let config = ServeConfig::parse(&good.replace(from, to)).expect("parses");
            let said = config.check().expect_err(to).to_string();
            assert!(said.starts_with(key), "{said}");
        };
        wrong("[\"http://a:2379\"]", "[]", "cluster.endpoints");
        wrong("http://a", "a", "cluster.endpoints");
        wrong("http://a:2379", "http://", "cluster.endpoints");
        for bad in ["a:", ":1", "a", "a:0", "::1:2", "a b:1"] {
            let to = format!("\"/shared\"\nlink_advertise = \"{bad}\"");
            wrong("\"/shared\"", &to, "cluster.link_advertise must be HOST:PORT");
        }
        wrong("secret_file = \"s\"\n", "", "cluster.secret_file");
        wrong("store = \"/shared\"", "prefix = \"a b\"", "cluster.prefix");
        wrong("store = \"/shared\"\n", "", "cluster.store");
        wrong("\"/shared\"", "\"/s\"\nkey_file = \"k\"", "cluster.key_file");
        wrong("[journal]", "listen = \"0.0.0.0:1\"\n[journal]", "cluster.advertise");
        let said = ServeConfig::parse("[journal]\nstore = \"postgres\"\n").expect_err("unknown");
        assert!(said.contains("sled") && said.contains("etcd"), "{said}");
    }
}
