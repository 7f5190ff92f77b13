//! The `howdah-sandbox` binary: started once per datum, so it does nothing but hand over to the library.

fn main() -> std::process::ExitCode {
    sandbox::inside::main()
}
