//! One record's bytes, the same in every place that keeps a journal: CRC-32C, version, body.

/// Version of the record's body, the first byte behind the checksum.
const VERSION: u8 = 1;
/// Checksum and version in front of each body.
pub(super) const HEAD_BYTES: usize = 5;

/// The bytes of record `seq`.
pub fn seal(seq: u64, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + body.len());
    value.extend_from_slice(&checksum(seq, VERSION, body).to_le_bytes());
    value.push(VERSION);
    value.extend_from_slice(body);
    value
}

/// The body of record `seq`; none if these are not its bytes.
pub fn unseal(seq: u64, value: &[u8]) -> Option<&[u8]> {
    let (head, body) = value.split_at_checked(HEAD_BYTES)?;
    let (crc, version) = head.split_first_chunk::<4>()?;
    let whole = version == [VERSION] && u32::from_le_bytes(*crc) == checksum(seq, VERSION, body);
    whole.then_some(body)
}

/// The number is part of the sum, so that a record in the wrong place is found out.
fn checksum(seq: u64, version: u8, body: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&seq.to_le_bytes()), &[version]);
    crc32c::crc32c_append(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_and_a_wrong_place_are_found_out() {
        let mut sealed = seal(7, b"clip");
        assert_eq!(unseal(7, &sealed), Some(&b"clip"[..]));
        assert_eq!(unseal(8, &sealed), None);
        sealed[6] ^= 1;
        assert_eq!(unseal(7, &sealed), None);
        assert_eq!(unseal(7, b"abc"), None);
    }
}
