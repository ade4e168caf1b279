//! Words that every part of the farm shares: ids, jobs, clip laws, the wire, metric names.
//!
//! This crate does no IO, reads no clock and knows no runtime. It is what the coordinator and the
//! workers must agree on; whatever only one of them needs lives there.

pub mod clip;
pub mod codec;
pub mod id;
pub mod job;
pub mod mark;
pub mod metric;
pub mod model;
pub mod moderation;
pub mod mutant;
pub mod provenance;
pub mod version;
pub mod wire;

pub use clip::{ClipShape, Size};
pub use id::{ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId, TenantId, WorkerId};
pub use job::{Class, RenderSpec, Stage};
