//! Signed claims: compact JWS with EdDSA. The signer holds a private key (control plane only), the verifier a set of
//! public ones. The algorithm is fixed here, never taken from the token.

use contract::claims::AccessClaims;
use contract::policy::PolicyClaims;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Digest;

/// Clock skew that is tolerated between the planes, seconds.
pub const LEEWAY_SECONDS: i64 = 5;
/// DER head of a PKCS #8 Ed25519 private key; the 32-byte seed follows (RFC 8410).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why a signed text is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not a token, or with another algorithm.
    #[error("it is not a token of ours")]
    Malformed,
    /// Signed with a key that is not in the set.
    #[error("it is signed with a key that is not known")]
    UnknownKey,
    /// The signature is wrong, or its issuer or audience is another.
    #[error("its signature, issuer or audience is not the right one")]
    Refused,
    /// Its time is over or has not come.
    #[error("it has expired")]
    Expired,
}

/// A private key that signs.
pub struct Signer {
    kid: String,
    key: EncodingKey,
    jwk: Jwk,
}

impl Signer {
    /// Makes the signer of a 32-byte Ed25519 seed.
    ///
    /// # Errors
    /// When the library refuses the key.
    pub fn from_seed(seed: &[u8; 32]) -> anyhow::Result<Self> {
        let mut der = PKCS8_HEAD.to_vec();
        der.extend_from_slice(seed);
        let key = EncodingKey::from_ed_der(&der);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA)?;
        let public = serde_json::to_vec(&jwk.algorithm)?;
        let kid = sha2::Sha256::digest(&public)
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect::<String>();
        jwk.common.key_id = Some(kid.clone());
        Ok(Self { kid, key, jwk })
    }

    /// The public key's id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key, for the published set.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs claims.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn sign<T: Serialize>(&self, claims: &T) -> anyhow::Result<String> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

/// Verifies what was signed for one audience by one issuer.
#[derive(Clone)]
pub struct Verifier {
    keys: JwkSet,
    issuer: String,
    audience: String,
}

impl Verifier {
    /// Takes a published set of keys: a JWKS, whatever else it says.
    ///
    /// # Errors
    /// When the document is not a JWKS.
    pub fn new(jwks: serde_json::Value, issuer: &str, audience: &str) -> Result<Self, serde_json::Error> {
        Ok(Self {
            keys: serde_json::from_value(jwks)?,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        })
    }

    /// Verifies an access token at that time (Unix seconds).
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn access(&self, token: &str, now: i64) -> Result<AccessClaims, VerifyError> {
        let claims: AccessClaims = self.verify(token)?;
        if now >= claims.exp + LEEWAY_SECONDS || now + LEEWAY_SECONDS < claims.iat {
            return Err(VerifyError::Expired);
        }
        Ok(claims)
    }

    /// Verifies a policy snapshot. It does not expire: how old a policy may be is the data plane's rule.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn policy(&self, token: &str) -> Result<PolicyClaims, VerifyError> {
        self.verify(token)
    }

    /// Whether it is signed with one of these keys, if it is believed.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.find(kid).is_some()
    }

    fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, VerifyError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| VerifyError::Malformed)?;
        if header.alg != Algorithm::EdDSA {
            return Err(VerifyError::Malformed);
        }
        let kid = header.kid.ok_or(VerifyError::Malformed)?;
        let jwk = self.keys.find(&kid).ok_or(VerifyError::UnknownKey)?;
        let key = DecodingKey::from_jwk(jwk).map_err(|_| VerifyError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["iss", "aud"]);
        // The time is checked by the caller, against the process's clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        jsonwebtoken::decode::<T>(token, &key, &validation)
            .map(|data| data.claims)
            .map_err(|_| VerifyError::Refused)
    }
}

/// The id of the key that a token names. Only of one that is believed does that mean anything.
pub fn key_id(token: &str) -> Option<String> {
    jsonwebtoken::decode_header(token).ok()?.kid
}

#[cfg(test)]
mod tests;
