//! Services: reached by whom may read what their job reads, replaced at new commits, started again whatever ends them.

use std::time::Duration;

use contract::api::{Job, JobState, Pipeline, PipelineState, ServiceState};
use contract::policy::Role;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::jobs_rig::{LIMIT, Person, Rig, finished, shell};

/// Answers with what it reads and what it was asked, echoes what comes after an upgrade, and ends when it is told to.
const SERVER: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "echo")
            self.end_headers()
            self.close_connection = True
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            return
        if self.path == "/end":
            print("told to end", flush=True)
            os._exit(7)
        known = {
            "/headers": lambda: str(self.headers),
            "/secret": lambda: os.environ.get("TOKEN", ""),
            "/environment": lambda: os.environ["HOWDAH_SERVICE_PORT"] + os.environ["HOWDAH_SERVICE_BASE"],
        }
        body = known.get(self.path, lambda: " ".join(open("/pfs/in/" + f).read() for f in sorted(os.listdir("/pfs/in"))))()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "wide=1; Domain=localhost")
        self.end_headers()
        self.wfile.write(body.encode())
print("ready", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"#;

pub fn spec() -> Value {
    json!({
        "pipeline": { "name": "page" },
        "transform": { "cmd": ["/usr/bin/python3", "-c", SERVER] },
        "input": { "pfs": { "repo": "in", "glob": "/*" } },
        "service": { "internal_port": 8000, "type": "ClusterIP" },
    })
}

/// The same at another port, of a machine whose network all share.
pub fn spec_at(port: u16) -> Value {
    let mut spec = spec();
    spec["transform"]["cmd"][2] = json!(SERVER.replace("8000", &port.to_string()));
    spec["service"]["internal_port"] = json!(port);
    spec
}

/// Ada's service over a repo with one file.
async fn serving(rig: &Rig) -> Person {
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    rig.apply(&ada, vec![spec()]).await;
    ada
}

/// As the gateway asks it.
pub async fn ask(rig: &Rig, person: &Person, path: &str) -> (u16, String) {
    let answer = reqwest::Client::new()
        .get(format!("{}/services/default/page{path}", rig.url()))
        .bearer_auth(person.token())
        .header("howdah-services", "1")
        .header("howdah-epoch", rig.control.epoch())
        .header("cookie", "howdah_service=secret; own=1")
        .send()
        .await
        .unwrap();
    assert!(answer.headers().get("set-cookie").is_none());
    (answer.status().as_u16(), answer.text().await.unwrap())
}

pub async fn answers(rig: &Rig, person: &Person, expected: &str) {
    let expected = (200, expected.to_owned());
    testkit::wait::wait_until("the service's answer", LIMIT, async || {
        ask(rig, person, "/").await == expected
    })
    .await;
}

pub async fn pipeline(rig: &Rig, person: &Person) -> Pipeline {
    rig.get(person, "/v1/pipelines/default/page").await
}

/// A connection that was changed to another protocol.
pub async fn echo(rig: &Rig, person: &Person) -> TcpStream {
    let mut connection = TcpStream::connect(rig.url().trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "GET /services/default/page/ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nHowdah-Services: 1\r\n\
         Connection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        person.token()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(connection.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    connection.write_all(b"hello").await.unwrap();
    let mut said = [0; 5];
    connection.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_with_its_newest_input_and_holds_up_nobody() {
    let rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    let (_, headers) = ask(&rig, &ada, "/headers").await;
    let headers = headers.to_lowercase();
    assert!(headers.contains("cookie: own=1"), "{headers}");
    for ours in ["authorization", "howdah", "secret"] {
        assert!(!headers.contains(ours), "{headers}");
    }
    assert_eq!(ask(&rig, &ada, "/environment").await.1, "8000/");
    let shown = pipeline(&rig, &ada).await;
    assert_eq!((shown.state, shown.reason), (PipelineState::Running, None));
    let service = shown.service.unwrap();
    assert_eq!((service.internal_port, service.state), (8000, ServiceState::Answering));

    let put = rig.put(&ada, "in", &[("b", "second")]).await;
    finished(&rig.settle(&ada, put.commit_set).await);
    answers(&rig, &ada, "first second").await;
    let jobs = rig.jobs(&ada, "page").await;
    let states: Vec<JobState> = jobs.iter().map(|j| j.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Success]);
    assert!(jobs[0].serving && !jobs[1].serving);
    assert!(rig.ls(&ada, "page@main").await.is_empty());
    assert_eq!(rig.datums(&ada, jobs[0].id).await.len(), 1);
    assert_eq!(jobs[0].executor.as_deref(), Some("process"));
    assert!(jobs[0].isolation.is_some());
    // The slots of datums are free: two of them run beside it.
    let mut other = shell("other", "in", "/*", "cp -r /pfs/in/* /pfs/out/");
    other["parallelism_spec"] = json!({ "constant": 2 });
    let applied = rig.apply(&ada, vec![other]).await;
    finished(&rig.settle(&ada, applied[0].commit_set.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_is_started_again_and_its_pipeline_says_why() {
    let rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    let job: Job = rig.jobs(&ada, "page").await.remove(0);
    for _ in 0..3 {
        let _ = ask(&rig, &ada, "/end").await;
        answers(&rig, &ada, "first").await;
    }
    assert_eq!(ask(&rig, &ada, "/end").await.0, 503);
    testkit::wait::wait_until("the pipeline to be crashing", LIMIT, async || {
        let shown = pipeline(&rig, &ada).await;
        shown.state == PipelineState::Crashing && shown.reason.is_some_and(|r| r.contains("exit code 7"))
    })
    .await;
    answers(&rig, &ada, "first").await;
    assert_eq!(pipeline(&rig, &ada).await.state, PipelineState::Running);
    testkit::wait::wait_until("all lines", LIMIT, async || {
        let lines = rig.logs(&ada, job.id).await;
        lines.iter().filter(|l| l.text == "told to end").count() == 4
            && lines.iter().filter(|l| l.text == "ready").count() == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_survives_the_end_of_its_worker_and_of_its_plane() {
    let mut rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    testkit::processes::kill9(rig.worker_pid().unwrap());
    answers(&rig, &ada, "first").await;
    rig.kill9();
    rig.boot().await;
    answers(&rig, &ada, "first").await;
    let shown = pipeline(&rig, &ada).await;
    assert_eq!(
        (shown.state, shown.service.unwrap().restarts),
        (PipelineState::Running, 0)
    );
    assert_eq!(rig.jobs(&ada, "page").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_is_not_reached_until_it_is_started() {
    let rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    let mut open = echo(&rig, &ada).await;
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/page/stop", json!({})).await;
    let (status, text) = ask(&rig, &ada, "/").await;
    assert!(
        status == 409 && text.contains("howdah pipeline start"),
        "{status} {text}"
    );
    let end = tokio::time::timeout(LIMIT, open.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    rig.put(&ada, "in", &[("b", "second")]).await;
    assert_eq!(ask(&rig, &ada, "/").await.0, 409);
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/page/start", json!({})).await;
    answers(&rig, &ada, "first second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_read_what_it_reads_reaches_a_service_and_only_as_long() {
    let rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    let (eve, ben) = (rig.member("eve").await, rig.member("ben").await);
    let (status, text) = ask(&rig, &eve, "/").await;
    let absent = rig
        .send(&eve, "GET", "/v1/pipelines/default/absent/service", None)
        .await;
    assert_eq!((status, absent.0), (404, 404), "{text}");
    // Who may know of the pipeline but not read its input is told so.
    rig.grant(&ben, Role::Viewer, "page");
    let (status, text) = ask(&rig, &ben, "/").await;
    assert!(status == 403 || status == 404, "{status} {text}");
    assert!(pipeline(&rig, &ben).await.service.is_none());
    rig.grant(&ben, Role::Viewer, "in");
    assert_eq!(ask(&rig, &ben, "/").await, (200, "first".to_owned()));
    // Not without the mark of the address of services: what the gateway's other address forwards has none.
    assert_eq!(rig.send(&ben, "GET", "/services/default/page/", None).await.0, 404);

    let mut open = echo(&rig, &ben).await;
    rig.control.change(|s| s.grants.retain(|g| g.role != Role::Viewer));
    let end = tokio::time::timeout(Duration::from_secs(30), open.read(&mut [0]))
        .await
        .unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "a revoked reader's connection goes on");
    assert_ne!(ask(&rig, &ben, "/").await.0, 200);
    drop(echo(&rig, &ada).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_becomes_an_ordinary_pipeline_ends() {
    let rig = Rig::start().await;
    let ada = serving(&rig).await;
    answers(&rig, &ada, "first").await;
    let ordinary = shell("page", "in", "/*", "cp /pfs/in/a /pfs/out/");
    let applied = rig.apply(&ada, vec![ordinary]).await;
    finished(&rig.settle(&ada, applied[0].commit_set.unwrap()).await);
    assert_eq!(rig.cat(&ada, "page@main", "/a").await, "first");
    assert_eq!(ask(&rig, &ada, "/").await.0, 409);
    let applied = rig.apply(&ada, vec![spec()]).await;
    finished(&rig.settle(&ada, applied[0].commit_set.unwrap()).await);
    answers(&rig, &ada, "first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answered_ends_well_when_it_is_replaced() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    let mut silent = spec();
    silent["transform"]["cmd"] = json!(["/bin/sleep", "1000"]);
    let first = rig.apply(&ada, vec![silent]).await.remove(0).commit_set.unwrap();
    finished(&rig.settle(&ada, first).await);
    let put = rig.put(&ada, "in", &[("b", "second")]).await;
    finished(&rig.settle(&ada, put.commit_set).await);
    let states: Vec<JobState> = rig.jobs(&ada, "page").await.iter().map(|j| j.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Success]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_reads_a_revoked_input_ends_at_once_and_comes_back_with_the_right() {
    let rig = Rig::start().await;
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    rig.grant(&ben, Role::Deriver, "in");
    rig.apply(&ben, vec![spec()]).await;
    rig.grant(&ada, Role::Viewer, "page");
    answers(&rig, &ada, "first").await;
    // Ada may read all of it, and goes on to.
    let mut open = echo(&rig, &ada).await;
    rig.control.change(|s| s.grants.retain(|g| g.role != Role::Deriver));
    let began = std::time::Instant::now();
    let end = tokio::time::timeout(LIMIT, open.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "the service goes on");
    println!("cut after {:?}", began.elapsed());
    assert_eq!(pipeline(&rig, &ada).await.state, PipelineState::Suspended);
    assert_eq!(ask(&rig, &ada, "/").await.0, 409);
    rig.grant(&ben, Role::Deriver, "in");
    answers(&rig, &ada, "first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_replaced_when_a_secret_that_it_uses_is_set_to_something_else() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    crate::jobs_secrets::grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    let set = async |name: &str, value: &str| {
        let body = json!({ "values": { "token": value } });
        let path = format!("/v1/projects/default/secrets/{name}");
        let (status, text) = rig.send(&ada, "PUT", &path, Some(body)).await;
        assert!(status < 300, "{status} {text}");
    };
    set("used", "one").await;
    set("other", "one").await;
    let mut with = spec();
    with["transform"]["secrets"] = json!([{ "name": "used", "env_var": "TOKEN", "key": "token" }]);
    rig.apply(&ada, vec![with]).await;
    let says = async |expected: &str| {
        let expected = (200, expected.to_owned());
        testkit::wait::wait_until("the secret of the service", LIMIT, async || {
            ask(&rig, &ada, "/secret").await == expected
        })
        .await;
    };
    says("one").await;
    // Neither what it is already, nor another secret.
    set("used", "one").await;
    set("other", "two").await;
    assert_eq!(rig.jobs(&ada, "page").await.len(), 1);
    set("used", "two").await;
    says("two").await;
    let states: Vec<JobState> = rig.jobs(&ada, "page").await.iter().map(|j| j.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Success]);
    // Removed, it serves nobody any longer.
    let path = "/v1/projects/default/secrets/used";
    let (status, text) = rig.send(&ada, "DELETE", path, None).await;
    assert_eq!(status, 204, "{text}");
    testkit::wait::wait_until("the next service to be refused", LIMIT, async || {
        rig.jobs(&ada, "page").await[0].state == JobState::Failure
    })
    .await;
    let jobs = rig.jobs(&ada, "page").await;
    assert!(
        jobs[0].reason.as_ref().unwrap().contains("used"),
        "{:?}",
        jobs[0].reason
    );
    assert!(jobs.iter().all(|job| job.finished_at.is_some()));
}
