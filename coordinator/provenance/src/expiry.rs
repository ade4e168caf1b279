//! When certificates end, and what is said of it in time: a farm or a worker whose certificate ended stands still.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So long before the end it is told, each day: who looks once a month sees it.
pub const SOON: Duration = Duration::from_secs(30 * DAY);
/// How often it is told.
pub const EVERY: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 3_600;

/// When a certificate (DER) ends, in Unix seconds; none if the bytes are none.
pub fn ends(der: &[u8]) -> Option<u64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    certificate.validity().not_after.timestamp().try_into().ok()
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether what ends then is to be renewed now.
pub fn is_due(now: u64, ends: u64) -> bool {
    now.saturating_add(SOON.as_secs()) >= ends
}

/// What a person must know of what ends then, if it is due.
pub fn told(now: u64, ends: u64, what: &str, advice: &str) -> Option<String> {
    let days = ends.abs_diff(now) / DAY;
    let when = if now >= ends { "ended" } else { "ends in" };
    let ago = if now >= ends { " ago" } else { "" };
    is_due(now, ends).then(|| format!("{what} {when} {days} days{ago}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_a_month_before() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("signs");
        // The year 4096, as rcgen has it.
        assert_eq!(ends(certificate.der()).map(|at| at / (366 * DAY)), Some(2_121));
        assert_eq!(ends(b"none"), None);
        let end = 1_000 * DAY;
        assert_eq!(told(end - 31 * DAY, end, "it", "renew it"), None);
        let soon = told(end - 29 * DAY, end, "it", "renew it");
        assert_eq!(soon.as_deref(), Some("it ends in 29 days: renew it"));
        let late = told(end + 2 * DAY, end, "it", "renew it");
        assert_eq!(late.as_deref(), Some("it ended 2 days ago: renew it"));
    }
}
