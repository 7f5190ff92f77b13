//! The rule told as the story of the satellite challenge.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use contract::api::Decision;
use contract::ids::{AccountId, CommitId, DomainId, GrantId, OrganizationId, ReleaseId, TeamId, TokenId};
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationRole, OrganizationState, Permission, PolicySnapshot, Principal,
    Release, Resource, Role, Team,
};
use provenance::access::{
    Access, Cause, DecisionCache, Lineage, LineageNode, Policy, Subject, Verb, can, decide, explain, guard, impact,
    in_words, read, required_for_egress, required_for_new_pipeline, shown_name, who_can_read,
};
use provenance::origins::{Edge, OriginSet, matching_releases};
use provenance::spec::MaxOrigins;
use uuid::Uuid;

use crate::world::day;

const HOST: u8 = 1;
const RED: u8 = 2;
const BLUE: u8 = 3;
const IMAGES: u8 = 10;
const TRUTH: u8 = 11;
const CODE_RED: u8 = 12;
const DETECT_RED: u8 = 13;
const SCORE_RED: u8 = 14;

fn domain(n: u8) -> DomainId {
    DomainId::from_uuid(Uuid::from_bytes([n; 16]))
}

fn commit(n: u8) -> CommitId {
    CommitId::from_uuid(Uuid::from_bytes([n; 16]))
}

fn account(n: u8) -> AccountId {
    AccountId::from_uuid(Uuid::from_bytes([n; 16]))
}

fn person(n: u8) -> Subject {
    Subject::unlimited(Principal::Account(account(n)))
}

fn grant(who: u8, role: Role, on: u8) -> Grant {
    Grant {
        id: GrantId::from_uuid(Uuid::from_bytes([on; 16])),
        grantee: Grantee::Account(account(who)),
        role,
        resource: Resource::Domain(domain(on)),
    }
}

fn release() -> Release {
    Release {
        id: ReleaseId::from_uuid(Uuid::from_bytes([99; 16])),
        domains: [IMAGES, TRUTH, DETECT_RED].map(domain).to_vec(),
        pipeline: domain(SCORE_RED),
        spec_digest: "d".to_owned(),
        purpose: "scoring".to_owned(),
        approvers: vec![Principal::Account(account(HOST))],
        retroactive: false,
        created_at: day(0),
        expires_at: day(90),
        revoked_at: None,
    }
}

fn snapshot() -> PolicySnapshot {
    let domains = [
        (IMAGES, "images"),
        (TRUTH, "truth"),
        (CODE_RED, "red"),
        (DETECT_RED, "detect-red"),
        (SCORE_RED, "score-red"),
    ];
    let members = [
        (HOST, "host", OrganizationRole::Owner),
        (RED, "red", OrganizationRole::Member),
        (BLUE, "blue", OrganizationRole::Member),
    ];
    let mut grants: Vec<Grant> = [IMAGES, TRUTH, DETECT_RED, SCORE_RED]
        .into_iter()
        .map(|n| grant(HOST, Role::Owner, n))
        .collect();
    grants.extend([
        grant(HOST, Role::Deriver, CODE_RED),
        grant(RED, Role::Owner, CODE_RED),
        grant(RED, Role::Viewer, SCORE_RED),
        grant(RED, Role::Discoverer, DETECT_RED),
        grant(RED, Role::Discoverer, IMAGES),
    ]);
    PolicySnapshot {
        organization: OrganizationId::from_uuid(Uuid::from_bytes([1; 16])),
        state: OrganizationState::Active,
        epoch: 1,
        members: members
            .into_iter()
            .map(|(n, name, role)| Member {
                principal: Principal::Account(account(n)),
                name: format!("{name}@example.com"),
                role,
            })
            .collect(),
        teams: Vec::new(),
        domains: domains
            .into_iter()
            .map(|(n, name)| Domain {
                id: domain(n),
                project: "default".parse().unwrap(),
                name: name.parse().unwrap(),
                deleted: false,
            })
            .collect(),
        grants,
        releases: vec![release()],
        revoked_tokens: Vec::new(),
    }
}

struct Story {
    policy: Policy,
    detect: OriginSet,
    score: OriginSet,
    edge: Edge,
}

fn story(change: impl FnOnce(&mut PolicySnapshot)) -> Story {
    let edge = matching_releases(&Policy::new(snapshot()), domain(SCORE_RED), "d", day(1));
    let own = |n| OriginSet::own(domain(n));
    let plain = Edge::plain;
    let detect = OriginSet::combine(
        domain(DETECT_RED),
        &[(&own(IMAGES), plain()), (&own(CODE_RED), plain())],
    );
    let score = OriginSet::combine(
        domain(SCORE_RED),
        &[(&detect, edge.clone()), (&own(TRUTH), edge.clone())],
    );
    let mut snapshot = snapshot();
    change(&mut snapshot);
    Story {
        policy: Policy::new(snapshot),
        detect,
        score,
        edge,
    }
}

fn lineage(edge: &Edge) -> Lineage {
    let node = |n: u8, inputs: &[u8], edge: Edge| {
        let pipeline = (!inputs.is_empty()).then(|| domain(n));
        let inputs = inputs.iter().map(|i| commit(*i)).collect();
        (
            commit(n),
            LineageNode {
                domain: domain(n),
                pipeline,
                inputs,
                edge,
                unattested: None,
            },
        )
    };
    let nodes = HashMap::from([
        node(IMAGES, &[], Edge::plain()),
        node(TRUTH, &[], Edge::plain()),
        node(CODE_RED, &[], Edge::plain()),
        node(DETECT_RED, &[IMAGES, CODE_RED], Edge::plain()),
        node(SCORE_RED, &[DETECT_RED, TRUTH], edge.clone()),
    ]);
    Lineage {
        object: commit(SCORE_RED),
        nodes,
    }
}

fn may_read(story: &Story, who: u8, set: &OriginSet, now: DateTime<Utc>) -> bool {
    read(&story.policy, &person(who), set, now).is_ok()
}

#[test]
fn the_release_lets_red_read_the_own_report_and_nothing_else() {
    let s = story(|_| {});
    assert!(may_read(&s, HOST, &s.score, day(2)) && may_read(&s, HOST, &s.detect, day(2)));
    assert!(may_read(&s, RED, &s.score, day(2)));
    assert!(!may_read(&s, RED, &s.detect, day(2)));
    assert!(!may_read(&s, BLUE, &s.score, day(2)));
    assert!(!may_read(&s, RED, &s.score, day(91)), "it has expired");
    let revoked = story(|p| p.releases[0].revoked_at = Some(day(5)));
    assert!(may_read(&revoked, RED, &revoked.score, day(4)) && !may_read(&revoked, RED, &revoked.score, day(5)));
    let names = |set, now| {
        who_can_read(&s.policy, set, now)
            .into_iter()
            .map(|r| (r.name, r.by))
            .collect::<Vec<_>>()
    };
    let (host, red) = ("host@example.com".to_owned(), "red@example.com".to_owned());
    assert_eq!(
        names(&s.score, day(2)),
        [
            (host.clone(), "grants".to_owned()),
            (red, "grants and releases".to_owned())
        ]
    );
    assert_eq!(names(&s.score, day(91)), [(host, "grants".to_owned())]);
}

#[test]
fn a_release_matches_only_its_pipeline_with_the_digest_that_was_looked_at() {
    let policy = story(|_| {}).policy;
    let matched = |pipeline, digest, at| matching_releases(&policy, domain(pipeline), digest, at) != Edge::plain();
    assert!(matched(SCORE_RED, "d", day(1)));
    assert!(!matched(SCORE_RED, "e", day(1)));
    assert!(!matched(DETECT_RED, "d", day(1)));
    assert!(!matched(SCORE_RED, "d", day(-1)), "not retroactive");
    let asked = story(|p| p.releases[0].retroactive = true).policy;
    assert!(matching_releases(&asked, domain(SCORE_RED), "d", day(-1)) != Edge::plain());
}

#[test]
fn an_explanation_names_what_may_be_known_and_hides_the_rest() {
    let s = story(|p| p.releases.clear());
    let told = explain(
        &s.policy,
        &person(RED),
        &person(RED),
        Verb::Read,
        &s.score,
        &lineage(&s.edge),
        day(2),
    )
    .unwrap();
    assert_eq!((told.decision, told.token), (Decision::Deny, 1));
    let names: Vec<&str> = told.missing.iter().map(|m| m.domain.as_str()).collect();
    assert_eq!(&names[..2], ["default/detect-red", "default/images"]);
    assert!(
        names[2].starts_with("restricted upstream #") && names.len() == 3,
        "{names:?}"
    );
    let images = &told.missing[1];
    assert_eq!(
        images.reason,
        "you may not read `default/images`, from which this was made"
    );
    assert_eq!(images.who_can_grant, ["host@example.com"]);
    let at = |name: &str, n| format!("default/{name}@{}", commit(n));
    assert_eq!(
        images.witness,
        [
            at("images", IMAGES),
            at("detect-red", DETECT_RED),
            at("score-red", SCORE_RED)
        ]
    );
    assert_eq!(
        told.missing[2].witness,
        [names[2].to_owned(), at("score-red", SCORE_RED)]
    );
    let again = explain(
        &s.policy,
        &person(RED),
        &person(RED),
        Verb::Read,
        &s.score,
        &lineage(&s.edge),
        day(3),
    )
    .unwrap();
    assert_eq!(again, told);

    let s = story(|_| {});
    let told = explain(
        &s.policy,
        &person(RED),
        &person(RED),
        Verb::Read,
        &s.score,
        &lineage(&s.edge),
        day(2),
    )
    .unwrap();
    assert_eq!(
        (told.decision, told.missing.len(), told.releases),
        (Decision::Allow, 0, vec![release().id])
    );
}

#[test]
fn only_those_who_manage_ask_for_others_and_nobody_asks_about_what_he_may_not_know() {
    let s = story(|_| {});
    let ask = |viewer, asked| {
        explain(
            &s.policy,
            &person(viewer),
            &person(asked),
            Verb::Read,
            &s.score,
            &lineage(&s.edge),
            day(2),
        )
    };
    assert!(ask(BLUE, BLUE).is_none());
    assert!(ask(RED, BLUE).is_none());
    let told = ask(HOST, BLUE).unwrap();
    assert_eq!(told.decision, Decision::Deny);
    assert!(
        told.missing
            .iter()
            .all(|m| m.reason.starts_with("blue@example.com may not read `default/"))
    );
}

#[test]
fn managing_an_organization_is_not_reading() {
    let s = story(|p| p.grants.retain(|g| g.grantee != Grantee::Account(account(HOST))));
    assert!(!may_read(&s, HOST, &s.score, day(2)));
    let Access::Denied(denial) = decide(&s.policy, &person(HOST), Verb::Read, &s.score, day(2)) else {
        panic!()
    };
    assert!(!denial.discoverable);
    // With no owner left, those who manage can grant.
    assert_eq!(s.policy.owners(domain(IMAGES)), ["host@example.com"]);
}

#[test]
fn teams_projects_and_organizations_pass_grants_on() {
    let team = Team {
        id: TeamId::from_uuid(Uuid::from_bytes([7; 16])),
        name: "judges".to_owned(),
        members: vec![Principal::Account(account(BLUE))],
    };
    for resource in [Resource::Organization, Resource::Project("default".parse().unwrap())] {
        let s = story(|p| {
            p.grants.push(Grant {
                grantee: Grantee::Team(team.id),
                role: Role::Owner,
                resource,
                ..p.grants[0].clone()
            });
            p.teams.push(team.clone());
        });
        assert!(may_read(&s, BLUE, &s.detect, day(2)));
        assert_eq!(s.policy.owners(domain(IMAGES)), ["host@example.com", "team judges"]);
    }
}

#[test]
fn what_stands_in_the_way_before_grants_is_told_apart() {
    let cause = |s: &Story, subject: &Subject| match decide(&s.policy, subject, Verb::Read, &s.score, day(2)) {
        Access::Denied(denial) => (denial.cause, denial.discoverable),
        Access::Allowed(_) => panic!("it was allowed"),
    };
    let token = TokenId::from_uuid(Uuid::from_bytes([5; 16]));
    let mut red = person(RED);
    red.token = Some(token);
    let s = story(|p| p.revoked_tokens.push(token));
    assert_eq!(cause(&s, &red), (Cause::TokenRevoked, true));
    let s = story(|p| p.state = OrganizationState::Suspended);
    assert_eq!(cause(&s, &red), (Cause::OrganizationNotActive, true));
    assert!(!can(&s.policy, &red, Permission::Discover, domain(SCORE_RED)));
    let s = story(|p| p.members.retain(|m| m.name != "red@example.com"));
    assert_eq!(cause(&s, &red), (Cause::NotAMember, false));
    let s = story(|p| p.domains.retain(|d| d.id != domain(SCORE_RED)));
    assert_eq!(cause(&s, &red), (Cause::Missing, false), "an unknown domain");
}

#[test]
fn a_tokens_scopes_must_cover_every_required_domain() {
    let s = story(|_| {});
    let with = |scopes: &[&str]| {
        let mut host = person(HOST);
        host.scopes = scopes.iter().map(|t| t.parse().unwrap()).collect();
        read(&s.policy, &host, &s.detect, day(2))
            .map(|_| ())
            .map_err(|d| (d.missing, d.discoverable))
    };
    assert_eq!(with(&["read:*"]), Ok(()));
    assert_eq!(with(&["*:project:default"]), Ok(()));
    let all = vec![domain(IMAGES), domain(CODE_RED), domain(DETECT_RED)];
    assert_eq!(
        with(&["read:default/images", "read:default/detect-red"]),
        Err((vec![domain(CODE_RED)], true))
    );
    assert_eq!(with(&["write:*"]), Err((all.clone(), true)));
    assert_eq!(with(&["read:project:other"]), Err((all, false)));
}

#[test]
fn a_new_pipeline_needs_derive_on_everything_upstream_and_its_impact_is_told() {
    let s = story(|_| {});
    let missing = |who, heads: &[&OriginSet]| required_for_new_pipeline(&s.policy, &person(who), heads, day(2));
    assert!(missing(HOST, &[&s.detect, &s.score]).is_empty());
    // The code is owned, the report is read-only, the images are neither.
    assert_eq!(
        missing(RED, &[&OriginSet::own(domain(CODE_RED)), &s.score]),
        [domain(SCORE_RED)]
    );
    assert_eq!(missing(RED, &[&s.detect]), [domain(IMAGES), domain(DETECT_RED)]);
    let lost = impact(&s.policy, &[domain(SCORE_RED)], &[domain(SCORE_RED), domain(TRUTH)]);
    let lost: Vec<_> = lost.iter().map(|l| (l.name.as_str(), l.missing.as_slice())).collect();
    assert_eq!(lost, [("red@example.com", &[domain(TRUTH)][..])]);
}

#[test]
fn a_pinned_repo_refuses_origins_that_it_does_not_admit() {
    let s = story(|_| {});
    let named = |names: &[&str]| MaxOrigins::Named(names.iter().map(|n| format!("default/{n}")).collect());
    assert!(guard(&s.policy, &named(&["images", "red"]), &s.detect, day(2)).is_empty());
    assert_eq!(
        guard(&s.policy, &named(&["images"]), &s.detect, day(2)),
        [domain(CODE_RED)]
    );
    assert!(guard(&s.policy, &MaxOrigins::Count(2), &s.detect, day(2)).is_empty());
    assert_eq!(guard(&s.policy, &MaxOrigins::Count(1), &s.detect, day(2)).len(), 2);
}

#[test]
fn a_cached_decision_dies_with_the_epoch_and_with_the_release() {
    let s = story(|_| {});
    let cache = DecisionCache::new();
    let allowed = |policy: &Policy, now| cache.read(policy, &person(RED), &s.score, now).is_ok();
    assert!(allowed(&s.policy, day(2)) && allowed(&s.policy, day(2)));
    assert!(!allowed(&s.policy, day(90)));
    assert!(allowed(&s.policy, day(89) + TimeDelta::hours(23)));
    let revoked = story(|p| {
        p.releases[0].revoked_at = Some(day(1));
        p.epoch = 2;
    });
    assert!(!allowed(&revoked.policy, day(2)));
}

#[test]
fn a_witness_does_not_go_through_a_released_edge() {
    let s = story(|_| {});
    let own = OriginSet::own(domain(IMAGES));
    let released = OriginSet::combine(domain(SCORE_RED), &[(&own, s.edge.clone())]);
    let long = OriginSet::combine(domain(TRUTH), &[(&own, Edge::plain())]);
    let longer = OriginSet::combine(domain(DETECT_RED), &[(&long, Edge::plain())]);
    let end = OriginSet::combine(
        domain(CODE_RED),
        &[(&released, Edge::plain()), (&longer, Edge::plain())],
    );
    let mut lineage = lineage(&s.edge);
    lineage.object = commit(CODE_RED);
    for (to, from) in [
        (SCORE_RED, vec![IMAGES]),
        (TRUTH, vec![IMAGES]),
        (DETECT_RED, vec![TRUTH]),
        (CODE_RED, vec![SCORE_RED, DETECT_RED]),
    ] {
        let node = lineage.nodes.get_mut(&commit(to)).unwrap();
        node.inputs = from.into_iter().map(commit).collect();
    }
    let told = explain(
        &s.policy,
        &person(HOST),
        &person(BLUE),
        Verb::Read,
        &end,
        &lineage,
        day(2),
    )
    .unwrap();
    let images = told.missing.iter().find(|m| m.domain == "default/images").unwrap();
    let commits: Vec<&str> = images.witness.iter().map(|s| s.split_once('@').unwrap().1).collect();
    let expected = [IMAGES, TRUTH, DETECT_RED, CODE_RED].map(|n| commit(n).to_string());
    assert_eq!(commits, expected);
}

#[test]
fn a_stored_text_names_domains_as_its_reader_may_know_them() {
    let story = story(|_| {});
    let (images, truth) = (domain(IMAGES), domain(TRUTH));
    let text = format!("{images}@c and {truth}, not dom_1 nor dom_\u{fc}");
    let hidden = shown_name(&story.policy, &person(RED), truth);
    assert!(hidden.starts_with("restricted upstream #"), "{hidden}");
    assert_eq!(
        in_words(&story.policy, &person(RED), &text),
        format!("default/images@c and {hidden}, not dom_1 nor dom_\u{fc}")
    );
    assert_eq!(
        in_words(&story.policy, &person(HOST), &text),
        "default/images@c and default/truth, not dom_1 nor dom_\u{fc}"
    );
    assert_eq!(in_words(&story.policy, &person(HOST), "dom_"), "dom_");
}

#[test]
fn the_network_is_for_who_may_declassify_every_input_that_is_not_released_to_this_pipeline() {
    let story = story(|s| s.grants.push(grant(BLUE, Role::Owner, TRUTH)));
    let (truth, detected) = (OriginSet::own(domain(TRUTH)), OriginSet::own(domain(DETECT_RED)));
    let inputs = [&truth, &detected];
    let missing = |who: u8, digest: &str, now| {
        let edge = matching_releases(&story.policy, domain(SCORE_RED), digest, day(1));
        let parents = [(&truth, edge.clone()), (&detected, edge)];
        let output = OriginSet::combine(domain(SCORE_RED), &parents);
        required_for_egress(&story.policy, &person(who), &inputs, &output, now)
    };
    assert!(missing(HOST, "other", day(2)).is_empty());
    assert_eq!(missing(BLUE, "other", day(2)), [domain(DETECT_RED)]);
    assert_eq!(missing(RED, "other", day(2)), [domain(TRUTH), domain(DETECT_RED)]);
    assert!(missing(RED, "d", day(2)).is_empty(), "released to that very code");
    assert_eq!(missing(RED, "d", day(91)), [domain(TRUTH), domain(DETECT_RED)]);
    assert!(missing(77, "other", day(2)).contains(&domain(TRUTH)), "no member");
}

#[test]
fn a_token_with_scopes_does_not_manage_by_its_owners_role() {
    let story = story(|s| {
        s.grants.retain(|g| g.grantee != Grantee::Account(account(HOST)));
        s.grants.push(grant(HOST, Role::Discoverer, SCORE_RED));
    });
    let set = OriginSet::own(domain(SCORE_RED));
    let asks = |viewer: &Subject| {
        let lineage = lineage(&Edge::plain());
        explain(&story.policy, viewer, &person(RED), Verb::Read, &set, &lineage, day(1)).is_some()
    };
    assert!(asks(&person(HOST)));
    let mut scoped = person(HOST);
    scoped.scopes = vec!["read:default/score-red".parse().unwrap()];
    assert!(!asks(&scoped));
}
