//! What-if questions over the same rule: who can read, what a new pipeline needs, who would lose read (R4, R5, R12).

use chrono::{DateTime, Utc};
use contract::api::Reader;
use contract::ids::DomainId;
use contract::policy::{Permission, Principal};

use super::decide::{Subject, Verb, holds, weigh};
use super::policy::Policy;
use crate::origins::{OriginSet, required};
use crate::spec::MaxOrigins;

/// Everybody who may read what has this origin set, by name.
pub fn who_can_read(policy: &Policy, set: &OriginSet, now: DateTime<Utc>) -> Vec<Reader> {
    let active = policy.active_releases(now);
    let mut readers: Vec<Reader> = Vec::new();
    for member in &policy.snapshot().members {
        let weighed = weigh(policy, &Subject::unlimited(member.principal), Verb::Read, set, &active);
        if weighed.denial.is_none() {
            let by = if weighed.releases.is_empty() {
                "grants"
            } else {
                "grants and releases"
            };
            readers.push(Reader {
                id: member.principal,
                name: member.name.clone(),
                by: by.to_owned(),
            });
        }
    }
    readers.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    readers
}

/// R4: the domains on which the subject needs `derive` before a pipeline may read these heads, and has it not. Ascending;
/// empty = go on. An input without a head yet counts with the origins `OriginSet::own` of its repo.
pub fn required_for_new_pipeline(
    policy: &Policy,
    subject: &Subject,
    heads: &[&OriginSet],
    now: DateTime<Utc>,
) -> Vec<DomainId> {
    let active = policy.active_releases(now);
    let mut missing: Vec<DomainId> = heads
        .iter()
        .flat_map(|set| match weigh(policy, subject, Verb::Derive, set, &active).denial {
            None => Vec::new(),
            // Somebody who is locked out altogether misses everything.
            Some(denial) if denial.missing.is_empty() => set.domains().collect(),
            Some(denial) => denial.missing,
        })
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

/// R10: the domains on which the subject needs `declassify` before code that reads these inputs may reach the network, and
/// has it not. `output` are the origins of what the code makes: a release of an input to this very pipeline excuses it
/// there. Ascending; empty = go on.
pub fn required_for_egress(
    policy: &Policy,
    subject: &Subject,
    inputs: &[&OriginSet],
    output: &OriginSet,
    now: DateTime<Utc>,
) -> Vec<DomainId> {
    let active = policy.active_releases(now);
    let mut missing = match weigh(policy, subject, Verb::Egress, output, &active).denial {
        None => Vec::new(),
        Some(denial) if denial.missing.is_empty() => output.domains().collect(),
        Some(denial) => denial.missing,
    };
    // The code can send what it reads, not what its own repo holds.
    let own = output.home();
    missing.retain(|domain| *domain != own || inputs.iter().any(|set| set.get(own).is_some()));
    missing
}

/// Somebody who would lose read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Who.
    pub principal: Principal,
    /// E-mail address or service account name.
    pub name: String,
    /// The domains that this principal would newly need to read, ascending.
    pub missing: Vec<DomainId>,
}

/// Who can read something that requires `old` but could not read it if it required `new`: the readers that future outputs
/// of a changed pipeline lose. Sorted by name.
pub fn impact(policy: &Policy, old: &[DomainId], new: &[DomainId]) -> Vec<Loss> {
    let mut losses = Vec::new();
    for member in &policy.snapshot().members {
        let subject = Subject::unlimited(member.principal);
        let lacks = |d: &&DomainId| !holds(policy, &subject, Permission::Read, **d);
        if old.iter().any(|d| lacks(&d)) {
            continue;
        }
        let missing: Vec<DomainId> = new.iter().filter(lacks).copied().collect();
        if !missing.is_empty() {
            losses.push(Loss {
                principal: member.principal,
                name: member.name.clone(),
                missing,
            });
        }
    }
    losses.sort_by(|a, b| a.name.cmp(&b.name).then(a.principal.cmp(&b.principal)));
    losses
}

/// R5: the required domains of a new commit that its repo's pin does not admit. Empty = publish it.
pub fn guard(policy: &Policy, pin: &MaxOrigins, set: &OriginSet, now: DateTime<Utc>) -> Vec<DomainId> {
    let mut foreign = required(set, &policy.active_releases(now));
    foreign.retain(|d| *d != set.home());
    match pin {
        MaxOrigins::Count(most) if foreign.len() <= *most as usize => Vec::new(),
        MaxOrigins::Count(_) => foreign,
        MaxOrigins::Named(names) => {
            let admitted = |d: &DomainId| policy.name_of(*d).is_some_and(|name| names.contains(&name));
            foreign.retain(|d| !admitted(d));
            foreign
        }
    }
}
