//! The token matrix of the gateway: what is wrong with an access token is found out before anything is looked up or woken.

use chrono::Duration;
use serde_json::{Value, json};

use crate::app::{Answer, Org, TestApp, read};
use crate::forged::{Case, claims_of, forged};

/// Status and text without the request's id.
fn alike(answer: &Answer) -> (u16, Value) {
    let mut body = answer.body.clone();
    body.as_object_mut().unwrap().remove("instance");
    (answer.status, body)
}

/// Tokens that the service signed, for something or somebody else.
fn meant_otherwise(app: &TestApp, org: &Org, good: &str) -> Vec<Case> {
    let signed = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims_of(good);
        change(&mut claims);
        app.app.keys.sign(&claims).unwrap()
    };
    let other: contract::ids::OrganizationId = app.environment.id();
    let audience = contract::claims::plane_audience(other);
    vec![
        ("another audience", signed(&|c| c["aud"] = json!(audience))),
        ("no audience", signed(&|c| c["aud"] = json!(""))),
        ("another issuer", signed(&|c| c["iss"] = json!("http://evil.test"))),
        (
            "our audience and another organization",
            signed(&|c| c["org"] = json!(other)),
        ),
        (
            "a signed checkpoint",
            signed(&|c| *c = json!({ "iss": c["iss"], "aud": format!("audit:{}", org.id), "iat": c["iat"] })),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_token_that_is_not_ours_is_refused_alike_at_the_gateway_too() {
    let app = TestApp::start().await;
    let (org, other) = (app.organization("acme").await, app.organization("other").await);
    let good = app.access_token(&org, &org.owner).await;
    let ask = async |token: &str| app.get("/o/acme/v1/repos", token).await;
    ask(&good).await.ok(200);
    let keys = app.app.keys.jwks();
    let kid = chassis::signed::key_id(&good).unwrap();
    let published = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == json!(kid));
    let expected = alike(&ask("nonsense").await);
    assert_eq!(expected.0, 401);
    for (what, token) in [forged(&good, published.unwrap()), meant_otherwise(&app, &org, &good)].concat() {
        let answer = ask(&token).await;
        assert_eq!(alike(&answer), expected, "{what}");
        assert!(!answer.headers.contains_key("x-seen"), "{what}: the plane has seen it");
        ask(&good).await.ok(200);
    }
    // A good one of another organization finds nothing here, nor does one for an organization that there is not.
    let foreign = app.access_token(&other, &other.owner).await;
    let elsewhere = ask(&foreign).await;
    assert_eq!(elsewhere.status, 404);
    assert_eq!(app.get("/o/nowhere/v1/repos", &good).await.status, 404);
    // An API token or a session in the place of an access token.
    let pat = app
        .post("/v1/tokens", &org.owner.token, json!({ "name": "mine" }))
        .await
        .ok(201);
    for secret in [pat["secret"].as_str().unwrap(), &org.owner.token] {
        assert_eq!(alike(&ask(secret).await), expected);
    }
    for headers in [[&good, &good], [&good, &foreign], [&foreign, &good]] {
        let request = app.request("GET", "/o/acme/v1/repos");
        let bearer = headers.map(|token| format!("Bearer {token}"));
        let request = bearer
            .iter()
            .fold(request, |request, value| request.header("authorization", value));
        read(request).await.problem(401, "signed-out");
    }
    ask(&good).await.ok(200);
    // Made in the time to come, and over.
    let later = app.app.keys.sign(&{
        let mut claims = claims_of(&good);
        claims["iat"] = json!(claims["iat"].as_i64().unwrap() + 6);
        claims
    });
    ask(&later.unwrap()).await.problem(401, "token-expired");
    app.environment.advance(Duration::minutes(11));
    ask(&good).await.problem(401, "token-expired");
}
