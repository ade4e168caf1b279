//! Holds the values of a configuration against their ranges. What a section alone can tell is checked beside it.

use super::{ConfigError, ServeConfig};
use crate::models::DECODE_CHUNKS_MAX;
use crate::moderation::settings::{REMOTE_SECONDS_MAX, RemoteModeration};
use crate::provenance::settings::STAMP_SECONDS_MAX;
use crate::watermark::settings::EPOCH_MAX;
use std::net::IpAddr;
use toml::{Table, Value};

/// Names of models beside their own: they are listed with the models at each request for the list.
const ALIASES_MAX: usize = 64;
/// The longest of them; upstream's have 21 letters.
const ALIAS_BYTES_MAX: usize = 64;

/// Models beside toybox: metrics have labels for 16 in all.
const MODELS_MAX: usize = 15;

/// Every number, with the least and the most that it may be; `*` stands for any name.
const NUMBERS: [(&str, i64, i64); 24] = [
    ("limits.jobs_of_tenant", 1, 100_000),
    ("limits.jobs_of_farm", 1, 1_000_000),
    ("limits.connections", 1, 65_536),
    ("limits.in_flight", 1, 65_536),
    ("limits.requests_per_second", 1, 100_000),
    ("limits.burst", 1, 100_000),
    ("limits.keep_unused_seconds", 0, 604_800),
    ("limits.keep_intermediate_seconds", 0, 2_592_000),
    ("limits.keep_failed_seconds", 0, 2_592_000),
    ("tenants.weight", 1, 1_000),
    ("tenants.running_max", 1, 100_000),
    ("tenants.named.*.weight", 1, 1_000),
    ("tenants.named.*.running_max", 1, 100_000),
    ("link.connections", 1, 65_536),
    ("link.stall_seconds", 10, 86_400),
    ("link.load_seconds", 10, 86_400),
    ("link.checkpoint_every", 0, 1_000),
    ("journal.snapshot_every", 100, 10_000_000),
    ("journal.waiting_max", 100, 1_000_000),
    ("vram_bytes.*", 0, i64::MAX),
    ("decode_chunks.*", 1, DECODE_CHUNKS_MAX as i64),
    ("watermark.epoch", 0, EPOCH_MAX as i64),
    ("moderation.remote.timeout_seconds", 1, REMOTE_SECONDS_MAX as i64),
    ("provenance.time_stamps.timeout_seconds", 1, STAMP_SECONDS_MAX as i64),
];

/// Holds the numbers of a file against their ranges, before they are read into types that cannot hold what is out of
/// them.
///
/// # Errors
/// `Range` names the first key that is out of it.
pub(super) fn check_numbers(table: &Table) -> Result<(), ConfigError> {
    for (pattern, least, most) in NUMBERS {
        for (key, value) in found(table, pattern) {
            if !value.as_integer().is_some_and(|number| (least..=most).contains(&number)) {
                let range = format!("{least} to {most}, got {value}");
                return Err(ConfigError::Range { key, range });
            }
        }
    }
    Ok(())
}

/// The values that a file has for a key.
fn found<'t>(table: &'t Table, pattern: &str) -> Vec<(String, &'t Value)> {
    let (first, rest) = pattern.split_once('.').map_or((pattern, None), |(a, b)| (a, Some(b)));
    let named = table.iter().filter(|(name, _)| first == "*" || *name == first);
    let below = |(name, value): (&String, &'t Value)| match (rest, value) {
        (None, value) => vec![(name.clone(), value)],
        (Some(rest), Value::Table(table)) => {
            let under = found(table, rest).into_iter();
            under.map(|(key, value)| (format!("{name}.{key}"), value)).collect()
        }
        // Of another type than it must be, which whoever reads it says.
        (Some(_), _) => Vec::new(),
    };
    named.flat_map(below).collect()
}

/// Whether this may stand in a certificate: a name or an address.
fn is_host(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b);
    let name = (1..=253).contains(&text.len()) && text.bytes().all(letter);
    name || text.parse::<IpAddr>().is_ok()
}

/// Whether this is a URL that can be asked: with a host, over HTTP.
pub(crate) fn is_url(text: &str) -> bool {
    let url = reqwest::Url::parse(text);
    let web = url.as_ref().is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    // The parser takes a scheme in any spelling, and one slash or none.
    web && (text.starts_with("http://") || text.starts_with("https://"))
}

/// Whether this is HOST:PORT, with brackets around an IPv6 address.
pub(super) fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host) && !host.contains(':'),
    };
    good && text.len() <= 255 && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl ServeConfig {
    /// Holds every value against its range.
    ///
    /// # Errors
    /// `Range` names the first key that is out of it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let table = toml::Table::try_from(self).map_err(|error| ConfigError::Range {
            key: "a number".to_owned(),
            range: format!("one that a configuration file can hold: {error}"),
        })?;
        check_numbers(&table)?;
        let models = self.models.len();
        if models > MODELS_MAX {
            let range = format!("0 to {MODELS_MAX}, got {models}");
            return Err(ConfigError::Range { key: "models".to_owned(), range });
        }
        if let Some(name) = self.names.iter().find(|name| !is_host(name)) {
            let range = format!("host names or IP addresses, got {name:?}");
            return Err(ConfigError::Range { key: "names".to_owned(), range });
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
