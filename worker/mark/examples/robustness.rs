//! Makes the table of README.md: marks films, attacks them, and counts in how many the mark is found blind.
//!
//! `cargo run --profile dev -p zoetrope-mark --example robustness -- [--strong] [--only WORD] [--keep FOLDER] FILM...`
//! `... -- --chance KEYS FILM...` counts how well wrong keys agree with unmarked films.
//! A film is taken with its sound; films with a short side below 480 count as "toybox", others as "natural".

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zoetrope_mark::film;
use zoetrope_mark::picture::{PictureMarker, Strength};
use zoetrope_mark::search::{Depth, search};
use zoetrope_mark::{MarkId, MasterKey, sound};

/// Name, ffmpeg's arguments, and whether the picture and the sound are looked at.
const ATTACKS: [(&str, &[&str], bool, bool); 19] = [
    ("none (as published: CRF 18, AAC 192)", &["-c", "copy"], true, true),
    ("H.264 CRF 23", &["-c:v", "libx264", "-crf", "23", "-an"], true, false),
    ("H.264 CRF 30", &["-c:v", "libx264", "-crf", "30", "-an"], true, false),
    ("H.264 CRF 40", &["-c:v", "libx264", "-crf", "40", "-an"], true, false),
    (
        "scale to 50 %",
        &["-vf", "scale=trunc(iw/4)*2:trunc(ih/4)*2", "-crf", "23", "-an"],
        true,
        false,
    ),
    (
        "crop to 80 % of each side",
        &["-vf", "crop=trunc(iw*0.4)*2:trunc(ih*0.4)*2", "-crf", "23", "-an"],
        true,
        false,
    ),
    ("flip", &["-vf", "hflip", "-crf", "23", "-an"], true, false),
    ("rotate 90°", &["-vf", "transpose=1", "-crf", "23", "-an"], true, false),
    ("2 s cut", &["-ss", "1.3", "-t", "2", "-crf", "23", "-an"], true, false),
    ("24 → 30 fps", &["-vf", "fps=30", "-crf", "23", "-an"], true, false),
    ("→ 12 fps", &["-vf", "fps=12", "-crf", "23", "-an"], true, false),
    (
        "colour shift",
        &["-vf", "eq=brightness=0.08:contrast=1.2:saturation=1.4,hue=h=25", "-crf", "23", "-an"],
        true,
        false,
    ),
    ("remux to Matroska", &["-c", "copy", "-f", "matroska"], true, true),
    ("AAC 128", &["-vn", "-c:a", "aac", "-b:a", "128k"], false, true),
    ("AAC 64", &["-vn", "-c:a", "aac", "-b:a", "64k"], false, true),
    ("MP3 128", &["-vn", "-c:a", "libmp3lame", "-b:a", "128k"], false, true),
    (
        "48 → 32 → 48 kHz",
        &["-vn", "-af", "aresample=32000,aresample=48000", "-c:a", "aac", "-b:a", "128k"],
        false,
        true,
    ),
    ("8 kHz", &["-vn", "-ar", "8000", "-c:a", "pcm_s16le", "-f", "matroska"], false, true),
    ("3 s cut", &["-vn", "-ss", "1.3", "-t", "3", "-c:a", "aac", "-b:a", "128k"], false, true),
];

struct Film {
    rgb: Vec<u8>,
    width: usize,
    height: usize,
    rate: String,
    samples: Vec<f32>,
}

fn run(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
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

fn load(path: &Path) -> anyhow::Result<Film> {
    let name = path.to_str().context("a name")?;
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=width,height,r_frame_rate", name])
        .output()?;
    let probe = String::from_utf8(probe.stdout)?;
    let mut words = probe.trim().split(',');
    let (width, height) =
        (words.next().context("width")?.parse()?, words.next().context("height")?.parse()?);
    let rate = words.next().context("rate")?.to_owned();
    let rgb = run(&["-i", name, "-t", "12", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])?;
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

/// Marks a film and encodes it as a worker does.
fn publish(
    film: &Film,
    tiles: &zoetrope_mark::Tiles,
    strength: Strength,
    folder: &Path,
) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let mut facts = Vec::new();
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
    facts.push(format!(
        "PSNR {:.1} dB, worst frame {worst:.1}, {:.2} ms a frame",
        psnr(&marked, &film.rgb),
        took / frames as f64
    ));
    std::fs::write(folder.join("marked.rgb"), &marked)?;
    let out = folder.join("published.mp4");
    let size = format!("{}x{}", film.width, film.height);
    let (rgb, wave) = (folder.join("marked.rgb"), folder.join("marked.f32"));
    let (rgb, wave, out_name) = (
        rgb.to_str().context("name")?,
        wave.to_str().context("name")?,
        out.to_str().context("name")?,
    );
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
    if !film.samples.is_empty() {
        let mut samples = film.samples.clone();
        let began = Instant::now();
        sound::mark(&tiles.sound, &mut samples, 32_000);
        let took = began.elapsed().as_secs_f64() * 1e3;
        let power =
            |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let signal = power(&mut film.samples.iter().copied());
        let noise = power(&mut samples.iter().zip(&film.samples).map(|(a, b)| a - b));
        facts.push(format!(
            "sound SNR {:.1} dB, {took:.0} ms, loud {:.1} s",
            10.0 * (signal / noise.max(1e-12)).log10(),
            sound::loud_seconds(&film.samples, 2, 32_000)
        ));
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        std::fs::write(wave, bytes)?;
        arguments.extend([
            "-f", "f32le", "-ar", "32000", "-ac", "2", "-i", wave, "-c:a", "aac", "-b:a", "192k",
            "-ar", "48000",
        ]);
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

/// Wilson's interval of 95 %.
fn interval(hits: u32, of: u32) -> String {
    let (n, p, z) = (f64::from(of), f64::from(hits) / f64::from(of.max(1)), 1.96f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    format!(
        "{hits}/{of} ({:.0} to {:.0} %)",
        100.0 * (middle - half).max(0.0),
        100.0 * (middle + half).min(1.0)
    )
}

/// What chance gives: keys that know nothing of a film, at every shift of the three sizes, decoded where the agreement
/// is over 4; then the blind search with one such key, which must find nothing.
fn by_chance(films: &[PathBuf], keys: u32) -> anyhow::Result<()> {
    let bounds = [4.0f32, 4.5, 5.0, 5.5, 6.0, 6.2, 7.5];
    let (mut places, mut over, mut most, mut found) = (0u64, [0u64; 7], 0.0f32, 0u32);
    let mut searched = 0.0f32;
    for path in films {
        let stills = film::stills(Path::new("ffmpeg"), path, Duration::from_secs(60))?;
        for key in 0..keys {
            let key = MasterKey([key as u8 ^ 0x5a; 32]).epoch(key);
            for chips in [80.0, 120.0, 240.0] {
                for agreement in zoetrope_mark::search::agreements(&stills, &key, chips) {
                    places += 1;
                    most = most.max(agreement);
                    bounds
                        .iter()
                        .zip(&mut over)
                        .for_each(|(bound, over)| *over += u64::from(agreement >= *bound));
                }
            }
        }
        let result = search(&stills, &[MasterKey([9; 32]).epoch(1)], Depth::Anywhere);
        found += u32::from(result.found.is_some());
        searched = searched.max(result.best);
    }
    println!(
        "{} films, {keys} wrong keys each: {places} places, best agreement {most:.2}",
        films.len()
    );
    for (bound, over) in bounds.iter().zip(over) {
        // The tail of a normal distribution, by its continued fraction.
        let z = f64::from(*bound);
        let tail = (-z * z / 2.0).exp()
            / (z + 1.0 / (z + 2.0 / (z + 3.0 / z)))
            / (2.0 * std::f64::consts::PI).sqrt();
        println!("  over {bound}: {over}, a normal tail gives {:.1}", tail * places as f64);
    }
    println!("blind search: {found} of {} found a mark, best agreement {searched:.2}", films.len());
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut strength, mut only, mut films) = (Strength::Normal, String::new(), Vec::new());
    let mut chance = 0u32;
    let mut folder = std::env::temp_dir().join(format!("robustness-{}", std::process::id()));
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--strong" => strength = Strength::Strong,
            "--chance" => chance = arguments.next().context("--chance KEYS")?.parse()?,
            "--only" => only = arguments.next().context("--only WORD")?,
            "--keep" => folder = arguments.next().context("--keep FOLDER")?.into(),
            _ => films.push(PathBuf::from(argument)),
        }
    }
    if chance > 0 {
        return by_chance(&films, chance);
    }
    if films.is_empty() {
        bail!("which films?");
    }
    std::fs::create_dir_all(&folder)?;
    let key = MasterKey([42; 32]).epoch(0);
    let mut table: BTreeMap<(usize, &str), (u32, u32, Vec<f32>)> = BTreeMap::new();
    for (serial, path) in films.iter().enumerate() {
        let film = load(path).with_context(|| path.display().to_string())?;
        let mark = key.mark_of(serial as u32);
        let (published, facts) = publish(&film, &key.tiles(mark), strength, &folder)?;
        println!("{} {}x{}: {}", path.display(), film.width, film.height, facts.join("; "));
        let set = if film.width.min(film.height) >= 480 {
            "natural"
        } else if film.width.min(film.height) >= 240 {
            "small"
        } else {
            "tiny"
        };
        let loud = sound::loud_seconds(&film.samples, 2, 32_000) >= sound::LOUD_SECONDS_MIN;
        for (number, (name, options, picture, heard)) in ATTACKS.iter().enumerate() {
            if !name.contains(&only) || (!picture && !loud) {
                continue;
            }
            let attacked = folder.join("attacked.mkv");
            let mut arguments = vec!["-i", published.to_str().context("name")?];
            arguments.extend(options.iter());
            arguments.push(attacked.to_str().context("name")?);
            run(&arguments)?;
            let mut count = |kind: &'static str, found: Option<MarkId>, best: f32, took: f64| {
                let right = found == Some(mark);
                if found.is_some() && !right {
                    println!("  WRONG ID in {name}");
                }
                println!("  {name} [{kind}]: {right} {best:.1} {took:.0} ms");
                let cell =
                    table.entry((number, if kind == "sound" { "sound" } else { set })).or_default();
                cell.0 += u32::from(right);
                cell.1 += 1;
                cell.2.push(best);
            };
            if *picture {
                let began = Instant::now();
                let stills = film::stills(Path::new("ffmpeg"), &attacked, Duration::from_secs(60))?;
                let read = began.elapsed().as_secs_f64() * 1e3;
                let result = search(&stills, std::slice::from_ref(&key), Depth::Anywhere);
                count(
                    "picture",
                    result.found.map(|found| found.mark),
                    result.best,
                    began.elapsed().as_secs_f64() * 1e3,
                );
                let _ = read;
            }
            if *heard && loud {
                let began = Instant::now();
                let samples = film::sound(Path::new("ffmpeg"), &attacked, Duration::from_secs(60))?;
                let result = sound::search(&samples, std::slice::from_ref(&key), false);
                count(
                    "sound",
                    result.found.map(|found| found.mark),
                    result.best,
                    began.elapsed().as_secs_f64() * 1e3,
                );
            }
        }
    }
    println!(
        "\n| attack | set | recovered (95 % interval) | agreement, least and median |\n| --- | --- | --- | --- |"
    );
    for ((number, set), (hits, of, mut best)) in table {
        best.sort_by(f32::total_cmp);
        let (least, median) = (best[0], best[best.len() / 2]);
        println!(
            "| {} | {set} | {} | {least:.1}, {median:.1} |",
            ATTACKS[number].0,
            interval(hits, of)
        );
    }
    Ok(())
}
