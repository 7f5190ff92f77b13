//! Notices: what one should know of.

use clap::Args;
use contract::api::Notice;

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::output::{Output, time};

/// Show what you should know of: grants given and taken, releases, requests for access, roles
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah notices
         howdah notices --mark-read
         howdah notices --all --json")]
pub struct Notices {
    /// Those that were read, too
    #[arg(long)]
    all: bool,
    /// Mark what is shown, and all before it, as read
    #[arg(long)]
    mark_read: bool,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(arguments: Notices, client: &Client, output: Output) -> Outcome {
    let request = Request::get("/v1/notices").query("unread", !arguments.all);
    let items: Vec<Notice> = client.control_list_at_most(request, arguments.limit).await?;
    output.list(&items, &["time", "organization", "what"], |notice| {
        vec![time(&notice.at), notice.organization.to_string(), notice.text.clone()]
    })?;
    let (true, Some(newest)) = (arguments.mark_read, items.first()) else {
        return Ok(());
    };
    let body = serde_json::json!({ "up_to": newest.id });
    client
        .control_done(Request::post("/v1/notices/read").body(&body)?)
        .await
}
