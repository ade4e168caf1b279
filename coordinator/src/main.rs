//! The program `zoetrope`: serves the farm, and is the command line of callers, operators and planners.

// Deliberate faults are for the simulation alone.
const _: () = assert!(!zoetrope_protocol::mutant::POSSIBLE, "built with the feature `mutants`");

/// The core and the read model are many small allocations, and a queue of a million jobs is hundreds of megabytes: this
/// allocator keeps them in large pages, which the system's does not; a placement takes half as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    zoetrope_coordinator::cli::main()
}
