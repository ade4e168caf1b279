//! Serves one gpu for a Zoetrope farm.

pub mod engine;
