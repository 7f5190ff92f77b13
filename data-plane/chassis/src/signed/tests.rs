use contract::ids::{AccountId, OrganizationId, TokenId};
use contract::policy::{OrganizationRole, Principal};

use super::*;

fn claims() -> AccessClaims {
    AccessClaims {
        iss: "http://control".to_owned(),
        aud: "plane:x".to_owned(),
        sub: Principal::Account(AccountId::generate(1, [1; 10])),
        name: "ada@example.test".to_owned(),
        org: OrganizationId::generate(1, [2; 10]),
        role: OrganizationRole::Member,
        token: TokenId::generate(1, [3; 10]),
        scopes: Vec::new(),
        ci: None,
        iat: 1_000,
        exp: 1_600,
        jti: "j".to_owned(),
    }
}

fn verifier(signer: &Signer, issuer: &str, audience: &str) -> Verifier {
    Verifier::new(serde_json::json!({ "keys": [signer.jwk()] }), issuer, audience).unwrap()
}

#[test]
fn a_token_is_believed_only_with_the_right_key_issuer_audience_and_time() {
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let token = signer.sign(&claims()).unwrap();
    let right = verifier(&signer, "http://control", "plane:x");

    assert_eq!(right.access(&token, 1_100), Ok(claims()));
    assert_eq!(right.access(&token, 1_605), Err(VerifyError::Expired));
    assert_eq!(right.access(&token, 900), Err(VerifyError::Expired));
    assert_eq!(
        verifier(&signer, "http://other", "plane:x").access(&token, 1_100),
        Err(VerifyError::Refused)
    );
    assert_eq!(
        verifier(&signer, "http://control", "plane:y").access(&token, 1_100),
        Err(VerifyError::Refused)
    );
    let stranger = Signer::from_seed(&[8; 32]).unwrap();
    assert_eq!(
        right.access(&stranger.sign(&claims()).unwrap(), 1_100),
        Err(VerifyError::UnknownKey)
    );
}

#[test]
fn a_changed_token_or_another_algorithm_is_refused() {
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let right = verifier(&signer, "http://control", "plane:x");
    let token = signer.sign(&claims()).unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let mut flipped = signature.to_owned();
    flipped.replace_range(0..1, if signature.starts_with('A') { "B" } else { "A" });

    assert_eq!(
        right.access(&format!("{head}.{flipped}"), 1_100),
        Err(VerifyError::Refused)
    );
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(),
        &EncodingKey::from_secret(b"x"),
    )
    .unwrap();
    assert_eq!(right.access(&hmac, 1_100), Err(VerifyError::Malformed));
    assert_eq!(right.access("", 1_100), Err(VerifyError::Malformed));
    assert_eq!(right.access(&format!("{head}."), 1_100), Err(VerifyError::Refused));
}
