//! The harness: the service on a loopback port with a database of its own, a clock that tests move, a cloud in memory and a
//! plane that echoes what it is asked.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use chassis::Environment;
use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::ci::CiIssuer;
use contract::config::{ControlPlaneConfig, PeopleConfig};
use contract::ids::OrganizationId;
use control_plane::app::{self, App};
use control_plane::planes::reconciler::Reconciler;
use control_plane::rate_limits::RateLimits;
use serde_json::{Value, json};
use testkit::postgres::TestDatabase;
use tokio::net::TcpListener;

use crate::cloud::FakeCloud;

pub const PASSWORD: &str = "correct horse battery";

pub struct TestApp {
    pub app: Arc<App>,
    pub url: String,
    pub environment: Environment,
    pub cloud: Arc<FakeCloud>,
    pub reconciler: Reconciler,
    client: reqwest::Client,
    shutdown: Shutdown,
    // Dropped last: the database goes when nothing uses it any more.
    _database: TestDatabase,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The body of an answer that must have that status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    /// Asserts the kind of a problem, and that it says what to do where there is something to do.
    #[track_caller]
    pub fn problem(self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let kind = self.body["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with(&format!("/{slug}")), "{}", self.text);
        self.body
    }
}

/// Somebody who is logged in.
pub struct Person {
    pub email: String,
    pub token: String,
}

/// An organization with its first owner.
pub struct Org {
    pub id: OrganizationId,
    pub name: String,
    pub owner: Person,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(RateLimits::default()).await
    }

    /// Planes change only where the test lets the reconciler pass.
    pub async fn start_without_reconciler() -> Self {
        Self::assemble(RateLimits::default(), false, PeopleConfig::default(), Vec::new()).await
    }

    pub async fn start_with(limits: RateLimits) -> Self {
        Self::assemble(limits, true, PeopleConfig::default(), Vec::new()).await
    }

    pub async fn start_for(people: PeopleConfig) -> Self {
        Self::assemble(RateLimits::default(), true, people, Vec::new()).await
    }

    /// Whose OIDC tokens of CI runs may be trusted.
    pub async fn start_allowing(issuers: Vec<CiIssuer>) -> Self {
        Self::start_telling(RateLimits::default(), issuers).await
    }

    /// The same, and how often they are told of in audit trails.
    pub async fn start_telling(limits: RateLimits, issuers: Vec<CiIssuer>) -> Self {
        Self::assemble(limits, true, PeopleConfig::default(), issuers).await
    }

    async fn assemble(limits: RateLimits, reconciles: bool, people: PeopleConfig, ci_issuers: Vec<CiIssuer>) -> Self {
        chassis::process::install_tls_provider();
        let database = testkit::postgres::migrated_database(&control_plane::database::MIGRATIONS).await;
        let now: DateTime<Utc> = "2026-11-23T12:00:30Z".parse().unwrap();
        let seed = u64::from(std::process::id()) ^ 0x5eed;
        let environment = Environment::simulated(now, seed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = ControlPlaneConfig {
            database_url: database.url.clone(),
            listen: String::new(),
            public_url: url.clone(),
            home: "/nonexistent".into(),
            master_key: "5a".repeat(32),
            previous_master_keys: Vec::new(),
            data_plane_binary: "/nonexistent".into(),
            sandbox_binary: "/nonexistent".into(),
            cloud: contract::cloud::CloudConfig::Local,
            idle_seconds: 300,
            deletion_grace_days: 14,
            imports: contract::config::ImportConfig::default(),
            logs: contract::config::LogsConfig::default(),
            proxies: Vec::new(),
            telemetry: contract::config::TelemetryConfig::default(),
            services: None,
            people,
            ci_issuers,
        };
        let shutdown = Shutdown::new();
        let (app, signals) = App::open(&config, url.clone(), environment.clone(), &limits, shutdown.clone())
            .await
            .unwrap();
        let cloud = Arc::new(FakeCloud::new(echo_plane().await));
        let reconciler = Reconciler::new(Arc::clone(&app), cloud.clone());
        if reconciles {
            tokio::spawn(reconciler.clone().run(signals));
        }
        tokio::spawn(app::serve(Arc::clone(&app), listener));
        Self {
            app,
            url,
            environment,
            cloud,
            reconciler,
            client: reqwest::Client::new(),
            shutdown,
            _database: database,
        }
    }

    pub async fn call(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request).await
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call("POST", path, token, Some(body)).await
    }

    pub async fn post_owned(&self, path: String, token: String, body: Value) -> Answer {
        self.post(&path, &token, body).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Answer {
        self.call("DELETE", path, token, None).await
    }

    pub async fn sign_up(&self, email: &str) -> Person {
        let made = self
            .post("/v1/accounts", "", json!({ "email": email, "password": PASSWORD }))
            .await
            .ok(201);
        Person {
            email: email.to_owned(),
            token: made["session_token"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn organization(&self, name: &str) -> Org {
        let owner = self.sign_up(&format!("owner@{name}.test")).await;
        let made = self
            .post("/v1/organizations", &owner.token, json!({ "name": name }))
            .await
            .ok(201);
        Org {
            id: made["id"].as_str().unwrap().parse().unwrap(),
            name: name.to_owned(),
            owner,
        }
    }

    /// Signs somebody up and makes him a member.
    pub async fn member(&self, org: &Org, email: &str, role: &str) -> Person {
        let person = self.sign_up(email).await;
        self.join(org, &person, role).await;
        person
    }

    pub async fn join(&self, org: &Org, person: &Person, role: &str) {
        let invitation = self
            .post(
                &org.path("invitations"),
                &org.owner.token,
                json!({ "email": person.email, "role": role }),
            )
            .await
            .ok(201);
        let body = json!({ "token": invitation["token"] });
        self.post("/v1/invitations/accept", &person.token, body).await.ok(200);
    }

    /// An access token for the organization's plane, which runs then.
    pub async fn access_token(&self, org: &Org, person: &Person) -> String {
        let made = self
            .post("/v1/access-tokens", &person.token, json!({ "organization": org.name }))
            .await
            .ok(200);
        made["access_token"].as_str().unwrap().to_owned()
    }

    /// The credential of the organization's plane, which runs then.
    pub async fn agent(&self, org: &Org) -> String {
        self.access_token(org, &org.owner).await;
        self.cloud.tenant(org.id).agent_token
    }

    /// Registers a repo's domain as the plane does; answers its id.
    pub async fn domain(&self, org: &Org, project: &str, name: &str, owner: &Person) -> String {
        let agent = self.agent(org).await;
        let id: contract::ids::DomainId = self.environment.id();
        let who = self.get("/v1/account", &owner.token).await.ok(200);
        let body = json!({ "id": id, "project": project, "name": name, "owner": who["id"] });
        self.post(&org.internal("domains"), &agent, body).await.ok(200);
        id.to_string()
    }

    /// The snapshot that the organization's plane gets.
    pub async fn snapshot(&self, org: &Org) -> contract::policy::PolicySnapshot {
        let agent = self.agent(org).await;
        let answer = self.get(&org.internal("policy?after=0"), &agent).await.ok(200);
        let audience = contract::claims::plane_audience(org.id);
        let verifier = chassis::signed::Verifier::new(self.app.keys.jwks(), &self.url, &audience).unwrap();
        verifier
            .policy(answer["signed_snapshot"].as_str().unwrap())
            .unwrap()
            .policy
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl Org {
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/organizations/{}/{rest}", self.name)
    }

    pub fn internal(&self, rest: &str) -> String {
        format!("/internal/v1/planes/{}/{rest}", self.id)
    }
}

pub async fn read(request: reqwest::RequestBuilder) -> Answer {
    let response = request.timeout(Duration::from_secs(60)).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    Answer {
        status,
        headers,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

/// A plane that answers what it was asked: method, address and headers as JSON in a header, the body as the body.
async fn echo_plane() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(|request: Request| async move {
        let headers: Vec<String> = request.headers().keys().map(ToString::to_string).collect();
        let seen = json!({ "method": request.method().as_str(), "uri": request.uri().to_string(), "headers": headers });
        let mut response = axum::response::Response::new(Body::from_stream(request.into_body().into_data_stream()));
        response
            .headers_mut()
            .insert("x-seen", seen.to_string().parse().unwrap());
        response.headers_mut().insert("etag", "\"abc\"".parse().unwrap());
        response.headers_mut().insert("howdah-epoch", "7".parse().unwrap());
        response
            .headers_mut()
            .insert("keep-alive", "timeout=5".parse().unwrap());
        response
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
