//! The farm in virtual time: the real core, books, ledger, sessions, agent and recovery against simulated
//! workers, networks, disks, stores, clocks and callers. One seed is one schedule; one thread, no IO, no sleep.

mod chance;
mod check;
mod client;
mod disk;
mod effects;
mod faults;
mod gpu;
mod host;
pub mod mutants;
mod net;
mod plan;
mod store;
mod worker;
mod world;

pub use plan::Plan;
pub use world::{Ran, run};
