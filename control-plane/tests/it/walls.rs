//! Row-level security: what a statement that forgets its organization finds, and that no table is without a wall.

use contract::names::OrganizationName;
use control_plane::authz::{self, ChangePolicy};
use control_plane::database::Tx;
use serde_json::json;
use sqlx::Row;

use crate::app::{Org, TestApp};

/// Tables without `organization_id`, and what holds in place of the rule for those that have it.
const OTHERS: &[(&str, &str)] = &[
    ("_sqlx_migrations", "closed to the role"),
    ("account_events", "closed to the role"),
    ("authenticators", "closed to the role"),
    ("ci_spent", "closed to the role"),
    ("device_logins", "closed to the role"),
    ("half_log_ins", "closed to the role"),
    ("identities", "closed to the role"),
    ("installation", "closed to the role"),
    ("kept_answers", "those of the caller's session or token"),
    ("mailed_codes", "closed to the role"),
    ("mails", "written only"),
    ("passkey_ceremonies", "closed to the role"),
    ("passkeys", "closed to the role"),
    ("plane_rollouts", "closed to the role"),
    ("provider_log_ins", "closed to the role"),
    ("published_keys", "closed to the role"),
    ("recovery_codes", "closed to the role"),
    ("sign_ups", "closed to the role"),
    ("accounts", "members of the organization, few columns"),
    ("data_encryption_keys", "closed to the role"),
    ("organizations", "the organization's own row"),
    ("release_approvals", "those of the organization's releases"),
    ("release_domains", "those of the organization's releases"),
    ("sessions", "those of members, no digest of a secret"),
    ("signing_keys", "closed to the role"),
    ("team_members", "those of the organization's teams"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_table_is_without_a_wall() {
    let app = TestApp::start_without_reconciler().await;
    let tables = sqlx::query(
        "select c.relname::text as name, c.relrowsecurity as walled,
             exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'organization_id') as of_one,
             (select count(*) from pg_policies p where p.tablename = c.relname and 'howdah_tenant' = any(p.roles)) as policies,
             has_table_privilege('howdah_tenant', c.oid, 'select, insert, update, delete') as reached
         from pg_class c where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace order by 1",
    )
    .fetch_all(&app.app.pool)
    .await
    .unwrap();
    assert!(tables.len() > 20);
    for table in tables {
        let name: String = table.get("name");
        let (walled, policies): (bool, i64) = (table.get("walled"), table.get("policies"));
        if table.get("of_one") {
            assert!(
                walled && policies > 0,
                "`{name}` has rows of several organizations and no policy: end its migration with `select protect_by_organization('{name}')`"
            );
        } else {
            let known = OTHERS.iter().find(|(known, _)| *known == name);
            let (_, rule) = known.unwrap_or_else(|| panic!("say in OTHERS what keeps organizations apart in `{name}`"));
            if *rule == "closed to the role" {
                assert!(!table.get::<bool, _>("reached"), "`{name}` is open");
            } else {
                assert!(walled && policies > 0, "`{name}`: {rule}");
            }
        }
    }
    let views: Vec<(String,)> = sqlx::query_as(
        "select relname::text from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace
         and not coalesce(reloptions::text, '') like '%security_invoker=true%'",
    )
    .fetch_all(&app.app.pool)
    .await
    .unwrap();
    assert!(views.is_empty(), "views that see what their reader may not: {views:?}");
}

/// Two organizations that hold something of everything, and a transaction of a member of the first that is authorized.
async fn two_organizations(app: &TestApp) -> (Org, Org, Tx) {
    let (acme, other) = (app.organization("acme").await, app.organization("other").await);
    for org in [&acme, &other] {
        let owner = &org.owner.token;
        let host = app.member(org, &format!("host@{}.test", org.name), "member").await;
        app.domain(org, "default", "images", &host).await;
        for (path, body) in [
            ("teams", json!({ "name": "reds" })),
            ("service-accounts", json!({ "name": "ci" })),
            ("access-requests", json!({ "ref": "images@main" })),
            ("invitations", json!({ "email": "x@example.test" })),
            (
                "releases",
                json!({ "domains": ["images"], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 }),
            ),
        ] {
            app.post(&org.path(path), owner, body).await.ok(201);
        }
        app.call(
            "PUT",
            &org.path(&format!("teams/reds/members/host@{}.test", org.name)),
            owner,
            None,
        )
        .await
        .ok(200);
        app.post("/v1/tokens", owner, json!({ "name": "x", "organization": org.name }))
            .await
            .ok(201);
        app.post("/v1/tokens", owner, json!({ "name": "everywhere" }))
            .await
            .ok(201);
    }
    let actor = authz::authenticate(&app.app.pool, &acme.owner.token, app.environment.now())
        .await
        .unwrap();
    let mut tx = app.app.pool.begin().await.unwrap();
    let name: OrganizationName = "acme".parse().unwrap();
    authz::authorize::<ChangePolicy>(&mut tx, &actor, &name).await.unwrap();
    (acme, other, tx)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_statement_that_forgets_its_organization_finds_nothing_of_another() {
    let app = TestApp::start().await;
    let (acme, _, mut tx) = two_organizations(&app).await;
    let id = acme.id.to_string();
    for table in [
        "members",
        "memberships",
        "invitations",
        "service_accounts",
        "teams",
        "domains",
        "grants",
        "releases",
        "access_requests",
        "planes",
        "audit_events",
    ] {
        let found: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(format!("select organization_id from {table}")))
            .fetch_all(&mut *tx)
            .await
            .unwrap_or_else(|e| panic!("{table}: {e}"));
        assert!(!found.is_empty(), "{table}");
        assert!(found.iter().all(|(found,)| *found == id), "{table}");
    }
    for (statement, expected) in [
        ("select count(*) from organizations", 1),
        ("select count(*) from team_members", 1),
        ("select count(*) from release_domains", 1),
        ("select count(*) from release_approvals", 0),
        ("select count(*) from accounts where email like '%@other.test'", 0),
        ("select count(*) from (select email from accounts) a", 2),
        ("select count(*) from (select id from sessions) s", 2),
        ("select count(*) from api_tokens", 2),
    ] {
        let (count,): (i64,) = sqlx::query_as(statement)
            .fetch_one(&mut *tx)
            .await
            .unwrap_or_else(|e| panic!("{statement}: {e}"));
        assert_eq!(count, expected, "{statement}");
    }
    for statement in [
        "update grants set role = 'viewer'",
        "update api_tokens set revoked_at = now()",
        "delete from teams",
    ] {
        let done = sqlx::query(statement).execute(&mut *tx).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_confined_transaction_reaches_no_secret_and_writes_into_no_other_organization() {
    let app = TestApp::start().await;
    let (_, other, tx) = two_organizations(&app).await;
    drop(tx);
    let foreign = other.id.to_string();
    let actor = authz::authenticate(&app.app.pool, &other.owner.token, app.environment.now())
        .await
        .unwrap();
    for statement in [
        "select password_hash from accounts",
        "select secret_sha256 from sessions",
        "select database_password_encrypted from planes",
        "select data_key_encrypted from planes",
        "select agent_sha256 from planes",
        "select secret_encrypted from signing_keys",
        "select * from _sqlx_migrations",
        "update audit_events set subject = ''",
        "delete from audit_events",
        "update organizations set id = 'org_x'",
        "delete from organizations",
        "insert into organizations (id, name, state, created_at) values ('org_x', 'x', 'active', now())",
        "insert into teams (id, organization_id, name, created_at) values ('team_x', 'org_x', 'x', now())",
        "update teams set organization_id = 'org_x'",
        "insert into team_members (team_id, principal) select 'team_x', 'acc_x'",
        "insert into api_tokens (id, principal, name, scopes, secret_sha256, created_at, created_by, expires_at)
         values ('tok_x', 'acc_x', 'x', '{}', 'x', now(), 'x', now())",
        "update accounts set email = 'x'",
    ] {
        let mut tx = app.app.pool.begin().await.unwrap();
        let name: OrganizationName = "other".parse().unwrap();
        authz::authorize::<ChangePolicy>(&mut tx, &actor, &name).await.unwrap();
        let refused = sqlx::query(statement).execute(&mut *tx).await.unwrap_err().to_string();
        let walled = refused.contains("permission denied") || refused.contains("row-level security");
        assert!(walled, "{statement}: {refused}");
    }
    // The confinement ends with its transaction.
    let (role, organization): (String, Option<String>) =
        sqlx::query_as("select current_user::text, nullif(current_setting('howdah.organization', true), '')")
            .fetch_one(&app.app.pool)
            .await
            .unwrap();
    assert!(
        role != "howdah_tenant" && organization.is_none(),
        "{role} {organization:?} {foreign}"
    );
}
