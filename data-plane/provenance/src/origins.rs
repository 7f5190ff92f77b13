//! Origin sets: which domains a commit was made from, and which releases excuse which of them. Made once, when the
//! commit is made, and never changed (R3); a release is revoked or expires without any set being computed again, because
//! a set holds the ids of releases and not their effect.
//!
//! An entry of domain D is a formula over release ids in conjunctive normal form: D is excused iff every clause has an
//! active release. One clause stands for the provenance paths that crossed the same releases. An empty clause is a path
//! without any release, so the commit's own domain has exactly that. An entry without clauses is a domain that is
//! required for ever: its formula became too large.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, ReleaseId};
use contract::policy::Release;
use uuid::Uuid;

use crate::access::Policy;

/// More clauses than this make a domain simply required.
pub const MAX_CLAUSES: usize = 8;
/// More releases in a clause than this make a domain simply required.
pub const MAX_IDS: usize = 4;

const VERSION: u8 = 1;

/// Release ids of which one active is enough.
pub type Clause = BTreeSet<ReleaseId>;

/// The formula of one domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cnf {
    clauses: BTreeSet<Clause>,
}

impl Cnf {
    /// Required for ever.
    pub fn always() -> Self {
        Self::default()
    }

    fn unreleased() -> Self {
        Self {
            clauses: BTreeSet::from([Clause::new()]),
        }
    }

    /// Whether no release can ever excuse it.
    pub fn is_always_required(&self) -> bool {
        self.clauses.is_empty()
    }

    /// The clauses; none = required for ever.
    pub fn clauses(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter()
    }

    /// Whether every path has an active release.
    pub fn is_excused(&self, active: &ActiveReleases) -> bool {
        !self.clauses.is_empty() && self.clauses.iter().all(|c| c.iter().any(|id| active.contains(*id)))
    }

    fn crossed(&self, ids: &[ReleaseId]) -> Self {
        if ids.is_empty() {
            return self.clone();
        }
        let widen = |clause: &Clause| clause.iter().copied().chain(ids.iter().copied()).collect();
        Self {
            clauses: self.clauses.iter().map(widen).collect(),
        }
    }

    fn and(&mut self, other: Self) {
        if self.is_always_required() || other.is_always_required() {
            self.clauses.clear();
        } else {
            self.clauses.extend(other.clauses);
        }
    }

    /// Drops clauses that another one implies, then gives up on a formula that is still too large.
    fn settled(self) -> Self {
        let least: BTreeSet<Clause> = self
            .clauses
            .iter()
            .filter(|c| !self.clauses.iter().any(|other| other != *c && other.is_subset(c)))
            .cloned()
            .collect();
        if least.len() > MAX_CLAUSES || least.iter().any(|c| c.len() > MAX_IDS) {
            return Self::always();
        }
        Self { clauses: least }
    }
}

/// What the releases on one provenance edge excuse: each release with its domains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edge {
    releases: Vec<(ReleaseId, Vec<DomainId>)>,
}

impl Edge {
    /// An edge without a release: a server-side copy, or a pipeline that nobody released anything to.
    pub fn plain() -> Self {
        Self::default()
    }

    /// An edge with these releases.
    pub fn new(releases: Vec<(ReleaseId, Vec<DomainId>)>) -> Self {
        Self { releases }
    }

    /// The releases that excuse the domain on this edge.
    pub fn excusing(&self, domain: DomainId) -> Vec<ReleaseId> {
        let matching = self.releases.iter().filter(|(_, domains)| domains.contains(&domain));
        matching.map(|(id, _)| *id).collect()
    }

    /// Whether an active release excuses the domain on this edge.
    pub fn excuses(&self, domain: DomainId, active: &ActiveReleases) -> bool {
        self.excusing(domain).into_iter().any(|id| active.contains(id))
    }
}

/// The releases that match the edge into outputs of a pipeline with that spec digest (hex), for a commit made at `at`
/// (R9). Revoked and expired ones never count again, so they are left out. A release made later matches only if it is
/// retroactive: pass the time at which the commit was made to find the edge of an old commit again.
pub fn matching_releases(policy: &Policy, pipeline: DomainId, spec_digest: &str, at: DateTime<Utc>) -> Edge {
    let matches = |r: &&Release| {
        r.pipeline == pipeline
            && r.spec_digest == spec_digest
            && r.is_active(at)
            && (r.retroactive || r.created_at <= at)
    };
    let found = policy.releases().filter(matches);
    Edge::new(found.map(|r| (r.id, r.domains.clone())).collect())
}

/// The releases that count at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActiveReleases {
    ids: BTreeSet<ReleaseId>,
    until: Option<DateTime<Utc>>,
}

impl ActiveReleases {
    /// The active ones among all releases.
    pub fn at<'a>(releases: impl Iterator<Item = &'a Release>, now: DateTime<Utc>) -> Self {
        let mut active = Self::default();
        for release in releases.filter(|r| r.is_active(now)) {
            active.ids.insert(release.id);
            let ends = release
                .revoked_at
                .map_or(release.expires_at, |at| at.min(release.expires_at));
            active.until = Some(active.until.map_or(ends, |u| u.min(ends)));
        }
        active
    }

    /// Whether that one counts.
    pub fn contains(&self, id: ReleaseId) -> bool {
        self.ids.contains(&id)
    }

    /// When the first of them ends by itself: until then, and while the policy's epoch is the same, the set is the same.
    pub fn until(&self) -> Option<DateTime<Utc>> {
        self.until
    }
}

impl FromIterator<ReleaseId> for ActiveReleases {
    fn from_iter<I: IntoIterator<Item = ReleaseId>>(ids: I) -> Self {
        Self {
            ids: ids.into_iter().collect(),
            until: None,
        }
    }
}

/// The origins of a commit. Equal sets have equal bytes and digests, so they can be interned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSet {
    home: DomainId,
    entries: BTreeMap<DomainId, Cnf>,
    digest: [u8; 32],
}

/// Bytes that are not an origin set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not an origin set: {0}; restore the row from a backup or run fsck")]
pub struct DecodeError(&'static str);

impl OriginSet {
    /// The origins of a commit without provenance in the repo of that domain.
    pub fn own(domain: DomainId) -> Self {
        Self::sealed(domain, BTreeMap::from([(domain, Cnf::unreleased())]))
    }

    /// The origins of a commit in the repo of domain `own`, made from the parents over these edges. The result does not
    /// depend on the parents' order.
    pub fn combine(own: DomainId, parents: &[(&Self, Edge)]) -> Self {
        let mut entries: BTreeMap<DomainId, Cnf> = BTreeMap::new();
        for (parent, edge) in parents {
            for (domain, cnf) in &parent.entries {
                let crossed = cnf.crossed(&edge.excusing(*domain));
                match entries.get_mut(domain) {
                    Some(entry) => entry.and(crossed),
                    None => {
                        entries.insert(*domain, crossed);
                    }
                }
            }
        }
        let mut entries: BTreeMap<DomainId, Cnf> = entries.into_iter().map(|(d, cnf)| (d, cnf.settled())).collect();
        entries.insert(own, Cnf::unreleased());
        Self::sealed(own, entries)
    }

    fn sealed(home: DomainId, entries: BTreeMap<DomainId, Cnf>) -> Self {
        let mut set = Self {
            home,
            entries,
            digest: [0; 32],
        };
        set.digest = *blake3::hash(&set.encode()).as_bytes();
        set
    }

    /// The domain of the repo that the commit is in.
    pub fn home(&self) -> DomainId {
        self.home
    }

    /// All origins, released or not, ascending.
    pub fn domains(&self) -> impl Iterator<Item = DomainId> {
        self.entries.keys().copied()
    }

    /// All origins with their formulas, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (DomainId, &Cnf)> {
        self.entries.iter().map(|(domain, cnf)| (*domain, cnf))
    }

    /// The formula of a domain.
    pub fn get(&self, domain: DomainId) -> Option<&Cnf> {
        self.entries.get(&domain)
    }

    /// BLAKE3 of the canonical bytes: the key to intern it by. Costs nothing.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The canonical bytes: version, home, and each domain with its clauses, everything ascending.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.home.uuid().as_bytes());
        out.extend((self.entries.len() as u32).to_be_bytes());
        for (domain, cnf) in &self.entries {
            out.extend(domain.uuid().as_bytes());
            // `settled` holds both counts far below 256.
            out.push(cnf.clauses.len() as u8);
            for clause in &cnf.clauses {
                out.push(clause.len() as u8);
                for id in clause {
                    out.extend(id.uuid().as_bytes());
                }
            }
        }
        out
    }

    /// Reads canonical bytes. Bytes that `encode` would not have made are refused, so that a digest stays unique.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut rest = Reader(bytes);
        if rest.byte()? != VERSION {
            return Err(DecodeError("a newer version wrote them, or they are damaged"));
        }
        let home = DomainId::from_uuid(rest.uuid()?);
        let count = u32::from_be_bytes(rest.array()?);
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let domain = DomainId::from_uuid(rest.uuid()?);
            let mut clauses = BTreeSet::new();
            for _ in 0..rest.byte()? {
                let ids = rest.byte()?;
                let clause = (0..ids).map(|_| rest.uuid().map(ReleaseId::from_uuid));
                clauses.insert(clause.collect::<Result<Clause, _>>()?);
            }
            entries.insert(domain, Cnf { clauses });
        }
        let set = Self::sealed(home, entries);
        if set.encode() != bytes {
            return Err(DecodeError("they are not in canonical form"));
        }
        if set.entries.get(&home) != Some(&Cnf::unreleased()) {
            return Err(DecodeError("the commit's own domain is missing"));
        }
        Ok(set)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError("they are cut off"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[b]| b)
    }

    fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array().map(Uuid::from_bytes)
    }
}

/// The domains that a subject needs rights on: the origins less those that active releases excuse, ascending.
pub fn required(set: &OriginSet, active: &ActiveReleases) -> Vec<DomainId> {
    let needed = set.entries.iter().filter(|(_, cnf)| !cnf.is_excused(active));
    needed.map(|(domain, _)| *domain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(n: u8) -> DomainId {
        DomainId::from_uuid(Uuid::from_bytes([n; 16]))
    }

    fn release(n: u8) -> ReleaseId {
        ReleaseId::from_uuid(Uuid::from_bytes([n; 16]))
    }

    fn active(ids: &[u8]) -> ActiveReleases {
        ids.iter().map(|n| release(*n)).collect()
    }

    fn over(releases: &[u8], domains: &[u8]) -> Edge {
        let domains: Vec<_> = domains.iter().map(|n| domain(*n)).collect();
        Edge::new(releases.iter().map(|r| (release(*r), domains.clone())).collect())
    }

    #[test]
    fn a_release_excuses_the_domain_on_its_edge_while_it_is_active() {
        let images = OriginSet::own(domain(1));
        let score = OriginSet::combine(domain(2), &[(&images, over(&[9], &[1]))]);
        assert_eq!(required(&score, &active(&[])), [domain(1), domain(2)]);
        assert_eq!(required(&score, &active(&[9])), [domain(2)]);
        assert_eq!(required(&images, &active(&[9])), [domain(1)]);
    }

    #[test]
    fn another_path_without_a_release_keeps_the_domain_required() {
        let images = OriginSet::own(domain(1));
        let released = OriginSet::combine(domain(2), &[(&images, over(&[9], &[1]))]);
        let plain = OriginSet::combine(domain(3), &[(&images, Edge::plain())]);
        let end = OriginSet::combine(domain(4), &[(&released, Edge::plain()), (&plain, Edge::plain())]);
        assert!(required(&end, &active(&[9])).contains(&domain(1)));
        let end = OriginSet::combine(domain(4), &[(&released, Edge::plain()), (&plain, over(&[8], &[1]))]);
        assert!(required(&end, &active(&[9])).contains(&domain(1)));
        assert!(!required(&end, &active(&[8, 9])).contains(&domain(1)));
    }

    #[test]
    fn a_release_further_down_excuses_what_was_an_own_domain() {
        let found = OriginSet::combine(domain(2), &[(&OriginSet::own(domain(1)), Edge::plain())]);
        let score = OriginSet::combine(domain(3), &[(&found, over(&[9], &[1, 2]))]);
        assert_eq!(required(&score, &active(&[9])), [domain(3)]);
    }

    #[test]
    fn too_large_formulas_make_a_domain_required_for_ever() {
        let images = OriginSet::own(domain(1));
        let four = OriginSet::combine(domain(2), &[(&images, over(&[10, 11, 12, 13], &[1]))]);
        assert!(!required(&four, &active(&[13])).contains(&domain(1)));
        let five = OriginSet::combine(domain(3), &[(&four, over(&[14], &[1]))]);
        assert!(required(&five, &active(&[10, 11, 12, 13, 14])).contains(&domain(1)));
        let after = OriginSet::combine(domain(4), &[(&five, over(&[15], &[1]))]);
        assert!(after.get(domain(1)).unwrap().is_always_required());

        let paths: Vec<_> = (20..29)
            .map(|n| OriginSet::combine(domain(n), &[(&images, over(&[n], &[1]))]))
            .collect();
        let all: Vec<u8> = (20..29).collect();
        let join = |n: usize| {
            let parents: Vec<_> = paths[..n].iter().map(|p| (p, Edge::plain())).collect();
            OriginSet::combine(domain(99), &parents)
        };
        assert!(!required(&join(8), &active(&all)).contains(&domain(1)));
        assert!(required(&join(9), &active(&all)).contains(&domain(1)));
    }

    #[test]
    fn a_set_survives_the_round_trip_through_bytes_and_damage_is_noticed() {
        let images = OriginSet::own(domain(1));
        let a = OriginSet::combine(domain(2), &[(&images, over(&[7, 9], &[1]))]);
        let b = OriginSet::combine(domain(3), &[(&images, over(&[8], &[1])), (&a, Edge::plain())]);
        let bytes = b.encode();
        let back = OriginSet::decode(&bytes).unwrap();
        assert_eq!((back.digest(), &back), (b.digest(), &b));
        for cut in 0..bytes.len() {
            assert!(OriginSet::decode(&bytes[..cut]).is_err());
        }
        assert!(OriginSet::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        let swapped = OriginSet::combine(domain(3), &[(&a, Edge::plain()), (&images, over(&[8], &[1]))]);
        assert_eq!(swapped.digest(), b.digest());
    }
}
