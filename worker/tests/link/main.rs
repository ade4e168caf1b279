//! One real worker against a coordinator that the test plays: joining, orders, artifacts, stops, reconnects.
//!
//! The worker is the library's own runtime with the emulated engine, over real QUIC on the loopback; the
//! coordinator is `farm.rs`. Modules are named by promise.

// Helpers of tests, too, unwrap: a failure has a line number, and that is what it should have.
#![allow(clippy::unwrap_used)]

mod farm;

mod join;
mod leaving;
mod limits;
mod orders;
mod reconnect;
