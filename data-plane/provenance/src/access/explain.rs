//! Explanations (R11): the same weighing as a decision, told in words to somebody who may not know of everything that it
//! names.

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::{DateTime, Utc};
use contract::api::{Decision, Explanation, MissingDomain};
use contract::ids::{CommitId, DomainId};
use contract::policy::{OrganizationRole, Permission};

use super::decide::{Cause, Denial, Subject, Verb, can, weigh};
use super::policy::Policy;
use crate::origins::{ActiveReleases, Edge, OriginSet};

/// A commit in a lineage.
#[derive(Debug, Clone)]
pub struct LineageNode {
    /// The domain of its repo.
    pub domain: DomainId,
    /// The pipeline that made it: the domain of its output repo.
    pub pipeline: Option<DomainId>,
    /// The commits that it was made from.
    pub inputs: Vec<CommitId>,
    /// The releases on the edges from these inputs; `Edge::plain()` where they are not known, which can only make a
    /// witness less telling.
    pub edge: Edge,
    /// The domain of what it received from outside and nobody attested: a spout's.
    pub unattested: Option<DomainId>,
}

/// Everything upstream of one commit, itself included.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// The commit asked about.
    pub object: CommitId,
    /// The commits.
    pub nodes: HashMap<CommitId, LineageNode>,
}

/// Explains to `viewer` whether `asked` may do `verb` with the object whose origins are `set`. `None` = answer 404: the
/// viewer may not know of the object, or asks about somebody else without managing the object or the organization.
pub fn explain(
    policy: &Policy,
    viewer: &Subject,
    asked: &Subject,
    verb: Verb,
    set: &OriginSet,
    lineage: &Lineage,
    now: DateTime<Utc>,
) -> Option<Explanation> {
    let manages = || {
        let role = policy.member(viewer.principal).map(|m| m.role);
        // As everywhere: a token with scopes manages nothing but what they cover.
        (role.is_some_and(OrganizationRole::manages) && viewer.scopes.is_empty())
            || can(policy, viewer, Permission::Admin, set.home())
    };
    let about_oneself = viewer.principal == asked.principal;
    if !can(policy, viewer, Permission::Discover, set.home()) || !(about_oneself || manages()) {
        return None;
    }
    let active = policy.active_releases(now);
    let weighed = weigh(policy, asked, verb, set, &active);
    let teller = Teller {
        policy,
        viewer,
        you: about_oneself,
        verb,
        set,
        lineage,
        active: &active,
    };
    let (decision, missing) = match &weighed.denial {
        None => (Decision::Allow, Vec::new()),
        Some(denial) => (Decision::Deny, teller.missing(denial, asked)),
    };
    Some(Explanation {
        decision,
        missing,
        releases: weighed.releases,
        token: policy.epoch(),
    })
}

struct Teller<'a> {
    policy: &'a Policy,
    viewer: &'a Subject,
    you: bool,
    verb: Verb,
    set: &'a OriginSet,
    lineage: &'a Lineage,
    active: &'a ActiveReleases,
}

impl Teller<'_> {
    fn missing(&self, denial: &Denial, asked: &Subject) -> Vec<MissingDomain> {
        let who = if self.you {
            "you".to_owned()
        } else {
            let name = self.policy.member(asked.principal).map(|m| m.name.clone());
            name.unwrap_or_else(|| asked.principal.to_string())
        };
        let home = self.set.home();
        let standing = match denial.cause {
            Cause::Missing => None,
            Cause::OrganizationNotActive => {
                Some("the organization is not active, so nothing in it can be used".to_owned())
            }
            Cause::TokenRevoked => Some("the token in use was revoked: log in again".to_owned()),
            Cause::NotAMember => Some(format!("{who} is not a member of the organization")),
        };
        if let Some(reason) = standing {
            return vec![MissingDomain {
                domain: self.name(home),
                reason,
                witness: vec![self.step(self.lineage.object, home)],
                who_can_grant: Vec::new(),
            }];
        }
        // Shown names first, hidden ones by their numbers: the order must not tell when a hidden domain was made.
        let mut missing: Vec<_> = denial.missing.iter().map(|d| self.one(*d, &who)).collect();
        missing.sort_by_key(|m| (m.domain.starts_with(RESTRICTED), m.domain.clone()));
        missing
    }

    fn one(&self, domain: DomainId, who: &str) -> MissingDomain {
        let received = self.received(domain);
        let name = received.clone().unwrap_or_else(|| self.name(domain));
        let verb = self.verb.as_str();
        let hidden = !self.shows(domain);
        let subject = if hidden { name.clone() } else { format!("`{name}`") };
        let reason = if received.is_some() {
            format!("{who} may not {verb} what is {name}")
        } else if domain == self.set.home() {
            format!("{who} may not {verb} {subject} itself")
        } else {
            format!("{who} may not {verb} {subject}, from which this was made")
        };
        // Owners of what is hidden would tell what it is: the object's own owners know whom to ask.
        let asked_of = if hidden { self.set.home() } else { domain };
        MissingDomain {
            witness: self.witness(domain),
            who_can_grant: self.policy.owners(asked_of),
            domain: name,
            reason,
        }
    }

    /// In words, if the domain is what a spout that the viewer may know of received: that it is one stands in its spec.
    fn received(&self, domain: DomainId) -> Option<String> {
        let of = |node: &&LineageNode| node.unattested == Some(domain) && self.shows(node.domain);
        let spout = self.lineage.nodes.values().find(of)?.domain;
        Some(format!("unattested: what {} received from outside", self.name(spout)))
    }

    fn shows(&self, domain: DomainId) -> bool {
        can(self.policy, self.viewer, Permission::Discover, domain)
    }

    fn name(&self, domain: DomainId) -> String {
        shown_name(self.policy, self.viewer, domain)
    }

    fn step(&self, commit: CommitId, domain: DomainId) -> String {
        let name = self.name(domain);
        if self.shows(domain) {
            format!("{name}@{commit}")
        } else {
            name
        }
    }

    /// One path from the domain to the object, as text. Hidden steps that follow each other are one.
    fn witness(&self, domain: DomainId) -> Vec<String> {
        let path = shortest(self.lineage, domain, self.active)
            // Where the lineage does not tell of releases, any path shows how the domain gets there.
            .or_else(|| shortest(self.lineage, domain, &ActiveReleases::default()))
            .unwrap_or_else(|| vec![self.lineage.object]);
        let mut steps: Vec<String> = Vec::new();
        let mut hidden_before = false;
        for commit in path {
            let at = self.lineage.nodes.get(&commit).map_or(self.set.home(), |n| n.domain);
            let hidden = !self.shows(at);
            if hidden && hidden_before {
                continue;
            }
            steps.push(self.step(commit, at));
            hidden_before = hidden;
        }
        steps
    }
}

const RESTRICTED: &str = "restricted upstream #";

/// What a viewer is told of a domain: `project/repo` where he may discover it, else `restricted upstream #n`. The number
/// is the same in everything this viewer is told and tells nothing else: not how many hidden domains there are, not their
/// order, and to two viewers not that they look at the same one.
pub fn shown_name(policy: &Policy, viewer: &Subject, domain: DomainId) -> String {
    match policy.name_of(domain) {
        Some(name) if can(policy, viewer, Permission::Discover, domain) => name,
        _ => {
            let mut hasher = blake3::Hasher::new_derive_key("howdah restricted upstream v1");
            hasher.update(viewer.principal.to_string().as_bytes());
            hasher.update(domain.uuid().as_bytes());
            let bytes = *hasher.finalize().as_bytes();
            let number = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % 900_000 + 100_000;
            format!("{RESTRICTED}{number}")
        }
    }
}

/// A text that names domains by their ids, as rows keep it, told to a viewer: each by its [`shown_name`].
pub fn in_words(policy: &Policy, viewer: &Subject, text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(DomainId::PREFIX) {
        let (before, named) = rest.split_at(at);
        told.push_str(before);
        let whole = named.split_at_checked(DomainId::PREFIX.len() + 32);
        rest = match whole.and_then(|(id, behind)| Some((id.parse::<DomainId>().ok()?, behind))) {
            Some((domain, behind)) => {
                told.push_str(&shown_name(policy, viewer, domain));
                behind
            }
            None => {
                let (prefix, behind) = named.split_at(DomainId::PREFIX.len());
                told.push_str(prefix);
                behind
            }
        };
    }
    told.push_str(rest);
    told
}

/// The shortest path from a commit of the domain down to the object on which no active release excuses the domain.
fn shortest(lineage: &Lineage, domain: DomainId, active: &ActiveReleases) -> Option<Vec<CommitId>> {
    let mut towards: HashMap<CommitId, CommitId> = HashMap::new();
    let mut seen = HashSet::from([lineage.object]);
    let mut queue = VecDeque::from([lineage.object]);
    while let Some(commit) = queue.pop_front() {
        let Some(node) = lineage.nodes.get(&commit) else {
            continue;
        };
        if node.domain == domain || node.unattested == Some(domain) {
            let mut path = vec![commit];
            while let Some(next) = path.last().and_then(|c| towards.get(c)) {
                path.push(*next);
            }
            return Some(path);
        }
        if node.edge.excuses(domain, active) {
            continue;
        }
        for input in &node.inputs {
            if seen.insert(*input) {
                towards.insert(*input, commit);
                queue.push_back(*input);
            }
        }
    }
    None
}
