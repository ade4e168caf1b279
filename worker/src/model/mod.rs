//! The models: networks, weights, noise, and the artifacts between stages.
//!
//! Owns everything that names torch, besides the gpu thread and the thread that listens. Never async, never reads a clock, the environment
//! or a global seed: a stage is a function of its order and its input artifacts. Called through
//! [`crate::engine::Engine`] from the gpu thread, and from `zoetrope-worker render`.

pub mod artifact;
pub mod h3;
pub mod nn;
pub mod noise;
pub mod onnx;
pub mod rope;
pub mod weights;
pub mod whisper;

use crate::engine::{Engine, EngineError};
use std::path::{Path, PathBuf};
use tch::TchError;

/// What went wrong inside a stage.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Torch refused or failed.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// A file of the model folder cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The weights are not those that the config asks for. Lists every difference.
    #[error("{}", .0.join("; "))]
    Weights(Vec<String>),
    /// An input artifact or a spec that does not fit.
    #[error("{0}")]
    Input(String),
    /// Values that are no numbers.
    #[error("{0} are not finite")]
    NotFinite(&'static str),
}

impl Fault {
    pub(crate) fn file(path: &Path, reason: impl ToString) -> Self {
        Fault::File { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// The one error of the model code: where, and why.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {source}")]
pub struct ModelError {
    /// The stage, such as `denoise`.
    pub stage: &'static str,
    /// The reason.
    pub source: Fault,
}

impl ModelError {
    /// Names the stage of a fault; made for `map_err`.
    pub fn at<F: Into<Fault>>(stage: &'static str) -> impl FnOnce(F) -> ModelError {
        move |fault| ModelError { stage, source: fault.into() }
    }
}

/// What torch's allocators say, and the libraries that ask the device for memory of their own.
const OUT_OF_MEMORY: [&str; 4] = [
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
];

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        let stage = error.stage;
        match error.source {
            Fault::Input(reason) => EngineError::BadInput(reason),
            // Torch has one error type.
            Fault::Torch(TchError::Torch(text))
                if OUT_OF_MEMORY.iter().any(|words| text.contains(words)) =>
            {
                EngineError::OutOfMemory { stage }
            }
            source => EngineError::Failed { stage, reason: source.to_string() },
        }
    }
}

/// Lets the C allocator keep what torch frees, instead of handing it to the kernel and back for every tensor.
///
/// On the CPU a large tensor is otherwise mapped and zeroed anew each time: a quarter of a render. To be called
/// first in `main`: threads that exist already stay with arenas of their own, which hold no large tensor. Does
/// nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const KEEP_BYTES: libc::c_int = 1 << 30;
        // SAFETY: mallopt takes two integers, locks the allocator itself, and refuses values that it cannot use.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEEP_BYTES);
        }
    }
}

/// Opens a model folder with its family's engine, on the first gpu if torch sees one, with all cores.
///
/// # Errors
/// `ModelError` of stage `open` if the folder is no model of a family that this worker knows; of stage `fingerprint` if a
/// file cannot be read.
pub fn open(folder: &Path) -> Result<Box<dyn Engine>, ModelError> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let device = tch::Device::cuda_if_available();
    Ok(Box::new(h3::H3Engine::open(
        folder,
        crate::fingerprint::of(folder, None)?,
        device,
        threads,
    )?))
}

/// Reads `manifest.json` of a model folder.
///
/// # Errors
/// `ModelError` of stage `open` if it is missing or says something else than a manifest does.
pub fn manifest(folder: &Path) -> Result<zoetrope_protocol::model::Manifest, ModelError> {
    read_json(&folder.join("manifest.json")).map_err(ModelError::at("open"))
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let bytes = std::fs::read(path).map_err(|error| Fault::file(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Fault::file(path, error))
}

/// The files of a model folder that decide what it renders.
pub(crate) fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Fault> {
    for entry in std::fs::read_dir(folder).map_err(|error| Fault::file(folder, error))? {
        let path = entry.map_err(|error| Fault::file(folder, error))?.path();
        if path.is_dir() {
            list_files(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "safetensors" || end == "json") {
            files.push(path);
        }
    }
    Ok(())
}
