//! Whether an OIDC token is what its issuer signed, and of when. Pure: the key and the time are arguments. The algorithm is taken
//! from a list of ours and must be that of the key, so neither `none` nor a MAC made with the public key passes.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Duration, Utc};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Bytes of a token at most.
const LENGTH_MAX: usize = 16 * 1024;
/// Clocks may be apart by so much.
const LEEWAY: Duration = Duration::seconds(30);
/// A run proves who it is by a token that was made within the last hour, however long its issuer would believe it.
const AGE_MAX: Duration = Duration::hours(1);
/// Bits of an RSA key at the least.
const RSA_BITS_MIN: usize = 2048;
/// Characters of a claim that is looked at or kept.
const CLAIM_LENGTH_MAX: usize = 1024;

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Why a token is not believed: for the organization's audit trail, never for who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No JWT, or with a header that is not understood.
    #[error("it is no JWT with a key id and an algorithm that is accepted")]
    Malformed,
    /// Not an issuer that the operator allows.
    #[error("its issuer is not one that the operator of the service allows")]
    Issuer,
    /// The issuer has no such key.
    #[error("its issuer publishes no key of that id and algorithm")]
    Key,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// It has no end, no beginning, or no subject.
    #[error("it lacks `exp`, `iat` or `sub`")]
    Incomplete,
    /// Its time is over.
    #[error("it has expired, or was made more than an hour ago")]
    Expired,
    /// Its time has not come.
    #[error("it is from the future")]
    Early,
}

/// What a token says before anything of it is believed.
#[derive(Debug)]
pub struct Peek {
    /// Who is said to have made it.
    pub issuer: String,
    /// With which key.
    pub kid: String,
    /// And how.
    pub algorithm: Algorithm,
}

fn json(part: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Reads what is needed in order to find the key.
///
/// # Errors
/// `Malformed` when it is not what we accept.
pub fn peek(token: &str) -> Result<Peek, Doubt> {
    let read = || {
        let mut parts = token.split('.');
        let (header, payload) = (parts.next()?, parts.next()?);
        let signed = parts.next().is_some_and(|signature| !signature.is_empty()) && parts.next().is_none();
        let header = json(header)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        let typ = header.get("typ").is_none() || text("typ").is_some_and(|typ| typ.eq_ignore_ascii_case("JWT"));
        // An extension that has to be understood is not.
        if !signed || !typ || header.contains_key("crit") || token.len() > LENGTH_MAX {
            return None;
        }
        let named = text("alg")?;
        Some(Peek {
            issuer: json(payload)?.get("iss")?.as_str()?.to_owned(),
            kid: text("kid")
                .filter(|kid| !kid.is_empty() && kid.len() <= 256)?
                .to_owned(),
            algorithm: ALGORITHMS.iter().find(|(name, _)| *name == named)?.1,
        })
    };
    read().ok_or(Doubt::Malformed)
}

/// Whether a published key may sign tokens at all.
pub fn is_usable(key: &Jwk) -> bool {
    let signs = !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let strong = match &key.algorithm {
        AlgorithmParameters::RSA(rsa) => rsa_bits(&rsa.n) >= RSA_BITS_MIN,
        AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_) => true,
        _ => false,
    };
    signs && strong && key.common.key_id.is_some()
}

fn rsa_bits(modulus: &str) -> usize {
    let bytes = URL_SAFE_NO_PAD.decode(modulus).unwrap_or_default();
    let first = bytes.iter().position(|byte| *byte != 0);
    first.map_or(0, |at| (bytes.len() - at) * 8 - bytes[at].leading_zeros() as usize)
}

/// Whether a key makes signatures of that kind.
pub fn makes(key: &Jwk, algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let of_kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), RS256 | RS384 | RS512 | PS256 | PS384 | PS512) => true,
        (AlgorithmParameters::EllipticCurve(ec), ES256) => ec.curve == EllipticCurve::P256,
        (AlgorithmParameters::EllipticCurve(ec), ES384) => ec.curve == EllipticCurve::P384,
        (AlgorithmParameters::OctetKeyPair(pair), EdDSA) => pair.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    of_kind
        && key
            .common
            .key_algorithm
            .is_none_or(|named| named == KeyAlgorithm::from(algorithm))
}

/// The claims of a token that its issuer has signed, and that is of now.
#[derive(Debug, Clone)]
pub struct Claims {
    all: Map<String, Value>,
    once: [u8; 32],
    until: DateTime<Utc>,
}

/// Believes a token, or says why not.
///
/// # Errors
/// What is wrong with it.
pub fn verify(token: &str, peek: &Peek, key: &Jwk, now: DateTime<Utc>) -> Result<Claims, Doubt> {
    if !is_usable(key) || !makes(key, peek.algorithm) {
        return Err(Doubt::Key);
    }
    let decoding = DecodingKey::from_jwk(key).map_err(|_| Doubt::Key)?;
    let mut validation = Validation::new(peek.algorithm);
    // Time, issuer and audience are checked here and by the trust: by our clock, and as exactly as we mean it.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let all = jsonwebtoken::decode::<Map<String, Value>>(token, &decoding, &validation)
        .map_err(|_| Doubt::Signature)?
        .claims;
    if all.get("iss").and_then(Value::as_str) != Some(peek.issuer.as_str()) {
        return Err(Doubt::Signature);
    }
    let until = check_time(&all, now)?;
    let claims = Claims {
        once: once(token, &peek.issuer, &all),
        until,
        all,
    };
    claims.text("sub").ok_or(Doubt::Incomplete)?;
    Ok(claims)
}

/// Answers until when the token would be believed.
fn check_time(claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, Doubt> {
    let at = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_i64().ok_or(Doubt::Incomplete)?;
            DateTime::from_timestamp(seconds, 0).map(Some).ok_or(Doubt::Incomplete)
        }
    };
    let (Some(ends), Some(made)) = (at("exp")?, at("iat")?) else {
        return Err(Doubt::Incomplete);
    };
    let begins = at("nbf")?.unwrap_or(made);
    if made > now + LEEWAY || begins > now + LEEWAY {
        return Err(Doubt::Early);
    }
    if now >= ends + LEEWAY || now - made > AGE_MAX || ends <= made {
        return Err(Doubt::Expired);
    }
    Ok(ends.min(made + AGE_MAX) + LEEWAY)
}

/// What makes a token the same as one that was used before: its `jti`, else what was signed. Never the whole text: some signatures
/// can be changed so that they are still right.
fn once(token: &str, issuer: &str, claims: &Map<String, Value>) -> [u8; 32] {
    let jti = claims.get("jti").and_then(Value::as_str).filter(|jti| !jti.is_empty());
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    let (kind, what) = jti.map_or(("signed", signed), |jti| ("jti", jti));
    let mut digest = Sha256::new();
    for part in [kind, issuer, what] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

impl Claims {
    /// A claim as text: numbers and truth values as JSON writes them. `None` when there is none, or it is something else, empty or
    /// too long to be looked at.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = match self.all.get(name)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            _ => return None,
        };
        let plain = !text.is_empty() && text.len() <= CLAIM_LENGTH_MAX && !text.chars().any(char::is_control);
        plain.then_some(text)
    }

    /// Whether it was made for that audience and no other.
    pub fn is_for(&self, audience: &str) -> bool {
        match self.all.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(all)) => matches!(all.as_slice(), [Value::String(only)] if only == audience),
            _ => false,
        }
    }

    /// What is kept so that it is used once.
    pub fn once(&self) -> &[u8; 32] {
        &self.once
    }

    /// Until when that has to be kept.
    pub fn until(&self) -> DateTime<Utc> {
        self.until
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &str| {
            self.text(name)
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect::<String>()
        };
        write!(f, "{} of {}", named("sub"), named("iss"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn token(header: &Value) -> String {
        format!(
            "{}.{}.c2ln",
            part(header),
            part(&serde_json::json!({ "iss": "https://ci" }))
        )
    }

    #[test]
    fn only_known_algorithms_with_a_key_id_are_looked_at() {
        use serde_json::json;
        assert_eq!(
            peek(&token(&json!({ "alg": "RS256", "kid": "1" }))).unwrap().issuer,
            "https://ci"
        );
        for header in [
            json!({ "alg": "none", "kid": "1" }),
            json!({ "alg": "HS256", "kid": "1" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "rs256", "kid": "1" }),
            json!({ "alg": "RS256", "kid": "" }),
            json!({ "alg": "RS256", "kid": 1 }),
            json!({ "alg": "RS256", "kid": "1", "crit": ["b64"], "b64": false }),
            json!({ "alg": "RS256", "kid": "1", "typ": "at+jwt" }),
        ] {
            assert_eq!(peek(&token(&header)).err(), Some(Doubt::Malformed), "{header}");
        }
        let good = token(&json!({ "alg": "RS256", "kid": "1" }));
        for text in [
            "",
            "a",
            "a.b",
            "a.b.c",
            "..",
            &format!("{good}.x"),
            good.trim_end_matches("c2ln"),
        ] {
            assert_eq!(peek(text).err(), Some(Doubt::Malformed), "{text}");
        }
    }

    #[test]
    fn a_token_is_of_now() {
        let now = DateTime::from_timestamp(100_000, 0).unwrap();
        for (exp, nbf, iat, expected) in [
            (100_300, None, 99_990, Ok(())),
            (99_971, None, 99_000, Ok(())),
            (99_970, None, 99_000, Err(Doubt::Expired)),
            (200_000, None, 96_400, Ok(())),
            (200_000, None, 96_399, Err(Doubt::Expired)),
            (200_000, None, 100_031, Err(Doubt::Early)),
            (200_000, Some(100_031), 99_000, Err(Doubt::Early)),
            (99_980, None, 99_990, Err(Doubt::Expired)),
        ] {
            let mut claims = serde_json::json!({ "exp": exp, "iat": iat });
            if let Some(nbf) = nbf {
                claims["nbf"] = nbf.into();
            }
            let found = check_time(claims.as_object().unwrap(), now).map(|_| ());
            assert_eq!(found, expected, "{claims}");
        }
        let eternal = serde_json::json!({ "iat": 99_990 });
        assert!(check_time(eternal.as_object().unwrap(), now).is_err());
    }

    #[test]
    fn a_changed_signature_does_not_make_it_another_token() {
        let none = Map::new();
        assert_eq!(once("a.b.c", "i", &none), once("a.b.d", "i", &none));
        assert_ne!(once("a.b.c", "i", &none), once("a.c.c", "i", &none));
        let jti = serde_json::json!({ "jti": "1" });
        let jti = jti.as_object().unwrap();
        assert_eq!(once("a.b.c", "i", jti), once("x.y.z", "i", jti));
        assert_ne!(once("a.b.c", "i", jti), once("a.b.c", "j", jti));
    }
}
