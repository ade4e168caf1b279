//! Numbers from a seed (SplitMix64): the same on every machine, for ever.

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both possible.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.any() % (high.max(low) - low + 1)
    }

    /// Whether it is this one of so many.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.any().is_multiple_of(many.max(1))
    }

    /// An index below `length`, which is at least 1.
    pub fn index(&mut self, length: usize) -> usize {
        (self.any() % length.max(1) as u64) as usize
    }
}
