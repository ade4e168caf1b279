//! Promise: every published clip is signed, any reader can check that, and without a signer nothing is published.

use crate::harness::{Engine, Farm, PATIENCE, eventually, probe, program, signal};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

async fn checked(farm: &Farm, file: &Path) -> (u16, Value) {
    let request = farm.request(reqwest::Method::POST, "/v1/content_provenance_checks");
    sent(request, file).await
}

/// The same, as the request of this idempotency key.
async fn checked_once(farm: &Farm, file: &Path, key: &str) -> (u16, Value) {
    let request = farm.request(reqwest::Method::POST, "/v1/content_provenance_checks");
    sent(request.header("idempotency-key", key), file).await
}

async fn sent(request: reqwest::RequestBuilder, file: &Path) -> (u16, Value) {
    let part = reqwest::multipart::Part::bytes(std::fs::read(file).expect("the file"));
    let form = reqwest::multipart::Form::new().part("file", part.file_name("clip.mp4"));
    let answer = request.multipart(form).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// What readers of C2PA say of a clip that know the farm's root and nothing else of it.
fn strangers_say(farm: &Farm, clip: &Path) -> Value {
    let python = crate::harness::root().join(".deps/venv-c2pa/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/setup --for test", python.display());
    let mut readers = Command::new(python);
    readers.arg(crate::harness::root().join("scripts/chaoskit/readers.py"));
    readers.arg(farm.data().join("provenance/root.pem"));
    readers.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut readers = readers.spawn().expect("it starts");
    let mut paths = readers.stdin.take().expect("piped");
    writeln!(paths, "{}", clip.display()).expect("it reads");
    drop(paths);
    let output = readers.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn a_published_clip_says_where_it_comes_from() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let id = farm.submit("a cube").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
    let clip = farm.scratch("clip.mp4");
    std::fs::write(&clip, farm.content(&id, "video").await).expect("the clip");
    assert_eq!(probe(&clip)["streams"].as_array().expect("streams").len(), 2, "it plays");

    let path = clip.display().to_string();
    let told = farm.cli(&["provenance", "verify", &path, "--json"]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!((&told["state"], &told["issuer"]), (&json!("trusted"), &json!("Zoetrope")));
    assert_eq!((&told["render"]["video_id"], &told["render"]["seed"]), (&json!(id), &json!(7)));

    // Strangers that share no code with each other.
    let said = strangers_say(&farm, &clip);
    let public = &said["public"];
    assert_eq!(
        (&public["state"], &public["issuer"]),
        (&json!("Trusted"), &json!("Zoetrope")),
        "{said}"
    );
    assert_eq!(public["actions"][0][0], "c2pa.created", "{said}");
    assert_eq!(public["actions"].as_array().map(Vec::len), Some(1), "{said}");
    let other = &said["other"];
    for (key, value) in [
        ("integrity", "valid"),
        ("signature", "valid"),
        ("hard_binding", "match"),
        ("validation_state", "Trusted"),
    ] {
        assert_eq!(other[key], value, "{key}: {said}");
    }
    assert_eq!(other["validation_results"]["failure"], json!([]), "{said}");
    // The third is not installed by scripts/setup, and reads where somebody has it.
    assert!(said["tool"].is_null() || said["tool"]["state"] == "Trusted", "{said}");

    let proven = farm.get(&format!("/v1/videos/{id}/provenance")).await;
    assert_eq!(proven["object"], "video.provenance");
    assert_eq!(proven["c2pa"]["validation_state"], "trusted", "{proven}");
    let policy = &proven["moderation"]["policy_version"];
    assert_eq!((policy.is_string(), &told["render"]["policy_version"]), (true, policy), "{proven}");
    assert!(proven["c2pa"]["manifest"]["manifests"].is_object(), "{proven}");

    let workers = proven["workers"].as_array().expect("workers");
    let named = |worker: &Value| worker.as_str().is_some_and(|name| name.starts_with("worker_"));
    assert!(workers.len() == 1 && workers.iter().all(named), "{proven}");

    let (status, found) = checked_once(&farm, &clip, "k").await;
    assert_eq!((status, &found["object"]), (200, &json!("content_provenance_check")), "{found}");
    let c2pa = &found["results"][0];
    assert_eq!(
        (&c2pa["outcome"], &c2pa["validation_state"]),
        (&json!("detected"), &json!("trusted"))
    );
    assert!(c2pa["model"].as_str().is_some_and(|model| model.starts_with("toybox")), "{found}");
    let at = c2pa["generated_at"].as_str().expect("RFC 3339");
    assert!(at.len() == "2026-03-11T09:12:10Z".len() && at.ends_with('Z'), "{at}");
    assert_eq!(checked_once(&farm, &clip, "k").await, (200, found.clone()));

    let mut bytes = std::fs::read(&clip).expect("the clip");
    // A byte of the media, which stands last.
    *bytes.last_mut().expect("media") ^= 1;
    let bent = farm.scratch("bent.mp4");
    std::fs::write(&bent, bytes).expect("writes");
    let said = strangers_say(&farm, &bent);
    assert_eq!(
        (&said["public"]["state"], said["other"]["integrity"] == "valid"),
        (&json!("Invalid"), false),
        "{said}"
    );
    assert_eq!(checked_once(&farm, &bent, "k").await.0, 422, "the key was another file's");
    let (_, found) = checked(&farm, &bent).await;
    assert_eq!(found["results"][0]["validation_state"], "invalid", "{found}");
    assert!(!farm.cli(&["provenance", "verify", &bent.display().to_string()]).status.success());

    let stripped = farm.scratch("stripped.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(&clip).args(["-c", "copy"]).arg(&stripped);
    assert!(ffmpeg.status().expect("ffmpeg starts").success());
    let (_, found) = checked(&farm, &stripped).await;
    assert_eq!(found["results"][0]["outcome"], "not_detected", "{found}");

    // What the strip removed, the mark still tells; also after another encoder, half the size and a mirror.
    let mark = &found["results"][1];
    assert_eq!((&mark["type"], &mark["outcome"]), (&json!("watermark"), &json!("detected")));
    assert_eq!((&mark["video_id"], &mark["track"]), (&json!(id), &json!("picture")), "{found}");
    assert!(mark["confidence"].as_f64().is_some_and(|sure| sure > 0.8), "{found}");
    assert_eq!((&mark["c2pa"], proven["c2pa"]["manifest"].is_object()), (&proven["c2pa"], true));
    let bindings = proven["c2pa"]["manifest"].to_string().matches("c2pa.soft-binding").count();
    assert!(bindings >= 1, "{proven}");
    assert_eq!(proven["watermark"]["value"].as_str().map(str::len), Some(16), "{proven}");
    let attacked = farm.scratch("attacked.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(&clip);
    ffmpeg.args(["-vf", "hflip,eq=brightness=0.05", "-c:v", "libx264", "-crf", "23"]);
    assert!(ffmpeg.arg(&attacked).status().expect("ffmpeg starts").success());
    let (_, found) = checked(&farm, &attacked).await;
    assert_eq!(found["results"][1]["video_id"], json!(id), "{found}");

    // Another project hears that it is marked, and not whose it is.
    let other = farm.cli(&["key", "create", "--name", "another", "--json"]);
    let other: Value = serde_json::from_slice(&other.stdout).expect("JSON");
    let part = reqwest::multipart::Part::bytes(std::fs::read(&attacked).expect("the file"));
    let form = reqwest::multipart::Form::new().part("file", part.file_name("clip.mp4"));
    let request = reqwest::Client::new()
        .post(format!("{}/v1/content_provenance_checks", farm.url))
        .bearer_auth(other["key"].as_str().expect("a key"));
    let answer = request.multipart(form).send().await.expect("an answer");
    let found: Value = answer.json().await.expect("JSON");
    let mark = &found["results"][1];
    assert_eq!(
        (&mark["outcome"], &mark["video_id"], &mark["c2pa"]),
        (&json!("detected"), &Value::Null, &Value::Null),
        "{found}"
    );

    // Once it is deleted the farm still knows its own mark, and no more.
    let deleted = farm.request(reqwest::Method::DELETE, &format!("/v1/videos/{id}")).send().await;
    assert_eq!(deleted.expect("an answer").status(), 200);
    let (_, found) = checked(&farm, &attacked).await;
    let mark = &found["results"][1];
    assert_eq!((&mark["outcome"], &mark["confidence"]), (&json!("detected"), &json!(0.5)));
    assert_eq!((&mark["video_id"], &mark["c2pa"]), (&Value::Null, &Value::Null), "{found}");

    // A film that nobody marked.
    let foreign = farm.scratch("foreign.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=288x512:rate=24:duration=4"]);
    assert!(ffmpeg.arg(&foreign).status().expect("ffmpeg starts").success());
    let (_, found) = checked(&farm, &foreign).await;
    assert_eq!(found["results"][1]["outcome"], "not_detected", "{found}");
}

/// Files that are made to break readers: each is answered, and the farm lives on.
#[tokio::test]
async fn hostile_files_are_answered_within_limits() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let file = farm.scratch("hostile");
    let boxed =
        |length: u32, kind: &[u8; 4], rest: &[u8]| [&length.to_be_bytes()[..], kind, rest].concat();
    let front = boxed(16, b"ftyp", b"isom\0\0\0\0");
    let mut deep = Vec::new();
    for _ in 0..20_000 {
        deep = boxed(deep.len() as u32 + 8, b"moov", &deep);
    }
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec();
    // A million frames of one pixel, in 15 MB.
    let frame = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0];
    let screen = [1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 255, 255, 255];
    let gif = [&b"GIF89a"[..], &screen, &frame.repeat(1_000_000), b";"].concat();
    let head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x0f\x42\x40\0\x0f\x42\x40\x08\x06\0\0\0\0\0\0\0";
    let film = |size: &str, rate: u32, seconds: u32| {
        let made = farm.scratch("film.mp4");
        let source = format!("color=black:size={size}:rate={rate}:duration={seconds}");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i", &source, "-preset", "ultrafast"]);
        assert!(ffmpeg.arg(&made).status().expect("ffmpeg starts").success());
        std::fs::read(made).expect("the film")
    };
    for (name, bytes, answers) in [
        ("a million frames", gif, 200),
        ("a picture of 10^12 pixels", head.to_vec(), 200),
        ("a film of pictures that are too large", film("5120x2048", 1, 2), 200),
        ("a film of 60,000 pictures", film("64x64", 1_000, 60), 200),
        ("a film and a page", [film("64x64", 24, 1), b"<script>".repeat(1 << 16)].concat(), 200),
        ("a length beyond the end", [&front[..], &boxed(u32::MAX, b"moov", b"")].concat(), 200),
        ("boxes within boxes", [&front[..], &deep].concat(), 200),
        ("a huge 64-bit box", [&front[..], &boxed(1, b"uuid", &[0xff; 24])].concat(), 200),
        ("boxes side by side", [&front[..], &b"\0\0\0\x08moov".repeat(100_000)].concat(), 400),
        ("the beginning of an MP4", film("64x64", 24, 1)[..30].to_vec(), 200),
        ("the beginning of a PNG", head[..20].to_vec(), 200),
        ("SVG", svg, 400),
        ("nothing", Vec::new(), 400),
    ] {
        std::fs::write(&file, bytes).expect("writes");
        let began = std::time::Instant::now();
        let (status, told) = checked(&farm, &file).await;
        assert!(status == answers || status == 400, "{name}: {status} {told}");
        // None holds a manifest, and only what holds one can be invalid.
        let state = &told["results"][0]["validation_state"];
        assert!(status != 200 || state == "not_present", "{name}: {told}");
        assert_ne!(told["results"][1]["outcome"], "detected", "{name}");
        // Reader, decoder and search have limits of their own: 20, 30 and 30 s.
        assert!(began.elapsed() < Duration::from_secs(100), "{name}: {:?}", began.elapsed());
    }
    let alive = farm.request(reqwest::Method::GET, "/healthz").send().await.expect("an answer");
    assert_eq!(alive.text().await.expect("text"), "ok\n");
}

struct Process(Child);

impl Process {
    fn start(socket: &Path, folder: &Path) -> Process {
        let mut command = Command::new(program("zoetrope"));
        command.arg("signer").arg("--socket").arg(socket).arg("--folder").arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let signer = Process(command.spawn().expect("the signer starts"));
        for _ in 0..600 {
            if std::os::unix::net::UnixStream::connect(socket).is_ok() {
                return signer;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the signer does not listen");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn published(farm: &Farm) -> usize {
    std::fs::read_dir(farm.data().join("store/published")).map_or(0, Iterator::count)
}

/// Questions to the signer that failed so far.
async fn failed(farm: &Farm) -> f64 {
    let errors = ["sidecar=\"provenance\"", "outcome=\"error\""];
    farm.metric("zoetrope_sidecar_requests_total", &errors).await
}

/// Waits until the signer was asked in vain once more, and holds that the job has not ended and nothing can be read.
async fn waits(farm: &Farm, id: &str) {
    let before = failed(farm).await;
    eventually(PATIENCE, "the fault is met", async || failed(farm).await > before).await;
    let video = farm.video(id).await;
    assert!(matches!(video["status"].as_str(), Some("queued" | "in_progress")), "{video}");
    assert_eq!(published(farm), 0);
}

/// A signer that lies, is killed, or hangs: 0 clips are published, and the jobs go on once there is a right one.
#[tokio::test]
async fn without_a_right_signer_jobs_wait_and_nothing_is_published() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("signer.sock");
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    drop(Process::start(&socket, &right));
    let root = right.join("root.pem").display().to_string();
    let signer = socket.display().to_string();
    let arguments = ["--signer", &signer, "--signer-root", &root];
    let mut farm = Farm::start_with(Engine::Emulated { step_ms: 5 }, 2, &arguments).await;
    farm.announce("no clip can be signed");

    let killed = farm.submit("a cube").await;
    waits(&farm, &killed).await;
    let lying = Process::start(&socket, &wrong);
    let lied_to = farm.submit("a ball").await;
    waits(&farm, &lied_to).await;
    drop(lying);
    std::fs::remove_file(&socket).ok();
    let hanging = Process::start(&socket, &right);
    signal("STOP", hanging.0.id());
    waits(&farm, &killed).await;
    signal("CONT", hanging.0.id());

    for id in [&killed, &lied_to] {
        let done = farm.ended(id, PATIENCE).await;
        assert_eq!(done["status"], "completed", "{done}");
        let clip = farm.scratch("clip.mp4");
        std::fs::write(&clip, farm.content(id, "video").await).expect("the clip");
        let path = clip.display().to_string();
        let told = farm.cli(&["provenance", "verify", &path, "--trust", &root]);
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    assert_eq!(published(&farm), 2);
    eventually(PATIENCE, "the signer is known to work", async || {
        let ok = ["sidecar=\"provenance\"", "outcome=\"ok\""];
        farm.metric("zoetrope_sidecar_requests_total", &ok).await >= 2.0
    })
    .await;
}

/// The private key of signatures and the key of marks are in no file of a worker, nor in the environment or the arguments
/// of its process: while a clip is being finished, which needs both, and afterwards.
#[tokio::test]
async fn the_key_is_nowhere_at_a_worker() {
    let farm = Farm::start(Engine::Painted { step_ms: 5, chunk_ms: 500 }, 1).await;
    let own = farm.data().join("provenance");
    let key = std::fs::read_to_string(own.join("leaf.key.pem")).expect("the key");
    let mut secrets: Vec<Vec<u8>> =
        key.lines().filter(|line| !line.starts_with("---")).map(|line| line.into()).collect();
    assert!(!secrets.is_empty());
    let mark = farm.data().join("watermark/mark.key");
    let text = std::fs::read_to_string(&mark).expect("the mark's key");
    secrets.extend([text.trim().into(), hex_bytes(text.trim())]);
    assert!(secrets.iter().all(|secret| secret.len() >= 32), "too short to be looked for");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(own.join("leaf.key.pem")).expect("the key").permissions().mode();
    assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
    let mode = std::fs::metadata(&mark).expect("the key").permissions().mode();
    assert_eq!(mode & 0o077, 0, "this one too");

    let id = farm.submit("a cube").await;
    eventually(PATIENCE, "the clip is being finished", async || {
        let workers = farm.get("/farm/workers").await;
        workers["data"][0]["running"].as_str().is_some_and(|shard| shard.contains("finish"))
    })
    .await;
    let during = files_without(&farm, &secrets);
    assert_eq!(farm.video(&id).await["status"], "in_progress", "it was over: nothing was shown");
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
    assert!(during > 0 && files_without(&farm, &secrets) > 0, "the worker has files");
}

/// Holds that none of these is in a file of the worker, or in what its process was started with. How many files there are.
fn files_without(farm: &Farm, secrets: &[Vec<u8>]) -> usize {
    let holds = |path: &Path| {
        // What was removed meanwhile holds nothing.
        let bytes = std::fs::read(path).unwrap_or_default();
        secrets.iter().any(|secret| bytes.windows(secret.len()).any(|window| window == secret))
    };
    let process = Path::new("/proc").join(farm.worker_pid("cpu0").to_string());
    for started_with in ["environ", "cmdline"] {
        let path = process.join(started_with);
        assert!(!std::fs::read(&path).expect("it runs").is_empty(), "{}", path.display());
        assert!(!holds(&path), "{}", path.display());
    }
    let mut files = 0;
    let mut folders = vec![farm.data().join("workers")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            assert!(!holds(&path), "{}", path.display());
            files += 1;
        }
    }
    files
}

fn hex_bytes(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}
