//! Remembered decisions. An entry dies with the policy's epoch, or when the first release that counted ends by itself;
//! being read never lets it live longer. Whoever keeps a policy keeps one of these beside it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use contract::claims::Scope;
use contract::ids::OrganizationId;
use contract::policy::Principal;

use super::decide::{Access, Denial, Permit, Subject, Verb, standing, weigh};
use super::policy::Policy;
use crate::origins::{ActiveReleases, OriginSet};

const SHARDS: usize = 16;
const ENTRIES_PER_SHARD: usize = 4096;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    principal: Principal,
    scopes: [u8; 32],
    verb: Verb,
    set: [u8; 32],
}

#[derive(Default)]
struct Shard {
    policy: Option<(OrganizationId, u64)>,
    /// From when until when the active releases are these; a clock may be set back.
    valid: Option<(DateTime<Utc>, DateTime<Utc>)>,
    active: ActiveReleases,
    decisions: HashMap<Key, Option<Denial>>,
}

/// Decisions of the current epoch; safe to share between threads.
#[derive(Default)]
pub struct DecisionCache {
    shards: [Mutex<Shard>; SHARDS],
}

impl DecisionCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same answer as `decide`.
    pub fn decide(
        &self,
        policy: &Policy,
        subject: &Subject,
        verb: Verb,
        set: &OriginSet,
        now: DateTime<Utc>,
    ) -> Access {
        // Depends on the token, which is not part of the key, and costs three look-ups.
        if standing(policy, subject).is_some() {
            return super::decide(policy, subject, verb, set, now);
        }
        let key = Key {
            principal: subject.principal,
            scopes: scopes_digest(&subject.scopes),
            verb,
            set: set.digest(),
        };
        let mut shard = self.shard(&key);
        shard.refresh(policy, now);
        if !shard.decisions.contains_key(&key) {
            let denial = weigh(policy, subject, verb, set, &shard.active).denial;
            if shard.decisions.len() >= ENTRIES_PER_SHARD {
                shard.decisions.clear();
            }
            shard.decisions.insert(key, denial.clone());
            return answer(policy, subject, verb, set, denial);
        }
        let denial = shard.decisions.get(&key).cloned().flatten();
        answer(policy, subject, verb, set, denial)
    }

    /// `decide` for reading.
    pub fn read(
        &self,
        policy: &Policy,
        subject: &Subject,
        set: &OriginSet,
        now: DateTime<Utc>,
    ) -> Result<super::Readable, Denial> {
        match self.decide(policy, subject, Verb::Read, set, now) {
            Access::Denied(denial) => Err(denial),
            // The permit of a read is always readable; were it not, nothing is shown.
            Access::Allowed(permit) => permit.into_readable().ok_or_else(|| Denial {
                cause: super::Cause::Missing,
                missing: Vec::new(),
                discoverable: false,
            }),
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[usize::from(key.set[0] ^ key.scopes[0]) % SHARDS];
        // A shard is whole after every statement, so a panic elsewhere does not spoil it.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn refresh(&mut self, policy: &Policy, now: DateTime<Utc>) {
        let current = (policy.organization(), policy.epoch());
        let same = self.policy == Some(current) && self.valid.is_some_and(|(from, until)| from <= now && now < until);
        if same {
            return;
        }
        self.decisions.clear();
        self.policy = Some(current);
        self.active = policy.active_releases(now);
        self.valid = Some((now, self.active.until().unwrap_or(DateTime::<Utc>::MAX_UTC)));
    }
}

fn answer(policy: &Policy, subject: &Subject, verb: Verb, set: &OriginSet, denial: Option<Denial>) -> Access {
    match denial {
        None => Access::Allowed(Permit::new(subject, verb, set, policy)),
        Some(denial) => Access::Denied(denial),
    }
}

fn scopes_digest(scopes: &[Scope]) -> [u8; 32] {
    if scopes.is_empty() {
        return [0; 32];
    }
    let mut hasher = blake3::Hasher::new();
    for scope in scopes {
        hasher.update(&(scope.verb.len() as u64).to_be_bytes());
        hasher.update(scope.verb.as_bytes());
        hasher.update(&(scope.resource.len() as u64).to_be_bytes());
        hasher.update(scope.resource.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
