//! What a worker process must settle before its first thread: how torch waits, and what the allocator keeps.
//!
//! Called first in `main`, and from nowhere else.

use std::process::Command;

/// How torch's threads wait for each other, as OpenMP reads it when the process starts.
const WAIT: (&str, &str) = ("OMP_WAIT_POLICY", "passive");

/// Lets freed memory stay with the process, and torch's threads sleep when they wait.
///
/// They spin otherwise, for milliseconds after each operator. On cores that an encoder or another worker shares
/// this burns the time that the other threads need: measured on two busy cores, a decode took 73 s instead of 16.
/// OpenMP reads its environment before `main`, so the process is replaced by itself, once, with the variable set.
/// An operator's own value is left alone; if the process cannot be replaced, it goes on as it is.
pub fn settle_process() {
    crate::model::keep_freed_memory();
    if std::env::var_os(WAIT.0).is_some() {
        return;
    }
    #[cfg(unix)]
    if let Ok(program) = std::env::current_exe() {
        use std::os::unix::process::CommandExt;
        let mut words = std::env::args_os();
        let mut command = Command::new(program);
        if let Some(name) = words.next() {
            command.arg0(name);
        }
        // Returns only if it fails; then the worker is slower on busy cores, and nothing else.
        let _: std::io::Error = command.args(words).env(WAIT.0, WAIT.1).exec();
    }
}
