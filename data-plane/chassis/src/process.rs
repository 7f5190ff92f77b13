//! How a process is configured, started and stopped by its parent: one line of JSON on standard input, and the end of
//! that pipe says that the parent is gone.

use std::future::Future;
use std::io::{BufRead, Read};

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Reads the configuration: the first line of standard input. Call before anything else reads from it.
///
/// # Errors
/// When there is no line, or it is not the wanted configuration.
pub fn read_config<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("the configuration could not be read from standard input")?;
    anyhow::ensure!(
        !line.trim().is_empty(),
        "no configuration on standard input: its first line must be the JSON document"
    );
    // The text is not shown: it holds secrets.
    serde_json::from_str(&line).map_err(|e| {
        anyhow::anyhow!(
            "the configuration on standard input is not valid at column {}",
            e.column()
        )
    })
}

/// Tells every part of a process to stop, and waits for them.
#[derive(Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nobody has asked to stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every part to stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether somebody asked to stop.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends when somebody asks to stop.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }

    /// Runs a named background task. It must end by itself soon after `begun`; a panic is logged, not lost.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.tasks.spawn(async move {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                tracing::error!(task.name = name, "background task `{name}` panicked");
            }
        });
    }

    /// Waits until every task has ended.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Begins the shutdown on SIGTERM, SIGINT, and (when `watch_parent`) at the end of standard input.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn listen(&self, watch_parent: bool) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (gone, mut parent) = watch::channel(false);
        if watch_parent {
            // A plain thread: tokio's stdin would keep the runtime from ending.
            std::thread::spawn(move || {
                let mut rest = [0; 64];
                let mut stdin = std::io::stdin().lock();
                while matches!(stdin.read(&mut rest), Ok(n) if n > 0) {}
                let _ = gone.send(true);
            });
        } else {
            std::mem::forget(gone);
        }
        let token = self.token.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("stopping: asked to by a signal"),
                _ = interrupt.recv() => tracing::info!("stopping: interrupted"),
                _ = parent.wait_for(|gone| *gone) => tracing::info!("stopping: the parent process is gone"),
                () = token.cancelled() => {}
            }
            token.cancel();
        });
        Ok(())
    }
}

/// Makes ring the process's TLS provider. First line of every `main`; a second call changes nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
