//! A plane whose keys of the bucket do not last: it reads them from a file, and lends them to its workers and nobody else.

use std::path::Path;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::config::{BucketSession, StoreConfig, TemporaryKeys};
use contract::problem::ProblemKind;
use data_plane::worker::lending;
use data_plane::worker::protocol::{LentKeys, Pool, RunnerConfig, SECRET_HEADER, WorkerConfig};

use crate::app::{App, Reply};
use crate::direct_client::serve;
use crate::s3::{KEY, SECRET, Server};
use crate::s3_bucket::bucket_of;

async fn ask(app: &App, secret: &str, pool: Option<Pool>) -> Reply {
    let mut request = Request::post("/internal/v1/worker/keys").header(SECRET_HEADER, secret);
    if let Some(pool) = pool {
        request = request.header("howdah-worker-pool", pool.to_string());
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

/// The bucket of a server, whose keys are in a file.
fn with_session(server: &Server, directory: &Path) -> StoreConfig {
    let path = directory.join("keys.json");
    let session = BucketSession {
        access_key_id: KEY.to_owned(),
        secret_access_key: SECRET.to_owned(),
        session_token: "token".to_owned(),
        expires_at: "2026-11-26T12:00:00Z".parse().unwrap(),
    };
    std::fs::write(&path, serde_json::to_vec(&session).unwrap()).unwrap();
    let mut store = bucket_of(server, directory.join("cache"));
    let StoreConfig::S3 {
        access_key_id,
        secret_access_key,
        temporary,
        ..
    } = &mut store
    else {
        panic!("no bucket")
    };
    access_key_id.clear();
    secret_access_key.clear();
    *temporary = Some(Box::new(TemporaryKeys::File { path }));
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_reads_its_keys_from_a_file_and_lends_them_to_its_workers_alone() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let store = with_session(&server, directory.path());
    let app = App::on_store(store).await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", &vec![7; 9 << 20])]).await.ok();
    assert_eq!(app.cat(&ada, "r@main", "f").await.ok().body.len(), 9 << 20);

    let secret = app.plane.worker_secret.clone();
    let lent: LentKeys = serde_json::from_slice(&ask(&app, &secret, None).await.ok().body).unwrap();
    assert_eq!(
        (lent.access_key_id.as_str(), lent.secret_access_key.0.as_str()),
        (KEY, SECRET)
    );
    assert_eq!(lent.session_token.unwrap().0, "token");
    let pools = [1, 2].map(|version| Pool {
        pipeline: uuid::Uuid::from_u128(1),
        version,
    });
    let capability = app.plane.capabilities.of(pools[0]);
    ask(&app, &capability, Some(pools[0])).await.ok();
    for (secret, pool) in [
        ("", None),
        (ada.token.as_str(), None),
        (capability.as_str(), None),
        (capability.as_str(), Some(pools[1])),
        (secret.as_str(), Some(pools[0])),
    ] {
        let refused = ask(&app, secret, pool).await;
        refused.refused(ProblemKind::SignedOut);
    }

    // A worker's configuration holds no keys, and opens the bucket.
    let worker = WorkerConfig {
        plane_url: serve(app.router.clone()).await,
        secret,
        pool: None,
        capability: None,
        lasting: false,
        worker: uuid::Uuid::nil(),
        store: app.plane.config.store.for_worker(),
        data_key: None,
        home: directory.path().join("worker"),
        runner: RunnerConfig::Sandbox,
        sandbox_binary: "/nonexistent".into(),
        masked: Vec::new(),
        slots: 1,
        sandbox_uid: 65_532,
        cache_bytes_max: 1 << 20,
        imports: contract::config::ImportConfig::default(),
    };
    assert!(!serde_json::to_string(&worker).unwrap().contains(KEY));
    lending::open(&worker).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_last_are_lent_to_nobody() {
    let app = App::start().await;
    let secret = app.plane.worker_secret.clone();
    let reply = ask(&app, &secret, None).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}
