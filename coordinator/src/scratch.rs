//! Files that are of no use after a restart: they go when they are dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of such files.
#[derive(Clone, Debug)]
pub struct ScratchFolder(Arc<PathBuf>);

/// A name in it that nobody else uses, and the file of that name, if it was written.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl ScratchFolder {
    /// Makes it, empty: what an earlier process left there goes. Blocking.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn open(path: &Path) -> std::io::Result<ScratchFolder> {
        if path.exists() {
            std::fs::remove_dir_all(path)?;
        }
        std::fs::create_dir_all(path)?;
        Ok(ScratchFolder(Arc::new(path.to_owned())))
    }

    /// A new name for a clip.
    pub fn clip(&self) -> Scratch {
        Scratch(self.0.join(format!("{:032x}.mp4", rand::random::<u128>())))
    }
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a temporary file stays until the next start");
        }
    }
}
