//! Secrets at rest: envelope encryption, key services, and changing keys while a service runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use chassis::Environment;
use chrono::DateTime;
use control_plane::vault::kms::{KeyService, Services};
use control_plane::vault::rotation::{self, Rotated, SEALED, SHORT_LIVED};
use control_plane::vault::{self, Vault};
use secrecy::{ExposeSecret, SecretBox};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::postgres::TestDatabase;

use crate::app::TestApp;

const OLD: u8 = 0x5a;
const NEW: u8 = 0x6b;

fn hex_key(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn local(environment: &Environment, current: u8, previous: &[u8]) -> Services {
    let previous: Vec<String> = previous.iter().map(|byte| hex_key(*byte)).collect();
    vault::services(&hex_key(current), &previous, environment).unwrap()
}

async fn open(pool: &PgPool, environment: &Environment, current: u8, previous: &[u8]) -> anyhow::Result<Vault> {
    Vault::open_with(pool, environment, local(environment, current, previous)).await
}

async fn place() -> (TestDatabase, PgPool, Environment) {
    let database = testkit::postgres::migrated_database(&control_plane::database::MIGRATIONS).await;
    let pool = database.pool().await;
    (database, pool, Environment::simulated(DateTime::UNIX_EPOCH, 7))
}

async fn rotate(pool: &PgPool, environment: &Environment, vault: &Vault, data: bool) -> Rotated {
    rotation::rotate(pool, environment, vault, data, Duration::ZERO)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_secret_opens_for_its_own_purpose_only_and_no_key_of_another_purpose_opens_it() {
    let (_database, pool, environment) = place().await;
    let vault = open(&pool, &environment, OLD, &[]).await.unwrap();
    let sealed = vault.seal(&environment, "plane-data:org_1", b"secret").unwrap();
    assert_eq!(vault.open("plane-data:org_1", &sealed).unwrap(), b"secret");
    assert!(vault.open("plane-data:org_2", &sealed).is_err() && vault.open("signing-key", &sealed).is_err());
    for at in [0, 5, 20, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert!(vault.open("plane-data:org_1", &changed).is_err(), "byte {at}");
    }
    assert!(vault.open("plane-data:org_1", &sealed[..20]).is_err());
    // What is stored of keys is wrapped, and the key that wraps is not there.
    let rows: Vec<(String, Vec<u8>, String)> =
        sqlx::query_as("select purpose, wrapped, key_service from data_encryption_keys order by purpose")
            .fetch_all(&pool)
            .await
            .unwrap();
    let purposes: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(
        purposes,
        ["derivation", "general", "plane-data", "plane-database", "signing-key"]
    );
    assert!(
        rows.iter()
            .all(|row| row.1.len() == 24 + 32 + 16 && !row.2.contains("5a5a"))
    );
    assert!(
        open(&pool, &environment, NEW, &[]).await.is_err(),
        "another master key unwraps nothing"
    );
    // A second process has the same keys.
    let second = open(&pool, &environment, OLD, &[]).await.unwrap();
    assert_eq!(second.open("plane-data:org_1", &sealed).unwrap(), b"secret");
    assert_eq!(second.derive("cursors"), vault.derive("cursors"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrapped_key_that_was_moved_to_another_row_is_not_unwrapped() {
    let (_database, pool, environment) = place().await;
    drop(open(&pool, &environment, OLD, &[]).await.unwrap());
    let swap = "update data_encryption_keys k set wrapped = o.wrapped from data_encryption_keys o
                where k.purpose = 'plane-data' and o.purpose = 'signing-key'";
    sqlx::query(swap).execute(&pool).await.unwrap();
    assert!(open(&pool, &environment, OLD, &[]).await.is_err());
}

/// An organization whose secrets are sealed as they were before there were data keys.
async fn from_before(app: &TestApp) {
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
    app.organization("acme").await;
    for of in SEALED {
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "select {0}, {1} from {2} where {1} is not null",
            of.key, of.column, of.table
        )))
        .fetch_all(&app.app.pool)
        .await
        .unwrap();
        for (row, sealed) in rows {
            let purpose = (of.purpose)(&row);
            let secret = app.app.vault.open(&purpose, &sealed).unwrap();
            let payload = Payload {
                msg: &secret,
                aad: purpose.as_bytes(),
            };
            let cipher = XChaCha20Poly1305::new(&Key::from([OLD; 32]));
            let old = [
                [9; 24].as_slice(),
                &cipher.encrypt(&XNonce::from([9; 24]), payload).unwrap(),
            ]
            .concat();
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "update {} set {} = $2 where {} = $1",
                of.table, of.column, of.key
            )))
            .bind(row)
            .bind(old)
            .execute(&app.app.pool)
            .await
            .unwrap();
        }
    }
}

async fn secrets(pool: &PgPool, vault: &Vault) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for of in SEALED {
        let statement = format!("select {}, {} from {} order by 1", of.key, of.column, of.table);
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .fetch_all(pool)
            .await
            .unwrap();
        all.extend(
            rows.iter()
                .map(|(row, sealed)| vault.open(&(of.purpose)(row), sealed).unwrap()),
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_change_of_keys_the_old_one_opens_nothing_and_a_running_service_noticed_nothing() {
    let app = TestApp::start_without_reconciler().await;
    let (pool, environment) = (&app.app.pool, &app.environment);
    from_before(&app).await;
    let before = secrets(pool, &app.app.vault).await;
    let derived = app.app.vault.derive("cursors");

    // Both are good: values of the old key open under the new one, which wraps.
    let vault = open(pool, environment, NEW, &[OLD]).await.unwrap();
    assert_eq!(secrets(pool, &vault).await, before);
    let rotated = rotate(pool, environment, &vault, false).await;
    assert_eq!(
        (
            rotated.data_keys_wrapped,
            rotated.secrets_sealed,
            rotated.secrets_unopened
        ),
        (5, before.len(), 0)
    );
    assert_eq!(
        rotate(pool, environment, &vault, false).await,
        Rotated::default(),
        "there is nothing left to do"
    );

    let alone = open(pool, environment, NEW, &[]).await.unwrap();
    assert_eq!(secrets(pool, &alone).await, before);
    assert_eq!(alone.derive("cursors"), derived, "what was derived before stays good");
    assert!(open(pool, environment, OLD, &[]).await.is_err());
    // The service that was started with the old key has unwrapped its data keys, and goes on.
    app.app.vault.refresh(pool).await.unwrap();
    assert_eq!(secrets(pool, &app.app.vault).await, before);
    app.organization("another").await;
    let more = secrets(pool, &open(pool, environment, NEW, &[]).await.unwrap()).await;
    assert!(more.len() >= before.len() + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn new_data_keys_seal_everything_anew_even_when_it_was_broken_off_in_between() {
    let app = TestApp::start_without_reconciler().await;
    let (pool, environment) = (&app.app.pool, &app.environment);
    app.organization("acme").await;
    app.organization("other").await;
    let vault = open(pool, environment, OLD, &[]).await.unwrap();
    let before = secrets(pool, &vault).await;
    let sealed: Vec<(Vec<u8>,)> = sqlx::query_as("select data_key_encrypted from planes")
        .fetch_all(pool)
        .await
        .unwrap();
    // Killed after the keys were made: one value cannot be written any more.
    let trap = "create function trap() returns trigger language plpgsql as $$ begin raise exception 'killed'; end $$;
                create trigger trap before update of data_key_encrypted on planes for each row execute function trap()";
    sqlx::raw_sql(trap).execute(pool).await.unwrap();
    assert!(
        rotation::rotate(pool, environment, &vault, true, Duration::ZERO)
            .await
            .is_err()
    );
    app.app.vault.refresh(pool).await.unwrap();
    assert_eq!(secrets(pool, &app.app.vault).await, before, "old and new values open");
    sqlx::raw_sql("drop trigger trap on planes")
        .execute(pool)
        .await
        .unwrap();
    let rotated = rotate(pool, environment, &vault, false).await;
    assert_eq!(rotated.data_keys_made, 0);
    assert!(
        (2..before.len()).contains(&rotated.secrets_sealed),
        "only what was left: {rotated:?}"
    );
    assert_eq!(secrets(pool, &vault).await, before);
    let now: Vec<(Vec<u8>,)> = sqlx::query_as("select data_key_encrypted from planes")
        .fetch_all(pool)
        .await
        .unwrap();
    assert!(now.iter().all(|value| !sealed.contains(value)));
    let versions: Vec<(i64,)> = sqlx::query_as("select count(*) from data_encryption_keys group by purpose order by 1")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(
        versions,
        [(1,), (2,), (2,), (2,), (2,)],
        "the key that others are derived from stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_column_of_sealed_values_is_known_to_the_change_of_keys() {
    let (_database, pool, _) = place().await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select table_name::text, column_name::text from information_schema.columns
         where table_schema = 'public' and data_type = 'bytea' and (column_name like '%encrypted%' or column_name like '%sealed%')",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(columns.len() >= 3);
    for (table, column) in columns {
        assert!(
            SEALED.iter().any(|of| of.table == table && of.column == column) || SHORT_LIVED.contains(&table.as_str()),
            "`{table}.{column}` is not in `vault::rotation::SEALED`"
        );
    }
}

/// A key service of somebody else: it speaks HTTP, and its key never leaves it.
struct Remote {
    id: String,
    url: String,
    http: reqwest::Client,
}

type Wrapped = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

async fn wrap(State(state): State<Wrapped>, Json(body): Json<Value>) -> Json<Value> {
    let mut state = state.lock().unwrap();
    state.push((
        body["context"].as_str().unwrap().to_owned(),
        hex::decode(body["key"].as_str().unwrap()).unwrap(),
    ));
    Json(json!({ "wrapped": hex::encode((state.len() - 1).to_be_bytes()) }))
}

async fn unwrap(State(state): State<Wrapped>, Json(body): Json<Value>) -> Json<Value> {
    let bytes = hex::decode(body["wrapped"].as_str().unwrap()).unwrap();
    let at = bytes.try_into().map(usize::from_be_bytes).unwrap_or(usize::MAX);
    let found = state
        .lock()
        .unwrap()
        .get(at)
        .filter(|(context, _)| body["context"] == *context)
        .cloned();
    Json(json!({ "key": found.map(|(_, key)| hex::encode(key)) }))
}

impl Remote {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/wrap", post(wrap))
            .route("/unwrap", post(unwrap))
            .with_state(Wrapped::default());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            id: "remote:key/1".to_owned(),
            url,
            http: reqwest::Client::new(),
        }
    }

    async fn ask(&self, verb: &str, body: Value, field: &str) -> anyhow::Result<Vec<u8>> {
        let answer = self
            .http
            .post(format!("{}/{verb}", self.url))
            .json(&body)
            .send()
            .await?;
        let answer: Value = answer.json().await?;
        Ok(hex::decode(answer[field].as_str().context("the key service refuses")?)?)
    }
}

#[async_trait]
impl KeyService for Remote {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, key: &SecretBox<[u8; 32]>, context: &str) -> anyhow::Result<Vec<u8>> {
        let body = json!({ "key": hex::encode(key.expose_secret()), "context": context });
        self.ask("wrap", body, "wrapped").await
    }

    async fn unwrap(&self, wrapped: &[u8], context: &str) -> anyhow::Result<SecretBox<[u8; 32]>> {
        let body = json!({ "wrapped": hex::encode(wrapped), "context": context });
        let key = self.ask("unwrap", body, "key").await?;
        Ok(SecretBox::new(Box::new(
            key.try_into().map_err(|_| anyhow::anyhow!("no key"))?,
        )))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_service_over_http_takes_over_from_a_local_key() {
    let app = TestApp::start_without_reconciler().await;
    let (pool, environment) = (&app.app.pool, &app.environment);
    from_before(&app).await;
    let before = secrets(pool, &app.app.vault).await;
    let remote: Arc<dyn KeyService> = Arc::new(Remote::start().await);
    let both = Services::other(Arc::clone(&remote), local(environment, OLD, &[]));
    let vault = Vault::open_with(pool, environment, both).await.unwrap();
    rotate(pool, environment, &vault, true).await;
    let (wrapped_otherwise,): (i64,) =
        sqlx::query_as("select count(*) from data_encryption_keys where key_service <> 'remote:key/1'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(wrapped_otherwise, 0);
    // Another key that the service was given opens nothing: the remote one is needed, and enough.
    assert!(open(pool, environment, OLD, &[]).await.is_err());
    let alone = Services::other(remote, local(environment, NEW, &[]));
    assert_eq!(
        secrets(pool, &Vault::open_with(pool, environment, alone).await.unwrap()).await,
        before
    );
}
