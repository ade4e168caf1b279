//! The bytes of artifacts between stages: safetensors with metadata, the same bytes for the same content.
//!
//! Owns the format and its checks. The `safetensors` crate keeps metadata in a hash map, whose order differs
//! from run to run, and an artifact is addressed by its bytes; so the header is written here, with sorted keys.

use super::Fault;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Named tensors with metadata.
#[derive(Debug, Default)]
pub struct Bundle {
    /// Words about the content, sorted by key.
    pub about: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

impl Bundle {
    /// Adds a tensor of f32 or bf16.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Takes a tensor out, on the CPU.
    ///
    /// # Errors
    /// `Fault::Input` if there is none of this name and shape; -1 stands for any length.
    pub fn remove(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, Fault> {
        let tensor =
            self.tensors.remove(name).ok_or_else(|| Fault::Input(format!("no tensor {name}")))?;
        let size = tensor.size();
        let fits = size.len() == shape.len()
            && size.iter().zip(shape).all(|(side, asked)| *asked == -1 || side == asked);
        if fits {
            return Ok(tensor);
        }
        Err(Fault::Input(format!("{name} has shape {size:?} instead of {shape:?}")))
    }

    /// The bytes: length of the header, header, tensors in the order of their names.
    ///
    /// # Errors
    /// `Fault::Torch` if a tensor cannot be copied to the CPU, `Fault::Input` if it has another type.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Fault> {
        let mut header = serde_json::Map::new();
        // serde_json keeps keys sorted, and `_` sorts before lower-case names.
        header.insert("__metadata__".into(), serde_json::json!(self.about));
        let mut length = 0;
        for (name, tensor) in &self.tensors {
            let (word, width) = match tensor.f_kind()? {
                Kind::Float => ("F32", 4),
                Kind::BFloat16 => ("BF16", 2),
                other => return Err(Fault::Input(format!("{name} is {other:?}"))),
            };
            let start = length;
            length += tensor.numel() * width;
            header.insert(
                name.clone(),
                serde_json::json!({
                    "dtype": word, "shape": tensor.size(), "data_offsets": [start, length],
                }),
            );
        }
        let mut text = serde_json::Value::Object(header).to_string();
        // The data starts at a multiple of eight; the format allows trailing spaces.
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let mut bytes = vec![0; 8 + text.len() + length];
        let (head, mut data) = bytes.split_at_mut(8 + text.len());
        head[..8].copy_from_slice(&(text.len() as u64).to_le_bytes());
        head[8..].copy_from_slice(text.as_bytes());
        for tensor in self.tensors.values() {
            let tensor = tensor.f_to(Device::Cpu)?.f_contiguous()?;
            let place = data.split_off_mut(..tensor.numel() * tensor.f_kind()?.elt_size_in_bytes());
            let place = place.ok_or_else(|| Fault::Input("a tensor changed its size".into()))?;
            tensor.f_copy_data_u8(place, tensor.numel())?;
        }
        Ok(bytes)
    }

    /// Reads what [`Bundle::to_bytes`], or any writer of the format, made.
    ///
    /// # Errors
    /// `Fault::Input` if the bytes are no such file, or hold another type than f32 and bf16.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        let bad = |error: safetensors::SafeTensorError| Fault::Input(error.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(bad)?;
        let about = header.metadata().iter().flatten();
        let about = about.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(bad)?.tensors() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::BF16 => Kind::BFloat16,
                Dtype::I64 => Kind::Int64,
                Dtype::F64 => Kind::Double,
                other => return Err(Fault::Input(format!("{name} is {other:?}"))),
            };
            let shape: Vec<i64> = view.shape().iter().map(|side| *side as i64).collect();
            tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Bundle { about, tensors })
    }

    /// The metadata value of `key`.
    ///
    /// # Errors
    /// `Fault::Input` if there is none.
    pub fn word(&self, key: &str) -> Result<&str, Fault> {
        self.about
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| Fault::Input(format!("the artifact does not say its {key}")))
    }

    /// Checks one metadata value.
    ///
    /// # Errors
    /// `Fault::Input` if it is missing or another one.
    pub fn expect(&self, key: &str, value: &str) -> Result<(), Fault> {
        let found = self.word(key)?;
        if found == value {
            return Ok(());
        }
        Err(Fault::Input(format!("the artifact's {key} is {found}, expected {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::default();
        for (key, value) in [("step", "2"), ("kind", "latents"), ("of", "me")] {
            bundle.about.insert(key.into(), value.into());
        }
        bundle.insert("video", Tensor::f_from_slice(&[1.5f32, -2.0, 0.25]).unwrap());
        let audio = Tensor::f_from_slice(&[3.0f32]).unwrap();
        bundle.insert("audio", audio.to_kind(Kind::BFloat16));
        bundle
    }

    #[test]
    fn the_same_content_has_the_same_bytes_and_is_read_back() {
        let bytes = bundle().to_bytes().unwrap();
        assert_eq!(bytes, bundle().to_bytes().unwrap());
        let mut back = Bundle::from_bytes(&bytes).unwrap();
        assert_eq!(back.to_bytes().unwrap(), bytes);
        back.expect("kind", "latents").unwrap();
        assert_eq!(back.remove("video", &[3]).unwrap().double_value(&[1]), -2.0);
        assert_eq!(back.remove("audio", &[-1]).unwrap().kind(), Kind::BFloat16);
    }

    #[test]
    fn what_does_not_fit_is_bad_input() {
        let bytes = bundle().to_bytes().unwrap();
        assert!(matches!(Bundle::from_bytes(&bytes[..bytes.len() - 1]), Err(Fault::Input(_))));
        assert!(matches!(Bundle::from_bytes(b"hello"), Err(Fault::Input(_))));
        let mut bundle = bundle();
        assert!(matches!(bundle.expect("step", "3"), Err(Fault::Input(_))));
        assert!(matches!(bundle.remove("video", &[4]), Err(Fault::Input(_))));
    }
}
