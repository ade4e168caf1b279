//! One real worker against a coordinator that the test plays: joining, orders, artifacts, stops, reconnects.
//!
//! The worker is the library's own runtime with the emulated engine, over real QUIC on the loopback; the
//! coordinator is `farm.rs`. Modules are named by promise.

mod farm;

mod join;
mod leaving;
mod limits;
mod orders;
mod reconnect;
