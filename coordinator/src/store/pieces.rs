//! In what pieces bytes go into the store and come out of it. A folder takes each as a call to the system on a thread
//! beside the runtime, which costs as much as ten thousand bytes do; so they are large. A bucket has pieces of its own.

use super::StoreError;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetResult, GetResultPayload};
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// What an upload puts together before it goes on: from a link it comes in pieces of a datagram each.
pub(super) const WRITTEN_BYTES: usize = 1 << 20;
/// What is read at once. Each reader holds one.
const READ_BYTES: usize = 256 << 10;

/// The bytes that were asked for.
///
/// # Errors
/// Those of the store.
pub(super) async fn read(
    found: GetResult,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    let range = found.range;
    let file = match found.payload {
        GetResultPayload::File(file, _) => file,
        GetResultPayload::Stream(stream) => return Ok(stream.map_err(StoreError::from).boxed()),
    };
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(range.start)).await?;
    let asked = file.take(range.end - range.start);
    Ok(ReaderStream::with_capacity(asked, READ_BYTES).map_err(StoreError::from).boxed())
}
