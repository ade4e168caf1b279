//! The coordinator of a Zoetrope farm: everything but the command line's entry.

pub mod dispatch;
pub mod farm;
pub mod jobs;
pub mod models;
