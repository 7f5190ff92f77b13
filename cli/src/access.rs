//! The access rule in words: why somebody may or may not read something, who can, and asking those who can grant it.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use contract::api::{Decision, Explanation, Exposed, NewGrant, Reader, ReadingShift, ShiftedRepo, WhatIf};
use contract::ids::{GrantId, ReleaseId};

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::job::moment;
use crate::organization::path;
use crate::output::{Output, time};
use crate::references::{commit, full_repo, resource};

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
    /// Tell who would gain and lose reading by a change, without making it
    #[command(subcommand)]
    WhatIf(Question),
    /// List who read anything that was made from a repo
    #[command(after_help = "Example: howdah access exposure images --since 30d")]
    Exposure {
        /// The repo
        repo: String,
        /// Only who read since then: a time, or how long ago (`30d`); to the hour
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<DateTime<Utc>>,
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

/// A change that is asked about
#[derive(Debug, Subcommand)]
pub enum Question {
    /// A grant is given
    #[command(after_help = "Example: howdah access what-if grant user:red@example.org viewer images")]
    Grant {
        /// `user:ADDRESS`, `team:NAME` or `sa:NAME`
        subject: String,
        /// The role
        role: String,
        /// `repo`, `project/repo`, `project:NAME` or `org`
        resource: String,
    },
    /// A grant is taken
    #[command(after_help = "Example: howdah access what-if revoke grt_…   (ids: howdah grant list --json)")]
    Revoke {
        /// Its id
        grant: GrantId,
    },
    /// A member leaves the organization
    #[command(after_help = "Example: howdah access what-if leave user:red@example.org")]
    Leave {
        /// `user:ADDRESS` or `sa:NAME`
        subject: String,
    },
    /// Domains are released to a pipeline: of its outputs to come, and of what is made from these
    #[command(
        after_help = "Example: howdah access what-if release --domain images --domain truth --pipeline score-red"
    )]
    Release {
        /// What is excused; may be repeated
        #[arg(long = "domain", value_name = "REPO", required = true)]
        domains: Vec<String>,
        /// The pipeline
        #[arg(long)]
        pipeline: String,
    },
    /// A release is revoked
    #[command(after_help = "Example: howdah access what-if revoke-release rel_…   (ids: howdah release list)")]
    RevokeRelease {
        /// Its id
        release: ReleaseId,
    },
    /// A pipeline reads one more branch: of its outputs to come, and of what is made from these
    #[command(after_help = "Example: howdah access what-if input score-red images@main")]
    Input {
        /// The pipeline
        pipeline: String,
        /// `repo@branch`
        input: String,
    },
}

impl Question {
    fn asked(self, project: &str) -> Outcome<WhatIf> {
        Ok(match self {
            Self::Grant {
                subject,
                role,
                resource: on,
            } => WhatIf::Grant(NewGrant {
                subject,
                role,
                resource: resource(&on, project)?,
            }),
            Self::Revoke { grant } => WhatIf::Revoke { grant },
            Self::Leave { subject } => WhatIf::Leave { subject },
            Self::Release { domains, pipeline } => WhatIf::Release {
                domains: domains
                    .iter()
                    .map(|domain| full_repo(domain, project))
                    .collect::<Outcome<_>>()?,
                pipeline: full_repo(&pipeline, project)?,
            },
            Self::RevokeRelease { release } => WhatIf::RevokeRelease { release },
            Self::Input { pipeline, input } => WhatIf::Input {
                pipeline: full_repo(&pipeline, project)?,
                input: commit(&input, project)?,
            },
        })
    }
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
        Access::WhatIf(question) => {
            let request = Request::post("/v1/access/what-if").body(&question.asked(project)?)?;
            let items: Vec<ReadingShift> = client.plane_list(request.repeatable(), None).await?;
            if items.is_empty() && !output.json {
                return output.line("nobody's reading changes");
            }
            output.list(&items, &["name", "could read", "could not read any more"], |s| {
                vec![s.name.clone(), repos(&s.gains), repos(&s.loses)]
            })
        }
        Access::Exposure { repo, since } => {
            let request = Request::get("/v1/access/exposure")
                .query("repo", full_repo(&repo, project)?)
                .query_if("since", since.map(|at| at.to_rfc3339()));
            let items: Vec<Exposed> = client.plane_list(request, None).await?;
            if items.is_empty() && !output.json {
                return output.line("nobody read anything that was made from it");
            }
            output.list(&items, &["name", "read", "first", "last (to the hour)"], |e| {
                vec![e.name.clone(), e.read.clone(), time(&e.first_at), time(&e.last_at)]
            })
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

fn repos(shifted: &[ShiftedRepo]) -> String {
    let one = |s: &ShiftedRepo| match s.commits {
        Some(1) => format!("{} (1 commit)", s.repo),
        Some(n) => format!("{} ({n} commits)", s.repo),
        None => format!("{} (to come)", s.repo),
    };
    let all: Vec<String> = shifted.iter().map(one).collect();
    all.join(", ")
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
