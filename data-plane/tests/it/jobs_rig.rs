//! A data plane as its own process with its worker and real sandboxes, and people who call it over HTTP.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use contract::api::{Commit, CommitState, Datum, Job, JobState, Page, WaitAnswer};
use contract::claims::{AccessClaims, plane_audience};
use contract::config::{DataPlaneConfig, DataPlaneReady, StoreConfig};
use contract::ids::{CommitId, CommitSetId, JobId, TokenId};
use contract::policy::{Grant, Grantee, Member, OrganizationRole, Principal, Resource, Role};
use contract::problem::Problem;
use data_plane::Environment;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::postgres::TestDatabase;

use crate::control::{FakeControl, ISSUER};

/// How long anything may take on a crowded machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A running plane.
pub struct Rig {
    pub control: FakeControl,
    pub directory: tempfile::TempDir,
    pub config: DataPlaneConfig,
    child: Option<Child>,
    url: String,
    http: reqwest::Client,
    environment: Environment,
    _database: Option<TestDatabase>,
}

/// Somebody with a token.
#[derive(Clone)]
pub struct Person {
    pub principal: Principal,
    token: String,
}

impl Person {
    pub fn token(&self) -> &str {
        &self.token
    }
}

pub fn binary(name: &str) -> PathBuf {
    let plane = Path::new(env!("CARGO_BIN_EXE_howdah-data-plane"));
    let found = plane.with_file_name(name);
    assert!(
        found.exists(),
        "`{}` is not built: run the tests with --workspace",
        found.display()
    );
    found
}

impl Rig {
    pub async fn start() -> Self {
        let database = testkit::postgres::migrated_database(&data_plane::server::MIGRATIONS).await;
        let url = database.url.clone();
        Self::on(&url, Some(database)).await
    }

    pub async fn on(database_url: &str, database: Option<TestDatabase>) -> Self {
        chassis::process::install_tls_provider();
        let environment = Environment::system();
        let control = FakeControl::start(&environment).await;
        let directory = testkit::temporary_directory();
        let config = DataPlaneConfig {
            organization: control.organization,
            database_url: database_url.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            store: StoreConfig::Local {
                directory: directory.path().join("bucket"),
            },
            home: directory.path().join("home"),
            control_url: control.url.clone(),
            issuer: ISSUER.to_owned(),
            data_key: Some("5a".repeat(32)),
            agent_token: "hwd_agt_test".to_owned(),
            jwks: control.jwks(),
            sandbox_binary: binary("howdah-sandbox"),
            masked: vec![directory.path().to_owned()],
            slots: 2,
            sandbox_uid: 61_234,
            fail_closed_seconds: 60,
            handover: false,
            imports: contract::config::ImportConfig::default(),
            logs: contract::config::LogsConfig::default(),
            telemetry: contract::config::TelemetryConfig::default(),
            executor: contract::executor::ExecutorConfig::default(),
        };
        let mut rig = Self {
            control,
            directory,
            config,
            child: None,
            url: String::new(),
            http: reqwest::Client::builder().timeout(LIMIT).build().unwrap(),
            environment,
            _database: database,
        };
        rig.boot().await;
        rig
    }

    /// Starts the plane's process.
    pub async fn boot(&mut self) {
        // Under the strictest umask: what user code may see must not depend on it.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "umask 077; exec \"$0\" serve"])
            .arg(env!("CARGO_BIN_EXE_howdah-data-plane"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = serde_json::to_vec(&self.config).unwrap();
        line.push(b'\n');
        child.stdin.as_mut().unwrap().write_all(&line).unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let ready: DataPlaneReady = serde_json::from_str(&ready).unwrap_or_else(|e| panic!("{e}: `{ready}`"));
        self.url = ready.url;
        self.child = Some(child);
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Kills the plane with SIGKILL.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().unwrap();
        testkit::processes::kill9(child.id());
        let _ = child.wait();
    }

    /// Tells the plane to stop, as an orchestrator does, and waits until it has.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().unwrap();
        testkit::processes::terminate(child.id());
        assert!(tokio::task::block_in_place(|| child.wait()).unwrap().success());
    }

    /// The worker's process, if it runs.
    pub fn worker_pid(&self) -> Option<u32> {
        worker_of(self.pid())
    }

    pub async fn member(&self, name: &str) -> Person {
        let principal = Principal::Account(self.environment.id());
        let now = self.environment.now().timestamp();
        let claims = AccessClaims {
            iss: ISSUER.to_owned(),
            aud: plane_audience(self.control.organization),
            sub: principal,
            name: name.to_owned(),
            org: self.control.organization,
            role: OrganizationRole::Member,
            token: self.environment.id::<TokenId>(),
            scopes: Vec::new(),
            ci: None,
            iat: now,
            exp: now + 100_000,
            jti: "1".to_owned(),
        };
        let member = Member {
            principal,
            name: name.to_owned(),
            role: OrganizationRole::Member,
        };
        self.control.change(|s| s.members.push(member));
        Person {
            principal,
            token: self.control.sign_token(&claims),
        }
    }

    /// Gives a role on a repo.
    pub fn grant(&self, person: &Person, role: Role, repo: &str) {
        let Principal::Account(account) = person.principal else {
            panic!("an account is wanted");
        };
        let id = self.environment.id();
        self.control.change(|s| {
            let domain = s
                .domains
                .iter()
                .find(|d| d.name.as_str() == repo && !d.deleted)
                .unwrap()
                .id;
            s.grants.push(Grant {
                id,
                grantee: Grantee::Account(account),
                role,
                resource: Resource::Domain(domain),
            });
        });
    }

    pub fn request(&self, person: &Person, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
            .bearer_auth(&person.token)
            .header("Howdah-Epoch", self.control.epoch().to_string())
    }

    pub async fn send(&self, person: &Person, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let mut request = self.request(person, method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// An answer that is being sent.
    pub async fn open(&self, person: &Person, path: &str) -> reqwest::Response {
        self.request(person, "GET", path).send().await.unwrap()
    }

    pub async fn get<T: DeserializeOwned>(&self, person: &Person, path: &str) -> T {
        let (status, text) = self.send(person, "GET", path, None).await;
        assert!(status < 300, "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub async fn post<T: DeserializeOwned>(&self, person: &Person, path: &str, body: Value) -> T {
        let (status, text) = self.send(person, "POST", path, Some(body)).await;
        assert!(status < 300, "POST {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub async fn repo(&self, person: &Person, name: &str) -> contract::api::Repo {
        self.post(person, "/v1/projects/default/repos", json!({ "name": name }))
            .await
    }

    /// Puts files in one commit.
    pub async fn put(&self, person: &Person, repo: &str, files: &[(&str, &str)]) -> Commit {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(if text.starts_with("#!") { 0o755 } else { 0o644 });
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        self.put_archive(person, repo, builder.into_inner().unwrap()).await
    }

    pub async fn put_archive(&self, person: &Person, repo: &str, archive: Vec<u8>) -> Commit {
        let request = self.request(person, "POST", &format!("/v1/files?repo=default/{repo}&branch=main"));
        let answer = request
            .header("content-type", "application/x-tar")
            .body(archive)
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "put {repo}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn remove(&self, person: &Person, repo: &str, path: &str) -> Commit {
        let (status, text) = self
            .send(
                person,
                "DELETE",
                &format!("/v1/files?repo=default/{repo}&branch=main&path={path}"),
                None,
            )
            .await;
        assert!(status < 300, "{status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn cat(&self, person: &Person, reference: &str, path: &str) -> String {
        let (status, text) = self
            .send(person, "GET", &format!("/v1/content?ref={reference}&path={path}"), None)
            .await;
        assert!(status < 300, "cat {reference} {path}: {status} {text}");
        text
    }

    /// All file paths of a commit.
    pub async fn ls(&self, person: &Person, reference: &str) -> Vec<String> {
        let mut paths = Vec::new();
        let mut cursor = String::new();
        loop {
            let uri = format!("/v1/files?ref={reference}&recursive=true&limit=200{cursor}");
            let page: Page<contract::api::FileInfo> = self.get(person, &uri).await;
            paths.extend(page.items.into_iter().map(|f| f.path));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return paths,
            }
        }
    }

    pub async fn apply(&self, person: &Person, specs: Vec<Value>) -> Vec<contract::api::AppliedPipeline> {
        let answer: Value = self.post(person, "/v1/pipelines", json!({ "specs": specs })).await;
        serde_json::from_value(answer["items"].clone()).unwrap()
    }

    /// Applies what must be refused.
    pub async fn refused(&self, person: &Person, specs: Vec<Value>) -> Problem {
        let (status, text) = self
            .send(person, "POST", "/v1/pipelines", Some(json!({ "specs": specs })))
            .await;
        assert!(status >= 400, "{status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub async fn wait(&self, person: &Person, target: &str) -> WaitAnswer {
        let began = std::time::Instant::now();
        loop {
            let answer: WaitAnswer = self
                .get(person, &format!("/v1/wait?target={target}&timeout_seconds=20"))
                .await;
            if answer.done {
                return answer;
            }
            assert!(began.elapsed() < LIMIT, "waited in vain for {target}: {answer:?}");
        }
    }

    /// Waits for all of a commit's set.
    pub async fn settle(&self, person: &Person, set: CommitSetId) -> WaitAnswer {
        self.wait(person, &set.to_string()).await
    }

    /// The job of that pipeline in a set, when the set is done.
    pub async fn job(&self, person: &Person, set: CommitSetId, pipeline: &str) -> Job {
        let answer = self.settle(person, set).await;
        let found = answer.jobs.into_iter().find(|j| j.pipeline.as_str() == pipeline);
        found.unwrap_or_else(|| panic!("no job of {pipeline} in {set}"))
    }

    pub async fn jobs(&self, person: &Person, pipeline: &str) -> Vec<Job> {
        let page: Page<Job> = self.get(person, &format!("/v1/jobs?pipeline=default/{pipeline}")).await;
        page.items
    }

    pub async fn datums(&self, person: &Person, job: JobId) -> Vec<Datum> {
        let page: Page<Datum> = self.get(person, &format!("/v1/jobs/{job}/datums?limit=200")).await;
        page.items
    }

    pub async fn logs(&self, person: &Person, job: JobId) -> Vec<contract::api::LogLine> {
        let (status, text) = self.send(person, "GET", &format!("/v1/jobs/{job}/logs"), None).await;
        assert!(status < 300, "{status} {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn commit(&self, person: &Person, repo: &str, id: CommitId) -> Commit {
        self.get(person, &format!("/v1/commits?ref=default/{repo}@{id}")).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The end of its standard input stops it, its worker and what that runs.
            drop(child.stdin.take());
            let pid = child.id();
            let gone = || child.try_wait().is_ok_and(|status| status.is_some());
            let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                testkit::wait::wait_until_blocking("the plane to stop", Duration::from_secs(20), gone);
            }));
            if waited.is_err() {
                testkit::processes::kill9(pid);
            }
        }
    }
}

/// The worker of a plane's process, if it runs.
pub fn worker_of(parent: u32) -> Option<u32> {
    let children = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    children.into_iter().find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(parent.to_string().as_str())
            && String::from_utf8_lossy(&command).contains("\0worker")
    })
}

/// A spec: a shell command over the matches of a glob.
pub fn shell(name: &str, repo: &str, glob: &str, script: &str) -> Value {
    json!({
        "pipeline": { "name": name },
        "transform": { "cmd": ["/bin/sh", "-c", script] },
        "input": { "pfs": { "repo": repo, "glob": glob } },
    })
}

/// A job that succeeded, with what it counts: total, succeeded, skipped.
#[track_caller]
pub fn succeeded(job: &Job, total: u64, ran: u64, skipped: u64) {
    assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
    let found = (job.datums.total, job.datums.succeeded, job.datums.skipped);
    assert_eq!(found, (total, ran, skipped), "total, succeeded, skipped");
}

/// All of these commits are finished.
#[track_caller]
pub fn finished(answer: &WaitAnswer) {
    for commit in &answer.commits {
        assert_eq!(
            commit.state,
            CommitState::Finished,
            "{}: {:?}",
            commit.repo,
            commit.reason
        );
    }
}
