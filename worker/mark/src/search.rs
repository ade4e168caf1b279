//! Finds a mark in a picture of which nothing is known: scaled, cut, mirrored, turned by quarters.
//!
//! Three steps, each wider than the one before: the size at which clips are marked, upright; the same in all eight
//! symmetries; every scale. A place counts as found where the code's check is right and the sync signs agree, or all chips
//! together with the id that was read. The fold is made once for a scale, whatever the number of keys.

use crate::fft::Complex;
use crate::key::{Bounds, Listed, MarkId, MarkKey, TILE_SIDE};
use crate::reading::{Place, Stills, center};
use crate::spectrum::{CELLS, SIDE, Square};

/// Least agreement of the sync signs upright, at the sizes at which clips are marked. README.md has the calculation.
pub const AGREEMENT_MARKED: f32 = 6.8;
/// The same, where any place is tried.
pub const AGREEMENT_SEARCHED: f32 = 7.7;
/// And of all chips together with the id that was read: what is too weak for the sync signs alone, of which there are a
/// fourth as many. Any of 2^32 ids may be read, so it must be more.
pub const AGREEMENT_WHOLE: f32 = 10.7;
/// Agreement of the sync signs below which all chips together would not do: the best shift of a fold of noise reaches 4.
const WORTH: f32 = 4.4;
/// Places that are tried upright at the sizes at which clips are marked, with four keys, over a chance of 1e-7.
const LISTED_MARKED: Listed = Listed { worth: 3.2, places: 3.0 * 16_384.0 * 4.0 / 1e-7 };
/// And anywhere: 3,656 folds and symmetries.
const LISTED_SEARCHED: Listed =
    Listed { worth: PROMISING, places: 3_656.0 * 16_384.0 * 4.0 / 1e-7 };
/// Shifts whose sync signs agree best at which a mark is looked for among those that were issued: the right one of a weak mark
/// is hardly better than the best of noise, which reaches 4.
const SHIFTS: usize = 8;
/// Chips on the short side at which clips are marked.
const MARKED: [f32; 3] = [80.0, 120.0, 240.0];
/// Fewest chips on the short side that are looked for: 45 % of the fewest.
const CHIPS_MIN: f32 = 36.0;
/// Most: 115 % of the most.
const CHIPS_MAX: f32 = 276.0;
/// A step of scale moves the far end of the picture by so many chips.
const STEP_CHIPS: f32 = 1.2;
/// A place that agrees so well is looked at more closely, and so many of them.
const PROMISING: f32 = 4.8;
const PROMISING_MAX: usize = 12;
/// Steps to each side that are then looked at, each a sixth of that between two scales.
const CLOSER: i32 = 4;

/// One of the steps in which places are tried.
struct Step {
    bounds: Bounds,
    /// Not mirrored, either.
    upright: bool,
    /// Shifts of each fold that are read.
    shifts: usize,
}

const UPRIGHT: Step = Step {
    bounds: Bounds {
        worth: WORTH,
        sync: AGREEMENT_MARKED,
        whole: AGREEMENT_WHOLE,
        listed: LISTED_MARKED,
    },
    upright: true,
    shifts: SHIFTS,
};
const ANYWHERE: Step = Step {
    bounds: Bounds {
        worth: WORTH,
        sync: AGREEMENT_SEARCHED,
        whole: AGREEMENT_WHOLE,
        listed: LISTED_SEARCHED,
    },
    upright: false,
    shifts: 1,
};

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The id.
    pub mark: MarkId,
    /// The key's epoch.
    pub epoch: u32,
    /// Agreement of the sync signs.
    pub agreement: f32,
    /// Chips on the short side.
    pub chips: f32,
    /// Which of the eight symmetries: 1 mirrors left and right, 2 top and bottom, 4 exchanges rows and columns.
    pub symmetry: u8,
}

/// What was found, and how good the best place was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The mark, if there is one.
    pub found: Option<Found>,
    /// The best agreement of any place.
    pub best: f32,
    /// Folds that were looked at.
    pub folds: u32,
}

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// At the sizes at which clips are marked, upright.
    Marked,
    /// Anywhere.
    Anywhere,
}

/// Looks for the mark of any of the keys.
pub fn search(stills: &Stills, keys: &[MarkKey], depth: Depth) -> Search {
    let mut searcher = Searcher::new(stills, keys);
    let found = searcher.run(depth);
    Search { found, best: searcher.best, folds: searcher.folds }
}

/// Agreement of a key at every shift of one scale, upright. For measuring what chance gives.
pub fn agreements(stills: &Stills, key: &MarkKey, chips: f32) -> Vec<f32> {
    let mut searcher = Searcher::new(stills, std::slice::from_ref(key));
    let (width, height) = stills.size();
    let place = Place { chip: width.min(height) as f32 / chips, left: 0.0, top: 0.0 };
    let matched = searcher.square.matched(&stills.fold(place));
    let mut cells: Vec<Complex> = matched.iter().map(|value| Complex::new(*value, 0.0)).collect();
    searcher.square.forward(&mut cells);
    cells.iter_mut().zip(&searcher.sync[0]).for_each(|(cell, sync)| *cell *= *sync);
    searcher.square.inverse(&mut cells);
    // The transforms multiply by the number of cells; the matched fold has variance 1.
    let scale = 1.0 / (CELLS as f32 * (key.pixels.sync.len() as f32).sqrt());
    cells.iter().map(|cell| cell.re * scale).collect()
}

struct Searcher<'a> {
    stills: &'a Stills,
    keys: &'a [MarkKey],
    square: Square,
    /// Transforms of the keys' sync chips, conjugated.
    sync: Vec<Vec<Complex>>,
    best: f32,
    folds: u32,
}

/// The best shift of one key in one symmetry.
struct Peak {
    key: usize,
    symmetry: u8,
    shift: usize,
    agreement: f32,
}

impl<'a> Searcher<'a> {
    fn new(stills: &'a Stills, keys: &'a [MarkKey]) -> Self {
        let mut square = Square::new();
        let mut sync_of = |key: &MarkKey| {
            let mut cells = vec![Complex::default(); CELLS];
            for (place, sign) in &key.pixels.sync {
                cells[cell_of(*place as usize)].re = f32::from(*sign);
            }
            square.forward(&mut cells);
            cells.iter().map(Complex::conj).collect::<Vec<_>>()
        };
        let sync = keys.iter().map(&mut sync_of).collect();
        Searcher { stills, keys, square, sync, best: 0.0, folds: 0 }
    }

    fn run(&mut self, depth: Depth) -> Option<Found> {
        for chips in MARKED {
            if let Some(found) = self.look(chips, &[0], &UPRIGHT).1 {
                return Some(found);
            }
        }
        if depth < Depth::Anywhere {
            return None;
        }
        for chips in MARKED {
            if let Some(found) = self.look(chips, &ALL, &ANYWHERE).1 {
                return Some(found);
            }
        }
        self.every_scale()
    }

    fn every_scale(&mut self) -> Option<Found> {
        let (width, height) = self.stills.size();
        let (short, long) = (width.min(height) as f32, width.max(height) as f32);
        let mut promising: Vec<(f32, f32, u8)> = Vec::new();
        let mut chips = CHIPS_MIN;
        // A chip below a pixel and a half cannot be seen any more.
        while chips <= CHIPS_MAX.min(short / 1.2) {
            let (peak, found) = self.look(chips, &ALL, &ANYWHERE);
            if let Some(found) = found {
                // Beside the right scale it is there too, and what it is compared with then lies askew.
                return self.closer(found.chips, found.symmetry).or(Some(found));
            }
            if peak.agreement >= PROMISING {
                promising.push((peak.agreement, chips, peak.symmetry));
            }
            chips += STEP_CHIPS * short / long;
        }
        promising.sort_by(|a, b| b.0.total_cmp(&a.0));
        let promising = promising.into_iter().take(PROMISING_MAX);
        promising.into_iter().find_map(|(_, chips, symmetry)| self.closer(chips, symmetry))
    }

    /// The best of the scales near one, in one symmetry and its mirror image.
    fn closer(&mut self, chips: f32, symmetry: u8) -> Option<Found> {
        let (width, height) = self.stills.size();
        let (short, long) = (width.min(height) as f32, width.max(height) as f32);
        let near = (-CLOSER..=CLOSER).filter_map(|step| {
            let near = chips + step as f32 * STEP_CHIPS * short / long / 6.0;
            self.look(near, &[symmetry & !1], &ANYWHERE).1
        });
        near.max_by(|a, b| a.agreement.total_cmp(&b.agreement))
    }

    /// One scale. Symmetries go in pairs: each even one with the odd one behind it.
    fn look(&mut self, chips: f32, symmetries: &[u8], step: &Step) -> (Peak, Option<Found>) {
        self.folds += 1;
        let (width, height) = self.stills.size();
        let place = Place { chip: width.min(height) as f32 / chips, left: 0.0, top: 0.0 };
        let matched = self.square.matched(&self.stills.fold(place));
        let mut best = Peak { key: 0, symmetry: 0, shift: 0, agreement: 0.0 };
        let mut found: Option<Found> = None;
        for symmetry in symmetries {
            let (one, two) = (*symmetry, *symmetry | 1);
            let mut cells: Vec<Complex> = (0..CELLS)
                .map(|cell| Complex::new(matched[turned(cell, one)], matched[turned(cell, two)]))
                .collect();
            self.square.forward(&mut cells);
            for key in 0..self.keys.len() {
                let pairs = cells.iter().zip(&self.sync[key]);
                let mut map: Vec<Complex> = pairs.map(|(cell, sync)| *cell * *sync).collect();
                self.square.inverse(&mut map);
                for (symmetry, part) in [(one, false), (two, true)] {
                    if part && step.upright {
                        continue;
                    }
                    let value = |cell: &Complex| if part { cell.im } else { cell.re };
                    for shift in highest(map.iter().map(value), step.shifts) {
                        let peak = self.peak(&matched, key, symmetry, shift);
                        if found.is_none_or(|found| found.agreement < peak.agreement) {
                            found = self.read(&matched, &peak, chips, step).or(found);
                        }
                        if peak.agreement > best.agreement {
                            best = peak;
                        }
                    }
                }
            }
        }
        self.best = self.best.max(best.agreement);
        (best, found)
    }

    fn peak(&self, matched: &[f32], key: usize, symmetry: u8, shift: usize) -> Peak {
        let chip = |place: usize| matched[turned(shifted(cell_of(place), shift), symmetry)];
        let agreement = self.keys[key].pixels.agreement(chip);
        Peak { key, symmetry, shift, agreement }
    }

    fn read(&self, matched: &[f32], peak: &Peak, chips: f32, step: &Step) -> Option<Found> {
        let chip =
            |place: usize| matched[turned(shifted(cell_of(place), peak.shift), peak.symmetry)];
        let key = &self.keys[peak.key];
        let (agreement, mark) = key.pixels.found(chip, step.bounds, &key.issued);
        Some(Found { mark: mark?, epoch: key.epoch, agreement, chips, symmetry: peak.symmetry })
    }
}

/// Where so many of the values are highest, the highest first.
fn highest(values: impl Iterator<Item = f32>, many: usize) -> Vec<usize> {
    let mut top: Vec<(usize, f32)> = Vec::with_capacity(many + 1);
    for (at, value) in values.enumerate() {
        if top.len() < many || top.last().is_some_and(|(_, least)| value > *least) {
            let before = top.partition_point(|(_, other)| *other >= value);
            top.insert(before, (at, value));
            top.truncate(many);
        }
    }
    top.into_iter().map(|(at, _)| at).collect()
}

/// The even symmetries; each stands for itself and its mirror image.
const ALL: [u8; 4] = [0, 2, 4, 6];

/// The cell at the middle of a chip.
fn cell_of(chip: usize) -> usize {
    center(chip / TILE_SIDE) * SIDE + center(chip % TILE_SIDE)
}

fn shifted(cell: usize, shift: usize) -> usize {
    let row = (cell / SIDE + shift / SIDE) % SIDE;
    row * SIDE + (cell % SIDE + shift % SIDE) % SIDE
}

/// Where a cell of the upright tile lies in one that was mirrored or turned.
fn turned(cell: usize, symmetry: u8) -> usize {
    let (mut row, mut column) = (cell / SIDE, cell % SIDE);
    if symmetry & 4 != 0 {
        (row, column) = (column, row);
    }
    if symmetry & 1 != 0 {
        column = SIDE - 1 - column;
    }
    if symmetry & 2 != 0 {
        row = SIDE - 1 - row;
    }
    row * SIDE + column
}
