//! Access tokens that are wrong, made from a good one: for the data plane's tests and the gateway's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::signed::Signer;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// What is wrong with a token, and the token.
pub type Case = (&'static str, String);

/// The key of somebody who publishes nothing.
struct Stranger {
    key: EncodingKey,
    signer: Signer,
}

impl Stranger {
    fn new() -> Self {
        let seed = [9; 32];
        let head = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        Self {
            key: EncodingKey::from_ed_der(&[&head[..], &seed].concat()),
            signer: Signer::from_seed(&seed).unwrap(),
        }
    }

    fn sign(&self, claims: &Value, kid: &str, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid.to_owned());
        change(&mut header);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// What a token says.
pub fn claims_of(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// Tokens that nobody signed as they are, or somebody else did. `published` is the key of the good one.
pub fn forged(good: &str, published: &Value) -> Vec<Case> {
    [altered(good), chosen(good, published), strange(good)].concat()
}

fn altered(good: &str) -> Vec<Case> {
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let mut owner = claims_of(good);
    owner["role"] = json!("auditor");
    vec![
        ("a forged signature", format!("{head}.{flipped}{}", &signature[1..])),
        (
            "the signature of other claims",
            format!("{header}.{}.{signature}", part(&owner)),
        ),
        ("no signature", format!("{head}.")),
        ("cut off in its signature", good[..good.len() - 8].to_owned()),
        ("cut off in its claims", good[..good.len() / 2].to_owned()),
        ("without its head", good[header.len() + 1..].to_owned()),
        ("an API token", format!("hwd_pat_{}", "a".repeat(36))),
        ("nonsense", "nonsense".to_owned()),
        ("dots", "..".to_owned()),
    ]
}

/// Tokens that choose how they are verified.
fn chosen(good: &str, published: &Value) -> Vec<Case> {
    let (kid, claims) = (chassis::signed::key_id(good).unwrap(), claims_of(good));
    let none = |alg: &str| {
        let header = json!({ "alg": alg, "kid": kid, "typ": "JWT" });
        format!("{}.{}.", part(&header), part(&claims))
    };
    let mac = |secret: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.clone());
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let raw = URL_SAFE_NO_PAD.decode(published["x"].as_str().unwrap()).unwrap();
    vec![
        ("alg none", none("none")),
        ("alg NONE", none("NONE")),
        ("alg nonsense", none("EdDSA2")),
        ("a MAC with the published key", mac(published.to_string().as_bytes())),
        ("a MAC with the bytes of the published key", mac(&raw)),
        ("a MAC with the key's id", mac(kid.as_bytes())),
    ]
}

/// Tokens of somebody else's key.
fn strange(good: &str) -> Vec<Case> {
    let (kid, claims, stranger) = (chassis::signed::key_id(good).unwrap(), claims_of(good), Stranger::new());
    let as_key = |kid: &str| stranger.sign(&claims, kid, |_| ());
    let with = |kid: &str, change: &dyn Fn(&mut Header)| stranger.sign(&claims, kid, change);
    let own = stranger.signer.jwk();
    let evil = || Some("http://evil.test/keys".to_owned());
    vec![
        ("another's key under a known id", as_key(&kid)),
        ("another's key under its own id", as_key(stranger.signer.kid())),
        ("an unknown key", as_key("0123456789abcdef")),
        ("a key that is a path", as_key("../../../../dev/null")),
        ("a key that is an address", as_key("http://evil.test/jwks.json")),
        ("a key that is a statement", as_key("' or 1=1 --")),
        ("a key without a name", as_key("")),
        (
            "a key that the token brings",
            with(stranger.signer.kid(), &|header| header.jwk = Some(own.clone())),
        ),
        (
            "a known id and a key that the token brings",
            with(&kid, &|header| header.jwk = Some(own.clone())),
        ),
        (
            "keys at an address that the token names",
            with(&kid, &|header| header.jku = evil()),
        ),
        (
            "unknown keys at an address that the token names",
            with("evil", &|header| header.jku = evil()),
        ),
        (
            "a certificate at an address that the token names",
            with(&kid, &|header| header.x5u = evil()),
        ),
    ]
}
