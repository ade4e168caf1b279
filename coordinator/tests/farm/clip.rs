//! Real clips for scripted workers: what the gate reads must be there.

use image::{ImageFormat, RgbImage, imageops};
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use zoetrope_mark::picture::{PictureMarker, Strength};
use zoetrope_mark::sound;
use zoetrope_mark::still::StillFilm;
use zoetrope_protocol::RenderSpec;
use zoetrope_protocol::clip::{
    AUDIO_CHANNELS, FPS, SAMPLE_RATE, Size, sprite_frame, sprite_grid, sprites, thumbnail_frame,
};
use zoetrope_protocol::mark::{PIXEL_CHIPS, SOUND_CHIPS, unpack};
use zoetrope_protocol::wire::Order;

type Kind = (Size, u32, bool);

/// Films of one picture, made once for each size and length.
static STILLS: Mutex<BTreeMap<Kind, Arc<StillFilm>>> = Mutex::new(BTreeMap::new());

/// The picture's tile of an order.
pub(crate) fn tile(order: &Order) -> Vec<i8> {
    let mark = order.mark.as_ref().expect("an order to finish carries tiles");
    unpack(&mark.pixels, PIXEL_CHIPS).expect("a tile")
}

/// The sound's tile of an order.
pub(crate) fn sound_tile(order: &Order) -> Vec<i8> {
    let mark = order.mark.as_ref().expect("an order to finish carries tiles");
    unpack(&mark.sound, SOUND_CHIPS).expect("a tile")
}

/// The clip that an honest worker makes, without a manifest: its sound is silence, which carries no mark.
pub(crate) fn unsigned(order: &Order) -> Vec<u8> {
    still(&order.spec, Some(&tile(order)))
}

/// A picture that stands still, marked with this tile if there is one.
pub(crate) fn still(spec: &RenderSpec, tile: Option<&[i8]>) -> Vec<u8> {
    let size = (spec.deliver.width as usize, spec.deliver.height as usize);
    let film = {
        let mut stills = STILLS.lock().expect("nobody panicked");
        let kind = (spec.deliver, spec.frames, spec.audio);
        stills.entry(kind).or_insert_with(|| Arc::new(make(size, spec))).clone()
    };
    film.showing(&frame(0, size, tile))
}

fn make(size: (usize, usize), spec: &RenderSpec) -> StillFilm {
    let folder = tempfile::tempdir().expect("temporary folder");
    let silence = folder.path().join("silence.mp4");
    if spec.audio {
        let seconds = spec.frames.div_ceil(FPS).to_string();
        let mut command = ffmpeg();
        command.args(["-f", "lavfi", "-i", "anullsrc=r=48000:cl=stereo", "-t", &seconds]);
        assert!(command.args(["-c:a", "aac"]).arg(&silence).status().expect("ffmpeg").success());
    }
    let sound = spec.audio.then_some(silence.as_path());
    let film = (size, spec.frames, FPS);
    StillFilm::make(Path::new("ffmpeg"), film, sound, folder.path()).expect("is made")
}

fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-y"]).stdin(Stdio::null());
    command
}

/// A frame of a film in which something moves (RGB), marked with this tile if there is one.
fn frame(number: u32, (width, height): (usize, usize), tile: Option<&[i8]>) -> Vec<u8> {
    let mut rgb = vec![0u8; width * height * 3];
    for (index, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = (index % width + 3 * number as usize, index / width);
        pixel.fill((90 + (x / 9 * 37 + y / 13 * 61) % 80 + (x * 7 + y * 3) % 11) as u8);
    }
    if let Some(tile) = tile {
        PictureMarker::new(tile, width, height, Strength::Normal).mark(&mut rgb);
    }
    rgb
}

/// What is shown small beside a clip: WebP and JPEG, made once for each size and length.
type Pictures = Arc<[Vec<u8>; 2]>;
static PICTURES: Mutex<BTreeMap<(Size, u32, bool), Pictures>> = Mutex::new(BTreeMap::new());

/// The thumbnail and the spritesheet of the clips here: of one whose picture stands still, or of one in which it moves.
pub(crate) fn pictures(spec: &RenderSpec, moves: bool) -> Pictures {
    let mut all = PICTURES.lock().expect("nobody panicked");
    let make = || Arc::new(draw(spec, |frame| if moves { frame } else { 0 }));
    all.entry((spec.deliver, spec.frames, moves)).or_insert_with(make).clone()
}

fn draw(spec: &RenderSpec, shown: impl Fn(u32) -> u32) -> [Vec<u8>; 2] {
    let Size { width, height } = spec.deliver;
    let picture = |number: u32| {
        let rgb = frame(shown(number), (width as usize, height as usize), None);
        RgbImage::from_raw(width, height, rgb).expect("of this size")
    };
    let (columns, rows) = sprite_grid(spec.frames);
    let (wide, high) = (width.div_ceil(4), height.div_ceil(4));
    let mut sheet = RgbImage::new(columns * wide, rows * high);
    for n in 0..sprites(spec.frames) {
        let tile = imageops::thumbnail(&picture(sprite_frame(n, spec.frames)), wide, high);
        let (x, y) = (n % columns * wide, n / columns * high);
        imageops::replace(&mut sheet, &tile, i64::from(x), i64::from(y));
    }
    let encoded = |picture: &RgbImage, format: ImageFormat| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    };
    let thumbnail = picture(thumbnail_frame(spec.frames));
    [encoded(&thumbnail, ImageFormat::WebP), encoded(&sheet, ImageFormat::Jpeg)]
}

/// A loud hum of all tones, in which a mark is read with certainty; marked with this tile if there is one.
pub(crate) fn hum(spec: &RenderSpec, tile: Option<&[i8]>) -> Vec<f32> {
    // As long as a window of the mark: what does not change between windows hides nothing.
    const PERIOD: usize = 1_024;
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 * 0.3 - 0.3
    };
    let period: Vec<f32> = (0..PERIOD).map(next).collect();
    let count = (spec.frames / FPS * SAMPLE_RATE) as usize;
    let both = |place: usize| [period[place % PERIOD]; AUDIO_CHANNELS as usize];
    let mut samples: Vec<f32> = (0..count).flat_map(both).collect();
    if let Some(tile) = tile {
        sound::mark(tile, &mut samples, SAMPLE_RATE);
    }
    samples
}

/// A film in which something moves, encoded as clips are. `tile` says with what each frame is marked.
pub(crate) fn moving<'a>(
    spec: &RenderSpec,
    frames: u32,
    tile: impl Fn(u32) -> Option<&'a [i8]>,
    samples: &[f32],
) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    std::fs::write(path("sound.f32"), bytes).expect("writes");
    let mut command = ffmpeg();
    command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", &FPS.to_string()]);
    command.args(["-video_size", &spec.deliver.to_string(), "-i", "pipe:0"]);
    command.args(["-f", "f32le", "-ar", &SAMPLE_RATE.to_string(), "-ac", "2", "-i"]);
    command.arg(path("sound.f32")).args(["-map", "0:v", "-map", "1:a"]);
    command.args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-g", "48"]);
    command.args(["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "192k", "-ar", "48000"]);
    command.args(["-map_metadata", "-1", "-fflags", "+bitexact", "-movflags", "+faststart"]);
    command.arg(path("clip.mp4")).stdin(Stdio::piped());
    let mut encoder = command.spawn().expect("ffmpeg");
    let mut stdin = encoder.stdin.take().expect("is piped");
    let size = (spec.deliver.width as usize, spec.deliver.height as usize);
    for number in 0..frames {
        stdin.write_all(&frame(number, size, tile(number))).expect("is taken");
    }
    drop(stdin);
    assert!(encoder.wait().expect("ends").success());
    std::fs::read(path("clip.mp4")).expect("reads")
}

/// The clip with its picture twice.
pub(crate) fn with_second_picture(clip: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (one, two) = (folder.path().join("one.mp4"), folder.path().join("two.mp4"));
    std::fs::write(&one, clip).expect("writes");
    let mut command = ffmpeg();
    command.arg("-i").arg(&one).args(["-map", "0:v", "-map", "0:a", "-map", "0:v", "-c", "copy"]);
    assert!(command.arg(&two).status().expect("ffmpeg").success());
    std::fs::read(&two).expect("reads")
}
