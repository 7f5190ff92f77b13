//! Every route of the control plane × tokens of an owner that have one scope each: what a scope does not name, its token does not get.

use serde_json::{Value, json};

use crate::app::TestApp;
use crate::authorization_table::TABLE;

/// The verbs of scopes.
const VERBS: [&str; 6] = ["discover", "read", "write", "derive", "declassify", "admin"];

/// Routes that any token of a member may use: they tell it who it is, give it an access token that has its scopes, or ask a
/// steward for more.
const FOR_ALL: [(&str, &str); 5] = [
    ("GET", "/v1/account"),
    ("GET", "/v1/organizations"),
    ("POST", "/v1/access-tokens"),
    ("POST", "{org}/pipelines/default/lab/open"),
    ("POST", "{org}/access-requests"),
];

/// The verbs by which a token may be let in. A route that is not named lets scopes see what members see, and `admin` change it;
/// outside of an organization nothing is for tokens with scopes.
fn expected(method: &str, path: &str) -> &'static [&'static str] {
    if FOR_ALL.contains(&(method, path)) {
        return &VERBS;
    }
    match (method, path.starts_with("{org}")) {
        ("GET", true) => &["discover", "admin"],
        (_, true) if path.contains("/releases") => &["declassify"],
        (_, true) => &["admin"],
        (_, false) => &[],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_of_one_scope_gets_what_that_scope_names_and_nothing_else() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let owner = &acme.owner.token;
    app.domain(&acme, "default", "images", &acme.owner).await;
    app.post(&acme.path("teams"), owner, json!({ "name": "labelers" }))
        .await
        .ok(201);
    app.post(&acme.path("service-accounts"), owner, json!({ "name": "ci" }))
        .await
        .ok(201);
    app.member(&acme, "extra@acme.test", "member").await;
    let grant = json!({ "subject": "user:extra@acme.test", "role": "viewer", "resource": "images" });
    let grant = app.post(&acme.path("grants"), owner, grant).await.ok(201);
    let release = json!({ "domains": ["images"], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    let release = app.post(&acme.path("releases"), owner, release).await.ok(201);
    let mut tokens = Vec::new();
    for verb in VERBS {
        let body = json!({ "name": verb, "scopes": [format!("{verb}:*")], "organization": "acme" });
        let made = app.post("/v1/tokens", owner, body).await.ok(201);
        tokens.push(made["secret"].as_str().unwrap().to_owned());
    }
    let (mut wrong, mut let_in) = (Vec::new(), 0);
    // Those that ask who somebody is. The last row deletes the organization.
    let rows = TABLE
        .iter()
        .filter(|(_, _, _, expected)| expected[0] == 401 && expected[1] != 401);
    for (method, path, body, _) in rows {
        let address = path
            .replace("{org}", "/v1/organizations/acme")
            .replace("{grant}", grant["id"].as_str().unwrap())
            .replace("{release}", release["id"].as_str().unwrap());
        let body: Option<Value> = serde_json::from_str(body).ok();
        for (verb, token) in VERBS.iter().zip(&tokens) {
            let answer = app.call(method, &address, token, body.clone()).await;
            // 404 where the scope does not let the token know of it.
            let refused = answer.status == 403 || answer.status == 404;
            let_in += usize::from(!refused);
            if !refused && !expected(method, path).contains(verb) {
                wrong.push(format!("{method} {path}: `{verb}:*` is let in: {}", answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(let_in > 40, "{let_in}");
}
