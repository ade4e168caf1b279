//! The sections of the configuration that belong to no one part of the farm: limits, tenants, links, journal.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use zoetrope_protocol::job::Class;
use zoetrope_protocol::version::LinkVersion;

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
    /// Seconds that prompt embeddings, latents and segments stay after a job ended with a clip.
    pub keep_intermediate_seconds: u64,
    /// The same, after a job ended without one.
    pub keep_failed_seconds: u64,
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
            keep_intermediate_seconds: 3_600,
            keep_failed_seconds: 86_400,
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
    /// The highest class that it may ask for; a higher one becomes this.
    pub class_max: ClassMax,
    /// Tenants with a share of their own, by number of the project.
    pub named: BTreeMap<String, Share>,
}

impl Default for Tenants {
    fn default() -> Self {
        let class_max = ClassMax::Priority;
        Tenants { weight: 100, running_max: 10_000, class_max, named: BTreeMap::new() }
    }
}

/// A queue class, as the API calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMax {
    /// Any.
    Priority,
    /// None before `default`.
    Default,
    /// None before `flex`.
    Flex,
}

impl From<ClassMax> for Class {
    fn from(class: ClassMax) -> Class {
        match class {
            ClassMax::Priority => Class::Priority,
            ClassMax::Default => Class::Default,
            ClassMax::Flex => Class::Flex,
        }
    }
}

/// A tenant's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    /// Share of the GPU time.
    pub weight: u32,
    /// Shards that may run at one time.
    pub running_max: u32,
    /// The highest class that it may ask for; none: as all others.
    pub class_max: Option<ClassMax>,
}

impl Default for Share {
    fn default() -> Self {
        let Tenants { weight, running_max, .. } = Tenants::default();
        Share { weight, running_max, class_max: None }
    }
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
    /// Latents are stored after every so many denoising steps; 0: as often as it costs at most 1 % of their time.
    pub checkpoint_every: u32,
    /// The newest version of the link that is spoken.
    pub version_max: LinkVersion,
    /// The oldest version of the link that is spoken with workers.
    pub version_min: LinkVersion,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            connections: 10_000,
            stall_seconds: 120,
            load_seconds: 900,
            checkpoint_every: 1,
            version_max: LinkVersion::NEWEST,
            version_min: LinkVersion::PROVEN,
        }
    }
}

impl Link {
    /// The versions of the link that are spoken.
    pub fn versions(&self) -> RangeInclusive<LinkVersion> {
        self.version_min..=self.version_max
    }
}

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Where it is.
    pub store: JournalStore,
    /// Records between two snapshots.
    pub snapshot_every: u64,
    /// Records that may wait for the disk before submits are refused.
    pub waiting_max: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { store: JournalStore::Sled, snapshot_every: 50_000, waiting_max: 20_000 }
    }
}

/// Where the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalStore {
    /// In the data folder: one coordinator.
    Sled,
    /// In etcd: one coordinator leads, others stand by.
    Etcd,
}
