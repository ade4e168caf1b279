//! Makes the tables of README.md: marks films, attacks them, and counts in how many the mark is found blind.
//!
//! `cargo run --profile dev -p zoetrope-mark --example robustness -- --state FILE [--strong] [--keep FOLDER] FILM...`
//! `... -- --state FILE --table` prints what was measured; `... -- --chance KEYS FILM...` counts how well wrong keys agree
//! with unmarked films; `... -- --state FILE --judges FFMPEG PYTHON FILM...` has VMAF and PESQ judge what marking does to
//! them (`scripts/mark/look`). A film is taken with its sound. Every measured number is a line of FILE at once, and is not
//! measured again: the tables grow for as long as one lets it run.

mod films;
mod judges;
mod state;

use anyhow::{Context, bail};
use films::{Film, load, publish, run};
use judges::{Judges, judge};
use state::{State, table};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use zoetrope_mark::agree::{self, Glimpses};
use zoetrope_mark::film;
use zoetrope_mark::picture::Strength;
use zoetrope_mark::reading::Place;
use zoetrope_mark::search::{Depth, search};
use zoetrope_mark::{MarkId, MarkKey, MasterKey, sound};

/// Name, ffmpeg's arguments, and whether the picture and the sound are looked at.
const ATTACKS: [(&str, &[&str], bool, bool); 24] = [
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
    (
        "crop to 55 % of each side",
        &["-vf", "crop=trunc(iw*0.275)*2:trunc(ih*0.275)*2", "-crf", "23", "-an"],
        true,
        false,
    ),
    (
        "strip, CRF 30, crop to half of the area, darker by half",
        &[
            "-vf",
            "crop=trunc(iw*0.3535)*2:trunc(ih*0.3535)*2,lutyuv=y=(val-16)*0.5+16",
            "-crf",
            "30",
            "-an",
            "-map_metadata",
            "-1",
        ],
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
    ("MP3 64", &["-vn", "-c:a", "libmp3lame", "-b:a", "64k"], false, true),
    (
        "48 → 32 → 48 kHz",
        &["-vn", "-af", "aresample=32000,aresample=48000", "-c:a", "aac", "-b:a", "128k"],
        false,
        true,
    ),
    ("8 kHz", &["-vn", "-ar", "8000", "-c:a", "pcm_s16le", "-f", "matroska"], false, true),
    ("speed 0.9", &["-vn", "-af", "atempo=0.9", "-c:a", "aac", "-b:a", "128k"], false, true),
    ("speed 1.1", &["-vn", "-af", "atempo=1.1", "-c:a", "aac", "-b:a", "128k"], false, true),
    ("3 s cut", &["-vn", "-ss", "1.3", "-t", "3", "-c:a", "aac", "-b:a", "128k"], false, true),
];

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

/// Marks that the farm has issued: each search looks among them all.
const ISSUED: u32 = 1_000_000;

/// A serial of its own for each film, whichever others are measured.
fn serial_of(name: &str) -> u32 {
    let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    name.bytes().fold(2_166_136_261, hash) % ISSUED
}

/// The key of a farm that has issued so many.
fn key() -> MarkKey {
    static KEY: LazyLock<MarkKey> = LazyLock::new(|| {
        let key = MasterKey([42; 32]).epoch(0);
        let words = key.words(0..ISSUED).collect();
        key.knowing(Arc::new(words))
    });
    KEY.clone()
}

fn set_of(film: &Film) -> &'static str {
    match film.width.min(film.height) {
        0 => "sound of 8 s and more",
        480.. => "natural",
        240.. => "toybox 288×512",
        _ => "toybox 160×288",
    }
}

/// How a search ended.
fn outcome(found: Option<MarkId>, mark: Option<MarkId>) -> &'static str {
    match found {
        None => "none",
        found if found == mark => "right",
        Some(_) => "wrong",
    }
}

fn attack(published: &Path, options: &[&str], folder: &Path) -> anyhow::Result<PathBuf> {
    let attacked = folder.join("attacked.mkv");
    let mut arguments = vec!["-i", published.to_str().context("name")?];
    arguments.extend(options);
    arguments.push(attacked.to_str().context("name")?);
    run(&arguments)?;
    Ok(attacked)
}

const LIMIT: Duration = Duration::from_secs(60);
/// No film of a sample is longer.
const LONGEST_SECONDS: u32 = 120;

/// Looks for the mark in the picture of a file; with it how sure it is that the file shows what `own` shows.
fn look(
    file: &Path,
    key: &MarkKey,
    own: &Film,
    glimpses: &Glimpses,
) -> anyhow::Result<(Option<MarkId>, f32, f32)> {
    let ffmpeg = Path::new("ffmpeg");
    let stills = film::stills(ffmpeg, file, LIMIT)?;
    let result = search(&stills, std::slice::from_ref(key), Depth::Anywhere);
    let Some(found) = result.found else { return Ok((None, result.best, 0.0)) };
    let (each, most) = (agree::SEEN_A_SECOND, film::SECONDS_MAX);
    let seen = film::glimpses(ffmpeg, file, stills.size(), each, most, LIMIT)?;
    let size = (own.width, own.height);
    let agreed = agree::agreement(glimpses, Place::delivered(size, size).chip, &seen, &found);
    Ok((Some(found.mark), result.best, agreed.unwrap_or(0.0)))
}

/// From which agreement on the farm says that a file is its clip: `coordinator/src/watermark/find.rs`.
const AGREES: f32 = 0.5;

/// What the mark of a film is copied onto: a film that is alike, and one of another source, brought to its size.
const ALIKE: &str = "mark copied onto a film that is alike";
const FOREIGN: &str = "mark copied onto a film of another source";

/// A film with the mark that it is given.
pub(crate) struct Sample {
    pub name: String,
    pub film: Film,
    pub set: &'static str,
    pub key: MarkKey,
    pub mark: MarkId,
    /// Whether its sound is enough to be marked.
    pub loud: bool,
}

impl Sample {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Sample> {
        let name = path.file_stem().and_then(|stem| stem.to_str()).context("a name")?.to_owned();
        let film = load(path).with_context(|| path.display().to_string())?;
        let key = key();
        let loud = sound::loud_seconds(&film.samples, 2, 32_000) >= sound::LOUD_SECONDS_MIN;
        Ok(Sample {
            set: set_of(&film),
            mark: key.mark_of(serial_of(&name)),
            name,
            film,
            key,
            loud,
        })
    }
}

/// All that is not measured yet of one film. `onto`: what its mark is copied onto.
fn measure(
    state: &mut State,
    path: &Path,
    onto: &[(&str, &Path)],
    strength: Strength,
    folder: &Path,
) -> anyhow::Result<()> {
    let Sample { name, film, set, key, mark, loud } = Sample::load(path)?;
    let (published, facts) = publish(&film, &key.tiles(mark), strength, folder)?;
    for (kind, value) in [
        ("PSNR", facts.psnr),
        ("PSNR of the worst frame", facts.worst),
        ("SSIM", facts.ssim),
        ("SNR of the sound", facts.snr),
    ] {
        let is_there = if kind == "SNR of the sound" { loud } else { !film.rgb.is_empty() };
        if is_there && !state.has(&name, "look", kind) {
            state.add(&name, set, ["look", kind, "measured"], value, facts.frame_ms)?;
        }
    }
    let size = (film.width, film.height);
    let has_picture = !film.rgb.is_empty();
    let own = match has_picture {
        true => {
            let (each, ffmpeg) = (agree::OWN_A_SECOND, Path::new("ffmpeg"));
            Some(film::glimpses(ffmpeg, &published, size, each, LONGEST_SECONDS, LIMIT)?)
        }
        false => None,
    };
    for (attacked_by, options, picture, heard) in &ATTACKS {
        let wants_picture = *picture && has_picture && !state.has(&name, attacked_by, "picture");
        let wants_sound = *heard && loud && !state.has(&name, attacked_by, "sound");
        if !wants_picture && !wants_sound {
            continue;
        }
        let attacked = attack(&published, options, folder)?;
        if let Some(own) = own.as_ref().filter(|_| wants_picture) {
            let began = Instant::now();
            let (found, best, agreed) = look(&attacked, &key, &film, own)?;
            let ms = began.elapsed().as_secs_f64() * 1e3;
            let how = outcome(found, Some(mark));
            state.add(&name, set, [attacked_by, "picture", how], best.into(), ms)?;
            if how == "right" {
                let how = if agreed >= AGREES { "right" } else { "none" };
                state.add(&name, set, [attacked_by, "called ours", how], agreed.into(), ms)?;
            }
        }
        if wants_sound {
            let began = Instant::now();
            let samples = film::sound(Path::new("ffmpeg"), &attacked, LIMIT)?;
            let tempi = attacked_by.starts_with("speed");
            let result = sound::search(&samples, std::slice::from_ref(&key), tempi);
            let ms = began.elapsed().as_secs_f64() * 1e3;
            let how = outcome(result.found.map(|found| found.mark), Some(mark));
            state.add(&name, set, [attacked_by, "sound", how], result.best.into(), ms)?;
        }
    }
    unmarked(state, &name, set, path, &key, loud)?;
    for (own, (attack, next)) in own.iter().flat_map(|own| onto.iter().map(move |to| (own, to))) {
        copied(state, &name, &film, (attack, next), (&key, mark), own, folder)?;
    }
    Ok(())
}

/// A film that was never marked: what is found there is false.
fn unmarked(
    state: &mut State,
    name: &str,
    set: &str,
    path: &Path,
    key: &MarkKey,
    loud: bool,
) -> anyhow::Result<()> {
    const ATTACK: &str = "never marked";
    let ffmpeg = Path::new("ffmpeg");
    if !set.starts_with("sound") && !state.has(name, ATTACK, "picture") {
        let stills = film::stills(ffmpeg, path, LIMIT)?;
        let result = search(&stills, std::slice::from_ref(key), Depth::Anywhere);
        let how = outcome(result.found.map(|found| found.mark), None);
        state.add(name, set, [ATTACK, "picture", how], result.best.into(), 0.0)?;
    }
    if loud && !state.has(name, ATTACK, "sound") {
        let result =
            sound::search(&film::sound(ffmpeg, path, LIMIT)?, std::slice::from_ref(key), true);
        let how = outcome(result.found.map(|found| found.mark), None);
        state.add(name, set, [ATTACK, "sound", how], result.best.into(), 0.0)?;
    }
    Ok(())
}

/// Takes what marking added to one film and adds it to another. The mark is found there, of course;
/// what counts is whether the farm would call the forgery its clip.
fn copied(
    state: &mut State,
    name: &str,
    film: &Film,
    (attack, next): (&str, &Path),
    (key, mark): (&MarkKey, MarkId),
    own: &Glimpses,
    folder: &Path,
) -> anyhow::Result<()> {
    if state.has(name, attack, "picture") {
        return Ok(());
    }
    let sized = folder.join("foreign.mkv");
    let filter = format!("scale={}:{}:flags=lanczos", film.width, film.height);
    let (next, out) = (next.to_str().context("name")?, sized.to_str().context("name")?);
    run(&["-i", next, "-vf", &filter, "-c:v", "ffv1", "-c:a", "copy", out])?;
    let mut foreign = load(&sized)?;
    let marked = std::fs::read(folder.join("marked.rgb"))?;
    for ((pixel, marked), plain) in foreign.rgb.iter_mut().zip(&marked).zip(&film.rgb) {
        *pixel = (i16::from(*pixel) + i16::from(*marked) - i16::from(*plain)).clamp(0, 255) as u8;
    }
    let raw = folder.join("forged.rgb");
    std::fs::write(&raw, &foreign.rgb)?;
    let size = format!("{}x{}", film.width, film.height);
    let head = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", "24", "-video_size", &size];
    let forged = folder.join("forged.mkv");
    let mut arguments = head.to_vec();
    arguments.extend(["-i", raw.to_str().context("name")?, "-crf", "18"]);
    arguments.push(forged.to_str().context("name")?);
    run(&arguments)?;
    let (found, best, agreed) = look(&forged, key, film, own)?;
    let how = outcome(found, Some(mark));
    state.add(name, set_of(film), [attack, "picture", how], best.into(), 0.0)?;
    let how = if agreed >= AGREES { "right" } else { "none" };
    state.add(name, set_of(film), [attack, "called ours", how], agreed.into(), 0.0)
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut strength, mut films, mut chance) = (Strength::Normal, Vec::new(), 0u32);
    let mut judges = None;
    let (mut state, mut only_table) = (PathBuf::from("robustness.tsv"), false);
    let mut folder = std::env::temp_dir().join(format!("robustness-{}", std::process::id()));
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--strong" => strength = Strength::Strong,
            "--table" => only_table = true,
            "--chance" => chance = arguments.next().context("--chance KEYS")?.parse()?,
            "--judges" => {
                let ffmpeg = arguments.next().context("--judges FFMPEG PYTHON")?.into();
                let python = arguments.next().context("--judges FFMPEG PYTHON")?.into();
                judges = Some(Judges { ffmpeg, python });
            }
            "--state" => state = arguments.next().context("--state FILE")?.into(),
            "--keep" => folder = arguments.next().context("--keep FOLDER")?.into(),
            _ => films.push(PathBuf::from(argument)),
        }
    }
    if chance > 0 {
        return by_chance(&films, chance);
    }
    let mut state = State::open(state)?;
    if !only_table {
        if films.is_empty() {
            bail!("which films?");
        }
        std::fs::create_dir_all(&folder)?;
        for (n, path) in films.iter().enumerate() {
            if let Some(judges) = &judges {
                judge(&mut state, path, strength, judges, &folder)?;
                continue;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
            let attacks = ATTACKS.len().to_string();
            if state.has(name, "done", &attacks) {
                continue;
            }
            // The next film of the same kind of name, and the next one whose name begins with other letters.
            let kind = |path: &Path| {
                path.to_string_lossy().rsplit_once('-').map(|(kind, _)| kind.to_owned())
            };
            let source = |path: &Path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.chars().take(5).collect::<String>()
            };
            let others = || films.iter().cycle().skip(n + 1).take(films.len() - 1);
            let alike = others().find(|other| kind(other) == kind(path));
            let foreign = others().find(|other| source(other) != source(path));
            let onto = [(ALIKE, alike), (FOREIGN, foreign)];
            let onto: Vec<(&str, &Path)> = onto
                .into_iter()
                .filter_map(|(attack, next)| Some((attack, next?.as_path())))
                .collect();
            measure(&mut state, path, &onto, strength, &folder)?;
            state.add(name, "all", ["done", &attacks, "measured"], 0.0, 0.0)?;
        }
    }
    table(&state);
    Ok(())
}
