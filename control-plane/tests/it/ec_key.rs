//! Keys of curve P-256 that tests make of a number, as issuers of tokens and authenticators have them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey};

/// PKCS#8 of P-256, up to the secret number.
const HEAD: [u8; 35] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04, 0x20,
];

pub struct EcKey {
    pub signing: EncodingKey,
    pub public: Jwk,
}

impl EcKey {
    pub fn of(number: u8) -> Self {
        let der = [&HEAD[..], &[number; 32]].concat();
        let signing = EncodingKey::from_ec_der(&der);
        let public = Jwk::from_encoding_key(&signing, Algorithm::ES256).unwrap();
        Self { signing, public }
    }

    /// The point of the public key.
    pub fn point(&self) -> (Vec<u8>, Vec<u8>) {
        let AlgorithmParameters::EllipticCurve(curve) = &self.public.algorithm else {
            panic!("not a key of a curve")
        };
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        (decode(&curve.x), decode(&curve.y))
    }

    /// Both numbers of a signature, one after the other.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let text = jsonwebtoken::crypto::sign(message, &self.signing, Algorithm::ES256).unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }
}
