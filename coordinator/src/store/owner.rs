//! Whose a store is, and whether a farm may look through it by itself.
//!
//! A sweep deletes what no job of the journal uses, so a store beside another journal would be emptied: an old
//! backup, another farm's bucket, a prefix that was forgotten. The object `farm` says whose journal it belongs to,
//! and is written once, by the first farm that comes. The object `unswept` says that records of that journal were
//! lost and the loss accepted; a person decides then what goes, with `fsck --repair`.

use super::{Conditional, Store, StoreError};
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};

/// The object that names the farm.
pub(super) const FARM: &str = "farm";
/// The object that keeps sweeps away.
pub(super) const UNSWEPT: &str = "unswept";

/// Whose a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This farm's.
    We,
    /// Another's.
    Another,
}

impl Store {
    /// From now on nothing is published, removed or swept unless the store is this farm's.
    pub fn belongs_to(&self, farm: String) {
        // A store has one farm for its life.
        drop(self.farm.set(farm));
    }

    /// Whose the store is. One that is nobody's yet becomes this farm's.
    ///
    /// # Errors
    /// Those of the store, and then it is asked again by the next who wants to know.
    pub async fn owner(&self) -> Result<Owner, StoreError> {
        let Some(farm) = self.farm.get() else { return Ok(Owner::We) };
        if let Some(owner) = self.owner.get() {
            return Ok(*owner);
        }
        // Asked by several at once it is claimed several times, which is the same; none waits for another.
        let owner = self.claim(farm).await?;
        Ok(*self.owner.get_or_init(|| owner))
    }

    /// Whether it is known to be another's.
    pub(super) fn is_anothers(&self) -> bool {
        self.owner.get() == Some(&Owner::Another)
    }

    async fn claim(&self, farm: &str) -> Result<Owner, StoreError> {
        let key = Key::from(FARM);
        let read = async || -> Result<Vec<u8>, object_store::Error> {
            Ok(self.objects.get(&key).await?.bytes().await?.to_vec())
        };
        let there = match read().await {
            Err(object_store::Error::NotFound { .. }) => {
                let mode = match self.conditional().await? {
                    Conditional::Kept => PutMode::Create,
                    // This process is the only writer.
                    Conditional::Ignored => PutMode::Overwrite,
                };
                let options = PutOptions { mode, ..PutOptions::default() };
                let name = PutPayload::from(farm.as_bytes().to_vec());
                match self.objects.put_opts(&key, name, options).await {
                    Ok(_) => return self.sync(&key).await.map(|()| Owner::We),
                    Err(object_store::Error::AlreadyExists { .. }) => read().await?,
                    Err(error) => return Err(error.into()),
                }
            }
            there => there?,
        };
        let ours = there.trim_ascii() == farm.as_bytes();
        Ok(if ours { Owner::We } else { Owner::Another })
    }

    /// Refuses to change what is another's.
    pub(super) async fn own(&self) -> Result<(), StoreError> {
        match self.owner().await? {
            Owner::We => Ok(()),
            Owner::Another => Err(anothers()),
        }
    }

    /// Keeps sweeps away until [`Store::allow_sweeps`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forbid_sweeps(&self) -> Result<(), StoreError> {
        self.own().await?;
        let key = Key::from(UNSWEPT);
        self.objects.put(&key, PutPayload::from_static(b"records were lost")).await?;
        self.sync(&key).await
    }

    /// Sweeps may be again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn allow_sweeps(&self) -> Result<(), StoreError> {
        self.own().await?;
        self.erase(&Key::from(UNSWEPT)).await
    }

    /// Whether the store may be looked through for what no job uses.
    ///
    /// # Errors
    /// Those of the store, one that is another's among them.
    pub async fn may_be_swept(&self) -> Result<bool, StoreError> {
        self.own().await?;
        match self.objects.head(&Key::from(UNSWEPT)).await {
            Ok(_) => Ok(false),
            Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn anothers() -> StoreError {
    std::io::Error::other("it belongs to another farm").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use zoetrope_protocol::id::{ArtifactId, JobId};

    #[tokio::test]
    async fn a_store_is_of_the_farm_that_came_first() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let open = |farm: &str| {
            let store = Store::open(folder.path(), Duration::ZERO).expect("opens");
            store.belongs_to(farm.to_owned());
            store
        };
        let (first, second) = (open("one"), open("two"));
        let both = tokio::join!(first.owner(), first.owner());
        assert!(matches!(both, (Ok(Owner::We), Ok(Owner::We))));
        assert_eq!(second.owner().await.expect("answers"), Owner::Another);
        second.delete(&ArtifactId::of(b"clip")).await.expect_err("is not its own");
        second.publish(JobId(1), b"{}".to_vec()).await.expect_err("is not its own");
        second.may_be_swept().await.expect_err("is not its own");
        let again = open("one");
        assert!(again.may_be_swept().await.expect("answers"));
        again.forbid_sweeps().await.expect("writes");
        assert!(!open("one").may_be_swept().await.expect("answers"));
        again.allow_sweeps().await.expect("removes");
        assert!(first.may_be_swept().await.expect("answers"));
    }
}
