//! Deliberate faults, so that the simulation's checker can be checked: each takes one promise away.
//!
//! Only with the feature `mutants`, which the programs refuse to be built with. Without it [`on`] is the
//! constant `false`, and nothing of a mutant is left in the code.

/// Whether mutants can be switched on in this build at all. The programs assert that they cannot.
pub const POSSIBLE: bool = cfg!(feature = "mutants");

/// One promise that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A result counts for the shard that it names, whatever its fence says.
    NoFence,
    /// Effects leave before their record is on disk.
    AcknowledgeBeforeSync,
    /// A new boot of a node counts as the old one come back.
    BootLeftOut,
    /// A cancelled job may still be published.
    CancelNotFinal,
    /// A tenant may run one shard more than its cap.
    QuotaOffByOne,
    /// A worker follows a leader of an older epoch.
    NoEpochCompare,
    /// A restarted coordinator goes on in its last epoch.
    EpochReused,
    /// The idempotency key is not looked up.
    NoIdempotency,
    /// What ran on a node goes on there when the node returns, whatever it says that it holds.
    ReattachByName,
    /// The timer of a stopped attempt also ends the one after it.
    TimerKept,
    /// An artifact is cleaned up although another job uses it.
    CleanUpReferenced,
    /// A clip is published without a look at what was measured on it.
    NoProof,
}

impl Mutant {
    /// All mutants.
    pub const ALL: [Mutant; 12] = [
        Mutant::NoFence,
        Mutant::AcknowledgeBeforeSync,
        Mutant::BootLeftOut,
        Mutant::CancelNotFinal,
        Mutant::QuotaOffByOne,
        Mutant::NoEpochCompare,
        Mutant::EpochReused,
        Mutant::NoIdempotency,
        Mutant::ReattachByName,
        Mutant::TimerKept,
        Mutant::CleanUpReferenced,
        Mutant::NoProof,
    ];

    /// The word for it in tables and on the simulator's command line.
    pub fn word(self) -> &'static str {
        match self {
            Mutant::NoFence => "no_fence",
            Mutant::AcknowledgeBeforeSync => "acknowledge_before_sync",
            Mutant::BootLeftOut => "boot_left_out",
            Mutant::CancelNotFinal => "cancel_not_final",
            Mutant::QuotaOffByOne => "quota_off_by_one",
            Mutant::NoEpochCompare => "no_epoch_compare",
            Mutant::EpochReused => "epoch_reused",
            Mutant::NoIdempotency => "no_idempotency",
            Mutant::ReattachByName => "reattach_by_name",
            Mutant::TimerKept => "timer_kept",
            Mutant::CleanUpReferenced => "clean_up_referenced",
            Mutant::NoProof => "no_proof",
        }
    }
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Switches one mutant on for this thread, or all off.
    pub fn set(mutant: Option<Mutant>) {
        ON.with(|on| on.set(mutant));
    }

    /// Whether this promise is taken away.
    pub fn on(mutant: Mutant) -> bool {
        ON.with(|on| on.get() == Some(mutant))
    }
}

#[cfg(feature = "mutants")]
pub use switch::{on, set};

/// Whether this promise is taken away: never.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}
