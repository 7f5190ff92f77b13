//! Every route of the control plane × who asks, with the status that is expected. One table to review; a route that is
//! missing from it fails the test below it.

use serde_json::{Value, json};

use crate::app::TestApp;

/// Status for: nobody · a stranger (owner of another organization) · member · admin · owner. Rows run in this order, each
/// with all five, weakest first; a row that changes something is written so that it can be repeated.
pub const TABLE: &[(&str, &str, &str, [u16; 5])] = &[
    ("GET", "/healthz", "", [204, 204, 204, 204, 204]),
    ("GET", "/readyz", "", [204, 204, 204, 204, 204]),
    ("GET", "/.well-known/jwks.json", "", [200, 200, 200, 200, 200]),
    ("GET", "/problems/not-found", "", [200, 200, 200, 200, 200]),
    ("GET", "/v1/schemas/pipeline", "", [200, 200, 200, 200, 200]),
    ("GET", "/openapi.json", "", [200, 200, 200, 200, 200]),
    ("GET", "/outbox", "", [200, 200, 200, 200, 200]),
    ("GET", "/outbox/script.js", "", [200, 200, 200, 200, 200]),
    // For whoever operates the installation; here nobody does.
    ("GET", "/v1/outbox", "", [401, 404, 404, 404, 404]),
    (
        "GET",
        "/v1/outbox/mail_00000000000000000000000000000000",
        "",
        [401, 404, 404, 404, 404],
    ),
    ("POST", "/v1/outbox/links", "", [401, 404, 404, 404, 404]),
    ("GET", "/v1/nonsense", "", [404, 404, 404, 404, 404]),
    (
        "POST",
        "/v1/accounts",
        r#"{"email":"no","password":"address"}"#,
        [422, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/sessions",
        r#"{"email":"no@x.test","password":"password"}"#,
        [401, 401, 401, 401, 401],
    ),
    ("GET", "/v1/sessions", "", [401, 200, 200, 200, 200]),
    (
        "DELETE",
        "/v1/sessions/tok_00000000000000000000000000000000",
        "",
        [401, 404, 404, 404, 404],
    ),
    ("GET", "/v1/account", "", [401, 200, 200, 200, 200]),
    ("GET", "/v1/log-in-methods", "", [200, 200, 200, 200, 200]),
    // The installation of the tests knows no provider.
    ("GET", "/v1/log-in/none", "", [404, 404, 404, 404, 404]),
    ("GET", "/v1/log-in/none/callback", "", [404, 404, 404, 404, 404]),
    (
        "POST",
        "/v1/log-in/second-factor",
        r#"{"second_factor":"123456"}"#,
        [401, 401, 401, 401, 401],
    ),
    (
        "POST",
        "/v1/accounts/link",
        r#"{"code":"no code"}"#,
        [422, 422, 422, 422, 422],
    ),
    ("GET", "/v1/account/passkeys", "", [401, 200, 200, 200, 200]),
    ("POST", "/v1/account/passkeys/begin", "", [401, 200, 200, 200, 200]),
    ("POST", "/v1/account/passkeys", "{}", [401, 422, 422, 422, 422]),
    (
        "DELETE",
        "/v1/account/passkeys/pky_00000000000000000000000000000000",
        "",
        [401, 404, 404, 404, 404],
    ),
    ("POST", "/v1/passkey-log-ins/begin", "", [200, 200, 200, 200, 200]),
    ("POST", "/v1/passkey-log-ins", "{}", [422, 422, 422, 422, 422]),
    ("GET", "/v1/account/identities", "", [401, 200, 200, 200, 200]),
    (
        "POST",
        "/v1/account/identities",
        r#"{"provider":"none"}"#,
        [401, 404, 404, 404, 404],
    ),
    (
        "DELETE",
        "/v1/account/identities?issuer=none&subject=none",
        "",
        [401, 404, 404, 404, 404],
    ),
    ("GET", "/v1/account/second-factors", "", [401, 200, 200, 200, 200]),
    ("POST", "/v1/account/totp", "", [401, 201, 201, 201, 201]),
    ("DELETE", "/v1/account/totp", "", [401, 404, 404, 404, 404]),
    (
        "POST",
        "/v1/account/totp/confirm",
        r#"{"code":"123456"}"#,
        [401, 422, 422, 422, 422],
    ),
    ("POST", "/v1/account/recovery-codes", "", [401, 409, 409, 409, 409]),
    ("GET", "/v1/account/events", "", [401, 200, 200, 200, 200]),
    ("DELETE", "/v1/sessions", "", [401, 200, 200, 200, 200]),
    (
        "POST",
        "/v1/sessions/current/proof",
        r#"{"password":"not the password"}"#,
        [401, 403, 403, 403, 403],
    ),
    (
        "PUT",
        "/v1/account/password",
        r#"{"password":"short"}"#,
        [401, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/account/email",
        r#"{"email":"no address"}"#,
        [401, 422, 422, 422, 422],
    ),
    ("POST", "/v1/account/email/verification", "", [401, 202, 202, 202, 202]),
    (
        "POST",
        "/v1/account/email/confirm",
        r#"{"code":"no code"}"#,
        [401, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/accounts/undo-email",
        r#"{"code":"no code"}"#,
        [422, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/accounts/verify",
        r#"{"code":"no code","password":"x"}"#,
        [422, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/password-resets",
        r#"{"email":"nobody@acme.test"}"#,
        [202, 202, 202, 202, 202],
    ),
    (
        "POST",
        "/v1/password-resets/redeem",
        r#"{"code":"no code","password":"x"}"#,
        [422, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/organizations",
        r#"{"name":"acme"}"#,
        [401, 409, 409, 409, 409],
    ),
    ("GET", "/v1/organizations", "", [401, 200, 200, 200, 200]),
    ("GET", "/v1/tokens", "", [401, 200, 200, 200, 200]),
    (
        "POST",
        "/v1/tokens",
        r#"{"name":"x","organization":"acme"}"#,
        [401, 404, 201, 201, 201],
    ),
    (
        "POST",
        "/v1/tokens",
        r#"{"name":"x","organization":"acme","service_account":"ci"}"#,
        [401, 404, 403, 201, 201],
    ),
    (
        "DELETE",
        "/v1/tokens/tok_00000000000000000000000000000000",
        "",
        [401, 404, 404, 404, 404],
    ),
    (
        "POST",
        "/v1/invitations/accept",
        r#"{"token":"hwd_inv_x"}"#,
        [401, 422, 422, 422, 422],
    ),
    (
        "POST",
        "/v1/access-tokens",
        r#"{"organization":"acme"}"#,
        [401, 404, 200, 200, 200],
    ),
    ("GET", "/device", "", [200, 200, 200, 200, 200]),
    (
        "POST",
        "/v1/device-logins",
        r#"{"client":"x"}"#,
        [201, 201, 201, 201, 201],
    ),
    (
        "POST",
        "/v1/device-logins/answer",
        r#"{"device_code":"x"}"#,
        [401, 401, 401, 401, 401],
    ),
    (
        "POST",
        "/v1/device-logins/request",
        r#"{"user_code":"x"}"#,
        [401, 404, 404, 404, 404],
    ),
    (
        "POST",
        "/v1/device-logins/decision",
        r#"{"user_code":"x","approve":true}"#,
        [401, 404, 404, 404, 404],
    ),
    (
        "POST",
        "/v1/token-exchange",
        r#"{"organization":"acme","token":"x"}"#,
        [401, 401, 401, 401, 401],
    ),
    ("GET", "{org}", "", [401, 404, 200, 200, 200]),
    (
        "PATCH",
        "{org}",
        r#"{"release_approvals":1}"#,
        [401, 404, 403, 403, 200],
    ),
    ("GET", "{org}/plane", "", [401, 404, 200, 200, 200]),
    // The installation of the tests has no address for services.
    (
        "POST",
        "{org}/pipelines/default/lab/open",
        "",
        [401, 404, 409, 409, 409],
    ),
    ("GET", "{org}/members", "", [401, 404, 200, 200, 200]),
    ("GET", "{org}/members/extra@acme.test", "", [401, 404, 200, 200, 200]),
    (
        "PATCH",
        "{org}/members/extra@acme.test",
        r#"{"role":"auditor"}"#,
        [401, 404, 403, 200, 200],
    ),
    (
        "DELETE",
        "{org}/members/nobody@acme.test",
        "",
        [401, 404, 403, 404, 404],
    ),
    ("GET", "{org}/invitations", "", [401, 404, 403, 200, 200]),
    (
        "POST",
        "{org}/invitations",
        r#"{"email":"new@acme.test","role":"member"}"#,
        [401, 404, 403, 201, 201],
    ),
    (
        "POST",
        "{org}/invitations",
        r#"{"email":"new@acme.test","role":"owner"}"#,
        [401, 404, 403, 403, 201],
    ),
    (
        "DELETE",
        "{org}/invitations/invt_00000000000000000000000000000000",
        "",
        [401, 404, 403, 404, 404],
    ),
    ("GET", "{org}/teams", "", [401, 404, 200, 200, 200]),
    (
        "POST",
        "{org}/teams",
        r#"{"name":"labelers"}"#,
        [401, 404, 403, 409, 409],
    ),
    (
        "PUT",
        "{org}/teams/labelers/members/extra@acme.test",
        "",
        [401, 404, 403, 200, 200],
    ),
    (
        "DELETE",
        "{org}/teams/labelers/members/owner@acme.test",
        "",
        [401, 404, 403, 404, 404],
    ),
    ("DELETE", "{org}/teams/none", "", [401, 404, 403, 404, 404]),
    ("GET", "{org}/service-accounts", "", [401, 404, 200, 200, 200]),
    (
        "POST",
        "{org}/service-accounts",
        r#"{"name":"ci"}"#,
        [401, 404, 403, 409, 409],
    ),
    ("DELETE", "{org}/service-accounts/none", "", [401, 404, 403, 404, 404]),
    (
        "POST",
        "/v1/tokens/tok_00000000000000000000000000000000/rotate",
        "{}",
        [401, 404, 404, 404, 404],
    ),
    (
        "POST",
        "/v1/tokens/revoke",
        r#"{"token":"hwd_pat_x"}"#,
        [204, 204, 204, 204, 204],
    ),
    ("GET", "{org}/token-policy", "", [401, 404, 403, 200, 200]),
    (
        "PUT",
        "{org}/token-policy",
        r#"{"longest_days":300}"#,
        [401, 404, 403, 200, 200],
    ),
    ("GET", "{org}/tokens", "", [401, 404, 403, 200, 200]),
    (
        "DELETE",
        "{org}/tokens/tok_00000000000000000000000000000000",
        "",
        [401, 404, 403, 404, 404],
    ),
    (
        "POST",
        "{org}/tokens/tok_00000000000000000000000000000000/approval",
        "",
        [401, 404, 403, 404, 404],
    ),
    ("GET", "{org}/ci-trusts", "", [401, 404, 403, 200, 200]),
    (
        "POST",
        "{org}/ci-trusts",
        r#"{"name":"x","issuer":"https://nobody.test","service_account":"ci","conditions":{"owner_id":"1"}}"#,
        [401, 404, 403, 422, 422],
    ),
    ("DELETE", "{org}/ci-trusts/none", "", [401, 404, 403, 404, 404]),
    ("GET", "{org}/grants", "", [401, 404, 200, 200, 200]),
    ("GET", "{org}/grants?resource=images", "", [401, 404, 404, 200, 200]),
    (
        "POST",
        "{org}/grants",
        r#"{"subject":"sa:ci","role":"viewer","resource":"images"}"#,
        [401, 404, 404, 403, 201],
    ),
    (
        "POST",
        "{org}/grants",
        r#"{"subject":"sa:ci","role":"viewer","resource":"org"}"#,
        [401, 404, 403, 403, 201],
    ),
    ("DELETE", "{org}/grants/{grant}", "", [401, 404, 404, 200, 404]),
    ("GET", "{org}/releases", "", [401, 404, 200, 200, 200]),
    (
        "POST",
        "{org}/releases",
        r#"{"domains":["images"],"pipeline":"images","spec_digest":"abababababab","purpose":"x","expires_in_days":1}"#,
        [401, 404, 404, 201, 201],
    ),
    (
        "POST",
        "{org}/releases/{release}/approvals",
        "{}",
        [401, 404, 404, 403, 403],
    ),
    ("DELETE", "{org}/releases/{release}", "", [401, 404, 404, 200, 200]),
    ("GET", "{org}/access-requests", "", [401, 404, 200, 200, 200]),
    (
        "POST",
        "{org}/access-requests",
        r#"{"ref":"images@main"}"#,
        [401, 404, 201, 201, 201],
    ),
    ("POST", "{org}/restore", "", [401, 404, 404, 404, 404]),
    ("GET", "/v1/notices", "", [401, 200, 200, 200, 200]),
    (
        "POST",
        "/v1/notices/read",
        r#"{"up_to":"ntc_00000000000000000000000000000000"}"#,
        [401, 204, 204, 204, 204],
    ),
    ("GET", "/v1/deleted-organizations", "", [401, 200, 200, 200, 200]),
    ("GET", "/v1/deleted-organizations/acme", "", [401, 404, 404, 404, 404]),
    ("GET", "{org}/audit", "", [401, 404, 403, 200, 200]),
    ("GET", "{org}/audit/export", "", [401, 404, 403, 200, 200]),
    ("GET", "{internal}/policy", "", [401, 401, 401, 401, 401]),
    ("POST", "{internal}/domains", "{domain}", [401, 401, 401, 401, 401]),
    (
        "DELETE",
        "{internal}/domains/dom_00000000000000000000000000000000",
        "",
        [401, 401, 401, 401, 401],
    ),
    (
        "POST",
        "{internal}/audit-checkpoints",
        r#"{"seq":0,"hash":""}"#,
        [401, 401, 401, 401, 401],
    ),
    (
        "POST",
        "{internal}/heartbeat",
        r#"{"epoch":1,"idle_seconds":0}"#,
        [401, 401, 401, 401, 401],
    ),
    ("GET", "/o/acme/v1/repos", "", [401, 401, 401, 401, 401]),
    ("DELETE", "{org}", "", [401, 404, 403, 403, 202]),
    ("DELETE", "/v1/account", "", [401, 204, 204, 204, 204]),
];

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

    let tokens = ["", &stranger.token, &member.token, &admin.token, owner];
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
        let mut found = [0; 5];
        for (at, token) in tokens.iter().enumerate() {
            let answer = app.call(method, &path, token, body.clone()).await;
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

#[test]
fn every_declared_route_stands_in_the_table() {
    let fits = |route: &str, path: &str| {
        let path = path
            .replace("{org}", "/v1/organizations/acme")
            .replace("{internal}", "/internal/v1/planes/id");
        let path = path.split('?').next().unwrap_or_default().to_owned();
        let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
        let rest = route.last().is_some_and(|part| part.starts_with("{*"));
        (route.len() == path.len() || rest && path.len() > route.len())
            && route.iter().zip(&path).all(|(r, p)| r.starts_with('{') || r == p)
    };
    let declared = declared();
    assert!(declared.len() > 30, "the sources were not read: {declared:?}");
    let missing: Vec<&String> = declared
        .iter()
        .filter(|route| !TABLE.iter().any(|(_, path, _, _)| fits(route, path)))
        .collect();
    assert!(missing.is_empty(), "routes without a row: {missing:?}");
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
