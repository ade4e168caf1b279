//! What a coordinator process must settle before its first thread: what its allocator keeps.

use std::process::Command;

/// What mimalloc reads when the process starts.
const KEPT: &[(&str, &str)] =
    &[("MIMALLOC_PURGE_DELAY", "60000"), ("MIMALLOC_ALLOW_LARGE_OS_PAGES", "1")];

/// Lets freed memory stay with the process for a minute, in large pages where the kernel gives them to who asks.
///
/// Checkpoints come every second or so, and by default the memory of one is given back just before the next needs it:
/// of a coordinator's time beside a render a third went into pages that the kernel had to clear again. It keeps some
/// 30 MB more by it. In large pages a placement among a million jobs takes 0.95 of the time.
///
/// Both are read before `main`, so the process is replaced by itself, once, with the variables set. An operator's own
/// values are left alone; if the process cannot be replaced, it goes on as it is.
pub fn settle_process() {
    let missing = KEPT.iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let missing: Vec<(&str, &str)> = missing.copied().collect();
    if missing.is_empty() {
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
        // Returns only if it fails; then the coordinator is slower, and nothing else.
        let _: std::io::Error = command.args(words).envs(missing).exec();
    }
}
