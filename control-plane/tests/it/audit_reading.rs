//! Reading the audit trail: lists, exports, and who may.

use chrono::{DateTime, Utc};
use contract::api::AuditEvent;
use contract::audit::{CheckpointClaims, Entry};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::app::{Org, TestApp};
use crate::audit::rows;

/// All rows of an export; its checkpoint is that of the last one, and signed.
async fn exported(app: &TestApp, org: &Org) -> Vec<AuditEvent> {
    let text = app.get(&org.path("audit/export"), &org.owner.token).await;
    assert_eq!(text.status, 200, "{}", text.text);
    let mut lines: Vec<&str> = text.text.lines().collect();
    let end: Value = serde_json::from_str(lines.pop().unwrap()).unwrap();
    let rows: Vec<AuditEvent> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = rows.last().unwrap();
    assert_eq!(
        (end["checkpoint"]["seq"].as_u64(), end["checkpoint"]["hash"].as_str()),
        (Some(last.seq), Some(last.hash.as_str()))
    );
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(app.app.keys.jwks()).unwrap();
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&[format!("audit:{}", org.id)]);
    rules.set_required_spec_claims(&["iss", "aud"]);
    rules.validate_exp = false;
    let key = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
    let claims = jsonwebtoken::decode::<CheckpointClaims>(end["signed"].as_str().unwrap(), &key, &rules)
        .unwrap()
        .claims;
    assert_eq!(json!(claims.checkpoint), end["checkpoint"]);
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_export_is_the_whole_chain_under_a_signed_checkpoint() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    app.organization("other").await;
    // More than is read at once.
    let insert = "insert into audit_events (organization_id, seq, at, actor, actor_name, token, action, subject, prev_hash, hash)
                  select $1, n, now(), '', '', '', 'x.y', '', '', '' from generate_series(2, 1100) n";
    sqlx::query(insert)
        .bind(acme.id.to_string())
        .execute(&app.app.pool)
        .await
        .unwrap();
    sqlx::query("update organizations set audit_seq = 1100, audit_hash = '' where id = $1")
        .bind(acme.id.to_string())
        .execute(&app.app.pool)
        .await
        .unwrap();
    app.post(
        &acme.path("teams"),
        &acme.owner.token,
        json!({ "name": "\u{e4} \"x\"" }),
    )
    .await
    .problem(422, "invalid");
    app.post(&acme.path("teams"), &acme.owner.token, json!({ "name": "a" }))
        .await
        .ok(201);
    let rows = exported(&app, &acme).await;
    assert_eq!(rows.len(), 1101);
    assert!(
        rows.iter()
            .zip(1..)
            .all(|(row, seq)| row.seq == seq && row.organization == acme.id)
    );
    for row in [&rows[0], &rows[1100]] {
        let entry = Entry {
            trail: row.trail,
            organization: row.organization,
            seq: row.seq,
            at: row.at,
            actor: &row.actor,
            actor_name: &row.actor_name,
            token: &row.token,
            via: &row.via,
            action: &row.action,
            subject: &row.subject,
            request_id: &row.request_id,
            address: &row.address,
        };
        assert_eq!(hex::encode(entry.link(&hex::decode(&row.prev_hash).unwrap())), row.hash);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn owners_admins_and_auditors_find_rows_by_time_action_person_and_text() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let auditor = app.member(&acme, "auditor@acme.test", "auditor").await;
    let admin = app.member(&acme, "admin@acme.test", "admin").await;
    let before: DateTime<Utc> = app.environment.now();
    app.environment.advance(chrono::Duration::hours(1));
    for name in ["labelers", "l_belers"] {
        app.post(&acme.path("teams"), &admin.token, json!({ "name": name }))
            .await
            .ok(201);
    }
    app.delete(&acme.path("teams/labelers"), &acme.owner.token)
        .await
        .ok(200);
    let found = async |query: &str| {
        let page = app
            .get(&acme.path(&format!("audit?{query}")), &auditor.token)
            .await
            .ok(200);
        let rows = page["items"].as_array().unwrap().clone();
        rows.iter()
            .map(|r| format!("{} {}", r["action"].as_str().unwrap(), r["subject"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let instant = before.format("%Y-%m-%dT%H:%M:%SZ");
    assert_eq!(
        found("action=team").await,
        ["team.delete labelers", "team.create l_belers", "team.create labelers"]
    );
    assert_eq!(
        found("action=team.create&order=oldest").await,
        ["team.create labelers", "team.create l_belers"]
    );
    assert_eq!(found("action=team&actor=ADMIN@acme.test").await.len(), 2);
    assert_eq!(found("q=l_bel").await, ["team.create l_belers"]);
    assert_eq!(found("q=%25").await, Vec::<String>::new());
    assert_eq!(found(&format!("until={instant}")).await, Vec::<String>::new());
    assert_eq!(found("since=2026-11-23T13:00:00Z").await.len(), 3);
    assert_eq!(
        found("since=2026-11-23T13:00:00Z&action=member").await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pages_show_every_row_once_in_either_order_and_take_no_cursor_of_another_list() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let auditor = app.member(&acme, "auditor@acme.test", "auditor").await;
    app.member(&acme, "admin@acme.test", "admin").await;
    for order in ["newest", "oldest"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = app
                .get(
                    &acme.path(&format!("audit?limit=2&order={order}{cursor}")),
                    &auditor.token,
                )
                .await
                .ok(200);
            seen.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|r| r["seq"].as_i64().unwrap()),
            );
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let mut expected: Vec<i64> = rows(&app, &acme).await.iter().map(|r| r.seq).collect();
        if order == "newest" {
            expected.reverse();
        }
        assert_eq!(seen, expected);
        app.get(
            &acme.path(&format!("audit?limit=2&order={order}&q=x{cursor}")),
            &auditor.token,
        )
        .await
        .problem(400, "malformed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trail_of_a_service_that_hears_of_a_removed_auditor_ends_for_him() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let auditor = app.member(&acme, "auditor@acme.test", "auditor").await;
    let billing = app.member(&acme, "billing@acme.test", "billing").await;
    for path in ["audit", "audit/export"] {
        app.get(&acme.path(path), &billing.token)
            .await
            .problem(403, "not-allowed");
        assert_eq!(app.get(&acme.path(path), &auditor.token).await.status, 200);
    }
    let scoped = json!({ "name": "reader", "scopes": ["read:*"], "organization": "acme" });
    let scoped = app.post("/v1/tokens", &auditor.token, scoped).await.ok(201);
    app.get(&acme.path("audit"), scoped["secret"].as_str().unwrap())
        .await
        .problem(403, "not-allowed");
    app.delete(&acme.path("members/auditor@acme.test"), &acme.owner.token)
        .await
        .ok(200);
    for path in ["audit", "audit/export"] {
        app.get(&acme.path(path), &auditor.token)
            .await
            .problem(404, "not-found");
    }
}
