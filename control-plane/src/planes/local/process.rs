//! The planes' processes. Each is owned by a task that waits for its end; the table holds the pipe to its standard input,
//! and letting go of that is how a plane is asked to stop.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use contract::config::{DataPlaneConfig, DataPlaneReady, KEPT_VARIABLES};
use contract::ids::OrganizationId;
use provisioner::plan::Process;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, watch};

/// Heaps that the threads of a plane share.
const HEAPS: &str = "2";
/// Memory of that size and more does not come from heaps: 4 MiB.
const PIECE_BYTES: &str = "4194304";
/// A process must serve within that time.
const READY_WAIT: Duration = Duration::from_secs(30);
/// A process that was asked to stop is killed after that time.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// Bringing a schema up to date must be done within that time.
const MIGRATE_WAIT: Duration = Duration::from_secs(600);

struct Entry {
    url: String,
    stdin: Option<ChildStdin>,
    ended: watch::Receiver<Option<String>>,
    kill: Arc<Notify>,
}

type Table = Arc<Mutex<HashMap<OrganizationId, Entry>>>;

/// The processes that this control plane started.
pub(super) struct Processes {
    table: Table,
    exited: Arc<dyn Fn(OrganizationId) + Send + Sync>,
}

fn locked(table: &Table) -> MutexGuard<'_, HashMap<OrganizationId, Entry>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(binary: &Path, verb: &str, log: &Path, stdout: Stdio) -> anyhow::Result<Child> {
    let log_file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("the log `{}` cannot be written", log.display()))?;
    Command::new(binary)
        .arg(verb)
        .env_clear()
        .envs(
            KEPT_VARIABLES
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        // glibc keeps a heap for each thread otherwise, and what a large request has left in one is of no use to the others.
        .env("MALLOC_ARENA_MAX", HEAPS)
        // Else glibc takes ever larger pieces from its heaps, where what lies behind them keeps them from being given back.
        .env("MALLOC_MMAP_THRESHOLD_", PIECE_BYTES)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(log_file)
        // A group of its own: an interrupt at the terminal reaches the parent, which stops its planes in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("the data plane `{}` cannot be started", binary.display()))
}

async fn configure(child: &mut Child, config: &DataPlaneConfig) -> anyhow::Result<ChildStdin> {
    let mut stdin = child.stdin.take().context("the data plane has no standard input")?;
    let mut line = serde_json::to_vec(config)?;
    line.push(b'\n');
    stdin
        .write_all(&line)
        .await
        .context("the data plane did not take its configuration")?;
    stdin.flush().await?;
    Ok(stdin)
}

/// Runs `howdah-data-plane <verb>` to its end.
pub(super) async fn run_to_end(binary: &Path, verb: &str, config: &DataPlaneConfig, log: &Path) -> anyhow::Result<()> {
    let mut child = spawn(binary, verb, log, Stdio::null())?;
    let stdin = configure(&mut child, config).await;
    let ended = tokio::time::timeout(MIGRATE_WAIT, child.wait())
        .await
        .with_context(|| {
            format!(
                "`{verb}` of the data plane took longer than {} s",
                MIGRATE_WAIT.as_secs()
            )
        })??;
    drop(stdin);
    anyhow::ensure!(
        ended.success(),
        "`{verb}` of the data plane ended with {ended}; its log says why: {}",
        log.display()
    );
    Ok(())
}

impl Processes {
    pub fn new(exited: impl Fn(OrganizationId) + Send + Sync + 'static) -> Self {
        Self {
            table: Table::default(),
            exited: Arc::new(exited),
        }
    }

    pub fn observe(&self, organization: OrganizationId) -> Process {
        match locked(&self.table).get(&organization) {
            None => Process::Absent,
            Some(entry) => match entry.ended.borrow().clone() {
                Some(how) => Process::Crashed { how },
                None => Process::Running { url: entry.url.clone() },
            },
        }
    }

    pub async fn start(
        &self,
        organization: OrganizationId,
        binary: &Path,
        config: &DataPlaneConfig,
        log: &Path,
    ) -> anyhow::Result<()> {
        self.stop(organization).await;
        let mut child = spawn(binary, "serve", log, Stdio::piped())?;
        let stdin = configure(&mut child, config).await?;
        let stdout = child.stdout.take().context("the data plane has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(READY_WAIT, lines.next_line()).await;
        let line = ready
            .with_context(|| {
                format!(
                    "the data plane did not serve within {} s; its log says why: {}",
                    READY_WAIT.as_secs(),
                    log.display()
                )
            })?
            .context("the data plane's standard output cannot be read")?
            .with_context(|| {
                format!(
                    "the data plane ended before it served; its log says why: {}",
                    log.display()
                )
            })?;
        let ready: DataPlaneReady =
            serde_json::from_str(&line).context("the data plane's first line is not its address")?;
        let (ended, kill) = self.own(organization, child, log.display().to_string());
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        locked(&self.table).insert(
            organization,
            Entry {
                url: ready.url,
                stdin: Some(stdin),
                ended,
                kill,
            },
        );
        Ok(())
    }

    /// Gives the process to a task that waits for its end.
    fn own(
        &self,
        organization: OrganizationId,
        mut child: Child,
        log: String,
    ) -> (watch::Receiver<Option<String>>, Arc<Notify>) {
        let (tell, ended) = watch::channel(None);
        let kill = Arc::new(Notify::new());
        let (killed, exited) = (Arc::clone(&kill), Arc::clone(&self.exited));
        tokio::spawn(async move {
            let status = tokio::select! {
                status = child.wait() => status,
                () = killed.notified() => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            };
            let how = match status {
                Ok(status) => format!("the data plane ended by itself with {status}; its log says why: {log}"),
                Err(error) => format!("the data plane was lost: {error}"),
            };
            tell.send_replace(Some(how));
            exited(organization);
        });
        (ended, kill)
    }

    /// Asks the process to stop and waits; kills it when it does not. One that is gone already is forgotten.
    pub async fn stop(&self, organization: OrganizationId) {
        let parts = locked(&self.table)
            .get_mut(&organization)
            .map(|entry| (entry.stdin.take(), entry.ended.clone(), Arc::clone(&entry.kill)));
        let Some((stdin, mut ended, kill)) = parts else {
            return;
        };
        drop(stdin);
        let stopped = tokio::time::timeout(STOP_WAIT, ended.wait_for(Option::is_some))
            .await
            .is_ok();
        if !stopped {
            tracing::warn!(organization.id = %organization, "a data plane did not stop when asked to: killing it");
            kill.notify_one();
            let _ = ended.wait_for(Option::is_some).await;
        }
        locked(&self.table).remove(&organization);
    }

    pub async fn stop_all(&self) {
        let all: Vec<OrganizationId> = locked(&self.table).keys().copied().collect();
        futures::future::join_all(all.into_iter().map(|organization| self.stop(organization))).await;
    }
}
