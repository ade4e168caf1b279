//! The dispatch actor: journals each input, then feeds the core, then carries out what the core says.

use crate::farm::FarmMsg;

/// What the dispatch actor is told.
pub enum DispatchMsg {
    /// A question or wish from the door.
    Farm(FarmMsg),
}
