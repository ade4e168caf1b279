//! Who reads on behind a counted download of a share link: the one whose download it was, a while and so many times.
//!
//! A link may be limited in downloads, and a player asks for many parts of one. The parts are free for the address that
//! began the download; to anybody else a part is a download of its own. Memory of one process: after a restart the
//! next part counts. Pure, but for the lock.

use crate::jobs::shares::{DOWNLOAD_WINDOW, ShareId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use zoetrope_protocol::id::Millis;

/// Parts of one download. A player that asks for 64 KiB at a time and seeks a dozen times takes fewer for a clip of
/// 5 MiB; behind a proxy, where all have one address, it bounds what a used-up link still gives.
const PARTS_MAX: u32 = 100;
/// Downloads that are remembered: 64 bytes each. Behind the last, parts count.
const READERS_MAX: usize = 10_000;

/// All of them.
#[derive(Debug, Default)]
pub struct Readers {
    began: Mutex<BTreeMap<(ShareId, IpAddr), Reader>>,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    until: Millis,
    parts: u32,
}

impl Readers {
    /// A download was counted.
    pub fn began(&self, share: ShareId, peer: IpAddr, now: Millis) {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        if began.len() >= READERS_MAX {
            began.retain(|_, reader| now < reader.until);
        }
        if began.len() < READERS_MAX {
            let until = now.plus(DOWNLOAD_WINDOW);
            began.insert((share, peer), Reader { until, parts: PARTS_MAX });
        }
    }

    /// Whether a part belongs to a download of this address.
    pub fn reads_on(&self, share: ShareId, peer: IpAddr, now: Millis) -> bool {
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reader) = began.get_mut(&(share, peer)) else { return false };
        let free = now < reader.until && reader.parts > 0;
        reader.parts -= u32::from(free);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_free_for_who_began_a_while_and_so_often() {
        let (readers, share) = (Readers::default(), ShareId(1));
        let [first, other] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        readers.began(share, first, Millis(5));
        assert!(readers.reads_on(share, first, Millis(6)));
        assert!(!readers.reads_on(share, other, Millis(6)));
        assert!(!readers.reads_on(ShareId(2), first, Millis(6)));
        assert!(!readers.reads_on(share, first, Millis(5).plus(DOWNLOAD_WINDOW)));
        let more = (0..2 * PARTS_MAX).filter(|_| readers.reads_on(share, first, Millis(7)));
        assert_eq!(more.count() as u32, PARTS_MAX - 1);
    }

    #[test]
    fn so_many_are_remembered() {
        let (readers, peer) = (Readers::default(), "192.0.2.1".parse().unwrap());
        for n in 0..READERS_MAX as u128 {
            readers.began(ShareId(n), peer, Millis(0));
        }
        readers.began(ShareId(u128::MAX), peer, Millis(1));
        assert!(!readers.reads_on(ShareId(u128::MAX), peer, Millis(1)));
        readers.began(ShareId(u128::MAX), peer, DOWNLOAD_WINDOW);
        assert!(readers.reads_on(ShareId(u128::MAX), peer, DOWNLOAD_WINDOW));
    }
}
