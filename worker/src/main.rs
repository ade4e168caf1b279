//! Serves one gpu of a Zoetrope farm. All that it does is in the library.

// Deliberate faults are for the simulation alone.
const _: () = assert!(!zoetrope_protocol::mutant::POSSIBLE, "built with the feature `mutants`");

fn main() -> std::process::ExitCode {
    zoetrope_worker::start::settle_process();
    zoetrope_worker::cli::main().into()
}
