//! `howdah-shim`: `serve` in the container of the user's code, `install` in the init container before. As `plain` it is the
//! sandbox's supervisor of one command, which `serve` starts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use shim::Settings;

const USAGE: &str = "usage: howdah-shim serve --socket SOCKET [--scratch DIRECTORY]
       howdah-shim install FILE

serve    runs commands, one at a time, as whoever connects to SOCKET asks; what lies in DIRECTORY (/tmp) goes before each
install  copies this program to FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words.as_slice() {
        ["plain"] => return supervise(),
        ["serve", "--socket", socket] => serve(socket, "/tmp"),
        ["serve", "--socket", socket, "--scratch", scratch] => serve(socket, scratch),
        ["install", to] => {
            shim::install(Path::new(to)).map_err(|error| format!("this program could not be copied to `{to}`: {error}"))
        }
        ["--version"] => {
            let _ = writeln!(std::io::stdout(), "howdah-shim {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => Err(USAGE.to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "{reason}");
            ExitCode::FAILURE
        }
    }
}

/// What waits for `serve` in its own process must reach a command.
fn supervise() -> ExitCode {
    match SigSet::all().thread_unblock() {
        Ok(()) => sandbox::inside::main(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(socket: &str, scratch: &str) -> Result<(), String> {
    let settings = Settings {
        socket: PathBuf::from(socket),
        scratch: PathBuf::from(scratch),
    };
    shim::serve(&settings).map_err(|error| format!("commands cannot be taken at `{socket}`: {error}"))
}
