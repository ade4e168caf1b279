//! A journal in a folder of this machine: segments and snapshot files.

use super::log::{Form, Log, Save};
use super::recovery::{removable, segment_path};
use super::segment::Segment;
use super::{JournalError, numbered, snapshot};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder, its lock, and the segment that is being written.
pub(super) struct DiskLog {
    folder: PathBuf,
    _lock: File,
    segment: Segment,
}

impl DiskLog {
    /// Goes on in a segment.
    pub(super) fn resume(folder: &Path, lock: File, segment: Segment) -> DiskLog {
        DiskLog { folder: folder.to_owned(), _lock: lock, segment }
    }

    /// Begins with a segment whose first record is `next`.
    pub(super) fn create(folder: &Path, lock: File, next: u64) -> Result<DiskLog, JournalError> {
        let segment = new_segment(folder, next)?;
        Ok(DiskLog::resume(folder, lock, segment))
    }
}

impl Log for DiskLog {
    fn append(&mut self, first: u64, bodies: &[Vec<u8>]) -> Result<u64, JournalError> {
        self.segment.append(first, bodies)
    }

    /// Records from here on go to a new segment, so that the old ones can leave once the snapshot is safe.
    fn begin_snapshot(&mut self, through: u64) -> Result<Save, JournalError> {
        if !segment_path(&self.folder, through + 1).exists() {
            self.segment = new_segment(&self.folder, through + 1)?;
        }
        let folder = self.folder.clone();
        Ok(Box::new(move |body| snapshot::write(&folder, through, &body(Form::Whole)?.live)))
    }

    /// Keeps two snapshots, and the segments that the older one needs.
    fn forget(&mut self) -> Result<(), JournalError> {
        let folder = &self.folder;
        let write = |e: std::io::Error| JournalError::Write(e.to_string());
        let firsts = numbered(folder, super::recovery::PREFIX)?;
        let (snapshots, segments) = removable(&snapshot::list(folder)?, &firsts);
        for seq in snapshots {
            std::fs::remove_file(snapshot::path(folder, seq)).map_err(write)?;
        }
        for first in segments {
            std::fs::remove_dir_all(segment_path(folder, first)).map_err(write)?;
        }
        Ok(())
    }
}

fn new_segment(folder: &Path, first: u64) -> Result<Segment, JournalError> {
    let path = segment_path(folder, first);
    let segment = Segment::open(&path)?;
    snapshot::sync_folder(&path)
        .and_then(|()| snapshot::sync_folder(folder))
        .map_err(|e| JournalError::Write(e.to_string()))?;
    Ok(segment)
}
