//! Times the bare model of a folder and prints the seconds as JSON.
//!
//! `cargo run --release -p zoetrope-worker --example bare -- worker/models/toybox 288x512 240 4 2`
//! (folder, canvas, frames, steps, threads).

use std::path::Path;
use zoetrope_protocol::RenderSpec;
use zoetrope_worker::bare;
use zoetrope_worker::model::h3::H3Engine;

fn main() -> anyhow::Result<()> {
    if std::env::var_os("NOKEEP").is_none() { zoetrope_worker::model::keep_freed_memory(); }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, canvas, frames, steps, threads] = words.as_slice() else {
        anyhow::bail!("expected: FOLDER WIDTHxHEIGHT FRAMES STEPS THREADS");
    };
    let canvas = canvas.parse()?;
    let spec = RenderSpec {
        model: "bare".into(),
        prompt: "a large red rubber ball bounces in the centre, on grass in daylight".into(),
        canvas,
        deliver: canvas,
        frames: frames.parse()?,
        seed: 1,
        steps: steps.parse()?,
        audio: true,
    };
    let (folder, threads) = (folder.clone(), threads.parse()?);
    // As in a worker: a thread of its own.
    let render = std::thread::spawn(move || -> anyhow::Result<bare::Timing> {
        let device = tch::Device::cuda_if_available();
        let mut engine = H3Engine::open(Path::new(&folder), device, threads)?;
        Ok(bare::time(&mut engine, &spec)?)
    });
    let timing = render.join().expect("the render does not panic")?;
    println!("{}", serde_json::to_string_pretty(&timing)?);
    Ok(())
}
