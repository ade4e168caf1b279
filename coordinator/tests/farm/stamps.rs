//! Promise: a clip carries the time of an authority where the operator wants it, whatever the authority does.

use crate::worker::Worker;
use crate::{PATIENCE, TestFarm, submission};
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zoetrope_coordinator::provenance::settings::TimeStamps;
use zoetrope_protocol::id::JobId;
use zoetrope_provenance::{State, Trust, read};
use zoetrope_sched::output::JobState;

/// What an authority does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Right,
    Hangs,
    Fails,
    Garbage,
    TooMuch,
    /// Stamps what it was not asked about.
    OtherDigest,
    /// Gives the answer of an earlier question.
    Replays,
    /// Signs with a certificate of somebody else.
    Stranger,
}

/// Authorities that run on this machine, and what they do now.
struct Authority {
    folder: tempfile::TempDir,
    does: Arc<Mutex<Does>>,
    url: String,
}

fn issue(folder: &Path, name: &str) {
    let ca = |is_ca, name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params.use_authority_key_identifier_extension = true;
        params
    };
    let generate = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = ca(IsCa::Ca(BasicConstraints::Unconstrained), "stamps root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = generate();
    let root = params.self_signed(&key).expect("a root");
    let issuer = Issuer::new(params, key);
    let mut params = ca(IsCa::ExplicitNoCa, "stamps");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Time stamping alone, and critical, which the library does not write by itself.
    let usage = [0x30, 0x0a, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 8];
    let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], usage.to_vec());
    usage.set_criticality(true);
    params.custom_extensions.push(usage);
    let key = generate();
    let leaf = params.signed_by(&key, &issuer).expect("a leaf");
    let write = |suffix: &str, text: String| {
        std::fs::write(folder.join(format!("{name}-{suffix}.pem")), text).expect("writes");
    };
    write("root", root.pem());
    write("leaf", leaf.pem());
    write("key", key.serialize_pem());
}

/// What OpenSSL answers.
fn reply(folder: &Path, name: &str, question: &[u8]) -> Vec<u8> {
    let path = |name: &str| folder.join(name);
    let number: u64 = rand::random();
    let (asked, told) = (path(&format!("{number}.tsq")), path(&format!("{number}.tsr")));
    std::fs::write(&asked, question).expect("writes");
    std::fs::write(path("serial"), "01\n").expect("writes");
    let settings = format!(
        "[tsa]\ndefault_tsa = one\n[one]\nserial = {}\ncrypto_device = builtin\n\
         default_policy = 1.2.3.4.1\ndigests = sha256\nsigner_digest = sha256\n\
         accuracy = secs:1\ness_cert_id_alg = sha256\n",
        path("serial").display()
    );
    std::fs::write(path("tsa.cnf"), settings).expect("writes");
    let mut command = std::process::Command::new("openssl");
    command.args(["ts", "-reply", "-config"]).arg(path("tsa.cnf"));
    command.arg("-queryfile").arg(asked).arg("-out").arg(&told);
    command.arg("-signer").arg(path(&format!("{name}-leaf.pem")));
    command.arg("-inkey").arg(path(&format!("{name}-key.pem")));
    command.arg("-chain").arg(path(&format!("{name}-root.pem")));
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(told).expect("reads")
}

impl Authority {
    async fn start() -> Authority {
        let folder = tempfile::tempdir().expect("temporary folder");
        issue(folder.path(), "right");
        issue(folder.path(), "stranger");
        let does = Arc::new(Mutex::new(Does::Right));
        let before = Arc::new(Mutex::new(None::<Vec<u8>>));
        let (path, now) = (folder.path().to_owned(), does.clone());
        let answer = move |question: Bytes| {
            let (path, does, before) = (path.clone(), *now.lock().expect("alive"), before.clone());
            async move { answer(does, &path, question, &before).await }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let door = Router::new().route("/", post(answer));
        tokio::spawn(async move { axum::serve(listener, door).await });
        Authority { folder, does, url }
    }

    fn does(&self, what: Does) {
        *self.does.lock().expect("alive") = what;
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("right-root.pem")
    }

    fn settings(&self, required: bool) -> TimeStamps {
        let (url, roots) = (self.url.clone(), self.root());
        TimeStamps { url, roots, required, timeout_seconds: 1, allow: vec!["127.0.0.1".to_owned()] }
    }
}

async fn answer(
    does: Does,
    folder: &Path,
    question: Bytes,
    before: &Mutex<Option<Vec<u8>>>,
) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/timestamp-reply")];
    let stamped = match does {
        Does::Right => {
            let stamped = reply(folder, "right", &question);
            *before.lock().expect("alive") = Some(stamped.clone());
            stamped
        }
        Does::Hangs => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            Vec::new()
        }
        Does::Fails => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Does::Garbage => b"no DER".to_vec(),
        Does::TooMuch => vec![0x30; 1 << 20],
        Does::OtherDigest => {
            let mut bent = question.to_vec();
            bent[30] ^= 1;
            reply(folder, "right", &bent)
        }
        Does::Replays => before.lock().expect("alive").clone().expect("one before"),
        Does::Stranger => reply(folder, "stranger", &question),
    };
    (kind, stamped).into_response()
}

const WRONG: [Does; 7] = [
    Does::Hangs,
    Does::Fails,
    Does::Garbage,
    Does::TooMuch,
    Does::OtherDigest,
    Does::Replays,
    Does::Stranger,
];

/// When the published clip was signed, as a reader says who trusts the farm, and the authority if `root` is its.
fn signed_at(farm: &TestFarm, job: u128, root: Option<&Path>) -> Option<String> {
    let pointer = farm.folder.path().join(format!("store/published/{}.json", JobId(job)));
    let pointer = std::fs::read(pointer).expect("is published");
    let pointer: serde_json::Value = serde_json::from_slice(&pointer).expect("JSON");
    let video = pointer["video"].as_str().expect("a name");
    let path = farm.folder.path().join("store/artifacts").join(&video[..2]).join(video);
    let mut roots =
        std::fs::read_to_string(farm.folder.path().join("provenance/root.pem")).expect("a root");
    if let Some(root) = root {
        roots.push_str(&std::fs::read_to_string(root).expect("a root"));
    }
    let file = std::fs::File::open(path).expect("opens");
    let verdict = read("video/mp4", file, &Trust { roots });
    assert_eq!((verdict.state, &verdict.failures), (State::Trusted, &Vec::new()), "{verdict:#?}");
    verdict.signed_at
}

fn count(farm: &TestFarm, outcome: &str) -> f64 {
    farm.metric(&format!(
        "zoetrope_sidecar_requests_total{{outcome=\"{outcome}\",sidecar=\"time_stamps\"}}"
    ))
}

/// An authority, a farm that asks it for time stamps, and a worker of the farm.
async fn stamped(required: bool) -> (Authority, TestFarm, Worker) {
    let authority = Authority::start().await;
    let stamps = authority.settings(required);
    let farm = TestFarm::with(|config| config.provenance.time_stamps = Some(stamps)).await;
    let worker = Worker::fresh(&farm, "a").await;
    (authority, farm, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clip_carries_the_time_of_an_authority() {
    let (authority, farm, mut worker) = stamped(true).await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    worker.carry_out(&order).await;
    farm.until(JobId(1), |view| view.state == JobState::Completed).await;
    let time = signed_at(&farm, 1, Some(&authority.root())).expect("a trusted time");
    assert!(time.starts_with("20"), "{time}");
    assert_eq!(count(&farm, "ok"), 1.0);
    // Who does not trust the authority believes the clip, and not its time.
    assert_eq!(signed_at(&farm, 1, None), None);
    farm.running.stop().await;
}

/// Where it is required nothing is signed without; the worker hears that a dependency is down.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_that_is_required_nothing_is_signed() {
    let (authority, farm, mut worker) = stamped(true).await;
    farm.submit(submission(1)).await.expect("admitted");
    let order = worker.finish_order().await;
    let (draft, file, _) = worker.draft(&order).await;
    let manifest = draft.manifest.clone();
    // One right answer, to have one to give again.
    worker.signature(&order, manifest.clone()).await.expect("is signed");
    for wrong in WRONG {
        authority.does(wrong);
        let refused = worker.signature(&order, manifest.clone()).await;
        let (cause, reason) = refused.expect_err("no time");
        assert_eq!(cause, zoetrope_protocol::job::Cause::DependencyDown, "{wrong:?}");
        assert!(reason.contains("time stamp"), "{wrong:?}: {reason}");
    }
    assert_eq!(count(&farm, "error"), WRONG.len() as f64);
    authority.does(Does::Right);
    let signature = worker.signature(&order, manifest).await.expect("is signed");
    draft.complete(&signature).expect("fits");
    drop(file);
    farm.running.stop().await;
}

/// Where it is not, clips go without, and a metric counts them.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_that_is_not_required_clips_go_on() {
    let (authority, farm, mut worker) = stamped(false).await;
    authority.does(Does::Hangs);
    for job in [1, 2] {
        farm.submit(submission(job)).await.expect("admitted");
        let order = worker.finish_order().await;
        let done = async {
            worker.carry_out(&order).await;
            farm.until(JobId(job), |view| view.state == JobState::Completed).await;
        };
        tokio::time::timeout(PATIENCE, done).await.expect("goes on");
        assert_eq!(signed_at(&farm, job, Some(&authority.root())), None);
    }
    assert_eq!((count(&farm, "error"), count(&farm, "refused")), (1.0, 1.0));
    farm.running.stop().await;
}
