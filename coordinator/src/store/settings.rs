//! The section `[store]` of the configuration.

use super::place::{BUCKET_SCHEME, parse_bucket};
use crate::config::{ConfigError, is_url};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where artifacts and clips are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// A folder, or `s3://bucket/prefix`; empty: `store` in the data folder, or `cluster.store`.
    pub place: String,
    /// URL of the S3-compatible service; empty: Amazon's.
    pub endpoint: String,
    /// Its region.
    pub region: String,
    /// The file with its keys; empty: the environment, or the machine's role.
    pub credentials_file: PathBuf,
    /// PEM of the authority of its certificate; empty: those that the system trusts.
    pub ca_file: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            place: String::new(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            credentials_file: PathBuf::new(),
            ca_file: PathBuf::new(),
        }
    }
}

impl StoreConfig {
    pub(crate) fn is_bucket(&self) -> bool {
        self.place.starts_with(BUCKET_SCHEME)
    }

    pub(crate) fn make_absolute(&mut self, base: &Path) {
        for path in [&mut self.credentials_file, &mut self.ca_file] {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
        if !self.place.is_empty() && !self.is_bucket() {
            self.place = base.join(&self.place).to_string_lossy().into_owned();
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let only_bucket = "left out where store.place is no bucket";
        let fits = |path: &Path| self.is_bucket() || path.as_os_str().is_empty();
        let rows = [
            (
                "store.place",
                !self.place.contains("://") || parse_bucket(&self.place).is_some(),
                "a folder, or s3://BUCKET or s3://BUCKET/PREFIX, with 3 to 63 small letters, digits, - and . in the \
                 bucket's name and at most 128 letters, digits and - _ . / in the prefix",
            ),
            (
                "store.endpoint",
                self.endpoint.is_empty() || is_url(&self.endpoint),
                "empty, or a URL such as \"https://s3.example.com\"",
            ),
            (
                "store.region",
                (1..=64).contains(&self.region.len()),
                "1 to 64 letters, such as \"us-east-1\"",
            ),
            ("store.endpoint", self.is_bucket() || self.endpoint.is_empty(), only_bucket),
            ("store.credentials_file", fits(&self.credentials_file), only_bucket),
            ("store.ca_file", fits(&self.ca_file), only_bucket),
        ];
        match rows.into_iter().find(|(_, good, _)| !good) {
            Some((key, _, range)) => {
                Err(ConfigError::Range { key: key.to_owned(), range: range.to_owned() })
            }
            None => Ok(()),
        }
    }
}
