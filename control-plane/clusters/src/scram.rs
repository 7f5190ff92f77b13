//! PostgreSQL's stored form of a password (SCRAM-SHA-256, RFC 5802 and 7677), computed here, so that the password itself
//! stands in no statement and thus in no log of statements.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What PostgreSQL itself takes. Our passwords are long and random, so more would only cost time.
const ITERATIONS: u32 = 4096;
const SALT_LENGTH: usize = 16;

/// The verifier of an ASCII password. The salt follows from role and password, so the same call gives the same text.
pub(super) fn verifier(role: &str, password: &str) -> String {
    let salt = &mac(password.as_bytes(), role.as_bytes())[..SALT_LENGTH];
    let salted = salted(password.as_bytes(), salt);
    let stored = Sha256::digest(mac(&salted, b"Client Key"));
    let server = mac(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    )
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of every length; the library's type has the case.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC refuses no key")
    };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut block = mac(password, &[salt, &1_u32.to_be_bytes()].concat());
    let mut sum = block;
    for _ in 1..ITERATIONS {
        block = mac(password, &block);
        for (sum, byte) in sum.iter_mut().zip(block) {
            *sum ^= byte;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let exchange =
            format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}");
        let server = mac(&salted(b"pencil", &salt), b"Server Key");
        assert_eq!(
            STANDARD.encode(mac(&server, exchange.as_bytes())),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_verifier_tells_neither_its_password_nor_needs_quoting() {
        let verifier = verifier("howdah_1", "hwd_agt_secret");
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:") && !verifier.contains("secret"));
        assert!(!verifier.contains(['\'', '\\']), "{verifier}");
    }
}
