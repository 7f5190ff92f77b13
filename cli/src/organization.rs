//! Organizations, their members and invitations.

use clap::{Args, Subcommand};
use contract::api::{
    ChangeOrganization, DeletionReceipt, Invitation, MemberView, Organization, OrganizationDeleted,
    OrganizationSettings, PlaneStatus, SignedReceipt,
};
use serde::Serialize;

use crate::client::{Client, Request, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, time};

/// Organizations, invitations and members
#[derive(Debug, Subcommand)]
pub enum Org {
    /// Make an organization and use it from now on
    #[command(after_help = "Example: howdah org create acme")]
    Create {
        /// Its name
        name: String,
    },
    /// List your organizations
    #[command(after_help = "Example: howdah org list
         howdah org list --deleted")]
    List {
        /// Those that you owned and that were deleted
        #[arg(long)]
        deleted: bool,
    },
    /// Show an organization
    #[command(after_help = "Example: howdah org show acme")]
    Show {
        /// Its name; the one in use when it is missing
        name: Option<String>,
    },
    /// Change what owners set for the organization in use
    #[command(after_help = "Example: howdah org set --release-approvals 2")]
    Set {
        /// How many people must approve each domain of a release: 1 or 2
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2))]
        release_approvals: u32,
    },
    /// Show what the organization in use demands of API tokens, or change it
    #[command(after_help = "Example: howdah org token-policy
         howdah org token-policy --longest-days 90 --idle-days 30 --approval on
         howdah org token-policy --longest-days none")]
    TokenPolicy(crate::token_policy::Change),
    /// Use an organization from now on
    #[command(after_help = "Example: howdah org use acme")]
    Use {
        /// Its name
        name: String,
    },
    /// Delete an organization with everything in it
    ///
    /// Access ends at once. The data is kept for a while (14 days, unless the service is set up otherwise) in which an owner can
    /// have it back with `howdah org restore`; the name is free only afterwards.
    #[command(after_help = "Example: howdah org delete acme --yes")]
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Keep nothing: erase everything at once
        #[arg(long)]
        now: bool,
    },
    /// Have a deleted organization back, as long as it is kept
    #[command(after_help = "Example: howdah org restore acme")]
    Restore {
        /// Its name
        name: String,
    },
    /// Show what was erased of an organization that you owned, as the service has signed it
    #[command(after_help = "Example: howdah org receipt acme --json")]
    Receipt {
        /// Its name or id
        name: String,
    },
    /// Invite somebody; prints the token to send to them
    #[command(after_help = "Example: howdah org invite red@example.org --role member")]
    Invite {
        /// The address
        email: String,
        /// member, auditor, billing, admin or owner
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Accept an invitation
    #[command(after_help = "Example: howdah org accept hwd_inv_…")]
    Accept {
        /// The token of the invitation
        token: String,
    },
    Audit(crate::audit::Audit),
    /// Members
    #[command(subcommand)]
    Member(Member),
}

/// Members of the organization in use
#[derive(Debug, Subcommand)]
pub enum Member {
    /// List the members
    #[command(after_help = "Example: howdah org member list")]
    List,
    /// Remove a member
    #[command(after_help = "Example: howdah org member remove red@example.org")]
    Remove(Who),
    /// Change a member's role
    #[command(after_help = "Example: howdah org member role red@example.org admin")]
    Role {
        #[command(flatten)]
        who: Who,
        /// member, auditor, billing, admin or owner
        role: String,
    },
}

/// A member.
#[derive(Debug, Args)]
pub struct Who {
    /// Address or id
    member: String,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Org, client: &Client, output: Output) -> Outcome {
    match command {
        Org::Create { name } => {
            let request = Request::post("/v1/organizations").body(&serde_json::json!({ "name": name }))?;
            let made: Organization = client.control(request).await?;
            use_organization(client, made.name.as_str())?;
            output.result(&made, || format!("made {}; it is in use now", made.name))
        }
        Org::List { deleted: true } => list_deleted(client, output).await,
        Org::List { deleted: false } => list(client, output).await,
        Org::Show { name } => {
            let name = match name {
                Some(name) => name,
                None => client.organization().await?,
            };
            let organization: OrganizationSettings = client.control(Request::get(path(&name, ""))).await?;
            let plane: PlaneStatus = client.control(Request::get(path(&name, "/plane"))).await?;
            let shown = Shown { organization, plane };
            output.result(&shown, || describe(&shown))
        }
        Org::Set { release_approvals } => set(&ChangeOrganization { release_approvals }, client, output).await,
        Org::TokenPolicy(change) => crate::token_policy::run(change, client, output).await,
        Org::Use { name } => {
            let found: Organization = client.control(Request::get(path(&name, ""))).await?;
            use_organization(client, found.name.as_str())?;
            output.result(&found, || format!("{} is in use now", found.name))
        }
        Org::Delete { name, yes, now } => delete(&name, yes, now, client, output).await,
        Org::Restore { name } => {
            let restored: Organization = client.control(Request::post(path(&name, "/restore"))).await?;
            use_organization(client, restored.name.as_str())?;
            output.result(&restored, || format!("{} is back; it is in use now", restored.name))
        }
        Org::Receipt { name } => {
            let address = format!("/v1/deleted-organizations/{}", segment(&name));
            let found: SignedReceipt = client.control(Request::get(address)).await?;
            output.result(&found, || describe_receipt(&found))
        }
        Org::Invite { email, role } => {
            let organization = client.organization().await?;
            let body = serde_json::json!({ "email": email, "role": role });
            let request = Request::post(path(&organization, "/invitations")).body(&body)?;
            let made: Invitation = client.control(request).await?;
            output.hint(&format!(
                "a mail to {} says how to accept; or send this token, which is accepted with `howdah org accept TOKEN`",
                made.email
            ));
            output.result(&made, || made.token.clone().unwrap_or_default())
        }
        Org::Accept { token } => {
            let request = Request::post("/v1/invitations/accept").body(&serde_json::json!({ "token": token }))?;
            let joined: Organization = client.control(request).await?;
            use_organization(client, joined.name.as_str())?;
            output.result(&joined, || {
                format!("you are {} of {} now; it is in use", joined.role.as_str(), joined.name)
            })
        }
        Org::Audit(arguments) => crate::audit::run(arguments, client, output).await,
        Org::Member(command) => members(command, client, output).await,
    }
}

async fn list(client: &Client, output: Output) -> Outcome {
    let items: Vec<Organization> = client.control_list(Request::get("/v1/organizations")).await?;
    let in_use = client.credentials.read().organization;
    output.list(&items, &["name", "role", "since", ""], |o| {
        let mark = if in_use.as_deref() == Some(o.name.as_str()) {
            "in use"
        } else {
            ""
        };
        vec![
            o.name.to_string(),
            o.role.as_str().to_owned(),
            time(&o.created_at),
            mark.to_owned(),
        ]
    })
}

async fn set(wish: &ChangeOrganization, client: &Client, output: Output) -> Outcome {
    let name = client.organization().await?;
    let request = Request::patch(path(&name, "")).body(wish)?;
    let changed: OrganizationSettings = client.control(request).await?;
    output.result(&changed, || {
        format!(
            "releases of {name}: {} from now on",
            approvals(changed.release_approvals)
        )
    })
}

fn approvals(number: u32) -> String {
    let people = if number == 1 { "one person" } else { "two people" };
    format!("each domain needs the approval of {people}")
}

/// What `org show` prints.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    organization: OrganizationSettings,
    plane: PlaneStatus,
}

/// So many of what was done to a plane without being asked for; the answer in JSON has all that are kept.
const EVENTS_SHOWN: usize = 5;

fn describe(shown: &Shown) -> String {
    let of = &shown.organization.organization;
    let mut lines = vec![
        format!(
            "{} (you are {}) since {}",
            of.name,
            of.role.as_str(),
            time(&of.created_at)
        ),
        format!("releases    {}", approvals(shown.organization.release_approvals)),
        format!("data plane  {}", shown.plane.state),
    ];
    for condition in &shown.plane.conditions {
        lines.push(format!(
            "in the way  {}: {} (since {})",
            condition.kind,
            condition.reason,
            time(&condition.since)
        ));
    }
    for event in shown.plane.events.iter().take(EVENTS_SHOWN) {
        lines.push(format!("{}  {}: {}", time(&event.at), event.kind, event.detail));
    }
    lines.join("\n")
}

async fn delete(name: &str, yes: bool, now: bool, client: &Client, output: Output) -> Outcome {
    if !yes {
        let what = if now {
            "this removes all repos, pipelines and data of the organization for good"
        } else {
            "this ends access to all repos, pipelines and data of the organization, and removes them after a while"
        };
        let flags = if now { "--now --yes" } else { "--yes" };
        return Err(Failure::usage(
            format!("`{name}` was not deleted"),
            what,
            format!("repeat with --yes: `howdah org delete {name} {flags}`"),
        ));
    }
    let request = Request::delete(path(name, ""));
    let request = if now { request.query("now", true) } else { request };
    let deleted: OrganizationDeleted = client.control(request).await?;
    client.credentials.change(|login| {
        login.organization.take_if(|n| n == name);
        login.forget_seen();
    })?;
    let shown = serde_json::json!({
        "deleted": name, "id": deleted.id, "deleted_at": deleted.deleted_at, "kept_until": deleted.kept_until,
    });
    output.result(&shown, || {
        if deleted.kept_until > deleted.deleted_at {
            let until = time(&deleted.kept_until);
            format!("deleted {name}; until {until} an owner can have it back with `howdah org restore {name}`")
        } else {
            format!("deleted {name}; see `howdah org receipt {}`", deleted.id)
        }
    })
}

async fn list_deleted(client: &Client, output: Output) -> Outcome {
    let items: Vec<DeletionReceipt> = client.control_list(Request::get("/v1/deleted-organizations")).await?;
    output.list(&items, &["name", "state", "deleted", "kept until", "id"], |r| {
        vec![
            r.name.to_string(),
            r.state.clone(),
            time(&r.deleted_at),
            time(&r.kept_until),
            r.organization.to_string(),
        ]
    })
}

fn describe_receipt(found: &SignedReceipt) -> String {
    let receipt = &found.receipt;
    let mut lines = vec![
        format!("{} ({}): {}", receipt.name, receipt.organization, receipt.state),
        format!("deleted     {}", time(&receipt.deleted_at)),
        format!("kept until  {}", time(&receipt.kept_until)),
    ];
    for erased in &receipt.stores {
        lines.push(format!(
            "erased      {}: {} ({})",
            erased.store,
            erased.detail,
            time(&erased.erased_at)
        ));
    }
    if !found.signed.is_empty() {
        lines.push(format!(
            "audit trail {} rows, the last with the hash {}",
            receipt.audit_seq, receipt.audit_hash
        ));
        lines.push(format!("digest      {}", found.digest));
        lines.push(format!("signed      {}", found.signed));
    }
    lines.join("\n")
}

async fn members(command: Member, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let list = Request::get(path(&organization, "/members"));
    let items: Vec<MemberView> = client.control_list(list).await?;
    let find = |who: &Who| {
        let found = items
            .iter()
            .find(|m| m.name == who.member || m.id.to_string() == who.member);
        found.cloned().ok_or_else(|| {
            Failure::new(
                "not found",
                format!("`{}` is not a member of {organization}", who.member),
                "see `howdah org member list`",
            )
            .with_exit(crate::failure::Exit::NotFound)
        })
    };
    match command {
        Member::List => output.list(&items, &["name", "role", "since", "id"], |m| {
            vec![
                m.name.clone(),
                m.role.as_str().to_owned(),
                time(&m.joined_at),
                m.id.to_string(),
            ]
        }),
        Member::Remove(who) => {
            let member = find(&who)?;
            let address = path(&organization, &format!("/members/{}", segment(&member.id.to_string())));
            client.control_done(Request::delete(address)).await?;
            output.result(&serde_json::json!({ "removed": member.name }), || {
                format!("removed {}", member.name)
            })
        }
        Member::Role { who, role } => {
            let member = find(&who)?;
            let address = path(&organization, &format!("/members/{}", segment(&member.id.to_string())));
            let request = Request::patch(address).body(&serde_json::json!({ "role": role }))?;
            client.control_done(request).await?;
            let shown = serde_json::json!({ "name": member.name, "role": role });
            output.result(&shown, || format!("{} is {role} now", member.name))
        }
    }
}

fn use_organization(client: &Client, name: &str) -> Outcome {
    client.credentials.change(|login| {
        login.organization = Some(name.to_owned());
        // It may be another one of the same name.
        login.access.clear();
    })
}

/// A path below an organization.
pub fn path(organization: &str, rest: &str) -> String {
    format!("/v1/organizations/{}{rest}", segment(organization))
}
