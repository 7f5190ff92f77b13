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

#[test]
fn neither_a_token_nor_a_policy_passes_by_an_algorithm_of_its_own_choice() {
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let right = verifier(&signer, "http://control", "plane:x");
    let good = signer.sign(&claims()).unwrap();
    let (head, _) = good.rsplit_once('.').unwrap();
    let (_, payload) = head.split_once('.').unwrap();
    // {"alg":"none","kid":"1"}
    let none = format!("eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.{payload}.");
    // A MAC whose key is what everybody knows: the published key.
    let mut mac = Header::new(Algorithm::HS256);
    mac.kid = Some(signer.kid().to_owned());
    let public = serde_json::to_vec(signer.jwk()).unwrap();
    let mac = jsonwebtoken::encode(&mac, &claims(), &EncodingKey::from_secret(&public)).unwrap();
    // Without a key id nobody looks for one that fits.
    let nameless = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(), &signer.key).unwrap();
    for token in [&none, &mac, &nameless] {
        assert_eq!(right.access(token, 1_100), Err(VerifyError::Malformed), "{token}");
        assert_eq!(right.policy(token).err(), Some(VerifyError::Malformed), "{token}");
    }
    // Nor is one taken for the other.
    assert_eq!(right.policy(&good).err(), Some(VerifyError::Refused));
}

#[test]
fn tokens_of_the_key_before_and_of_the_next_one_are_believed_while_both_are_published() {
    let (old, new) = (
        Signer::from_seed(&[7; 32]).unwrap(),
        Signer::from_seed(&[8; 32]).unwrap(),
    );
    let published = |keys: &[&Signer]| {
        let keys: Vec<&Jwk> = keys.iter().map(|signer| signer.jwk()).collect();
        Verifier::new(serde_json::json!({ "keys": keys }), "http://control", "plane:x").unwrap()
    };
    let tokens = [&old, &new].map(|signer| signer.sign(&claims()).unwrap());
    let believed = |verifier: &Verifier| tokens.each_ref().map(|token| verifier.access(token, 1_100).is_ok());
    assert_eq!(believed(&published(&[&old])), [true, false]);
    assert_eq!(believed(&published(&[&old, &new])), [true, true]);
    assert_eq!(believed(&published(&[&new])), [false, true]);
    let by_old = published(&[&new]).access(&tokens[0], 1_100);
    assert_eq!(by_old, Err(VerifyError::UnknownKey));
}
