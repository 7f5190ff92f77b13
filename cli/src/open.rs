//! `howdah open`: a service of a pipeline in the browser.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

use clap::Args;
use contract::api::OpenedService;

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::references::repo;
use crate::settings::variable;

/// Open a service (Jupyter, say) in the browser
#[derive(Debug, Args)]
#[command(
    after_help = "The link is good once and for a minute; the browser is let in as you, for as long as your session lasts and you may read\nwhat the service reads. Programs send `Authorization: Bearer TOKEN` (an API token, or an access token) to `api_url`.\n\nExample: howdah open lab\n         howdah open lab --print\n         curl -H \"Authorization: Bearer $HOWDAH_TOKEN\" \"$(howdah open scores --json | jq -r .api_url)\""
)]
pub struct Open {
    /// `[project/]name` of a pipeline whose spec says `service`
    pipeline: String,
    /// Only print the link
    #[arg(long)]
    print: bool,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(arguments: Open, client: &Client, output: Output) -> Outcome {
    let (project, name) = repo(&arguments.pipeline, &client.settings.project)?;
    let organization = client.organization().await?;
    let path = format!("/v1/organizations/{organization}/pipelines/{project}/{name}/open");
    let opened: OpenedService = client.control(Request::post(path)).await?;
    output.result(&opened, || opened.url.clone())?;
    if opened.service.state != contract::api::ServiceState::Answering {
        client.hint(&format!(
            "the service is {}; see `howdah logs {}`",
            opened.service.state.as_str(),
            opened.service.job
        ));
    }
    let wanted = !arguments.print && !output.json && std::io::stdout().is_terminal();
    if wanted { browse(&opened.url).map(drop) } else { Ok(()) }
}

/// Opens a link where somebody sees it; `false` where nobody does.
///
/// # Errors
/// When the browser does not start.
pub(crate) fn browse(url: &str) -> Outcome<bool> {
    let Some(browser) = browser() else { return Ok(false) };
    let started = Command::new(&browser)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    started
        .map(|_| true)
        .map_err(|e| Failure::new(format!("`{browser}` did not start"), e, "open the link above yourself"))
}

/// What opens a link on this machine, where somebody sees it.
fn browser() -> Option<String> {
    if cfg!(target_os = "macos") {
        return Some("open".to_owned());
    }
    if let Some(browser) = variable("BROWSER") {
        return Some(browser);
    }
    let seen = variable("DISPLAY").or_else(|| variable("WAYLAND_DISPLAY"));
    seen.map(|_| "xdg-open".to_owned())
}
