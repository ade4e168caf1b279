//! The invisible watermark: keys, payload, embedding and detection.
//!
//! One definition for both sides: the worker embeds finished tiles and reads them back from the encoded file, the
//! coordinator has the keys, makes tiles and reads ids. Plain Rust without libtorch, because the coordinator never
//! links it and marking runs beside the gpu thread, not on it. Knows no jobs. `README.md` has the measures.

pub mod agree;
mod code;
pub mod colour;
mod fft;
pub mod film;
pub mod key;
pub mod picture;
pub mod reading;
pub mod search;
pub mod sound;
mod spectrum;
pub mod still;
pub mod stretch;

pub use key::{MarkId, MarkKey, MasterKey, Tiles};
pub use reading::{PictureReading, SoundReading};
