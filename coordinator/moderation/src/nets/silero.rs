//! Silero's voice activity net (MIT), as its sequence variant: how likely somebody speaks, 31 times a second.

use super::{Net, NetError, floats};
use crate::models::{ModelsError, NetName};
use rten::ThreadPool;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use zoetrope_protocol::id::ArtifactId;

/// Samples a window, at 16 kHz: 32 ms.
pub const WINDOW: usize = 512;
/// Old samples that the net sees before each window.
const BEFORE: usize = 64;
/// Numbers of each of the two states that go from window to window.
const STATE: usize = 128;
/// Windows of one run: 16 s, some megabytes.
const AT_ONCE: usize = 512;

/// The net.
pub struct Silero(Net);

impl Silero {
    /// Loads it.
    ///
    /// # Errors
    /// `ModelsError`.
    pub fn load(
        folder: &Path,
        digests: &BTreeMap<NetName, ArtifactId>,
        threads: &Arc<ThreadPool>,
    ) -> Result<Silero, ModelsError> {
        Ok(Silero(Net::load(folder, NetName::Silero, digests, threads)?))
    }

    /// How likely somebody speaks, 0 to 1, in each window of a sound of 16 kHz. The last window is filled up with
    /// silence.
    ///
    /// # Errors
    /// `NetError`.
    pub fn voice(&self, sound: &[f32]) -> Result<Vec<f32>, NetError> {
        let (mut hidden, mut cell) = (vec![0.0; STATE], vec![0.0; STATE]);
        let mut voice = Vec::new();
        let windows: Vec<usize> = (0..sound.len().div_ceil(WINDOW)).collect();
        for block in windows.chunks(AT_ONCE) {
            let rows = block.iter().flat_map(|window| row(sound, *window)).collect();
            let inputs = vec![
                ("input", floats([block.len(), BEFORE + WINDOW], rows)),
                ("h", floats([1, 1, STATE], hidden)),
                ("c", floats([1, 1, STATE], cell)),
            ];
            let outputs = self.0.run(inputs, &["speech_probs", "hn", "cn"])?;
            let shape = || self.0.error("it gave another shape than one number a window");
            let [found, h, c] = <[Vec<f32>; 3]>::try_from(outputs).map_err(|_| shape())?;
            if found.len() != block.len() || h.len() != STATE || c.len() != STATE {
                return Err(shape());
            }
            voice.extend(found);
            (hidden, cell) = (h, c);
        }
        Ok(voice)
    }
}

/// A window with what comes before it; silence where there is nothing.
fn row(sound: &[f32], window: usize) -> impl Iterator<Item = f32> + '_ {
    let first = window * WINDOW;
    (0..BEFORE + WINDOW).map(move |at| {
        let sample = (first + at).checked_sub(BEFORE).and_then(|at| sound.get(at));
        sample.copied().unwrap_or(0.0)
    })
}
