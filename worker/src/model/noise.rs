//! The start of every render: normal noise as a pure function of (seed, stream, element index).
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and Box-Muller in f64,
//! always on the CPU, so a seed means the same noise on every device, and any part of it can be made alone.
//! Keeps no state. Called by the denoise stage.

/// Which of the independent sequences of a seed is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// The packed video rows.
    Video = 0,
    /// The packed sound rows.
    Audio = 1,
    /// The noise on keyframe rows. Not drawn yet.
    Keyframe = 2,
}

/// One block of Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// Elements `first .. first + count` of a stream of a seed: normal, mean 0, deviation 1.
///
/// Four elements share a block: two pairs of Box-Muller.
pub fn normal(seed: u64, stream: Stream, first: u64, count: usize) -> Vec<f32> {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut values = Vec::with_capacity(count + 8);
    let skip = (first % 4) as usize;
    let mut block = first / 4;
    while values.len() < skip + count {
        let words = philox([block as u32, (block >> 32) as u32, stream as u32, 0], key);
        for pair in [[words[0], words[1]], [words[2], words[3]]] {
            // Half a step away from zero, so that the logarithm is finite.
            let radius = (-2.0 * ((f64::from(pair[0]) + 0.5) / 4_294_967_296.0).ln()).sqrt();
            let angle = std::f64::consts::TAU * (f64::from(pair[1]) / 4_294_967_296.0);
            values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
        }
        block += 1;
    }
    values.drain(..skip);
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_authors() {
        // Random123's kat_vectors, philox4x32 with 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn any_part_can_be_drawn_alone() {
        let whole = normal(7, Stream::Video, 0, 1000);
        for (first, count) in [(0, 3), (1, 8), (397, 203), (999, 1), (4, 0)] {
            let part = normal(7, Stream::Video, first, count);
            assert_eq!(part, whole[first as usize..first as usize + count]);
        }
    }

    #[test]
    fn seeds_and_streams_differ_and_are_normal() {
        let draw = normal(1, Stream::Video, 0, 200_000);
        assert_ne!(draw[..8], normal(2, Stream::Video, 0, 8)[..]);
        assert_ne!(draw[..8], normal(1 << 40, Stream::Video, 0, 8)[..]);
        assert_ne!(draw[..8], normal(1, Stream::Audio, 0, 8)[..]);
        let moment = |power: i32| {
            draw.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / draw.len() as f64
        };
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.01, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.1, "fourth moment {}", moment(4));
    }
}
