//! Teams and service accounts: principals that grants can be given to.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Request, segment};
use crate::failure::Outcome;
use crate::organization::path;
use crate::output::Output;

/// Teams
#[derive(Debug, Subcommand)]
pub enum Team {
    /// Make a team
    #[command(after_help = "Example: howdah team create judges")]
    Create {
        /// Its name
        name: String,
    },
    /// List the teams
    #[command(after_help = "Example: howdah team list")]
    List,
    /// Add a member
    #[command(after_help = "Example: howdah team add judges ann@example.org")]
    Add {
        /// The team
        team: String,
        /// Address, or `sa:NAME`
        member: String,
    },
    /// Remove a member
    #[command(after_help = "Example: howdah team remove judges ann@example.org")]
    Remove {
        /// The team
        team: String,
        /// Address, or `sa:NAME`
        member: String,
    },
}

/// Service accounts
#[derive(Debug, Subcommand)]
pub enum ServiceAccount {
    /// Make a service account
    #[command(after_help = "Example: howdah service-account create ci")]
    Create {
        /// Its name
        name: String,
    },
    /// List the service accounts
    #[command(after_help = "Example: howdah service-account list")]
    List,
    /// Delete a service account
    #[command(after_help = "Example: howdah service-account delete ci")]
    Delete {
        /// Its name
        name: String,
    },
}

/// A team or service account as the service shows it.
#[derive(Debug, Serialize, Deserialize)]
struct View {
    id: String,
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    members: Vec<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// Runs a command on teams.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Team, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let member_path = |team: &str, member: &str| {
        path(
            &organization,
            &format!("/teams/{}/members/{}", segment(team), segment(member)),
        )
    };
    match command {
        Team::Create { name } => {
            let body = serde_json::json!({ "name": name });
            let made: View = client
                .control(Request::post(path(&organization, "/teams")).body(&body)?)
                .await?;
            output.result(&made, || format!("made team {}", made.name))
        }
        Team::List => {
            let items: Vec<View> = client.control_list(Request::get(path(&organization, "/teams"))).await?;
            output.list(&items, &["name", "members"], |t| {
                vec![t.name.clone(), t.members.join(", ")]
            })
        }
        Team::Add { team, member } => {
            client.control_done(Request::put(member_path(&team, &member))).await?;
            output.result(&serde_json::json!({ "team": team, "added": member }), || {
                format!("{member} is in {team} now")
            })
        }
        Team::Remove { team, member } => {
            client
                .control_done(Request::delete(member_path(&team, &member)))
                .await?;
            let shown = serde_json::json!({ "team": team, "removed": member });
            output.result(&shown, || format!("{member} is in {team} no more"))
        }
    }
}

/// Runs a command on service accounts.
///
/// # Errors
/// What the service answers.
pub async fn run_service_accounts(command: ServiceAccount, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let all = path(&organization, "/service-accounts");
    match command {
        ServiceAccount::Create { name } => {
            let body = serde_json::json!({ "name": name });
            let made: View = client.control(Request::post(all).body(&body)?).await?;
            output.hint(&format!(
                "make a token for it: `howdah token create --name ci --service-account {}`",
                made.name
            ));
            output.result(&made, || format!("made service account {}", made.name))
        }
        ServiceAccount::List => {
            let items: Vec<View> = client.control_list(Request::get(all)).await?;
            output.list(&items, &["name", "id"], |a| vec![a.name.clone(), a.id.clone()])
        }
        ServiceAccount::Delete { name } => {
            client
                .control_done(Request::delete(format!("{all}/{}", segment(&name))))
                .await?;
            output.result(&serde_json::json!({ "deleted": name }), || format!("deleted {name}"))
        }
    }
}
