//! The program `zoetrope`: serves the farm, and is the command line of callers, operators and planners.

// Deliberate faults are for the simulation alone.
const _: () = assert!(!zoetrope_protocol::mutant::POSSIBLE, "built with the feature `mutants`");

fn main() -> std::process::ExitCode {
    zoetrope_coordinator::cli::main()
}
