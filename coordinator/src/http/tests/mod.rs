//! The door before a fake farm, over a real socket: one module per group of rules.

mod admission;
mod bodies;
mod connections;
mod contents;
mod document;
mod errors;
mod faults;
mod idempotency;
mod operators;
mod slow;
mod videos;
