//! The last step of a clip: its manifest goes into the file, and the farm's signature into the manifest.
//!
//! Knows no signer: the caller has the claim signed between [`Sealing::begin`] and [`Sealing::complete`].

use super::sink::file;
use super::{FinishError, FinishedClip, TempFolder, Waiting};
use crate::link::stream::Payload;
use std::path::{Path, PathBuf};
use zoetrope_protocol::provenance::Terms;
use zoetrope_provenance::{Draft, build};

/// A clip whose manifest waits for its signature.
pub struct Sealing {
    clip: FinishedClip,
    draft: Draft,
    signed: PathBuf,
    // Last, so that the files go when nothing needs them any more.
    folder: TempFolder,
}

impl Sealing {
    /// Writes a copy of the clip with a manifest that says `terms`.
    ///
    /// # Errors
    /// `Manifest`, `Disk`.
    pub fn begin(
        mut clip: FinishedClip,
        terms: &Terms,
        temp: &Path,
    ) -> Result<Sealing, FinishError> {
        let folder = match clip.folder.take() {
            Some(folder) => folder,
            None => TempFolder::new(temp)?,
        };
        let unsigned = match &clip.clip.payload {
            Payload::File { path, .. } => path.to_path_buf(),
            Payload::Memory(bytes) => {
                let path = folder.path.join("clip.mp4");
                std::fs::write(&path, bytes)
                    .map_err(|source| FinishError::Disk { doing: "writing the clip", source })?;
                path
            }
        };
        let signed = folder.path.join("signed.mp4");
        let draft = build::draft(terms, None, &unsigned, &signed)?;
        Ok(Sealing { clip, draft, signed, folder })
    }

    /// Waits for what the classifiers are still at.
    ///
    /// # Errors
    /// As [`FinishedClip::scored_while`].
    pub fn scored(self, waiting: Waiting<'_>) -> Result<Sealing, FinishError> {
        Ok(Sealing { clip: self.clip.scored_while(waiting)?, ..self })
    }

    /// The clip, whose file has no manifest yet.
    pub fn clip(&self) -> &FinishedClip {
        &self.clip
    }

    /// The manifest store, for the signer.
    pub fn manifest(&self) -> &[u8] {
        &self.draft.manifest
    }

    /// Puts the signature in. The clip is then final.
    ///
    /// # Errors
    /// `Manifest` if it does not fit, `Disk`.
    pub fn complete(self, signature: &[u8]) -> Result<FinishedClip, FinishError> {
        let Sealing { mut clip, draft, signed, folder } = self;
        draft.complete(signature)?;
        clip.clip = file(&signed)?;
        clip.folder = Some(folder);
        Ok(clip)
    }
}
