//! The token matrix of CI runs: every way in which a run's token can be wrong, answered alike, with the reason in the audit trail.

use control_plane::rate_limits::RateLimits;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::app::Answer;
use crate::ci::{AUDIENCE, Rig, organization};
use crate::ci_issuer::{Key, unsigned};

/// What is wrong with a token, the token, and what the audit trail says of it.
type Case = (&'static str, String, &'static str);

/// Status and text without the request's id.
fn alike(answer: &Answer) -> (u16, Value) {
    let mut body = answer.body.clone();
    body.as_object_mut().unwrap().remove("instance");
    (answer.status, body)
}

fn without(claims: &mut Value, name: &str) {
    claims.as_object_mut().unwrap().remove(name);
}

/// Tokens that the issuer did not sign.
fn forged(rig: &Rig) -> Vec<Case> {
    let (first, claims) = (Key::first(), rig.claims(|_| ()));
    let public = serde_json::to_vec(&first.public()).unwrap();
    let mut mac = Header::new(Algorithm::HS256);
    mac.kid = Some("first".to_owned());
    let mac = jsonwebtoken::encode(&mac, &claims, &EncodingKey::from_secret(&public)).unwrap();
    let good = first.sign(&claims);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let flipped = format!("{head}.{flipped}{}", &signature[1..]);
    let (_, swapped) = first
        .sign(&rig.claims(|c| c["ref"] = json!("x")))
        .split_once('.')
        .map(|(h, p)| (h.to_owned(), p.to_owned()))
        .unwrap();
    let swapped = format!(
        "{}.{}.{signature}",
        head.split('.').next().unwrap(),
        swapped.split('.').next().unwrap()
    );
    let header = |alg: &str| json!({ "alg": alg, "kid": "first", "typ": "JWT" });
    vec![
        ("not a token", "nonsense".to_owned(), "is no JWT"),
        ("alg none", unsigned(&header("none"), &claims, b""), "is no JWT"),
        ("alg None", unsigned(&header("None"), &claims, b"x"), "is no JWT"),
        ("a MAC with the public key", mac, "is no JWT"),
        (
            "an algorithm of another kind of key",
            unsigned(&header("ES256"), &claims, &[1; 64]),
            "no key of that id",
        ),
        ("no signature", unsigned(&header("RS256"), &claims, b""), "is no JWT"),
        ("a forged signature", flipped, "signature is wrong"),
        ("the signature of other claims", swapped, "signature is wrong"),
        (
            "another's key under a known id",
            Key::stranger("first").sign(&claims),
            "signature is wrong",
        ),
        (
            "an unknown key",
            Key::stranger("unknown").sign(&claims),
            "no key of that id",
        ),
    ]
}

/// Tokens that are not of now, or lack what every token has.
fn mistimed(rig: &Rig) -> Vec<Case> {
    let now = rig.now();
    let signed = |change: fn(&mut Value, i64)| Key::first().sign(&rig.claims(|claims| change(claims, now)));
    vec![
        ("expired", signed(|c, now| c["exp"] = json!(now - 30)), "expired"),
        (
            "made long ago",
            signed(|c, now| c["iat"] = json!(now - 3601)),
            "expired",
        ),
        (
            "not yet valid",
            signed(|c, now| c["nbf"] = json!(now + 31)),
            "from the future",
        ),
        (
            "made in the future",
            signed(|c, now| c["iat"] = json!(now + 31)),
            "from the future",
        ),
        ("without an end", signed(|c, _| without(c, "exp")), "lacks"),
        ("without a beginning", signed(|c, _| without(c, "iat")), "lacks"),
        ("without a subject", signed(|c, _| without(c, "sub")), "lacks"),
        (
            "another issuer",
            signed(|c, _| c["iss"] = json!("https://evil.test")),
            "not one that the operator",
        ),
    ]
}

/// Tokens that the issuer made for somebody or something else.
fn meant_otherwise(rig: &Rig) -> Vec<Case> {
    let signed = |change: fn(&mut Value)| Key::first().sign(&rig.claims(change));
    vec![
        (
            "another audience",
            signed(|c| c["aud"] = json!("howdah-other")),
            "another audience",
        ),
        (
            "one audience of several",
            signed(|c| c["aud"] = json!([AUDIENCE, "other"])),
            "another audience",
        ),
        (
            "a part of the audience",
            signed(|c| c["aud"] = json!("howdah-acme2")),
            "another audience",
        ),
        ("no audience", signed(|c| without(c, "aud")), "another audience"),
        (
            "another owner of the same name",
            signed(|c| c["repository_owner_id"] = json!("66")),
            "repository_owner_id",
        ),
        (
            "no owner",
            signed(|c| without(c, "repository_owner_id")),
            "repository_owner_id",
        ),
        ("no environment", signed(|c| without(c, "environment")), "environment"),
        (
            "another environment",
            signed(|c| c["environment"] = json!("Production")),
            "environment",
        ),
        (
            "another branch",
            signed(|c| c["ref"] = json!("refs/heads/main2")),
            "`ref`",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_wrong_token_is_refused_alike_and_the_audit_trail_says_why() {
    let rig = Rig::start_telling(RateLimits {
        refused_runs: 1000,
        ..RateLimits::default()
    })
    .await;
    let expected = rig.exchange("nonsense").await;
    let mut told = rig.reasons(1).await.len();
    for (what, token, reason) in [forged(&rig), mistimed(&rig), meant_otherwise(&rig)].concat() {
        let answer = rig.exchange(&token).await;
        assert_eq!(alike(&answer), alike(&expected), "{what}");
        told += 1;
        let reasons = rig.reasons(told).await;
        let found = &reasons[told - 1];
        assert!(found.contains(reason), "{what}: {found}");
        assert!(!found.contains("eyJ"), "{what}: no part of a token is kept: {found}");
    }
    // An organization that trusts nobody, one that there is not, and another trust's name: the same answer.
    organization(&rig.app, "other").await;
    let token = Key::first().sign(&rig.claims(|_| ()));
    for body in [
        json!({ "organization": "other", "token": token }),
        json!({ "organization": "nowhere", "token": token }),
        json!({ "organization": "acme", "token": token, "trust": "none" }),
    ] {
        let answer = rig.app.post("/v1/token-exchange", "", body.clone()).await;
        assert_eq!(alike(&answer), alike(&expected), "{body}");
    }
    expected.problem(401, "signed-out");
    // Nothing of all that has used it up; an audience may stand in a list by itself.
    let listed = rig.claims(|c| c["aud"] = json!([AUDIENCE]));
    rig.exchange(&Key::first().sign(&listed)).await.ok(201);
}
