//! One question weighed: the rule R1 with scopes, teams, releases and time, and the proofs that the answer was yes.

use chrono::{DateTime, Utc};
use contract::claims::{AccessClaims, Scope};
use contract::ids::{DomainId, ReleaseId, TokenId};
use contract::names::ProjectName;
use contract::policy::{Permission, Principal};

use super::policy::Policy;
use crate::origins::{ActiveReleases, OriginSet, required};

/// Who asks, with the limits of the token in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The principal.
    pub principal: Principal,
    /// The token's limits; empty = none.
    pub scopes: Vec<Scope>,
    /// The session or API token behind the request; `None` for a question about a principal.
    pub token: Option<TokenId>,
}

impl Subject {
    /// The subject of a request.
    pub fn of(claims: &AccessClaims) -> Self {
        Self {
            principal: claims.sub,
            scopes: claims.scopes.clone(),
            token: Some(claims.token),
        }
    }

    /// A principal without the limits of any token: for questions about it, not for its requests.
    pub fn unlimited(principal: Principal) -> Self {
        Self {
            principal,
            scopes: Vec::new(),
            token: None,
        }
    }
}

/// What one wants to do with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Know that its repo exists.
    Discover,
    /// Read anything that tells of its content.
    Read,
    /// Change its repo.
    Write,
    /// Use it as a pipeline's input.
    Derive,
    /// Send it out of the organization (R10).
    Egress,
    /// Manage its repo.
    Admin,
}

impl Verb {
    /// The permission that it needs.
    pub const fn permission(self) -> Permission {
        match self {
            Self::Discover => Permission::Discover,
            Self::Read => Permission::Read,
            Self::Write => Permission::Write,
            Self::Derive => Permission::Derive,
            Self::Egress => Permission::Declassify,
            Self::Admin => Permission::Admin,
        }
    }

    /// Whether it needs that permission on all required domains, and not only on the object's own.
    pub const fn follows_provenance(self) -> bool {
        matches!(self, Self::Read | Self::Derive | Self::Egress)
    }

    /// The verb's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "send out",
            _ => self.permission().as_str(),
        }
    }
}

/// Why the answer is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A permission is missing on some domains.
    Missing,
    /// The organization is suspended or being deleted.
    OrganizationNotActive,
    /// The token was revoked.
    TokenRevoked,
    /// The subject is not a member (any more).
    NotAMember,
}

/// A no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub cause: Cause,
    /// The required domains on which the permission is missing, ascending: granting it on exactly these turns the
    /// answer. Empty when the cause is another.
    pub missing: Vec<DomainId>,
    /// Whether the subject may know that the object exists: otherwise answer 404, as if it did not (R15).
    pub discoverable: bool,
}

/// A yes: proof that `decide` allowed this verb to this subject on this origin set. Only this module makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    verb: Verb,
    principal: Principal,
    set: [u8; 32],
    epoch: u64,
}

impl Permit {
    pub(super) fn new(subject: &Subject, verb: Verb, set: &OriginSet, policy: &Policy) -> Self {
        Self {
            verb,
            principal: subject.principal,
            set: set.digest(),
            epoch: policy.epoch(),
        }
    }

    /// What was allowed.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// To whom.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// Digest of the origin set it was allowed on: queries compare it with the row's.
    pub fn set_digest(&self) -> [u8; 32] {
        self.set
    }

    /// The policy's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The proof for reading, if reading is what was allowed.
    pub fn into_readable(self) -> Option<Readable> {
        (self.verb == Verb::Read).then_some(Readable(self))
    }
}

/// Proof that the subject may read whatever has this origin set. Everything that shows content takes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Readable(Permit);

impl Readable {
    /// Who reads.
    pub fn principal(&self) -> Principal {
        self.0.principal
    }

    /// Digest of the origin set.
    pub fn set_digest(&self) -> [u8; 32] {
        self.0.set
    }

    /// Whether it is good for that origin set.
    pub fn covers(&self, set: &OriginSet) -> bool {
        self.0.set == set.digest()
    }

    /// The policy's epoch.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes, with the proof.
    Allowed(Permit),
    /// No.
    Denied(Denial),
}

impl Access {
    /// Whether it is a yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

/// Everything that weighing a question yields; explanations show more of it than decisions.
pub(super) struct Weighed {
    pub denial: Option<Denial>,
    /// Releases without which the answer would be another.
    pub releases: Vec<ReleaseId>,
}

/// Whether the subject has that permission on that one domain: for what does not depend on provenance (writing to a
/// repo, managing it, seeing its name). Reading content is `read`.
pub fn can(policy: &Policy, subject: &Subject, permission: Permission, domain: DomainId) -> bool {
    standing(policy, subject).is_none() && holds(policy, subject, permission, domain)
}

/// Whether the subject has that permission on a project as a whole: for what belongs to no domain of it.
pub fn can_in_project(policy: &Policy, subject: &Subject, permission: Permission, project: &ProjectName) -> bool {
    let covers = |scope: &Scope| {
        let resource = scope.resource.strip_prefix("project:");
        (scope.verb == "*" || scope.verb == permission.as_str())
            && (scope.resource == "*" || resource == Some(project.as_str()))
    };
    standing(policy, subject).is_none()
        && policy.rights_in_project(subject.principal, project).has(permission)
        && (subject.scopes.is_empty() || subject.scopes.iter().any(covers))
}

/// Decides, and on a yes gives the proof.
pub fn decide(policy: &Policy, subject: &Subject, verb: Verb, set: &OriginSet, now: DateTime<Utc>) -> Access {
    match weigh(policy, subject, verb, set, &policy.active_releases(now)).denial {
        None => Access::Allowed(Permit::new(subject, verb, set, policy)),
        Some(denial) => Access::Denied(denial),
    }
}

/// `decide` for reading.
pub fn read(policy: &Policy, subject: &Subject, set: &OriginSet, now: DateTime<Utc>) -> Result<Readable, Denial> {
    match decide(policy, subject, Verb::Read, set, now) {
        Access::Allowed(permit) => Ok(Readable(permit)),
        Access::Denied(denial) => Err(denial),
    }
}

pub(super) fn weigh(
    policy: &Policy,
    subject: &Subject,
    verb: Verb,
    set: &OriginSet,
    active: &ActiveReleases,
) -> Weighed {
    let cause = standing(policy, subject);
    // A suspended organization is told so to its members; to anybody else nothing exists.
    let known = !matches!(cause, Some(Cause::NotAMember));
    let discoverable = known && holds(policy, subject, Permission::Discover, set.home());
    if let Some(cause) = cause {
        return Weighed {
            denial: Some(Denial {
                cause,
                missing: Vec::new(),
                discoverable,
            }),
            releases: Vec::new(),
        };
    }
    let lacks = |domain: &DomainId| !holds(policy, subject, verb.permission(), *domain);
    let (needed, releases) = if verb.follows_provenance() {
        (required(set, active), rested_on(set, active, &lacks))
    } else {
        (vec![set.home()], Vec::new())
    };
    let missing: Vec<DomainId> = needed.into_iter().filter(lacks).collect();
    let denial = (!missing.is_empty()).then_some(Denial {
        cause: Cause::Missing,
        missing,
        discoverable,
    });
    Weighed { denial, releases }
}

/// The active releases of the domains that are excused and that the subject could not do without.
fn rested_on(set: &OriginSet, active: &ActiveReleases, lacks: &dyn Fn(&DomainId) -> bool) -> Vec<ReleaseId> {
    let excused = set.entries().filter(|(d, cnf)| cnf.is_excused(active) && lacks(d));
    let ids = excused.flat_map(|(_, cnf)| cnf.clauses().flatten().copied());
    let mut ids: Vec<_> = ids.filter(|id| active.contains(*id)).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// What stands in the way before any domain is looked at.
pub(super) fn standing(policy: &Policy, subject: &Subject) -> Option<Cause> {
    if policy.member(subject.principal).is_none() {
        return Some(Cause::NotAMember);
    }
    if subject.token.is_some_and(|t| policy.is_revoked(t)) {
        return Some(Cause::TokenRevoked);
    }
    (!policy.is_active()).then_some(Cause::OrganizationNotActive)
}

/// Granted, and inside the token's limits.
pub(super) fn holds(policy: &Policy, subject: &Subject, permission: Permission, domain: DomainId) -> bool {
    policy.rights(subject.principal, domain).has(permission) && in_scope(policy, &subject.scopes, permission, domain)
}

fn in_scope(policy: &Policy, scopes: &[Scope], permission: Permission, domain: DomainId) -> bool {
    if scopes.is_empty() {
        return true;
    }
    let Some(known) = policy.domain(domain) else {
        return false;
    };
    scopes.iter().any(|scope| {
        // Whoever may do anything with a repo knows that it exists.
        let verb = scope.verb == "*" || scope.verb == permission.as_str() || permission == Permission::Discover;
        let resource = match scope.resource.strip_prefix("project:") {
            Some(project) => project == known.project.as_str(),
            None if scope.resource == "*" => true,
            None => scope
                .resource
                .split_once('/')
                .is_some_and(|(project, repo)| project == known.project.as_str() && repo == known.name.as_str()),
        };
        verb && resource
    })
}
