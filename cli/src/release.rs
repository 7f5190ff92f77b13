//! Releases: the owners of data let what a pipeline makes of it be read without the right to read the data itself.

use clap::Subcommand;
use contract::api::{NewRelease, Pipeline, PolicyChanged, ReleaseView};

use crate::client::{Client, Request, segment};
use crate::failure::Outcome;
use crate::grant::enforced;
use crate::organization::path;
use crate::output::{Output, time};
use crate::references::{days, full_repo, repo};

/// Declassification: release what a pipeline makes of your data
#[derive(Debug, Subcommand)]
pub enum Release {
    /// Propose a release (and approve it where you can)
    #[command(
        after_help = "Example: howdah release create --domain images truth detect-red --pipeline score-red --purpose \"competitors read their own score\" --expires 90d"
    )]
    Create {
        /// What is excused, `[project/]repo`; several, or repeated
        #[arg(long = "domain", value_name = "REPO", num_args = 1.., required = true)]
        domains: Vec<String>,
        /// On the way into which pipeline, as it is now
        #[arg(long, value_name = "PIPELINE")]
        pipeline: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        purpose: String,
        /// When it ends, a year at most
        #[arg(long, value_name = "DAYS", value_parser = days, default_value = "90d")]
        expires: u32,
        /// Cover commits that were made before, too
        #[arg(long)]
        retroactive: bool,
    },
    /// Approve a proposed release
    #[command(after_help = "Example: howdah release approve rel_…")]
    Approve {
        /// Its id
        id: String,
    },
    /// Revoke a release
    #[command(after_help = "Example: howdah release revoke rel_…")]
    Revoke {
        /// Its id
        id: String,
    },
    /// List the releases
    #[command(after_help = "Example: howdah release list")]
    List,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Release, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let all = path(&organization, "/releases");
    let project = &client.settings.project;
    match command {
        Release::Create {
            domains,
            pipeline,
            purpose,
            expires,
            retroactive,
        } => {
            let (of, name) = repo(&pipeline, project)?;
            let seen: Pipeline = client.plane(Request::get(format!("/v1/pipelines/{of}/{name}"))).await?;
            let domains: Outcome<Vec<String>> = domains.iter().map(|d| full_repo(d, project)).collect();
            let new = NewRelease {
                domains: domains?,
                pipeline: format!("{of}/{name}"),
                spec_digest: seen.spec_digest,
                purpose,
                expires_in_days: expires,
                retroactive,
            };
            let made: ReleaseView = client.control(Request::post(all).body(&new)?).await?;
            enforced(client, made.epoch).await?;
            output.result(&made, || describe(&made))
        }
        Release::Approve { id } => {
            let request = Request::post(format!("{all}/{}/approvals", segment(&id)));
            let made: ReleaseView = client.control(request).await?;
            enforced(client, made.epoch).await?;
            output.result(&made, || describe(&made))
        }
        Release::Revoke { id } => {
            let request = Request::delete(format!("{all}/{}", segment(&id))).query("wait", true);
            let changed: PolicyChanged = client.control(request).await?;
            client.saw_epoch(changed.epoch).await?;
            output.result(&changed, || format!("revoked {id}"))
        }
        Release::List => {
            let items: Vec<ReleaseView> = client.control_list(Request::get(all)).await?;
            output.list(
                &items,
                &["id", "state", "pipeline", "domains", "expires", "purpose"],
                |r| {
                    vec![
                        r.id.to_string(),
                        r.state.clone(),
                        r.pipeline.clone(),
                        r.domains.join(" "),
                        time(&r.expires_at),
                        r.purpose.clone(),
                    ]
                },
            )
        }
    }
}

fn describe(release: &ReleaseView) -> String {
    let text = format!(
        "{} {}: {} on the way into {} until {}",
        release.id,
        release.state,
        release.domains.join(", "),
        release.pipeline,
        time(&release.expires_at)
    );
    if release.awaiting.is_empty() {
        return text;
    }
    format!("{text}\nwaits for an approval of {}", release.awaiting.join(", "))
}
