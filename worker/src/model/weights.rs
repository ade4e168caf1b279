//! Reads the tensors of one network from memory-mapped safetensors files, and accounts for every key.
//!
//! A missing key, a key that nobody takes, another shape, another stored type: all are collected and told at
//! once by [`Weights::finish`]. Bytes are copied once, from the map to the device. [`Weights::listing`] gives
//! tensors without storage instead, so that a config of any size can tell its keys without memory, and so does
//! [`Weights::heads`], which holds them against a folder.

use super::Fault;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, TchError, Tensor};

/// The type that a network computes a tensor in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// f32.
    Wide,
    /// bf16, or f32 where everything runs in f32.
    Narrow,
}

/// What type the tensors of a run have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the table of the network says: bf16 blocks, f32 where it matters.
    Mixed,
    /// f32 everywhere, for the parity tests.
    Full,
}

impl Precision {
    /// What is quickest on a device.
    pub fn of(device: Device) -> Precision {
        if device == Device::Cpu { Precision::of_processor() } else { Precision::Mixed }
    }

    /// What is quickest on this processor: bf16 is emulated where it is not built in. Held to AVX2, a product took four
    /// times as long as in f32, and a decode in mixed precision nine times.
    pub fn of_processor() -> Precision {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512bf16") {
            return Precision::Mixed;
        }
        Precision::Full
    }

    /// The type of `width` in this precision.
    pub fn kind(self, width: Width) -> Kind {
        match (self, width) {
            (Precision::Mixed, Width::Narrow) => Kind::BFloat16,
            _ => Kind::Float,
        }
    }
}

/// Key and shape of one tensor.
pub type Key = (String, Vec<i64>);

struct Stored {
    map: usize,
    dtype: Dtype,
    shape: Vec<i64>,
    start: usize,
    end: usize,
}

/// What stands behind the tensors that are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// No file.
    Nothing,
    /// The heads of files: key, shape and stored type are compared, and no tensor is read.
    Heads,
    /// Files.
    Tensors,
}

/// The tensors of one network, taken one by one by name.
pub struct Weights {
    maps: Vec<Mmap>,
    stored: BTreeMap<String, Stored>,
    behind: Behind,
    device: Device,
    precision: Precision,
    widths: fn(&str) -> Width,
    taken: RefCell<Vec<Key>>,
    problems: RefCell<Vec<String>>,
}

impl Weights {
    /// Maps the safetensors files of `folder`: those of its index, or its only one.
    ///
    /// `widths` is the network's table of types, by key.
    ///
    /// # Errors
    /// `Fault::File` if there is none, or one is damaged.
    pub fn open(
        folder: &Path,
        device: Device,
        precision: Precision,
        widths: fn(&str) -> Width,
    ) -> Result<Self, Fault> {
        let behind = Behind::Tensors;
        let mut weights = Weights { behind, device, precision, widths, ..Weights::listing() };
        weights.map_all(folder)?;
        Ok(weights)
    }

    /// As [`Weights::open`], to hold a network against the heads of the files: no byte of a tensor is read.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn heads(folder: &Path) -> Result<Self, Fault> {
        let mut weights = Weights { behind: Behind::Heads, ..Weights::listing() };
        weights.map_all(folder)?;
        Ok(weights)
    }

    fn map_all(&mut self, folder: &Path) -> Result<(), Fault> {
        shards(folder)?.into_iter().try_for_each(|name| self.map(&folder.join(name)))
    }

    /// A source that knows no file: it gives tensors of the asked shapes that share one zero, and remembers
    /// what was asked for.
    pub fn listing() -> Self {
        Weights {
            maps: Vec::new(),
            stored: BTreeMap::new(),
            behind: Behind::Nothing,
            device: Device::Cpu,
            precision: Precision::Full,
            widths: |_| Width::Wide,
            taken: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    fn map(&mut self, path: &Path) -> Result<(), Fault> {
        let file = std::fs::File::open(path).map_err(|error| Fault::file(path, error))?;
        // SAFETY: the map is only read. A model folder is not changed while a worker serves it; if someone
        // truncates a file nevertheless, the process dies with SIGBUS, and the attempt is tried elsewhere.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(|error| Fault::file(path, error))?;
        let parsed = SafeTensors::deserialize(&map).map_err(|error| Fault::file(path, error))?;
        let index = self.maps.len();
        let base = map.as_ptr() as usize;
        for (name, view) in parsed.tensors() {
            let start = view.data().as_ptr() as usize - base;
            let stored = Stored {
                map: index,
                dtype: view.dtype(),
                shape: view.shape().iter().map(|side| *side as i64).collect(),
                start,
                end: start + view.data().len(),
            };
            if self.stored.insert(name.clone(), stored).is_some() {
                return Err(Fault::file(path, format!("{name} stands in two shards")));
            }
        }
        self.maps.push(map);
        Ok(())
    }

    /// The keys that start with nothing: the root of the network.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }

    /// Bytes of all stored tensors.
    pub fn bytes(&self) -> u64 {
        self.stored.values().map(|stored| (stored.end - stored.start) as u64).sum()
    }

    /// Ends the loading: everything must have been found as asked, and every stored key taken, save those that
    /// `ignored` accepts. Returns what was taken, in the order of asking.
    ///
    /// # Errors
    /// `Fault::Weights` with a sentence for each difference.
    pub fn finish(self, ignored: impl Fn(&str) -> bool) -> Result<Vec<Key>, Fault> {
        let taken = self.taken.into_inner();
        let mut problems = self.problems.into_inner();
        let names: std::collections::BTreeSet<_> = taken.iter().map(|(name, _)| name).collect();
        for name in self.stored.keys() {
            if !names.contains(name) && !ignored(name) {
                problems.push(format!("unused key {name}"));
            }
        }
        if problems.is_empty() { Ok(taken) } else { Err(Fault::Weights(problems)) }
    }

    fn take(&self, name: String, shape: &[i64], width: Width) -> Result<Tensor, TchError> {
        self.taken.borrow_mut().push((name.clone(), shape.to_vec()));
        let kind = self.precision.kind(width);
        if self.behind == Behind::Nothing {
            return placeholder(shape, kind, self.device);
        }
        let found = self.stored.get(&name).ok_or_else(|| format!("missing key {name}"));
        let checked = found.and_then(|stored| Ok((stored, stored.check(&name, shape)?)));
        match checked {
            Ok(_) if self.behind == Behind::Heads => placeholder(shape, kind, self.device),
            Ok((stored, stored_kind)) => {
                let bytes = &self.maps[stored.map][stored.start..stored.end];
                let tensor = Tensor::f_from_data_size(bytes, shape, stored_kind)?;
                tensor.f_to(self.device)?.f_to_dtype(kind, false, false)
            }
            Err(problem) => {
                self.problems.borrow_mut().push(problem);
                placeholder(shape, kind, self.device)
            }
        }
    }
}

impl Stored {
    fn check(&self, name: &str, shape: &[i64]) -> Result<Kind, String> {
        if self.shape != shape {
            return Err(format!("{name} has shape {:?} instead of {shape:?}", self.shape));
        }
        match self.dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::BF16 => Ok(Kind::BFloat16),
            Dtype::F16 => Ok(Kind::Half),
            other => Err(format!("{name} is stored as {other:?}, not as F32, BF16 or F16")),
        }
    }
}

/// One zero, seen as a tensor of any shape.
fn placeholder(shape: &[i64], kind: Kind, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_zeros([1], (kind, device))?.f_expand(shape, false)
}

/// A name prefix of [`Weights`], so that each key is written once, beside the layer that owns it.
#[derive(Clone)]
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Scope<'_> {
    /// The scope one level down.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Scope { weights: self.weights, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Whether there are only keys and shapes, and nothing may be computed.
    pub fn is_listing(&self) -> bool {
        self.weights.behind != Behind::Tensors
    }

    /// The tensor of this name, in the type of the network's table.
    ///
    /// # Errors
    /// Only if torch fails: what is missing or different is told by [`Weights::finish`].
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, TchError> {
        let name = format!("{}{name}", self.prefix);
        let width = (self.weights.widths)(&name);
        self.weights.take(name, shape, width)
    }

    /// The weight of a weight-normalised convolution, folded: `g · v / |v|`, the norm over all but the first
    /// dimension.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn weight_norm(&self, shape: &[i64; 3]) -> Result<Tensor, TchError> {
        let direction = self.tensor("weight_v", shape)?;
        let length = self.tensor("weight_g", &[shape[0], 1, 1])?;
        if self.is_listing() {
            return Ok(direction);
        }
        let norm = direction.f_norm_scalaropt_dim(2.0, [1, 2], true)?;
        direction.f_mul(&length)?.f_div(&norm)
    }
}

/// The files that hold a folder's tensors.
fn shards(folder: &Path) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(|error| Fault::file(folder, error))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    if let Some(index) = names.iter().find(|name| name.ends_with(".safetensors.index.json")) {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let index: Index = super::read_json(&folder.join(index))?;
        let mut shards: Vec<String> = index.weight_map.into_values().collect();
        shards.sort();
        shards.dedup();
        return Ok(shards);
    }
    names.retain(|name| name.ends_with(".safetensors"));
    match names.len() {
        1 => Ok(names),
        0 => Err(Fault::file(folder, "no safetensors file")),
        _ => Err(Fault::file(folder, "several safetensors files and no index")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::artifact::Bundle;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut bundle = Bundle::default();
        let values = Tensor::f_from_slice(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        bundle.insert("a.weight", values.reshape([2, 2]));
        bundle.insert("b", values);
        std::fs::write(folder.path().join("model.safetensors"), bundle.to_bytes().unwrap())
            .unwrap();
        folder
    }

    fn open(folder: &Path) -> Weights {
        Weights::open(folder, Device::Cpu, Precision::Mixed, |_| Width::Narrow).unwrap()
    }

    #[test]
    fn every_difference_is_told_at_once() {
        let folder = folder();
        let weights = open(folder.path());
        let _ = weights.root().at("a").tensor("weight", &[4]).unwrap();
        let _ = weights.root().tensor("c", &[1]).unwrap();
        let error = weights.finish(|_| false).unwrap_err().to_string();
        for part in ["a.weight has shape [2, 2]", "missing key c", "unused key b"] {
            assert!(error.contains(part), "{error}");
        }
    }

    /// Promise: the heads alone tell every difference, and no tensor is read for that.
    #[test]
    fn heads_tell_what_tensors_would() {
        let folder = folder();
        let weights = Weights::heads(folder.path()).unwrap();
        let tensor = weights.root().at("a").tensor("weight", &[2, 2]).unwrap();
        assert_eq!((tensor.size(), tensor.double_value(&[1, 0])), (vec![2, 2], 0.0));
        let _ = weights.root().tensor("b", &[5]).unwrap();
        let _ = weights.root().tensor("c", &[1]).unwrap();
        let error = weights.finish(|_| false).unwrap_err().to_string();
        for part in ["b has shape [4]", "missing key c"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn tensors_come_in_the_type_of_the_table() {
        let folder = folder();
        let weights = open(folder.path());
        let tensor = weights.root().at("a").tensor("weight", &[2, 2]).unwrap();
        assert_eq!(tensor.kind(), Kind::BFloat16);
        assert_eq!(tensor.double_value(&[1, 0]), 3.0);
        assert_eq!(weights.finish(|name| name == "b").unwrap().len(), 1);
    }
}
