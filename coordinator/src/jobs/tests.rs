//! The table's promises: order, cursors, resent requests, files that go when nobody needs them.

use super::*;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::id::{AttemptNumber, Epoch};

fn submission(job: u128, content: u8) -> Submission {
    let content = [content; 32];
    Submission { content, idempotency: Some(content), ..crate::testing::submission(job) }
}

fn ids(page: &Page) -> Vec<u128> {
    page.jobs.iter().map(|view| view.job.0).collect()
}

#[test]
fn pages_are_in_total_order_and_a_deleted_job_stays_a_cursor() {
    let mut table = JobTable::default();
    for (job, at) in [(3, 10_000), (1, 10_000), (2, 20_000)] {
        table.admit(Millis(at), submission(job, job as u8));
    }
    let query = |after, limit, ascending| ListQuery { after, limit, ascending };
    let list = |table: &JobTable, query| table.list(Some(TenantId(1)), query, JobRow::view);
    let page = list(&table, query(None, 2, true)).expect("a page");
    assert_eq!((ids(&page), page.has_more), (vec![1, 3], true));
    table.delete(JobId(3));
    let page = list(&table, query(Some(JobId(3)), 5, true)).expect("a page");
    assert_eq!((ids(&page), page.has_more), (vec![2], false));
    let page = list(&table, query(None, 5, false)).expect("a page");
    assert_eq!(ids(&page), vec![2, 1]);
    assert_eq!(list(&table, query(Some(JobId(9)), 5, true)), Err(NoSuchCursor));
    assert!(table.of(TenantId(2), JobId(1)).is_none());
}

/// Promise: a page is found as quickly as if what was deleted had never been.
#[test]
fn deleted_jobs_stand_in_no_list() {
    let mut table = JobTable::default();
    for job in 1..=3 {
        table.admit(Millis(job as u64), submission(job, job as u8));
        table.delete(JobId(job));
    }
    for table in [JobTable::from_rows(table.to_rows()), table] {
        assert_eq!(table.len(), 3);
        assert!(table.listed.is_empty() && table.of_tenant.is_empty());
        let query = ListQuery { after: Some(JobId(2)), limit: 5, ascending: true };
        let page = table.list(Some(TenantId(1)), query, JobRow::view).expect("still a cursor");
        assert_eq!((ids(&page), page.has_more), (vec![], false));
    }
}

/// Promise: lists are in the order of what they show, `created_at` in whole seconds and then the id, in both directions.
#[test]
fn within_a_second_lists_are_in_the_order_of_ids() {
    let mut table = JobTable::default();
    for (job, at) in [(9, 999), (5, 1_000), (3, 1_400), (8, 1_700), (4, 1_999), (1, 2_000)] {
        table.admit(Millis(at), submission(job, job as u8));
    }
    table.delete(JobId(4));
    let table = JobTable::from_rows(table.to_rows());
    for (ascending, wanted) in [(true, vec![9, 3, 5, 8, 1]), (false, vec![1, 8, 5, 3, 9])] {
        for tenant in [Some(TenantId(1)), None] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let query = ListQuery { after, limit: 2, ascending };
                let page = table.list(tenant, query, JobRow::view).expect("a page");
                seen.extend(ids(&page));
                after = page.jobs.last().map(|view| view.job);
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(seen, wanted, "ascending {ascending}");
        }
        let query = ListQuery { after: Some(JobId(4)), limit: 9, ascending };
        let behind = table.list(None, query, JobRow::view).expect("a deleted job is a cursor");
        assert_eq!(ids(&behind), if ascending { vec![5, 8, 1] } else { vec![3, 9] });
    }
    let texts: Vec<String> = [9, 16, 255, 4_096].map(|job| JobId(job).to_string()).to_vec();
    assert!(texts.is_sorted(), "as text and as numbers ids have one order");
    // Who judges anew goes by the moment.
    let order: Vec<u128> = table.behind(None).map(|row| row.job.0).collect();
    assert_eq!(order, [9, 5, 3, 8, 4, 1]);
}

#[test]
fn keys_are_known_for_a_day_and_contents_for_two_minutes() {
    let mut table = JobTable::default();
    table.admit(Millis(0), submission(1, 7));
    let key = [7; 32];
    assert!(table.by_key(Millis(KEY_KEPT.0 - 1), &key).is_some());
    assert!(table.by_key(KEY_KEPT, &key).is_none());
    assert!(table.resent(Millis(RESEND_KEPT.0 - 1), TenantId(1), &key).is_some());
    assert!(table.resent(RESEND_KEPT, TenantId(1), &key).is_none());
}

#[test]
fn an_artifact_goes_when_its_last_user_is_done_and_rows_rebuild_the_table() {
    let mut table = JobTable::default();
    table.admit(Millis(0), submission(1, 1));
    table.admit(Millis(0), submission(2, 2));
    let reference = |role, byte| ArtifactRef { role, artifact: ArtifactId([byte; 32]), bytes: 5 };
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    let latents = reference(Role::Latents { step: 2 }, 1);
    table.stored(Millis(0), JobId(1), fence, latents);
    table.stored(Millis(0), JobId(2), fence, latents);
    let forget = |job| Output::Forget { job: JobId(job), artifacts: vec![latents] };
    assert!(table.output(Millis(1), &forget(1)).is_empty());
    assert_eq!(table.output(Millis(1), &forget(2)), vec![latents.artifact]);

    let outputs = vec![
        reference(Role::Clip, 2),
        reference(Role::Thumbnail, 3),
        reference(Role::Spritesheet, 4),
    ];
    for output in &outputs {
        table.stored(Millis(1), JobId(1), fence, *output);
    }
    let size = Size { width: 288, height: 512 };
    let facts = ClipFacts { size, frames: 96, av_gap_micros: 0, sprite_columns: 5, sprite_rows: 2 };
    table.measured(JobId(1), fence, facts);
    table.output(Millis(2), &Output::Publish { job: JobId(1), fence, outputs: outputs.clone() });
    // The last word of an attempt of an earlier epoch comes late.
    let before = Fence { epoch: Epoch(0), attempt: AttemptNumber(9) };
    table.measured(JobId(1), before, ClipFacts { frames: 95, ..facts });
    let row = table.row(JobId(1)).expect("a row");
    assert_eq!(row.facts, Some((fence, facts)), "what is published is what was measured of it");
    table.output(Millis(3), &Output::JobMoved { job: JobId(1), state: JobState::Completed });
    let all = Output::Forget { job: JobId(1), artifacts: outputs };
    assert!(table.output(Millis(3), &all).is_empty(), "published files stay");
    assert_eq!(table.expired(Millis(3 + 3_600_000), 9), vec![JobId(1)]);

    let mut again = JobTable::from_rows(table.to_rows());
    assert_eq!(again.to_rows(), table.to_rows());
    assert_eq!(again.drop_assets(JobId(1)).len(), 3);
    assert!(again.expired(Millis(u64::MAX), 9).is_empty());
}

/// Promise: what a caller wrote goes with its job; the job's id stays a cursor.
#[test]
fn a_deleted_job_keeps_no_words() {
    let mut table = JobTable::default();
    let mut written = submission(1, 1);
    written.spec.metadata = vec![("order".to_owned(), "7".to_owned())];
    written.spec.safety_identifier = Some("user-7".to_owned());
    table.admit(Millis(0), written);
    table.delete(JobId(1));
    let spec = &table.row(JobId(1)).expect("a row").spec;
    assert_eq!((spec.render.prompt.as_str(), spec.metadata.len()), ("", 0));
    assert_eq!(spec.safety_identifier, None);
}

/// Promise: a key makes one job a day. One that was forgotten and used again stays with the job that it made last.
#[test]
fn a_row_that_leaves_takes_no_other_jobs_key() {
    let mut table = JobTable::default();
    table.admit(Millis(0), submission(1, 7));
    table.admit(KEY_KEPT, submission(2, 7));
    table.remove_row((Millis(0), JobId(1)));
    let made = table.by_key(KEY_KEPT, &[7; 32]).map(|row| row.job);
    assert_eq!(made, Some(JobId(2)));
}
