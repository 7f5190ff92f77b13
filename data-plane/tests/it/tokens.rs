//! The token matrix: whatever is wrong with an access token, and what becomes of keys that rotate or are withdrawn.

use axum::body::Body;
use axum::http::{Request, header};
use chassis::signed::Signer;
use contract::claims::AccessClaims;
use contract::policy::{OrganizationRole, PublishedKeys, Role};
use contract::problem::ProblemKind::{self, SignedOut, TokenExpired};
use data_plane::policy::Keys;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply, claims};
use crate::forged::{Case, forged};
use crate::revocation::{Reading, put_large};

fn people(app: &App) -> (AccessClaims, String) {
    let now = app.environment.now().timestamp();
    let mut claims = claims(&app.control, &app.environment, "ada", OrganizationRole::Member);
    claims.exp = now + 600;
    let token = app.control.sign_token(&claims);
    (claims, token)
}

/// Tokens that the control plane signed, for something or somebody else.
fn meant_otherwise(app: &App, claims: &AccessClaims) -> Vec<Case> {
    let signed = |change: &dyn Fn(&mut AccessClaims)| {
        let mut claims = claims.clone();
        change(&mut claims);
        app.control.sign_token(&claims)
    };
    let other: contract::ids::OrganizationId = app.environment.id();
    let checkpoint = json!({ "iss": claims.iss, "aud": format!("audit:{}", claims.org), "iat": claims.iat });
    vec![
        (
            "another audience",
            signed(&|c| c.aud = contract::claims::plane_audience(other)),
        ),
        ("no audience", signed(&|c| c.aud = String::new())),
        ("another issuer", signed(&|c| c.iss = "http://evil.test".to_owned())),
        (
            "another organization",
            signed(&|c| {
                c.org = other;
                c.aud = contract::claims::plane_audience(other);
            }),
        ),
        ("another organization and our audience", signed(&|c| c.org = other)),
        ("a signed checkpoint", app.control.signer().sign(&checkpoint).unwrap()),
    ]
}

async fn ask(app: &App, token: &str) -> Reply {
    let request = Request::get("/v1/repos").header(header::AUTHORIZATION, format!("Bearer {token}"));
    app.send(request.body(Body::empty()).unwrap()).await
}

/// Status and text without the request's id.
fn alike(reply: &Reply, kind: ProblemKind) -> Value {
    reply.refused(kind);
    let mut body: Value = serde_json::from_slice(&reply.body).unwrap();
    body.as_object_mut().unwrap().remove("instance");
    body
}

#[tokio::test]
async fn every_token_that_is_not_ours_is_refused_alike_and_the_good_one_beside_it_is_not() {
    let app = App::start().await;
    let (claims, good) = people(&app);
    let member = contract::policy::Member {
        principal: claims.sub,
        name: "ada".to_owned(),
        role: claims.role,
    };
    app.control.change(|s| s.members.push(member));
    app.caught_up().await;
    ask(&app, &good).await.ok();
    let expected = alike(&ask(&app, "nonsense").await, SignedOut);
    let published = json!(app.control.signer().jwk());
    for (what, token) in [forged(&good, &published), meant_otherwise(&app, &claims)].concat() {
        assert_eq!(alike(&ask(&app, &token).await, SignedOut), expected, "{what}");
        // Nor does anything change.
        let request = Request::post("/v1/projects/default/repos")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        let body = json!({ "name": "r" }).to_string();
        let reply = app.send(request.body(body.into()).unwrap()).await;
        assert_eq!(alike(&reply, SignedOut), expected, "{what}");
        ask(&app, &good).await.ok();
    }
    let now = app.environment.now().timestamp();
    for (iat, exp) in [(now - 700, now - 6), (now - 700, i64::MIN / 2), (now + 6, now + 600)] {
        let token = app.control.sign_token(&AccessClaims {
            iat,
            exp,
            ..claims.clone()
        });
        alike(&ask(&app, &token).await, TokenExpired);
    }
    // Two tokens, either way round, and none in the header's place.
    let bearer = |token: &str| format!("Bearer {token}");
    for headers in [
        vec![bearer(&good), bearer(&good)],
        vec![bearer(&good), bearer("nonsense")],
        vec![bearer("nonsense"), bearer(&good)],
        vec![format!("{}, {}", bearer(&good), bearer(&good))],
        vec![format!("Basic {good}")],
        vec![good.clone()],
        vec!["Bearer ".to_owned()],
        vec![],
    ] {
        let request = headers.iter().fold(Request::get("/v1/repos"), |request, value| {
            request.header(header::AUTHORIZATION, value)
        });
        app.send(request.body(Body::empty()).unwrap()).await.refused(SignedOut);
        ask(&app, &good).await.ok();
    }
}

#[tokio::test]
async fn a_key_that_signs_no_more_is_believed_as_long_as_it_is_published() {
    let app = App::start().await;
    let old = app.member("ada").await;
    let retired = app.control.signer();
    app.control.rotate();
    // At once: it comes with the poll that waits, or is read when it is met.
    let new = app.with_claims(&old, |_| ());
    assert_eq!(
        chassis::signed::key_id(&new.token).as_deref(),
        Some(app.control.signer().kid())
    );
    app.get(&new, "/v1/repos").await.ok();
    app.get(&old, "/v1/repos").await.ok();
    app.control.withdraw(retired.kid());
    app.knows_keys().await;
    app.get(&old, "/v1/repos").await.refused(SignedOut);
    app.get(&new, "/v1/repos").await.ok();
}

#[tokio::test]
async fn a_withdrawn_key_cuts_what_it_let_in_and_is_not_believed_after_a_restart() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    put_large(&app, &ada, "r").await;
    app.grant(&bob, Role::Viewer, &repo).await;
    let reading = Reading::begin(&app, &bob, "r").await;

    let stolen = app.control.signer();
    app.control.rotate();
    app.control.withdraw(stolen.kid());
    // The policy is signed anew.
    app.control.change(|_| ());
    app.knows_keys().await;
    app.caught_up().await;
    app.cat(&bob, "r", "f").await.refused(SignedOut);
    let fresh: Person = app.with_claims(&bob, |_| ());
    app.cat(&fresh, "r", "f").await.ok();
    reading.until_cut().await;

    // The configuration is that of the start, with the stolen key.
    let config = app.plane.config.clone();
    assert!(config.jwks.to_string().contains(stolen.kid()));
    let again = data_plane::plane::Plane::new(config, app.plane.storage.clone(), app.environment.clone()).unwrap();
    assert!(again.policy.load().unwrap(), "it was signed anew");
    let now = app.environment.now();
    assert!(again.policy.keys.access(&bob.token, now).is_err());
    assert!(again.policy.keys.access(&fresh.token, now).is_ok());
}

#[tokio::test]
async fn older_keys_never_take_the_place_of_newer_ones() {
    let app = App::start().await;
    let home = testkit::temporary_directory();
    let (first, second) = (
        Signer::from_seed(&[1; 32]).unwrap(),
        Signer::from_seed(&[2; 32]).unwrap(),
    );
    let published = |version: u64, signer: &Signer| PublishedKeys {
        keys: json!([signer.jwk()]),
        version,
    };
    let configured = |jwks: Value| {
        let mut config = app.plane.config.clone();
        config.home = home.path().to_owned();
        config.jwks = jwks;
        Keys::new(&config)
    };
    // Those of a control plane of the version before say nothing of their age: the last word counts.
    let keys = configured(json!({ "keys": [first.jwk()] })).unwrap();
    assert!(keys.take(&published(0, &second)).unwrap() && keys.holds(second.kid()) && !keys.holds(first.kid()));
    assert!(keys.take(&published(0, &first)).unwrap() && keys.holds(first.kid()));
    assert!(keys.take(&published(7, &second)).unwrap() && keys.version() == 7);
    for version in [0, 6, 7] {
        assert!(!keys.take(&published(version, &first)).unwrap(), "{version}");
        assert!(keys.holds(second.kid()) && !keys.holds(first.kid()), "{version}");
    }
    keys.take(&PublishedKeys {
        keys: json!("nonsense"),
        version: 9,
    })
    .unwrap_err();
    assert_eq!(keys.version(), 7);
    // After a restart those that were kept count, unless the configuration has newer ones; what cannot be read counts for nothing.
    let kept = configured(json!(published(6, &first))).unwrap();
    assert!(kept.version() == 7 && !kept.holds(first.kid()));
    let newer = configured(json!(published(8, &first))).unwrap();
    assert!(newer.version() == 8 && newer.holds(first.kid()));
    std::fs::write(home.path().join("keys.json"), "{").unwrap();
    assert_eq!(configured(json!(published(6, &first))).unwrap().version(), 6);
    assert!(configured(json!({ "keys": 1 })).is_err());
}
