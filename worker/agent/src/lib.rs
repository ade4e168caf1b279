//! The pure part of a worker's link: which attempts it holds and under which fence, which leader it follows,
//! and what it says of its attempts.
//!
//! No clock, no IO, no runtime: the time is an argument. Called by the worker's link actor, and by the
//! simulation in its place. Knows no tensor and decides nothing about jobs.

mod agent;
mod report;
mod table;

pub use agent::{Agent, OldEpoch, Ordered};
pub use report::{AttemptKey, Report};
pub use table::{AttemptTable, Entry, LIVE_MAX};
