//! What an organization demands of the API tokens that work in it.

use clap::{Args, ValueEnum};
use contract::api::TokenPolicy;

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::organization::path;
use crate::output::Output;

/// What is to change; the rest stays as it is.
#[derive(Debug, Args)]
pub struct Change {
    /// So many days after it was made, a token does nothing any more; `none` for no limit
    #[arg(long, value_name = "DAYS", value_parser = limit)]
    longest_days: Option<Limit>,
    /// Nor one that was not used for so many days; `none` for no limit
    #[arg(long, value_name = "DAYS", value_parser = limit)]
    idle_days: Option<Limit>,
    /// Whether tokens of people do nothing until an admin has approved them
    #[arg(long)]
    approval: Option<Switch>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// A number of days, or none.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let days = text.strip_suffix('d').unwrap_or(text);
    days.parse()
        .map(|days| Limit(Some(days)))
        .map_err(|_| "write a number of days, or `none`".to_owned())
}

/// Shows or changes it.
///
/// # Errors
/// What the service answers.
pub async fn run(change: Change, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let address = path(&organization, "/token-policy");
    let mut policy: TokenPolicy = client.control(Request::get(address.clone())).await?;
    let before = policy.clone();
    policy.longest_days = change.longest_days.map_or(policy.longest_days, |limit| limit.0);
    policy.idle_days = change.idle_days.map_or(policy.idle_days, |limit| limit.0);
    policy.approval = change
        .approval
        .map_or(policy.approval, |switch| matches!(switch, Switch::On));
    if policy != before {
        client.control_done(Request::put(address).body(&policy)?).await?;
    }
    output.result(&policy, || {
        let days = |days: Option<u32>| days.map_or_else(|| "no limit".to_owned(), |days| format!("{days} days"));
        format!(
            "longest life  {}\nunused        {}\napproval      {}",
            days(policy.longest_days),
            days(policy.idle_days),
            if policy.approval { "by an admin" } else { "not needed" }
        )
    })
}
