//! Serves one gpu of a Zoetrope farm. All that it does is in the library.

fn main() -> std::process::ExitCode {
    zoetrope_worker::start::settle_process();
    zoetrope_worker::cli::main().into()
}
