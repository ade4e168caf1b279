//! The scheduler core: a pure state machine that makes every decision of the farm.
//!
//! `handle(now, input, &mut outputs)` never fails, reads no clock, does no IO and holds no hash map; integers
//! decide and ties break by id. Replaying the same inputs gives the same outputs byte for byte. Called by the
//! dispatch actor alone; by recovery, the planner and the tests in the same way.

mod admission;
mod ages;
mod ahead;
mod attempt;
mod check;
mod clocks;
pub mod config;
mod core;
mod dependency;
mod drain;
mod explain;
mod fail;
mod fair;
mod few;
mod fleet;
mod index;
pub mod input;
mod job;
mod keys;
mod machine;
mod moves;
mod node;
mod observe;
pub mod output;
mod part;
mod place;
mod preempt;
mod quarantine;
mod quick;
mod restore;
mod slab;
mod state;
mod table;
mod timer;
mod turns;
pub mod view;
pub mod why;
mod worker;

/// Numbers what is decided: by the core, and by the books around it. Whoever makes the same inputs lead to anything else
/// raises it, for the records of a journal tell what happened only by the decisions that they were written under.
pub const DECISIONS: u32 = 1;

pub use crate::core::Core;
pub use crate::state::State;
pub use admission::Estimate;
pub use config::Config;
pub use input::Input;
pub use output::Output;
pub use view::{Counts, JobView, TenantView, WorkerView};
pub use why::Why;
