//! Share links: who may read a clip without a key, until when, and how often. Pure; part of the job table.
//!
//! A link never reaches further than the clip: it is closed by the clip's expiry and deletion, and by an audience
//! that the clip was not judged for.

use super::table::KEY_KEPT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use zoetrope_protocol::id::{JobId, Millis};
use zoetrope_protocol::moderation::Audience;

/// Open links of one video: each takes 100 bytes in memory and snapshot.
pub const SHARES_MAX: usize = 100;
/// Links of one video with those that are closed, which are kept as long as there is room: the oldest goes first, and none
/// whose idempotency key may come again before one that is asked for no more.
const KEPT_MAX: usize = 2 * SHARES_MAX;
/// Downloads that a link may be limited to.
pub const DOWNLOADS_MAX: u32 = 1_000_000;
/// Later requests for parts of the file belong to the download before, for so long: players look at its first bytes
/// before they ask for more, and resumed downloads ask many times. The door holds them to the address that began it.
pub const DOWNLOAD_WINDOW: Millis = Millis(600_000);

/// A share link. Written `share_` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShareId(pub u128);

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share_{:032x}", self.0)
    }
}

impl FromStr for ShareId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("share_").ok_or(())?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() != 32 || !digits.bytes().all(lower) {
            return Err(());
        }
        u128::from_str_radix(digits, 16).map(ShareId).map_err(|_| ())
    }
}

/// A file of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Variant {
    /// The clip.
    Video,
    /// One picture.
    Thumbnail,
    /// A grid of pictures.
    Spritesheet,
}

impl Variant {
    /// All of them.
    pub const ALL: [Variant; 3] = [Variant::Video, Variant::Thumbnail, Variant::Spritesheet];

    /// The word for it in the API.
    pub fn word(self) -> &'static str {
        match self {
            Variant::Video => "video",
            Variant::Thumbnail => "thumbnail",
            Variant::Spritesheet => "spritesheet",
        }
    }
}

impl FromStr for Variant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Variant::ALL.into_iter().find(|variant| variant.word() == text).ok_or(())
    }
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Its id.
    pub id: ShareId,
    /// When it was made.
    pub created: Millis,
    /// From when on it is closed.
    pub expires: Millis,
    /// Since when it is revoked.
    pub revoked: Option<Millis>,
    /// Files that it reaches, each once; the first is what it shows unless another is asked for.
    pub variants: Vec<Variant>,
    /// For whom it is.
    pub audience: Audience,
    /// Downloads after which it is closed.
    pub downloads_max: Option<u32>,
    /// Downloads so far; counted only where they are limited.
    pub downloads: u32,
    /// When the last of them began.
    pub downloaded: Option<Millis>,
    /// Hash of the request and of its idempotency key, if it had one.
    pub request: Option<([u8; 32], [u8; 32])>,
}

/// Why a link shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// There is none, or it was revoked, or its video was deleted.
    Gone,
    /// Its time is over.
    Expired,
    /// All its downloads were made.
    UsedUp,
    /// The clip was not judged for the link's audience.
    Audience,
    /// It does not reach that file.
    Variant,
}

/// How a request reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing yet: which file it is, so that the request can be understood.
    Look,
    /// Only about the file: headers.
    Head,
    /// All of it.
    Whole,
    /// Some part, by the one who began the last download.
    Part,
}

/// Whether a clip that was judged for `judged` may be shown to `audience`: the laxer was judged by what only they
/// may see.
pub fn reaches(judged: Audience, audience: Audience) -> bool {
    judged <= audience
}

impl Share {
    /// Whether a request with this idempotency key made it, in the last 24 h; with which content.
    pub fn made_by(&self, now: Millis, key: &[u8; 32]) -> Option<[u8; 32]> {
        let (content, of) = self.request.as_ref()?;
        (of == key && now < self.created.plus(KEY_KEPT)).then_some(*content)
    }

    /// Whether it shows nothing to anybody any more.
    pub fn is_closed(&self, now: Millis) -> bool {
        let used_up = self.downloads_max.is_some_and(|most| self.downloads >= most);
        let goes_on = self.downloaded.is_some_and(|at| now < at.plus(DOWNLOAD_WINDOW));
        self.revoked.is_some() || now >= self.expires || (used_up && !goes_on)
    }

    /// Whether the link shows a file now; `true` if that is a download to be counted.
    ///
    /// # Errors
    /// Why not.
    pub fn open(
        &self,
        now: Millis,
        judged: Audience,
        variant: Variant,
        read: Read,
    ) -> Result<bool, Closed> {
        if self.revoked.is_some() {
            return Err(Closed::Gone);
        }
        if now >= self.expires {
            return Err(Closed::Expired);
        }
        if !reaches(judged, self.audience) {
            return Err(Closed::Audience);
        }
        if !self.variants.contains(&variant) {
            return Err(Closed::Variant);
        }
        let Some(most) = self.downloads_max else { return Ok(false) };
        let same = self.downloaded.is_some_and(|at| now < at.plus(DOWNLOAD_WINDOW));
        match read {
            Read::Look => Ok(false),
            Read::Part if same => Ok(false),
            _ if self.downloads >= most => Err(Closed::UsedUp),
            Read::Head => Ok(false),
            Read::Whole | Read::Part => Ok(true),
        }
    }
}

/// Of all videos.
#[derive(Clone, Debug, Default)]
pub struct ShareTable {
    videos: BTreeMap<JobId, Arc<Vec<Share>>>,
    jobs: BTreeMap<ShareId, JobId>,
}

impl ShareTable {
    /// The table of a snapshot.
    pub fn from_rows(rows: Vec<(JobId, Vec<Share>)>) -> ShareTable {
        let mut table = ShareTable::default();
        for (job, shares) in rows {
            table.jobs.extend(shares.iter().map(|share| (share.id, job)));
            table.videos.insert(job, Arc::new(shares));
        }
        table
    }

    /// What a snapshot must hold.
    pub fn to_rows(&self) -> Vec<(JobId, Vec<Share>)> {
        self.videos.iter().map(|(job, shares)| (*job, Vec::clone(shares))).collect()
    }

    /// Whether a video has as many open links as it may.
    pub fn is_full(&self, now: Millis, job: JobId) -> bool {
        self.of(job).iter().filter(|share| !share.is_closed(now)).count() >= SHARES_MAX
    }

    /// Its time is that of the link, so that a replay comes to the same.
    pub(super) fn add(&mut self, job: JobId, share: Share) {
        let now = share.created;
        if self.is_full(now, job) || self.jobs.contains_key(&share.id) {
            return;
        }
        let shares = Arc::make_mut(self.videos.entry(job).or_default());
        if shares.len() >= KEPT_MAX {
            let known = |of: &Share| of.request.is_some() && now < of.created.plus(KEY_KEPT);
            let closed = shares.iter().enumerate().filter(|(_, of)| of.is_closed(now));
            // At least half of them are closed. They stand in the order in which they were made.
            if let Some((place, _)) = closed.min_by_key(|(place, of)| (known(of), *place)) {
                self.jobs.remove(&shares.remove(place).id);
            }
        }
        self.jobs.insert(share.id, job);
        shares.push(share);
    }

    pub(super) fn change(&mut self, id: ShareId, change: impl FnOnce(&mut Share)) {
        let Some(shares) = self.jobs.get(&id).and_then(|job| self.videos.get_mut(job)) else {
            return;
        };
        if let Some(share) = Arc::make_mut(shares).iter_mut().find(|share| share.id == id) {
            change(share);
        }
    }

    pub(super) fn forget(&mut self, job: JobId) {
        for share in self.videos.remove(&job).iter().flat_map(|shares| shares.iter()) {
            self.jobs.remove(&share.id);
        }
    }

    /// The links of a video, oldest first.
    pub fn of(&self, job: JobId) -> &[Share] {
        self.videos.get(&job).map_or(&[], |shares| shares.as_slice())
    }

    /// A link and its video.
    pub fn find(&self, id: ShareId) -> Option<(JobId, &Share)> {
        let job = *self.jobs.get(&id)?;
        Some((job, self.of(job).iter().find(|share| share.id == id)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(downloads_max: Option<u32>) -> Share {
        Share {
            id: ShareId(7),
            created: Millis(0),
            expires: Millis(10_000_000),
            revoked: None,
            variants: vec![Variant::Video],
            audience: Audience::Teen,
            downloads_max,
            downloads: 0,
            downloaded: None,
            request: None,
        }
    }

    #[test]
    fn a_teens_link_reaches_what_was_judged_for_teens_or_for_all() {
        let open = |judged| share(None).open(Millis(1), judged, Variant::Video, Read::Whole);
        assert_eq!(open(Audience::All), Ok(false));
        assert_eq!(open(Audience::Teen), Ok(false));
        assert_eq!(open(Audience::Adult), Err(Closed::Audience));
        for link in Audience::ALL {
            for judged in Audience::ALL {
                let strict = |audience| Audience::ALL.iter().position(|a| *a == audience);
                assert_eq!(reaches(judged, link), strict(judged) <= strict(link));
            }
        }
    }

    #[test]
    fn downloads_are_counted_and_their_parts_are_not() {
        let mut table = ShareTable::default();
        table.add(JobId(1), share(Some(2)));
        let ask = |table: &ShareTable, at, read| {
            let (_, share) = table.find(ShareId(7)).expect("is there");
            share.open(Millis(at), Audience::All, Variant::Video, read)
        };
        let mut count = |at, read| {
            let open = ask(&table, at, read);
            if open == Ok(true) {
                table.change(ShareId(7), |share| {
                    share.downloads += 1;
                    share.downloaded = Some(Millis(at));
                });
            }
            open
        };
        assert_eq!(count(0, Read::Look), Ok(false));
        assert_eq!(count(0, Read::Head), Ok(false));
        assert_eq!(count(1, Read::Part), Ok(true), "nobody began, so it begins");
        assert_eq!(count(2, Read::Part), Ok(false));
        assert_eq!(count(600_001, Read::Part), Ok(true), "later it is another");
        assert_eq!(count(600_002, Read::Part), Ok(false));
        assert_eq!(count(600_003, Read::Whole), Err(Closed::UsedUp));
        assert_eq!(count(600_003, Read::Head), Err(Closed::UsedUp), "as a GET would be");
        assert_eq!(count(600_003, Read::Look), Ok(false));
        assert_eq!(count(1_200_001, Read::Part), Err(Closed::UsedUp));
        assert_eq!(count(10_000_000, Read::Look), Err(Closed::Expired));
        let again = ShareTable::from_rows(table.to_rows());
        assert_eq!(again.to_rows(), table.to_rows());
        table.forget(JobId(1));
        assert!(table.find(ShareId(7)).is_none() && table.of(JobId(1)).is_empty());
    }

    #[test]
    fn an_idempotency_key_is_known_for_a_day() {
        let share = Share { request: Some(([1; 32], [2; 32])), ..share(None) };
        assert_eq!(share.made_by(Millis(86_399_999), &[2; 32]), Some([1; 32]));
        assert_eq!(share.made_by(Millis(86_400_000), &[2; 32]), None);
        assert_eq!(share.made_by(Millis(0), &[1; 32]), None);
    }

    /// Promise: however many links of a video were revoked, another can be made; a key makes one link a day.
    #[test]
    fn closed_links_make_room() {
        let mut table = ShareTable::default();
        let request = Some(([1; 32], [2; 32]));
        for n in 0..1_000 {
            let request = request.filter(|_| n == 0);
            table.add(JobId(1), Share { id: ShareId(n), request, ..share(None) });
            table.change(ShareId(n), |share| share.revoked = Some(Millis(1)));
        }
        let ids = |table: &ShareTable| -> Vec<u128> {
            table.of(JobId(1)).iter().map(|share| share.id.0).collect()
        };
        let kept = 1_001 - KEPT_MAX as u128;
        assert_eq!(ids(&table), [0].into_iter().chain(kept..1_000).collect::<Vec<_>>());
        assert!(table.find(ShareId(1)).is_none());
        let later = Share { id: ShareId(1_000), created: KEY_KEPT, ..share(None) };
        table.add(JobId(1), Share { expires: KEY_KEPT.plus(Millis(1)), ..later });
        assert_eq!(ids(&table), (kept..=1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_link_is_closed_when_its_last_download_is_over() {
        let used = Share { downloads: 1, downloaded: Some(Millis(5)), ..share(Some(1)) };
        assert!(!used.is_closed(Millis(600_004)));
        assert!(used.is_closed(Millis(600_005)));
        assert!(!share(Some(1)).is_closed(Millis(5)) && share(None).is_closed(Millis(10_000_000)));
    }

    #[test]
    fn a_video_has_so_many_links_and_no_more() {
        let mut table = ShareTable::default();
        for n in 0..SHARES_MAX as u128 + 5 {
            table.add(JobId(1), Share { id: ShareId(n), ..share(None) });
        }
        assert_eq!(table.of(JobId(1)).len(), SHARES_MAX);
        assert!(table.is_full(Millis(0), JobId(1)));
        table.change(ShareId(7), |share| share.revoked = Some(Millis(1)));
        assert!(!table.is_full(Millis(1), JobId(1)));
        table.add(JobId(1), Share { id: ShareId(1_000), ..share(None) });
        assert_eq!(table.of(JobId(1)).len(), SHARES_MAX + 1, "what is closed is shown on");
        assert!(table.is_full(Millis(1), JobId(1)));
        assert!(!table.is_full(Millis(10_000_000), JobId(1)), "they have expired");
        assert_eq!("share_0".parse::<ShareId>(), Err(()));
        assert_eq!(ShareId(5).to_string().parse(), Ok(ShareId(5)));
    }
}
