//! Serves one gpu for a Zoetrope farm.

pub mod asked;
pub mod bare;
mod beside;
pub mod cache;
pub mod cli;
pub mod emulated;
pub mod engine;
pub mod exit;
pub mod fingerprint;
pub mod finish;
pub mod gpu;
pub mod http;
pub mod identity;
pub mod link;
pub mod metrics;
pub mod model;
pub mod pack;
pub mod root;
pub mod segment;
pub mod sight;
pub mod speech;
pub mod start;
