//! Bytes of the wire and of the journal. The one file that names bincode.
//!
//! bincode is no longer developed; the golden bytes in `protocol/tests` are the specification for a
//! successor. A frame is its length (4 bytes, little-endian) and its body.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is wrong with bytes that a peer or a disk gave us.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value does not encode, or is larger than the limit.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Size of the message.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// bincode refused to encode it.
    #[error("cannot encode")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are no such message.
    #[error("cannot decode")]
    Decode(#[from] bincode::error::DecodeError),
    /// A message was read and bytes were left over.
    #[error("{0} bytes left over behind a message")]
    LeftOver(usize),
}

/// Bytes of the length in front of a frame's body.
pub const LENGTH_BYTES: usize = 4;
/// A decoder counts containers by their size in memory, which can exceed the encoded size by this factor.
const MEMORY_FACTOR: usize = 64;
/// Decoding one message may reserve so much memory at most.
const MEMORY_MAX: usize = crate::wire::FRAME_BYTES_MAX * MEMORY_FACTOR;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MEMORY_MAX>()
}

/// Encodes a value without a length in front.
///
/// # Errors
/// `Encode` if bincode refuses the type.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::serde::encode_to_vec(value, bincode::config::standard())?)
}

/// Decodes a value that must use up all bytes. For input of at most [`crate::wire::FRAME_BYTES_MAX`].
///
/// # Errors
/// `TooLarge`, `Decode` or `LeftOver`; a forged length never reserves more than a fixed amount of memory.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let limit = crate::wire::FRAME_BYTES_MAX;
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { bytes: bytes.len(), limit });
    }
    whole(bincode::serde::decode_from_slice(bytes, config())?, bytes.len())
}

/// Decodes our own bytes, proven whole by a checksum before: a snapshot, of any size.
///
/// # Errors
/// `Decode` or `LeftOver`.
pub fn decode_trusted<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    whole(bincode::serde::decode_from_slice(bytes, bincode::config::standard())?, bytes.len())
}

fn whole<T>((value, read): (T, usize), given: usize) -> Result<T, CodecError> {
    if read == given { Ok(value) } else { Err(CodecError::LeftOver(given - read)) }
}

/// Encodes a frame: length and body.
///
/// # Errors
/// `TooLarge` above [`crate::wire::FRAME_BYTES_MAX`]; `Encode`.
pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let body = encode(value)?;
    let limit = crate::wire::FRAME_BYTES_MAX;
    if body.len() > limit {
        return Err(CodecError::TooLarge { bytes: body.len(), limit });
    }
    let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length of the body behind these four bytes.
///
/// # Errors
/// `TooLarge` above [`crate::wire::FRAME_BYTES_MAX`], so that nothing is reserved for a forged length.
pub fn body_length(head: [u8; LENGTH_BYTES]) -> Result<usize, CodecError> {
    let bytes = u32::from_le_bytes(head) as usize;
    let limit = crate::wire::FRAME_BYTES_MAX;
    if bytes > limit { Err(CodecError::TooLarge { bytes, limit }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FRAME_BYTES_MAX, FromWorker};

    #[test]
    fn a_frame_is_used_up() {
        let mut bytes = encode(&FromWorker::Heartbeat).expect("encodes");
        assert_eq!(decode::<FromWorker>(&bytes).expect("decodes"), FromWorker::Heartbeat);
        bytes.push(0);
        assert!(matches!(decode::<FromWorker>(&bytes), Err(CodecError::LeftOver(1))));
    }

    #[test]
    fn a_forged_length_reserves_nothing() {
        assert!(body_length(u32::MAX.to_le_bytes()).is_err());
        assert_eq!(body_length((FRAME_BYTES_MAX as u32).to_le_bytes()).ok(), Some(FRAME_BYTES_MAX));
        // A vector that claims 2^60 elements, in a frame of a few bytes.
        let mut forged = vec![253];
        forged.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(decode::<Vec<u64>>(&forged).is_err());
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        let mut state = 7u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 56) as u8
                })
                .collect();
            let _decoded_or_refused = decode::<FromWorker>(&bytes);
        }
    }
}
