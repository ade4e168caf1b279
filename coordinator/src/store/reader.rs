//! The door's handle on the store: gives out published files, and none that is not what was published.
//!
//! Before a file goes out it is held against its address once, and again when the store says that it was written since,
//! or after an hour. So what was changed behind the farm's back does not go out, and what rots on a disk not for long.

use super::{Store, StoreError};
use crate::farm::AssetReader;
use crate::jobs::Asset;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use zoetrope_protocol::id::ArtifactId;

/// A file that was right is believed to be so for this time, if the store says that nobody wrote it.
const HOLDS: Duration = Duration::from_secs(3_600);
/// Files that are remembered as right: 8 MB. When there are more, all are read anew.
const REMEMBERED_MAX: usize = 65_536;

/// A file that is written anew while it is read is read so often: once is enough, and twice a coincidence.
const TRIES: usize = 3;

/// What tells that an object was written anew: its size, the time, and what the service calls its content.
type Version = (u64, i64, Option<String>);

/// Reads published files.
pub struct StoreReader(Arc<Reader>);

struct Reader {
    store: Arc<Store>,
    right: Mutex<HashMap<ArtifactId, (Version, Instant)>>,
}

impl StoreReader {
    /// Of this store.
    pub fn new(store: Arc<Store>) -> StoreReader {
        StoreReader(Arc::new(Reader { store, right: Mutex::default() }))
    }
}

impl AssetReader for StoreReader {
    fn read(&self, asset: &Asset, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        let (reader, asset) = (self.0.clone(), asset.clone());
        let open = async move { reader.open(&asset, range).await.map_err(error) };
        futures::stream::once(open).try_flatten().boxed()
    }
}

impl Reader {
    async fn open(
        &self,
        asset: &Asset,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, StoreError> {
        for _ in 0..TRIES {
            let (meta, stream) = self.store.get_with(&asset.artifact, Some(range.clone())).await?;
            let version = version(&meta);
            if self.is_right(&asset.artifact, &version) {
                return Ok(stream.map_err(error).boxed());
            }
            drop(stream);
            self.store.verify(&asset.artifact, asset.bytes).await?;
            self.keep(asset.artifact, version);
        }
        // Right each time it was read, and written anew each time since: nobody of ours does that.
        Err(StoreError::WrongDigest)
    }

    fn is_right(&self, artifact: &ArtifactId, version: &Version) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        let known = right.get(artifact);
        known.is_some_and(|(known, at)| known == version && at.elapsed() < HOLDS)
    }

    fn keep(&self, artifact: ArtifactId, version: Version) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED_MAX {
            right.clear();
        }
        right.insert(artifact, (version, Instant::now()));
    }
}

fn version(meta: &ObjectMeta) -> Version {
    let written = meta.last_modified.timestamp_nanos_opt().unwrap_or_default();
    (meta.size, written, meta.e_tag.clone())
}

/// For whoever answers a caller: `NotFound` for a file that is lost, `InvalidData` for one that is damaged, anything else
/// may pass.
fn error(error: StoreError) -> Error {
    let kind = match error {
        StoreError::Missing => ErrorKind::NotFound,
        StoreError::WrongDigest | StoreError::WrongLength { .. } => ErrorKind::InvalidData,
        _ => ErrorKind::Other,
    };
    Error::new(kind, error)
}
