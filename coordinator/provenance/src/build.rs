//! Writes a manifest into a finished MP4. Called on the worker, which may block.
//!
//! The library wants the signature while it writes, and the signer wants the whole manifest before it signs. So
//! the file is written with a placeholder of the signature's exact length, and [`Draft::complete`] puts the
//! signature in its place: the manifest's own box is not part of the hash over the file.

use crate::BuildError;
use crate::words;
use c2pa::assertions::DigitalSourceType;
use c2pa::{Builder, BuilderIntent, Context, Signer, SigningAlg};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use zoetrope_protocol::provenance::{Origin, Terms};

/// Bytes at the front of the placeholder by which it is found again.
const PATTERN_BYTES: usize = 32;

/// The clip that this one was made from.
pub struct Parent<'a> {
    /// Its file, with its own manifest.
    pub file: &'a Path,
}

/// A file whose manifest lacks nothing but the signature.
pub struct Draft {
    /// The manifest store, for the signer.
    pub manifest: Vec<u8>,
    file: PathBuf,
    /// Where the signature goes.
    at: u64,
    bytes: usize,
}

/// Stands where the library wants a signer, and gives it the placeholder.
struct Placeholder(Vec<u8>);

impl Signer for Placeholder {
    fn sign(&self, _claim: &[u8]) -> c2pa::Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn alg(&self) -> SigningAlg {
        SigningAlg::Es256
    }

    fn certs(&self) -> c2pa::Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn reserve_size(&self) -> usize {
        self.0.len()
    }

    /// The whole COSE structure is made by the signer, certificates included.
    fn direct_cose_handling(&self) -> bool {
        true
    }
}

/// Writes `source` with a manifest that says `terms` to `target`.
///
/// # Errors
/// `Library` if the MP4 or the terms cannot be used; `Disk`.
pub fn draft(
    terms: &Terms,
    parent: Option<&Parent<'_>>,
    source: &Path,
    target: &Path,
) -> Result<Draft, BuildError> {
    let library = |error: c2pa::Error| BuildError::Library(error.to_string());
    let settings = json!({
        "builder": { "thumbnail": { "enabled": false }, "generate_c2pa_archive": false },
        // The placeholder is no signature; the stored bytes are verified by the gate.
        "verify": { "verify_after_sign": false, "remote_manifest_fetch": false, "ocsp_fetch": false },
    });
    let context = Context::new().with_settings(settings.to_string().as_str()).map_err(library)?;
    let definition = words::definition(terms).to_string();
    let mut builder =
        Builder::from_context(context).with_definition(definition.as_str()).map_err(library)?;
    match (&terms.origin, parent) {
        (Origin::Generated, None) => {
            let made = BuilderIntent::Create(DigitalSourceType::TrainedAlgorithmicMedia);
            builder.set_intent(made);
        }
        (Origin::Edited { parent: id }, Some(parent)) => {
            builder.set_intent(BuilderIntent::Edit);
            let ingredient = json!({
                "title": format!("{id}.mp4"),
                "relationship": "parentOf",
                "label": "parent",
            });
            let mut file = File::open(parent.file)?;
            builder
                .add_ingredient_from_stream(ingredient.to_string(), words::FORMAT, &mut file)
                .map_err(library)?;
            builder
                .add_action(json!({
                    "action": "c2pa.edited",
                    "digitalSourceType": words::SOURCE_TYPE,
                    "parameters": { "ingredientIds": ["parent"] },
                }))
                .map_err(library)?;
        }
        _ => {
            return Err(BuildError::Library("a parent without an edit, or an edit without".into()));
        }
    }
    let placeholder = placeholder(terms.signature_bytes as usize)?;
    let mut from = File::open(source)?;
    let mut to = File::options().read(true).write(true).create(true).truncate(true).open(target)?;
    let signer = Placeholder(placeholder);
    let manifest = builder.sign(&signer, words::FORMAT, &mut from, &mut to).map_err(library)?;
    let at = find(&mut to, &signer.0[..PATTERN_BYTES], manifest.len())?;
    Ok(Draft { manifest, file: target.to_owned(), at, bytes: signer.0.len() })
}

/// Random bytes, which occur nowhere else in the file.
fn placeholder(bytes: usize) -> Result<Vec<u8>, BuildError> {
    if bytes <= PATTERN_BYTES {
        return Err(BuildError::Signature(format!("{bytes} bytes hold no signature")));
    }
    let mut placeholder = vec![0; bytes];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut placeholder[..PATTERN_BYTES]);
    Ok(placeholder)
}

/// The manifest stands right behind the file's type box, so the pattern is near the front.
fn find(file: &mut File, pattern: &[u8], manifest_bytes: usize) -> Result<u64, BuildError> {
    const TYPE_BYTES_MAX: usize = 4 << 10;
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take((manifest_bytes + TYPE_BYTES_MAX) as u64).read_to_end(&mut head)?;
    let mut found = (0..=head.len().saturating_sub(pattern.len()))
        .filter(|at| head[*at..].starts_with(pattern));
    match (found.next(), found.next()) {
        (Some(at), None) => Ok(at as u64),
        _ => Err(BuildError::Signature("its room is not found in the file".into())),
    }
}

impl Draft {
    /// Puts the signature into its room. The file is then final.
    ///
    /// # Errors
    /// `Signature` if it is not exactly as long as the room; `Disk`.
    pub fn complete(self, signature: &[u8]) -> Result<(), BuildError> {
        if signature.len() != self.bytes {
            let (got, room) = (signature.len(), self.bytes);
            return Err(BuildError::Signature(format!("{got} bytes for a room of {room}")));
        }
        let mut file = File::options().write(true).open(&self.file)?;
        file.seek(SeekFrom::Start(self.at))?;
        file.write_all(signature)?;
        file.flush()?;
        Ok(())
    }
}
