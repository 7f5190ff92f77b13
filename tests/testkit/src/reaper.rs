//! Stops a test's PostgreSQL when its test process is gone, however it went. A shell waits at the end of a pipe whose other
//! end only the test process has: the kernel closes it on a panic, on Ctrl-C and on SIGKILL alike.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

/// `$1` data directory, `$2` start lock, `$3` users lock. SIGINT is PostgreSQL's fast shutdown.
const SCRIPT: &str = r#"
cat >/dev/null
if [ -n "$2" ]; then
    exec 9>>"$2" 8>>"$3" || exit 0
    flock 9
    flock -n 8 || exit 0
fi
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || exit 0
case "$pid" in ''|*[!0-9]*) exit 0;; esac
[ "$(readlink "/proc/$pid/cwd")" = "$(readlink -f "$1")" ] || exit 0
kill -INT "$pid" || exit 0
for i in $(seq 200); do
    [ -e "$1/postmaster.pid" ] || exit 0
    sleep 0.05
done
kill -QUIT "$pid"
"#;

/// Watches over the server of `data` for as long as the returned pipe is open. With locks, the server is shared: the last
/// of its users stops it.
#[expect(
    clippy::zombie_processes,
    reason = "it ends after this process, so nobody here can wait for it"
)]
pub(crate) fn watch(data: &Path, locks: Option<(&Path, &Path)>) -> ChildStdin {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "sh"]).arg(data);
    if let Some((start, users)) = locks {
        command.arg(start).arg(users);
    }
    // A process group of its own, so that Ctrl-C at the terminal does not reach it.
    let mut child = command
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("the process that stops PostgreSQL after the tests did not start: {e}"));
    child
        .stdin
        .take()
        .unwrap_or_else(|| panic!("a piped child has a standard input"))
}
