//! R8: when a sponsor's right to derive counts as revoked.

use contract::ids::{AccountId, DomainId, GrantId, OrganizationId, ReleaseId, TeamId};
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationRole, OrganizationState, PolicySnapshot, Principal, Release, Resource,
    Role, Team,
};
use provenance::access::{Grants, Grounds, Policy, Standing, revokes_nothing};
use provenance::origins::{Edge, OriginSet};
use uuid::Uuid;

use crate::world::day;

const SPONSOR: u8 = 1;
const IN: u8 = 10;
const UP: u8 = 11;
const TEAM: u8 = 20;
const OWN: u8 = 30;
const BY_TEAM: u8 = 31;

fn id(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

fn domain(n: u8) -> DomainId {
    DomainId::from_uuid(id(n))
}

fn sponsor() -> Principal {
    Principal::Account(AccountId::from_uuid(id(SPONSOR)))
}

fn grant(n: u8, grantee: Grantee, role: Role, on: u8) -> Grant {
    Grant {
        id: GrantId::from_uuid(id(n)),
        grantee,
        role,
        resource: Resource::Domain(domain(on)),
    }
}

fn own(on: u8) -> Grant {
    grant(
        OWN,
        Grantee::Account(AccountId::from_uuid(id(SPONSOR))),
        Role::Deriver,
        on,
    )
}

fn by_team(on: u8) -> Grant {
    grant(BY_TEAM, Grantee::Team(TeamId::from_uuid(id(TEAM))), Role::Deriver, on)
}

/// An organization with these grants, in which the sponsor is or is no more.
fn policy(is_member: bool, grants: Vec<Grant>) -> PolicySnapshot {
    let name = |n: u8| Domain {
        id: domain(n),
        project: "default".parse().unwrap(),
        name: format!("d{n}").parse().unwrap(),
        deleted: false,
    };
    let members = is_member.then(|| Member {
        principal: sponsor(),
        name: "ada".to_owned(),
        role: OrganizationRole::Member,
    });
    PolicySnapshot {
        organization: OrganizationId::from_uuid(id(1)),
        state: OrganizationState::Active,
        epoch: 1,
        members: members.into_iter().collect(),
        teams: vec![Team {
            id: TeamId::from_uuid(id(TEAM)),
            name: "t".to_owned(),
            members: if is_member { vec![sponsor()] } else { Vec::new() },
        }],
        domains: vec![name(IN), name(UP)],
        grants,
        releases: Vec::new(),
        revoked_tokens: Vec::new(),
    }
}

fn standing(snapshot: PolicySnapshot, known: Option<&Grounds>, heads: &[&OriginSet]) -> Standing {
    let policy = Policy::new(snapshot);
    Grants::of(&policy, day(0)).standing(sponsor(), known, heads)
}

fn held(grants: Vec<Grant>) -> Grounds {
    let found = standing(policy(true, grants), None, &[&OriginSet::own(domain(IN))]);
    assert!(found.lost.is_empty());
    found.grounds
}

#[test]
fn a_right_that_was_held_and_is_gone_was_revoked_and_another_grant_gives_it_back() {
    let input = OriginSet::own(domain(IN));
    let known = held(vec![own(IN)]);
    let lost = standing(policy(true, Vec::new()), Some(&known), &[&input]);
    assert_eq!(lost.lost, [domain(IN)]);
    let viewer = Grant {
        role: Role::Viewer,
        ..own(IN)
    };
    assert_eq!(
        standing(policy(true, vec![viewer]), Some(&known), &[&input]).lost,
        [domain(IN)]
    );
    let back = standing(policy(true, vec![by_team(IN)]), Some(&lost.grounds), &[&input]);
    assert!(back.lost.is_empty());
    // One of two ways is enough.
    let both = held(vec![own(IN), by_team(IN)]);
    assert!(
        standing(policy(true, vec![by_team(IN)]), Some(&both), &[&input])
            .lost
            .is_empty()
    );
}

#[test]
fn a_sponsor_who_leaves_takes_nothing_along_but_what_he_had_lost() {
    let input = OriginSet::own(domain(IN));
    let known = held(vec![own(IN)]);
    assert!(
        standing(policy(false, Vec::new()), Some(&known), &[&input])
            .lost
            .is_empty()
    );
    // A grant to his team can be revoked still.
    let by = held(vec![by_team(IN)]);
    assert!(
        standing(policy(false, vec![by_team(IN)]), Some(&by), &[&input])
            .lost
            .is_empty()
    );
    assert_eq!(
        standing(policy(false, Vec::new()), Some(&by), &[&input]).lost,
        [domain(IN)]
    );
    // Another role that derives, or the same again, is another grant: what counts is that his team may.
    let lost = standing(policy(false, Vec::new()), Some(&by), &[&input]);
    let other = Grant {
        id: GrantId::from_uuid(id(32)),
        role: Role::Owner,
        ..by_team(IN)
    };
    for known in [&by, &lost.grounds] {
        assert!(
            standing(policy(false, vec![other.clone()]), Some(known), &[&input])
                .lost
                .is_empty()
        );
    }
    assert_eq!(
        standing(policy(false, vec![by_team(UP)]), Some(&by), &[&input]).lost,
        [domain(IN)]
    );
    // Revoked first, left then.
    let lost = standing(policy(true, Vec::new()), Some(&known), &[&input]);
    assert_eq!(
        standing(policy(false, Vec::new()), Some(&lost.grounds), &[&input]).lost,
        [domain(IN)]
    );
}

#[test]
fn what_others_brought_into_an_input_is_theirs_and_what_nothing_is_known_of_is_denied() {
    let known = held(vec![own(IN)]);
    let fed = OriginSet::combine(domain(IN), &[(&OriginSet::own(domain(UP)), Edge::plain())]);
    let found = standing(policy(true, vec![own(IN)]), Some(&known), &[&fed]);
    assert!(found.lost.is_empty() && !found.grounds.contains_key(&domain(UP)));
    assert_eq!(standing(policy(true, vec![own(IN)]), None, &[&fed]).lost, [domain(UP)]);
}

#[test]
fn a_release_that_ends_leaves_its_sponsor_without_the_right_and_a_suspended_organization_revokes_nothing() {
    let release = |expires_at| Release {
        id: ReleaseId::from_uuid(id(99)),
        domains: vec![domain(UP)],
        pipeline: domain(IN),
        spec_digest: String::new(),
        purpose: String::new(),
        approvers: Vec::new(),
        retroactive: false,
        created_at: day(-9),
        expires_at,
        revoked_at: None,
    };
    let edge = Edge::new(vec![(ReleaseId::from_uuid(id(99)), vec![domain(UP)])]);
    let released = OriginSet::combine(domain(IN), &[(&OriginSet::own(domain(UP)), edge)]);
    for (expires_at, lost) in [(day(1), Vec::new()), (day(0), vec![domain(UP)])] {
        let mut snapshot = policy(true, vec![own(IN)]);
        snapshot.releases.push(release(expires_at));
        snapshot.state = OrganizationState::Suspended;
        assert_eq!(standing(snapshot, Some(&held(vec![own(IN)])), &[&released]).lost, lost);
    }
}

#[test]
fn a_policy_by_which_a_right_to_derive_may_be_gone_is_told_from_one_that_brought_something_else() {
    let before = policy(true, vec![own(IN), by_team(IN)]);
    let change = |change: fn(&mut PolicySnapshot)| {
        let mut after = before.clone();
        after.epoch += 1;
        change(&mut after);
        revokes_nothing(&before, &after)
    };
    assert!(change(|s| s.domains.push(Domain {
        id: domain(77),
        ..s.domains[0].clone()
    })));
    assert!(change(|s| s.grants.push(Grant {
        role: Role::Viewer,
        ..own(UP)
    })));
    assert!(!change(|s| drop(s.grants.remove(0))));
    assert!(!change(|s| s.grants[1].role = Role::Viewer));
    assert!(!change(|s| s.teams[0].members.clear()));
    assert!(!change(|s| s.members.clear()));
    assert!(!change(|s| drop(s.domains.pop())));
    assert!(!change(|s| s.domains[0].project = "other".parse().unwrap()));
}
