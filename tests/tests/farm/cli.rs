//! Promise: the command line does what it says, exits with 0 only then, and otherwise says what to do.

use crate::harness::{Engine, Farm, PATIENCE, eventually, program, signal};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&said(output)).expect("JSON")
}

#[tokio::test]
async fn a_user_and_an_operator_get_on_with_the_verbs_alone() {
    let farm = Farm::start(Engine::Emulated { step_ms: 20 }, 2).await;
    let clip = farm.scratch("out.mp4");
    let file = clip.display().to_string();
    let short = ["--seconds", "4", "--size", "160x288"];
    let words = [&["submit", "a red ball", "-o", &file, "--seed", "3"], &short[..]].concat();
    assert!(said(&farm.cli(&words)).contains("4 s of 160x288"));
    assert_eq!(&std::fs::read(&clip).expect("the clip")[4..8], b"ftyp");

    let listed = json(&farm.cli(&["jobs", "--json"]));
    let done = listed[0]["id"].as_str().expect("an id");
    assert!(said(&farm.cli(&["why", done])).contains("it is completed"));

    let words = [&["submit", "a cube", "--no-wait", "--json"], &short[..]].concat();
    let made = json(&farm.cli(&words));
    let id = made["id"].as_str().expect("an id");
    assert_eq!(json(&farm.cli(&["show", id, "--json"]))["id"], id);
    assert!(said(&farm.cli(&["jobs"])).contains(id));
    assert!(said(&farm.cli(&["jobs", "--all", "-n", "1"])).contains(id));

    let workers = json(&farm.cli(&["workers", "--json"]));
    assert_eq!(workers["data"].as_array().map(Vec::len), Some(2), "{workers}");
    said(&farm.cli(&["cordon", "cpu0"]));
    assert!(said(&farm.cli(&["workers"])).contains("cordoned"));
    said(&farm.cli(&["uncordon", "cpu0"]));
    assert!(refused(&farm.cli(&["drain", "cpu1", "--within", "9"])).contains("--kind deadline"));
    let soon = ["drain", "cpu1", "--kind", "deadline", "--within", "0"];
    assert!(refused(&farm.cli(&soon)).contains("--within"));
    assert!(said(&farm.cli(&["drain", "cpu1", "--kind", "shard"])).contains("cpu1 has left"));
    assert!(!said(&farm.cli(&["workers"])).contains("cpu1"), "drain waits until it has left");
    said(&farm.cli(&["drain", "cpu0", "--no-wait"]));
    assert!(said(&farm.cli(&["join-token"])).starts_with("zt1."));
    // A folder on the command line comes before the environment, which may be of another farm.
    let folder = farm.data().display().to_string();
    let with = |words: &[&str]| {
        let mut command = Command::new(program("zoetrope"));
        command
            .args(words)
            .env("ZOETROPE_URL", "http://127.0.0.1:9")
            .env("ZOETROPE_API_KEY", "zk_x");
        command.env_remove("ZOETROPE_DATA").output().expect("zoetrope starts")
    };
    said(&with(&["workers", "--data", &folder]));
    said(&with(&["--data", &folder, "workers"]));
    let key = farm.data().join("api-key").display().to_string();
    let words = ["workers", "--data", &folder, "--url", "http://127.0.0.1:9", "--key-file", &key];
    assert!(refused(&with(&words)).contains("127.0.0.1:9"));

    let text = said(&farm.cli(&["key", "create", "--name", "a customer"]));
    assert!(text.starts_with("zk_"), "{text}");
    let keys = json(&farm.cli(&["key", "list", "--json"]));
    let rows = keys["data"].as_array().expect("rows");
    let made = rows.iter().find(|key| key["name"] == "a customer").expect("the new key");
    said(&farm.cli(&["key", "revoke", made["id"].as_str().expect("an id")]));
    // What could not be written is no success; of what is shown once it is told what to do.
    assert!(refused(&farm.cli_into("/dev/full", &["jobs"])).contains("cannot write"));
    assert!(
        refused(&farm.cli_into("/dev/full", &["provenance", "rotate"])).contains("cannot write")
    );
    let rotated = json(&farm.cli(&["provenance", "rotate", "--json"]));
    assert!(rotated["chain"].as_str().is_some_and(|chain| chain.ends_with("chain.pem")));
    let gone = farm.cli_into("/dev/full", &["key", "create", "--name", "unseen"]);
    assert!(refused(&gone).contains("zoetrope key revoke key_"), "{gone:?}");
    assert!(refused(&farm.cli_into("/dev/full", &["join-token"])).contains("make another"));
    assert!(refused(&farm.cli(&["jobs", "--key", text.trim()])).contains("key"));
}

/// Idle workers leave within milliseconds of the first word: all that is to be said to them is said at once.
#[tokio::test]
async fn idle_workers_are_drained_together() {
    let farm = Farm::start(Engine::Emulated { step_ms: 20 }, 2).await;
    assert!(refused(&farm.cli(&["drain", "cpu0", "cpu7"])).contains("cpu7"));
    assert!(!said(&farm.cli(&["workers"])).contains("draining"), "all or none");
    let left = said(&farm.cli(&["drain", "cpu0", "cpu1"]));
    assert!(left.contains("cpu0 has left") && left.contains("cpu1 has left"), "{left}");
    assert_eq!(json(&farm.cli(&["workers", "--json"]))["data"], serde_json::json!([]));
}

#[tokio::test]
async fn a_waiting_job_says_why_and_can_be_cancelled() {
    let farm = Farm::start(Engine::Emulated { step_ms: 1_000 }, 1).await;
    farm.submit("the first").await;
    let id = farm.submit("the second").await;
    assert!(said(&farm.cli(&["why", &id])).len() > 10);
    assert!(said(&farm.cli(&["cancel", &id])).contains("cancelled"));
    assert!(refused(&farm.cli(&["cancel", &id])).len() > 10);
    assert!(said(&farm.cli(&["why", &id])).contains("without a clip: cancelled"));
}

#[tokio::test]
async fn only_a_rescan_that_is_running_is_cancelled() {
    let farm = Farm::start(Engine::Emulated { step_ms: 20 }, 0).await;
    assert!(refused(&farm.cli(&["rescan", "--cancel"])).contains("no rescan"));
    assert!(said(&farm.cli(&["rescan"])).contains("rescan done"));
    assert!(refused(&farm.cli(&["rescan", "--cancel"])).contains("no rescan is running"));
    assert!(said(&farm.cli(&["rescan", "--status"])).contains("rescan done"));
}

/// `fsck` exits with 0 where all is well, 3 where problems are left, 1 where it cannot look.
#[tokio::test]
async fn fsck_says_by_its_code_whether_the_store_is_whole() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 1).await;
    let id = farm.submit("a cube").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
    let whole = farm.cli(&["fsck"]);
    assert!(said(&whole).contains(" 0 problems, 0 mended"), "{whole:?}");
    assert_eq!(json(&farm.cli(&["fsck", "--quick", "--json"]))["problems"], 0);

    let video = farm.video(&id).await;
    let clip = video["assets"]["video"]["sha256"].as_str().expect("a digest").to_owned();
    std::fs::remove_file(stored(&farm.data().join("store"), &clip)).expect("it is there");
    for words in [&["fsck", "--quick"][..], &["fsck", "--repair"]] {
        let broken = farm.cli(words);
        assert_eq!(broken.status.code(), Some(3), "{broken:?}");
        let told = String::from_utf8_lossy(&broken.stdout).into_owned();
        assert!(told.contains(&id) && told.contains("left"), "{told}");
        assert!(refused(&broken).contains("1 problems are left"), "{broken:?}");
    }
    let nobody = farm.cli(&["fsck", "--url", "http://127.0.0.1:9"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

/// The file of this name, wherever below the folder.
fn stored(folder: &Path, name: &str) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the store").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(name) {
                return path;
            }
        }
    }
    panic!("no file of {name}")
}

#[test]
fn errors_say_what_to_do() {
    let run = |words: &[&str]| {
        let empty = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(program("zoetrope"));
        command.args(words).env_remove("ZOETROPE_URL").env_remove("ZOETROPE_API_KEY");
        command.env("ZOETROPE_DATA", empty.path()).output().expect("zoetrope starts")
    };
    assert!(refused(&run(&["jobs"])).contains("--key-file"));
    let nobody = ["jobs", "--key", "k", "--url", "http://127.0.0.1:9"];
    assert!(refused(&run(&nobody)).contains("zoetrope up"));
    assert!(refused(&run(&["show", "../keys", "--key", "k"])).contains("is no job"));
    assert!(refused(&run(&["submit", "a", "-o", "nowhere/at/all.mp4"])).contains("no folder"));
    assert!(refused(&run(&["check-config", "nowhere.toml"])).contains("nowhere.toml"));
    assert!(said(&run(&["completions", "bash"])).contains("zoetrope"));
    assert!(refused(&run(&["up", "--listen", "localhost:0"])).contains("127.0.0.1:8080"));
}

/// Promise of the README: the data folder of `zoetrope serve` is all that the verbs need, and no address outlives it.
#[tokio::test]
async fn a_served_farm_is_found_by_its_data_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("coordinator.toml");
    let zoetrope = |words: &[&str]| {
        let mut command = Command::new(program("zoetrope"));
        command.args(words).env_remove("ZOETROPE_URL").env_remove("ZOETROPE_API_KEY");
        command.env("ZOETROPE_DATA", folder.path().join("data"));
        command
    };
    let name = file.display().to_string();
    std::fs::write(&file, "[watermark]\nffmpeg = \"/nowhere/ffmpeg\"\n").expect("writes");
    let checked = zoetrope(&["check-config", &name]).output().expect("zoetrope starts");
    assert!(refused(&checked).contains("watermark.ffmpeg"));
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nlink_listen = \"127.0.0.1:0\"\n")
        .expect("writes");
    let mut serve = zoetrope(&["serve", "--config", &name]).spawn().expect("zoetrope starts");
    let url = folder.path().join("data/url");
    eventually(PATIENCE, "the coordinator serves", async || url.exists()).await;
    let token = zoetrope(&["join-token"]).output().expect("zoetrope starts");
    signal("TERM", serve.id());
    assert!(serve.wait().expect("it ends").success());
    assert!(said(&token).starts_with("zt1."));
    assert!(!url.exists() && folder.path().join("data/api-key").exists());
}

/// A worker that cannot start would be started again for ever, under a farm that says that it is up.
#[test]
fn up_looks_at_the_emulation_file_before_it_starts() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("emulated.toml");
    let up = |more: &[&str]| {
        let mut command = Command::new(program("zoetrope"));
        command.args(["up", "--listen", "127.0.0.1:0", "--emulated"]).arg(&file).args(more);
        refused(&command.env("ZOETROPE_DATA", folder.path()).output().expect("zoetrope starts"))
    };
    for (text, named) in [("step_ms = -1\n", "step_ms"), ("step_mss = 1\n", "step_mss")] {
        std::fs::write(&file, format!("models = [\"toybox\"]\n{text}")).expect("writes");
        let told = up(&["--engine", "emulated"]);
        assert!(told.contains(named) && told.contains("emulated.toml"), "{told}");
    }
    assert!(up(&[]).contains("only for --engine emulated"));
    let command = Command::new(program("zoetrope-worker")).args(["--coordinator", "foo"]).output();
    assert!(refused(&command.expect("zoetrope-worker starts")).contains("HOST:PORT"));
}

#[test]
fn a_reader_of_completions_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(program("zoetrope"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("zoetrope starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
