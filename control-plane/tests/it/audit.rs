//! The audit trail: what leaves a row in it, and that it is one chain.

use serde_json::{Value, json};

use crate::app::{Org, PASSWORD, TestApp};
use crate::authorization_table::TABLE;

const OWN: &str = "it is about a person alone, and stands in his security log";

/// Every operation that changes something, `*` for what is named, and the row that it leaves; where it leaves none, why.
const LEAVES: &[(&str, &str, Result<&str, &str>)] = &[
    ("POST", "/v1/accounts", Ok("organization.create")),
    ("POST", "/v1/sessions", Err("a log-in changes no organization")),
    ("DELETE", "/v1/sessions/*", Ok("session.revoke")),
    ("POST", "/v1/organizations", Ok("organization.create")),
    ("POST", "/v1/tokens", Ok("token.create")),
    ("DELETE", "/v1/tokens/*", Ok("token.revoke")),
    ("POST", "/v1/invitations/accept", Ok("invitation.accept")),
    (
        "POST",
        "/v1/access-tokens",
        Err("what a token is exchanged for acts as that token"),
    ),
    (
        "POST",
        "{org}/pipelines/*/*/open",
        Err("what a token is exchanged for acts as that token"),
    ),
    ("POST", "/v1/notices/read", Err("what somebody has read is his own")),
    ("POST", "{org}/restore", Ok("organization.restore")),
    ("PATCH", "{org}", Ok("organization.release_approvals")),
    ("PATCH", "{org}/members/*", Ok("member.role")),
    ("DELETE", "{org}/members/*", Ok("member.remove")),
    ("POST", "{org}/invitations", Ok("invitation.create")),
    ("DELETE", "{org}/invitations/*", Ok("invitation.revoke")),
    ("POST", "{org}/teams", Ok("team.create")),
    ("PUT", "{org}/teams/*/members/*", Ok("team.add")),
    ("DELETE", "{org}/teams/*/members/*", Ok("team.remove")),
    ("DELETE", "{org}/teams/*", Ok("team.delete")),
    ("POST", "{org}/service-accounts", Ok("service_account.create")),
    ("DELETE", "{org}/service-accounts/*", Ok("service_account.delete")),
    ("POST", "{org}/grants", Ok("grant.create")),
    ("DELETE", "{org}/grants/*", Ok("grant.delete")),
    ("POST", "{org}/releases", Ok("release.create")),
    ("POST", "{org}/releases/*/approvals", Ok("release.approve")),
    ("DELETE", "{org}/releases/*", Ok("release.revoke")),
    ("POST", "{org}/access-requests", Ok("access_request.create")),
    ("POST", "{internal}/domains", Ok("domain.register")),
    ("DELETE", "{internal}/domains/*", Ok("domain.delete")),
    (
        "POST",
        "{internal}/audit-checkpoints",
        Err("a signature changes nothing"),
    ),
    (
        "POST",
        "{internal}/heartbeat",
        Err("what a plane says of itself is no change of anybody's"),
    ),
    ("DELETE", "{org}", Ok("organization.delete")),
    ("POST", "/v1/outbox/links", Err(OWN)),
    (
        "PUT",
        "/v1/planes/*/suspension",
        Err("for whoever operates the installation; its row is looked at where planes are tested"),
    ),
    (
        "DELETE",
        "/v1/planes/*/suspension",
        Err("for whoever operates the installation; its row is looked at where planes are tested"),
    ),
    ("POST", "/v1/log-in/second-factor", Err(OWN)),
    ("POST", "/v1/accounts/*", Err(OWN)),
    ("POST", "/v1/account/*", Err(OWN)),
    ("POST", "/v1/account/*/*", Err(OWN)),
    ("DELETE", "/v1/account/*", Err(OWN)),
    ("DELETE", "/v1/account/*/*", Err(OWN)),
    ("POST", "/v1/passkey-log-ins", Err(OWN)),
    ("POST", "/v1/passkey-log-ins/begin", Err(OWN)),
    ("DELETE", "/v1/sessions", Err(OWN)),
    ("POST", "/v1/sessions/current/proof", Err(OWN)),
    ("PUT", "/v1/account/password", Err(OWN)),
    ("POST", "/v1/password-resets", Err(OWN)),
    ("POST", "/v1/password-resets/redeem", Err(OWN)),
    (
        "DELETE",
        "/v1/account",
        Err("the tests of accounts assert what it leaves in each organization"),
    ),
    (
        "POST",
        "/v1/token-exchange",
        Err("the tests of trusts assert the rows of exchanges and refusals"),
    ),
    ("POST", "/v1/device-logins", Err(OWN)),
    ("POST", "/v1/device-logins/*", Err(OWN)),
    (
        "POST",
        "/v1/tokens/*/rotate",
        Err("the tests of the life of tokens rotate some"),
    ),
    (
        "POST",
        "/v1/tokens/revoke",
        Err("the tests of the life of tokens end some by their secret"),
    ),
    (
        "PUT",
        "{org}/token-policy",
        Err("the tests of the life of tokens set policies"),
    ),
    (
        "DELETE",
        "{org}/tokens/*",
        Err("the tests of the life of tokens end some"),
    ),
    (
        "POST",
        "{org}/tokens/*/approval",
        Err("the tests of the life of tokens approve some"),
    ),
    ("POST", "{org}/ci-trusts", Err("the tests of trusts make some")),
    ("DELETE", "{org}/ci-trusts/*", Err("the tests of trusts remove some")),
];

fn fits(pattern: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(p, s)| *p == "*" || p == s)
}

#[derive(Debug, sqlx::FromRow)]
pub struct Row {
    pub seq: i64,
    actor_name: String,
    token: String,
    via: String,
    action: String,
    subject: String,
    request_id: String,
    address: String,
}

pub async fn rows(app: &TestApp, org: &Org) -> Vec<Row> {
    sqlx::query_as(
        "select seq, actor_name, token, via, action, subject, request_id, address from audit_events
         where organization_id = $1 order by seq",
    )
    .bind(org.id.to_string())
    .fetch_all(&app.app.pool)
    .await
    .unwrap()
}

/// A story in which every operation that changes something is carried out, and what it left.
struct Story<'a> {
    app: &'a TestApp,
    org: &'a Org,
    told: Vec<(&'static str, &'static str)>,
}

impl Story<'_> {
    /// Carries an operation out and asserts the one row that it leaves; answers the operation's answer.
    async fn leaves(&mut self, method: &str, path: &str, token: &str, body: Option<Value>, subject: &str) -> Value {
        let before = rows(self.app, self.org).await.len();
        let address = path
            .replace("{org}", "/v1/organizations/acme")
            .replace("{internal}", &format!("/internal/v1/planes/{}", self.org.id));
        let answer = self.app.call(method, &address, token, body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text);
        let (method, pattern, left) = LEAVES
            .iter()
            .find(|(m, pattern, _)| *m == method && fits(pattern, path))
            .unwrap_or_else(|| panic!("{method} {path} is not in the list"));
        self.told.push((method, pattern));
        let after = rows(self.app, self.org).await;
        assert_eq!(after.len(), before + 1, "{method} {path}: {after:?}");
        let row = after.last().unwrap();
        assert_eq!(Ok(row.action.as_str()), *left, "{method} {path}");
        assert!(row.subject.contains(subject), "{method} {path}: {}", row.subject);
        assert_eq!(
            row.request_id,
            answer.headers["x-request-id"].to_str().unwrap(),
            "{method} {path}"
        );
        assert_eq!(row.address, "127.0.0.1", "{method} {path}");
        if !path.starts_with("{internal}") {
            assert_eq!(row.via, "session", "{method} {path}");
            assert!(
                row.token.starts_with("tok_") && row.actor_name.ends_with(".test"),
                "{row:?}"
            );
        }
        answer.body
    }
}

#[test]
fn every_operation_that_changes_something_says_which_row_it_leaves() {
    let missing: Vec<String> = TABLE
        .iter()
        .filter(|(method, path, ..)| *method != "GET" && !path.starts_with("/o/"))
        .filter(|(method, path, ..)| !LEAVES.iter().any(|(m, pattern, _)| m == method && fits(pattern, path)))
        .map(|(method, path, ..)| format!("{method} {path}"))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_change_leaves_one_row_that_says_who_and_from_where() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let founded = rows(&app, &acme).await;
    assert_eq!(
        (founded.len(), founded[0].action.as_str(), founded[0].via.as_str()),
        (1, "organization.create", "session")
    );
    let owner = &acme.owner.token;
    let mut story = Story {
        app: &app,
        org: &acme,
        told: vec![("POST", "/v1/organizations")],
    };

    people(&mut story, owner).await;
    tokens(&mut story, owner).await;
    access(&mut story, owner).await;
    story.leaves("DELETE", "{org}", owner, None, "acme").await;
    story.leaves("POST", "{org}/restore", owner, None, "acme").await;

    let body = json!({ "email": "founder@other.test", "password": PASSWORD, "organization": "other" });
    let made = app.post("/v1/accounts", "", body).await.ok(201);
    let (left,): (String,) =
        sqlx::query_as("select string_agg(action || address, ' ') from audit_events where organization_id = $1")
            .bind(made["organizations"][0]["id"].as_str().unwrap())
            .fetch_one(&app.app.pool)
            .await
            .unwrap();
    assert_eq!(left, "organization.create127.0.0.1");
    story.told.push(("POST", "/v1/accounts"));

    let untold: Vec<_> = LEAVES
        .iter()
        .filter(|(method, pattern, left)| left.is_ok() && !story.told.contains(&(method, pattern)))
        .collect();
    assert!(untold.is_empty(), "the story does not tell {untold:?}");
    assert_one_chain(&app, &acme).await;
}

async fn people(story: &mut Story<'_>, owner: &str) {
    let red = story.app.sign_up("red@acme.test").await;
    let invite = Some(json!({ "email": "red@acme.test", "role": "member" }));
    let taken_back = story
        .leaves("POST", "{org}/invitations", owner, invite.clone(), "red@acme.test")
        .await;
    let path = format!("{{org}}/invitations/{}", taken_back["id"].as_str().unwrap());
    story.leaves("DELETE", &path, owner, None, "red@acme.test").await;
    let made = story
        .leaves("POST", "{org}/invitations", owner, invite, "as member")
        .await;
    let accept = Some(json!({ "token": made["token"] }));
    story
        .leaves("POST", "/v1/invitations/accept", &red.token, accept, "member")
        .await;
    let role = Some(json!({ "role": "auditor" }));
    story
        .leaves(
            "PATCH",
            "{org}/members/red@acme.test",
            owner,
            role,
            "red@acme.test to auditor",
        )
        .await;
    story
        .leaves("POST", "{org}/teams", owner, Some(json!({ "name": "reds" })), "reds")
        .await;
    story
        .leaves(
            "PUT",
            "{org}/teams/reds/members/red@acme.test",
            owner,
            None,
            "red@acme.test to reds",
        )
        .await;
    story
        .leaves(
            "DELETE",
            "{org}/teams/reds/members/red@acme.test",
            owner,
            None,
            "from reds",
        )
        .await;
    story.leaves("DELETE", "{org}/teams/reds", owner, None, "reds").await;
    story
        .leaves("DELETE", "{org}/members/red@acme.test", owner, None, "red@acme.test")
        .await;
    story
        .leaves(
            "POST",
            "{org}/service-accounts",
            owner,
            Some(json!({ "name": "ci" })),
            "ci",
        )
        .await;
}

async fn tokens(story: &mut Story<'_>, owner: &str) {
    for (body, subject) in [
        (json!({ "name": "bound", "organization": "acme" }), "bound for himself"),
        (json!({ "name": "open" }), "open for himself"),
        (
            json!({ "name": "robot", "organization": "acme", "service_account": "ci" }),
            "robot for sa:ci",
        ),
    ] {
        let made = story.leaves("POST", "/v1/tokens", owner, Some(body), subject).await;
        let id = made["id"].as_str().unwrap();
        story
            .leaves("DELETE", &format!("/v1/tokens/{id}"), owner, None, id)
            .await;
    }
    story
        .leaves("DELETE", "{org}/service-accounts/ci", owner, None, "ci")
        .await;
    let body = json!({ "email": "owner@acme.test", "password": PASSWORD });
    let second = story.app.post("/v1/sessions", "", body).await.ok(201);
    story
        .leaves(
            "DELETE",
            "/v1/sessions/current",
            second["session_token"].as_str().unwrap(),
            None,
            "tok_",
        )
        .await;
}

async fn access(story: &mut Story<'_>, owner: &str) {
    let host = story.app.member(story.org, "host@acme.test", "member").await;
    let guest = story.app.member(story.org, "guest@acme.test", "member").await;
    let agent = story.app.agent(story.org).await;
    let who = story.app.get("/v1/account", &host.token).await.ok(200);
    let id: contract::ids::DomainId = story.app.environment.id();
    let domain = json!({ "id": id, "project": "default", "name": "images", "owner": who["id"] });
    story
        .leaves(
            "POST",
            "{internal}/domains",
            &agent,
            Some(domain.clone()),
            "default/images",
        )
        .await;
    let grant = json!({ "subject": "user:guest@acme.test", "role": "viewer", "resource": "images" });
    let grant = story
        .leaves(
            "POST",
            "{org}/grants",
            &host.token,
            Some(grant),
            "viewer default/images",
        )
        .await;
    let asked = json!({ "ref": "images@main", "missing": ["default/images"] });
    story
        .leaves(
            "POST",
            "{org}/access-requests",
            &guest.token,
            Some(asked),
            "images@main",
        )
        .await;
    released(story, owner, &host.token).await;
    let path = format!("{{org}}/grants/{}", grant["id"].as_str().unwrap());
    story
        .leaves("DELETE", &path, &host.token, None, "viewer default/images")
        .await;
    let buried = format!("{{internal}}/domains/{id}");
    story.leaves("DELETE", &buried, &agent, None, &id.to_string()).await;
    // Sent twice, they change nothing, and leave nothing.
    let before = rows(story.app, story.org).await.len();
    let again = story.org.internal(&format!("domains/{id}"));
    story.app.delete(&again, &agent).await.ok(200);
    let again = story.org.path(&path["{org}/".len()..]);
    story.app.delete(&again, &host.token).await.problem(404, "not-found");
    assert_eq!(rows(story.app, story.org).await.len(), before);
}

async fn released(story: &mut Story<'_>, owner: &str, host: &str) {
    story
        .leaves("PATCH", "{org}", owner, Some(json!({ "release_approvals": 1 })), "1")
        .await;
    let release = json!({ "domains": ["images"], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    let release = story
        .leaves("POST", "{org}/releases", owner, Some(release), "(proposed)")
        .await;
    let path = format!("{{org}}/releases/{}", release["id"].as_str().unwrap());
    let approvals = format!("{path}/approvals");
    story
        .leaves("POST", &approvals, host, Some(json!({})), "(active)")
        .await;
    story.leaves("DELETE", &path, host, None, "default/images").await;
}

/// The rows of a trail that the database still has, as they would be exported, are one chain.
async fn assert_one_chain(app: &TestApp, org: &Org) {
    let broken: Vec<(i64,)> = sqlx::query_as(
        "select e.seq from audit_events e left join audit_events b on b.organization_id = e.organization_id and b.seq = e.seq - 1
         where e.organization_id = $1 and e.prev_hash <> coalesce(b.hash, '')",
    )
    .bind(org.id.to_string())
    .fetch_all(&app.app.pool)
    .await
    .unwrap();
    assert!(broken.is_empty(), "{broken:?}");
    let all = rows(app, org).await;
    assert!(all.iter().zip(1..).all(|(row, seq)| row.seq == seq));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_are_neither_changed_nor_removed_not_even_by_the_services_own_role() {
    let app = TestApp::start().await;
    app.organization("acme").await;
    for statement in [
        "update audit_events set subject = 'nothing'",
        "delete from audit_events",
        "truncate audit_events",
    ] {
        let refused = sqlx::query(statement).execute(&app.app.pool).await.unwrap_err();
        assert!(refused.to_string().contains("neither changed nor removed"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_refused_or_only_read_leaves_no_row() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let stranger = app.organization("other").await.owner;
    let member = app.member(&acme, "member@acme.test", "member").await;
    let count = async || {
        let (count,): (i64,) = sqlx::query_as("select count(*) from audit_events")
            .fetch_one(&app.app.pool)
            .await
            .unwrap();
        count
    };
    for (method, path, body, _) in TABLE {
        let path = path
            .replace("{org}", "/v1/organizations/acme")
            .replace("{internal}", &format!("/internal/v1/planes/{}", acme.id));
        let body: Option<Value> = serde_json::from_str(body).ok();
        for token in ["", &stranger.token, &member.token, &acme.owner.token] {
            // What ends an organization leaves the row of its erasure too, in the background.
            let ends = path == "/v1/organizations/acme" && token == acme.owner.token || path == "/v1/account";
            if *method == "DELETE" && ends {
                continue;
            }
            let before = count().await;
            let answer = app.call(method, &path, token, body.clone()).await;
            let left = count().await - before;
            let changed = *method != "GET" && answer.status < 300;
            assert!(
                left == 0 || changed && left == 1,
                "{method} {path}: {} left {left}",
                answer.status
            );
        }
    }
}
