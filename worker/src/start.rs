//! What a worker process must settle before its first thread: how torch waits, and what the allocator keeps. And which
//! of its threads stand back.

use std::process::Command;

/// How torch's threads wait for each other, as OpenMP reads it when the process starts.
const WAIT: &[(&str, &str)] = &[("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "3000")];
/// What glibc's allocator asks the kernel for, as it reads it when the process starts: large pages.
const PAGES: &[(&str, &str)] = &[("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")];
/// In which order CUDA counts GPUs: as the driver's tools do. By itself it puts the fastest first, and the worker would say
/// of one what is true of another.
const ORDER: &[(&str, &str)] = &[("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];

/// cuDNN would otherwise multiply in TF32, with the 10 bits of an f16, where f32 is said: the sound's decoder is f32 because
/// less is heard.
const WIDE: &[(&str, &str)] = &[("NVIDIA_TF32_OVERRIDE", "0")];

/// Lets freed memory stay with the process, in large pages, and torch's threads spin for a moment when they wait, then
/// sleep.
///
/// Where the kernel gives large pages to who asks (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise` or
/// `always`), a step of 288×512 over 10 s takes 0.85 of the time, and a decode 0.9.
///
/// They spin for milliseconds after each operator otherwise. On cores that an encoder or another worker shares this
/// burns the time that the other threads need: measured on two busy cores, a decode took 73 s instead of 16. Sleeping
/// at once is no better, for between the many short operators of a small model waking takes as long as the work:
/// 3,000 turns, about 0.1 ms, make a decode take 0.6 of the time, and two workers on the same cores 1.1 of it.
/// Both are read before `main`, so the process is replaced by itself, once, with the variables set. An operator's own
/// values are left alone; if the process cannot be replaced, it goes on as it is.
pub fn settle_process() {
    crate::model::keep_freed_memory();
    let is_set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    let groups = [WAIT, PAGES, ORDER, WIDE].into_iter().filter(|group| !group.iter().any(is_set));
    let missing: Vec<(&str, &str)> = groups.flatten().copied().collect();
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
        // Returns only if it fails; then the worker is slower on busy cores, and nothing else.
        let _: std::io::Error = command.args(words).envs(missing).exec();
    }
}

/// The priority (nice) of threads that stand back: they count a seventieth of what one of the engine does. An engine on all
/// cores leaves them some of it all the same, between its operators.
const STANDING_BACK: i32 = 19;

/// Lets others go first on cores that they share with the calling thread and the children that this one starts. Safe to
/// repeat.
///
/// Torch's threads wait for each other after every operator, so one that shares its core holds up all of them: what is
/// beside the render takes the gaps instead, and what is left when the render is done.
pub fn stand_back() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        // Of the thread: to Linux it is a process of its own here.
        let further = getpriority_process(None).is_ok_and(|now| now >= STANDING_BACK);
        if !further && let Err(error) = setpriority_process(None, STANDING_BACK) {
            // Less is always allowed. Without it the clip is only made a little later.
            tracing::debug!(%error, "a thread keeps its priority");
        }
    }
}
