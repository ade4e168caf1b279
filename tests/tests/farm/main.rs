//! Runs the real programs as users do: `zoetrope up`, its worker processes, the HTTP API, the official SDKs.
//!
//! Each module guards one promise. A farm has a folder and ports of its own, so tests run side by side. The
//! programs must be built before (`cargo build --bins`); `scripts/test` does.

mod bad_input;
mod cli;
mod cluster;
mod decode;
mod etcd_trouble;
mod failover;
mod harness;
mod journey;
mod kills;
mod metrics;
mod moving;
mod overload;
mod provenance;
mod restart;
mod sdk;
mod upgrade;
mod worker_loss;
