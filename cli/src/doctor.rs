//! `howdah doctor`: what this machine has and lacks, each with what to do.

mod images;

use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use private_postgres::Binaries;
use serde::Serialize;

use crate::embedded::home::Home;
use crate::embedded::{External, Programs, answers};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size};
use crate::settings::Settings;

/// Check what this machine has and lacks.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah doctor")]
pub struct Doctor {}

const LEAST_SPACE: u64 = 2 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Warning,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            verdict,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

/// Runs the checks.
///
/// # Errors
/// Exit code 1 when a check is bad.
pub async fn run(settings: &Settings, output: Output) -> Outcome {
    let isolation = sandbox().await;
    let images = images::images(&images::Machine::this(chosen(&isolation), &settings.home));
    let findings = vec![
        programs(),
        postgres(&settings.home).await,
        isolation,
        images,
        fuse().await,
        space(&settings.home),
        service(settings).await,
    ];
    output.list(&findings, &["check", "", "found", "do"], |f| {
        let verdict = match f.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        vec![
            f.check.to_owned(),
            verdict.to_owned(),
            f.found.clone(),
            f.remedy.clone(),
        ]
    })?;
    let bad: Vec<&str> = findings
        .iter()
        .filter(|f| f.verdict == Verdict::Bad)
        .map(|f| f.check)
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        "this machine is not ready",
        format!("bad: {}", bad.join(", ")),
        "do what the last column says and run `howdah doctor` again",
    ))
}

fn programs() -> Finding {
    match Programs::find() {
        Ok(found) => {
            let directory = found.control_plane.parent().map(|p| p.display().to_string());
            Finding::new("programs", Verdict::Good, directory.unwrap_or_default(), "")
        }
        Err(failure) => Finding::new("programs", Verdict::Bad, failure.why, failure.hint),
    }
}

async fn postgres(home: &Path) -> Finding {
    let bad = |failure: Failure| Finding::new("PostgreSQL", Verdict::Bad, failure.why, failure.hint);
    match External::from_environment() {
        Ok(None) => {}
        Ok(Some(external)) => {
            return match external.probe().await {
                Ok(()) => Finding::new("PostgreSQL", Verdict::Good, format!("{} answers", external.shown), ""),
                Err(failure) => bad(failure),
            };
        }
        Err(failure) => return bad(failure),
    }
    match Binaries::find(Some(&home.join("postgresql-binaries")), None) {
        Ok(found) => {
            let text = format!("version {} in {}", found.major, found.directory.display());
            Finding::new("PostgreSQL", Verdict::Good, text, "")
        }
        Err(error) => bad(Failure::from(error)),
    }
}

/// Asks the sandbox to try itself: only a real mount tells whether this machine allows one.
async fn sandbox() -> Finding {
    let Ok(programs) = Programs::find() else {
        return Finding::new(
            "isolation",
            Verdict::Bad,
            "the sandbox's program is missing",
            "build the workspace",
        );
    };
    let probe = tokio::task::spawn_blocking(move || {
        Command::new(programs.sandbox)
            .arg("probe")
            .stdin(Stdio::null())
            .output()
    });
    match probe.await {
        Ok(Ok(answer)) if answer.status.success() => isolation(&String::from_utf8_lossy(&answer.stdout)),
        Ok(Ok(answer)) => {
            let text = String::from_utf8_lossy(&answer.stderr).trim().replace('\n', ", ");
            Finding::new(
                "isolation",
                Verdict::Bad,
                format!("the sandbox could not try itself: {text}"),
                "build the workspace again",
            )
        }
        _ => Finding::new(
            "isolation",
            Verdict::Bad,
            "the sandbox cannot be started",
            "build the workspace again",
        ),
    }
}

/// The isolation that a finding is about.
fn chosen(finding: &Finding) -> &str {
    finding.found.split(' ').next().unwrap_or_default()
}

/// What the sandbox said: the isolation that works on the first line, then what is better and why it does not.
fn isolation(said: &str) -> Finding {
    let mut lines = said.trim().lines();
    let chosen = lines.next().unwrap_or_default();
    if chosen != "none" {
        return Finding::new("isolation", Verdict::Good, chosen, "");
    }
    let refused: Vec<&str> = lines.collect();
    Finding::new(
        "isolation",
        Verdict::Warning,
        format!("none ({})", refused.join("; ")),
        "user code runs without namespaces and sees this machine's files; allow unprivileged user namespaces, or run the \
         service as root",
    )
}

/// What `howdah mount` needs: only a real mount tells.
async fn fuse() -> Finding {
    let probed = tokio::task::spawn_blocking(crate::mount::probe).await;
    match probed {
        Ok(Ok(())) => Finding::new("FUSE", Verdict::Good, "commits can be mounted", ""),
        Ok(Err((why, remedy))) => Finding::new("FUSE", Verdict::Warning, why, remedy),
        Err(error) => Finding::new("FUSE", Verdict::Warning, error.to_string(), "report this"),
    }
}

fn space(home: &Path) -> Finding {
    let existing = home.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statvfs::statvfs(existing) {
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let text = format!("{} free at {}", size(free), existing.display());
            if free < LEAST_SPACE {
                Finding::new(
                    "disk",
                    Verdict::Warning,
                    text,
                    "free some space, or set HOWDAH_HOME to another disk",
                )
            } else {
                Finding::new("disk", Verdict::Good, text, "")
            }
        }
        Err(error) => Finding::new(
            "disk",
            Verdict::Warning,
            error.to_string(),
            "check the disk of HOWDAH_HOME",
        ),
    }
}

async fn service(settings: &Settings) -> Finding {
    if answers(&settings.url).await {
        return Finding::new("service", Verdict::Good, format!("answers at {}", settings.url), "");
    }
    if Home::new(&settings.home).is_supervised() {
        let remedy = format!("look into {}", settings.home.join("log").display());
        return Finding::new(
            "service",
            Verdict::Bad,
            format!("runs but does not answer at {}", settings.url),
            remedy,
        );
    }
    match crate::embedded::port_is_free(&settings.url) {
        Some(false) => Finding::new(
            "service",
            Verdict::Warning,
            format!("does not run, and another process uses the port of {}", settings.url),
            "start it at another port: `howdah up --detach --listen 127.0.0.1:0`",
        ),
        _ => Finding::new(
            "service",
            Verdict::Good,
            "does not run; its port is free",
            "start it with `howdah up --detach`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_namespaces_is_warned_of_with_the_reasons() {
        let good = isolation("namespaces\n");
        assert_eq!((good.verdict, good.found.as_str()), (Verdict::Good, "namespaces"));
        let none = isolation("none\nnot namespaces: needs root\nnot user-namespaces: denied\n");
        assert_eq!(none.verdict, Verdict::Warning);
        assert_eq!(
            none.found,
            "none (not namespaces: needs root; not user-namespaces: denied)"
        );
    }
}
