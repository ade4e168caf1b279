//! Scores texts or frames from standard input, for `scripts/moderation/evaluate`.
//!
//!     score texts < lines.txt          one text a line; a JSON object of scores for each
//!     score frames WIDTH HEIGHT        raw RGB frames; a JSON object of scores and milliseconds for each
//!     score faces WIDTH HEIGHT         raw RGB frames; the score of the surest face for each
//!
//! The policy and nets are the built-in ones, or `--policy FILE` in front.

use image::RgbImage;
use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Read, Write, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use zoetrope_moderation::{Classifier, Engine, NetClassifier, Policy, models};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut policy = Policy::built_in()?;
    if args.first().is_some_and(|arg| arg == "--policy") && args.len() > 1 {
        policy = Policy::read(Path::new(&args[1]))?;
        args.drain(..2);
    }
    let folder = models::find(None);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["texts"] => texts(policy, &folder),
        ["frames", width, height] => frames(&policy, &folder, width.parse()?, height.parse()?),
        ["faces", width, height] => faces(policy, &folder, width.parse()?, height.parse()?),
        _ => Err("texts, frames WIDTH HEIGHT, or faces WIDTH HEIGHT".into()),
    }
}

fn texts(policy: Policy, folder: &Path) -> Result<(), Box<dyn Error>> {
    let engine = Engine::load(Arc::new(policy), folder)?;
    let mut out = stdout().lock();
    for line in stdin().lock().lines() {
        let line = line?;
        let began = Instant::now();
        let scores = engine.score_texts(&[&line])?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let scores: BTreeMap<&str, u16> =
            scores.into_iter().map(|(category, score)| (category.word(), score)).collect();
        writeln!(out, "{}", json!({"scores": scores, "ms": ms}))?;
    }
    Ok(())
}

fn pictures(width: u32, height: u32) -> impl Iterator<Item = RgbImage> {
    let mut input = stdin().lock();
    std::iter::from_fn(move || {
        let mut bytes = vec![0; (width * height * 3) as usize];
        input.read_exact(&mut bytes).ok()?;
        RgbImage::from_raw(width, height, bytes)
    })
}

fn frames(policy: &Policy, folder: &Path, width: u32, height: u32) -> Result<(), Box<dyn Error>> {
    let nets = NetClassifier::load(folder, &policy.models, 1)?;
    let mut out = stdout().lock();
    for picture in pictures(width, height) {
        let began = Instant::now();
        let seen = nets.score_one(&picture)?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let line =
            json!({"nsfw": seen.nsfw, "explicit": seen.explicit, "gore": seen.gore, "ms": ms});
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn faces(policy: Policy, folder: &Path, width: u32, height: u32) -> Result<(), Box<dyn Error>> {
    let engine = Engine::load(Arc::new(policy), folder)?;
    let mut out = stdout().lock();
    for picture in pictures(width, height) {
        let began = Instant::now();
        let face = engine.face(std::slice::from_ref(&picture))?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        writeln!(out, "{}", json!({"face": face, "ms": ms}))?;
    }
    Ok(())
}
