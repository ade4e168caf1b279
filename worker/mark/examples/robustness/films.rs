//! Films as they are read, marked and published, and what that does to them.

use anyhow::{Context, ensure};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use zoetrope_mark::picture::{PictureMarker, Strength};
use zoetrope_mark::sound;

pub(crate) struct Film {
    pub rgb: Vec<u8>,
    pub width: usize,
    pub height: usize,
    pub rate: String,
    pub samples: Vec<f32>,
}

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("ffmpeg")?;
    let mut bytes = Vec::new();
    child.stdout.take().context("no output")?.read_to_end(&mut bytes)?;
    ensure!(child.wait()?.success(), "ffmpeg {}", arguments.join(" "));
    Ok(bytes)
}

pub(crate) fn load(path: &Path) -> anyhow::Result<Film> {
    let name = path.to_str().context("a name")?;
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=width,height,r_frame_rate", name])
        .output()?;
    let probe = String::from_utf8(probe.stdout)?;
    let (mut width, mut height, mut rate, mut rgb) = (0, 0, String::new(), Vec::new());
    if !probe.trim().is_empty() {
        let mut words = probe.trim().split(',');
        width = words.next().context("width")?.parse()?;
        height = words.next().context("height")?.parse()?;
        rate = words.next().context("rate")?.to_owned();
        rgb = run(&["-i", name, "-t", "12", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])?;
    }
    let samples =
        run(&["-i", name, "-t", "12", "-vn", "-ac", "2", "-ar", "32000", "-f", "f32le", "-"]);
    let sample = |four: &[u8]| f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let samples = samples.unwrap_or_default().chunks_exact(4).map(sample).collect();
    Ok(Film { rgb, width, height, rate, samples })
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares.max(1) as f64).log10()
}

/// What marking did to a film.
#[derive(Default)]
pub(crate) struct Facts {
    pub psnr: f64,
    pub worst: f64,
    pub ssim: f64,
    pub snr: f64,
    pub frame_ms: f64,
}

/// Likeness of `marked.rgb` to the film, by ffmpeg.
fn ssim(film: &Film, folder: &Path) -> anyhow::Result<f64> {
    let own = folder.join("own.rgb");
    std::fs::write(&own, &film.rgb)?;
    let size = format!("{}x{}", film.width, film.height);
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin"]);
    for path in [&folder.join("marked.rgb"), &own] {
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", &size, "-i"]).arg(path);
    }
    let said = command.args(["-lavfi", "ssim", "-f", "null", "-"]).output()?.stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let all = said.rsplit("All:").next().and_then(|rest| rest.split_whitespace().next());
    Ok(all.context("ffmpeg says no SSIM")?.parse()?)
}

/// How marked sound is read, and how it is published.
const SOUND: [&str; 6] = ["-f", "f32le", "-ar", "32000", "-ac", "2"];
const CODED: [&str; 6] = ["-c:a", "aac", "-b:a", "192k", "-ar", "48000"];

/// Marks the sound of a film, and writes it.
fn mark_sound(
    film: &Film,
    tiles: &zoetrope_mark::Tiles,
    facts: &mut Facts,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let mut samples = film.samples.clone();
    sound::mark(&tiles.sound, &mut samples, 32_000);
    let power =
        |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let signal = power(&mut film.samples.iter().copied());
    let noise = power(&mut samples.iter().zip(&film.samples).map(|(a, b)| a - b));
    facts.snr = 10.0 * (signal.max(1e-12) / noise.max(1e-12)).log10();
    let wave = folder.join("marked.f32");
    std::fs::write(&wave, samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(wave)
}

/// Marks a film and encodes it as a worker does. A film without picture is sound alone.
pub(crate) fn publish(
    film: &Film,
    tiles: &zoetrope_mark::Tiles,
    strength: Strength,
    folder: &Path,
) -> anyhow::Result<(PathBuf, Facts)> {
    let mut facts = Facts::default();
    let out = folder.join("published.mp4");
    if film.rgb.is_empty() {
        let wave = mark_sound(film, tiles, &mut facts, folder)?;
        let (wave, name) = (wave.to_str().context("name")?, out.to_str().context("name")?);
        run(&[&SOUND[..], &["-i", wave], &CODED[..], &[name]].concat())?;
        return Ok((out, facts));
    }
    let mut marked = film.rgb.clone();
    let began = Instant::now();
    let mut marker = PictureMarker::new(&tiles.pixels, film.width, film.height, strength);
    let frame = film.width * film.height * 3;
    marked.chunks_exact_mut(frame).for_each(|frame| marker.mark(frame));
    let took = began.elapsed().as_secs_f64() * 1e3;
    let frames = marked.len() / frame;
    let worst =
        marked.chunks_exact(frame).zip(film.rgb.chunks_exact(frame)).map(|(a, b)| psnr(a, b));
    let worst = worst.fold(f64::INFINITY, f64::min);
    facts.psnr = psnr(&marked, &film.rgb);
    facts.worst = worst;
    facts.frame_ms = took / frames as f64;
    std::fs::write(folder.join("marked.rgb"), &marked)?;
    facts.ssim = ssim(film, folder)?;
    let size = format!("{}x{}", film.width, film.height);
    let rgb = folder.join("marked.rgb");
    let (rgb, out_name) = (rgb.to_str().context("name")?, out.to_str().context("name")?);
    let mut arguments = vec![
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-framerate",
        &film.rate,
        "-video_size",
        &size,
        "-i",
        rgb,
    ];
    let wave;
    if !film.samples.is_empty() {
        wave = mark_sound(film, tiles, &mut facts, folder)?;
        arguments.extend(SOUND);
        arguments.extend(["-i", wave.to_str().context("name")?]);
        arguments.extend(CODED);
    }
    arguments.extend([
        "-vf",
        "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "18",
        "-g",
        "48",
        out_name,
    ]);
    run(&arguments)?;
    Ok((out, facts))
}
