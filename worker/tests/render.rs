//! Promise: `zoetrope-worker render` that is interrupted leaves nothing beside its output.

#![allow(clippy::unwrap_used)]

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn an_interrupted_render_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/toybox");
    let entries = |of: &Path| std::fs::read_dir(of).into_iter().flatten().flatten();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut render = Command::new(env!("CARGO_BIN_EXE_zoetrope-worker"))
            .args(["render", "--device", "cpu", "--steps", "1000", "--model"])
            .arg(&model)
            .arg("--output")
            .arg(folder.path().join("clip.mp4"))
            .arg("a red ball")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let since = Instant::now();
        // What it tries its encoder in, below its own folder: signals are caught then.
        while !entries(folder.path()).any(|entry| entries(&entry.path()).next().is_some()) {
            assert!(render.try_wait().unwrap().is_none(), "it ended");
            assert!(since.elapsed() < Duration::from_secs(60), "it began nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&render), signal).unwrap();
        assert_eq!(render.wait().unwrap().code(), Some(code));
        let left: Vec<_> = entries(folder.path()).map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
