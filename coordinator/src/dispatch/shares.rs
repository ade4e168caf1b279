//! Share links: makes, shows, revokes and opens them. What a link reaches is the table's to say.

use super::books::Entry;
use super::state::DispatchState;
use crate::clock;
use crate::farm::{NewShare, ShareRefused};
use crate::jobs::shares::{Closed, Read, Share, ShareId, Variant, reaches};
use crate::jobs::{JobRow, JobView};
use ractor::RpcReplyPort;
use zoetrope_protocol::id::{JobId, Millis, TenantId};
use zoetrope_protocol::moderation::{Audience, Outcome};
use zoetrope_sched::output::JobState;

/// What the door gets of a new link, and whether an earlier request made it.
pub type Shared = Result<(Share, bool), ShareRefused>;
/// What the door gets of a link that is followed, and whether that was counted as a download.
pub type OpenShare = Result<(Box<JobView>, Variant, bool), Closed>;

impl DispatchState {
    pub(super) fn share(
        &mut self,
        tenant: TenantId,
        job: JobId,
        new: NewShare,
        reply: RpcReplyPort<Shared>,
    ) {
        let made = self.new_share(tenant, job, new);
        if let Ok((share, false)) = &made {
            self.record(Entry::Shared { job, share: Box::new(share.clone()) });
        }
        self.read(reply, move |_| made);
    }

    fn new_share(&self, tenant: TenantId, job: JobId, new: NewShare) -> Shared {
        let now = clock::now();
        let row = self.books.table.of(tenant, job).ok_or(ShareRefused::NoSuchVideo)?;
        let shares = self.books.table.shares().of(job);
        if let Some((content, key)) = new.request {
            let before = |share: &Share| Some((share.clone(), share.made_by(now, &key)?));
            if let Some((share, of)) = shares.iter().find_map(before) {
                return if of == content {
                    Ok((share, true))
                } else {
                    Err(ShareRefused::KeyReused)
                };
            }
        }
        let unreadable = || ShareRefused::Unreadable(Box::new(self.view(row)));
        let asset_expires = readable_until(row, now).ok_or_else(unreadable)?;
        let judged = self.judged_for(job).ok_or_else(unreadable)?;
        let audience = new.audience.unwrap_or(judged);
        if !reaches(judged, audience) {
            return Err(ShareRefused::JudgedFor(judged));
        }
        if self.books.table.shares().is_full(now, job) {
            return Err(ShareRefused::TooMany);
        }
        let wanted = new.expires_after.map(|after| {
            let from = if after.from_completion { row.ended.unwrap_or(now) } else { now };
            from.plus(Millis(u64::from(after.seconds) * 1_000))
        });
        let share = Share {
            id: new.id,
            created: now,
            expires: wanted.unwrap_or(asset_expires).min(asset_expires),
            revoked: None,
            variants: new.variants,
            audience,
            downloads_max: new.downloads_max,
            downloads: 0,
            downloaded: None,
            request: new.request,
        };
        Ok((share, false))
    }

    /// For whom the clip was judged; none if it does not pass any more. What came before there was moderation is for
    /// grown-ups.
    fn judged_for(&self, job: JobId) -> Option<Audience> {
        let Some(known) = self.books.moderation.of(job) else { return Some(Audience::Adult) };
        let output = known.output.as_ref();
        let passes = output.is_none_or(|(_, verdict)| verdict.outcome == Outcome::Pass);
        passes.then_some(known.audience)
    }

    pub(super) fn shares(
        &mut self,
        tenant: TenantId,
        job: JobId,
        reply: RpcReplyPort<Option<Vec<Share>>>,
    ) {
        self.read(reply, move |state| {
            let row = state.books.table.of(tenant, job)?;
            Some(state.books.table.shares().of(row.job).to_vec())
        });
    }

    pub(super) fn unshare(
        &mut self,
        tenant: TenantId,
        job: JobId,
        id: ShareId,
        reply: RpcReplyPort<Option<Share>>,
    ) {
        let of = |state: &DispatchState| {
            state.books.table.of(tenant, job)?;
            let (of, share) = state.books.table.shares().find(id)?;
            (of == job).then(|| share.clone())
        };
        if of(self).is_some_and(|share| share.revoked.is_none()) {
            self.record(Entry::ShareRevoked { share: id });
        }
        self.read(reply, of);
    }

    /// Follows a link, to its first file unless another is named. A download that counts is on disk before its first byte is sent.
    pub(super) fn open_share(
        &mut self,
        id: ShareId,
        variant: Option<Variant>,
        read: Read,
        reply: RpcReplyPort<OpenShare>,
    ) {
        let now = clock::now();
        let opened = self.opened(now, id, variant, read);
        if let Ok((_, _, true)) = &opened {
            self.record(Entry::ShareRead { share: id });
        }
        self.read(reply, move |_| opened);
    }

    fn opened(&self, now: Millis, id: ShareId, variant: Option<Variant>, read: Read) -> OpenShare {
        let (job, share) = self.books.table.shares().find(id).ok_or(Closed::Gone)?;
        let row = self.books.table.row(job).filter(|row| !row.deleted).ok_or(Closed::Gone)?;
        let judged = self.judged_for(job).ok_or(Closed::Gone)?;
        let variant = variant.or(share.variants.first().copied()).ok_or(Closed::Variant)?;
        let counts = share.open(now, judged, variant, read)?;
        Ok((Box::new(self.view(row)), variant, counts))
    }
}

/// Until when the files of a job can be read; none if they cannot now.
fn readable_until(row: &JobRow, now: Millis) -> Option<Millis> {
    let there = row.state == JobState::Completed && row.assets.is_some() && row.keeps_pointer();
    row.expires().filter(|at| there && now < *at)
}
