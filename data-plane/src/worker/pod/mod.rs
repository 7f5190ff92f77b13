//! Running commands in the other container of this pod, which is the user's image with the shim in it. One at a time, of a datum or one
//! that lasts: both
//! containers see the same `/pfs`, `/pfs/out` and `/code`, which are emptied and filled anew for each.
//!
//! Both run under the same id, so what keeps code from changing its inputs are their permissions and how the pod mounts them;
//! inputs are copies, so what it changes it changes for itself.

mod directories;
mod door;
mod line;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox::{Exit, Limits, Outcome};
use shim::wire::Command;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::desk::JobShared;
use super::environment::variables;
use super::execute::DISK_BYTES_DEFAULT;
use super::output::RunLog;
use super::protocol::DatumTask;
use super::secrets;
pub use door::Door;
use line::{Broken, Line};

/// What jobs' records call this isolation.
pub const ISOLATION: &str = "pod";
/// Where code sees the code of a repo.
const CODE: &str = "/code";
/// So many bytes that a command prints reach the worker, which keeps fewer.
const PRINTED_BYTES_MAX: u64 = 256 << 20;
/// How long a container that was killed may take to be back before its datum is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The other container.
pub struct Pod {
    socket: PathBuf,
    pfs: PathBuf,
    code: PathBuf,
    /// Where it listens for the plane while a service runs.
    door: u16,
    /// Whose datum lies in the directories.
    turn: Arc<Semaphore>,
    /// Kept from one command to the next: whoever has it controls the container.
    line: Mutex<Option<Line>>,
}

/// A command for the other container.
pub struct Ordered<'a> {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Lines of its standard input.
    pub stdin: &'a [String],
    /// Variables besides those of its datum.
    pub env: Vec<(String, String)>,
    /// It has no end of its own, and nor has what it prints.
    pub lasts: bool,
}

/// What no pod does of a job, for people.
pub fn refusal(job: &JobShared) -> Option<&'static str> {
    if job.task.cmd.is_empty() {
        return Some(
            "a pod runs the shim in the place of the image's own command: say in `transform.cmd` what is to run",
        );
    }
    let lazy = job.trees.iter().any(|tree| tree.lazy);
    lazy.then_some("pods have no lazy inputs: remove `lazy: true`, so that files are there before the code starts")
}

/// The turn to have a datum in the directories.
pub type Turn = OwnedSemaphorePermit;

impl Pod {
    /// Nothing is connected yet.
    pub fn new(socket: PathBuf, pfs: PathBuf, code: PathBuf, door: u16) -> Self {
        Self {
            socket,
            pfs,
            code,
            door,
            turn: Arc::new(Semaphore::new(1)),
            line: Mutex::default(),
        }
    }

    /// What is `/pfs`.
    pub fn pfs(&self) -> &Path {
        &self.pfs
    }

    /// Listens for callers of the service that will run, at a port of the loopback. With the turn, and when the container is ready.
    ///
    /// # Errors
    /// When somebody listens there.
    pub async fn open_door(&self, port: u16, capability: &str) -> io::Result<Door> {
        Door::open(self.door, port, capability).await
    }

    /// Waits until the directories are free.
    pub async fn turn(&self) -> Option<Turn> {
        Arc::clone(&self.turn).acquire_owned().await.ok()
    }

    /// Waits until the container is there and runs nothing. Before datums are claimed: others could have them.
    pub async fn ready(&self) {
        let mut line = self.line.lock().await;
        if !line.as_ref().is_some_and(Line::is_there) {
            *line = Some(Line::connect(&self.socket).await);
        }
    }

    /// Runs one command to its end; kills it when `over` returns.
    ///
    /// # Errors
    /// When it is not known how it ended, by no fault of the command.
    pub async fn run(
        &self,
        (job, datum): (&JobShared, &DatumTask),
        ordered: Ordered<'_>,
        log: &RunLog<'_>,
        over: impl Future<Output = ()>,
    ) -> Result<Outcome, String> {
        let mut held = self.line.lock().await;
        let mut line = match held.take().filter(|line| line.is_there()) {
            Some(line) => line,
            None => self.again().await?,
        };
        let command = self.command((job, datum), ordered);
        match line.run(command, log, over).await {
            Ok(ended) => {
                *held = Some(line);
                if ended.left_out_bytes > 0 {
                    let text = format!(
                        "{} bytes more were printed, which are not kept: write more to a file in /pfs/out instead",
                        ended.left_out_bytes
                    );
                    log.line("system", &text);
                }
                Ok(Outcome {
                    exit: ended.exit,
                    cpu: Duration::from_micros(ended.cpu_us),
                    max_rss_bytes: ended.max_rss_bytes,
                    wall: Duration::from_micros(ended.wall_us),
                })
            }
            Err(Broken::Leaving) => Err("its container was told to stop".to_owned()),
            Err(Broken::Refused(reason)) => Err(reason),
            Err(Broken::Gone) => {
                let boot = line.boot().to_owned();
                // The end of the old line is what lets a new one in.
                drop(line);
                let again = self.again().await?;
                let restarted = again.boot() != boot;
                *held = Some(again);
                match restarted {
                    true => Ok(killed_with_its_container(job.task.memory_bytes)),
                    false => Err("the connection to the container of its code broke".to_owned()),
                }
            }
        }
    }

    /// Connects to a container that was there before.
    async fn again(&self) -> Result<Line, String> {
        let connected = tokio::time::timeout(PATIENCE, Line::connect(&self.socket)).await;
        connected.map_err(|_| {
            format!(
                "the container of its code ended, and was not back after {} s",
                PATIENCE.as_secs()
            )
        })
    }

    fn command(&self, (job, datum): (&JobShared, &DatumTask), ordered: Ordered<'_>) -> Box<Command> {
        let task = &job.task;
        Box::new(Command {
            argv: ordered.argv,
            env: variables(job, datum).into_iter().chain(ordered.env).collect(),
            working_dir: task.working_dir.as_deref().map(|path| self.seen(path)),
            stdin: ordered.stdin.to_vec(),
            pfs: self.pfs.clone(),
            secrets: secrets::files(&task.secrets),
            limits: Limits {
                wall: task.datum_timeout_ms.map(Duration::from_millis),
                memory: task.memory_bytes,
                file_size: Some(task.disk_bytes.unwrap_or(DISK_BYTES_DEFAULT)),
                ..Limits::default()
            },
            printed_bytes_max: match ordered.lasts {
                true => u64::MAX,
                false => PRINTED_BYTES_MAX,
            },
        })
    }

    /// A path below `/code` where that is.
    fn seen(&self, path: &str) -> String {
        match Path::new(path).strip_prefix(CODE) {
            Ok(below) => self.code.join(below).display().to_string(),
            Err(_) => path.to_owned(),
        }
    }
}

/// Nothing but the kernel, out of memory, kills a container whose pod goes on, so that is the reason that is told.
fn killed_with_its_container(memory_bytes: Option<u64>) -> Outcome {
    let reason = match memory_bytes {
        Some(bytes) => format!(
            "its container was killed while it ran, most likely because it took more memory than resource_limits.memory admits, \
             {bytes} bytes: raise that, or read less at a time"
        ),
        None => "its container was killed while it ran, most likely because the machine had no more memory: say in \
                 resource_limits.memory how much it takes"
            .to_owned(),
    };
    Outcome {
        exit: Exit::Refused(reason),
        cpu: Duration::ZERO,
        max_rss_bytes: 0,
        wall: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_is_killed_with_its_container_is_told_what_to_do_about_it() {
        let said = |memory| match killed_with_its_container(memory).exit {
            Exit::Refused(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(said(Some(64 << 20)).contains("67108864 bytes: raise that"));
        assert!(said(None).contains("resource_limits.memory how much"));
    }

    #[test]
    fn code_is_found_where_the_pod_has_it() {
        let pod = Pod::new("/s".into(), "/p".into(), "/somewhere/code".into(), 0);
        assert_eq!(pod.seen("/code/sub"), "/somewhere/code/sub");
        assert_eq!(pod.seen("/codes"), "/codes");
    }
}
