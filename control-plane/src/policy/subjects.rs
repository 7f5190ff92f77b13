//! The text forms of who and what a grant is about: `user:E`, `team:T`, `sa:S`; `org`, `project:NAME`, `[project/]repo`.

use std::collections::BTreeSet;

use contract::ids::{DomainId, ServiceAccountId};
use contract::names::{ProjectName, RepoName};
use contract::policy::{Permission, Principal};
use contract::problem::ProblemKind;
use contract::reference::RepoRef;

use super::queries;
use crate::authz::{Action, Allowed};
use crate::database::Tx;
use crate::refusal::Refusal;

/// What a grant is given on, found in the organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every domain.
    Organization,
    /// Every domain of a project.
    Project(ProjectName),
    /// One domain.
    Domain {
        /// Its id.
        id: DomainId,
        /// Its project.
        project: ProjectName,
        /// Its name.
        name: RepoName,
    },
}

impl Target {
    /// As it is stored.
    pub fn stored(&self) -> String {
        match self {
            Self::Organization => "org".to_owned(),
            Self::Project(name) => format!("project:{name}"),
            Self::Domain { id, .. } => id.to_string(),
        }
    }

    /// As people write it.
    pub fn shown(&self) -> String {
        match self {
            Self::Organization => "org".to_owned(),
            Self::Project(name) => format!("project:{name}"),
            Self::Domain { project, name, .. } => format!("{project}/{name}"),
        }
    }

    /// As scopes name it.
    pub fn scope(&self) -> String {
        match self {
            Self::Organization => "*".to_owned(),
            other => other.shown(),
        }
    }

    /// Stored forms of everything whose grants reach it.
    pub fn reaching(&self) -> Vec<String> {
        let mut all = vec!["org".to_owned()];
        match self {
            Self::Organization => {}
            Self::Project(name) => all.push(format!("project:{name}")),
            Self::Domain { id, project, .. } => {
                all.push(format!("project:{project}"));
                all.push(id.to_string());
            }
        }
        all
    }
}

/// Finds the resource of that text; a repo that does not exist is 404, as one that may not be known of.
pub async fn find_target<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, text: &str) -> Result<Target, Refusal> {
    if text == "org" {
        return Ok(Target::Organization);
    }
    if let Some(project) = text.strip_prefix("project:") {
        return project
            .parse()
            .map(Target::Project)
            .map_err(|e| Refusal::invalid("/resource", format!("{e}")));
    }
    let repo: RepoRef = text.parse().map_err(|_| {
        Refusal::invalid(
            "/resource",
            format!("`{text}` is not a resource: write `org`, `project:NAME` or `[project/]repo`"),
        )
    })?;
    let project = repo.project.unwrap_or_else(ProjectName::default_project);
    let id = queries::find_domain(tx, allowed, &project, &repo.repo)
        .await?
        .ok_or_else(Refusal::not_found)?;
    Ok(Target::Domain {
        id,
        project,
        name: repo.repo,
    })
}

/// What the caller may do with the target by grants, those of his teams included.
pub async fn own_permissions<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    target: &Target,
) -> Result<BTreeSet<Permission>, Refusal> {
    let roles = queries::list_own_roles(tx, allowed, &target.reaching()).await?;
    Ok(roles
        .into_iter()
        .flat_map(|role| role.permissions().iter().copied())
        .collect())
}

/// Checks that the caller may do `permission` with the target, by grants or (when `managers`) by being an admin of the
/// organization.
///
/// # Errors
/// 404 to who may not discover it, 403 to who may.
pub async fn require<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    target: &Target,
    permission: Permission,
    managers: bool,
) -> Result<(), Refusal> {
    let own = own_permissions(tx, allowed, target).await?;
    let manages = allowed.role().manages();
    let open = !matches!(target, Target::Domain { .. });
    if !(open || manages || own.contains(&Permission::Discover)) {
        return Err(Refusal::not_found());
    }
    if !allowed.actor().covers(permission.as_str(), &target.scope()) {
        return Err(Refusal::not_allowed(
            &format!(
                "the token's scopes do not allow `{}` on `{}`",
                permission.as_str(),
                target.shown()
            ),
            format!(
                "use a token with the scope `{}:{}`",
                permission.as_str(),
                target.scope()
            ),
        ));
    }
    if own.contains(&permission) || managers && manages {
        return Ok(());
    }
    Err(Refusal::not_allowed(
        &format!("you do not hold `{}` on `{}`", permission.as_str(), target.shown()),
        format!("ask an owner of `{}`", target.shown()),
    ))
}

/// Whether what is given to that grantee is given to the caller: himself, a team he is in, and, since who manages the
/// organization can make tokens for them, its service accounts.
pub async fn is_own<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, grantee: &str) -> Result<bool, Refusal> {
    let service_account = grantee.starts_with(ServiceAccountId::PREFIX) && allowed.role().manages();
    Ok(service_account
        || grantee == allowed.actor().principal().to_string()
        || queries::is_in_team(tx, allowed, grantee).await?)
}

/// Finds a member or service account by `E`, `user:E`, `sa:S` or an id.
pub async fn find_principal<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, text: &str) -> Result<Principal, Refusal> {
    queries::find_principal(tx, allowed, text).await?.ok_or_else(|| {
        Refusal::new(
            ProblemKind::Invalid,
            format!(
                "`{text}` is neither a member nor a service account of `{}`",
                allowed.organization_name()
            ),
        )
        .hint("write an e-mail address or `sa:NAME`; people must accept an invitation first (`howdah org invite`)")
    })
}

/// Finds the subject of a grant: the stored form and the form that people see.
pub async fn find_grantee<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, text: &str) -> Result<String, Refusal> {
    match text.split_once(':') {
        Some(("team", team)) => queries::find_team(tx, allowed, team)
            .await?
            .map(|id| id.to_string())
            .ok_or_else(|| {
                Refusal::invalid(
                    "/subject",
                    format!("there is no team `{team}` in `{}`", allowed.organization_name()),
                )
                .hint("make it with `howdah team create`")
            }),
        Some(("user" | "sa", _)) => Ok(find_principal(tx, allowed, text).await?.to_string()),
        _ => Err(Refusal::invalid(
            "/subject",
            format!("`{text}` is not a subject: write `user:E`, `team:T` or `sa:S`"),
        )),
    }
}
