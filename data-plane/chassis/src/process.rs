//! How a process is configured, started and stopped: by its parent, with one line of JSON on standard input, whose end says
//! that the parent is gone; or by an orchestrator, with a file, and a signal at the end.

use std::future::Future;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where a process has its configuration from, and with that who ends it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// A parent writes it to standard input, and is gone when that ends.
    #[default]
    Parent,
    /// A file. Standard input means nothing; a signal ends the process.
    File(PathBuf),
    /// It has none. A signal ends the process.
    Signals,
}

impl From<Option<PathBuf>> for Source {
    fn from(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Parent, Self::File)
    }
}

/// Reads the configuration: the first line of standard input, or the whole file. Call before anything else reads from there.
///
/// # Errors
/// When there is none, or it is not the wanted configuration.
pub fn read_config<T: DeserializeOwned>(source: &Source) -> anyhow::Result<T> {
    match source {
        Source::Parent => {
            let mut line = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut line)
                .context("the configuration could not be read from standard input")?;
            anyhow::ensure!(
                !line.trim().is_empty(),
                "no configuration on standard input: its first line must be the JSON document, or `--config` must name a file"
            );
            parse(&line, "on standard input")
        }
        Source::File(path) => read_file(path),
        Source::Signals => anyhow::bail!("this process has no configuration"),
    }
}

fn read_file<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the configuration could not be read from `{}`", path.display()))?;
    parse(&text, &format!("in `{}`", path.display()))
}

fn parse<T: DeserializeOwned>(text: &str, place: &str) -> anyhow::Result<T> {
    // Neither the text nor what the parser says of it is shown: they hold secrets.
    serde_json::from_str(text).map_err(|e| {
        anyhow::anyhow!(
            "the configuration {place} is not valid at line {}, column {}",
            e.line(),
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

    /// Begins the shutdown on SIGTERM, SIGINT, and, when the configuration came from a parent, at the end of standard input.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn listen(&self, source: &Source) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (gone, mut parent) = watch::channel(false);
        if *source == Source::Parent {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        listen: String,
    }

    fn read(text: &str) -> Result<String, String> {
        let path = std::env::temp_dir().join(format!("howdah-config-{}-{}", std::process::id(), text.len()));
        std::fs::write(&path, text).unwrap();
        let read = read_config::<Config>(&Source::from(Some(path.clone())));
        std::fs::remove_file(&path).unwrap();
        read.map(|config| config.listen).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_file_is_read_as_a_whole_and_what_is_wrong_in_it_is_named_without_being_shown() {
        assert_eq!(read("{\n  \"listen\": \"here\"\n}\n").unwrap(), "here");
        let wrong = read("{\n  \"listen\": \"here\",\n  \"hwd_agt_secret\": 1\n}").unwrap_err();
        assert!(wrong.contains("line 3") && !wrong.contains("hwd_agt_secret"), "{wrong}");
        let missing = read_config::<Config>(&Source::File("/nonexistent/config.json".into())).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/config.json"), "{missing}");
    }
}
