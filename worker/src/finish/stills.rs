//! The pictures of a clip: a thumbnail at a third of its length, and a grid of evenly spaced frames.
//!
//! Sees each frame once as it goes by, and keeps at most 25 small ones. The thumbnail is written as soon as its frame was
//! seen, by an ffmpeg child that a thread of its own waits for. Called on the encoder's thread.

use super::FinishError;
use super::encoder::cover_filter;
use super::program::{FinishSettings, Running, SHORT_LIMIT};
use crate::beside::{Beside, Nothing, Waiting};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, RgbImage, imageops};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use zoetrope_protocol::clip::{sprite_frame, sprite_grid, sprites, thumbnail_frame};
use zoetrope_protocol::{RenderSpec, Size};

/// Longest side of a picture in the grid; five of them are 1,200 pixels.
const SPRITE_SIDE_MAX: u32 = 240;
/// JPEG quality of the grid.
const SPRITE_QUALITY: u8 = 82;
/// WebP quality of the thumbnail.
const THUMBNAIL_QUALITY: &str = "82";

/// Which frames are kept, and what was kept so far.
pub struct Stills {
    canvas: Size,
    deliver: Size,
    tile: Size,
    frames: u32,
    seen: u32,
    sprites: u32,
    tiles: Vec<RgbImage>,
    /// How the thumbnail is made, until its frame comes.
    painter: Option<Painter>,
    thumbnail: Option<Beside<Result<(), FinishError>>>,
}

/// What writes a thumbnail.
struct Painter {
    settings: Arc<FinishSettings>,
    path: PathBuf,
}

impl Stills {
    /// For a clip that has not begun.
    pub fn new(spec: &RenderSpec) -> Self {
        let deliver = spec.deliver;
        let longest = deliver.width.max(deliver.height).max(1);
        let side = |pixels: u32| {
            if longest <= SPRITE_SIDE_MAX {
                pixels
            } else {
                (pixels * SPRITE_SIDE_MAX / longest).max(1)
            }
        };
        Stills {
            canvas: spec.canvas,
            deliver,
            tile: Size { width: side(deliver.width), height: side(deliver.height) },
            frames: spec.frames,
            seen: 0,
            sprites: sprites(spec.frames),
            tiles: Vec::new(),
            painter: None,
            thumbnail: None,
        }
    }

    /// The same, and its thumbnail goes to `path`.
    pub fn painting(spec: &RenderSpec, settings: Arc<FinishSettings>, path: PathBuf) -> Self {
        Stills { painter: Some(Painter { settings, path }), ..Stills::new(spec) }
    }

    /// Columns and rows of the grid.
    pub fn grid(&self) -> (u32, u32) {
        sprite_grid(self.frames)
    }

    /// Takes the next frame of the canvas, RGB.
    pub fn see(&mut self, frame: &[u8]) {
        let index = self.seen;
        self.seen += 1;
        if index == thumbnail_frame(self.frames)
            && let Some(painter) = self.painter.take()
        {
            let (canvas, deliver, frame) = (self.canvas, self.deliver, frame.to_vec());
            let paint = move || painter.paint(canvas, deliver, frame);
            // A thread that the system does not give is missed at the end.
            self.thumbnail = Beside::start("thumbnail", paint).ok();
        }
        let next = u32::try_from(self.tiles.len()).unwrap_or(u32::MAX);
        if next < self.sprites
            && index == sprite_frame(next, self.frames)
            && let Some(tile) = self.small(frame)
        {
            self.tiles.push(tile);
        }
    }

    fn small(&self, frame: &[u8]) -> Option<RgbImage> {
        let Size { width, height } = self.canvas;
        let frame = RgbImage::from_raw(width, height, frame.to_vec())?;
        // The part of the canvas that the delivered picture shows, cut as the encoder cuts it.
        let (w, h) = (u64::from(width), u64::from(height));
        let (dw, dh) = (u64::from(self.deliver.width), u64::from(self.deliver.height));
        let cut = if w * dh > h * dw {
            Size { width: u32::try_from(h * dw / dh.max(1)).ok()?.max(1), height }
        } else {
            Size { width, height: u32::try_from(w * dh / dw.max(1)).ok()?.max(1) }
        };
        let (x, y) = ((width - cut.width) / 2, (height - cut.height) / 2);
        let part = imageops::crop_imm(&frame, x, y, cut.width, cut.height).to_image();
        Some(imageops::thumbnail(&part, self.tile.width, self.tile.height))
    }

    /// Writes the grid as JPEG.
    ///
    /// # Errors
    /// `Disk`; `Check` if frames are missing.
    pub fn write_sprites(&self, path: &Path) -> Result<(), FinishError> {
        if self.tiles.len() != self.sprites as usize {
            return Err(FinishError::Check("frames of the spritesheet are missing".into()));
        }
        let disk = |source| FinishError::Disk { doing: "writing the spritesheet", source };
        std::fs::write(path, self.sheet(self.tiles.iter())?).map_err(disk)
    }

    /// The grid of these pictures as JPEG.
    fn sheet<'a>(&self, tiles: impl Iterator<Item = &'a RgbImage>) -> Result<Vec<u8>, FinishError> {
        let (columns, rows) = self.grid();
        let mut sheet = RgbImage::new(columns * self.tile.width, rows * self.tile.height);
        for (n, tile) in (0u32..).zip(tiles) {
            let (column, row) = (n % columns, n / columns);
            let (x, y) = (column * self.tile.width, row * self.tile.height);
            imageops::replace(&mut sheet, tile, i64::from(x), i64::from(y));
        }
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, SPRITE_QUALITY)
            .encode_image(&sheet)
            .map_err(|error| FinishError::Encoder(error.to_string()))?;
        Ok(bytes)
    }

    /// The thumbnail (WebP) and the grid (JPEG) of a clip of which every frame is this one, RGB in the delivered size.
    ///
    /// # Errors
    /// `Check` if it is of another size; `Encoder`.
    pub fn of_one(spec: &RenderSpec, rgb: Vec<u8>) -> Result<[Vec<u8>; 2], FinishError> {
        let Size { width, height } = spec.deliver;
        let wrong = || FinishError::Check("a frame of another size than the clip".into());
        let frame = RgbImage::from_raw(width, height, rgb).ok_or_else(wrong)?;
        let stills = Stills::new(spec);
        let tile = imageops::thumbnail(&frame, stills.tile.width, stills.tile.height);
        let sheet = stills.sheet(std::iter::repeat_n(&tile, stills.sprites as usize))?;
        let mut thumbnail = Vec::new();
        WebPEncoder::new_lossless(&mut thumbnail)
            .encode(&frame, width, height, ExtendedColorType::Rgb8)
            .map_err(|error| FinishError::Encoder(error.to_string()))?;
        Ok([thumbnail, sheet])
    }

    /// Waits for the thumbnail, WebP in the delivered size.
    ///
    /// # Errors
    /// `Encoder`, `Unwanted`; `Check` if the clip was too short to have one.
    pub fn finish_thumbnail(&mut self, waiting: Waiting<'_>) -> Result<(), FinishError> {
        let missing = || FinishError::Check("the frame of the thumbnail is missing".into());
        let failed = |why| match why {
            Nothing::Unwanted => FinishError::Unwanted,
            _ => FinishError::Encoder("the thumbnail did not come".into()),
        };
        self.thumbnail
            .take()
            .ok_or_else(missing)?
            .wait_within(2 * SHORT_LIMIT, waiting)
            .map_err(failed)?
    }
}

impl Painter {
    fn paint(&self, canvas: Size, deliver: Size, frame: Vec<u8>) -> Result<(), FinishError> {
        let mut command = Command::new(&self.settings.programs.ffmpeg);
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24"]);
        command.args(["-video_size", &canvas.to_string(), "-i", "pipe:0"]);
        // WebP knows BT.601 alone; labelled or not, what is converted otherwise has other colours.
        let filter = cover_filter(canvas, deliver).replace("bt709", "bt601");
        command.args(["-vf", &filter, "-frames:v", "1"]);
        command.args(["-c:v", "libwebp", "-quality", THUMBNAIL_QUALITY, "-threads", "1"]);
        command.args(["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]);
        command.args(["-f", "webp"]).arg(&self.path);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut running = Running::start(&mut command)?;
        let stdin = running.stdin();
        // A child that hangs takes no bytes either, so it is not this thread that writes them.
        let write = move || stdin.is_some_and(|mut stdin| stdin.write_all(&frame).is_ok());
        let written = Beside::start("thumbnail", write).map_err(|source| FinishError::Disk {
            doing: "starting the thread of the thumbnail",
            source,
        })?;
        running.finish(SHORT_LIMIT)?;
        match written.wait_within(SHORT_LIMIT, Waiting::QUIETLY) {
            Ok(true) => Ok(()),
            _ => Err(FinishError::Encoder("the thumbnail was not taken".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::attempt::tests::order;
    use zoetrope_protocol::Stage;

    fn stills(frames: u32, deliver: Size) -> Stills {
        let mut spec = order(Stage::Finish, 1, 1).spec;
        (spec.frames, spec.deliver) = (frames, deliver);
        Stills::new(&spec)
    }

    #[test]
    fn the_grid_is_even_and_within_the_clip() {
        let size = Size { width: 64, height: 64 };
        for (frames, grid) in
            [(1, (1, 1)), (5, (3, 2)), (24, (5, 5)), (240, (5, 5)), (2880, (5, 5))]
        {
            let mut stills = stills(frames, size);
            assert_eq!(stills.grid(), grid, "{frames}");
            for _ in 0..frames {
                stills.see(&[0; 64 * 64 * 3]);
            }
            assert_eq!(stills.tiles.len() as u32, stills.sprites);
        }
    }

    #[test]
    fn the_small_pictures_show_what_the_clip_shows() {
        // A canvas whose left quarter is white, delivered as its middle half: no white is left.
        let stills = stills(1, Size { width: 32, height: 64 });
        let frame: Vec<u8> =
            (0..64 * 64).flat_map(|n| if n % 64 < 16 { [255; 3] } else { [0; 3] }).collect();
        let tile = stills.small(&frame).expect("a tile");
        assert_eq!(tile.dimensions(), (32, 64));
        assert!(tile.pixels().all(|pixel| pixel.0 == [0; 3]));
    }
}
