//! What was acknowledged is there after anything was killed: the real process during puts, and PostgreSQL under a plane.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use chassis::Environment;
use contract::config::{DataPlaneConfig, DataPlaneReady};
use contract::policy::{Member, OrganizationRole};
use contract::problem::ProblemKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::app::{App, Person, archive, claims, config};
use crate::control::FakeControl;

/// The real process, as its parent starts it.
struct Process {
    child: Child,
    url: String,
    _parent: ChildStdin,
}

impl Process {
    fn start(config: &DataPlaneConfig) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_howdah-data-plane"))
            .arg("serve")
            .env("HOWDAH_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(config).unwrap()).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: DataPlaneReady = serde_json::from_str(&line).unwrap();
        Self {
            child,
            url: ready.url,
            _parent: stdin,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(100 + name.len() * 7_000).collect()
}

async fn answered(http: &reqwest::Client, url: &str, token: &str) -> bool {
    let request = http.get(format!("{url}/v1/repos")).bearer_auth(token);
    request.send().await.is_ok_and(|r| r.status().is_success())
}

/// Puts files of its own, one by one, until the process is gone; names what was acknowledged.
async fn put_until_gone(url: &str, token: &str, writer: usize, round: usize, acknowledged: &Mutex<Vec<String>>) {
    let http = reqwest::Client::new();
    for n in 0.. {
        let name = format!("w{writer}-{round}-{n}");
        let reply = http
            .post(format!("{url}/v1/files?repo=r&branch=b{}", writer % 2))
            .bearer_auth(token)
            .body(archive(&[(&name, &content(&name))]))
            .send()
            .await;
        match reply {
            Ok(reply) if reply.status() == StatusCode::CREATED => acknowledged.lock().unwrap().push(name),
            Ok(reply) => panic!("{} {}", reply.status(), reply.text().await.unwrap_or_default()),
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_during_puts() {
    chassis::process::install_tls_provider();
    let seed = rand::random::<u32>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed.into());
    let database = testkit::postgres::migrated_database(&data_plane::server::MIGRATIONS).await;
    let environment = Environment::system();
    let control = FakeControl::start(&environment).await;
    let directory = testkit::temporary_directory();
    let config = config(&control, &database.url, directory.path());
    let claims = claims(&control, &environment, "ada", OrganizationRole::Member);
    let token = control.sign_token(&claims);
    control.change(|s| {
        s.members.push(Member {
            principal: claims.sub,
            name: "ada".to_owned(),
            role: OrganizationRole::Member,
        });
    });
    let http = reqwest::Client::new();
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..4 {
        let began = Instant::now();
        let mut process = Process::start(&config);
        println!("ready after {:?}", began.elapsed());
        let url = process.url.clone();
        testkit::wait::wait_until("the plane to answer", Duration::from_secs(20), async || {
            answered(&http, &url, &token).await
        })
        .await;
        println!("first answer after {:?}", began.elapsed());
        if round == 0 {
            let request = http
                .post(format!("{url}/v1/projects/default/repos"))
                .bearer_auth(&token);
            let reply = request.json(&serde_json::json!({"name": "r"})).send().await.unwrap();
            assert_eq!(reply.status(), StatusCode::CREATED);
        }
        check(&http, &url, &token, &acknowledged).await;
        let before = acknowledged.lock().unwrap().len();
        let wanted = before + rng.random_range(3..12);
        let writers = (0..4).map(|w| put_until_gone(&url, &token, w, round, &acknowledged));
        let killing = async {
            testkit::wait::wait_until("a few puts", Duration::from_secs(60), async || {
                acknowledged.lock().unwrap().len() >= wanted
            })
            .await;
            process.kill();
        };
        futures::future::join(futures::future::join_all(writers), killing).await;
    }
    let process = Process::start(&config);
    testkit::wait::wait_until("the plane to answer", Duration::from_secs(20), async || {
        answered(&http, &process.url, &token).await
    })
    .await;
    check(&http, &process.url, &token, &acknowledged).await;
}

async fn check(http: &reqwest::Client, url: &str, token: &str, acknowledged: &Mutex<Vec<String>>) {
    let names = acknowledged.lock().unwrap().clone();
    for name in names {
        let writer: usize = name[1..2].parse().unwrap();
        let uri = format!("{url}/v1/content?ref=r@b{}&path={name}", writer % 2);
        let reply = http.get(uri).bearer_auth(token).send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::OK, "{name}");
        assert!(reply.bytes().await.unwrap() == content(&name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_database_is_answered_overloaded_until_it_is_back_and_nothing_is_lost() {
    let server = testkit::postgres::dedicated().await;
    let pool = sqlx::PgPool::connect(&server.url).await.unwrap();
    data_plane::server::MIGRATIONS.run(&pool).await.unwrap();
    pool.close().await;
    let app = App::on(&server.url, None).await;
    let ada: Person = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("before", b"1")]).await.ok();

    server.kill9();

    let reply = app.put(&ada, "r", &[("during", b"2")]).await;
    reply.refused(ProblemKind::Overloaded);
    assert!(reply.headers.contains_key("retry-after"));
    app.cat(&ada, "r", "before").await.refused(ProblemKind::Overloaded);

    server.start();

    testkit::wait::wait_until("the plane to recover", Duration::from_secs(20), async || {
        app.cat(&ada, "r", "before").await.status.is_success()
    })
    .await;
    app.put(&ada, "r", &[("after", b"3")]).await.ok();
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await, ["/after", "/before"]);
}
