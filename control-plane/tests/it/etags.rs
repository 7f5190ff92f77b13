//! Tags of what is read, and changes that are made to what was read alone.

use serde_json::{Value, json};

use crate::app::{Answer, TestApp, read};

async fn send(
    app: &TestApp,
    method: &str,
    path: &str,
    token: &str,
    header: (&str, &str),
    body: Option<Value>,
) -> Answer {
    let mut request = app.request(method, path).bearer_auth(token).header(header.0, header.1);
    if let Some(body) = body {
        request = request.json(&body);
    }
    read(request).await
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_has_not_changed_is_not_sent_again() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let (owner, organization) = (&acme.owner.token, "/v1/organizations/acme");
    let member = format!("{organization}/members/owner@acme.test");
    for path in [
        "/openapi.json",
        "/v1/schemas/pipeline",
        "/.well-known/jwks.json",
        organization,
        &member,
    ] {
        let first = app.get(path, owner).await;
        assert_eq!(first.status, 200, "{path}");
        let tag = tag(&first);
        for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let again = send(&app, "GET", path, owner, ("if-none-match", &known), None).await;
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{path} {known}");
            assert_eq!(again.headers["etag"], tag.as_str(), "{path}");
        }
        let other = send(&app, "GET", path, owner, ("if-none-match", "\"other\""), None).await;
        assert_eq!((other.status, other.text), (200, first.text), "{path}");
    }
    // A tag opens nothing: who may not read is told what everybody is told.
    let known = tag(&app.get(organization, owner).await);
    let stranger = app.organization("other").await.owner.token;
    let answer = send(&app, "GET", organization, &stranger, ("if-none-match", &known), None).await;
    answer.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_is_made_to_what_was_read_and_to_nothing_else() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    app.member(&acme, "ada@acme.test", "member").await;
    let owner = &acme.owner.token;
    let member = acme.path("members/ada@acme.test");
    for (path, first, second) in [
        (
            "/v1/organizations/acme",
            json!({ "release_approvals": 2 }),
            json!({ "release_approvals": 1 }),
        ),
        (&member, json!({ "role": "auditor" }), json!({ "role": "admin" })),
    ] {
        let before = tag(&app.get(path, owner).await);
        let changed = send(&app, "PATCH", path, owner, ("if-match", &before), Some(first)).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        let lost = send(&app, "PATCH", path, owner, ("if-match", &before), Some(second.clone())).await;
        lost.problem(412, "precondition-failed");
        let now = app.get(path, owner).await;
        assert_eq!((&now.text, tag(&now)), (&changed.text, tag(&changed)), "{path}");
        let again = send(&app, "PATCH", path, owner, ("if-match", &tag(&changed)), Some(second)).await;
        assert_eq!(again.status, 200, "{}", again.text);
    }
}
