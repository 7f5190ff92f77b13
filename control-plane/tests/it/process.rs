//! The real process with real databases, directories and child processes; only the data plane is a script.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use contract::config::ControlPlaneConfig;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use testkit::processes::{is_alive, kill9, terminate};
use testkit::wait::{wait_for, wait_until};

use crate::app::{Answer, PASSWORD, read};

const LIMIT: Duration = Duration::from_secs(30);

struct Service {
    child: Child,
    stdin: Option<ChildStdin>,
    url: String,
    client: reqwest::Client,
}

struct Place {
    directory: tempfile::TempDir,
    database: testkit::postgres::TestDatabase,
}

impl Place {
    async fn new() -> Self {
        chassis::process::install_tls_provider();
        Self {
            directory: testkit::temporary_directory(),
            database: testkit::postgres::fresh_database().await,
        }
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn config(&self) -> ControlPlaneConfig {
        let plane = self.directory.path().join("plane.py");
        if !plane.exists() {
            std::fs::write(&plane, include_str!("plane.py")).unwrap();
            std::fs::set_permissions(&plane, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        ControlPlaneConfig {
            database_url: self.database.url.clone(),
            listen: "127.0.0.1:0".to_owned(),
            public_url: String::new(),
            home: self.home(),
            master_key: "5a".repeat(32),
            previous_master_keys: Vec::new(),
            data_plane_binary: plane,
            sandbox_binary: "/nonexistent".into(),
            cloud: contract::cloud::CloudConfig::Local,
            idle_seconds: 300,
            deletion_grace_days: 14,
            imports: contract::config::ImportConfig::default(),
            logs: contract::config::LogsConfig::default(),
            proxies: Vec::new(),
            telemetry: contract::config::TelemetryConfig::default(),
            services: None,
            people: contract::config::PeopleConfig::default(),
            ci_issuers: Vec::new(),
        }
    }

    /// Runs the binary as an operator does, beside the service.
    fn operate(&self, arguments: &[&str]) -> std::process::Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_howdah-control-plane"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let config = serde_json::to_string(&self.config()).unwrap();
        writeln!(child.stdin.take().unwrap(), "{config}").unwrap();
        child.wait_with_output().unwrap()
    }

    fn start(&self) -> Service {
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah-control-plane"));
        let mut service = Service::from(command.arg("serve").stdin(Stdio::piped()));
        let mut stdin = service.child.stdin.take().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(&self.config()).unwrap()).unwrap();
        service.stdin = Some(stdin);
        service.ready()
    }

    /// Without a parent: what it needs to know is in a file.
    fn start_by_file(&self) -> Service {
        let file = self.directory.path().join("control-plane.json");
        std::fs::write(&file, serde_json::to_vec_pretty(&self.config()).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_howdah-control-plane"));
        Service::from(command.args(["serve", "--config"]).arg(file).stdin(Stdio::null())).ready()
    }
}

impl Service {
    fn from(command: &mut Command) -> Self {
        let command = command.env("HOWDAH_LOG", "warn").stdout(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
            stdin: None,
            url: String::new(),
            client: reqwest::Client::new(),
        }
    }

    /// Waits until it says where it serves.
    fn ready(mut self) -> Self {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        self.url = ready["url"].as_str().unwrap().to_owned();
        self
    }
}

impl Service {
    async fn call(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
            .bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        read(request).await
    }

    async fn sign_up(&self, email: &str, organization: &str) -> String {
        let body = json!({ "email": email, "password": PASSWORD, "organization": organization });
        let made = self.call("POST", "/v1/accounts", "", Some(body)).await.ok(201);
        made["session_token"].as_str().unwrap().to_owned()
    }

    async fn access(&self, session: &str) -> Value {
        self.call("POST", "/v1/access-tokens", session, Some(json!({})))
            .await
            .ok(200)
    }

    /// What the organization's plane says of itself, through the gateway.
    async fn plane(&self, organization: &str, session: &str) -> Value {
        let access = self.access(session).await;
        let token = access["access_token"].as_str().unwrap();
        self.call("GET", &format!("/o/{organization}/v1/x"), token, None)
            .await
            .ok(200)
    }

    /// Lets go of standard input, as a parent that ends, and waits for the end.
    async fn stop(mut self) {
        drop(self.stdin.take());
        self.ended().await;
    }

    async fn ended(&mut self) {
        wait_until("the control plane to end", LIMIT, || {
            let ended = self.child.try_wait().unwrap().is_some();
            async move { ended }
        })
        .await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(plane: &Value) -> u32 {
    u32::try_from(plane["pid"].as_u64().unwrap()).unwrap()
}

fn migrations(plane: &Value) -> usize {
    let home = PathBuf::from(plane["config"]["home"].as_str().unwrap());
    std::fs::read_to_string(home.join("migrations"))
        .unwrap()
        .lines()
        .count()
}

async fn until_gone(pid: u32) {
    wait_until("the plane to end", LIMIT, || async move { !is_alive(pid) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stolen_key_is_withdrawn_beside_a_service_that_runs_which_hears_of_it() {
    let place = Place::new().await;
    let service = place.start();
    let ada = service.sign_up("ada@acme.test", "acme").await;
    let stolen = service.access(&ada).await["access_token"].as_str().unwrap().to_owned();
    service.call("GET", "/o/acme/v1/x", &stolen, None).await.ok(200);
    let kid = chassis::signed::key_id(&stolen).unwrap();

    let unknown = place.operate(&["rotate-signing-key", "--stolen", "0123456789abcdef"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains(&kid), "{said}");
    let done = place.operate(&["rotate-signing-key", "--stolen", &kid]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&done["withdrawn"], &done["organizations"]), (&json!(kid), &json!(1)));

    let (url, client) = (format!("{}/o/acme/v1/x", service.url), &service.client);
    wait_until("the service to hear of it", LIMIT, async || {
        let answer = client.get(&url).bearer_auth(&stolen).send().await.unwrap();
        answer.status().as_u16() == 401
    })
    .await;
    // The session stays, and a plane that starts now is not told of that key.
    service.plane("acme", &ada).await;
    let bob = service.sign_up("bob@other.test", "other").await;
    let plane = service.plane("other", &bob).await;
    let keys = plane["config"]["jwks"].to_string();
    assert!(
        !keys.contains(&kid) && keys.contains(done["signs"].as_str().unwrap()),
        "{keys}"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn from_sign_up_to_a_plane_of_ones_own_and_back_to_nothing() {
    let place = Place::new().await;
    let service = place.start();
    let session = service.sign_up("ada@example.test", "acme").await;
    let plane = service.plane("acme", &session).await;
    assert_eq!(plane["path"], "/v1/x");
    let config = &plane["config"];
    let bucket = PathBuf::from(config["store"]["directory"].as_str().unwrap());
    assert_eq!(bucket.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(config["issuer"], json!(service.url));

    let other = service.sign_up("bob@example.test", "other").await;
    let others = service.plane("other", &other).await;
    assert_ne!(config["sandbox_uid"], others["config"]["sandbox_uid"]);
    assert_eq!(config["data_key"].as_str().unwrap().len(), 64);
    assert_ne!(config["data_key"], others["config"]["data_key"]);

    let url = config["database_url"].as_str().unwrap();
    let mut own = PgConnection::connect(url).await.unwrap();
    sqlx::query("create table mine (id integer)")
        .execute(&mut own)
        .await
        .unwrap();
    for foreign in [&others["config"]["database_url"], &json!(place.database.url)] {
        let name = foreign.as_str().unwrap().rsplit('/').next().unwrap();
        let name = name.split('?').next().unwrap();
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let refused = PgConnection::connect_with(&options.database(name)).await;
        assert!(refused.is_err(), "one tenant's role must not reach `{name}`");
    }
    drop(own);

    service
        .call("DELETE", "/v1/organizations/acme?now=true", &session, None)
        .await
        .ok(202);
    until_gone(pid(&plane)).await;
    let mut control = PgConnection::connect(&place.database.url).await.unwrap();
    let stores: Vec<String> = wait_for("the receipt", LIMIT, async || {
        let stores: Vec<String> = sqlx::query_scalar("select store from deletion_receipts order by store")
            .fetch_all(&place.database.pool().await)
            .await
            .unwrap();
        (!stores.is_empty()).then_some(stores)
    })
    .await;
    assert_eq!(stores, ["bucket", "control database", "data key", "database", "state"]);
    assert!(!bucket.exists() && !bucket.parent().unwrap().exists());
    let role = url.parse::<sqlx::postgres::PgConnectOptions>().unwrap();
    let (left, keys): (i64, i64) = sqlx::query_as(
        "select (select count(*) from pg_database where datname = $1) + (select count(*) from pg_roles where rolname = $1),
                (select count(data_key_encrypted) from planes)",
    )
    .bind(role.get_username())
    .fetch_one(&mut control)
    .await
    .unwrap();
    assert_eq!((left, keys), (0, 1), "only the other organization's key is left");
    // The other tenant noticed nothing.
    assert_eq!(pid(&service.plane("other", &other).await), pid(&others));
    service
        .call("DELETE", "/v1/organizations/other?now=true", &other, None)
        .await
        .ok(202);
    until_gone(pid(&others)).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_plane_comes_back_and_planes_end_with_their_control_plane() {
    let place = Place::new().await;
    let mut service = place.start();
    let session = service.sign_up("ada@example.test", "acme").await;
    let first = service.plane("acme", &session).await;
    kill9(pid(&first));
    let second = wait_for("the plane to be back", LIMIT, async || {
        let access = service.access(&session).await;
        let token = access["access_token"].as_str().unwrap();
        let answer = service.call("GET", "/o/acme/v1/x", token, None).await;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    assert_ne!(pid(&first), pid(&second));
    assert_eq!(migrations(&second), 1, "a restart does not migrate again");

    // Killed, the control plane can tell nobody; the end of the pipe does.
    kill9(service.child.id());
    let _ = service.child.wait();
    until_gone(pid(&second)).await;

    let again = place.start();
    let third = again.plane("acme", &session).await;
    assert_eq!(migrations(&third), 1);
    again.stop().await;
    until_gone(pid(&third)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_is_configured_by_a_file_needs_no_parent_and_ends_in_order_at_a_signal() {
    let place = Place::new().await;
    let mut service = place.start_by_file();
    let session = service.sign_up("ada@example.test", "acme").await;
    let plane = service.plane("acme", &session).await;
    terminate(service.child.id());
    service.ended().await;
    assert!(service.child.wait().unwrap().success());
    until_gone(pid(&plane)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_master_key_is_refused_with_the_reason() {
    let place = Place::new().await;
    place.start().stop().await;
    let mut config = json!({
        "database_url": place.database.url, "listen": "127.0.0.1:0", "public_url": "", "home": place.home(),
        "master_key": "00".repeat(32), "data_plane_binary": "/nonexistent", "sandbox_binary": "/nonexistent",
    });
    for (key, reason) in [("00".repeat(32), "master key"), ("00".to_owned(), "64 hex digits")] {
        config["master_key"] = json!(key);
        let mut child = Command::new(env!("CARGO_BIN_EXE_howdah-control-plane"))
            .arg("serve")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{config}").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{said}");
    }
}
