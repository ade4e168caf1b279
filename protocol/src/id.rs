//! Names of things: jobs, shards, attempts, artifacts, workers, tenants, epochs, and points in time.

use crate::job::Stage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// A point in time, in milliseconds since the Unix epoch; or a length of time in milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// Whole seconds, rounded down: what the HTTP API shows.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// `self + other`, capped instead of wrapped.
    pub fn plus(self, other: Millis) -> Millis {
        Millis(self.0.saturating_add(other.0))
    }

    /// `self - other`, or zero where that would be negative.
    pub fn minus(self, other: Millis) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }
}

/// Who leads. Grows with every change of leadership and with every restart; never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// The number of a try of one shard. Starts at 1 and never repeats for that shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct AttemptNumber(pub u32);

/// What makes a report current: it must carry the epoch and attempt of the order that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// The leader that gave the order.
    pub epoch: Epoch,
    /// The try that it ordered.
    pub attempt: AttemptNumber,
}

/// A job: what a caller asked for. Written `video_` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(pub u128);

/// A text that is no id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct IdError;

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "video_{:032x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix("video_").ok_or(IdError)?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 32 || !digits.bytes().all(lower) {
            return Err(IdError);
        }
        u128::from_str_radix(digits, 16).map(JobId).map_err(|_| IdError)
    }
}

/// A tenant: the project that an API key belongs to. Written `proj_` and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TenantId(pub u32);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proj_{}", self.0)
    }
}

/// One connection of one boot of one worker process. Numbered by the leader; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker_{}", self.0)
    }
}

/// A model of the farm, by its place in the coordinator's model table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u16);

/// One unit of GPU work of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardId {
    /// The job that it is part of.
    pub job: JobId,
    /// What is to be done.
    pub stage: Stage,
    /// Which of the job's shards of this stage; 0 where there is one.
    pub index: u16,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.job, self.stage, self.index)
    }
}

/// The content address of an artifact: SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ArtifactId(pub [u8; 32]);

impl ArtifactId {
    /// The address of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        ArtifactId(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArtifactId({})", &hex::encode(self.0)[..12])
    }
}

impl FromStr for ArtifactId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError)?;
        Ok(ArtifactId(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let job = JobId(0xfeed);
        assert_eq!(job.to_string().parse(), Ok(job));
        let artifact = ArtifactId::of(b"clip");
        assert_eq!(artifact.to_string().parse(), Ok(artifact));
        for bad in ["video_", "video_FEED", "char_00", "video_zz", ""] {
            assert_eq!(bad.parse::<JobId>(), Err(IdError), "{bad}");
        }
        assert_eq!(format!("video_+{:031x}", 1).parse::<JobId>(), Err(IdError));
    }
}
