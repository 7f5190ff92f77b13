//! `up --detach`: this binary once more, in a session of its own, and waiting until it answers.

use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::address::Addresses;
use super::control_plane::answers;
use super::home::{Home, Service, State};
use crate::failure::{Exit, Failure, Outcome, io};
use crate::files_of_ours::read_json;
use crate::output::Output;

const PATIENCE: Duration = Duration::from_secs(180);

/// Why a detached supervisor could not start, as it left it in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) what: String,
    pub(super) why: String,
    pub(super) hint: String,
    pub(super) conflict: bool,
}

/// Starts the service detached and waits until it answers.
///
/// # Errors
/// What the supervisor could not do.
pub(super) async fn start(home: &Home, at: &Addresses, output: Output) -> Outcome<Service> {
    let _ = std::fs::remove_file(home.failure());
    let log = home.log("supervisor");
    let out = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(io("open", &log))?;
    let copy = out.try_clone().map_err(io("open", &log))?;
    let failed = |e| {
        Failure::new(
            "the service did not start",
            e,
            "start it in the foreground with `howdah up`",
        )
    };
    let own = std::env::current_exe().map_err(failed)?;
    let child = Command::new(own)
        .args(["up", "--detached", "--listen", &at.listen])
        .args(
            at.services_listen
                .iter()
                .flat_map(|listen| ["--services-listen", listen]),
        )
        .env("HOWDAH_HOME", &home.path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(copy)
        .spawn()
        .map_err(failed)?;
    wait_until_running(home, Some(child), output).await
}

/// Waits until the service answers, telling on a terminal what it is doing.
///
/// # Errors
/// When it gives up, or takes too long.
pub(super) async fn wait_until_running(home: &Home, mut child: Option<Child>, output: Output) -> Outcome<Service> {
    let spinner = output.spinner("starting PostgreSQL (the first start makes its cluster)");
    let began = Instant::now();
    loop {
        if let Some(service) = home.service().filter(|_| home.is_supervised()) {
            spinner.set_message("starting the control plane");
            if service.state == State::Running && answers(&service.url).await {
                spinner.finish_and_clear();
                return Ok(service);
            }
        }
        let ended = match &mut child {
            Some(child) => matches!(child.try_wait(), Ok(Some(_))),
            None => !home.is_supervised(),
        };
        // Another `up` may have been faster; then ours has ended and the other's service is waited for.
        if ended && !home.is_supervised() {
            return Err(why(home));
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(
                "the service does not answer",
                format!("it was started {} s ago", PATIENCE.as_secs()),
                format!(
                    "look into {}, and stop it with `howdah down`",
                    home.path.join("log").display()
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn why(home: &Home) -> Failure {
    if let Some(refusal) = read_json::<Refusal>(&home.failure()) {
        let failure = Failure::new(refusal.what, refusal.why, refusal.hint);
        return if refusal.conflict {
            failure.with_exit(Exit::Conflict)
        } else {
            failure
        };
    }
    Failure::new(
        "the service did not start",
        "its process has ended",
        format!("look into {}", home.log("supervisor").display()),
    )
}
