//! The `howdah` binary: hands over to the library.

fn main() -> std::process::ExitCode {
    cli::main()
}
