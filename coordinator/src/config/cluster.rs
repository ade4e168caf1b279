//! What several coordinators of one farm share, and what that asks of the other keys.

use super::check::{is_host_port, is_url};
use super::{ConfigError, JournalStore, ServeConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What several coordinators of one farm share, and how they are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Where etcd is: `http://host:2379` or `https://…`.
    pub endpoints: Vec<String>,
    /// What stands before every key of this farm.
    pub prefix: String,
    /// The secret that seals the farm's keys in etcd.
    pub secret_file: PathBuf,
    /// The folder of artifacts, which every coordinator reaches.
    pub store: PathBuf,
    /// Where the other coordinators reach this one's HTTP door; empty: `http://` and the address it listens on.
    pub advertise: String,
    /// Where workers reach this one; empty: the address it listens on.
    pub link_advertise: String,
    /// PEM of the authority of etcd's certificates; empty: etcd is not reached by TLS.
    pub ca_file: PathBuf,
    /// PEM of the certificate that this coordinator shows to etcd; empty: none.
    pub certificate_file: PathBuf,
    /// PEM of its key.
    pub key_file: PathBuf,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            endpoints: Vec::new(),
            prefix: "zoetrope".to_owned(),
            secret_file: PathBuf::new(),
            store: PathBuf::new(),
            advertise: String::new(),
            link_advertise: String::new(),
            ca_file: PathBuf::new(),
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
        }
    }
}

impl Cluster {
    pub(super) fn paths(&mut self) -> [&mut PathBuf; 5] {
        let Cluster { secret_file, store, ca_file, certificate_file, key_file, .. } = self;
        [secret_file, store, ca_file, certificate_file, key_file]
    }
}

impl ServeConfig {
    /// The keys of `[cluster]`, where the journal is in etcd, and those that it asks others of.
    pub(super) fn check_cluster(&self) -> Result<(), ConfigError> {
        if self.journal.store == JournalStore::Sled {
            return Ok(());
        }
        let Cluster { endpoints, prefix, secret_file, store, .. } = &self.cluster;
        let Cluster { advertise, link_advertise, ca_file, certificate_file, key_file, .. } =
            &self.cluster;
        let tls = !ca_file.as_os_str().is_empty() || !certificate_file.as_os_str().is_empty();
        let scheme = if tls { "https://" } else { "http" };
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        let rows: [(&str, bool, &str); 10] = [
            (
                "cluster.endpoints",
                (1..=16).contains(&endpoints.len()),
                "1 to 16 addresses such as \"http://127.0.0.1:2379\", as journal.store is \"etcd\"",
            ),
            (
                "cluster.endpoints",
                endpoints.iter().all(|e| is_url(e) && e.starts_with(scheme)),
                "addresses such as \"http://127.0.0.1:2379\"; with ca_file or certificate_file all of them https://",
            ),
            (
                "cluster.prefix",
                (1..=64).contains(&prefix.len())
                    && prefix.bytes().all(letter)
                    && !prefix.ends_with('/'),
                "1 to 64 letters, digits and - _ . /, without a / at its end",
            ),
            (
                "cluster.secret_file",
                !secret_file.as_os_str().is_empty(),
                "a file with a secret of at least 32 bytes, the same on every coordinator; `openssl rand -hex 32` makes one",
            ),
            (
                "cluster.store",
                !store.as_os_str().is_empty() || self.store.is_bucket(),
                "a folder that every coordinator reaches, unless store.place is a bucket",
            ),
            (
                "store.place",
                self.store.place.is_empty() || self.store.is_bucket(),
                "a bucket or empty, as journal.store is \"etcd\"; a folder that all reach is cluster.store",
            ),
            (
                "cluster.advertise",
                if advertise.is_empty() {
                    !self.listen.ip().is_unspecified()
                } else {
                    is_url(advertise)
                },
                "the URL at which other coordinators reach this one, such as \"http://10.0.0.1:8080\"",
            ),
            (
                "cluster.link_advertise",
                match link_advertise.is_empty() {
                    true => !self.link_listen.ip().is_unspecified(),
                    false => is_host_port(link_advertise),
                },
                "HOST:PORT at which workers reach this coordinator, such as \"10.0.0.1:8443\"",
            ),
            (
                "link_listen",
                self.link_listen.port() != 0,
                "an address with a port, as journal.store is \"etcd\"",
            ),
            (
                "cluster.key_file",
                certificate_file.as_os_str().is_empty() == key_file.as_os_str().is_empty(),
                "given together with cluster.certificate_file",
            ),
        ];
        match rows.into_iter().find(|(_, good, _)| !good) {
            Some((key, _, range)) => {
                Err(ConfigError::Range { key: key.to_owned(), range: range.to_owned() })
            }
            None => Ok(()),
        }
    }
}
