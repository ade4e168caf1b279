//! Promise: what coordinator and worker tell Prometheus is as Prometheus wants it, and a worker says that it is alive.

use crate::harness::{Engine, Farm, PATIENCE, eventually, program, root, signal, unannounced};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A worker that was started by hand; it ends with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `promtool check metrics`, of scripts/setup or of the machine.
fn check(of: &str, text: &str) {
    let own = root().join(".deps/promtool");
    let program = if own.exists() { own } else { PathBuf::from("promtool") };
    let mut command = Command::new(program);
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("promtool is missing: run scripts/setup --for test");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.is_empty(), "of the {of}:\n{told}");
}

/// A metric's samples in a text, labels and all.
fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let own = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    text.lines().filter(own).collect()
}

#[tokio::test]
async fn metrics_are_as_prometheus_wants_them() {
    let farm = Farm::start(Engine::Emulated { step_ms: 5 }, 0).await;
    let token = farm.cli(&["join-token"]);
    assert!(token.status.success(), "{token:?}");
    let link = std::fs::read_to_string(farm.data().join("link")).expect("the link's address");
    let path = farm.scratch("worker.log");
    let log = std::fs::File::create(&path).expect("a log");
    let mut command = Command::new(program("zoetrope-worker"));
    command.args(["--engine", "emulated", "--emulated"]).arg(farm.scratch("emulated.toml"));
    command.args(["--coordinator", link.trim(), "--name", "by-hand", "--metrics", "127.0.0.1:0"]);
    command.arg("--data").arg(farm.scratch("by-hand"));
    command.env("ZOETROPE_JOIN_TOKEN", String::from_utf8_lossy(&token.stdout).trim());
    command.env("ZOETROPE_LOG", "info").stdin(Stdio::null());
    command.stdout(log.try_clone().expect("the log")).stderr(log);
    let mut worker = Worker(command.spawn().expect("zoetrope-worker starts"));
    let said = || std::fs::read_to_string(&path).unwrap_or_default();
    let address =
        || said().split_once("metrics address=")?.1.split_whitespace().next().map(str::to_owned);
    eventually(PATIENCE, "it says where its metrics are", async || address().is_some()).await;
    let url = format!("http://{}", address().expect("it said so"));
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{url}{path}")).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.expect("text")
    };
    eventually(PATIENCE, "it is linked", async || {
        let health: Value = serde_json::from_str(&get("/healthz").await).expect("JSON");
        health == json!({"status": "ok", "links": 1, "linked": 1})
    })
    .await;

    // Some of everything: a clip, a refusal, a key's answer.
    let id = farm.submit("a cube").await;
    assert_eq!(farm.ended(&id, PATIENCE).await["status"], "completed");
    assert_eq!(farm.post("/v1/videos", &json!({})).await.0, 400);
    let own = farm.request(reqwest::Method::GET, "/metrics").send().await.expect("an answer");
    let own = own.text().await.expect("text");
    let refused = samples(&own, "zoetrope_submits_refused_total");
    assert!(refused.iter().any(|sample| sample.ends_with(" 1")), "{refused:?}");
    check("coordinator", &own);
    let of_worker = get("/metrics").await;
    assert!(!of_worker.contains(&id), "a worker's metrics know no job");
    check("worker", &of_worker);

    signal("TERM", worker.0.id());
    let ended = worker.0.wait().expect("it ends");
    assert!(ended.success(), "{ended}:\n{}", said());
    unannounced(&said(), &[]);
}
