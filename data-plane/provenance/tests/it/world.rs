//! A small random organization with a graph of commits, and the naive walk over all its provenance paths.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use contract::claims::Scope;
use contract::ids::{CommitId, DomainId, GrantId, OrganizationId, ReleaseId, TeamId, TokenId};
use contract::names::ProjectName;
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationRole, OrganizationState, Permission, PolicySnapshot, Principal,
    Release, Resource, Role, Team,
};
use provenance::access::{Change, Lineage, LineageNode, Policy, Subject};
use provenance::origins::{OriginSet, matching_releases};

use crate::seed::Seed;

/// A commit of the world.
pub struct MadeCommit {
    pub id: CommitId,
    pub domain: DomainId,
    /// Made by the pipeline of its domain, with this spec digest; `None` = by a person.
    pub digest: Option<String>,
    pub at: DateTime<Utc>,
    pub inputs: Vec<usize>,
    pub set: OriginSet,
}

pub struct World {
    pub policy: Policy,
    pub commits: Vec<MadeCommit>,
    pub principals: Vec<Principal>,
    pub now: DateTime<Utc>,
}

pub fn day(n: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000 + n)
}

/// Sizes that a test chooses.
pub struct Sizes {
    pub commits: usize,
    pub releases: usize,
}

impl World {
    pub fn random(seed: &mut Seed, sizes: &Sizes) -> Self {
        let domains = random_domains(seed);
        let snapshot = random_snapshot(seed, &domains, sizes);
        let principals: Vec<Principal> = snapshot.1;
        let policy = Policy::new(snapshot.0);
        let mut world = Self {
            policy,
            commits: Vec::new(),
            principals,
            now: day(seed.below(120) as i64),
        };
        for n in 0..sizes.commits {
            let made = world.random_commit(seed, n, &domains);
            world.commits.push(made);
        }
        world
    }

    fn random_commit(&self, seed: &mut Seed, n: usize, domains: &[Domain]) -> MadeCommit {
        let mut inputs: Vec<usize> = (0..seed.below(4)).filter(|_| n > 0).map(|_| seed.below(n)).collect();
        inputs.sort_unstable();
        inputs.dedup();
        let mut made = MadeCommit {
            id: CommitId::from_uuid(seed.uuid()),
            domain: seed.pick(domains).id,
            digest: (!seed.one_in(4)).then(|| ["d1", "d2"][seed.below(2)].to_owned()),
            at: day(n as i64 * 3),
            inputs,
            set: OriginSet::own(domains[0].id),
        };
        made.set = self.origins(&made);
        made
    }

    /// The set of a commit from those of its inputs.
    pub fn origins(&self, made: &MadeCommit) -> OriginSet {
        let edge = made.digest.as_ref().map_or_else(Default::default, |digest| {
            matching_releases(&self.policy, made.domain, digest, made.at)
        });
        let parents: Vec<_> = made
            .inputs
            .iter()
            .map(|i| (&self.commits[*i].set, edge.clone()))
            .collect();
        OriginSet::combine(made.domain, &parents)
    }

    pub fn lineage(&self, object: usize) -> Lineage {
        let mut nodes = HashMap::new();
        let mut open = vec![object];
        while let Some(i) = open.pop() {
            let made = &self.commits[i];
            let edge = made.digest.as_ref().map_or_else(Default::default, |digest| {
                matching_releases(&self.policy, made.domain, digest, made.at)
            });
            nodes.insert(
                made.id,
                LineageNode {
                    domain: made.domain,
                    pipeline: made.digest.as_ref().map(|_| made.domain),
                    inputs: made.inputs.iter().map(|i| self.commits[*i].id).collect(),
                    edge,
                    unattested: None,
                },
            );
            open.extend(&made.inputs);
        }
        Lineage {
            object: self.commits[object].id,
            nodes,
        }
    }

    pub fn random_subject(&self, seed: &mut Seed) -> Subject {
        let mut subject = Subject::unlimited(*seed.pick(&self.principals));
        if seed.one_in(4) {
            let texts = ["read:*", "*:project:p0", "read:p1/r1", "derive:*", "read:p0/r0", "*:*"];
            let scopes = texts.iter().filter(|_| seed.one_in(2)).map(|t| t.parse().unwrap());
            subject.scopes = scopes.collect();
            subject.token = Some(TokenId::from_uuid(seed.uuid()));
        }
        let revoked = &self.policy.snapshot().revoked_tokens;
        if seed.one_in(10) {
            subject.token = revoked.first().copied();
        }
        subject
    }

    /// A change of the policy.
    pub fn random_change(&self, seed: &mut Seed) -> Change {
        let snapshot = self.policy.snapshot();
        let member = seed.pick(&snapshot.members).principal;
        match seed.below(4) {
            0 if !snapshot.grants.is_empty() => Change::Revoke(seed.pick(&snapshot.grants).id),
            1 if !snapshot.releases.is_empty() => Change::RevokeRelease(seed.pick(&snapshot.releases).id),
            2 => Change::Leave(member),
            _ => Change::Grant {
                grantee: match member {
                    Principal::Account(id) => Grantee::Account(id),
                    Principal::ServiceAccount(id) => Grantee::ServiceAccount(id),
                },
                role: *seed.pick(&Role::ALL),
                resource: Resource::Domain(seed.pick(&snapshot.domains).id),
            },
        }
    }

    /// The rule, said again as simply as possible: is there a path from a commit of the domain to this one without a
    /// release that was there when the edge was made and counts now?
    pub fn naively_exposes(&self, commit: usize, domain: DomainId) -> bool {
        let made = &self.commits[commit];
        if made.domain == domain {
            return true;
        }
        !self.naively_excuses(commit, domain) && made.inputs.iter().any(|i| self.naively_exposes(*i, domain))
    }

    /// Whether the edges into that commit are released for the domain.
    pub fn naively_excuses(&self, commit: usize, domain: DomainId) -> bool {
        let made = &self.commits[commit];
        made.digest.as_ref().is_some_and(|digest| {
            self.policy.snapshot().releases.iter().any(|r| {
                let there = r.pipeline == made.domain && r.spec_digest == *digest && r.domains.contains(&domain);
                let since = r.retroactive || r.created_at <= made.at;
                let still = |at| at < r.expires_at && r.revoked_at.is_none_or(|revoked| at < revoked);
                there && since && still(made.at) && still(self.now)
            })
        })
    }

    /// The grants, looked through one by one.
    pub fn naively_holds(&self, subject: &Subject, permission: Permission, domain: DomainId) -> bool {
        let snapshot = self.policy.snapshot();
        let Some(known) = snapshot.domains.iter().find(|d| d.id == domain) else {
            return false;
        };
        let is_me = |g: &Grant| match g.grantee {
            Grantee::Account(id) => Principal::Account(id) == subject.principal,
            Grantee::ServiceAccount(id) => Principal::ServiceAccount(id) == subject.principal,
            Grantee::Team(id) => snapshot
                .teams
                .iter()
                .any(|t| t.id == id && t.members.contains(&subject.principal)),
        };
        let covers = |r: &Resource| match r {
            Resource::Organization => true,
            Resource::Project(name) => *name == known.project,
            Resource::Domain(id) => *id == domain,
        };
        let granted = snapshot
            .grants
            .iter()
            .any(|g| is_me(g) && covers(&g.resource) && g.role.permissions().contains(&permission));
        let scoped = subject.scopes.is_empty() || subject.scopes.iter().any(|s| naively_in(s, permission, known));
        granted && scoped
    }

    /// Nothing stands in the way before grants are looked at.
    pub fn naively_stands(&self, subject: &Subject) -> bool {
        let snapshot = self.policy.snapshot();
        snapshot.state == OrganizationState::Active
            && snapshot.members.iter().any(|m| m.principal == subject.principal)
            && !subject.token.is_some_and(|t| snapshot.revoked_tokens.contains(&t))
    }

    pub fn all_domains(&self) -> Vec<DomainId> {
        let mut all: Vec<DomainId> = self.commits.iter().map(|c| c.domain).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn naively_in(scope: &Scope, permission: Permission, known: &Domain) -> bool {
    let verb = ["*", permission.as_str()].contains(&scope.verb.as_str()) || permission == Permission::Discover;
    let resources = [
        "*".to_owned(),
        format!("project:{}", known.project),
        format!("{}/{}", known.project, known.name),
    ];
    verb && resources.contains(&scope.resource)
}

fn random_domains(seed: &mut Seed) -> Vec<Domain> {
    let domain = |n: usize, seed: &mut Seed| Domain {
        id: DomainId::from_uuid(seed.uuid()),
        project: format!("p{}", n % 2).parse().unwrap(),
        name: format!("r{n}").parse().unwrap(),
        deleted: seed.one_in(5),
    };
    (0..4 + seed.below(3)).map(|n| domain(n, seed)).collect()
}

fn random_snapshot(seed: &mut Seed, domains: &[Domain], sizes: &Sizes) -> (PolicySnapshot, Vec<Principal>) {
    use contract::ids::{AccountId, ServiceAccountId};
    let principals: Vec<Principal> = (0..5)
        .map(|n| match n {
            4 => Principal::ServiceAccount(ServiceAccountId::from_uuid(seed.uuid())),
            _ => Principal::Account(AccountId::from_uuid(seed.uuid())),
        })
        .collect();
    let teams: Vec<Team> = (0..2)
        .map(|n| Team {
            id: TeamId::from_uuid(seed.uuid()),
            name: format!("t{n}"),
            members: seed.some(&principals, 2),
        })
        .collect();
    let grants = (0..4 + seed.below(10))
        .map(|_| random_grant(seed, &principals, &teams, domains))
        .collect();
    let members = principals
        .iter()
        .enumerate()
        .filter(|_| !seed.one_in(12))
        .map(|(n, p)| Member {
            principal: *p,
            name: format!("m{n}@example.com"),
            role: OrganizationRole::ALL[n],
        });
    let members = members.collect();
    let snapshot = PolicySnapshot {
        organization: OrganizationId::from_uuid(seed.uuid()),
        state: if seed.one_in(20) {
            OrganizationState::Suspended
        } else {
            OrganizationState::Active
        },
        epoch: 1 + seed.below(100) as u64,
        members,
        teams,
        // Now and then the control plane has not heard of a domain.
        domains: domains.iter().filter(|_| !seed.one_in(15)).cloned().collect(),
        grants,
        releases: (0..seed.below(sizes.releases + 1))
            .map(|_| random_release(seed, domains))
            .collect(),
        revoked_tokens: vec![TokenId::from_uuid(seed.uuid())],
    };
    (snapshot, principals)
}

fn random_grant(seed: &mut Seed, principals: &[Principal], teams: &[Team], domains: &[Domain]) -> Grant {
    let grantee = match seed.pick(principals) {
        _ if seed.one_in(3) => Grantee::Team(seed.pick(teams).id),
        Principal::Account(id) => Grantee::Account(*id),
        Principal::ServiceAccount(id) => Grantee::ServiceAccount(*id),
    };
    let project: ProjectName = format!("p{}", seed.below(2)).parse().unwrap();
    let resource = match seed.below(6) {
        0 => Resource::Organization,
        1 | 2 => Resource::Project(project),
        _ => Resource::Domain(seed.pick(domains).id),
    };
    Grant {
        id: GrantId::from_uuid(seed.uuid()),
        grantee,
        role: *seed.pick(&Role::ALL),
        resource,
    }
}

fn random_release(seed: &mut Seed, domains: &[Domain]) -> Release {
    let ids: Vec<DomainId> = domains.iter().map(|d| d.id).collect();
    let created = day(seed.below(30) as i64 - 10);
    Release {
        id: ReleaseId::from_uuid(seed.uuid()),
        domains: seed.some(&ids, 2),
        pipeline: *seed.pick(&ids),
        spec_digest: ["d1", "d2"][seed.below(2)].to_owned(),
        purpose: "scoring".to_owned(),
        approvers: Vec::new(),
        retroactive: seed.one_in(3),
        created_at: created,
        expires_at: created + TimeDelta::days(20 + seed.below(120) as i64),
        revoked_at: seed
            .one_in(4)
            .then(|| created + TimeDelta::days(seed.below(100) as i64)),
    }
}
