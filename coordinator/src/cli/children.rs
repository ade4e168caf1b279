//! The worker processes of a farm on one machine: starts them, starts a dead one again, ends them.
//!
//! Knows nothing of jobs: a lost worker is the coordinator's news, told by its link. A worker outlives a killed
//! `zoetrope up`, so that its render goes on; the next `up` finds it by its pid file and watches it.
//! Called by `up`.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use zoetrope_provenance::private;

/// The first pause before a dead worker is started again; doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: an operator who mends the cause waits no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A worker that ran for so long was healthy: the next pause is the shortest again.
const HEALTHY: Duration = Duration::from_secs(60);
/// A worker that is asked to leave finishes its shard; asked again, it leaves at once. What it stored last stays,
/// so nobody at a terminal needs to wait for the first.
const PATIENCE: Duration = Duration::from_secs(1);
/// A worker that leaves at once still says so, and closes its files.
const LEAVE: Duration = Duration::from_secs(10);
/// How often a worker that is not our child is looked at. It has no parent to be told of its end.
const LOOK: Duration = Duration::from_millis(500);
/// Exit code of a worker that left as it was asked to.
const LEFT: i32 = 0;

/// One worker process to keep.
#[derive(Clone, Debug)]
pub struct Post {
    /// Its node name.
    pub node: String,
    /// Its program.
    pub program: PathBuf,
    /// Its folder, where it keeps its identity.
    pub folder: PathBuf,
    /// All of its arguments.
    pub arguments: Vec<String>,
    /// Its environment beside ours.
    pub environment: Vec<(String, String)>,
}

enum Process {
    Ours(Child),
    Found(u32),
}

/// Keeps one worker alive until told to stop, then lets it leave.
pub async fn keep(post: Post, stop: CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let ended = match Process::of(&post) {
            Ok(mut process) => tokio::select! {
                ended = process.ended() => ended,
                () = stop.cancelled() => return process.leave(&post).await,
            },
            Err(error) => Err(error),
        };
        let how = match ended {
            Ok(Some(status)) if status.code() == Some(LEFT) => {
                tracing::info!(node = post.node, "worker left");
                return;
            }
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "gone".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if began.elapsed() >= HEALTHY {
            pause = PAUSE;
        }
        eprintln!("worker {} ended ({how}); starting it again in {} s", post.node, pause.as_secs());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Process {
    /// The worker of this post: the one that runs already, or a new one.
    fn of(post: &Post) -> anyhow::Result<Process> {
        private::make(&post.folder)
            .with_context(|| format!("cannot make {}", post.folder.display()))?;
        if let Some(pid) = running(post) {
            return Ok(Process::Found(pid));
        }
        let mut command = Command::new(&post.program);
        command.args(&post.arguments).envs(post.environment.iter().cloned());
        // A group of its own: Ctrl-C is for us, and we tell it in our own time.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let child =
            command.spawn().with_context(|| format!("cannot start {}", post.program.display()))?;
        let pid = child.id().context("the worker ended at once")?;
        let file = pid_file(&post.folder);
        std::fs::write(&file, pid.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Process::Ours(child))
    }

    /// Waits for its end. Dropped and called again without loss.
    async fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match self {
            Process::Ours(child) => Ok(Some(child.wait().await?)),
            Process::Found(pid) => {
                while alive(*pid) {
                    tokio::time::sleep(LOOK).await;
                }
                Ok(None)
            }
        }
    }

    /// Asks it to leave, and ends it if it does not.
    async fn leave(mut self, post: &Post) {
        let pid = match &self {
            Process::Ours(child) => child.id(),
            Process::Found(pid) => Some(*pid),
        };
        if let Some(pid) = pid {
            signal("TERM", pid).await;
            if tokio::time::timeout(PATIENCE, self.ended()).await.is_err() {
                signal("TERM", pid).await;
            }
            if tokio::time::timeout(LEAVE, self.ended()).await.is_err() {
                eprintln!("worker {} did not leave within {} s", post.node, LEAVE.as_secs());
                signal("KILL", pid).await;
                let _killed = tokio::time::timeout(LOOK * 4, self.ended()).await;
            }
        }
        // Nothing more can be done about a file that is in the way: it names a process that is gone.
        let _gone = std::fs::remove_file(pid_file(&post.folder));
    }
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("pid")
}

/// The process of this post's pid file, if it is still such a worker: numbers are used again.
fn running(post: &Post) -> Option<u32> {
    let pid = super::places::word_in(&pid_file(&post.folder))?.parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let own = post.folder.as_os_str().as_encoded_bytes();
    (alive(pid) && words.any(|word| word == own)).then_some(pid)
}

/// Whether the process runs: there, and not merely waiting to be buried.
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets and may hold anything.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X']));
    state == Some(false)
}

/// Sends a signal. The shell does it, because the system call is not to be had without unsafe code.
async fn signal(name: &str, pid: u32) {
    let line = format!("kill -{name} {pid}");
    let sent = Command::new("sh").arg("-c").arg(line).stderr(Stdio::null()).status().await;
    if let Err(error) = sent {
        tracing::warn!(%error, pid, "cannot send a signal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(folder: &Path, script: &str) -> Post {
        let own = folder.display().to_string();
        let arguments = ["-c", script, &own].map(str::to_owned).to_vec();
        Post {
            node: "cpu0".into(),
            program: "sh".into(),
            folder: folder.to_owned(),
            arguments,
            environment: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_worker_that_left_is_not_started_again() {
        let folder = tempfile::tempdir().expect("folder");
        keep(post(folder.path(), "exit 0"), CancellationToken::new()).await;
    }

    #[tokio::test]
    async fn a_worker_of_a_killed_farm_is_found_and_can_be_ended() {
        let folder = tempfile::tempdir().expect("folder");
        let post = post(folder.path(), "sleep 60; true");
        let Process::Ours(mut child) = Process::of(&post).expect("starts") else {
            panic!("found before it was started")
        };
        // The kernel shows a new program's arguments a moment after it runs.
        while running(&post).is_none() {
            tokio::task::yield_now().await;
        }
        let found = Process::of(&post).expect("is found");
        assert!(matches!(found, Process::Found(pid) if Some(pid) == child.id()));
        let (ended, ()) = tokio::join!(child.wait(), found.leave(&post));
        assert!(!ended.expect("ends").success());
        assert!(running(&post).is_none());
    }
}
