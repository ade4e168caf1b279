//! The payload's code: 32 bits of mark id and a CRC-7 in an extended BCH (64,39) code of minimum distance 10.
//!
//! Bit `i` of a codeword is bit `i` of the `u64`. Decoding is soft, by ordered statistics: of all codewords that
//! differ from the most reliable bits in at most two places, the one that the soft values like best.

/// Bits of a codeword.
pub const CODE_BITS: usize = 64;
/// Bits of id and check.
const INFO_BITS: usize = 39;
/// The BCH (63,39) code that corrects 4 errors: octal 166623567, degree 24.
const GENERATOR: u64 = 0o166_623_567;
/// x^7 + x^3 + 1, without its leading term.
const CRC_POLYNOMIAL: u8 = 0x09;

fn crc7(id: u32) -> u8 {
    let mut crc = 0u8;
    for bit in (0..32).rev() {
        let carry = (crc >> 6) ^ ((id >> bit) as u8) & 1;
        crc = (crc << 1) & 0x7f;
        if carry & 1 == 1 {
            crc ^= CRC_POLYNOMIAL;
        }
    }
    crc
}

fn codeword(info: u64) -> u64 {
    let mut rest = info << 24;
    for bit in (24..63).rev() {
        if rest >> bit & 1 == 1 {
            rest ^= GENERATOR << (bit - 24);
        }
    }
    let word = info << 24 | rest;
    // The last bit makes the weight even.
    word | (u64::from(word.count_ones()) & 1) << 63
}

/// The codeword of a mark id.
pub fn encode(id: u32) -> u64 {
    codeword(u64::from(id) << 7 | u64::from(crc7(id)))
}

/// The mark id that these soft bits carry: positive for 1, negative for 0, the larger the surer. `None` if the
/// most likely codeword fails its check, as 127 of 128 do that were never written.
pub fn decode(soft: &[f32; CODE_BITS]) -> Option<u32> {
    let word = most_likely(soft);
    let info = word >> 24 & ((1 << INFO_BITS) - 1);
    let id = (info >> 7) as u32;
    (crc7(id) == (info & 0x7f) as u8).then_some(id)
}

/// Of these codewords the one that the soft bits like best. Eight looked-up sums for each: a million take some ms.
pub fn likeliest(soft: &[f32; CODE_BITS], words: &[u64]) -> Option<u64> {
    let mut sums = [[0.0f32; 256]; 8];
    for (sums, soft) in sums.iter_mut().zip(soft.chunks_exact(8)) {
        for (byte, sum) in sums.iter_mut().enumerate() {
            *sum = (0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| soft[bit]).sum();
        }
    }
    let liked = |word: u64| -> f32 {
        sums.iter().zip(word.to_le_bytes()).map(|(sums, byte)| sums[usize::from(byte)]).sum()
    };
    let mut best = None;
    for word in words {
        let liked = liked(*word);
        if best.is_none_or(|(most, _)| liked > most) {
            best = Some((liked, *word));
        }
    }
    best.map(|(_, word)| word)
}

/// The mark id of a codeword.
pub fn id_of(word: u64) -> u32 {
    let info = word >> 24 & ((1 << INFO_BITS) - 1);
    (info >> 7) as u32
}

fn most_likely(soft: &[f32; CODE_BITS]) -> u64 {
    let mut order: Vec<usize> = (0..CODE_BITS).collect();
    order.sort_by(|a, b| soft[*b].abs().total_cmp(&soft[*a].abs()).then(a.cmp(b)));
    let (rows, pivots) = reliable_basis(&order);
    let hard = (0..CODE_BITS).fold(0u64, |word, bit| word | u64::from(soft[bit] > 0.0) << bit);
    let base = rows
        .iter()
        .zip(&pivots)
        .filter(|(_, pivot)| hard >> **pivot & 1 == 1)
        .fold(0, |word, (row, _)| word ^ row);
    let cost = |word: u64| {
        let (mut wrong, mut sum) = (word ^ hard, 0.0);
        while wrong != 0 {
            sum += soft[wrong.trailing_zeros() as usize].abs();
            wrong &= wrong - 1;
        }
        sum
    };
    let mut best = (cost(base), base);
    let mut consider = |word: u64| {
        let cost = cost(word);
        if cost < best.0 {
            best = (cost, word);
        }
    };
    for (first, row) in rows.iter().enumerate() {
        consider(base ^ row);
        for other in &rows[first + 1..] {
            consider(base ^ row ^ other);
        }
    }
    best.1
}

/// A basis of the code in which each row has a 1 in one of the most reliable independent places, alone.
fn reliable_basis(order: &[usize]) -> (Vec<u64>, Vec<usize>) {
    let mut rows: Vec<u64> = (0..INFO_BITS).map(|bit| codeword(1 << bit)).collect();
    let mut pivots = Vec::with_capacity(INFO_BITS);
    for place in order {
        let done = pivots.len();
        if done == INFO_BITS {
            break;
        }
        let Some(found) = (done..INFO_BITS).find(|row| rows[*row] >> place & 1 == 1) else {
            continue;
        };
        rows.swap(done, found);
        let pivot = rows[done];
        for (index, row) in rows.iter_mut().enumerate() {
            if index != done && *row >> place & 1 == 1 {
                *row ^= pivot;
            }
        }
        pivots.push(*place);
    }
    (rows, pivots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    fn soft(word: u64) -> [f32; CODE_BITS] {
        std::array::from_fn(|bit| if word >> bit & 1 == 1 { 1.0 } else { -1.0 })
    }

    /// Promise: two codewords differ in at least 10 bits.
    #[test]
    fn no_codeword_is_light() {
        let rows: Vec<u64> = (0..INFO_BITS).map(|bit| codeword(1 << bit)).collect();
        for a in 0..INFO_BITS {
            for b in 0..INFO_BITS {
                for c in 0..INFO_BITS {
                    let word = codeword(1 << a | 1 << b | 1 << c);
                    assert!(word.count_ones() >= 10);
                    if a != b && b != c && a != c {
                        assert_eq!(word, rows[a] ^ rows[b] ^ rows[c], "the code is linear");
                    }
                }
            }
        }
    }

    #[test]
    fn four_wrong_bits_and_any_noise_below_half_the_distance_are_mended() {
        let mut random = ChaCha20Rng::seed_from_u64(4);
        for _ in 0..200 {
            let id = random.next_u32();
            let mut bits = soft(encode(id));
            for _ in 0..4 {
                bits[random.next_u32() as usize % CODE_BITS] *= -0.9;
            }
            assert_eq!(decode(&bits), Some(id));
        }
    }

    /// Promise: noise is taken for a mark in about one of 128 cases before any other check.
    #[test]
    fn noise_fails_the_check() {
        let mut random = ChaCha20Rng::seed_from_u64(5);
        let mut noise = || {
            std::array::from_fn(|_| (0..6).map(|_| random.next_u32() as f32).sum::<f32>() - 1.29e10)
        };
        let passed = (0..3_000).filter(|_| decode(&noise()).is_some()).count();
        assert!((5..50).contains(&passed), "{passed} of 3000");
    }
}
