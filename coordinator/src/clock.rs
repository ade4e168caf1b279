//! The one place where the coordinator reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};
use zoetrope_protocol::id::Millis;

/// Milliseconds since the Unix epoch. May jump with the system's clock; who needs order caps it.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
