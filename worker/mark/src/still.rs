//! A film of one picture that stands still, made without an encoder: for load tests and for the tests of what reads
//! marks, where every clip needs a mark of its own and no processor has time to encode hundreds.
//!
//! An H.264 stream whose first frame holds its pixels as they are (`I_PCM`), and whose others say that nothing changed.
//! Pictures of one size take the same bytes, so that one can stand for another in a finished file.

use crate::film::{self, FilmError};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Putting streams into a file copies a few MB.
const MUX_LIMIT: Duration = Duration::from_secs(60);
/// Pixels on a side of a macroblock.
const BLOCK: usize = 16;
/// Luma and both chromas.
const BLOCK_BYTES: usize = BLOCK * BLOCK * 3 / 2;
/// Frame numbers are counted in four bits.
const FRAME_NUMBERS: u32 = 16;

/// Writes bits, the highest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) -> &mut Self {
        for bit in (0..bits).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
        self
    }

    /// An unsigned Exp-Golomb code.
    fn golomb(&mut self, value: u32) -> &mut Self {
        let length = (value + 1).ilog2();
        self.put(0, length).put(value + 1, length + 1)
    }

    fn align(&mut self) -> &mut Self {
        self.used = 0;
        self
    }

    /// A unit of the stream, with a start code in front of it.
    fn unit(&mut self, head: u8) -> Vec<u8> {
        self.put(1, 1).align();
        let mut unit = vec![0, 0, 0, 1, head];
        let mut zeros = 0;
        for byte in &self.bytes {
            // Two zeros and a small byte would be read as a start code.
            if zeros >= 2 && *byte <= 3 {
                unit.push(3);
                zeros = 0;
            }
            zeros = if *byte == 0 { zeros + 1 } else { 0 };
            unit.push(*byte);
        }
        unit
    }
}

/// A film in which any picture of its size can be put.
pub struct StillFilm {
    film: Vec<u8>,
    at: usize,
    size: (usize, usize),
}

impl StillFilm {
    /// A grey one: so many frames, `rate` a second, with the sound of a file that ffmpeg reads, if there is one. Its
    /// temporary files go into `folder`, which is the caller's.
    ///
    /// # Errors
    /// `Program` if ffmpeg or the folder cannot be used, `Unreadable` if the sound cannot be, `Late`.
    pub fn make(
        ffmpeg: &Path,
        (size, frames, rate): ((usize, usize), u32, u32),
        sound: Option<&Path>,
        folder: &Path,
    ) -> Result<StillFilm, FilmError> {
        let (bare, film) = (folder.join("still.h264"), folder.join("still.mp4"));
        let disk = |source| FilmError::Program { program: folder.display().to_string(), source };
        let grey = vec![128; size.0 * size.1 * 3];
        std::fs::write(&bare, stream(&grey, size, frames)).map_err(disk)?;
        let mut command = Command::new(ffmpeg);
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
        command.args(["-f", "h264", "-framerate", &rate.to_string(), "-i"]).arg(&bare);
        match sound {
            Some(sound) => {
                command.arg("-i").arg(sound);
                command.args(["-map", "0:v:0", "-map", "1:a:0?", "-c", "copy"]);
            }
            None => {
                command.args(["-map", "0:v:0", "-c", "copy"]);
            }
        }
        // A bare stream has no times; these are exact.
        command
            .arg("-bsf:v")
            .arg(format!("setts=ts=N*512:duration=512:time_base=1/{}", rate * 512));
        command.args(["-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart"]);
        film::run(command.arg(&film).stderr(Stdio::null()), MUX_LIMIT)?;
        let film = std::fs::read(&film).map_err(disk)?;
        // In the file a length stands in place of the start code.
        let picture = &picture(&grey, size)[4..];
        let at = film.windows(picture.len()).position(|window| window == picture);
        let missing = || FilmError::Unreadable("a still film does not hold its picture".into());
        Ok(StillFilm { at: at.ok_or_else(missing)?, film, size })
    }

    /// The film with this picture (RGB, row by row).
    pub fn showing(&self, rgb: &[u8]) -> Vec<u8> {
        let picture = picture(rgb, self.size);
        let mut film = self.film.clone();
        film[self.at..][..picture.len() - 4].copy_from_slice(&picture[4..]);
        film
    }
}

/// The stream of a picture (RGB) for so many frames.
pub fn stream(rgb: &[u8], size: (usize, usize), frames: u32) -> Vec<u8> {
    let mut stream = head(size);
    stream.extend(picture(rgb, size));
    let (columns, rows) = blocks(size);
    for frame in 1..frames {
        let mut slice = Bits::default();
        // First block, P slice, parameters, frame number; no lists, no marking; quantiser as it was, no filter.
        slice.golomb(0).golomb(5).golomb(0).put(frame % FRAME_NUMBERS, 4);
        slice.put(0, 3).golomb(0).golomb(1);
        slice.golomb((columns * rows) as u32);
        stream.extend(slice.unit(0x41));
    }
    stream
}

fn blocks((width, height): (usize, usize)) -> (usize, usize) {
    (width.div_ceil(BLOCK), height.div_ceil(BLOCK))
}

/// Sequence and picture parameters: baseline profile, level 5.1.
fn head(size: (usize, usize)) -> Vec<u8> {
    let (columns, rows) = blocks(size);
    let mut sequence = Bits::default();
    sequence.put(66, 8).put(0xc0, 8).put(51, 8);
    // Frame numbers of 4 bits, frames in the order of the stream, one reference, no gaps.
    sequence.golomb(0).golomb(0).golomb(2).golomb(1).put(0, 1);
    sequence.golomb(columns as u32 - 1).golomb(rows as u32 - 1).put(0b11, 2);
    // What the last blocks have over the picture is cut off, in steps of two pixels.
    let over = |blocks: usize, side: usize| ((blocks * BLOCK - side) / 2) as u32;
    sequence.put(1, 1).golomb(0).golomb(over(columns, size.0));
    sequence.golomb(0).golomb(over(rows, size.1)).put(0, 1);
    let mut parameters = Bits::default();
    parameters.golomb(0).golomb(0).put(0, 2).golomb(0).golomb(0).golomb(0).put(0, 3);
    parameters.golomb(0).golomb(0).golomb(0).put(0b100, 3);
    let mut head = sequence.unit(0x67);
    head.extend(parameters.unit(0x68));
    head
}

/// The unit of the first frame; equally long for all pictures of a size.
fn picture(rgb: &[u8], size: (usize, usize)) -> Vec<u8> {
    let (columns, rows) = blocks(size);
    let planes = Planes::of(rgb, size);
    let mut slice = Bits::default();
    // First block, I slice, parameters, frame number 0, picture 0; no marking, quantiser as it was, no filter.
    slice.golomb(0).golomb(7).golomb(0).put(0, 4).golomb(0).put(0, 2).golomb(0).golomb(1);
    slice.bytes.reserve(columns * rows * (BLOCK_BYTES + 2));
    for row in 0..rows {
        for column in 0..columns {
            slice.golomb(25).align();
            planes.block(column, row, &mut slice.bytes);
        }
    }
    slice.unit(0x65)
}

/// The luma of a picture as the stream holds it, a byte a pixel.
pub fn luma(rgb: &[u8], size: (usize, usize)) -> Vec<u8> {
    Planes::of(rgb, size).luma
}

/// A picture in BT.709, limited range. No sample is 0, so none needs an escape in the stream.
struct Planes {
    size: (usize, usize),
    luma: Vec<u8>,
    /// Blue and red difference, a quarter of the pixels each.
    chroma: [Vec<u8>; 2],
}

impl Planes {
    fn of(rgb: &[u8], size: (usize, usize)) -> Planes {
        let (width, height) = size;
        let weigh = |pixel: &[u8], weights: [i32; 3], zero: i32| {
            let sum: i32 = pixel.iter().zip(weights).map(|(v, w)| i32::from(*v) * w).sum();
            ((sum + 128) / 256 + zero).clamp(16, 240) as u8
        };
        let luma = rgb.chunks_exact(3).map(|pixel| weigh(pixel, [47, 157, 16], 16)).collect();
        let half = |weights: [i32; 3]| {
            let of = move |x: usize, y: usize| {
                let at = (2 * y * width + 2 * x) * 3;
                weigh(&rgb[at..at + 3], weights, 128)
            };
            (0..height / 2)
                .flat_map(|y| (0..width / 2).map(move |x| (x, y)))
                .map(|(x, y)| of(x, y))
                .collect()
        };
        Planes { size, luma, chroma: [half([-26, -87, 112]), half([112, -102, -10])] }
    }

    /// The samples of a block; beyond the picture those at its edge.
    fn block(&self, column: usize, row: usize, into: &mut Vec<u8>) {
        let (width, height) = self.size;
        let mut copy = |plane: &[u8], width: usize, height: usize, side: usize| {
            for y in row * side..(row + 1) * side {
                let line = &plane[y.min(height - 1) * width..][..width];
                into.extend((column * side..(column + 1) * side).map(|x| line[x.min(width - 1)]));
            }
        };
        copy(&self.luma, width, height, BLOCK);
        for plane in &self.chroma {
            copy(plane, width / 2, height / 2, BLOCK / 2);
        }
    }
}
