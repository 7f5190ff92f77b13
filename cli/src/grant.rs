//! Grants: who may do what with a repo, a project or everything. A change returns once the data plane enforces it.

use clap::Subcommand;
use contract::api::{GrantView, NewGrant, PolicyChanged};

use crate::client::{Client, Request, segment};
use crate::failure::{Exit, Failure, Outcome};
use crate::organization::path;
use crate::output::{Output, time};
use crate::references::resource;

/// Who may do what with which data
#[derive(Debug, Subcommand)]
pub enum Grant {
    /// Give a role
    #[command(after_help = "Example: howdah grant add user:red@example.org viewer score-red")]
    Add {
        /// `user:ADDRESS`, `team:NAME` or `sa:NAME`
        subject: String,
        /// discoverer, viewer, deriver, contributor or owner
        role: String,
        /// `repo`, `project/repo`, `project:NAME` or `org`
        resource: String,
    },
    /// Take a role away
    #[command(after_help = "Example: howdah grant remove user:red@example.org viewer score-red")]
    Remove {
        /// `user:ADDRESS`, `team:NAME` or `sa:NAME`
        subject: String,
        /// discoverer, viewer, deriver, contributor or owner
        role: String,
        /// `repo`, `project/repo`, `project:NAME` or `org`
        resource: String,
    },
    /// List grants
    #[command(after_help = "Example: howdah grant list images")]
    List {
        /// `repo`, `project/repo`, `project:NAME` or `org`; all when it is missing
        resource: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Grant, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let all = path(&organization, "/grants");
    let full = |text: &str| resource(text, &client.settings.project);
    match command {
        Grant::Add {
            subject,
            role,
            resource,
        } => {
            let new = NewGrant {
                subject,
                role,
                resource: full(&resource)?,
            };
            let made: GrantView = client
                .control(Request::post(all).query("wait", true).body(&new)?)
                .await?;
            enforced(client, made.epoch).await?;
            output.result(&made, || {
                format!("{} is {} of {} now", made.subject, made.role, made.resource)
            })
        }
        Grant::Remove {
            subject,
            role,
            resource,
        } => remove(client, output, &all, (&subject, &role), full(&resource)?).await,
        Grant::List { resource } => {
            let resource = resource.map(|r| full(&r)).transpose()?;
            let items: Vec<GrantView> = client
                .control_list(Request::get(all).query_if("resource", resource))
                .await?;
            output.list(&items, &["subject", "role", "resource", "since"], |g| {
                vec![
                    g.subject.clone(),
                    g.role.clone(),
                    g.resource.clone(),
                    time(&g.created_at),
                ]
            })
        }
    }
}

/// Takes away the one grant that says just this.
async fn remove(
    client: &Client,
    output: Output,
    all: &str,
    (subject, role): (&str, &str),
    resource: String,
) -> Outcome {
    let request = Request::get(all).query("resource", &resource);
    let items: Vec<GrantView> = client.control_list(request).await?;
    let found = items
        .iter()
        .find(|g| g.subject == subject && g.role == role)
        .ok_or_else(|| {
            Failure::new(
                "not found",
                format!("{subject} is not {role} of {resource}"),
                format!("see `howdah grant list {resource}`"),
            )
            .with_exit(Exit::NotFound)
        })?;
    let request = Request::delete(format!("{all}/{}", segment(&found.id))).query("wait", true);
    let changed: PolicyChanged = client.control(request).await?;
    client.saw_epoch(changed.epoch).await?;
    output.result(&changed, || {
        let sure = match changed.acknowledged {
            Some(true) => "; the data plane enforces it",
            Some(false) => {
                "; the data plane has not acknowledged it yet and stops reading at the latest after a minute"
            }
            None => "",
        };
        format!("{subject} is not {role} of {resource} any more{sure}")
    })
}

/// Waits until the data plane knows that epoch: a request that names it is answered only then.
///
/// # Errors
/// When the epoch cannot be remembered. A plane that cannot be asked reads the policy before it serves.
pub async fn enforced(client: &Client, epoch: u64) -> Outcome {
    client.saw_epoch(epoch).await?;
    let _ = client.plane_done(Request::get("/v1/projects").query("limit", 1)).await;
    Ok(())
}
