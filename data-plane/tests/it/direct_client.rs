//! The real `howdah put` against a plane on a bucket: large files go there straight, and by the plane where that cannot be.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use contract::api::Commit;
use contract::config::StoreConfig;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::app::{App, Person};
use crate::direct::direct_bucket;
use crate::jobs_rig::binary;
use crate::room::noise;
use crate::s3::Server;

const MIB: usize = 1 << 20;

/// A plane over HTTP, with what a client asks of a control plane.
struct Rig {
    app: App,
    ada: Person,
    url: String,
    server: Server,
    files: tempfile::TempDir,
}

pub async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

impl Rig {
    async fn start(change: impl FnOnce(&mut StoreConfig)) -> Self {
        Self::start_behind(change, |router, _| router).await
    }

    async fn start_behind(
        change: impl FnOnce(&mut StoreConfig),
        behind: impl FnOnce(Router, PgPool) -> Router,
    ) -> Self {
        let server = Server::start().await;
        let mut store = direct_bucket(&server);
        change(&mut store);
        let app = App::on_encrypted(store, Some(hex::encode([7; 32]))).await;
        let ada = app.member("ada").await;
        app.repo(&ada, "r").await;
        let plane_url = serve(behind(app.router.clone(), app.plane.pool.clone())).await;
        let organization = json!({
            "id": app.control.organization, "name": "acme", "role": "member", "created_at": "2026-09-01T00:00:00Z", "state": "active",
        });
        let made = json!({
            "access_token": ada.token, "expires_in": 600, "organization": organization, "plane_url": plane_url,
            "direct_url": null, "epoch": app.control.epoch(),
        });
        let control = Router::new()
            .route(
                "/v1/access-tokens",
                post(|State(made): State<Value>| async { Json(made) }),
            )
            .route("/healthz", get(|| async { "ok\n" }))
            .with_state(made);
        Self {
            url: serve(control).await,
            app,
            ada,
            server,
            files: tempfile::tempdir().unwrap(),
        }
    }

    async fn put(&self, to: &str, files: &[(&str, &[u8])]) -> Output {
        let folder = self.files.path().join("folder");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        tokio::process::Command::new(binary("howdah"))
            .args(["--json", "put", to, "-r"])
            .arg(&folder)
            .env_clear()
            .env("HOWDAH_URL", &self.url)
            .env("HOWDAH_TOKEN", "hwd_pat_test")
            .env("HOWDAH_ORG", "acme")
            .env("HOWDAH_HOME", self.files.path().join("service"))
            .env("HOWDAH_CONFIG_HOME", self.files.path().join("config"))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap()
    }

    /// Bytes of packs that the plane took over from clients.
    async fn kept(&self) -> Vec<(i64, i64)> {
        sqlx::query_as("select from_byte, to_byte from took order by from_byte")
            .fetch_all(&self.app.plane.pool)
            .await
            .unwrap()
    }

    /// Notes each piece that is taken over: what an upload has become keeps no rows of it.
    async fn watch(&self) {
        sqlx::raw_sql(
            "create table took (from_byte bigint, to_byte bigint);
             create function note() returns trigger language plpgsql as $$ begin
               insert into took select from_byte, to_byte from upload_parts where packs = new.pack; return new; end $$;
             create trigger note after update on upload_packs for each row when (new.state = 'kept') execute function note();",
        )
        .execute(&self.app.plane.pool)
        .await
        .unwrap();
    }
}

fn made(output: &Output) -> (Commit, u64) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    (
        serde_json::from_value(value.clone()).unwrap(),
        value["sent_bytes"].as_u64().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_straight_into_the_bucket_and_a_small_one_beside_it_does_not() {
    let rig = Rig::start(|_| {}).await;
    rig.watch().await;
    let (large, small) = (noise(1, 70 * MIB + 7), noise(2, MIB));
    let files: &[(&str, &[u8])] = &[("large", &large), ("small", &small)];
    let (commit, sent) = made(&rig.put("r@main:/d", files).await);
    assert_eq!((commit.files, sent), (2, (71 * MIB + 7) as u64));
    assert!(rig.app.cat(&rig.ada, "r@main", "d/large").await.ok().body == large);
    assert!(rig.app.cat(&rig.ada, "r@main", "d/small").await.ok().body == small);
    let kept = rig.kept().await;
    assert_eq!(
        (kept.len(), kept[0].0, kept[2].1),
        (3, 0, large.len() as i64),
        "{kept:?}"
    );

    rig.app.repo(&rig.ada, "plain").await;
    let plain = [("d/large", &large[..]), ("d/small", &small[..])];
    let plain: Commit = rig.app.put(&rig.ada, "plain", &plain).await.json();
    assert_eq!(commit.digest, plain.digest);

    // Another version of it is told by what is new.
    let changed = [&large[..], b"more"].concat();
    let (_, sent) = made(&rig.put("r@main:/d", &[("large", &changed)]).await);
    assert!(sent < MIB as u64, "{sent}");
    assert_eq!(rig.kept().await.len(), 3);
    assert!(rig.app.cat(&rig.ada, "r@main", "d/large").await.ok().body == changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_reach_the_bucket_sends_a_large_file_through_the_plane() {
    let nobody = testkit::processes::free_port();
    let rig = Rig::start(|store| {
        if let StoreConfig::S3 { public_endpoint, .. } = store {
            *public_endpoint = Some(format!("http://127.0.0.1:{nobody}"));
        }
    })
    .await;
    rig.watch().await;
    let large = noise(1, 65 * MIB);
    let (commit, sent) = made(&rig.put("r@main", &[("large", &large)]).await);
    assert_eq!((commit.files, sent), (1, large.len() as u64));
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == large);
    assert!(rig.kept().await.is_empty());
    assert!(rig.server.client().head(&"incoming".into()).await.is_err());
}

/// What the first two packs that are to be taken over meet: answers are lost while the first one is read, and after that of the
/// second one has failed.
async fn trouble(pool: PgPool, asked: Arc<AtomicUsize>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::PUT && path.contains("/packs/") {
        let pack = hex::decode(path.rsplit('/').next().unwrap()).unwrap();
        let run = async |sql: &'static str| sqlx::query(sql).bind(&pack).execute(&pool).await.unwrap();
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => {
                run("update upload_packs set state = 'taking' where pack = $1").await;
                return StatusCode::BAD_GATEWAY.into_response();
            }
            2 => {
                run("update upload_packs set state = 'announced' where pack = $1").await;
            }
            3 => {
                run("delete from upload_packs where pack = $1").await;
                return StatusCode::BAD_GATEWAY.into_response();
            }
            _ => {}
        }
    }
    next.run(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answers_are_lost_while_packs_are_taken_over_goes_on_straight_into_the_bucket() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let troubled = |router: Router, pool: PgPool| {
        router.layer(from_fn(move |request, next| {
            trouble(pool.clone(), Arc::clone(&counted), request, next)
        }))
    };
    let rig = Rig::start_behind(|_| {}, troubled).await;
    rig.watch().await;
    let large = noise(1, 70 * MIB);
    let (commit, sent) = made(&rig.put("r@main", &[("large", &large)]).await);
    assert_eq!((commit.files, sent), (1, large.len() as u64));
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == large);
    let kept = rig.kept().await;
    assert_eq!((kept[0].0, kept[kept.len() - 1].1), (0, large.len() as i64), "{kept:?}");
    assert!(asked.load(Ordering::SeqCst) > 6, "every trouble was met");
}
