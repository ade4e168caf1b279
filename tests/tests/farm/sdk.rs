//! Promise: the official SDKs work, with only their base URL and key changed.

use crate::harness::{Engine, Farm, root};
use std::path::Path;
use std::process::Stdio;

async fn drive(program: &Path, arguments: &[&str], told: &str) {
    assert!(program.exists(), "{} is missing: run scripts/setup --for test", program.display());
    let farm = Farm::start(Engine::Emulated { step_ms: 50 }, 1).await;
    let clip = farm.scratch("clip.mp4");
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(root().join("tests/clients"))
        .env("OPENAI_BASE_URL", format!("{}/v1", farm.url))
        .env("OPENAI_API_KEY", &farm.key)
        .env("CLIP", &clip)
        .stdin(Stdio::null())
        .output()
        .await;
    let output = child.expect("the client starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains(told), "another version than the pinned one ran: {said}");
    let bytes = std::fs::read(&clip).expect("the clip");
    assert_eq!(&bytes[4..8], b"ftyp", "an MP4 was downloaded");
}

async fn python(environment: &str, version: &str) {
    let program = root().join(".deps").join(environment).join("bin/python");
    drive(&program, &["sdk.py"], version).await;
}

async fn node(package: &str, version: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `scripts/setup` fetches a Node where the machine's own is too old.
    let folders =
        std::iter::once(root().join(".deps/node/bin")).chain(std::env::split_paths(&path));
    let program = folders.map(|folder| folder.join("node")).find(|p| p.exists());
    let program = program.expect("node is missing: run scripts/setup --for test");
    drive(&program, &["sdk.mjs", package], version).await;
}

#[tokio::test]
async fn python_3_54() {
    python("venv", "openai 3.54.0").await;
}

#[tokio::test]
async fn python_2_3() {
    python("venv-openai2", "openai 2.3.0").await;
}

#[tokio::test]
async fn node_6_49() {
    node("openai6", "openai 6.49.0").await;
}

#[tokio::test]
async fn node_7_57() {
    node("openai7", "openai 7.57.0").await;
}
