//! How long it takes to see the mark in a finished clip, and how clearly each half second shows it: what the farm does
//! before it publishes one.
//!
//! `cargo run --release -p zoetrope-mark --example watch -- [--crf CRF] [--deliver WxH] FILM...` marks each film, scales it,
//! encodes it as clips are, and looks ten times. Prints the times in milliseconds (least, median, most), and the least and the middle agreement.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zoetrope_mark::film::{self, Expected};
use zoetrope_mark::picture::{PictureMarker, Strength};
use zoetrope_mark::reading::Place;
use zoetrope_mark::sound::{Bands, Loudness};
use zoetrope_mark::stretch::{Carried, Look};
use zoetrope_mark::{MarkId, MasterKey};

const RUNS: usize = 10;

fn ffmpeg(arguments: &[&str], input: Option<&[u8]>) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-y"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("ffmpeg")?;
    let (mut stdin, out) = (child.stdin.take().context("in")?, child.stdout.take());
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || stdin.write_all(input.unwrap_or_default()));
        let mut bytes = Vec::new();
        out.context("out")?.read_to_end(&mut bytes)?;
        // ffmpeg does not read what it was not told to.
        drop(writing.join());
        ensure!(child.wait()?.success(), "ffmpeg {}", arguments.join(" "));
        Ok(bytes)
    })
}

fn main() -> anyhow::Result<()> {
    let (mut crf, mut deliver) = ("18".to_owned(), None);
    let mut arguments = std::env::args().skip(1);
    let folder = std::env::temp_dir().join(format!("watch-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    while let Some(argument) = arguments.next() {
        if argument == "--crf" {
            crf = arguments.next().context("--crf CRF")?;
            continue;
        }
        if argument == "--deliver" {
            let size = arguments.next().context("--deliver WxH")?;
            let (width, height) = size.split_once('x').context("--deliver WxH")?;
            deliver = Some((width.parse()?, height.parse()?));
            continue;
        }
        println!("{argument}, CRF {crf}: {}", watch(&argument, &crf, deliver, &folder)?);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn watch(
    name: &str,
    crf: &str,
    deliver: Option<(usize, usize)>,
    folder: &Path,
) -> anyhow::Result<String> {
    let y4m = ["-i", name, "-t", "10", "-r", "24", "-pix_fmt", "rgb24"];
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=width,height", name])
        .output()?;
    let probe = String::from_utf8(probe.stdout)?;
    let (width, height) = probe.trim().trim_end_matches(',').split_once(',').context("a size")?;
    let size: (usize, usize) = (width.parse()?, height.parse()?);
    let mut rgb = ffmpeg(&[&y4m[..], &["-f", "rawvideo", "pipe:1"]].concat(), None)?;
    let frame = size.0 * size.1 * 3;
    let frames = (rgb.len() / frame) as u32;
    let (key, mark) = (MasterKey([7; 32]).epoch(0), MarkId(0x5eed));
    let tile = key.tiles(mark).pixels;
    let mut marker = PictureMarker::new(&tile, size.0, size.1, Strength::Normal);
    rgb.chunks_exact_mut(frame).for_each(|frame| marker.mark(frame));
    let clip = folder.join("clip.mp4");
    let text = clip.to_str().context("a name")?;
    let shape = format!("{}x{}", size.0, size.1);
    let deliver = deliver.unwrap_or(size);
    let (width, height) = deliver;
    let colours = format!(
        "scale={width}:{height}:force_original_aspect_ratio=increase:out_color_matrix=bt709,crop={width}:{height}"
    );
    let encode = [
        &["-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", "24", "-video_size", &shape][..],
        &["-i", "pipe:0", "-i", name, "-map", "0:v", "-map", "1:a", "-vf", &colours],
        &["-c:v", "libx264", "-preset", "veryfast", "-crf", crf, "-g", "48"],
        &["-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "192k", "-ar", "48000"],
        &["-frames:v", &frames.to_string(), "-t", "10", "-movflags", "+faststart", text],
    ];
    ffmpeg(&encode.concat(), Some(&rgb))?;
    drop(rgb);
    let place = Place::delivered(size, deliver);
    let carried = Carried { key: &key, mark, place, size: deliver, frames };
    let expected = Expected { size: deliver, frames, rate: 24, sound: true };
    let (mut times, mut seen, mut in_doubt) = (Vec::new(), Vec::new(), 0);
    for run in 0..RUNS {
        let began = Instant::now();
        let draw = |below: u32| (run as u32 * 7 + 5) % below;
        let look = Look::at_one_of_each(carried, draw);
        let (look, heard) =
            film::watch(Path::new("ffmpeg"), &clip, expected, Duration::from_secs(60), look)?;
        let read = look.reading().read(&key).mark;
        let reading = Bands::of(&Loudness::of(&heard), 1.0, false).reading();
        std::hint::black_box(reading);
        times.push(began.elapsed().as_millis());
        ensure!(read == Some(mark), "it is not read");
        seen.extend(look.agreements());
        in_doubt += look.in_doubt().len();
    }
    times.sort_unstable();
    seen.sort_by(f32::total_cmp);
    Ok(format!(
        "{width}x{height}, {frames} frames: {}, {}, {} ms; agreement {:.1}, {:.1}; in doubt {in_doubt} of {}",
        times[0],
        times[RUNS / 2],
        times[RUNS - 1],
        seen[0],
        seen[seen.len() / 2],
        seen.len(),
    ))
}
