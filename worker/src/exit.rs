//! How the process ends: one number for each reason, so that whoever starts it knows what to do.
//!
//! Called by `main.rs` and by `WorkerRoot`. The numbers are a promise: append, never reorder.

use std::fmt;

/// Exit codes of `zoetrope-worker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// It left as it was asked to, and all was said. Do not start it again unasked.
    Left = 0,
    /// It could not start or was refused: the message says what to change.
    Start = 1,
    /// The command line is wrong (clap's own number).
    Usage = 2,
    /// The gpu thread did not come back after it was told to stop. Start it again.
    GpuStuck = 10,
    /// The device failed; a process that lived on would serve only errors. Start it again.
    DeviceFailed = 11,
    /// One of our own parts died: a defect. Start it again, and report it.
    PartDied = 12,
    /// It was asked to leave, and no coordinator was told that it did.
    LeftUnheard = 13,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            ExitCode::Left => "left",
            ExitCode::Start => "could not start",
            ExitCode::Usage => "wrong command line",
            ExitCode::GpuStuck => "the gpu thread is stuck",
            ExitCode::DeviceFailed => "the device failed",
            ExitCode::PartDied => "a part of the worker died",
            ExitCode::LeftUnheard => "left without being heard",
        };
        write!(f, "{words} (exit code {})", *self as u8)
    }
}
