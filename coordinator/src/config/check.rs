//! Holds the values of a configuration against their ranges. What a section alone can tell is checked beside it.

use super::{ConfigError, Limits, ServeConfig};
use crate::models::DECODE_CHUNKS_MAX;
use crate::moderation::settings::RemoteModeration;

/// Names of models beside their own: they are listed with the models at each request for the list.
const ALIASES_MAX: usize = 64;
/// The longest of them; upstream's have 21 letters.
const ALIAS_BYTES_MAX: usize = 64;

impl ServeConfig {
    /// Holds every value against its range.
    ///
    /// # Errors
    /// `Range` names the first key that is out of it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Limits { jobs_of_tenant, jobs_of_farm, connections, in_flight, .. } = self.limits;
        let Limits { requests_per_second, burst, keep_unused_seconds, .. } = self.limits;
        let Limits { keep_intermediate_seconds, keep_failed_seconds, .. } = self.limits;
        let rows: [(&str, u64, u64, u64); 18] = [
            ("limits.jobs_of_tenant", jobs_of_tenant.into(), 1, 100_000),
            ("limits.jobs_of_farm", jobs_of_farm, 1, 1_000_000),
            ("limits.connections", connections as u64, 1, 65_536),
            ("limits.in_flight", in_flight as u64, 1, 65_536),
            ("limits.requests_per_second", requests_per_second.into(), 1, 100_000),
            ("limits.burst", burst.into(), 1, 100_000),
            ("limits.keep_unused_seconds", keep_unused_seconds, 0, 604_800),
            ("limits.keep_intermediate_seconds", keep_intermediate_seconds, 0, 2_592_000),
            ("limits.keep_failed_seconds", keep_failed_seconds, 0, 2_592_000),
            ("tenants.weight", self.tenants.weight.into(), 1, 1_000),
            ("tenants.running_max", self.tenants.running_max.into(), 1, 100_000),
            ("link.connections", self.link.connections as u64, 1, 65_536),
            ("link.stall_seconds", self.link.stall_seconds, 10, 86_400),
            ("link.load_seconds", self.link.load_seconds, 10, 86_400),
            ("link.checkpoint_every", self.link.checkpoint_every.into(), 0, 1_000),
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
        let (oldest, newest) = (self.link.version_min, self.link.version_max);
        if oldest > newest {
            let range = format!("at most link.version_max, which is {newest}, got {oldest}");
            return Err(ConfigError::Range { key: "link.version_min".into(), range });
        }
        let url = &self.public_url;
        let whole = |rest: &str| !rest.is_empty() && !rest.contains(['?', '#', ' ', '"']);
        let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"));
        if !url.is_empty() && (url.len() > 512 || !rest.is_some_and(whole)) {
            let range =
                "empty, or a URL of at most 512 characters such as \"https://videos.example.com\"";
            return Err(ConfigError::Range { key: "public_url".into(), range: range.into() });
        }
        self.check_aliases()?;
        self.store.check()?;
        for (model, chunks) in &self.decode_chunks {
            if !(1..=DECODE_CHUNKS_MAX).contains(chunks) {
                let range = format!("1 to {DECODE_CHUNKS_MAX}, got {chunks}");
                return Err(ConfigError::Range { key: format!("decode_chunks.{model}"), range });
            }
        }
        self.check_cluster()?;
        self.provenance.check()?;
        self.moderation.remote.as_ref().map(RemoteModeration::provider).transpose()?;
        self.watermark.check()?;
        self.named_tenants().map(drop)
    }

    /// Whether the names of `[aliases]` can be sent as a job's model; what they stand for is known with the models.
    fn check_aliases(&self) -> Result<(), ConfigError> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let wrong = |name: &&String| {
            !(1..=ALIAS_BYTES_MAX).contains(&name.len()) || !name.bytes().all(letter)
        };
        let range = match self.aliases.keys().find(wrong) {
            Some(name) => {
                format!("1 to {ALIAS_BYTES_MAX} letters, digits and - _ . each, got {name:?}")
            }
            None if self.aliases.len() > ALIASES_MAX => format!("at most {ALIASES_MAX}"),
            None => return Ok(()),
        };
        Err(ConfigError::Range { key: "aliases".to_owned(), range })
    }
}
