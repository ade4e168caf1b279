//! The section `[watermark]` of the configuration.

use crate::config::{ConfigError, TENANT_NAMES, TENANT_TWICE, tenant};
use image::ImageDecoder;
use image::imageops::{self, FilterType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use zoetrope_mark::film;
use zoetrope_protocol::clip::{PATCH, SPATIAL_COMPRESSION};
use zoetrope_protocol::id::TenantId;
use zoetrope_protocol::mark::{
    ARTWORK_BYTES_MAX, ARTWORK_HEIGHT_SHARE, MARK_NAME_CHARS_MAX, VISIBLE_WIDTH_SHARE, Visible,
};

/// The largest side of an artwork, in pixels: what a large clip shows of it is smaller.
const ARTWORK_SIDE_MAX: u32 = 1_024;
/// It reads a frame at once.
const TRY_LIMIT: Duration = Duration::from_secs(20);
/// The newest epoch of the key; one a month lasts for 80 years.
pub(crate) const EPOCH_MAX: u32 = 1_000;

/// The marks of clips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watermark {
    /// The name that everybody sees in a clip.
    pub name: String,
    /// Which key new clips are marked with.
    pub epoch: u32,
    /// The program that reads films in which a mark is looked for.
    pub ffmpeg: PathBuf,
    /// Pictures that stand for the name in the clips of a tenant, by number of the project: PNG with alpha.
    pub artwork: BTreeMap<String, PathBuf>,
}

impl Default for Watermark {
    fn default() -> Self {
        Watermark {
            name: "Zoetrope".to_owned(),
            epoch: 0,
            ffmpeg: PathBuf::from("ffmpeg"),
            artwork: BTreeMap::new(),
        }
    }
}

/// What everybody sees, by tenant.
#[derive(Clone, Debug)]
pub struct Looks {
    name: String,
    artwork: BTreeMap<TenantId, Vec<u8>>,
}

impl Default for Looks {
    fn default() -> Self {
        Looks { name: Watermark::default().name, artwork: BTreeMap::new() }
    }
}

impl Looks {
    /// Of the clips of a tenant.
    pub fn of(&self, tenant: TenantId) -> Visible {
        match self.artwork.get(&tenant) {
            Some(png) => Visible::Artwork(png.clone()),
            None => Visible::Name(self.name.clone()),
        }
    }
}

impl Watermark {
    /// Why no clip could be published; none if the program that reads films is there and can. Blocking.
    pub fn problem(&self) -> Option<String> {
        let error = film::try_out(&self.ffmpeg, TRY_LIMIT).err()?;
        let least = film::FFMPEG_LEAST;
        Some(format!("watermark.ffmpeg: {error}: ffmpeg {least} or newer is needed"))
    }

    /// Holds the keys against their ranges.
    ///
    /// # Errors
    /// `Range` names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, range: String| {
            Err(ConfigError::Range { key: format!("watermark.{key}"), range })
        };
        // The letters that the worker's font has.
        let drawn = |letter: char| matches!(letter, ' '..='~' | '\u{a1}'..='\u{17f}');
        let letters = self.name.chars().count();
        if !(1..=MARK_NAME_CHARS_MAX).contains(&letters)
            || !self.name.chars().all(drawn)
            || self.name.trim() != self.name
        {
            let range = format!("1 to {MARK_NAME_CHARS_MAX} Latin letters, digits and signs");
            return wrong("name", range);
        }
        if self.epoch > EPOCH_MAX {
            return wrong("epoch", format!("0 to {EPOCH_MAX}, got {}", self.epoch));
        }
        let mut tenants = BTreeSet::new();
        for name in self.artwork.keys() {
            let key = format!("artwork.{name}");
            match tenant(name) {
                None => return wrong(&key, TENANT_NAMES.to_owned()),
                Some(tenant) if !tenants.insert(tenant) => {
                    return wrong(&key, TENANT_TWICE.to_owned());
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Reads the pictures.
    ///
    /// # Errors
    /// If one is missing or is no picture that can be drawn: which, and why.
    pub fn open(&self) -> anyhow::Result<Looks> {
        let mut artwork = BTreeMap::new();
        for (name, path) in &self.artwork {
            let why = |why: String| {
                anyhow::anyhow!("watermark.artwork.{name} = {}: {why}", path.display())
            };
            let bytes = std::fs::read(path).map_err(|error| why(error.to_string()))?;
            judge(&bytes).map_err(why)?;
            let tenant = tenant(name).ok_or_else(|| why(format!("must be {TENANT_NAMES}")))?;
            artwork.insert(tenant, bytes);
        }
        Ok(Looks { name: self.name.clone(), artwork })
    }
}

/// Whether workers can draw a picture.
fn judge(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > ARTWORK_BYTES_MAX {
        return Err(format!("it has {} bytes, {ARTWORK_BYTES_MAX} are allowed", bytes.len()));
    }
    let decoder = image::codecs::png::PngDecoder::new(std::io::Cursor::new(bytes))
        .map_err(|error| format!("it must be a PNG: {error}"))?;
    let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
    if width.max(height) > ARTWORK_SIDE_MAX {
        return Err(format!("it is {width}x{height}, {ARTWORK_SIDE_MAX} a side are allowed"));
    }
    if !color.has_alpha() {
        return Err("it has no alpha: it would be drawn as a box".to_owned());
    }
    let picture = image::DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    let picture = picture.to_rgba8();
    if picture.pixels().all(|pixel| pixel.0[3] == 0) {
        return Err("all of it is transparent".to_owned());
    }
    // As workers draw it, in the smallest picture that there is: what is seen there is seen in larger ones.
    let side = (SPATIAL_COMPRESSION * PATCH) as f32;
    let (wide, high) = (width.max(1) as f32, height.max(1) as f32);
    let scale = (side * ARTWORK_HEIGHT_SHARE / high).min(side * VISIBLE_WIDTH_SHARE / wide);
    let small = |length: f32| ((length * scale).round() as u32).max(1);
    let drawn = imageops::resize(&picture, small(wide), small(high), FilterType::CatmullRom);
    if drawn.pixels().all(|pixel| pixel.0[3] == 0) {
        return Err("so little of it is not transparent that nothing is left in a clip".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

    fn png(color: ExtendedColorType, pixel: &[u8], side: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let pixels = pixel.repeat((side * side) as usize);
        PngEncoder::new(&mut bytes).write_image(&pixels, side, side, color).expect("encodes");
        bytes
    }

    #[test]
    fn a_name_or_a_picture_that_cannot_be_drawn_is_refused_in_words() {
        let named = |name: &str| Watermark { name: name.to_owned(), ..Watermark::default() };
        assert!(named("Wörks & Söhne 3").check().is_ok());
        for bad in ["", " x", "an overlong name of a farm", "動画", "a\nb"] {
            let said = named(bad).check().expect_err(bad).to_string();
            assert!(said.starts_with("watermark.name must be 1 to 24"), "{said}");
        }
        let of = |names: &[&str]| {
            let path = |name: &&str| ((*name).to_owned(), PathBuf::from("x.png"));
            let artwork = names.iter().map(path).collect();
            let checked = Watermark { artwork, ..Watermark::default() }.check();
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(of(&["7", "proj_8"]), Ok(()));
        for strange in ["x", "0", "proj_0"] {
            let wanted =
                format!("watermark.artwork.{strange} must be named proj_N, or N, with N from 1 on");
            assert_eq!(of(&[strange]), Err(wanted));
        }
        let twice = "watermark.artwork.proj_7 must be the only one of its project";
        assert_eq!(of(&["7", "proj_7"]), Err(twice.to_owned()));
        assert!(Watermark { epoch: 1_001, ..Watermark::default() }.check().is_err());
        let white = png(ExtendedColorType::Rgba8, &[255; 4], 16);
        assert_eq!(judge(&white), Ok(()));
        // One faint speck: workers would find nothing to draw.
        let mut speck = image::RgbaImage::new(1_024, 1_024);
        speck.put_pixel(500, 500, image::Rgba([255, 255, 255, 90]));
        let mut faint = std::io::Cursor::new(Vec::new());
        speck.write_to(&mut faint, image::ImageFormat::Png).expect("encodes");
        for (bytes, why) in [
            (faint.into_inner(), "nothing is left"),
            (b"GIF89a".to_vec(), "must be a PNG"),
            (png(ExtendedColorType::Rgb8, &[255; 3], 16), "no alpha"),
            (png(ExtendedColorType::Rgba8, &[0; 4], 16), "transparent"),
            (png(ExtendedColorType::Rgba8, &[255; 4], 1_025), "1024 a side"),
            (vec![0; ARTWORK_BYTES_MAX + 1], "262144 are allowed"),
        ] {
            let said = judge(&bytes).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_tenants_picture_stands_for_the_name_in_its_clips_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("mark.png");
        let white = png(ExtendedColorType::Rgba8, &[255; 4], 16);
        std::fs::write(&path, &white).expect("writes");
        let artwork = [("proj_7".to_owned(), path.clone())].into();
        let watermark = Watermark { artwork, ..Watermark::default() };
        watermark.check().expect("is right");
        let looks = watermark.open().expect("opens");
        assert_eq!(looks.of(TenantId(7)), Visible::Artwork(white));
        assert_eq!(looks.of(TenantId(8)), Visible::Name("Zoetrope".to_owned()));
        std::fs::remove_file(&path).expect("removes");
        assert!(
            watermark.open().expect_err("is gone").to_string().contains("watermark.artwork.proj_7")
        );
    }
}
