//! The outbox: mails that the service on this machine wrote, for whoever operates it.

use clap::{Args, Subcommand};
use contract::api::{MailView, OutboxLink, Page};

use crate::client::{Client, Request, segment};
use crate::embedded::home::Home;
use crate::embedded::people::operator_secret;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, time};
use crate::settings::Settings;

/// Mails that the service on this machine wrote
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah outbox\n         howdah outbox show mail_…\n\nFor whoever operates the service: needs its HOWDAH_HOME. Mails stay here where no server takes them (HOWDAH_SMTP_URL of `howdah up`)."
)]
pub struct Outbox {
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the newest mails, and print a link for a browser on this machine
    #[command(after_help = "Example: howdah outbox list --json")]
    List,
    /// Show what a mail says
    #[command(after_help = "Example: howdah outbox show mail_…")]
    Show {
        /// Its id
        id: String,
    },
}

/// Runs the command.
///
/// # Errors
/// When the service does not run, or is another user's.
pub async fn run(arguments: Outbox, mut settings: Settings, output: Output) -> Outcome {
    let home = Home::new(&settings.home);
    let service = home.service().ok_or_else(|| {
        Failure::new(
            "the service does not run",
            format!("nothing runs from {}", home.path.display()),
            "start it with `howdah up --detach`, or set HOWDAH_HOME as it was started with",
        )
    })?;
    if !home
        .path
        .join("keys")
        .join("operator.secret")
        .try_exists()
        .unwrap_or(false)
    {
        return Err(Failure::new(
            "the outbox is for whoever operates the service",
            format!("there is no operator's secret to be read in {}", home.path.display()),
            "use the user and the HOWDAH_HOME that the service was started with",
        )
        .with_exit(Exit::Denied));
    }
    settings.url = service.url.trim_end_matches('/').to_owned();
    settings.token = Some(operator_secret(&home)?);
    let url = settings.url.clone();
    let client = Client::new(settings, output)?;
    match arguments.command {
        None | Some(Verb::List) => {
            let page: Page<MailView> = client.control(Request::get("/v1/outbox")).await?;
            output.list(&page.items, &["id", "for", "subject", "written", "state"], |m| {
                let state = m
                    .error
                    .as_ref()
                    .map_or_else(|| m.state.clone(), |e| format!("{} ({e})", m.state));
                vec![
                    m.id.to_string(),
                    m.recipient.clone(),
                    m.subject.clone(),
                    time(&m.created_at),
                    state,
                ]
            })?;
            if !output.json {
                let link: OutboxLink = client.control(Request::post("/v1/outbox/links")).await?;
                output.hint(&format!("in a browser, for ten minutes: {url}{}", link.url));
            }
            Ok(())
        }
        Some(Verb::Show { id }) => {
            let mail: MailView = client
                .control(Request::get(format!("/v1/outbox/{}", segment(&id))))
                .await?;
            output.result(&mail, || {
                let text = mail.text.as_deref().unwrap_or("(it was sent, and its text erased)");
                format!("To: {}\nSubject: {}\n\n{text}", mail.recipient, mail.subject)
            })
        }
    }
}
