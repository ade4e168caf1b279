//! The coordinator of a Zoetrope farm: everything but the command line's entry.

pub mod authority;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod farm;
pub mod gate;
pub mod http;
pub mod inspect;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod link;
pub mod metrics;
pub mod models;
pub mod provenance;
pub mod root;
pub mod serve;
pub mod sidecar;
pub mod storage;
pub mod store;

#[cfg(test)]
mod testing;
