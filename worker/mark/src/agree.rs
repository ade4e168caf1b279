//! Whether a film shows the same as one that it claims to be: a mark can be copied, so a mark that was found is a
//! pointer and no proof.
//!
//! Both films are looked at as small pictures, two a second: their light, and where that is the same their colours. The search for the mark says how the one was scaled,
//! mirrored and turned; where it was cut out of the other is tried. Pure; `film.rs` reads the pictures.

use crate::colour::{self, Tints};
use crate::search::Found;

/// Short side of the picture that is compared, in pixels: enough for what is where, too little for texture.
pub const SIDE: usize = 48;
/// Pictures a second of the film in question, and of the clip, all that it has: what moves fast is elsewhere a frame later.
pub const SEEN_A_SECOND: usize = 2;
/// See [`SEEN_A_SECOND`].
pub const OWN_A_SECOND: usize = 24;
/// Pictures of the film in question that are looked for.
const LOOKED_FOR: usize = 8;
/// Pictures of the clip in which their place is looked for.
const PLACED_IN: usize = 30;
/// Correlation below which a place is none.
const PLACED: f32 = 0.6;
/// Correlation from which two pictures count as the same: those of films that were cut, compressed, scaled or coloured reach
/// 0.93, those of other films 0.4.
const SAME: f32 = 0.9;
/// If they also differ nowhere: side of the part of a picture that is looked at, and by how much such parts may be apart on
/// average, in standard deviations of the picture. Scenes that are alike but for a thing in them are 0.9 and more apart.
pub(crate) const PART: usize = 6;
const APART_MAX: f32 = 0.9;
/// The film may be so much larger than the one it was made of: rounding, and a step of the search.
const LARGER: f32 = 1.04;
/// A cut smaller than this, in compared pixels a side, says nothing.
const CUT_MIN: usize = 12;
/// Places of the clip in a film that is larger: upright in the middle of a wide one it has 210. Each costs a comparison of all
/// pixels, as much as a place of a cut in the clip does.
const BORDER_PLACES_MAX: usize = 400;

/// A grey picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Grey {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row.
    pub luma: Vec<u8>,
}

impl Grey {
    /// A picture (luma, a byte a pixel, row by row), made so small that its short side has `short` pixels: each is the mean of
    /// its part. None if the picture has no pixel, or another number of them.
    pub fn shrunk(luma: &[u8], (width, height): (usize, usize), short: usize) -> Option<Grey> {
        let least = width.min(height);
        if least == 0 || short == 0 || luma.len() != width * height {
            return None;
        }
        let side = |pixels: usize| ((2 * pixels * short + least) / (2 * least)).clamp(1, pixels);
        let (columns, rows) = (side(width), side(height));
        let part = |n: usize, of: usize, pixels: usize| n * pixels / of..(n + 1) * pixels / of;
        let mut small = Vec::with_capacity(columns * rows);
        for row in 0..rows {
            for column in 0..columns {
                let (down, across) = (part(row, rows, height), part(column, columns, width));
                let count = (down.len() * across.len()).max(1) as u32;
                let sum = |line: usize| -> u32 {
                    luma[line * width..][across.clone()].iter().map(|v| u32::from(*v)).sum()
                };
                small.push((down.map(sum).sum::<u32>() / count) as u8);
            }
        }
        Some(Grey { width: columns, height: rows, luma: small })
    }

    /// How far two pictures of one size are apart, in steps of 255: on average, and where they are most. None if their
    /// sizes differ.
    pub fn apart(&self, other: &Grey) -> Option<(f32, u8)> {
        if (self.width, self.height) != (other.width, other.height) {
            return None;
        }
        let apart = || self.luma.iter().zip(&other.luma).map(|(a, b)| a.abs_diff(*b));
        let sum: u32 = apart().map(u32::from).sum();
        Some((sum as f32 / self.luma.len().max(1) as f32, apart().max().unwrap_or(0)))
    }
}

/// Small pictures of a film, and how large the film is.
#[derive(Clone, Debug)]
pub struct Glimpses {
    /// Width and height of the film in pixels.
    pub size: (usize, usize),
    /// In order: [`SEEN_A_SECOND`] or [`OWN_A_SECOND`].
    pub pictures: Vec<Grey>,
    /// The colours of each, of the same size.
    pub tints: Vec<Tints>,
}

/// A picture and its colours.
#[derive(Clone, Copy)]
struct Shown<'a> {
    grey: &'a Grey,
    tints: &'a Tints,
}

impl Glimpses {
    fn shown(&self) -> Vec<Shown<'_>> {
        let pairs = self.pictures.iter().zip(&self.tints);
        pairs.map(|(grey, tints)| Shown { grey, tints }).collect()
    }
}

/// The share of the pictures of `seen` that are somewhere in `own`, 0 to 1; none if either has no picture. `found` is the
/// mark in `seen`, and a chip of `own` has `chip` pixels. Around the clip there may be a border on two sides; what is larger
/// still, and what is too small a cut, agrees with nothing.
pub fn agreement(own: &Glimpses, chip: f32, seen: &Glimpses, found: &Found) -> Option<f32> {
    let (width, height) = seen.size;
    let seen_chip = width.min(height) as f32 / found.chips;
    shared(own, seen, found.symmetry, chip / seen_chip)
}

/// The same of a film of which nothing says how it was scaled: it is laid on the clip as large as it fits, in each of the eight
/// symmetries, and the best of them counts. So a cut of two opposite sides is found, and none of all four.
pub fn agreement_unplaced(own: &Glimpses, seen: &Glimpses) -> Option<f32> {
    let best = |best: Option<f32>, symmetry: u8| {
        let (width, height) = turned(seen.size, symmetry);
        let fits = |own: usize, pixels: usize| own as f32 / pixels.max(1) as f32;
        let pixels = fits(own.size.0, width).min(fits(own.size.1, height));
        let share = shared(own, seen, symmetry, pixels)?;
        Some(best.map_or(share, |best| best.max(share)))
    };
    (0..8).fold(None, best)
}

/// Width and height as they were before the picture was turned.
fn turned((width, height): (usize, usize), symmetry: u8) -> (usize, usize) {
    if symmetry & 4 == 0 { (width, height) } else { (height, width) }
}

/// The share of the pictures of `seen` that are in `own`, where a pixel of the one has so many `pixels` of the other.
fn shared(own: &Glimpses, seen: &Glimpses, symmetry: u8, pixels: f32) -> Option<f32> {
    if seen.pictures.is_empty() || own.pictures.is_empty() {
        return None;
    }
    let (across, down) = (own.pictures[0].width, own.pictures[0].height);
    // How large the film in question is in the pictures of the other.
    let length = |of: usize, own: usize, picture: usize| {
        let of = of as f32 * pixels * picture as f32 / own as f32;
        // Rounding, and a step of the search, must not make a whole picture a little too large.
        let fits = of <= picture as f32 * LARGER + 1.0;
        (if fits { of.min(picture as f32) } else { of }).round() as usize
    };
    let (width, height) = turned(seen.size, symmetry);
    let (wide, high) = (length(width, own.size.0, across), length(height, own.size.1, down));
    let places = (wide.saturating_sub(across) + 1).saturating_mul(high.saturating_sub(down) + 1);
    if wide.min(high) < CUT_MIN || places > BORDER_PLACES_MAX {
        return Some(0.0);
    }
    let step = seen.pictures.len().div_ceil(LOOKED_FOR).max(1);
    let own = own.shown();
    let straight = |picture: &Grey| resized(&upright(picture, symmetry), wide, high);
    let looked_for = seen.shown().into_iter().step_by(step);
    let (mut there, mut all) = (0u32, 0u32);
    for Shown { grey, tints } in looked_for {
        let (blue, red) = (straight(&tints.blue), straight(&tints.red));
        let (grey, tints) = (&straight(grey), &Tints { blue, red });
        there += u32::from(is_there(&own, Shown { grey, tints }));
        all += 1;
    }
    Some(there as f32 / all.max(1) as f32)
}

/// The picture as it was before it was mirrored and turned.
fn upright(picture: &Grey, symmetry: u8) -> Grey {
    let Grey { width, height, luma } = picture;
    let turned = symmetry & 4 != 0;
    let (wide, high) = if turned { (*height, *width) } else { (*width, *height) };
    let pixel = |row: usize, column: usize| {
        let (mut row, mut column) = if turned { (column, row) } else { (row, column) };
        if symmetry & 1 != 0 {
            column = width - 1 - column;
        }
        if symmetry & 2 != 0 {
            row = height - 1 - row;
        }
        luma[row * width + column]
    };
    let rows = (0..high).flat_map(|row| (0..wide).map(move |column| (row, column)));
    Grey { width: wide, height: high, luma: rows.map(|(row, column)| pixel(row, column)).collect() }
}

/// The picture at another size, between pixels by straight lines.
fn resized(picture: &Grey, width: usize, height: usize) -> Grey {
    let taps = |length: usize, from: usize| -> Vec<(usize, usize, f32)> {
        let tap = |at: usize| {
            let place = ((at as f32 + 0.5) * from as f32 / length as f32 - 0.5).max(0.0);
            let first = (place as usize).min(from - 1);
            (first, (first + 1).min(from - 1), place - first as f32)
        };
        (0..length).map(tap).collect()
    };
    let (across, down) = (taps(width, picture.width), taps(height, picture.height));
    let mut luma = Vec::with_capacity(width * height);
    for (upper, lower, below) in &down {
        for (left, right, beside) in &across {
            let at =
                |row: usize, column: usize| f32::from(picture.luma[row * picture.width + column]);
            let line = |row: usize| at(row, *left) * (1.0 - beside) + at(row, *right) * beside;
            luma.push((line(*upper) * (1.0 - below) + line(*lower) * below + 0.5) as u8);
        }
    }
    Grey { width, height, luma }
}

/// Whether a picture shows what one of the clip's shows: its place is looked for in some of them, and all are held against it
/// there.
fn is_there(own: &[Shown<'_>], picture: Shown<'_>) -> bool {
    let some = own.iter().step_by(own.len().div_ceil(PLACED_IN).max(1));
    let places = some.filter_map(|own| {
        // The smaller one lies in the larger one.
        place(own.grey, picture.grey).or_else(|| place(picture.grey, own.grey))
    });
    let best = places.max_by(|a, b| a.correlation.total_cmp(&b.correlation));
    let Some(best) = best.filter(|best| best.correlation >= PLACED) else { return false };
    let shows = |whole: Shown<'_>, part: Shown<'_>| {
        let near = |at: usize, most: usize| at.saturating_sub(1)..=(at + 1).min(most);
        let rows = whole.grey.height - part.grey.height;
        let columns = whole.grey.width - part.grey.width;
        let mut places = near(best.row, rows)
            .flat_map(|row| near(best.column, columns).map(move |column| (row, column)));
        places.any(|(row, column)| {
            let line = line(whole.grey, part.grey, row, column);
            line.filter(|line| line.correlation >= SAME).is_some_and(|line| {
                line.apart(whole.grey, part.grey) <= APART_MAX
                    && colour::agrees(whole.tints, part.tints, row, column)
            })
        })
    };
    own.iter().any(|own| match fits(own.grey, picture.grey) {
        true => shows(*own, picture),
        false => shows(picture, *own),
    })
}

/// Whether a picture is no larger than another one.
fn fits(whole: &Grey, part: &Grey) -> bool {
    part.height <= whole.height && part.width <= whole.width
}

/// Where `part` lies best in `whole`, if it is no larger and neither is flat everywhere.
fn place(whole: &Grey, part: &Grey) -> Option<Line> {
    if !fits(whole, part) {
        return None;
    }
    let (rows, columns) = (whole.height - part.height, whole.width - part.width);
    let places = (0..=rows).flat_map(|row| (0..=columns).map(move |column| (row, column)));
    let lines = places.filter_map(|(row, column)| line(whole, part, row, column));
    lines.max_by(|a, b| a.correlation.total_cmp(&b.correlation))
}

/// How the light of a picture follows that of a cut of another one: the straight line that fits best.
struct Line {
    row: usize,
    column: usize,
    slope: f32,
    offset: f32,
    /// Standard deviation of the picture, in levels.
    deviation: f32,
    /// Correlation, -1 to 1.
    correlation: f32,
}

impl Line {
    /// How far `part` is off the line where it is most, in standard deviations: parts of `PART` pixels a side.
    fn apart(&self, whole: &Grey, part: &Grey) -> f32 {
        let off = |y: usize, x: usize| {
            let own = whole.luma[(self.row + y) * whole.width + self.column + x];
            let line = self.slope * f32::from(own) + self.offset;
            (f32::from(part.luma[y * part.width + x]) - line).abs()
        };
        let mut most = 0.0f32;
        // What is left at two edges, less than a part, is not looked at.
        for top in (0..part.height).step_by(PART).filter(|top| top + PART <= part.height) {
            for left in (0..part.width).step_by(PART).filter(|left| left + PART <= part.width) {
                let rows = (top..top + PART).flat_map(|y| (left..left + PART).map(move |x| (y, x)));
                let sum: f32 = rows.map(|(y, x)| off(y, x)).sum();
                most = most.max(sum / (PART * PART) as f32);
            }
        }
        most / self.deviation
    }
}

/// How `part` follows the cut of `whole` at this place; none where either is flat.
fn line(whole: &Grey, part: &Grey, row: usize, column: usize) -> Option<Line> {
    let (mut own, mut seen, mut products) = ([0i64; 2], [0i64; 2], 0i64);
    for (y, line) in part.luma.chunks_exact(part.width).enumerate() {
        let cut = &whole.luma[(row + y) * whole.width + column..][..part.width];
        for (a, b) in cut.iter().zip(line) {
            let (a, b) = (i64::from(*a), i64::from(*b));
            own = [own[0] + a, own[1] + a * a];
            seen = [seen[0] + b, seen[1] + b * b];
            products += a * b;
        }
    }
    let count = part.luma.len() as i64;
    let spread = |[sum, squares]: [i64; 2]| (count * squares - sum * sum) as f32;
    let (own_spread, seen_spread) = (spread(own), spread(seen));
    // A deviation below 2 levels is no picture.
    let flat = 4.0 * (count * count) as f32;
    if own_spread < flat || seen_spread < flat {
        return None;
    }
    let both = (count * products - own[0] * seen[0]) as f32;
    let slope = both / own_spread;
    Some(Line {
        row,
        column,
        slope,
        offset: (seen[0] as f32 - slope * own[0] as f32) / count as f32,
        deviation: seen_spread.sqrt() / count as f32,
        correlation: both / (own_spread * seen_spread).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::MarkId;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    /// A picture of soft blots.
    fn picture(seed: u64, width: usize, height: usize) -> Grey {
        let mut random = ChaCha20Rng::seed_from_u64(seed);
        let coarse: Vec<u8> = (0..8 * 12).map(|_| random.next_u32() as u8).collect();
        resized(&Grey { width: 8, height: 12, luma: coarse }, width, height)
    }

    fn cut(from: &Grey, left: usize, top: usize, width: usize, height: usize) -> Grey {
        let rows = (top..top + height)
            .flat_map(|row| from.luma[row * from.width + left..][..width].to_vec());
        Grey { width, height, luma: rows.collect() }
    }

    /// A film of these pictures, of the same colour everywhere.
    fn film(size: (usize, usize), pictures: Vec<Grey>) -> Glimpses {
        let plain = |picture: &Grey, value| Grey {
            luma: vec![value; picture.luma.len()],
            ..picture.clone()
        };
        let tints =
            pictures.iter().map(|grey| Tints { blue: plain(grey, 90), red: plain(grey, 150) });
        Glimpses { size, tints: tints.collect(), pictures }
    }

    fn found(chips: f32, symmetry: u8) -> Found {
        Found { mark: MarkId(1), epoch: 0, agreement: 9.0, chips, symmetry }
    }

    /// Promise: the same film agrees when it is cut, mirrored or turned; another one does not.
    #[test]
    fn a_film_agrees_with_what_it_was_cut_from_and_with_nothing_else() {
        let own = film((288, 512), (0..8).map(|seed| picture(seed, 48, 85)).collect());
        let chip = 288.0 / 120.0;
        let same = film(own.size, own.pictures[2..5].to_vec());
        assert_eq!(agreement(&own, chip, &same, &found(120.0, 0)), Some(1.0));
        // Cut to 80 % of each side: fewer chips on the short side.
        let part = |picture: &Grey| cut(picture, 5, 9, 38, 68);
        let cropped = film((230, 410), own.pictures.iter().map(part).collect());
        assert_eq!(agreement(&own, chip, &cropped, &found(96.0, 0)), Some(1.0));
        let mirrored = |picture: &Grey| upright(picture, 1);
        let flipped = film(own.size, own.pictures.iter().map(mirrored).collect());
        assert_eq!(agreement(&own, chip, &flipped, &found(120.0, 1)), Some(1.0));
        assert!(agreement(&own, chip, &flipped, &found(120.0, 0)).is_some_and(|share| share < 0.5));
        let foreign = film(own.size, (50..58).map(|seed| picture(seed, 48, 85)).collect());
        assert!(agreement(&own, chip, &foreign, &found(120.0, 0)).is_some_and(|share| share < 0.5));
        // In another light it is the same; with another thing in it it is not.
        let changed = |change: &dyn Fn(usize, u8) -> u8| {
            let picture = |picture: &Grey| {
                let luma = picture.luma.iter().enumerate();
                let luma = luma.map(|(at, value)| change(at, *value)).collect();
                Grey { luma, ..picture.clone() }
            };
            film(own.size, own.pictures.iter().map(picture).collect())
        };
        let lit = changed(&|_, value| value / 2 + 60);
        assert_eq!(agreement(&own, chip, &lit, &found(120.0, 0)), Some(1.0));
        let thing = |at: usize| (18..30).contains(&(at % 48)) && (36..48).contains(&(at / 48));
        let beside = changed(&|at, value| if thing(at) { 255 - value / 4 } else { value });
        let share = agreement(&own, chip, &beside, &found(120.0, 0));
        assert!(share.is_some_and(|share| share < 0.5), "{share:?}");
        // Larger than what it claims to be a part of, and smaller than what can be told from anything.
        assert_eq!(agreement(&own, chip, &same, &found(200.0, 0)), Some(0.0));
        assert_eq!(agreement(&own, chip, &same, &found(20.0, 0)), Some(0.0));
        let flat = Grey { width: 48, height: 85, luma: vec![90; 48 * 85] };
        let blank = film(own.size, vec![flat]);
        assert_eq!(agreement(&own, chip, &blank, &found(120.0, 0)), Some(0.0));
        assert_eq!(agreement_unplaced(&own, &blank), Some(0.0));
        let nothing = film(own.size, Vec::new());
        assert_eq!(agreement(&own, chip, &nothing, &found(120.0, 0)), None);
        assert_eq!(agreement_unplaced(&own, &nothing), None);
        // In the middle of a wide picture: it shows the clip whole.
        let bordered = |picture: &Grey| {
            let row = |row: &[u8]| [&[16; 52][..], row, &[16; 52]].concat();
            let luma = picture.luma.chunks_exact(48).flat_map(row).collect();
            Grey { width: 152, height: 85, luma }
        };
        let wide = film((910, 512), own.pictures.iter().map(bordered).collect());
        let chips = 120.0 / 288.0 * 512.0;
        assert_eq!(agreement(&own, chip, &wide, &found(chips, 0)), Some(1.0));
        let strange = film((910, 512), foreign.pictures.iter().map(bordered).collect());
        assert!(agreement(&own, chip, &strange, &found(chips, 0)).is_some_and(|share| share < 0.5));
        // Where nothing says how it lies: scaled, mirrored, turned or cut on two sides, and still nothing else.
        let scaled = film((144, 256), own.pictures.clone());
        assert_eq!(agreement_unplaced(&own, &scaled), Some(1.0));
        assert_eq!(agreement_unplaced(&own, &flipped), Some(1.0));
        let on_its_side = |picture: &Grey| upright(picture, 5);
        let lying = film((512, 288), own.pictures.iter().map(on_its_side).collect());
        assert_eq!(agreement_unplaced(&own, &lying), Some(1.0));
        let short = |picture: &Grey| cut(picture, 0, 20, 48, 48);
        let square = film((288, 288), own.pictures.iter().map(short).collect());
        assert_eq!(agreement_unplaced(&own, &square), Some(1.0));
        assert!(agreement_unplaced(&own, &foreign).is_some_and(|share| share < 0.5));
    }

    /// Promise: a thing in another colour is another film, though it is the same in grey; a filter over all colours, or none left,
    /// is the same film.
    #[test]
    fn the_same_in_another_colour_is_another_film() {
        let pictures: Vec<Grey> = (0..8).map(|seed| picture(seed, 48, 85)).collect();
        // A ground with a thing on it: blue and red differences of both.
        let coloured = |ground: (u8, u8), thing: (u8, u8)| {
            let inside = |at: usize| (18..30).contains(&(at % 48)) && (36..48).contains(&(at / 48));
            let plane = |ground: u8, thing: u8| Grey {
                width: 48,
                height: 85,
                luma: (0..48 * 85).map(|at| if inside(at) { thing } else { ground }).collect(),
            };
            let tints = Tints { blue: plane(ground.0, thing.0), red: plane(ground.1, thing.1) };
            Glimpses {
                size: (288, 512),
                tints: vec![tints; pictures.len()],
                pictures: pictures.clone(),
            }
        };
        let (grass, red) = ((90, 80), (100, 200));
        let own = coloured(grass, red);
        let chip = 288.0 / 120.0;
        let share = |seen: &Glimpses| agreement(&own, chip, seen, &found(120.0, 0));
        assert_eq!(share(&own), Some(1.0));
        for (thing, name) in [((200, 110), "blue"), ((60, 175), "orange"), ((180, 160), "purple")] {
            assert_eq!(share(&coloured(grass, thing)), Some(0.0), "{name}");
            assert_eq!(agreement_unplaced(&own, &coloured(grass, thing)), Some(0.0), "{name}");
        }
        // Turned by 25 degrees and stronger by 1.4, weaker by half, and grey.
        let filtered = |strength: f32, degrees: f32| {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            let turn = |(blue, red): (u8, u8)| {
                let (b, r) = (f32::from(blue) - 128.0, f32::from(red) - 128.0);
                let level = |value: f32| (value * strength + 128.0).round().clamp(0.0, 255.0) as u8;
                (level(b * cosine - r * sine), level(b * sine + r * cosine))
            };
            coloured(turn(grass), turn(red))
        };
        for (strength, degrees) in [(1.4, 25.0), (1.4, -25.0), (0.5, 0.0), (0.0, 0.0)] {
            assert_eq!(share(&filtered(strength, degrees)), Some(1.0), "{strength} {degrees}");
        }
        assert_eq!(share(&filtered(1.0, 120.0)), Some(0.0), "all colours are others");
    }
}
