//! A policy snapshot with the indexes that decisions need. Made once for each epoch.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, GrantId, OrganizationId, ReleaseId, TokenId};
use contract::names::{ProjectName, RepoName};
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationState, Permission, PolicySnapshot, Principal, Release, Resource, Role,
};

use crate::origins::ActiveReleases;

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PermissionSet(u8);

impl PermissionSet {
    /// What a role allows.
    pub fn of(role: Role) -> Self {
        Self(role.permissions().iter().fold(0, |bits, p| bits | Self::bit(*p)))
    }

    const fn bit(permission: Permission) -> u8 {
        1 << permission as u8
    }

    /// Whether the permission is in it.
    pub const fn has(self, permission: Permission) -> bool {
        self.0 & Self::bit(permission) != 0
    }

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

#[derive(Debug, Default)]
struct Rights {
    organization: PermissionSet,
    projects: HashMap<ProjectName, PermissionSet>,
    domains: HashMap<DomainId, PermissionSet>,
}

/// The policy of one epoch.
#[derive(Debug)]
pub struct Policy {
    snapshot: PolicySnapshot,
    rights: HashMap<Principal, Rights>,
    members: HashMap<Principal, usize>,
    domains: HashMap<DomainId, usize>,
    releases: HashMap<ReleaseId, usize>,
    revoked: HashSet<TokenId>,
}

impl Policy {
    /// Indexes a snapshot. Grants to principals that are no members (any more) count for nothing.
    pub fn new(snapshot: PolicySnapshot) -> Self {
        let members: HashMap<_, _> = snapshot
            .members
            .iter()
            .enumerate()
            .map(|(i, m)| (m.principal, i))
            .collect();
        let mut rights: HashMap<Principal, Rights> = HashMap::new();
        for grant in &snapshot.grants {
            for principal in grantees(&snapshot, grant).filter(|p| members.contains_key(p)) {
                let rights = rights.entry(principal).or_default();
                let slot = match &grant.resource {
                    Resource::Organization => &mut rights.organization,
                    Resource::Project(name) => rights.projects.entry(name.clone()).or_default(),
                    Resource::Domain(id) => rights.domains.entry(*id).or_default(),
                };
                slot.add(PermissionSet::of(grant.role));
            }
        }
        Self {
            domains: snapshot.domains.iter().enumerate().map(|(i, d)| (d.id, i)).collect(),
            releases: snapshot.releases.iter().enumerate().map(|(i, r)| (r.id, i)).collect(),
            revoked: snapshot.revoked_tokens.iter().copied().collect(),
            members,
            rights,
            snapshot,
        }
    }

    /// The policy that there would be with these domains (id, project, name), owned by `owner`.
    pub fn with_domains(&self, domains: Vec<(DomainId, ProjectName, RepoName)>, owner: Principal) -> Self {
        let mut snapshot = self.snapshot.clone();
        for (id, project, name) in domains {
            snapshot.domains.push(Domain {
                id,
                project,
                name,
                deleted: false,
            });
            snapshot.grants.push(Grant {
                id: GrantId::from_uuid(id.uuid()),
                grantee: match owner {
                    Principal::Account(id) => Grantee::Account(id),
                    Principal::ServiceAccount(id) => Grantee::ServiceAccount(id),
                },
                role: Role::Owner,
                resource: Resource::Domain(id),
            });
        }
        Self::new(snapshot)
    }

    /// The snapshot that it was made of.
    pub fn snapshot(&self) -> &PolicySnapshot {
        &self.snapshot
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.snapshot.epoch
    }

    /// Whose policy it is.
    pub fn organization(&self) -> OrganizationId {
        self.snapshot.organization
    }

    /// Whether the organization may be used.
    pub fn is_active(&self) -> bool {
        self.snapshot.state == OrganizationState::Active
    }

    /// Whether that session or API token was revoked.
    pub fn is_revoked(&self, token: TokenId) -> bool {
        self.revoked.contains(&token)
    }

    /// The member.
    pub fn member(&self, principal: Principal) -> Option<&Member> {
        self.members.get(&principal).map(|i| &self.snapshot.members[*i])
    }

    /// The domain, if the control plane has told of it.
    pub fn domain(&self, id: DomainId) -> Option<&Domain> {
        self.domains.get(&id).map(|i| &self.snapshot.domains[*i])
    }

    /// `project/repo` of a domain.
    pub fn name_of(&self, id: DomainId) -> Option<String> {
        self.domain(id).map(|d| format!("{}/{}", d.project, d.name))
    }

    /// The release.
    pub fn release(&self, id: ReleaseId) -> Option<&Release> {
        self.releases.get(&id).map(|i| &self.snapshot.releases[*i])
    }

    /// All releases, active or not.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.snapshot.releases.iter()
    }

    /// The releases that count now.
    pub fn active_releases(&self, now: DateTime<Utc>) -> ActiveReleases {
        ActiveReleases::at(self.releases(), now)
    }

    /// What the principal was granted on the domain, by whatever grant. Nothing on a domain that is not known (R2); the
    /// role in the organization gives nothing (R14).
    pub fn rights(&self, principal: Principal, domain: DomainId) -> PermissionSet {
        let mut all = PermissionSet::default();
        let (Some(rights), Some(known)) = (self.rights.get(&principal), self.domain(domain)) else {
            return all;
        };
        all.add(rights.organization);
        all.add(rights.projects.get(&known.project).copied().unwrap_or_default());
        all.add(rights.domains.get(&domain).copied().unwrap_or_default());
        all
    }

    /// What the principal was granted on a project as a whole, or on the organization.
    pub fn rights_in_project(&self, principal: Principal, project: &ProjectName) -> PermissionSet {
        let mut all = PermissionSet::default();
        if let Some(rights) = self.rights.get(&principal) {
            all.add(rights.organization);
            all.add(rights.projects.get(project).copied().unwrap_or_default());
        }
        all
    }

    /// What the principal was granted on the whole organization.
    pub fn rights_in_organization(&self, principal: Principal) -> PermissionSet {
        self.rights
            .get(&principal)
            .map_or_else(PermissionSet::default, |rights| rights.organization)
    }

    /// Names of those who can grant on the domain: its owners, teams as `team NAME`; where nobody owns it, those who
    /// manage the organization. Sorted.
    pub fn owners(&self, domain: DomainId) -> Vec<String> {
        let Some(known) = self.domain(domain) else {
            return Vec::new();
        };
        let covers = |resource: &Resource| match resource {
            Resource::Organization => true,
            Resource::Project(name) => *name == known.project,
            Resource::Domain(id) => *id == domain,
        };
        let owning = self
            .snapshot
            .grants
            .iter()
            .filter(|g| g.role == Role::Owner && covers(&g.resource));
        let mut names: Vec<String> = owning.filter_map(|g| self.grantee_name(g)).collect();
        if names.is_empty() {
            let managers = self.snapshot.members.iter().filter(|m| m.role.manages());
            names = managers.map(|m| m.name.clone()).collect();
        }
        names.sort();
        names.dedup();
        names
    }

    fn grantee_name(&self, grant: &Grant) -> Option<String> {
        let principal = match &grant.grantee {
            Grantee::Account(id) => Principal::Account(*id),
            Grantee::ServiceAccount(id) => Principal::ServiceAccount(*id),
            Grantee::Team(id) => {
                let team = self.snapshot.teams.iter().find(|t| t.id == *id)?;
                return Some(format!("team {}", team.name));
            }
        };
        self.member(principal).map(|m| m.name.clone())
    }
}

fn grantees<'a>(snapshot: &'a PolicySnapshot, grant: &Grant) -> Box<dyn Iterator<Item = Principal> + 'a> {
    match grant.grantee {
        Grantee::Account(id) => Box::new(std::iter::once(Principal::Account(id))),
        Grantee::ServiceAccount(id) => Box::new(std::iter::once(Principal::ServiceAccount(id))),
        Grantee::Team(id) => {
            let teams = snapshot.teams.iter().filter(move |t| t.id == id);
            Box::new(teams.flat_map(|t| t.members.iter().copied()))
        }
    }
}
