//! An issuer of OIDC tokens on loopback: real discovery, real keys (made for these tests, nothing else trusts them), and tokens as the
//! real ones say them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::ci::{CiIssuer, CiProvider};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A key with its id.
#[derive(Clone)]
pub struct Key {
    pub kid: String,
    pub algorithm: Algorithm,
    pub secret: EncodingKey,
}

impl Key {
    pub fn rsa(kid: &str, pem: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            algorithm: Algorithm::RS256,
            secret: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        }
    }

    pub fn first() -> Self {
        Self::rsa("first", include_str!("keys/rsa1.pem"))
    }

    pub fn second() -> Self {
        Self::rsa("second", include_str!("keys/rsa2.pem"))
    }

    /// One that no issuer publishes.
    pub fn stranger(kid: &str) -> Self {
        Self::rsa(kid, include_str!("keys/rsa3.pem"))
    }

    /// One that is too short to be believed.
    pub fn weak() -> Self {
        Self::rsa("weak", include_str!("keys/weak.pem"))
    }

    pub fn elliptic() -> Self {
        Self {
            kid: "elliptic".to_owned(),
            algorithm: Algorithm::ES256,
            secret: EncodingKey::from_ec_pem(include_bytes!("keys/ec.pem")).unwrap(),
        }
    }

    pub fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.secret, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.secret).unwrap()
    }
}

/// What a test makes of the issuer.
#[derive(Default)]
struct Shown {
    keys: Vec<Value>,
    issuer: Option<String>,
    redirects: bool,
    away: bool,
}

pub struct FakeIssuer {
    pub url: String,
    pub provider: CiProvider,
    shown: Arc<Mutex<Shown>>,
    reads: Arc<AtomicUsize>,
}

impl FakeIssuer {
    pub async fn start(provider: CiProvider, keys: &[Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shown = Arc::new(Mutex::new(Shown {
            keys: keys.iter().map(Key::public).collect(),
            ..Shown::default()
        }));
        let reads = Arc::new(AtomicUsize::new(0));
        let (discovered, published) = (Arc::clone(&shown), Arc::clone(&shown));
        let (own, counted) = (url.clone(), Arc::clone(&reads));
        let discovery = move || async move { discovery(&discovered, &own) };
        let keys = move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            axum::Json(json!({ "keys": published.lock().unwrap().keys }))
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            provider,
            shown,
            reads,
        }
    }

    pub fn config(&self) -> CiIssuer {
        CiIssuer {
            url: self.url.clone(),
            provider: self.provider,
        }
    }

    pub fn publish(&self, keys: &[Key]) {
        self.shown.lock().unwrap().keys = keys.iter().map(Key::public).collect();
    }

    pub fn call_itself(&self, issuer: &str) {
        self.shown.lock().unwrap().issuer = Some(issuer.to_owned());
    }

    pub fn redirect(&self) {
        self.shown.lock().unwrap().redirects = true;
    }

    pub fn go_away(&self) {
        self.shown.lock().unwrap().away = true;
    }

    /// How often the keys were read.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

fn discovery(shown: &Mutex<Shown>, own: &str) -> Response {
    let shown = shown.lock().unwrap();
    if shown.away {
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    }
    if shown.redirects {
        return Redirect::temporary("/keys").into_response();
    }
    let issuer = shown.issuer.clone().unwrap_or_else(|| own.to_owned());
    axum::Json(json!({ "issuer": issuer, "jwks_uri": format!("{own}/keys") })).into_response()
}

/// A token of these parts that nobody signed.
pub fn unsigned(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.{}",
        part(header),
        part(claims),
        URL_SAFE_NO_PAD.encode(signature)
    )
}

/// What GitHub says of a run of `acme/tiles`, whose owner is 65, at that time.
pub fn github(issuer: &str, audience: &str, now: i64) -> Value {
    json!({
        "iss": issuer, "aud": audience, "jti": format!("github-{now}"), "iat": now, "nbf": now - 5, "exp": now + 300,
        "sub": "repo:acme/tiles:environment:production", "repository": "acme/tiles", "repository_id": "74",
        "repository_owner": "acme", "repository_owner_id": "65", "repository_visibility": "private",
        "ref": "refs/heads/main", "ref_type": "branch", "sha": "10f2e6dbc1c6a7a5c6f3", "environment": "production",
        "workflow": "Nightly", "workflow_ref": "acme/tiles/.github/workflows/ci.yml@refs/heads/main",
        "job_workflow_ref": "acme/tiles/.github/workflows/ci.yml@refs/heads/main",
        "run_id": "30433642", "run_number": "8", "run_attempt": "1", "runner_environment": "github-hosted",
        "actor": "ada", "actor_id": "12", "event_name": "push", "base_ref": "", "head_ref": "",
    })
}

/// What GitLab says of a job of `acme/site`, whose namespace is 9970, at that time.
pub fn gitlab(issuer: &str, audience: &str, now: i64) -> Value {
    json!({
        "iss": issuer, "aud": audience, "jti": format!("gitlab-{now}"), "iat": now, "nbf": now - 5, "exp": now + 3600,
        "sub": "project_path:acme/site:ref_type:branch:ref:main", "namespace_id": "9970", "namespace_path": "acme",
        "project_id": "278964", "project_path": "acme/site", "user_id": "42", "user_login": "ada",
        "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
        "ref_path": "refs/heads/main", "ref_protected": "true", "environment": "production", "sha": "714a629c0b401fdce83e",
        "ci_config_ref_uri": "gitlab.test/acme/site//.gitlab-ci.yml@refs/heads/main", "runner_id": 1,
    })
}
