//! Whether a clip shows its mark all along, where everything is known of it but that: for whoever does not believe what
//! is said of a file.
//!
//! The clip is looked at in stretches of half a second. With the tile at hand one frame is enough to see it, so of each
//! stretch one frame is looked at, which the caller draws. Where that is in doubt, all of the stretch is. Pure.

use crate::agree::Grey;
use crate::key::{MarkId, MarkKey};
use crate::reading::{PictureReading, Place, Stills};
use std::collections::BTreeMap;

/// Frames of a stretch.
pub const STRETCH: u32 = 12;
/// A frame shows the mark if its payload chips agree so well with it. Chance gives this with a probability below 4e-6
/// (Hoeffding). README.md says what clips have.
pub const SHOWS: f32 = 5.0;
/// What the frames of a stretch in doubt must have on average, where none counts for more than [`SHOWS`]: so the mark is
/// in two thirds of them at least.
const ON_AVERAGE: f32 = SHOWS * 2.0 / 3.0;

/// Where and how a clip carries its mark.
#[derive(Clone, Copy)]
pub struct Carried<'a> {
    /// The key that it is made with.
    pub key: &'a MarkKey,
    /// Which mark.
    pub mark: MarkId,
    /// Where the tiles lie.
    pub place: Place,
    /// Width and height of the clip in pixels.
    pub size: (usize, usize),
    /// How many frames it has.
    pub frames: u32,
}

/// A look at some frames of a clip.
pub struct Look<'a> {
    carried: Carried<'a>,
    wanted: Vec<bool>,
    /// Frames of which a small picture is kept, with its short side; it, once it was seen.
    kept: BTreeMap<u32, Option<Grey>>,
    short: usize,
    /// Those of `wanted` that are looked at for the mark.
    drawn: Vec<bool>,
    seen: Stills,
    /// By stretch: how well each frame agrees.
    agreements: BTreeMap<u32, Vec<f32>>,
}

impl<'a> Look<'a> {
    /// At one frame of each stretch. `draw` gives a number below the one that it gets.
    pub fn at_one_of_each(carried: Carried<'a>, mut draw: impl FnMut(u32) -> u32) -> Look<'a> {
        let mut wanted = vec![false; carried.frames as usize];
        for stretch in wanted.chunks_mut(STRETCH as usize) {
            let drawn = draw(stretch.len() as u32) as usize % stretch.len();
            stretch[drawn] = true;
        }
        Look::at(carried, wanted)
    }

    /// At all frames of these stretches.
    pub fn at_all_of(carried: Carried<'a>, stretches: &[u32]) -> Look<'a> {
        let frames = 0..carried.frames;
        let wanted = frames.map(|frame| stretches.contains(&(frame / STRETCH))).collect();
        Look::at(carried, wanted)
    }

    fn at(carried: Carried<'a>, wanted: Vec<bool>) -> Look<'a> {
        let (width, height) = carried.size;
        let (seen, agreements) = (Stills::new(width, height), BTreeMap::new());
        let (drawn, kept) = (wanted.clone(), BTreeMap::new());
        Look { carried, wanted, kept, short: 0, drawn, seen, agreements }
    }

    /// Keeps small pictures of these frames too, whose short side has `short` pixels.
    #[must_use]
    pub fn keeping(mut self, frames: impl IntoIterator<Item = u32>, short: usize) -> Look<'a> {
        self.short = short;
        for frame in frames {
            if let Some(wanted) = self.wanted.get_mut(frame as usize) {
                *wanted = true;
                self.kept.insert(frame, None);
            }
        }
        self
    }

    /// The small pictures that were to be kept, of those frames that were seen.
    pub fn take_kept(&mut self) -> BTreeMap<u32, Grey> {
        let kept = std::mem::take(&mut self.kept).into_iter();
        kept.filter_map(|(frame, picture)| Some((frame, picture?))).collect()
    }

    /// Which frames are to be looked at.
    pub fn wanted(&self) -> &[bool] {
        &self.wanted
    }

    /// How many stretches the clip has.
    pub fn stretches(&self) -> usize {
        self.wanted.len().div_ceil(STRETCH as usize)
    }

    /// Looks at a frame: luma, a byte a pixel.
    pub fn see(&mut self, frame: u32, luma: &[u8]) {
        let Carried { key, mark, place, size: (width, height), .. } = self.carried;
        if let Some(kept) = self.kept.get_mut(&frame) {
            *kept = Grey::shrunk(luma, (width, height), self.short);
        }
        if self.drawn.get(frame as usize) != Some(&true) {
            return;
        }
        let mut still = Stills::new(width, height);
        still.add(luma);
        let agreement = PictureReading::at(&still, place).agreement_of(key, mark);
        self.agreements.entry(frame / STRETCH).or_default().push(agreement);
        self.seen.add_all(&still);
    }

    /// How well the frames that were looked at agree, stretch by stretch.
    pub fn agreements(&self) -> impl Iterator<Item = f32> + '_ {
        self.agreements.values().flatten().copied()
    }

    /// Stretches of which a frame does not show the mark.
    pub fn in_doubt(&self) -> Vec<u32> {
        let doubtful = |agreements: &Vec<f32>| agreements.iter().any(|one| *one < SHOWS);
        let stretches = self.agreements.iter().filter(|(_, agreements)| doubtful(agreements));
        stretches.map(|(stretch, _)| *stretch).collect()
    }

    /// Stretches that do not show the mark.
    pub fn without(&self) -> Vec<u32> {
        let average = |agreements: &Vec<f32>| {
            let counted = agreements.iter().map(|one| one.min(SHOWS));
            counted.sum::<f32>() / agreements.len().max(1) as f32
        };
        let stretches =
            self.agreements.iter().filter(|(_, agreements)| average(agreements) < ON_AVERAGE);
        stretches.map(|(stretch, _)| *stretch).collect()
    }

    /// All frames that were looked at, as one reading.
    pub fn reading(&self) -> PictureReading {
        PictureReading::at(&self.seen, self.carried.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MasterKey;
    use crate::picture::{PictureMarker, Strength};

    const SIZE: (usize, usize) = (288, 512);

    /// A frame in which something moves, as luma, marked with this tile if there is one.
    fn frame(number: u32, tile: Option<&[i8]>) -> Vec<u8> {
        let (width, height) = SIZE;
        let mut rgb = vec![0u8; width * height * 3];
        for (index, pixel) in rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (index % width + 3 * number as usize, index / width);
            let bright = 90 + (x / 9 * 37 + y / 13 * 61) % 80 + (x * 7 + y * 3) % 11;
            pixel.fill(bright as u8);
        }
        if let Some(tile) = tile {
            PictureMarker::new(tile, width, height, Strength::Normal).mark(&mut rgb);
        }
        rgb.chunks_exact(3).map(|pixel| pixel[1]).collect()
    }

    /// What two looks at a clip of 48 frames say, of which these are marked: stretches in doubt, then stretches without.
    fn looks(marked: impl Fn(u32) -> bool) -> (Vec<u32>, Vec<u32>) {
        let (key, mark) = (MasterKey([3; 32]).epoch(0), MarkId(7));
        let tile = &key.tiles(mark).pixels;
        let place = Place::delivered(SIZE, SIZE);
        let carried = Carried { key: &key, mark, place, size: SIZE, frames: 48 };
        let mut numbers = [5, 0, 11, 7].into_iter();
        let mut first = Look::at_one_of_each(carried, |_| numbers.next().expect("four stretches"));
        let clip = |number| frame(number, marked(number).then_some(tile));
        let watch = |look: &mut Look| {
            for number in 0..48 {
                if look.wanted()[number as usize] {
                    look.see(number, &clip(number));
                }
            }
        };
        watch(&mut first);
        let doubt = first.in_doubt();
        let mut second = Look::at_all_of(carried, &doubt);
        watch(&mut second);
        (doubt, second.without())
    }

    /// Promise: a clip that is marked all along passes at the first look; one that is not is told where.
    #[test]
    fn a_stretch_without_mark_is_seen() {
        assert_eq!(looks(|_| true), (vec![], vec![]));
        assert_eq!(looks(|_| false), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
        assert_eq!(looks(|number| number < 24), (vec![2, 3], vec![2, 3]), "half of it");
        assert_eq!(looks(|number| number % 2 == 0), (vec![0, 2, 3], vec![0, 2, 3]));
        // One frame that lacks it, and was drawn: the rest of the stretch shows it.
        assert_eq!(looks(|number| number != 5), (vec![0], vec![]));
    }

    /// Promise: a frame with another clip's mark does not show this one's.
    #[test]
    fn the_mark_of_another_clip_does_not_count() {
        let key = MasterKey([3; 32]).epoch(0);
        let (own, other) = (key.mark_of(1), key.mark_of(2));
        let tile = key.tiles(other).pixels;
        let place = Place::delivered(SIZE, SIZE);
        let carried = Carried { key: &key, mark: own, place, size: SIZE, frames: 12 };
        let mut look = Look::at_one_of_each(carried, |_| 3);
        look.see(3, &frame(3, Some(&tile)));
        assert_eq!(look.reading().read(&key).mark, Some(other));
        assert_eq!(look.in_doubt(), [0]);
    }
}
