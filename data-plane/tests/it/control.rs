//! A control plane for tests: signs tokens and snapshots with a key of its own, answers the internal routes over HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use chassis::signed::Signer;
use contract::api::{NewCheckpoint, RegisterDomain, SignedCheckpoint};
use contract::audit::{Checkpoint, CheckpointClaims, Trail, audience};
use contract::claims::{AccessClaims, plane_audience};
use contract::ids::{DomainId, OrganizationId};
use contract::policy::{
    Domain, Grant, Grantee, OrganizationState, PolicyAnswer, PolicyClaims, PolicySnapshot, Principal, PublishedKeys,
    Resource, Role,
};
use data_plane::Environment;
use tokio::sync::watch;

pub const ISSUER: &str = "http://control.test";

#[derive(Clone)]
pub struct FakeControl {
    pub organization: OrganizationId,
    pub url: String,
    environment: Environment,
    keys: watch::Sender<FakeKeys>,
    snapshot: Arc<Mutex<PolicySnapshot>>,
    epoch: watch::Sender<u64>,
    away: watch::Sender<bool>,
}

/// The published keys; the last one signs.
#[derive(Clone)]
struct FakeKeys {
    signers: Vec<Arc<Signer>>,
    version: u64,
}

impl FakeKeys {
    fn published(&self) -> PublishedKeys {
        PublishedKeys {
            keys: self
                .signers
                .iter()
                .map(|signer| serde_json::json!(signer.jwk()))
                .collect(),
            version: self.version,
        }
    }
}

#[derive(serde::Deserialize)]
struct Poll {
    after: u64,
    keys: u64,
    wait_seconds: u64,
}

impl FakeControl {
    pub async fn start(environment: &Environment) -> Self {
        let organization = environment.id();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = Self {
            organization,
            url: format!("http://{}", listener.local_addr().unwrap()),
            environment: environment.clone(),
            keys: watch::Sender::new(FakeKeys {
                signers: vec![Arc::new(Signer::from_seed(&environment.random()).unwrap())],
                version: 1,
            }),
            snapshot: Arc::new(Mutex::new(PolicySnapshot {
                organization,
                state: OrganizationState::Active,
                epoch: 1,
                members: Vec::new(),
                teams: Vec::new(),
                domains: Vec::new(),
                grants: Vec::new(),
                releases: Vec::new(),
                revoked_tokens: Vec::new(),
            })),
            epoch: watch::Sender::new(1),
            away: watch::Sender::new(false),
        };
        let router = Router::new()
            .route("/internal/v1/planes/{org}/policy", get(policy))
            .route("/internal/v1/planes/{org}/domains", post(register))
            .route("/internal/v1/planes/{org}/domains/{id}", delete(bury))
            .route(
                "/internal/v1/planes/{org}/heartbeat",
                post(|| async { StatusCode::NO_CONTENT }),
            )
            .route("/internal/v1/planes/{org}/audit-checkpoints", post(checkpoint))
            .route("/.well-known/jwks.json", get(jwks))
            .with_state(control.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        control
    }

    pub fn jwks(&self) -> serde_json::Value {
        serde_json::json!(self.keys.borrow().published())
    }

    /// The key that signs.
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(self.keys.borrow().signers.last().unwrap())
    }

    /// Signs with a new key from now on; the others stay published.
    pub fn rotate(&self) {
        let next = Arc::new(Signer::from_seed(&self.environment.random()).unwrap());
        self.change_keys(|keys| keys.signers.push(next));
    }

    /// Publishes a key no more.
    pub fn withdraw(&self, kid: &str) {
        self.change_keys(|keys| keys.signers.retain(|signer| signer.kid() != kid));
    }

    fn change_keys(&self, change: impl FnOnce(&mut FakeKeys)) {
        self.keys.send_modify(|keys| {
            change(keys);
            keys.version += 1;
        });
    }

    pub fn keys_version(&self) -> u64 {
        self.keys.borrow().version
    }

    /// Answers nobody any more, or again.
    pub fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    fn snapshot(&self) -> MutexGuard<'_, PolicySnapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the policy; answers its new epoch.
    pub fn change(&self, change: impl FnOnce(&mut PolicySnapshot)) -> u64 {
        let epoch = {
            let mut snapshot = self.snapshot();
            change(&mut snapshot);
            snapshot.epoch += 1;
            snapshot.epoch
        };
        self.epoch.send_replace(epoch);
        epoch
    }

    pub fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    pub fn sign_token(&self, claims: &AccessClaims) -> String {
        self.signer().sign(claims).unwrap()
    }

    fn sign_policy(&self) -> PolicyAnswer {
        let snapshot = self.snapshot().clone();
        PolicyAnswer {
            epoch: snapshot.epoch,
            signed_snapshot: Some(
                self.signer()
                    .sign(&PolicyClaims {
                        iss: ISSUER.to_owned(),
                        aud: plane_audience(self.organization),
                        iat: self.environment.now().timestamp(),
                        policy: snapshot,
                    })
                    .unwrap(),
            ),
            keys: None,
        }
    }
}

async fn checkpoint(State(control): State<FakeControl>, Json(body): Json<NewCheckpoint>) -> Json<SignedCheckpoint> {
    let now = control.environment.now();
    let checkpoint = Checkpoint {
        organization: control.organization,
        trail: Trail::Plane,
        seq: body.seq,
        hash: body.hash,
        at: now,
    };
    let claims = CheckpointClaims {
        iss: ISSUER.to_owned(),
        aud: audience(control.organization),
        iat: now.timestamp(),
        checkpoint: checkpoint.clone(),
    };
    let signed = control.signer().sign(&claims).unwrap();
    Json(SignedCheckpoint { checkpoint, signed })
}

async fn policy(
    State(control): State<FakeControl>,
    Query(poll): Query<Poll>,
) -> Result<Json<PolicyAnswer>, StatusCode> {
    let (mut epoch, mut away) = (control.epoch.subscribe(), control.away.subscribe());
    let mut keys = control.keys.subscribe();
    tokio::select! {
        _ = keys.wait_for(|keys| keys.version > poll.keys) => {}
        _ = epoch.wait_for(|e| *e > poll.after) => {}
        _ = away.wait_for(|away| *away) => {}
        () = tokio::time::sleep(Duration::from_secs(poll.wait_seconds)) => {}
    }
    if *away.borrow() {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let keys = control.keys.borrow().clone();
    let keys = (keys.version > poll.keys).then(|| keys.published());
    if control.epoch() > poll.after {
        return Ok(Json(PolicyAnswer {
            keys,
            ..control.sign_policy()
        }));
    }
    Ok(Json(PolicyAnswer {
        epoch: control.epoch(),
        signed_snapshot: None,
        keys,
    }))
}

async fn register(
    State(control): State<FakeControl>,
    Json(body): Json<RegisterDomain>,
) -> Result<Json<PolicyAnswer>, StatusCode> {
    if *control.away.borrow() {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let grantee = match body.owner {
        Principal::Account(id) => Grantee::Account(id),
        Principal::ServiceAccount(id) => Grantee::ServiceAccount(id),
    };
    let id = control.environment.id();
    let epoch = control.change(|snapshot| {
        // As the real one: an earlier domain of the name never got its repo, or lost it.
        for orphan in snapshot.domains.iter_mut() {
            orphan.deleted |= orphan.project == body.project && orphan.name == body.name;
        }
        snapshot.domains.push(Domain {
            id: body.id,
            project: body.project,
            name: body.name,
            deleted: false,
        });
        snapshot.grants.push(Grant {
            id,
            grantee,
            role: Role::Owner,
            resource: Resource::Domain(body.id),
        });
    });
    Ok(Json(PolicyAnswer {
        epoch,
        signed_snapshot: None,
        keys: None,
    }))
}

async fn bury(State(control): State<FakeControl>, Path((_, id)): Path<(String, DomainId)>) -> StatusCode {
    control.change(|snapshot| {
        for domain in snapshot.domains.iter_mut().filter(|d| d.id == id) {
            domain.deleted = true;
        }
    });
    StatusCode::NO_CONTENT
}

async fn jwks(State(control): State<FakeControl>) -> Json<serde_json::Value> {
    Json(control.jwks())
}
