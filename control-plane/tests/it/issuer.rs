//! A provider of OpenID Connect as far as a log-in sees one: discovery, keys, and the exchange of a code, each code once and for the
//! challenge that it was asked with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use contract::config::{PeopleConfig, ProviderConfig};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::ec_key::EcKey;

const CLIENT: &str = "howdah-at-test";
const SECRET: &str = "the client's secret";

pub struct Issuer {
    pub url: String,
    state: Arc<Mutex<Inside>>,
}

struct Inside {
    key: (u8, String),
    codes: BTreeMap<String, (String, String)>,
}

/// How a token is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    None,
    Nonce,
    Audience,
    Issuer,
    Expired,
    Old,
    Unsigned,
    SharedSecret,
    OtherKey,
    UnknownKey,
}

/// Where a browser was led, taken apart.
pub struct Asked {
    pub state: String,
    pub nonce: String,
    pub challenge: String,
}

impl Asked {
    pub fn read(url: &str) -> Self {
        let url = url::Url::parse(url).unwrap();
        let value = |name: &str| url.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
        assert_eq!(value("code_challenge_method"), "S256");
        assert_eq!(value("response_type"), "code");
        assert_eq!(value("client_id"), CLIENT);
        Self {
            state: value("state"),
            nonce: value("nonce"),
            challenge: value("code_challenge"),
        }
    }
}

impl Issuer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(Inside {
            key: (1, "first".to_owned()),
            codes: BTreeMap::new(),
        }));
        let about = json!({
            "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
            "jwks_uri": format!("{url}/keys"), "response_types_supported": ["code"], "subject_types_supported": ["public"],
            // A provider may well say more than we take.
            "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
        });
        let router = axum::Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(move || async move { axum::Json(about) }),
            )
            .route("/keys", get(keys))
            .route("/token", post(exchange))
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    pub fn configured(&self, people: PeopleConfig) -> PeopleConfig {
        PeopleConfig {
            providers: vec![ProviderConfig {
                name: "test".to_owned(),
                title: "Test Provider".to_owned(),
                issuer: self.url.clone(),
                client_id: CLIENT.to_owned(),
                client_secret: SECRET.to_owned(),
            }],
            ..people
        }
    }

    pub fn rotate(&self, number: u8, kid: &str) {
        self.state.lock().unwrap().key = (number, kid.to_owned());
    }

    /// The code that the provider gives to somebody who logged in there.
    pub fn code(&self, asked: &Asked, subject: &str, email: &Value, now: i64, flaw: Flaw) -> String {
        let mut claims = json!({
            "iss": self.url, "aud": CLIENT, "sub": subject, "nonce": asked.nonce, "iat": now, "exp": now + 300,
        });
        claims
            .as_object_mut()
            .unwrap()
            .extend(email.as_object().unwrap().clone());
        match flaw {
            Flaw::Nonce => claims["nonce"] = json!("another"),
            Flaw::Audience => claims["aud"] = json!("another-client"),
            Flaw::Issuer => claims["iss"] = json!("https://evil.example"),
            Flaw::Expired => claims["exp"] = json!(now),
            Flaw::Old => claims["iat"] = json!(now - 3600),
            _ => {}
        }
        let mut inside = self.state.lock().unwrap();
        let token = token(&inside.key, &claims, flaw);
        let code = format!("code-{}", inside.codes.len());
        inside.codes.insert(code.clone(), (asked.challenge.clone(), token));
        code
    }
}

fn token((number, kid): &(u8, String), claims: &Value, flaw: Flaw) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(kid.clone());
    let key = EcKey::of(*number);
    let sign = |header: &Header, key: &EncodingKey| jsonwebtoken::encode(header, claims, key).unwrap();
    match flaw {
        Flaw::Unsigned => {
            let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
            format!("{}.{}.", part(json!({ "alg": "none" })), part(claims.clone()))
        }
        Flaw::SharedSecret => sign(
            &Header::new(Algorithm::HS256),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        ),
        Flaw::OtherKey => sign(&header, &EcKey::of(77).signing),
        Flaw::UnknownKey => {
            header.kid = Some("unknown".to_owned());
            sign(&header, &key.signing)
        }
        _ => sign(&header, &key.signing),
    }
}

async fn keys(State(state): State<Arc<Mutex<Inside>>>) -> axum::Json<Value> {
    let (number, kid) = state.lock().unwrap().key.clone();
    let mut public = EcKey::of(number).public;
    public.common.key_id = Some(kid);
    axum::Json(json!({ "keys": [public] }))
}

async fn exchange(
    State(state): State<Arc<Mutex<Inside>>>,
    headers: HeaderMap,
    Form(form): Form<BTreeMap<String, String>>,
) -> axum::response::Response {
    let secret = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect::<String>();
    let known = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{secret}")));
    let is_client = headers
        .get("authorization")
        .is_some_and(|v| v.to_str().unwrap() == known);
    let taken = state.lock().unwrap().codes.remove(&form["code"]);
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
    match taken {
        Some((asked, token)) if asked == challenge && is_client => {
            axum::Json(json!({ "access_token": "x", "token_type": "Bearer", "id_token": token })).into_response()
        }
        _ => (StatusCode::BAD_REQUEST, axum::Json(json!({ "error": "invalid_grant" }))).into_response(),
    }
}
