//! Every route of the control plane × who asks, held against the table of `authorization_table.rs`. A route or an operation of the
//! document that is missing there fails.

use serde_json::{Value, json};

use crate::app::TestApp;
use crate::authorization_table::TABLE;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_route_answers_everybody_as_the_table_says() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let stranger = app.organization("other").await.owner;
    let member = app.member(&acme, "member@acme.test", "member").await;
    let admin = app.member(&acme, "admin@acme.test", "admin").await;
    let host = app.member(&acme, "host@acme.test", "member").await;
    app.member(&acme, "extra@acme.test", "member").await;
    app.domain(&acme, "default", "images", &host).await;
    let owner = &acme.owner.token;
    app.post(&acme.path("teams"), owner, json!({ "name": "labelers" }))
        .await
        .ok(201);
    app.post(&acme.path("service-accounts"), owner, json!({ "name": "ci" }))
        .await
        .ok(201);
    let grant = json!({ "subject": "user:extra@acme.test", "role": "viewer", "resource": "images" });
    let grant = app.post(&acme.path("grants"), owner, grant).await.ok(201);
    let release = json!({ "domains": ["images"], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    let release = app.post(&acme.path("releases"), owner, release).await.ok(201);

    let (limited, revoked, expired) = weak_tokens(&app, owner).await;
    let tokens = [
        "",
        &stranger.token,
        &member.token,
        &admin.token,
        owner,
        &limited,
        &revoked,
        &expired,
    ];
    let mut wrong = Vec::new();
    for (method, path, body, expected) in TABLE {
        let path = path
            .replace("{org}", "/v1/organizations/acme")
            .replace("{internal}", &format!("/internal/v1/planes/{}", acme.id))
            .replace("{grant}", grant["id"].as_str().unwrap())
            .replace("{release}", release["id"].as_str().unwrap());
        let body = body.replace(
            "{domain}",
            r#"{"id":"dom_00000000000000000000000000000000","project":"a","name":"b","owner":"acc_00000000000000000000000000000000"}"#,
        );
        let body: Option<Value> = serde_json::from_str(&body).ok();
        let mut found = [0; 8];
        for at in [0, 6, 7, 1, 5, 2, 3, 4] {
            let answer = app.call(method, &path, tokens[at], body.clone()).await;
            found[at] = answer.status;
            let leaks = answer.status >= 400 && at < 2 && answer.text.contains("acme.test");
            assert!(!leaks, "{method} {path}: {}", answer.text);
        }
        if found != *expected {
            wrong.push(format!("{method} {path}: expected {expected:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Tokens of the owner: one for another project, one that was revoked, one that has expired.
async fn weak_tokens(app: &TestApp, owner: &str) -> (String, String, String) {
    let make = async |body: Value| {
        let made = app.post("/v1/tokens", owner, body).await.ok(201);
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    };
    let (id, expired) = make(json!({ "name": "expired" })).await;
    sqlx::query("update api_tokens set expires_at = $1 where id = $2")
        .bind(app.environment.now() - chrono::Duration::hours(1))
        .bind(id)
        .execute(&app.app.pool)
        .await
        .unwrap();
    let (id, revoked) = make(json!({ "name": "revoked" })).await;
    app.delete(&format!("/v1/tokens/{id}"), owner).await.ok(204);
    let (_, limited) = make(json!({ "name": "limited", "scopes": ["*:project:elsewhere"] })).await;
    (limited, revoked, expired)
}

/// The routes that the document knows, and those that the slices declare without it, read from their sources.
fn declared() -> Vec<String> {
    let mut routes: Vec<String> = control_plane::app::openapi().paths.paths.into_keys().collect();
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let found = text.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
                routes.extend(found.filter(|r| r.starts_with('/')).map(str::to_owned));
            }
        }
    }
    routes
}

fn fits(route: &str, path: &str) -> bool {
    let path = path
        .replace("{org}", "/v1/organizations/acme")
        .replace("{internal}", "/internal/v1/planes/id");
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    let rest = route.last().is_some_and(|part| part.starts_with("{*"));
    (route.len() == path.len() || rest && path.len() > route.len())
        && route.iter().zip(&path).all(|(r, p)| r.starts_with('{') || r == p)
}

#[test]
fn what_answers_without_a_token_is_described_so() {
    let document = serde_json::to_value(control_plane::app::openapi()).unwrap();
    let wrong: Vec<String> = testkit::openapi::operations(&document)
        .into_iter()
        .filter(|(method, route, operation)| {
            let open = TABLE
                .iter()
                .any(|(m, path, _, status)| m.eq_ignore_ascii_case(method) && fits(route, path) && status[0] != 401);
            open && operation["security"]
                .as_array()
                .is_none_or(|needs| needs.iter().any(|n| *n != json!({})))
        })
        .map(|(method, route, _)| format!("{method} {route}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_declared_route_stands_in_the_table() {
    let declared = declared();
    assert!(declared.len() > 30, "the sources were not read: {declared:?}");
    let missing: Vec<&String> = declared
        .iter()
        .filter(|route| !TABLE.iter().any(|(_, path, _, _)| fits(route, path)))
        .collect();
    assert!(missing.is_empty(), "routes without a row: {missing:?}");
    let document = serde_json::to_value(control_plane::app::openapi()).unwrap();
    let operations = testkit::openapi::operations(&document);
    let stands = |method: &str, route: &str| {
        let mut rows = TABLE.iter();
        rows.any(|(known, path, ..)| known.eq_ignore_ascii_case(method) && fits(route, path))
    };
    let missing: Vec<_> = operations
        .iter()
        .filter(|(method, route, _)| !stands(method, route))
        .collect();
    assert!(missing.is_empty(), "operations without a row: {missing:?}");
}

#[test]
fn the_document_is_openapi_and_says_what_it_must() {
    let document = serde_json::to_value(control_plane::app::openapi()).unwrap();
    let faults = testkit::openapi::faults(&document);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let operations = testkit::openapi::operations(&document);
    assert!(operations.len() > 40, "{}", operations.len());
    let internal = operations
        .iter()
        .any(|(_, path, _)| path.starts_with("/internal") || path.starts_with("/o/"));
    assert!(!internal, "the document tells of internal routes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stranger_gets_the_same_answer_for_an_organization_that_exists_and_one_that_does_not() {
    let app = TestApp::start().await;
    app.organization("acme").await;
    let stranger = app.organization("other").await.owner;
    for (method, path, body, _) in TABLE.iter().filter(|(_, path, ..)| path.starts_with("{org}")) {
        let ask = |name: &'static str| {
            let path = path
                .replace("{org}", &format!("/v1/organizations/{name}"))
                .replace("{grant}", "grt_00000000000000000000000000000000")
                .replace("{release}", "rel_00000000000000000000000000000000");
            let mut request = app
                .request(method, &path)
                .bearer_auth(&stranger.token)
                .header("x-request-id", "r");
            if let Ok(body) = serde_json::from_str::<Value>(body) {
                request = request.json(&body);
            }
            crate::app::read(request)
        };
        let (there, nowhere) = (ask("acme").await, ask("nowhere").await);
        assert_eq!(
            (there.status, &there.text),
            (nowhere.status, &nowhere.text),
            "{method} {path}"
        );
    }
}
