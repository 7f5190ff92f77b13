//! R8: a pipeline runs on the grants of `derive` by which its sponsor, who applied it, could use its inputs. What he held
//! is kept, so that a grant that was revoked can be told from domains that others brought into his inputs (they answered
//! for those, R4), and from a sponsor who left the organization, with whom his own grants went.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, TeamId};
use contract::policy::{Domain, Grant, Grantee, Permission, PolicySnapshot, Principal, Resource, Role};

use super::policy::Policy;
use crate::origins::{ActiveReleases, OriginSet, required};

/// By what a sponsor holds, or held when he was last looked at, `derive` on a domain. Neither: he lost it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// By a grant to himself.
    pub own: bool,
    /// By grants to these teams, in which he is, or was when he left the organization. Ascending.
    pub teams: Vec<TeamId>,
}

impl Ground {
    fn is_lost(&self) -> bool {
        !self.own && self.teams.is_empty()
    }
}

/// What a sponsor was found to hold, by domain.
pub type Grounds = BTreeMap<DomainId, Ground>;

/// How a sponsor stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The domains that the inputs require and that he may not derive from any more. Ascending; empty: the pipeline runs.
    pub lost: Vec<DomainId>,
    /// What is to be kept from now on: what he holds, and what he was found to have lost.
    pub grounds: Grounds,
}

/// The grants of a policy by which principals may derive, and its releases, at one moment.
pub struct Grants<'a> {
    policy: &'a Policy,
    active: ActiveReleases,
    by_principal: HashMap<Principal, Vec<(Option<TeamId>, &'a Resource)>>,
    by_team: HashMap<TeamId, Vec<&'a Resource>>,
}

fn derives(role: Role) -> bool {
    role.permissions().contains(&Permission::Derive)
}

fn covers(resource: &Resource, domain: &Domain) -> bool {
    match resource {
        Resource::Organization => true,
        Resource::Project(name) => *name == domain.project,
        Resource::Domain(id) => *id == domain.id,
    }
}

/// Whether nobody who held `derive` under one policy can have lost it under a later one, as long as no release ends: where
/// only repos came, or what has nothing to do with that right changed.
pub fn revokes_nothing(before: &PolicySnapshot, after: &PolicySnapshot) -> bool {
    let grants = |s: &PolicySnapshot| -> Vec<Grant> { s.grants.iter().filter(|g| derives(g.role)).cloned().collect() };
    let members = |s: &PolicySnapshot| -> HashSet<Principal> { s.members.iter().map(|m| m.principal).collect() };
    let projects: HashMap<DomainId, &Domain> = after.domains.iter().map(|d| (d.id, d)).collect();
    let stays = |d: &Domain| projects.get(&d.id).is_some_and(|now| now.project == d.project);
    grants(before) == grants(after)
        && before.teams == after.teams
        && before.releases == after.releases
        && members(before) == members(after)
        && before.domains.iter().all(stays)
}

impl<'a> Grants<'a> {
    /// Those of a policy, at that time.
    pub fn of(policy: &'a Policy, now: DateTime<Utc>) -> Self {
        let snapshot = policy.snapshot();
        let mut by_principal: HashMap<Principal, Vec<_>> = HashMap::new();
        let mut by_team: HashMap<TeamId, Vec<_>> = HashMap::new();
        for grant in snapshot.grants.iter().filter(|g| derives(g.role)) {
            let (team, principals) = match grant.grantee {
                Grantee::Account(id) => (None, vec![Principal::Account(id)]),
                Grantee::ServiceAccount(id) => (None, vec![Principal::ServiceAccount(id)]),
                Grantee::Team(id) => {
                    by_team.entry(id).or_default().push(&grant.resource);
                    let team = snapshot.teams.iter().find(|team| team.id == id);
                    (Some(id), team.map(|t| t.members.clone()).unwrap_or_default())
                }
            };
            for principal in principals {
                by_principal.entry(principal).or_default().push((team, &grant.resource));
            }
        }
        Self {
            policy,
            active: policy.active_releases(now),
            by_principal,
            by_team,
        }
    }

    /// The releases that count.
    pub fn active(&self) -> &ActiveReleases {
        &self.active
    }

    /// By what he holds it now.
    fn ground(&self, principal: Principal, domain: DomainId) -> Ground {
        let mut ground = Ground::default();
        let Some(known) = self.policy.domain(domain) else {
            return ground;
        };
        for (team, resource) in self.by_principal.get(&principal).into_iter().flatten() {
            match team {
                _ if !covers(resource, known) => {}
                None => ground.own = true,
                Some(team) => ground.teams.push(*team),
            }
        }
        ground.teams.sort();
        ground.teams.dedup();
        ground
    }

    /// What is left of what somebody who left the organization held: his own counts on, since nobody revoked it, and that of a
    /// team as long as the team may derive.
    fn left(&self, kept: &Ground, domain: DomainId) -> Ground {
        let holds = |team: &&TeamId| {
            let resources = self.by_team.get(team).into_iter().flatten();
            let known = self.policy.domain(domain);
            known.is_some_and(|known| resources.into_iter().any(|resource| covers(resource, known)))
        };
        Ground {
            own: kept.own,
            teams: kept.teams.iter().filter(holds).copied().collect(),
        }
    }

    /// How a sponsor stands towards inputs whose heads have these origins. `known` is what was kept of him; `None`: nothing
    /// ever was.
    ///
    /// A member needs to hold `derive` on all that he ever held, and on what only a release that has ended excused. Of who
    /// left it stays kept by what he held, so that it counts again when his team gets back what it lost.
    pub fn standing(&self, sponsor: Principal, known: Option<&Grounds>, heads: &[&OriginSet]) -> Standing {
        let member = self.policy.member(sponsor).is_some();
        let mut standing = Standing {
            lost: Vec::new(),
            grounds: known.cloned().unwrap_or_default(),
        };
        for set in heads {
            for domain in required(set, &self.active) {
                let kept = known.and_then(|known| known.get(&domain));
                let released = || {
                    set.get(domain)
                        .is_some_and(|cnf| cnf.clauses().all(|c| !c.is_empty()) && cnf.clauses().next().is_some())
                };
                let ground = match (member, kept) {
                    (true, _) => self.ground(sponsor, domain),
                    (false, Some(kept)) => self.left(kept, domain),
                    (false, None) => Ground::default(),
                };
                let expected = kept.is_some() || (member && known.is_none()) || released();
                if ground.is_lost() && !expected {
                    continue;
                }
                if ground.is_lost() {
                    standing.lost.push(domain);
                }
                if member || kept.is_none() {
                    standing.grounds.insert(domain, ground);
                }
            }
        }
        standing.lost.sort();
        standing.lost.dedup();
        standing
    }
}
