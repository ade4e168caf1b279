//! Promise: a clip is signed so that any verifier trusts it, and the signer signs nothing but that clip.

use std::path::{Path, PathBuf};
use std::process::Command;
use zoetrope_protocol::id::{AttemptNumber, Epoch, Fence, JobId, Millis, ShardId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::provenance::{MarkBinding, Origin, SIGNATURE_BYTES, Terms};
use zoetrope_protocol::wire::Held;
use zoetrope_provenance::{
    Credential, Parent, Refusal, Signer, State, Trust, Verdict, build, claim, cose, read,
};

fn terms() -> Terms {
    Terms {
        video: JobId(7).to_string(),
        farm: "0.1.0".into(),
        created: Millis(1_795_000_000_000),
        model: "toybox@sha256:ab".into(),
        license: "Apache-2.0".into(),
        seed: (1 << 53) - 1,
        policy: Some("2026-11-01".into()),
        marks: vec![
            MarkBinding { alg: "org.zoetrope.mark.video.1".into(), value: vec![1; 8] },
            MarkBinding { alg: "org.zoetrope.mark.audio.1".into(), value: vec![2; 8] },
        ],
        origin: Origin::Generated,
        signature_bytes: SIGNATURE_BYTES,
    }
}

fn held(attempt: u32) -> Held {
    let shard = ShardId { job: JobId(7), stage: Stage::Finish, index: 0 };
    Held { shard, fence: Fence { epoch: Epoch(1), attempt: AttemptNumber(attempt) } }
}

/// A clip as the finisher makes it: H.264 and AAC, the head in front.
fn clip(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    ffmpeg.args(["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-f", "lavfi"]);
    ffmpeg.args(["-i", "sine=sample_rate=48000", "-t", "1", "-c:v", "libx264", "-pix_fmt"]);
    ffmpeg.args(["yuv420p", "-c:a", "aac", "-movflags", "+faststart"]).arg(&path);
    assert!(ffmpeg.status().expect("ffmpeg starts").success());
    path
}

struct Farm {
    folder: tempfile::TempDir,
    signer: Signer,
}

impl Farm {
    fn new() -> Farm {
        let folder = tempfile::tempdir().expect("temporary folder");
        let signer = Signer::new(Credential::open(&folder.path().join("ca")).expect("certificates"));
        Farm { folder, signer }
    }

    fn trust(&self) -> Trust {
        Trust { roots: self.signer.credential().root.clone() }
    }

    fn sign(&self, held: Held, terms: &Terms, parent: Option<&Path>) -> PathBuf {
        let source = clip(self.folder.path(), "unsigned.mp4");
        let target = self.folder.path().join(format!("{}-{}.mp4", terms.video, held.fence.attempt.0));
        let parent = parent.map(|file| Parent { file });
        let draft = build::draft(terms, parent.as_ref(), &source, &target).expect("is written");
        let signed = self.signer.sign(held, terms, &draft.manifest).expect("is signed");
        let claim = claim::check(&draft.manifest, terms).expect("says what it must");
        cose::verify(&signed.envelope, claim.bytes, &self.signer.credential().root).expect("holds");
        draft.complete(&signed.envelope).expect("fits");
        target
    }

    fn read(&self, file: &Path, trust: &Trust) -> Verdict {
        read("video/mp4", std::fs::File::open(file).expect("opens"), trust)
    }
}

#[test]
fn a_signed_clip_is_trusted_and_says_what_it_is() {
    let farm = Farm::new();
    let file = farm.sign(held(1), &terms(), None);
    let verdict = farm.read(&file, &farm.trust());
    assert_eq!((verdict.state, &verdict.failures), (State::Trusted, &vec![]), "{verdict:#?}");
    assert_eq!(verdict.issuer.as_deref(), Some("Zoetrope"));
    let render = verdict.render.expect("our assertion");
    assert_eq!(render["video_id"], terms().video);
    assert_eq!(render["seed"], terms().seed);
    // Without the root the bytes are as good, the signer is unknown.
    assert_eq!(farm.read(&file, &Trust::default()).state, State::Valid);
    // One flipped byte of the picture.
    let mut bytes = std::fs::read(&file).expect("reads");
    let last = bytes.len() - 100;
    bytes[last] ^= 1;
    std::fs::write(&file, &bytes).expect("writes");
    let verdict = farm.read(&file, &farm.trust());
    assert_eq!(verdict.state, State::Invalid);
    assert!(verdict.failures.contains(&"assertion.bmffHash.mismatch".to_owned()), "{verdict:?}");
    let bare = clip(farm.folder.path(), "bare.mp4");
    assert_eq!(farm.read(&bare, &farm.trust()).state, State::NotPresent);
}
