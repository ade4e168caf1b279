//! The configuration of `zoetrope serve`: one TOML file, every key with a default, unknown keys refused.
//!
//! `configs/coordinator.toml` is the manual; a test holds it against these defaults.

use crate::dispatch::DispatchLimits;
use crate::link::LinkLimits;
use crate::provenance::settings::Provenance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zoetrope_protocol::id::TenantId;
use zoetrope_sched::input::TenantPolicy;

/// What `zoetrope serve` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// Address of the HTTP door.
    pub listen: SocketAddr,
    /// Address of the workers' links (QUIC, UDP).
    pub link_listen: SocketAddr,
    /// Further names that the coordinator's certificate holds.
    pub names: Vec<String>,
    /// The data folder.
    pub data: PathBuf,
    /// Manifest files of further models, in the order of their numbers. Only append.
    pub models: Vec<PathBuf>,
    /// Device memory that each stage of a model needs, in bytes.
    pub vram_bytes: BTreeMap<String, u64>,
    /// Limits.
    pub limits: Limits,
    /// Shares of tenants.
    pub tenants: Tenants,
    /// Patience with workers.
    pub link: Link,
    /// The journal.
    pub journal: Journal,
    /// Who signs clips.
    pub provenance: Provenance,
    /// Go on without records that the journal lost. A flag of the command line, never of the file.
    #[serde(skip)]
    pub accept_journal_loss: bool,
}

/// Limits of the farm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Unfinished jobs of one tenant.
    pub jobs_of_tenant: u32,
    /// Unfinished jobs of the farm.
    pub jobs_of_farm: u64,
    /// HTTP connections at once.
    pub connections: usize,
    /// HTTP requests being handled at once.
    pub in_flight: usize,
    /// Requests a second of one API key, in the long run.
    pub requests_per_second: u32,
    /// Requests that one API key may send at once after a pause.
    pub burst: u32,
    /// Seconds that artifacts which nobody uses stay.
    pub keep_unused_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            jobs_of_tenant: 1_000,
            jobs_of_farm: 100_000,
            connections: 1_024,
            in_flight: 512,
            requests_per_second: 50,
            burst: 200,
            keep_unused_seconds: 60,
        }
    }
}

/// Shares of tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// Share of a tenant that is not named.
    pub weight: u32,
    /// Shards that it may run at one time.
    pub running_max: u32,
    /// Tenants with a share of their own, by number of the project.
    pub named: BTreeMap<String, Share>,
}

impl Default for Tenants {
    fn default() -> Self {
        Tenants { weight: 100, running_max: 10_000, named: BTreeMap::new() }
    }
}

/// A tenant's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Share of the GPU time.
    pub weight: u32,
    /// Shards that may run at one time.
    pub running_max: u32,
}

/// Patience with workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Open connections.
    pub connections: usize,
    /// Seconds without a step after which an attempt is stalled.
    pub stall_seconds: u64,
    /// The same, while weights are being loaded.
    pub load_seconds: u64,
    /// Latents are stored after every so many denoising steps.
    pub checkpoint_every: u32,
}

impl Default for Link {
    fn default() -> Self {
        Link { connections: 10_000, stall_seconds: 120, load_seconds: 900, checkpoint_every: 1 }
    }
}

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Records between two snapshots.
    pub snapshot_every: u64,
    /// Records that may wait for the disk before submits are refused.
    pub waiting_max: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { snapshot_every: 50_000, waiting_max: 20_000 }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        ServeConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            link_listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            names: Vec::new(),
            data: PathBuf::from("data"),
            models: Vec::new(),
            vram_bytes: BTreeMap::new(),
            limits: Limits::default(),
            tenants: Tenants::default(),
            link: Link::default(),
            journal: Journal::default(),
            provenance: Provenance::default(),
            accept_journal_loss: false,
        }
    }
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
        let base = path.parent().unwrap_or(Path::new("."));
        config.data = base.join(&config.data);
        for model in &mut config.models {
            *model = base.join(&*model);
        }
        for path in config.provenance.paths() {
            *path = base.join(&*path);
        }
        config.check()?;
        Ok(config)
    }

    fn parse(text: &str) -> Result<ServeConfig, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    /// Holds every value against its range.
    ///
    /// # Errors
    /// `Range` names the first key that is out of it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Limits { jobs_of_tenant, jobs_of_farm, connections, in_flight, .. } = self.limits;
        let Limits { requests_per_second, burst, keep_unused_seconds, .. } = self.limits;
        let rows: [(&str, u64, u64, u64); 16] = [
            ("limits.jobs_of_tenant", jobs_of_tenant.into(), 1, 100_000),
            ("limits.jobs_of_farm", jobs_of_farm, 1, 1_000_000),
            ("limits.connections", connections as u64, 1, 65_536),
            ("limits.in_flight", in_flight as u64, 1, 65_536),
            ("limits.requests_per_second", requests_per_second.into(), 1, 100_000),
            ("limits.burst", burst.into(), 1, 100_000),
            ("limits.keep_unused_seconds", keep_unused_seconds, 0, 604_800),
            ("tenants.weight", self.tenants.weight.into(), 1, 1_000),
            ("tenants.running_max", self.tenants.running_max.into(), 1, 100_000),
            ("link.connections", self.link.connections as u64, 1, 65_536),
            ("link.stall_seconds", self.link.stall_seconds, 10, 86_400),
            ("link.load_seconds", self.link.load_seconds, 10, 86_400),
            ("link.checkpoint_every", self.link.checkpoint_every.into(), 1, 1_000),
            ("journal.snapshot_every", self.journal.snapshot_every, 100, 10_000_000),
            ("journal.waiting_max", self.journal.waiting_max, 100, 1_000_000),
            ("models", self.models.len() as u64, 0, 15),
        ];
        for (key, value, least, most) in rows {
            if !(least..=most).contains(&value) {
                let range = format!("{least} to {most}, got {value}");
                return Err(ConfigError::Range { key: key.to_owned(), range });
            }
        }
        self.provenance.check()?;
        self.named_tenants().map(drop)
    }

    fn named_tenants(&self) -> Result<BTreeMap<TenantId, TenantPolicy>, ConfigError> {
        let mut named = BTreeMap::new();
        for (name, share) in &self.tenants.named {
            let key = format!("tenants.named.{name}");
            let number = name.strip_prefix("proj_").unwrap_or(name).parse::<u32>();
            let Ok(number) = number else {
                return Err(ConfigError::Range { key, range: "named proj_N, or N".to_owned() });
            };
            if !(1..=1_000).contains(&share.weight) || share.running_max == 0 {
                let range = "a weight of 1 to 1000 and a running_max of at least 1".to_owned();
                return Err(ConfigError::Range { key, range });
            }
            let policy = TenantPolicy { weight: share.weight, running_max: share.running_max };
            named.insert(TenantId(number), policy);
        }
        Ok(named)
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
            tenant: TenantPolicy { weight, running_max },
            tenants: self.named_tenants()?,
            vram_bytes: self.vram_bytes.clone(),
            keep_unused: Duration::from_secs(self.limits.keep_unused_seconds),
        })
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

    #[test]
    fn the_commented_file_states_every_default() {
        let text = include_str!("../../configs/coordinator.toml");
        assert_eq!(ServeConfig::parse(text), Ok(ServeConfig::default()));
        // Keys that have no default value stand there as comments.
        let as_set: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("#= ").or(Some(line)))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = ServeConfig::parse(&as_set).expect("the examples are right");
        assert!(!config.vram_bytes.is_empty());
        assert!(!config.tenants.named.is_empty());
        config.check().expect("in range");
    }

    #[test]
    fn an_unknown_key_and_a_value_out_of_range_are_named() {
        let error = ServeConfig::parse("[limits]\njobs_of_tenent = 5\n").expect_err("a typo");
        assert!(error.contains("jobs_of_tenent") && error.contains("jobs_of_tenant"), "{error}");
        let config = ServeConfig::parse("[link]\nstall_seconds = 1\n").expect("parses");
        let error = config.check().expect_err("too small").to_string();
        assert_eq!(error, "link.stall_seconds must be 10 to 86400, got 1");
    }
}
