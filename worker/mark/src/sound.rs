//! The mark in sound: each chip makes a band of 93.75 Hz for 64 ms a little louder or softer, on both channels.
//!
//! A tile is 40 bands by 24 columns, 1.536 s, and repeats from the clip's first sample. Multiplicative, so silence
//! carries nothing and stays silence. Pure: samples in, samples out.

use crate::fft::{Complex, Fft};
use crate::key::{Bounds, Listed, MarkId, MarkKey, SOUND_BANDS, SOUND_CHIPS, SOUND_COLUMNS};
use crate::reading::SoundReading;

/// Rate at which sound is read, in samples a second: the bands end at 4,031 Hz.
pub const READ_RATE: u32 = 16_000;
/// The first bin of the lowest band; a bin is 31.25 Hz at every rate.
const FIRST_BIN: usize = 9;
/// Bins of a band.
const BAND_BINS: usize = 3;
/// Windows of a column, 8 ms each.
const COLUMN_WINDOWS: usize = 8;
/// Windows of a tile.
const TILE_WINDOWS: usize = SOUND_COLUMNS * COLUMN_WINDOWS;
/// How much louder or softer, in decibels. Speech keeps a PESQ of 4.5 by it, and is read from 3 s.
const STEP_DB: f32 = 2.0;
/// Neighbours on each side of a bin, and of a window, with which a value is compared: five bands and a quarter of a second, more
/// than a syllable's own shape and less than what follows it. Fitted, as the next, on speech and film.
const AROUND_BINS: usize = 8;
const AROUND_WINDOWS: usize = 16;
/// One value counts no more than so much, in nepers.
const CLIP: f32 = 0.8;
/// Sound above -50 dBFS is loud enough to carry the mark.
const LOUD: f32 = 0.003_162;
/// Seconds of it without which a clip's sound is not marked.
pub const LOUD_SECONDS_MIN: f32 = 3.0;
/// Least agreement of the sync signs where every shift and tempo is tried. README.md has the calculation.
pub const AGREEMENT_SEARCHED: f32 = 6.8;
/// And of all chips together with the id that was read: see [`crate::search::AGREEMENT_WHOLE`].
pub const AGREEMENT_WHOLE: f32 = 10.0;
/// Shifts and tempi that are tried with four keys, over a chance of 5e-8.
const LISTED: Listed = Listed { worth: 3.6, places: 2.3e4 * 4.0 / 5e-8 };
const BOUNDS: Bounds =
    Bounds { worth: 3.6, sync: AGREEMENT_SEARCHED, whole: AGREEMENT_WHOLE, listed: LISTED };

/// Samples from the start of one window to the next, and in a window, which must be a power of two: 31.25 Hz · 2^n.
fn window_of(rate: u32) -> (usize, usize) {
    let hop = rate as usize / 125;
    (hop, 4 * hop)
}

fn hann(length: usize) -> Vec<f32> {
    let turn = std::f32::consts::TAU / length as f32;
    (0..length).map(|at| 0.5 - 0.5 * (at as f32 * turn).cos()).collect()
}

/// Seconds of the sound that are loud enough, in pieces of 64 ms.
pub fn loud_seconds(samples: &[f32], channels: usize, rate: u32) -> f32 {
    let piece = (rate as usize * 64 / 1_000) * channels.max(1);
    let loud = |piece: &&[f32]| {
        let squares: f32 = piece.iter().map(|sample| sample * sample).sum();
        (squares / piece.len() as f32).sqrt() >= LOUD
    };
    samples.chunks(piece.max(1)).filter(loud).count() as f32 * 0.064
}

/// Marks stereo samples in place: interleaved, -1 to 1, `rate` 16,000 or 32,000. `tile`: chip `band + 40 * column`.
/// Samples that the mark would drive over full scale are cut there.
pub fn mark(tile: &[i8], samples: &mut [f32], rate: u32) {
    let (hop, length) = window_of(rate);
    if tile.len() != SOUND_CHIPS || !length.is_power_of_two() || samples.len() < 2 {
        return;
    }
    let frames = samples.len() / 2;
    let window = hann(length);
    let fft = Fft::new(length);
    let mut buffer = vec![Complex::default(); length];
    // Only what changes is added, so that what the windows do not touch keeps its bits.
    let mut change = vec![Complex::default(); frames];
    let step = 10f32.powf(STEP_DB / 20.0);
    // The squares of four overlapping Hann windows add up to 1.5; the transforms multiply by their length.
    let scale = 1.0 / (1.5 * length as f32);
    for index in 0..frames.div_ceil(hop) + 2 {
        let start = (index * hop) as i64 - length as i64 / 2;
        for (at, (value, weight)) in buffer.iter_mut().zip(&window).enumerate() {
            let sample = usize::try_from(start + at as i64).ok().filter(|sample| *sample < frames);
            // Left and right as real and imaginary part: one transform for both.
            *value = sample.map_or(Complex::default(), |sample| {
                Complex::new(samples[2 * sample], samples[2 * sample + 1]) * *weight
            });
        }
        fft.forward(&mut buffer);
        let column = index / COLUMN_WINDOWS % SOUND_COLUMNS;
        let chips = &tile[column * SOUND_BANDS..][..SOUND_BANDS];
        for (bin, value) in buffer.iter_mut().enumerate() {
            let bin = bin.min(length - bin);
            let band = bin.wrapping_sub(FIRST_BIN) / BAND_BINS;
            *value *= match chips.get(band) {
                Some(chip) if *chip > 0 => step - 1.0,
                Some(_) => 1.0 / step - 1.0,
                None => 0.0,
            };
        }
        fft.inverse(&mut buffer);
        for (at, (value, weight)) in buffer.iter().zip(&window).enumerate() {
            let place = usize::try_from(start + at as i64).ok();
            if let Some(change) = place.and_then(|place| change.get_mut(place)) {
                *change += *value * (weight * scale);
            }
        }
    }
    for (pair, change) in samples.chunks_exact_mut(2).zip(&change) {
        pair[0] = (pair[0] + change.re).clamp(-1.0, 1.0);
        pair[1] = (pair[1] + change.im).clamp(-1.0, 1.0);
    }
}

/// How loud each band is against its surroundings, window by window.
pub struct Bands {
    /// By window, then band: the value, and whether it is loud enough to count.
    values: Vec<[f32; SOUND_BANDS]>,
    counts: Vec<[f32; SOUND_BANDS]>,
}

/// Bins whose loudness is taken: the bands, and what they are compared with.
const BINS: usize = FIRST_BIN + SOUND_BANDS * BAND_BINS + AROUND_BINS;

impl Bands {
    /// Of one channel at [`READ_RATE`]. `stretch` over 1 reads a clip that was slowed down by it as it was; with
    /// `pitched` its frequencies were lowered by as much.
    pub fn of(loudness: &Loudness, stretch: f32, pitched: bool) -> Bands {
        let windows = (loudness.windows.len() as f32 / stretch) as usize;
        let pitch = if pitched { 1.0 / stretch } else { 1.0 };
        let plain = (stretch - 1.0).abs() < 1e-6;
        let mut logs: Vec<[f32; BINS]> = (0..windows)
            .map(|window| match plain {
                true => std::array::from_fn(|bin| loudness.windows[window][bin]),
                false => std::array::from_fn(|bin| {
                    loudness.at(window as f32 * stretch, bin as f32 * pitch)
                }),
            })
            .collect();
        // Against its neighbours in frequency, then against itself a moment before and after. What is judged quiet
        // is judged by those surroundings: a threshold on the values themselves would favour the louder chips.
        let mut around = vec![[0.0; BINS]; windows];
        for (bins, around) in logs.iter_mut().zip(&mut around) {
            let flat = *bins;
            for (bin, value) in bins.iter_mut().enumerate() {
                let near =
                    &flat[bin.saturating_sub(AROUND_BINS)..(bin + AROUND_BINS + 1).min(BINS)];
                around[bin] = near.iter().sum::<f32>() / near.len() as f32;
                *value -= around[bin];
            }
        }
        let level = level_in_time(&logs);
        let around = level_in_time(&around);
        let mut sorted: Vec<f32> =
            around.iter().flat_map(|bins| bins[FIRST_BIN..].iter().copied()).collect();
        // The quietest quarter says nothing.
        let quarter = sorted.len() / 4;
        let quiet = match sorted.len() {
            0 => 0.0,
            _ => *sorted.select_nth_unstable_by(quarter, f32::total_cmp).1,
        };
        let quiet = quiet.max(LOG_FLOOR + 0.5);
        let mut bands = Bands {
            values: vec![[0.0; SOUND_BANDS]; windows],
            counts: vec![[0.0; SOUND_BANDS]; windows],
        };
        for window in 0..windows {
            for band in 0..SOUND_BANDS {
                for bin in FIRST_BIN + band * BAND_BINS..FIRST_BIN + (band + 1) * BAND_BINS {
                    if around[window][bin] > quiet {
                        let value = logs[window][bin] - level[window][bin];
                        bands.values[window][band] += value.clamp(-CLIP, CLIP);
                        bands.counts[window][band] += 1.0;
                    }
                }
            }
        }
        bands
    }

    /// Sums for each window of a tile.
    fn folded(&self) -> (Vec<[f32; SOUND_BANDS]>, Vec<[f32; SOUND_BANDS]>) {
        let mut values = vec![[0.0; SOUND_BANDS]; TILE_WINDOWS];
        let mut counts = vec![[0.0; SOUND_BANDS]; TILE_WINDOWS];
        for (window, (value, count)) in self.values.iter().zip(&self.counts).enumerate() {
            let place = window % TILE_WINDOWS;
            for band in 0..SOUND_BANDS {
                values[place][band] += value[band];
                counts[place][band] += count[band];
            }
        }
        (values, counts)
    }

    /// The tile whose first column begins `shift` windows into the sound.
    fn tile(
        folded: &(Vec<[f32; SOUND_BANDS]>, Vec<[f32; SOUND_BANDS]>),
        shift: usize,
    ) -> SoundReading {
        let mut tile = vec![0.0; SOUND_CHIPS];
        for band in 0..SOUND_BANDS {
            // The loud values that are left have a mean of their own, which is no chip's.
            let sum = |of: &[[f32; SOUND_BANDS]]| of.iter().map(|bands| bands[band]).sum::<f32>();
            let mean = sum(&folded.0) / sum(&folded.1).max(1.0);
            for column in 0..SOUND_COLUMNS {
                let windows = (0..COLUMN_WINDOWS)
                    .map(|window| (column * COLUMN_WINDOWS + window + shift) % TILE_WINDOWS);
                let (mut value, mut count) = (0.0f32, 0.0f32);
                for window in windows {
                    value += folded.0[window][band];
                    count += folded.1[window][band];
                }
                // A mean whose weight grows with what it is made of.
                tile[column * SOUND_BANDS + band] = (value - mean * count) / (count + 1.0).sqrt();
            }
        }
        SoundReading::of(&tile)
    }

    /// The tile of a clip that was not cut.
    pub fn reading(&self) -> SoundReading {
        Bands::tile(&self.folded(), 0)
    }
}

fn level_in_time(logs: &[[f32; BINS]]) -> Vec<[f32; BINS]> {
    let mut running = vec![[0.0f64; BINS]; logs.len() + 1];
    for (at, bins) in logs.iter().enumerate() {
        running[at + 1] = std::array::from_fn(|bin| running[at][bin] + f64::from(bins[bin]));
    }
    (0..logs.len())
        .map(|at| {
            let from = at.saturating_sub(AROUND_WINDOWS);
            let to = (at + AROUND_WINDOWS + 1).min(logs.len());
            let count = (to - from) as f64;
            std::array::from_fn(|bin| ((running[to][bin] - running[from][bin]) / count) as f32)
        })
        .collect()
}

/// What silence counts as.
const LOG_FLOOR: f32 = -14.0;

/// Logarithms of the spectrum of one channel, window by window, in nepers.
pub struct Loudness {
    windows: Vec<Vec<f32>>,
}

impl Loudness {
    /// Of samples at [`READ_RATE`].
    pub fn of(samples: &[f32]) -> Loudness {
        let (hop, length) = window_of(READ_RATE);
        let weights = hann(length);
        let fft = Fft::new(length);
        let mut buffer = vec![Complex::default(); length];
        let windows = (0..samples.len().div_ceil(hop)).map(|index| {
            let start = (index * hop) as i64 - length as i64 / 2;
            for (at, (value, weight)) in buffer.iter_mut().zip(&weights).enumerate() {
                let sample = usize::try_from(start + at as i64).ok();
                let sample = sample.and_then(|place| samples.get(place)).copied().unwrap_or(0.0);
                *value = Complex::new(sample * weight, 0.0);
            }
            fft.forward(&mut buffer);
            let half = &buffer[..length / 2];
            half.iter().map(|value| (value.norm() + 1e-9).ln().max(LOG_FLOOR)).collect()
        });
        Loudness { windows: windows.collect() }
    }

    fn at(&self, window: f32, bin: f32) -> f32 {
        let (window, bin) = (window.max(0.0), bin.max(0.0));
        let (row, column) = (window as usize, bin as usize);
        let (down, across) = (window - row as f32, bin - column as f32);
        let value = |row: usize, column: usize| {
            let row = self.windows.get(row.min(self.windows.len().saturating_sub(1)));
            row.and_then(|row| row.get(column)).copied().unwrap_or(LOG_FLOOR)
        };
        let line =
            |row: usize| value(row, column) * (1.0 - across) + value(row, column + 1) * across;
        line(row) * (1.0 - down) + line(row + 1) * down
    }
}

/// A mark that was found in sound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The id.
    pub mark: MarkId,
    /// The key's epoch.
    pub epoch: u32,
    /// Agreement of the sync signs.
    pub agreement: f32,
    /// How much slower the clip plays than it was made.
    pub stretch: f32,
}

/// What was found, and how good the best place was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The mark, if there is one.
    pub found: Option<Found>,
    /// The best agreement of any place.
    pub best: f32,
}

/// Looks for the mark of any of the keys in one channel at [`READ_RATE`]: at every shift, and with `tempi` at
/// tempi from 0.85 to 1.15, with and without a change of pitch.
pub fn search(samples: &[f32], keys: &[MarkKey], tempi: bool) -> Search {
    let loudness = Loudness::of(samples);
    let mut search = Search { found: None, best: 0.0 };
    let steps = if tempi { 30 } else { 0i32 };
    let mut stretches: Vec<i32> = (-steps..=steps).collect();
    stretches.sort_by_key(|step| step.abs());
    for step in stretches {
        let stretch = 1.0 + step as f32 * 0.005;
        for pitched in [false, true] {
            if step == 0 && pitched {
                continue;
            }
            let folded = Bands::of(&loudness, stretch, pitched).folded();
            for shift in 0..TILE_WINDOWS {
                let reading = Bands::tile(&folded, shift);
                for key in keys {
                    let chip = |place: usize| f32::from(reading.0[place]);
                    let (agreement, mark) = key.sound.found(chip, BOUNDS, &key.issued);
                    search.best = search.best.max(agreement);
                    let better = search.found.is_none_or(|found| found.agreement < agreement);
                    if let Some(mark) = mark.filter(|_| better) {
                        search.found = Some(Found { mark, epoch: key.epoch, agreement, stretch });
                    }
                }
            }
            if search.found.is_some() {
                return search;
            }
        }
    }
    search
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::MasterKey;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// Noise, the same on both channels.
    fn noise(seconds: usize, rate: usize) -> Vec<f32> {
        let mut random = ChaCha20Rng::seed_from_u64(9);
        let mut sample = || random.next_u32() as f32 / u32::MAX as f32 * 0.4 - 0.2;
        (0..seconds * rate).flat_map(|_| [sample(); 2]).collect()
    }

    fn left(samples: &[f32]) -> Vec<f32> {
        samples.chunks_exact(2).map(|pair| pair[0]).collect()
    }

    #[test]
    fn what_was_marked_is_read_after_a_cut() {
        let key = MasterKey([3; 32]).epoch(0);
        let mark = key.mark_of(11);
        let mut samples = noise(8, READ_RATE as usize);
        super::mark(&key.tiles(mark).sound, &mut samples, READ_RATE);
        let heard = left(&samples);
        let reading = Bands::of(&Loudness::of(&heard), 1.0, false).reading();
        let read = reading.read(&key);
        assert_eq!(read.mark, Some(mark), "agreement {}", read.agreement);
        let found = search(&heard[9_000..], &[key], false).found.expect("found");
        assert_eq!(found.mark, mark);
    }
}
