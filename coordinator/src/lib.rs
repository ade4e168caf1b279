//! The coordinator of a Zoetrope farm: everything but the command line's entry.

pub mod authority;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod dispatch;
pub mod documents;
pub mod etcd;
pub mod expiry;
pub mod farm;
pub mod fsck;
pub mod gate;
pub mod ground;
pub mod http;
pub mod inspect;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod leadership;
pub mod link;
pub mod metrics;
pub mod models;
pub mod moderation;
pub mod outward;
pub mod provenance;
pub mod registry;
pub mod room;
pub mod root;
pub mod scratch;
pub mod serve;
pub mod sidecar;
pub mod start;
pub mod storage;
pub mod store;
pub mod watermark;

#[cfg(test)]
mod testing;
