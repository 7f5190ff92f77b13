//! What a change of the policy, of a release or of an input would do to who can read what (R12): the same rule, asked of a policy that
//! is not in force. Nothing is changed.

use chrono::{DateTime, Utc};
use contract::ids::{GrantId, ReleaseId};
use contract::policy::{Grant, Grantee, Principal, Release, Resource, Role};

use super::decide::{Subject, Verb, weigh};
use super::policy::Policy;
use crate::origins::OriginSet;

/// A change that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A grant is given.
    Grant {
        /// To whom.
        grantee: Grantee,
        /// What.
        role: Role,
        /// On what.
        resource: Resource,
    },
    /// A grant is taken.
    Revoke(GrantId),
    /// Somebody leaves the organization.
    Leave(Principal),
    /// A release becomes active.
    Release(Release),
    /// A release is revoked.
    RevokeRelease(ReleaseId),
}

impl Policy {
    /// The policy that there would be. `None` when the change names something that is not there.
    pub fn changed(&self, change: &Change, now: DateTime<Utc>) -> Option<Self> {
        let mut snapshot = self.snapshot().clone();
        let was = |there: bool| there.then_some(());
        match change {
            Change::Grant {
                grantee,
                role,
                resource,
            } => snapshot.grants.push(Grant {
                id: GrantId::from_uuid(uuid::Uuid::nil()),
                grantee: *grantee,
                role: *role,
                resource: resource.clone(),
            }),
            Change::Revoke(id) => {
                was(snapshot.grants.iter().any(|g| g.id == *id))?;
                snapshot.grants.retain(|g| g.id != *id);
            }
            Change::Leave(principal) => {
                was(self.member(*principal).is_some())?;
                snapshot.members.retain(|m| m.principal != *principal);
            }
            Change::Release(release) => snapshot.releases.push(release.clone()),
            Change::RevokeRelease(id) => {
                let release = snapshot.releases.iter_mut().find(|r| r.id == *id)?;
                release.revoked_at = Some(release.revoked_at.map_or(now, |at| at.min(now)));
            }
        }
        Some(Self::new(snapshot))
    }
}

/// What somebody reads whose rights a change touches: the origins as they are, and as they would be.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// As they are.
    pub before: &'a OriginSet,
    /// As they would be; the same ones, unless a release or an input changes what is required.
    pub after: &'a OriginSet,
}

/// Somebody whose reading would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Who.
    pub principal: Principal,
    /// Address or name.
    pub name: String,
    /// Which of the asked pairs he could read then and cannot now, by their places.
    pub gains: Vec<usize>,
    /// Which he can read now and could not then.
    pub loses: Vec<usize>,
}

/// Whose reading differs between two policies over these things. Sorted by name.
pub fn shifts(before: &Policy, after: &Policy, pairs: &[Pair<'_>], now: DateTime<Utc>) -> Vec<Shift> {
    let (active_before, active_after) = (before.active_releases(now), after.active_releases(now));
    let mut shifts = Vec::new();
    for member in &before.snapshot().members {
        let subject = Subject::unlimited(member.principal);
        let mut shift = Shift {
            principal: member.principal,
            name: member.name.clone(),
            gains: Vec::new(),
            loses: Vec::new(),
        };
        for (at, pair) in pairs.iter().enumerate() {
            let reads = weigh(before, &subject, Verb::Read, pair.before, &active_before);
            let would = weigh(after, &subject, Verb::Read, pair.after, &active_after);
            match (reads.denial.is_none(), would.denial.is_none()) {
                (false, true) => shift.gains.push(at),
                (true, false) => shift.loses.push(at),
                _ => {}
            }
        }
        if !shift.gains.is_empty() || !shift.loses.is_empty() {
            shifts.push(shift);
        }
    }
    shifts.sort_by(|a, b| a.name.cmp(&b.name).then(a.principal.cmp(&b.principal)));
    shifts
}
