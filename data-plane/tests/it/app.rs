//! A data plane under test, and people who call it.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::api::{Commit, Page, Repo};
use contract::claims::{AccessClaims, Scope, plane_audience};
use contract::config::{DataPlaneConfig, ImportConfig, StoreConfig};
use contract::ids::{GrantId, TokenId};
use contract::policy::{Grant, Grantee, Member, OrganizationRole, Principal, Resource, Role};
use contract::problem::{Problem, ProblemKind};
use data_plane::Environment;
use data_plane::plane::Plane;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use testkit::postgres::TestDatabase;
use tower::ServiceExt;

use crate::control::{FakeControl, ISSUER};

/// A plane with its router in this process.
pub struct App {
    pub plane: Plane,
    pub control: FakeControl,
    pub router: Router,
    pub environment: Environment,
    shutdown: Shutdown,
    _directory: tempfile::TempDir,
    _database: Option<TestDatabase>,
}

/// Somebody with an access token.
#[derive(Clone)]
pub struct Person {
    pub principal: Principal,
    pub claims: AccessClaims,
    pub token: String,
}

/// An answer, read to its end.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    #[track_caller]
    pub fn ok(&self) -> &Self {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn refused(&self, kind: ProblemKind) -> Problem {
        let problem: Problem =
            serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.text()));
        assert_eq!(problem.kind(), Some(kind), "{}", self.text());
        assert_eq!(self.status.as_u16(), kind.status());
        problem
    }
}

/// The configuration of a plane of that control plane.
pub fn config(control: &FakeControl, database_url: &str, directory: &std::path::Path) -> DataPlaneConfig {
    DataPlaneConfig {
        organization: control.organization,
        database_url: database_url.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        store: StoreConfig::Local {
            directory: directory.join("bucket"),
        },
        home: directory.join("home"),
        control_url: control.url.clone(),
        issuer: ISSUER.to_owned(),
        data_key: None,
        agent_token: "hwd_agt_test".to_owned(),
        jwks: control.jwks(),
        sandbox_binary: "/nowhere".into(),
        masked: Vec::new(),
        slots: 1,
        sandbox_uid: 65_534,
        fail_closed_seconds: 60,
        handover: true,
        imports: ImportConfig::default(),
        logs: contract::config::LogsConfig::default(),
        telemetry: contract::config::TelemetryConfig::default(),
        executor: contract::executor::ExecutorConfig::default(),
    }
}

/// Claims of somebody new.
pub fn claims(control: &FakeControl, environment: &Environment, name: &str, role: OrganizationRole) -> AccessClaims {
    let now = environment.now().timestamp();
    AccessClaims {
        iss: ISSUER.to_owned(),
        aud: plane_audience(control.organization),
        sub: Principal::Account(environment.id()),
        name: name.to_owned(),
        org: control.organization,
        role,
        token: environment.id::<TokenId>(),
        scopes: Vec::new(),
        ci: None,
        iat: now,
        exp: now + 100_000_000,
        jti: "1".to_owned(),
    }
}

impl App {
    pub async fn start() -> Self {
        let database = testkit::postgres::migrated_database(&data_plane::server::MIGRATIONS).await;
        let url = database.url.clone();
        Self::on(&url, Some(database)).await
    }

    pub async fn on(url: &str, database: Option<TestDatabase>) -> Self {
        Self::with(url, database, |_| {}).await
    }

    /// A plane whose bytes lie elsewhere.
    pub async fn on_store(store: StoreConfig) -> Self {
        Self::on_encrypted(store, None).await
    }

    /// The same with that key, if there is one.
    pub async fn on_encrypted(store: StoreConfig, data_key: Option<String>) -> Self {
        let database = testkit::postgres::migrated_database(&data_plane::server::MIGRATIONS).await;
        let url = database.url.clone();
        Self::with(&url, Some(database), |config| {
            config.store = store;
            config.data_key = data_key;
        })
        .await
    }

    /// A plane that imports as a test wants.
    pub async fn importing(change: impl FnOnce(&mut ImportConfig)) -> Self {
        let database = testkit::postgres::migrated_database(&data_plane::server::MIGRATIONS).await;
        let url = database.url.clone();
        Self::with(&url, Some(database), |config| change(&mut config.imports)).await
    }

    async fn with(url: &str, database: Option<TestDatabase>, change: impl FnOnce(&mut DataPlaneConfig)) -> Self {
        chassis::process::install_tls_provider();
        let start = DateTime::<Utc>::from_timestamp(1_790_000_000, 0).unwrap();
        let environment = Environment::simulated(start, 7);
        let control = FakeControl::start(&environment).await;
        let directory = testkit::temporary_directory();
        let mut config = config(&control, url, directory.path());
        change(&mut config);
        std::fs::create_dir_all(&config.home).unwrap();
        let (store, key) = (&config.store, config.data_key.as_deref());
        let opened = data_plane::stores::open_encrypted(store, key, &chassis::Environment::system()).await;
        let storage = opened.unwrap();
        let plane = Plane::new(config, storage, environment.clone()).unwrap();
        let shutdown = Shutdown::new();
        shutdown.spawn("policy", data_plane::policy::follow(plane.clone(), shutdown.clone()));
        let app = Self {
            router: data_plane::server::router(plane.clone()),
            plane,
            control,
            environment,
            shutdown,
            _directory: directory,
            _database: database,
        };
        app.caught_up().await;
        app
    }

    /// Waits until the plane enforces the newest policy.
    pub async fn caught_up(&self) {
        let epoch = self.control.epoch();
        testkit::wait::wait_until("the plane to know the policy", Duration::from_secs(10), async || {
            self.plane.policy.epoch() >= epoch && self.plane.policy.current(self.plane.now()).is_ok()
        })
        .await;
    }

    /// Waits until the plane knows the newest keys.
    pub async fn knows_keys(&self) {
        let version = self.control.keys_version();
        testkit::wait::wait_until("the plane to know the keys", Duration::from_secs(10), async || {
            self.plane.policy.keys.version() >= version
        })
        .await;
    }

    /// Time passes, in which the control plane was heard of.
    pub async fn pass(&self, time: chrono::Duration) {
        self.environment.advance(time);
        self.control.change(|_| {});
        self.caught_up().await;
    }

    /// A new member, who owns nothing.
    pub async fn member(&self, name: &str) -> Person {
        self.member_as(name, OrganizationRole::Member).await
    }

    pub async fn member_as(&self, name: &str, role: OrganizationRole) -> Person {
        let person = self.stranger(name, role);
        let member = Member {
            principal: person.principal,
            name: name.to_owned(),
            role,
        };
        self.control.change(|s| s.members.push(member));
        self.caught_up().await;
        person
    }

    /// Somebody with a token who is no member.
    pub fn stranger(&self, name: &str, role: OrganizationRole) -> Person {
        let claims = claims(&self.control, &self.environment, name, role);
        self.person(claims.sub, claims)
    }

    fn person(&self, principal: Principal, claims: AccessClaims) -> Person {
        let token = self.control.sign_token(&claims);
        Person {
            principal,
            claims,
            token,
        }
    }

    /// The same person with another token.
    pub fn with_claims(&self, person: &Person, change: impl FnOnce(&mut AccessClaims)) -> Person {
        let mut claims = person.claims.clone();
        change(&mut claims);
        self.person(person.principal, claims)
    }

    pub fn scoped(&self, person: &Person, scopes: &[&str]) -> Person {
        let scopes: Vec<Scope> = scopes.iter().map(|s| s.parse().unwrap()).collect();
        self.with_claims(person, |c| c.scopes = scopes)
    }

    /// Gives a role on a repo; answers the grant.
    pub async fn grant(&self, person: &Person, role: Role, repo: &Repo) -> GrantId {
        let Principal::Account(account) = person.principal else {
            panic!("an account is wanted");
        };
        let id = self.environment.id();
        self.control.change(|s| {
            s.grants.push(Grant {
                id,
                grantee: Grantee::Account(account),
                role,
                resource: Resource::Domain(repo.id),
            });
        });
        self.caught_up().await;
        id
    }

    pub async fn revoke(&self, grant: GrantId) {
        self.control.change(|s| s.grants.retain(|g| g.id != grant));
        self.caught_up().await;
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.map(|b| b.to_bytes()).unwrap_or_default(),
        }
    }

    pub async fn call(&self, person: &Person, method: &str, uri: &str, body: Body) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, format!("Bearer {}", person.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .unwrap();
        self.send(request).await
    }

    pub async fn get(&self, person: &Person, uri: &str) -> Reply {
        self.call(person, "GET", uri, Body::empty()).await
    }

    pub async fn delete(&self, person: &Person, uri: &str) -> Reply {
        self.call(person, "DELETE", uri, Body::empty()).await
    }

    pub async fn post(&self, person: &Person, uri: &str, body: serde_json::Value) -> Reply {
        self.call(person, "POST", uri, body.to_string().into()).await
    }

    pub async fn patch(&self, person: &Person, uri: &str, body: serde_json::Value) -> Reply {
        self.call(person, "PATCH", uri, body.to_string().into()).await
    }

    pub async fn repo(&self, person: &Person, name: &str) -> Repo {
        let body = serde_json::json!({ "name": name });
        self.post(person, "/v1/projects/default/repos", body).await.json()
    }

    /// Puts files in one request.
    pub async fn put(&self, person: &Person, repo: &str, files: &[(&str, &[u8])]) -> Reply {
        self.put_with(person, &format!("repo={repo}"), files).await
    }

    pub async fn put_with(&self, person: &Person, query: &str, files: &[(&str, &[u8])]) -> Reply {
        self.call(person, "POST", &format!("/v1/files?{query}"), archive(files).into())
            .await
    }

    pub async fn cat(&self, person: &Person, reference: &str, path: &str) -> Reply {
        self.get(
            person,
            &format!("/v1/content?ref={}&path={}", escape(reference), escape(path)),
        )
        .await
    }

    /// Paths of a listing, all pages.
    pub async fn ls(&self, person: &Person, query: &str) -> Vec<String> {
        let files: Vec<contract::api::FileInfo> = self.all(person, &format!("/v1/files?{query}")).await;
        files.into_iter().map(|f| f.path).collect()
    }

    /// All pages of a list.
    pub async fn all<T: DeserializeOwned>(&self, person: &Person, uri: &str) -> Vec<T> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(person, &format!("{uri}{cursor}")).await.json();
            items.extend(page.items);
            match page.next_cursor {
                None => return items,
                Some(next) => cursor = format!("&cursor={next}"),
            }
        }
    }

    pub async fn log(&self, person: &Person, reference: &str) -> Vec<Commit> {
        self.all(person, &format!("/v1/log?ref={}&limit=2", escape(reference)))
            .await
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// A tar archive of these files.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Text as a query parameter.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
