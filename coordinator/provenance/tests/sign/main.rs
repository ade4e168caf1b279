//! Promise: a clip is signed so that any verifier trusts it, and the signer signs nothing but that clip.

mod forged;
mod rotation;

use rcgen::{CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use zoetrope_protocol::id::{ArtifactId, AttemptNumber, Epoch, Fence, JobId, Millis, ShardId};
use zoetrope_protocol::job::Stage;
use zoetrope_protocol::provenance::{MarkBinding, Origin, SIGNATURE_BYTES, Terms};
use zoetrope_protocol::wire::Held;
use zoetrope_provenance::stamp::Question;
use zoetrope_provenance::{
    Credential, Parent, Refusal, Signer, State, Trust, Verdict, bound, build, certificates, claim,
    cose, read, unsigned,
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

/// No notes in a file, as the finisher writes none.
const PLAIN: [&str; 4] = ["-map_metadata", "-1", "-fflags", "+bitexact"];

/// A clip as the finisher makes it: H.264 and AAC, the head in front.
fn clip(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    ffmpeg.args(["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-f", "lavfi"]);
    ffmpeg.args(["-i", "sine=sample_rate=48000", "-t", "1", "-c:v", "libx264", "-pix_fmt"]);
    ffmpeg.args(["yuv420p", "-c:a", "aac"]).args(PLAIN).args(["-movflags", "+faststart"]);
    ffmpeg.arg(&path);
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
        let signer =
            Signer::new(Credential::open(&folder.path().join("ca")).expect("certificates"));
        Farm { folder, signer }
    }

    fn trust(&self) -> Trust {
        Trust { roots: self.signer.credential().root.clone() }
    }

    fn sign(&self, held: Held, terms: &Terms, parent: Option<&Path>) -> PathBuf {
        self.sign_and(held, terms, parent, |envelope| envelope)
    }

    /// The same, with something done to the signature's envelope before it goes into the file.
    fn sign_and(
        &self,
        held: Held,
        terms: &Terms,
        parent: Option<&Path>,
        change: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> PathBuf {
        let source = clip(self.folder.path(), "unsigned.mp4");
        let target =
            self.folder.path().join(format!("{}-{}.mp4", terms.video, held.fence.attempt.0));
        let parent = parent.map(|file| Parent { file });
        let draft = build::draft(terms, parent.as_ref(), &source, &target).expect("is written");
        let signed = self.signer.sign(held, terms, &draft.manifest).expect("is signed");
        let claim = claim::check(&draft.manifest, terms).expect("says what it must");
        cose::verify(&signed.envelope, claim.bytes, &self.signer.credential().root).expect("holds");
        draft.complete(&change(signed.envelope)).expect("fits");
        target
    }

    /// What OpenSSL answers as an authority of time whose certificate the farm's own intermediate issued.
    fn time(&self, question: &[u8]) -> Vec<u8> {
        let path = |name: &str| self.folder.path().join(name);
        let pem = |name: &str| std::fs::read_to_string(path("ca").join(name)).expect("reads");
        let key = KeyPair::from_pem(&pem("intermediate.key.pem")).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(&pem("intermediate.pem"), key).expect("an issuer");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Zoetrope farm time");
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Time stamping alone, and critical, which the library does not write by itself.
        let usage = [0x30, 0x0a, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 8];
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], usage.to_vec());
        usage.set_criticality(true);
        params.custom_extensions.push(usage);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &issuer).expect("a certificate");
        let write = |name: &str, text: &[u8]| std::fs::write(path(name), text).expect("writes");
        write("time.pem", leaf.pem().as_bytes());
        write("time.key.pem", key.serialize_pem().as_bytes());
        write("question.tsq", question);
        write("serial", b"01\n");
        let settings = format!(
            "[tsa]\ndefault_tsa = one\n[one]\nserial = {}\ncrypto_device = builtin\n\
             default_policy = 1.2.3.4.1\ndigests = sha256\nsigner_digest = sha256\n\
             ess_cert_id_alg = sha256\n",
            path("serial").display()
        );
        write("time.cnf", settings.as_bytes());
        let mut openssl = Command::new("openssl");
        openssl.args(["ts", "-reply", "-config"]).arg(path("time.cnf"));
        openssl.arg("-queryfile").arg(path("question.tsq")).arg("-out").arg(path("answer.tsr"));
        openssl.arg("-signer").arg(path("time.pem")).arg("-inkey").arg(path("time.key.pem"));
        openssl.arg("-chain").arg(path("ca").join("intermediate.pem"));
        let output = openssl.output().expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(path("answer.tsr")).expect("reads")
    }

    /// OpenSSL about answers of the farm's authority on its leaf, in the farm's folder.
    fn ocsp(&self, arguments: &[&str]) -> String {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(self.folder.path()).args(["ocsp", "-issuer", "ca/intermediate.pem"]);
        openssl.args(["-no_nonce", "-sha256", "-cert", "ca/chain.pem"]).args(arguments);
        let output = openssl.output().expect("openssl starts");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Has OpenSSL answer as the leaf's authority that it is valid (`V`) or revoked (`R`).
    fn openssl_answers(&self, state: &str, name: &str) {
        let credential = self.signer.credential();
        let leaf = x509_parser::parse_x509_certificate(credential.leaf());
        let serial = leaf.expect("a certificate").1.raw_serial_as_string().replace(':', "");
        let revoked = if state == "R" { "260101000000Z" } else { "" };
        let line = format!(
            "{state}\t491231235959Z\t{revoked}\t{}\tunknown\t/O=Zoetrope\n",
            serial.to_uppercase()
        );
        std::fs::write(self.folder.path().join("index"), line).expect("writes");
        let said = self.ocsp(&[
            "-index",
            "index",
            "-CA",
            "ca/intermediate.pem",
            "-rsigner",
            "ca/ocsp.pem",
            "-rkey",
            "ca/ocsp.pem",
            "-ndays",
            "2",
            "-respout",
            name,
        ]);
        assert!(self.folder.path().join(name).is_file(), "{said}");
    }

    fn read(&self, file: &Path, trust: &Trust) -> Verdict {
        read("video/mp4", std::fs::File::open(file).expect("opens"), trust)
    }
}

/// Promise: only a file that holds a manifest store can be invalid, however broken it is.
#[test]
fn a_broken_file_without_a_manifest_is_not_called_invalid() {
    let farm = Farm::new();
    let state = |format: &str, bytes: &[u8]| {
        read(format, std::io::Cursor::new(bytes.to_vec()), &farm.trust()).state
    };
    let plain = std::fs::read(clip(farm.folder.path(), "plain.mp4")).expect("reads");
    for length in (0..40).chain([plain.len() / 2]) {
        assert_eq!(state("video/mp4", &plain[..length]), State::NotPresent, "{length} bytes");
    }
    let beyond = [&plain[..32], b"\x7f\xff\xff\xffmoov"].concat();
    let endless = [&plain[..32], b"\0\0\0\x01uuid", &[0xff; 24]].concat();
    let wav = b"RIFF\xff\0\0\0WAVEfmt \xff\xff\0\0";
    let (png, jpeg) = (b"\x89PNG\r\n\x1a\n\0\0\xffIHDR", b"\xff\xd8\xff\xe0\0\x10JFIF");
    for (format, bytes) in [
        ("video/mp4", &beyond[..]),
        ("video/mp4", &endless),
        ("video/mp4", b"a text"),
        ("audio/wav", wav),
        ("image/png", png),
        ("image/jpeg", jpeg),
    ] {
        assert_eq!(state(format, bytes), State::NotPresent, "{format}: {bytes:?}");
    }
    // What is left of a manifest store is one, and no longer right.
    let signed = std::fs::read(farm.sign(held(1), &terms(), None)).expect("reads");
    let begins = signed.windows(8).position(|bytes| bytes == b"jumdc2pa").expect("a store");
    for length in [begins + 20, begins + 2_000, signed.len() / 2] {
        assert_eq!(state("video/mp4", &signed[..length]), State::Invalid, "{length} bytes");
    }
    assert_eq!(state("video/mp4", &signed), State::Trusted);
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

/// What an attacker on a worker would want signed: each is refused.
#[test]
fn the_signer_signs_what_the_terms_say_and_nothing_else() {
    let farm = Farm::new();
    let source = clip(farm.folder.path(), "unsigned.mp4");
    let target = farm.folder.path().join("draft.mp4");
    let draft = |said: &Terms| build::draft(said, None, &source, &target).expect("is written");
    let right = terms();
    let refused = |said: Terms| {
        let manifest = draft(&said).manifest;
        match farm.signer.sign(held(1), &right, &manifest) {
            Err(Refusal::Terms(_)) => {}
            other => panic!("signed another clip: {other:?}"),
        }
    };
    refused(Terms { video: JobId(8).to_string(), ..right.clone() });
    refused(Terms { seed: 1, ..right.clone() });
    refused(Terms { model: "another".into(), ..right.clone() });
    refused(Terms { farm: "9.9.9".into(), ..right.clone() });
    refused(Terms { policy: None, ..right.clone() });
    refused(Terms { marks: right.marks[1..].to_vec(), ..right.clone() });
    let bent = MarkBinding { value: vec![9; 8], ..right.marks[1].clone() };
    refused(Terms { marks: vec![right.marks[0].clone(), bent], ..right.clone() });
    // Sound that cannot carry a mark has none to be named.
    let silent = draft(&Terms { marks: right.marks[..1].to_vec(), ..right.clone() }).manifest;
    farm.signer.sign(held(9), &right, &silent).expect("the picture's mark is named");
    let mut more = right.clone();
    more.marks.push(MarkBinding { alg: "org.zoetrope.mark.video.1".into(), value: vec![3] });
    refused(more);
    refused(Terms { signature_bytes: SIGNATURE_BYTES + 1, ..right.clone() });

    let manifest = draft(&right).manifest;
    for at in 0..manifest.len() {
        if at % 7 != 0 {
            continue;
        }
        let mut bent = manifest.clone();
        bent[at] ^= 0x20;
        // The room of the signature and salts may differ; what is signed still says what it must.
        if let Ok(signed) = farm.signer.sign(held(100 + at as u32), &right, &bent) {
            let checked = claim::check(&bent, &right).expect("says what it must");
            assert_eq!(signed.claim, checked.digest);
        }
    }
    farm.signer.sign(held(2), &right, &manifest).expect("signs the right one");
    farm.signer.sign(held(2), &right, &manifest).expect("again, if its answer was lost");
    let other = draft(&right).manifest;
    assert_eq!(farm.signer.sign(held(2), &right, &other), Err(Refusal::Twice));
    farm.signer.sign(held(3), &right, &other).expect("another attempt");
}

/// A hand-made edit: the earlier clip's manifest comes along, and the lineage is trusted as a whole.
#[test]
fn an_edit_carries_the_manifest_of_what_it_was_made_from() {
    let farm = Farm::new();
    let parent = farm.sign(held(1), &terms(), None);
    let edited = Terms {
        video: JobId(9).to_string(),
        origin: Origin::Edited { parent: terms().video },
        ..terms()
    };
    let file = farm.sign(held(2), &edited, Some(&parent));
    let verdict = farm.read(&file, &farm.trust());
    assert_eq!((verdict.state, &verdict.failures), (State::Trusted, &vec![]), "{verdict:#?}");
    let manifests =
        verdict.manifest.expect("a store")["manifests"].as_object().map(|all| all.len());
    assert_eq!(manifests, Some(2));
    // A clip that claims to be made from nothing may not bring somebody else's manifest along.
    let source = clip(farm.folder.path(), "u.mp4");
    let target = farm.folder.path().join("t.mp4");
    let draft = build::draft(&edited, Some(&Parent { file: &parent }), &source, &target);
    let manifest = draft.expect("is written").manifest;
    let generated = Terms { origin: Origin::Generated, ..edited };
    let refused = farm.signer.sign(held(3), &generated, &manifest);
    assert!(matches!(refused, Err(Refusal::Terms(_))), "{refused:?}");
}

/// A new key: what the old one signed stays trusted, and the new one signs.
#[test]
fn a_rotated_key_signs_and_the_old_clips_stay_trusted() {
    let mut farm = Farm::new();
    let old = farm.sign(held(1), &terms(), None);
    let folder = farm.folder.path().join("ca");
    let before = farm.signer.credential().leaf().to_vec();
    zoetrope_provenance::certificates::rotate(&folder).expect("rotates");
    farm.signer = Signer::new(Credential::open(&folder).expect("opens"));
    assert_ne!(farm.signer.credential().leaf(), before);
    let new = farm.sign(held(2), &terms(), None);
    for file in [old, new] {
        assert_eq!(farm.read(&file, &farm.trust()).state, State::Trusted);
    }
}

/// An intermediate that would end before the next leaf is replaced with it, by the same root.
#[test]
fn a_key_is_rotated_under_an_intermediate_that_outlives_it() {
    let farm = Farm::new();
    let old = farm.sign(held(1), &terms(), None);
    let folder = farm.folder.path().join("ca");
    let path = |name: &str| folder.join(name);
    let pem = |name: &str| std::fs::read_to_string(path(name)).expect("reads");
    let root_key = KeyPair::from_pem(&pem("root.key.pem")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&pem("root.pem"), root_key).expect("an issuer");
    let key = KeyPair::from_pem(&pem("intermediate.key.pem")).expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(100);
    let ending = params.signed_by(&key, &issuer).expect("a certificate").pem();
    std::fs::write(path("intermediate.pem"), &ending).expect("writes");
    zoetrope_provenance::certificates::rotate(&folder).expect("rotates");
    assert_ne!(pem("intermediate.pem"), ending);
    let farm = Farm { signer: Signer::new(Credential::open(&folder).expect("opens")), ..farm };
    assert!(farm.signer.credential().days_left() > 300.0);
    for file in [old, farm.sign(held(2), &terms(), None)] {
        assert_eq!(farm.read(&file, &farm.trust()).state, State::Trusted);
    }
}

/// Promise: nobody is given a signature that nobody would trust. A signer that runs for a year takes up the next certificate, and
/// one that has none says so.
#[test]
fn a_certificate_that_ends_is_replaced_or_signs_nothing_more() {
    let farm = Farm::new();
    let path = |name: &str| farm.folder.path().join("ca").join(name);
    let pem = |name: &str| std::fs::read_to_string(path(name)).expect("reads");
    let key = KeyPair::from_pem(&pem("intermediate.key.pem")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&pem("intermediate.pem"), key).expect("an issuer");
    let mut params = CertificateParams::default();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &issuer).expect("a certificate");
    let chain = format!("{}{}", leaf.pem(), pem("intermediate.pem"));
    std::fs::write(path("short.pem"), chain).expect("writes");
    std::fs::write(path("short.key.pem"), key.serialize_pem()).expect("writes");
    let (chain, key, root) = (path("short.pem"), path("short.key.pem"), path("root.pem"));
    let files = certificates::Files { chain, key, root, ocsp: None };
    let short = || Credential::read(&files).expect("it still holds");
    let folder = farm.folder.path().join("ca");
    let renewed = Signer::new(short()).renewed_by(Box::new(move || Credential::open(&folder)));
    let alone = Signer::new(short());
    let source = clip(farm.folder.path(), "unsigned.mp4");
    let target = farm.folder.path().join("signed.mp4");
    let manifest = build::draft(&terms(), None, &source, &target).expect("is written").manifest;
    alone.sign(held(1), &terms(), &manifest).expect("it holds");
    renewed.sign(held(1), &terms(), &manifest).expect("is signed");
    assert_eq!(renewed.credential().leaf(), farm.signer.credential().leaf());
    while alone.credential().days_left() > 0.0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let refused = alone.sign(held(1), &terms(), &manifest).expect_err("it has ended");
    assert_eq!(refused, Refusal::Signer("the certificate has ended".to_owned()));
    renewed.sign(held(1), &terms(), &manifest).expect("is signed");
}

/// A time stamp is trusted by this library and by one that shares no code with it; and a token of another signature, of
/// another question or of nobody known is no time.
#[test]
fn a_time_stamp_is_trusted_and_no_other_is_taken() {
    let farm = Farm::new();
    let root = farm.signer.credential().root.clone();
    let stamped = |envelope: Vec<u8>| {
        let question = Question::about(&envelope).expect("ours");
        let answer = farm.time(&question.body());
        let again = Question::about(&envelope).expect("ours");
        let refused = again.stamped(&answer, &root).expect_err("another number");
        assert!(refused.to_string().contains("another question"), "{refused}");
        let stranger = Farm::new().signer.credential().root.clone();
        question.stamped(&answer, &stranger).expect_err("nobody known");
        question.stamped(&answer[..answer.len() - 1], &root).expect_err("cut off");
        question.stamped(b"", &root).expect_err("nothing");
        let stamped = question.stamped(&answer, &root).expect("holds");
        assert_eq!(stamped.len(), envelope.len());
        stamped
    };
    let file = farm.sign_and(held(1), &terms(), None, stamped);
    let verdict = farm.read(&file, &farm.trust());
    assert_eq!((verdict.state, &verdict.failures), (State::Trusted, &vec![]), "{verdict:#?}");
    assert!(verdict.signed_at.is_some());
    let options = encypher_c2pa::VerifyOptions {
        trust_pem: Some(root.clone()),
        tsa_trust_pem: Some(root),
        no_default_trust: true,
        strict_conformance: true,
        ..encypher_c2pa::VerifyOptions::default()
    };
    let report = encypher_c2pa::verify_file(&file, Some("video/mp4"), &options).expect("reads");
    let codes = |all: &Vec<encypher_c2pa::VerificationStatus>| {
        all.iter().map(|one| one.code.clone()).collect::<Vec<_>>()
    };
    let (good, bad) =
        (codes(&report.validation_results.success), codes(&report.validation_results.failure));
    for code in ["timeStamp.validated", "timeStamp.trusted", "signingCredential.ocsp.notRevoked"] {
        assert!(good.iter().any(|one| one == code), "{good:?} {bad:?}");
    }
    // Its strict mode wants a time stamp and what the authority says of the certificate.
    assert!(bad.is_empty(), "{bad:?}");
}

/// What stands beside a signature about its certificate: OpenSSL takes it, too.
#[test]
fn the_authority_says_that_the_leaf_is_good() {
    let farm = Farm::new();
    let mut answer = None;
    let keep = |envelope: Vec<u8>| {
        answer = cose::open(&envelope).expect("opens").ocsp;
        envelope
    };
    let file = farm.sign_and(held(1), &terms(), None, keep);
    let verdict = farm.read(&file, &farm.trust());
    assert_eq!((verdict.state, &verdict.failures), (State::Trusted, &vec![]), "{verdict:#?}");
    let answer = answer.expect("an answer");
    std::fs::write(farm.folder.path().join("answer.der"), answer).expect("writes");
    let said = farm.ocsp(&["-respin", "answer.der", "-CAfile", "ca/root.pem"]);
    assert!(said.contains("Response verify OK") && said.contains("ca/chain.pem: good"), "{said}");
}

/// An operator's own certificate, with an answer in a file: no other than a good one about this certificate is taken.
#[test]
fn an_operators_answer_must_be_good_and_about_the_certificate() {
    let farm = Farm::new();
    let path = |name: &str| farm.folder.path().join(name);
    let files = |ocsp: &str| certificates::Files {
        chain: path("ca/chain.pem"),
        key: path("ca/leaf.key.pem"),
        root: path("ca/root.pem"),
        ocsp: Some(path(ocsp)),
    };
    let read = |ocsp: &str| Credential::read(&files(ocsp)).map_err(|error| error.to_string());
    let answer =
        |credential: &Credential| credential.vouched().expect("says so").expect("an answer");
    std::fs::write(path("good"), answer(&farm.signer.credential())).expect("writes");
    std::fs::write(path("other"), answer(&Farm::new().signer.credential())).expect("writes");
    std::fs::write(path("garbage"), b"good").expect("writes");
    std::fs::write(path("large"), vec![0; 5_000]).expect("writes");
    for (state, name) in [("R", "revoked"), ("V", "fresh")] {
        farm.openssl_answers(state, name);
    }
    for name in ["good", "fresh"] {
        let credential = read(name).expect("is taken");
        assert_eq!(answer(&credential), std::fs::read(path(name)).expect("reads"));
        // Read anew for each signature: what is gone meanwhile is missed at once.
        std::fs::remove_file(path(name)).expect("removes");
        let missing = Signer::new(credential);
        let source = clip(farm.folder.path(), "u.mp4");
        let draft = build::draft(&terms(), None, &source, &path("t.mp4")).expect("is written");
        let refused = missing.sign(held(1), &terms(), &draft.manifest);
        assert!(matches!(refused, Err(Refusal::Signer(_))), "{refused:?}");
    }
    for (name, reason) in [
        ("other", "about another certificate"),
        ("garbage", "no OCSP response"),
        ("large", "over 4096 bytes"),
        ("revoked", "the certificate is revoked"),
        ("missing", "No such file"),
    ] {
        let refused = read(name).err().expect("is refused");
        assert!(refused.contains(reason) && refused.contains(name), "{refused}");
    }
}

/// Another implementation of the standard, which shares no code with the one that writes.
#[test]
fn an_independent_reader_says_the_same() {
    let farm = Farm::new();
    let file = farm.sign(held(1), &terms(), None);
    let options = encypher_c2pa::VerifyOptions {
        trust_pem: Some(farm.signer.credential().root.clone()),
        no_default_trust: true,
        ..encypher_c2pa::VerifyOptions::default()
    };
    let verify =
        |options: &_| encypher_c2pa::verify_file(&file, Some("video/mp4"), options).expect("reads");
    let report = verify(&options);
    let said =
        (report.integrity.as_str(), report.hard_binding.as_str(), report.trust.status.as_str());
    // Its word for a chain that leads to a root it was given.
    let trusted = ("valid", "match", "valid_for_supplied_material");
    assert_eq!(said, trusted, "{:#?}", report.validation_results.failure);
    let stranger = Farm::new().signer.credential().root.clone();
    let report = verify(&encypher_c2pa::VerifyOptions { trust_pem: Some(stranger), ..options });
    assert_eq!(report.trust.status, "not_valid_for_supplied_material");
}

fn digest(path: &Path) -> ArtifactId {
    ArtifactId(Sha256::digest(std::fs::read(path).expect("reads")).into())
}

/// Promise: whoever has a file without its manifest knows what the manifest must bind, and takes no other file for it.
#[test]
fn what_a_manifest_binds_is_known_before_it_is_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let source = clip(folder.path(), "unsigned.mp4");
    let path = |name: &str| folder.path().join(name);
    let plain = std::fs::read(&source).expect("reads");
    // Tables in front of the samples and behind them; and with a box that no player reads at the end.
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-y", "-i"]).arg(&source);
    ffmpeg.args(["-c", "copy"]).args(PLAIN);
    assert!(ffmpeg.arg(path("late.mp4")).status().expect("ffmpeg").success());
    std::fs::write(path("free.mp4"), [&plain[..], b"\0\0\0\x08free"].concat()).expect("writes");
    for source in [&source, &path("late.mp4"), &path("free.mp4")] {
        let draft = build::draft(&terms(), None, source, &path("signed.mp4")).expect("is written");
        let binding = claim::check(&draft.manifest, &terms()).expect("says what it must").binding;
        let of = |file: &Path| bound(file, draft.manifest.len()).expect("reads");
        assert_eq!(of(source), Some(binding), "{}", source.display());
        assert_ne!(bound(source, draft.manifest.len() + 1).expect("reads"), Some(binding));
        let mut other = std::fs::read(source).expect("reads");
        let sample = other.windows(4).position(|word| word == b"mdat").expect("samples") + 40;
        other[sample] ^= 1;
        std::fs::write(path("other.mp4"), other).expect("writes");
        assert_ne!(of(&path("other.mp4")), Some(binding), "another sample");
        assert_eq!(of(&path("signed.mp4")), None, "it has a manifest already");
    }
    for (name, bytes) in [("empty", &[][..]), ("words", b"no film"), ("cut", &plain[..900])] {
        std::fs::write(path(name), bytes).expect("writes");
        assert_eq!(bound(&path(name), 14_000).expect("reads"), None, "{name}");
    }
    // What no manifest binds has nothing in it, and no sample stands there: it could be another one later.
    std::fs::write(path("full"), [&plain[..], b"\0\0\0\x0cfreefour"].concat()).expect("writes");
    assert_eq!(bound(&path("full"), 14_000).expect("reads"), None);
    let mut short = plain.clone();
    let samples = short.windows(4).position(|word| word == b"mdat").expect("samples") - 4;
    let length = u32::from_be_bytes(short[samples..samples + 4].try_into().expect("four"));
    short.truncate(samples + length as usize - 8);
    short[samples..samples + 4].copy_from_slice(&(length - 8).to_be_bytes());
    std::fs::write(path("short"), [&short[..], b"\0\0\0\x08free"].concat()).expect("writes");
    assert_eq!(bound(&path("short"), 14_000).expect("reads"), None);
    // A place so high that it has no room behind the manifest.
    let mut high = plain;
    let table = high.windows(4).position(|word| word == b"stco").expect("is there");
    high[table + 12..table + 16].fill(0xff);
    std::fs::write(path("high"), high).expect("writes");
    assert_eq!(bound(&path("high"), 14_000).expect("reads"), None);
}

/// Promise: what is known of a clip before it was signed is held to be so of no other file.
#[test]
fn without_its_manifest_a_signed_clip_is_the_file_that_was_signed() {
    let farm = Farm::new();
    let signed = farm.sign(held(1), &terms(), None);
    let source = farm.folder.path().join("unsigned.mp4");
    let before = Some(digest(&source));
    assert_eq!(unsigned(&signed).expect("reads"), before);
    assert_eq!(unsigned(&source).expect("reads"), None, "it was not signed");
    // Where nothing is moved in front of the samples, and where the manifest has a manifest of its own inside.
    let late = farm.folder.path().join("late.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-y", "-i"]).arg(&source);
    ffmpeg.args(["-c", "copy"]).args(PLAIN);
    assert!(ffmpeg.arg(&late).status().expect("ffmpeg").success());
    let target = farm.folder.path().join("late-signed.mp4");
    build::draft(&terms(), None, &late, &target).expect("is written");
    assert_eq!(unsigned(&target).expect("reads"), Some(digest(&late)));
    let origin = Origin::Edited { parent: terms().video };
    let edited = Terms { video: JobId(8).to_string(), origin, ..terms() };
    assert_eq!(unsigned(&farm.sign(held(2), &edited, Some(&signed))).expect("reads"), before);

    let bytes = std::fs::read(&signed).expect("reads");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let path = farm.folder.path().join("changed.mp4");
        let mut bytes = bytes.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).expect("writes");
        unsigned(&path).expect("reads")
    };
    assert_eq!(changed(&|_| {}), before);
    let last = bytes.len() - 1;
    assert_ne!(changed(&|bytes| bytes[last] ^= 1), before, "another sample");
    assert_ne!(changed(&|bytes| bytes.extend(*b"\0\0\0\x08free")), before, "a box more");
    assert_eq!(changed(&|bytes| bytes.truncate(last)), None, "cut off");
    assert_eq!(changed(&|bytes| bytes.truncate(3)), None);
    assert_eq!(changed(&|bytes| bytes.clear()), None);
    let box_of = |kind: &[u8]| bytes.windows(4).position(|word| word == kind).expect("is there");
    let table = box_of(b"stco");
    assert_ne!(changed(&|bytes| bytes[table + 15] ^= 1), before, "samples from elsewhere");
    assert_eq!(changed(&|bytes| bytes[table - 1] = 4), None, "a box shorter than its head");
    assert_eq!(changed(&|bytes| bytes[table + 11] ^= 1), None, "another number of places");
    let manifest = box_of(b"uuid");
    assert_eq!(changed(&|bytes| bytes[manifest + 4] ^= 1), None, "no manifest");
    let twice = |bytes: &mut Vec<u8>| {
        let at = manifest - 4;
        let end = at + u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four")) as usize;
        bytes.extend(bytes[at..end].to_vec());
    };
    assert_eq!(changed(&twice), None, "two manifests");
}

fn length_of(bytes: &[u8]) -> usize {
    u32::from_be_bytes(bytes[..4].try_into().expect("four")) as usize
}

/// A box of an MP4.
fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
}

/// Promise: tables that one player could read otherwise than another, or that hold what no player shows, are none of ours:
/// what was seen of the clip would be what one player makes of it.
#[test]
fn tables_that_can_be_read_in_two_ways_are_none_of_ours() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let film = std::fs::read(clip(folder.path(), "clip.mp4")).expect("reads");
    let path = folder.path().join("bent.mp4");
    let is_ours = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("writes");
        bound(&path, 14_000).expect("reads").is_some()
    };
    assert!(is_ours(&film));
    // The first box of a kind is the picture's.
    let tables = film.windows(4).position(|word| word == b"moov").expect("is there");
    let found = |kind: &[u8]| {
        let at = film[tables..].windows(4).position(|word| word == kind).expect("is there");
        tables + at + 4
    };
    let bent = |kind: &[u8; 4], at: usize, value: &[u8]| {
        let mut bent = film.clone();
        bent[found(kind) + at..][..value.len()].copy_from_slice(value);
        bent
    };
    for (what, kind, at, value) in [
        ("a head of another version", b"mvhd", 0, &[1][..]),
        ("a track that is not shown", b"tkhd", 3, &[2]),
        ("a picture that is turned", b"tkhd", 40, &[0, 0, 0, 0]),
        ("another pace", b"elst", 16, &[0, 2]),
        ("frames left out in front", b"elst", 12, &[0, 0, 8]),
        ("frames left out behind", b"elst", 8, &[0, 0, 1]),
        ("an edit that begins later", b"elst", 12, &[0xff; 4]),
        ("words in the name", b"hdlr", 24, b"my"),
        ("samples of another file", b"dref", 19, &[0]),
        ("two descriptions", b"stsd", 7, &[2]),
        ("the samples of another file", b"avc1", 7, &[2]),
        ("more frames than there are", b"stts", 11, &[25]),
        ("no pace", b"stts", 12, &[0; 4]),
        ("a frame in another's turn", b"ctts", 12, &[0, 0, 0, 0]),
        ("offsets with a sign", b"ctts", 0, &[1]),
        ("a run behind the first chunk", b"stsc", 11, &[2]),
        ("another description", b"stsc", 19, &[2]),
    ] {
        assert!(!is_ours(&bent(kind, at, value)), "{what}");
    }
    let mut unknown = film.clone();
    let at = found(b"avcC") - 4;
    unknown[at..at + 4].copy_from_slice(b"avcE");
    assert!(!is_ours(&unknown), "an unknown part of the description");
    // Words that nobody has read.
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-y", "-i"]);
    ffmpeg.arg(folder.path().join("clip.mp4")).args(["-c", "copy", "-metadata", "comment=words"]);
    assert!(ffmpeg.arg(&path).status().expect("ffmpeg").success());
    assert_eq!(bound(&path, 14_000).expect("reads"), None, "notes");
}

/// Promise: a signed file that would play other samples than it did without its manifest has no digest from before.
#[test]
fn a_signed_clip_whose_samples_could_be_others_has_no_digest() {
    let farm = Farm::new();
    let signed = std::fs::read(farm.sign(held(1), &terms(), None)).expect("reads");
    let before = digest(&farm.folder.path().join("unsigned.mp4"));
    let path = farm.folder.path().join("changed.mp4");
    let without = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("writes");
        unsigned(&path).expect("reads")
    };
    assert_eq!(without(&signed), Some(before));
    let at = |kind: &[u8]| signed.windows(4).position(|word| word == kind).expect("is there");
    let length =
        |at: usize| u32::from_be_bytes(signed[at..at + 4].try_into().expect("four")) as usize;
    let manifest = at(b"uuid") - 4;
    let behind = manifest + length(manifest);
    // Samples that lie in the manifest, or in front of it, are not where they were.
    for place in [manifest as u32 + 32, behind as u32 - 1, 0] {
        let mut bent = signed.clone();
        let table = at(b"stco");
        bent[table + 12..table + 16].copy_from_slice(&place.to_be_bytes());
        assert_eq!(without(&bent), None, "a sample at {place}");
    }
    // What players take for places of samples wherever it stands, and what ours have no need for at the top.
    let tables = at(b"moov") - 4;
    let inside = |more: &[u8]| {
        let mut grown = signed.clone();
        let end = tables + length(tables);
        grown.splice(end..end, more.iter().copied());
        let length = (length(tables) + more.len()) as u32;
        grown[tables..tables + 4].copy_from_slice(&length.to_be_bytes());
        // The samples behind the tables have moved, all as far.
        assert!(tables < at(b"mdat"));
        for at in tables..grown.len() - 12 {
            if &grown[at..at + 4] != b"stco" || at > end {
                continue;
            }
            let count = length_of(&grown[at + 8..]);
            for place in grown[at + 12..].chunks_exact_mut(4).take(count) {
                let moved = length_of(place) as u32 + more.len() as u32;
                place.copy_from_slice(&moved.to_be_bytes());
            }
        }
        grown
    };
    let places = boxed(b"stco", &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 40]);
    for (what, more) in [
        ("what is skipped", boxed(b"free", b"12345678")),
        ("another picture", boxed(b"uuid", &[7; 16])),
        ("notes", boxed(b"udta", &boxed(b"name", b"words"))),
        ("places elsewhere", boxed(b"udta", &boxed(b"trak", &places))),
        ("fragments", boxed(b"mvex", b"")),
        ("packed tables", boxed(b"cmov", b"")),
        ("items", boxed(b"meta", &boxed(b"iloc", b""))),
        ("encrypted samples", boxed(b"udta", &boxed(b"saio", b""))),
        ("many boxes", boxed(b"free", b"").repeat(600)),
        ("a box that is cut off", boxed(b"schi", &[0, 0, 0, 9])),
    ] {
        assert_eq!(without(&inside(&more)), None, "{what}");
    }
    for kind in [b"moof", b"meta", b"uuid", b"wide", b"moov"] {
        let more = [&signed[..], &boxed(kind, &[0; 16])].concat();
        assert_eq!(without(&more), None, "{kind:?}");
    }
    // The manifest stands behind the type, where it is put.
    let moved = [&signed[..manifest], &signed[behind..], &signed[manifest..behind]].concat();
    assert_eq!(without(&moved), None, "a manifest at the end");
}
