//! The coordinator of a Zoetrope farm: everything but the command line's entry.

pub mod dispatch;
pub mod farm;
pub mod http;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod metrics;
pub mod models;
