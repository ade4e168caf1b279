//! The program `zoetrope`: serves the farm, and is the command line of callers, operators and planners.

fn main() -> std::process::ExitCode {
    zoetrope_coordinator::cli::main()
}
