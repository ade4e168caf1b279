//! Promise: the journal's bytes stay readable. Each entry has one example whose bytes stand in
//! `golden_journal.txt`; old lines never change, new ones are appended. `ZOETROPE_BLESS=1` writes it anew.

use crate::submission;
use std::fmt::Write as _;
use zoetrope_coordinator::dispatch::books::{Books, Entry, Record};
use zoetrope_coordinator::jobs::rescan::{Batch, Failing, PolicyTexts};
use zoetrope_coordinator::jobs::shares::Variant;
use zoetrope_coordinator::jobs::{RescanOrder, Share, ShareId, WorkerFacts};
use zoetrope_coordinator::journal::Form;
use zoetrope_protocol::codec::{decode, encode};
use zoetrope_protocol::id::{
    ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ModelId, ShardId, TenantId, WorkerId,
};
use zoetrope_protocol::job::{ArtifactRef, Cause, Class, ClipFacts, Role, Stage};
use zoetrope_protocol::mark::Issued;
use zoetrope_protocol::moderation::{Audience, Category, Outcome, Span, Verdict};
use zoetrope_protocol::provenance::{
    MarkedProof, ModeratedProof, Proofs, SignedClaim, SignedProof,
};
use zoetrope_protocol::wire::{DrainKind, Held, Identity};
use zoetrope_sched::input::{Ask, Capacity, Decode, EndWhy, LostHow, StageNeed, TenantPolicy};
use zoetrope_sched::{Config, Input, Output};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/farm/golden_journal.txt");

fn held(stage: Stage) -> Held {
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    Held { shard: ShardId { job: JobId(1), stage, index: 0 }, fence }
}

fn artifact(role: Role, byte: u8) -> ArtifactRef {
    ArtifactRef { role, artifact: ArtifactId([byte; 32]), bytes: 5 }
}

/// The life of a job, so that the same examples also tell a story.
fn entries() -> Vec<(&'static str, Entry)> {
    let worker = WorkerId(1);
    let job = JobId(1);
    let stages = vec![Stage::Encode, Stage::Denoise, Stage::Finish];
    let core = Entry::Core;
    let finished = |stage, outputs| Input::ShardFinished {
        worker,
        held: held(stage),
        outputs,
        gpu: Millis(40),
    };
    let size = submission(1).spec.render.deliver;
    let facts = ClipFacts { size, frames: 96, av_gap_micros: 9, sprite_columns: 5, sprite_rows: 2 };
    let latents = |step| artifact(Role::Latents { step }, 10 + step as u8);
    let claim = SignedClaim { unsigned: ArtifactId([30; 32]), manifest: [31; 32], at: Millis(32) };
    let proofs = Proofs {
        moderated: Some(ModeratedProof { file: claim.unsigned, policy: "p1".to_owned() }),
        marked: Some(MarkedProof { file: claim.unsigned, mark: 33 }),
        signed: Some(SignedProof {
            unsigned: claim.unsigned,
            file: ArtifactId([20; 32]),
            claim: [31; 32],
            root: [34; 32],
            checked: Millis(35),
        }),
    };
    let policy = PolicyTexts { policy: "p".into(), rules: "r".into(), pairs: "s".into() };
    let order = RescanOrder { policy: Some(policy), dry_run: false, per_second: 10 };
    let share = Share {
        id: ShareId(0xabcd),
        created: Millis(36),
        expires: Millis(37),
        revoked: None,
        variants: vec![Variant::Thumbnail, Variant::Video],
        audience: Audience::Teen,
        downloads_max: Some(5),
        downloads: 0,
        downloaded: None,
        request: Some(([38; 32], [39; 32])),
    };
    let clip = vec![
        artifact(Role::Clip, 20),
        artifact(Role::Thumbnail, 21),
        artifact(Role::Spritesheet, 22),
    ];
    let ask = Ask {
        tenant: TenantId(1),
        class: Class::Default,
        model: ModelId(0),
        steps: 4,
        expected: vec![Millis(200), Millis(400), Millis(900)],
        deadline: None,
        learned: true,
        decode: Decode { chunks: 6, shards: 1 },
    };
    let passed = Verdict {
        outcome: Outcome::Pass,
        categories: vec![],
        scores: vec![(Category::Violence, 1_200)],
        audience: Audience::Teen,
        policy: ArtifactId([3; 32]),
        spans: vec![],
    };
    let blocked = Verdict {
        outcome: Outcome::Block,
        categories: vec![Category::Sexual, Category::LikenessUnconsented],
        spans: vec![Span { start_ms: 500, end_ms: 541, category: Category::Sexual, score: 9_000 }],
        ..passed.clone()
    };
    let batch = Batch {
        through: Some((Millis(1_000), job)),
        passed: 1,
        failing: vec![Failing { job, output: false, verdict: blocked.clone() }],
        unjudged: vec![JobId(3)],
    };
    vec![
        ("epoch_began", core(Input::EpochBegan { epoch: Epoch(1) })),
        (
            "model_set",
            core(Input::ModelSet {
                model: ModelId(0),
                name: "toybox".to_owned(),
                chain: stages.iter().map(|s| StageNeed { stage: *s, vram_bytes: 7 }).collect(),
            }),
        ),
        (
            "tenant_set",
            core(Input::TenantSet {
                tenant: TenantId(1),
                policy: TenantPolicy { weight: 100, running_max: 10 },
            }),
        ),
        ("admitted", Entry::Admitted { submission: Box::new(submission(1)), ask: ask.clone() }),
        (
            "joined",
            Entry::Joined {
                worker,
                facts: WorkerFacts {
                    node: "gpu-0".to_owned(),
                    pool: "a".to_owned(),
                    gpu_kind: "cpu".to_owned(),
                    models: Vec::new(),
                },
                input: Input::WorkerJoined {
                    worker,
                    identity: Identity { node: "gpu-0".to_owned(), boot: 3, session: 1 },
                    capacity: Capacity {
                        vram_bytes: 9,
                        serves: vec![(ModelId(0), stages)],
                        machine: "m".to_owned(),
                    },
                    held: Vec::new(),
                },
            },
        ),
        (
            "artifact_stored",
            core(Input::ArtifactStored {
                worker,
                held: held(Stage::Encode),
                artifact: artifact(Role::Prompt, 9),
            }),
        ),
        ("shard_finished", core(finished(Stage::Encode, vec![artifact(Role::Prompt, 9)]))),
        (
            "artifact_stored_latents",
            core(Input::ArtifactStored {
                worker,
                held: held(Stage::Denoise),
                artifact: latents(1),
            }),
        ),
        ("shard_finished_latents", core(finished(Stage::Denoise, vec![latents(4)]))),
        ("measured", Entry::Measured { job, fence: held(Stage::Finish).fence, facts }),
        ("shard_finished_clip", core(finished(Stage::Finish, clip))),
        ("publish_failed", core(Input::PublishFailed { job, cause: Cause::DependencyDown })),
        ("time_passed", core(Input::TimePassed)),
        ("published", core(Input::Published { job })),
        (
            "shard_failed",
            core(Input::ShardFailed {
                worker,
                held: held(Stage::Finish),
                cause: Cause::EngineError,
                gpu: Millis(3),
            }),
        ),
        ("stalled", core(Input::Stalled { worker, held: held(Stage::Finish) })),
        ("artifact_gone", core(Input::ArtifactGone { job, artifact: artifact(Role::Prompt, 9) })),
        ("drain_asked", core(Input::DrainAsked { worker, drain: DrainKind::Deadline(Millis(9)) })),
        ("cordon_set", core(Input::CordonSet { worker, cordoned: true })),
        ("worker_lost", core(Input::WorkerLost { worker, how: LostHow::Silence })),
        ("worker_left", core(Input::WorkerLeft { worker })),
        ("end_asked", core(Input::EndAsked { job, why: EndWhy::Blocked })),
        ("expired", Entry::Expired { job }),
        ("deleted", Entry::Deleted { job }),
        (
            "asked",
            Entry::Asked {
                submission: Box::new(submission(2)),
                ask: ask.clone(),
                audience: Audience::Teen,
            },
        ),
        ("not_judged", Entry::NotJudged { job: JobId(2) }),
        ("moderation_up", Entry::ModerationUp),
        ("judged", Entry::Judged { job: JobId(2), verdict: passed.clone() }),
        (
            "asked_again",
            Entry::Asked { submission: Box::new(submission(3)), ask, audience: Audience::All },
        ),
        ("judged_blocked", Entry::Judged { job: JobId(3), verdict: blocked.clone() }),
        (
            "clip_judged",
            Entry::ClipJudged {
                job: JobId(2),
                fence: held(Stage::Finish).fence,
                verdict: blocked.clone(),
            },
        ),
        ("signed", Entry::Signed { job, claim }),
        ("proven", Entry::Proven { job, proofs }),
        ("rescan_began", Entry::RescanBegan { order: Box::new(order) }),
        ("rescan_went", Entry::RescanWent { batch: Box::new(batch) }),
        ("rescan_cancelled", Entry::RescanCancelled),
        ("shared", Entry::Shared { job, share: Box::new(share.clone()) }),
        ("share_read", Entry::ShareRead { share: share.id }),
        ("share_revoked", Entry::ShareRevoked { share: share.id }),
        (
            "marked",
            Entry::Marked { job: JobId(2), issued: Issued { serial: 5, epoch: 1, mark: 36 } },
        ),
        ("cleaned_up", Entry::CleanedUp { job }),
        ("rejudged", Entry::Rejudged { job: JobId(2), verdict: blocked }),
        ("verdict_grace_set", core(Input::VerdictGraceSet { grace: Millis(960_000) })),
        ("decisions_set", Entry::DecisionsSet { decisions: 1 }),
    ]
}

fn records() -> Vec<(&'static str, Record)> {
    let record = |at: u64, entry| Record { now: Millis(1_000 + at), epoch: Epoch(1), entry };
    let numbered = (0..).zip(entries());
    numbered.map(|(at, (name, entry))| (name, record(at * 2_000, entry))).collect()
}

#[test]
fn the_bytes_of_every_entry_are_as_they_were() {
    let mut now = String::new();
    for (name, record) in records() {
        let bytes = encode(&record).expect("encodes");
        assert_eq!(decode::<Record>(&bytes).expect("decodes"), record, "{name}");
        writeln!(now, "{name} {}", hex::encode(bytes)).expect("writes");
    }
    if std::env::var_os("ZOETROPE_BLESS").is_some() {
        std::fs::write(FILE, &now).expect("writes the golden file");
    }
    let golden = std::fs::read_to_string(FILE).expect("the golden file");
    assert_eq!(now, golden, "a journal of an older version would not be read any more");
}

/// Wherever a snapshot cuts the journal: snapshot and tail give the same effects and the same books.
#[test]
fn snapshot_and_tail_are_the_same_as_the_whole_journal() {
    let records = records();
    let all = |books: &mut Books, from: usize| -> Vec<Output> {
        let tail = records[from..].iter();
        tail.flat_map(|(_, record)| books.apply(record.now, record.entry.clone()).outputs).collect()
    };
    let mut whole = Books::new(Config::default());
    let outputs = all(&mut whole, 0);
    assert!(outputs.iter().any(|output| matches!(output, Output::Publish { .. })), "{outputs:?}");
    let end = whole.snapshot().encode().expect("encodes");
    for cut in 0..=records.len() {
        let mut books = Books::new(Config::default());
        let mut seen = Vec::new();
        for (_, record) in &records[..cut] {
            seen.extend(books.apply(record.now, record.entry.clone()).outputs);
        }
        let form = if cut % 2 == 0 { Form::Whole } else { Form::Split { item_bytes: 100 } };
        let snapshot = books.snapshot().encode_as(form).expect("encodes");
        let mut books = Books::restore(&snapshot).expect("decodes");
        seen.extend(all(&mut books, cut));
        assert_eq!(seen, outputs, "cut at {cut}");
        assert_eq!(books.snapshot().encode().expect("encodes"), end, "cut at {cut}");
    }
}

/// Promise: what an attempt made that was stopped is nobody's: its bytes go, and a deleted job's row is not kept by them.
#[test]
fn what_a_stopped_attempt_made_goes() {
    let mut books = Books::new(Config::default());
    // Until the first shard is with its worker.
    for (_, record) in records().into_iter().take(5) {
        drop(books.apply(record.now, record.entry));
    }
    let (now, job, worker) = (books.now(), JobId(1), WorkerId(1));
    drop(books.apply(now, Entry::Deleted { job }));
    let (held, prompt) = (held(Stage::Encode), artifact(Role::Prompt, 9));
    let finished = Input::ShardFinished { worker, held, outputs: vec![prompt], gpu: Millis(40) };
    let effects = books.apply(now, Entry::Core(finished));
    assert_eq!(effects.free, [prompt.artifact]);
    assert!(!books.table.uses(&prompt.artifact));
}
