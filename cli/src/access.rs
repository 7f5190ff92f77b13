//! The access rule in words: why somebody may or may not read something, who can, and asking those who can grant it.

use clap::Subcommand;
use contract::api::{Decision, Explanation, Reader};

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::organization::path;
use crate::output::Output;
use crate::references::commit;

/// Who may read what, and why
#[derive(Debug, Subcommand)]
pub enum Access {
    /// Explain why a commit may or may not be read
    #[command(
        after_help = "Example: howdah access explain score-red@main\n         howdah access explain score-red@main --as user:red@example.org"
    )]
    Explain {
        /// What to read
        reference: String,
        /// Somebody else: `user:ADDRESS` or `sa:NAME`
        #[arg(long = "as", value_name = "SUBJECT")]
        subject: Option<String>,
    },
    /// List who can read a commit
    #[command(after_help = "Example: howdah access who-can-read score-red@main")]
    WhoCanRead {
        /// What to read
        reference: String,
    },
    /// Ask those who can grant what is missing
    #[command(after_help = "Example: howdah access request score-red@main -m \"my own report\"")]
    Request {
        /// What to read
        reference: String,
        /// What to tell them
        #[arg(short, long, default_value = "")]
        message: String,
    },
}

/// Runs the command.
///
/// # Errors
/// What the service answers. An explanation of a denial is a success.
pub async fn run(command: Access, client: &Client, output: Output) -> Outcome {
    let project = &client.settings.project;
    match command {
        Access::Explain { reference, subject } => {
            let found = explain(client, &commit(&reference, project)?, subject).await?;
            output.result(&found, || in_words(&reference, &found))
        }
        Access::WhoCanRead { reference } => {
            let request = Request::get("/v1/access/who-can-read").query("ref", commit(&reference, project)?);
            let items: Vec<Reader> = client.plane_list(request, None).await?;
            output.list(&items, &["name", "by"], |r| vec![r.name.clone(), r.by.clone()])
        }
        Access::Request { reference, message } => {
            let full = commit(&reference, project)?;
            let found = explain(client, &full, None).await?;
            if found.decision == Decision::Allow {
                return output.result(&found, || format!("nothing is missing: you may read {reference}"));
            }
            let missing: Vec<&str> = found.missing.iter().map(|m| m.domain.as_str()).collect();
            let body = serde_json::json!({ "ref": full, "missing": missing, "message": message });
            let organization = client.organization().await?;
            let request = Request::post(path(&organization, "/access-requests")).body(&body)?;
            let made: serde_json::Value = client.control(request).await?;
            let mut asked: Vec<&str> = found
                .missing
                .iter()
                .flat_map(|m| &m.who_can_grant)
                .map(String::as_str)
                .collect();
            asked.sort_unstable();
            asked.dedup();
            output.result(&made, || {
                format!("asked {} for {}", asked.join(", "), missing.join(", "))
            })
        }
    }
}

async fn explain(client: &Client, reference: &str, subject: Option<String>) -> Outcome<Explanation> {
    let request = Request::get("/v1/access/explain")
        .query("ref", reference)
        .query_if("subject", subject);
    client.plane(request).await
}

fn in_words(reference: &str, found: &Explanation) -> String {
    let mut lines = Vec::new();
    match found.decision {
        Decision::Allow => lines.push(format!("allowed: {reference}")),
        Decision::Deny => lines.push(format!("denied: {reference}")),
    }
    for missing in &found.missing {
        lines.push(format!("  missing {}: {}", missing.domain, missing.reason));
        if !missing.witness.is_empty() {
            lines.push(format!("    by way of {}", missing.witness.join(" -> ")));
        }
        if !missing.who_can_grant.is_empty() {
            lines.push(format!("    granted by {}", missing.who_can_grant.join(", ")));
        }
    }
    if !found.releases.is_empty() {
        let ids: Vec<String> = found.releases.iter().map(ToString::to_string).collect();
        lines.push(format!("  rests on release {}", ids.join(", ")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::api::MissingDomain;

    #[test]
    fn a_denial_names_what_is_missing_and_who_can_grant_it() {
        let found = Explanation {
            decision: Decision::Deny,
            missing: vec![MissingDomain {
                domain: "default/images".to_owned(),
                reason: "detect-red was made from it".to_owned(),
                witness: vec!["images@a".to_owned(), "detect-red@b".to_owned()],
                who_can_grant: vec!["host@example.org".to_owned()],
            }],
            releases: Vec::new(),
            token: 7,
        };
        let text = in_words("detect-red", &found);
        assert!(text.starts_with("denied: detect-red\n  missing default/images: "));
        assert!(text.contains("images@a -> detect-red@b") && text.contains("granted by host@example.org"));
    }
}
