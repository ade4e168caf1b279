//! The section `[moderation]` of the configuration.

use super::remote::Provider;
use crate::config::ConfigError;
use crate::outward::{self, ALLOW_MAX, Allow};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use zoetrope_moderation::Policy;

/// What is blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Moderation {
    /// The policy; otherwise the one that is built in.
    pub policy: Option<PathBuf>,
    /// The folder of its nets; otherwise looked for where `scripts/setup` puts them.
    pub models: Option<PathBuf>,
    /// A remote provider, which judges texts too.
    pub remote: Option<RemoteModeration>,
}

/// A remote provider that speaks the OpenAI moderations API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteModeration {
    /// Its endpoint.
    pub url: String,
    /// A file with its key; none if it wants none.
    pub key_file: Option<PathBuf>,
    /// The model that is asked for.
    #[serde(default = "remote_model")]
    pub model: String,
    /// Whether it judges beside the embedded nets or instead of them.
    pub mode: RemoteMode,
    /// How long it may take for an answer.
    #[serde(default = "remote_timeout")]
    pub timeout_seconds: u64,
    /// Hosts and networks that may be dialled although they are not public.
    #[serde(default)]
    pub allow: Vec<String>,
}

fn remote_model() -> String {
    "omni-moderation-latest".to_owned()
}

fn remote_timeout() -> u64 {
    10
}

/// One that needs longer would make every job wait for it.
pub(crate) const REMOTE_SECONDS_MAX: u64 = 20;

/// How a remote provider judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteMode {
    /// Beside the embedded nets: the higher score counts.
    Join,
    /// Instead of them, but for the rules on minors.
    Replace,
}

impl RemoteModeration {
    /// The provider.
    ///
    /// # Errors
    /// `Range` names the key.
    pub fn provider(&self) -> Result<Provider, ConfigError> {
        let wrong = |key: &str, range: String| ConfigError::Range {
            key: format!("moderation.remote.{key}"),
            range,
        };
        if !(1..=REMOTE_SECONDS_MAX).contains(&self.timeout_seconds) {
            let range = format!("1 to {REMOTE_SECONDS_MAX}, got {}", self.timeout_seconds);
            return Err(wrong("timeout_seconds", range));
        }
        let allow = Allow::read(&self.allow).filter(|_| self.allow.len() <= ALLOW_MAX);
        let allow = allow.ok_or_else(|| {
            let range = "host names, addresses and networks such as \"10.0.0.0/8\", at most 64";
            wrong("allow", range.to_owned())
        })?;
        let url = outward::url(&self.url, &allow).map_err(|e| wrong("url", e.to_string()))?;
        Ok(Provider {
            url,
            allow,
            key_file: self.key_file.clone(),
            model: self.model.clone(),
            timeout: Duration::from_secs(self.timeout_seconds),
            replaces: self.mode == RemoteMode::Replace,
        })
    }
}

impl Moderation {
    /// Reads the policy.
    ///
    /// # Errors
    /// `PolicyError` names file and key; what stands around it, the key that names the file.
    pub fn open(&self) -> anyhow::Result<Policy> {
        let Some(path) = &self.policy else { return Ok(Policy::built_in()?) };
        Policy::read(path).with_context(|| format!("moderation.policy = {}", path.display()))
    }

    /// What is missing for it to judge, one sentence each. Reads all nets.
    ///
    /// # Errors
    /// As [`Moderation::open`].
    pub fn problems(&self) -> anyhow::Result<Vec<String>> {
        let folder = zoetrope_moderation::models::find(self.models.as_deref());
        Ok(zoetrope_moderation::models::problems(&folder, &self.open()?.models))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_not_there_is_told_with_its_key() {
        let policy = Some(PathBuf::from("nowhere.toml"));
        let error = Moderation { policy, ..Moderation::default() }.open().expect_err("is missing");
        let told = format!("{error:#}");
        assert!(told.starts_with("moderation.policy = nowhere.toml: "), "{told}");
    }
}
