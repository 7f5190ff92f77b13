//! R8: a pipeline runs on the grants of `derive` by which its sponsor, who applied it, could use its inputs. What he held
//! is kept, so that a grant that was revoked can be told from domains that others brought into his inputs (they answered
//! for those, R4), and from a sponsor who left the organization, with whom his own grants went.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, GrantId};
use contract::policy::{Grantee, Permission, Principal, Resource};

use super::policy::Policy;
use crate::origins::{OriginSet, required};

/// By what a sponsor holds, or held when he was last looked at, `derive` on a domain. Neither: he lost it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// By a grant to himself.
    pub own: bool,
    /// By these grants to teams that he is in. Ascending.
    pub by_teams: Vec<GrantId>,
}

impl Ground {
    fn is_lost(&self) -> bool {
        !self.own && self.by_teams.is_empty()
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

/// The grants of a policy by which principals may derive.
pub struct Grants<'a> {
    policy: &'a Policy,
    by_principal: HashMap<Principal, Vec<(Option<GrantId>, &'a Resource)>>,
    teams: std::collections::HashSet<GrantId>,
}

impl<'a> Grants<'a> {
    /// Those of a policy.
    pub fn of(policy: &'a Policy) -> Self {
        let snapshot = policy.snapshot();
        let mut by_principal: HashMap<Principal, Vec<_>> = HashMap::new();
        let mut teams = std::collections::HashSet::new();
        let deriving = |role: contract::policy::Role| role.permissions().contains(&Permission::Derive);
        for grant in snapshot.grants.iter().filter(|g| deriving(g.role)) {
            let (team, principals) = match grant.grantee {
                Grantee::Account(id) => (None, vec![Principal::Account(id)]),
                Grantee::ServiceAccount(id) => (None, vec![Principal::ServiceAccount(id)]),
                Grantee::Team(id) => {
                    teams.insert(grant.id);
                    let team = snapshot.teams.iter().find(|team| team.id == id);
                    (Some(grant.id), team.map(|t| t.members.clone()).unwrap_or_default())
                }
            };
            for principal in principals {
                by_principal.entry(principal).or_default().push((team, &grant.resource));
            }
        }
        Self {
            policy,
            by_principal,
            teams,
        }
    }

    /// By what he holds it now.
    fn ground(&self, principal: Principal, domain: DomainId) -> Ground {
        let mut ground = Ground::default();
        let Some(known) = self.policy.domain(domain) else {
            return ground;
        };
        for (team, resource) in self.by_principal.get(&principal).into_iter().flatten() {
            let covers = match resource {
                Resource::Organization => true,
                Resource::Project(name) => *name == known.project,
                Resource::Domain(id) => *id == domain,
            };
            match team {
                _ if !covers => {}
                None => ground.own = true,
                Some(grant) => ground.by_teams.push(*grant),
            }
        }
        ground.by_teams.sort();
        ground
    }

    /// How a sponsor stands towards inputs whose heads have these origins. `known` is what was kept of him; `None`: nothing
    /// ever was.
    ///
    /// A member needs to hold `derive` on all that he ever held, and on what only a release that has ended excused. Of who
    /// left, what he held by a grant of his own counts on, since nobody revoked it; a grant to a team as long as it is there.
    pub fn standing(
        &self,
        sponsor: Principal,
        known: Option<&Grounds>,
        heads: &[&OriginSet],
        now: DateTime<Utc>,
    ) -> Standing {
        let active = self.policy.active_releases(now);
        let member = self.policy.member(sponsor).is_some();
        let mut standing = Standing {
            lost: Vec::new(),
            grounds: known.cloned().unwrap_or_default(),
        };
        for set in heads {
            for domain in required(set, &active) {
                let kept = known.and_then(|known| known.get(&domain));
                let released = || {
                    set.get(domain)
                        .is_some_and(|cnf| cnf.clauses().all(|c| !c.is_empty()) && cnf.clauses().next().is_some())
                };
                let ground = match (member, kept) {
                    (true, _) => Some(self.ground(sponsor, domain)),
                    (false, Some(kept)) => Some(Ground {
                        own: kept.own,
                        by_teams: kept
                            .by_teams
                            .iter()
                            .copied()
                            .filter(|id| self.teams.contains(id))
                            .collect(),
                    }),
                    (false, None) => None,
                };
                let expected = kept.is_some() || (member && known.is_none()) || released();
                match ground {
                    Some(ground) if !ground.is_lost() => drop(standing.grounds.insert(domain, ground)),
                    _ if !expected => {}
                    _ => {
                        standing.grounds.insert(domain, Ground::default());
                        standing.lost.push(domain);
                    }
                }
            }
        }
        standing.lost.sort();
        standing.lost.dedup();
        standing
    }
}
