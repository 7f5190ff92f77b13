//! A device that holds passkeys, in software: it makes keys and signs challenges as WebAuthn says.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ec_key::EcKey;

const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const HAS_KEY: u8 = 0x40;

pub struct Authenticator {
    key: EcKey,
    id: Vec<u8>,
    /// The page that the browser shows.
    pub origin: String,
    pub counter: u32,
    /// Whether it asks its holder who he is.
    pub verifies: bool,
    handle: String,
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A head of CBOR: the kind and a number or length.
fn head(kind: u8, number: usize) -> Vec<u8> {
    match number {
        0..24 => vec![kind << 5 | u8::try_from(number).unwrap()],
        24..256 => vec![kind << 5 | 24, u8::try_from(number).unwrap()],
        _ => [
            vec![kind << 5 | 25],
            u16::try_from(number).unwrap().to_be_bytes().to_vec(),
        ]
        .concat(),
    }
}

fn bytes(value: &[u8]) -> Vec<u8> {
    [head(2, value.len()), value.to_vec()].concat()
}

fn text(value: &str) -> Vec<u8> {
    [head(3, value.len()), value.as_bytes().to_vec()].concat()
}

/// A number of a signature as DER writes it.
fn integer(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap_or(number.len() - 1);
    let mut number = number[start..].to_vec();
    if number[0] & 0x80 != 0 {
        number.insert(0, 0);
    }
    [vec![2, u8::try_from(number.len()).unwrap()], number].concat()
}

impl Authenticator {
    pub fn new(number: u8, origin: &str) -> Self {
        Self {
            key: EcKey::of(number),
            id: vec![number; 16],
            origin: origin.to_owned(),
            counter: 1,
            verifies: true,
            handle: String::new(),
        }
    }

    fn client_data(&self, kind: &str, challenge: &Value) -> Vec<u8> {
        let data = json!({ "type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false });
        data.to_string().into_bytes()
    }

    fn data(&self, flags: u8) -> Vec<u8> {
        let flags = if self.verifies { flags | VERIFIED } else { flags };
        let site = Sha256::digest(b"localhost");
        [&site[..], &[flags | PRESENT], &self.counter.to_be_bytes()].concat()
    }

    /// Makes the passkey that these options ask for.
    pub fn create(&mut self, options: &Value) -> Value {
        let options = &options["publicKey"];
        assert_eq!(options["authenticatorSelection"]["residentKey"], "required");
        self.handle = options["user"]["id"].as_str().unwrap().to_owned();
        let (x, y) = self.key.point();
        // A map of 1: 2 (curve), 3: -7 (ES256), -1: 1 (P-256), -2: x, -3: y.
        let cose = [
            vec![0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21],
            bytes(&x),
            vec![0x22],
            bytes(&y),
        ]
        .concat();
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let data = [&self.data(HAS_KEY)[..], &[0; 16], &length, &self.id, &cose].concat();
        let object = [
            head(5, 3),
            text("fmt"),
            text("none"),
            text("attStmt"),
            head(5, 0),
            text("authData"),
            bytes(&data),
        ]
        .concat();
        json!({
            "id": base64(&self.id), "rawId": base64(&self.id), "type": "public-key", "extensions": {},
            "response": {
                "attestationObject": base64(&object),
                "clientDataJSON": base64(&self.client_data("webauthn.create", &options["challenge"])),
            },
        })
    }

    /// Signs the challenge of these options.
    pub fn get(&mut self, options: &Value) -> Value {
        self.counter += 1;
        let client = self.client_data("webauthn.get", &options["publicKey"]["challenge"]);
        let data = self.data(0);
        let signature = self.key.sign(&[&data[..], &Sha256::digest(&client)].concat());
        let numbers = [integer(&signature[..32]), integer(&signature[32..])].concat();
        let signature = [vec![0x30, u8::try_from(numbers.len()).unwrap()], numbers].concat();
        json!({
            "id": base64(&self.id), "rawId": base64(&self.id), "type": "public-key", "extensions": {},
            "response": {
                "authenticatorData": base64(&data), "clientDataJSON": base64(&client),
                "signature": base64(&signature), "userHandle": self.handle,
            },
        })
    }
}
