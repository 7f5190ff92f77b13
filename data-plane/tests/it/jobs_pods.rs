//! Workers in pods, with processes of this machine in the place of containers: a real shim, which user code runs under, and a real
//! agent, which only has the capability of its pool. The plane runs no worker of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use contract::api::{DatumState, Job, JobState};
use contract::ids::JobId;
use data_plane::worker::capability::Capabilities;
use data_plane::worker::protocol::{Pool, RunnerConfig, WorkerConfig};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::processes::{is_alive, kill9, terminate};

use crate::jobs_rig::{LIMIT, Person, Rig, binary, shell, succeeded};

/// A plane without a worker, somebody, and the repo `in`.
pub async fn rig(files: &[(&str, &str)]) -> (Rig, Person) {
    let mut rig = Rig::start().await;
    rig.kill9();
    rig.config.slots = 0;
    // It is where it was when it is started again, as behind a service of a cluster.
    rig.config.listen = format!("127.0.0.1:{}", testkit::processes::free_port());
    rig.boot().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", files).await;
    (rig, ada)
}

pub async fn database(rig: &Rig) -> PgPool {
    PgPool::connect(&rig.config.database_url).await.unwrap()
}

pub async fn pool_of(rig: &Rig, job: JobId) -> Pool {
    let (pipeline, version) = sqlx::query_as("select pipeline_id, version from jobs where id = $1")
        .bind(job.uuid())
        .fetch_one(&database(rig).await)
        .await
        .unwrap();
    Pool { pipeline, version }
}

pub fn capability(rig: &Rig, pool: Pool) -> String {
    Capabilities::new(rig.config.data_key.as_deref(), "").of(pool)
}

/// A pod, whose containers are processes.
pub struct Pod {
    directory: PathBuf,
    shim: Child,
    agent: Child,
}

impl Pod {
    pub fn start(rig: &Rig, name: &str, pool: Pool) -> Self {
        Self::of(rig, name, (pool, false))
    }

    /// One that keeps a service or a spout running.
    pub fn lasting(rig: &Rig, name: &str, pool: Pool) -> Self {
        Self::of(rig, name, (pool, true))
    }

    fn of(rig: &Rig, name: &str, (pool, lasting): (Pool, bool)) -> Self {
        let directory = rig.directory.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        open(&directory);
        let at = |name: &str| directory.join(name);
        let config = WorkerConfig {
            plane_url: rig.url().to_owned(),
            secret: String::new(),
            pool: Some(pool),
            capability: Some(capability(rig, pool)),
            lasting,
            worker: uuid::Uuid::nil(),
            store: rig.config.store.clone(),
            data_key: rig.config.data_key.clone(),
            home: at("home"),
            runner: RunnerConfig::Pod {
                socket: at("shim.sock"),
                pfs: at("pfs"),
                code: at("code"),
                door: 0,
            },
            sandbox_binary: PathBuf::new(),
            masked: Vec::new(),
            slots: 1,
            sandbox_uid: 65_532,
            cache_bytes_max: 1 << 30,
            imports: contract::config::ImportConfig::default(),
        };
        std::fs::write(at("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        for name in ["pfs", "code"] {
            std::fs::create_dir_all(at(name)).unwrap();
            open(&at(name));
        }
        Self {
            shim: shim(&directory),
            agent: agent(&directory),
            directory,
        }
    }

    pub fn stop_agent(&mut self) -> std::process::ExitStatus {
        terminate(self.agent.id());
        self.agent.wait().unwrap()
    }

    /// As an orchestrator does when a container has ended.
    pub fn restart_shim(&mut self) {
        kill9(self.shim.id());
        let _ = self.shim.wait();
        self.shim = shim(&self.directory);
    }

    pub fn restart_agent(&mut self) {
        kill9(self.agent.id());
        let _ = self.agent.wait();
        self.agent = agent(&self.directory);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.shim] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn open(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn shim(directory: &Path) -> Child {
    Command::new(binary("howdah-shim"))
        .args(["serve", "--socket"])
        .arg(directory.join("shim.sock"))
        .arg("--scratch")
        .arg(directory.join("tmp"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn agent(directory: &Path) -> Child {
    let digest = blake3::hash(directory.as_os_str().as_encoded_bytes());
    let name = uuid::Uuid::from_slice(&digest.as_bytes()[..16]).unwrap();
    Command::new(env!("CARGO_BIN_EXE_howdah-data-plane"))
        .args(["worker", "--config"])
        .arg(directory.join("config.json"))
        // As of its pod: another agent of it goes by the same name.
        .env("HOWDAH_WORKER", name.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

async fn has_printed(rig: &Rig, ada: &Person, job: JobId, text: &str) {
    testkit::wait::wait_until("the datum to print", LIMIT, async || {
        rig.logs(ada, job).await.iter().any(|line| line.text.starts_with(text))
    })
    .await;
}

/// A command that stands still until a file is there.
fn waits(rig: &Rig, then: &str) -> (String, PathBuf) {
    let go = rig.directory.path().join("go");
    let script = format!(
        "[ -e {0} ] || {{ echo begun $$; while [ ! -e {0} ]; do sleep 0.05; done; }}; {then}",
        go.display()
    );
    (script, go)
}

/// The process that said it has begun.
async fn begun(rig: &Rig, ada: &Person, job: JobId) -> u32 {
    has_printed(rig, ada, job, "begun ").await;
    let lines = rig.logs(ada, job).await;
    let line = lines.iter().rev().find(|line| line.text.starts_with("begun ")).unwrap();
    line.text["begun ".len()..].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_runs_in_a_pod_as_it_does_on_a_machine() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "22"), ("c", "333")]).await;
    rig.repo(&ada, "side").await;
    rig.put(&ada, "side", &[("s", "side")]).await;
    let script = "ls -A /pfs/ /pfs/in /pfs/out $TMPDIR > $TMPDIR/seen; echo left > $TMPDIR/left; touch /pfs/in/mine 2>/dev/null && echo writable; \
                  for f in /pfs/in/*; do wc -c < $f > /pfs/out/$(basename $f); ln -s $f /pfs/out/link-$(basename $f); done; \
                  cat $TMPDIR/seen; echo who=$WHO job=$HOWDAH_JOB_ID >&2";
    let mut spec = shell("p", "in", "/*", script);
    spec["input"] = json!({ "cross": [
        { "pfs": { "repo": "in", "glob": "/*" } }, { "pfs": { "repo": "side", "glob": "/", "empty_files": true } },
    ] });
    spec["transform"]["env"] = json!({ "WHO": "ada" });
    let applied = rig.apply(&ada, vec![spec]).await;
    let pod = Pod::start(&rig, "pod-1", pool_of(&rig, applied[0].job.unwrap()).await);
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&job, 3, 3, 0);
    assert_eq!(job.isolation.as_deref(), Some("pod"));
    assert_eq!(
        rig.ls(&ada, "p@main").await,
        ["/a", "/b", "/c", "/link-a", "/link-b", "/link-c"]
    );
    assert_eq!(rig.cat(&ada, "p@main", "/c").await.trim(), "3");
    assert_eq!(rig.cat(&ada, "p@main", "/link-b").await, "22");
    let lines = rig.logs(&ada, job.id).await;
    let with = |text: &str| lines.iter().filter(|line| line.text == text).count();
    // Each sees its own file alone, and nothing that another one left.
    assert_eq!((with("a"), with("b"), with("c"), with("side")), (1, 1, 1, 3));
    assert_eq!((with("left"), with("link-a"), with("writable")), (0, 0, 0));
    assert_eq!(with(&format!("who=ada job={}", job.id)), 3);
    drop(pod);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_code_ends_in_a_pod_is_told_as_on_a_machine() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let cases = [
        (
            json!({ "cmd": ["/bin/sh", "-c", "echo because >&2; exit 3"] }),
            json!({}),
            "exit code 3",
        ),
        (
            json!({ "cmd": ["no-such-program"] }),
            json!({}),
            "`no-such-program` could not be started",
        ),
        (
            json!({ "cmd": ["sleep", "3600"] }),
            json!({ "datum_timeout": "1s" }),
            "ran longer than datum_timeout",
        ),
        (
            json!({ "cmd": ["python3", "-c", "x = b'x' * (400 << 20); import time; time.sleep(60)"] }),
            json!({ "resource_limits": { "memory": "100Mi" } }),
            "took more memory than resource_limits.memory admits",
        ),
        (
            json!({ "cmd": ["dd", "if=/dev/zero", "of=/pfs/out/large", "bs=1M", "count=20"] }),
            json!({ "resource_limits": { "disk": "1Mi" } }),
            "wrote a file larger than resource_limits.disk admits",
        ),
        (json!({ "cmd": ["mkfifo", "/pfs/out/pipe"] }), json!({}), "named pipe"),
    ];
    for (number, (transform, more, because)) in cases.into_iter().enumerate() {
        let name = format!("p{number}");
        let mut spec = shell(&name, "in", "/*", "");
        spec["transform"] = transform;
        spec["datum_tries"] = json!(1);
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let applied = rig.apply(&ada, vec![spec]).await;
        let pod = Pod::start(&rig, &name, pool_of(&rig, applied[0].job.unwrap()).await);
        let job = rig.job(&ada, applied[0].commit_set.unwrap(), &name).await;
        let reason = job.reason.unwrap_or_default();
        assert_eq!(job.state, JobState::Failure, "{because}");
        assert!(reason.contains(because), "{reason}");
        drop(pod);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_a_repo_is_where_the_spec_shows_it_and_secrets_are_masked() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    crate::jobs_secrets::grant(&rig, &ada, contract::policy::Role::Owner);
    let secret = json!({ "values": { "password": "hunter2-in-a-pod" } });
    let (status, text) = rig
        .send(&ada, "PUT", "/v1/projects/default/secrets/db", Some(secret))
        .await;
    assert!(status < 300, "{status} {text}");
    rig.repo(&ada, "programs").await;
    let files = [
        ("team/run.sh", "pwd; ls"),
        ("team/helpers/data", "of the code"),
        ("other/x", ""),
    ];
    rig.put(&ada, "programs", &files).await;
    let mut in_repo = shell("code", "in", "/*", "sh ./run.sh; cp helpers/data /pfs/out/data");
    in_repo["transform"]["code"] = json!({ "repo": "programs", "path": "/team" });
    let mut secret = shell("secret", "in", "/*", "echo it is $PASSWORD");
    secret["transform"]["secrets"] = json!([{ "name": "db", "env_var": "PASSWORD", "key": "password" }]);
    let applied = rig.apply(&ada, vec![in_repo, secret]).await;
    let mut pods = Vec::new();
    for (applied, name) in applied.iter().zip(["code", "secret"]) {
        pods.push(Pod::start(&rig, name, pool_of(&rig, applied.job.unwrap()).await));
    }
    let mut printed = Vec::new();
    for (applied, name) in applied.iter().zip(["code", "secret"]) {
        let job = rig.job(&ada, applied.commit_set.unwrap(), name).await;
        succeeded(&job, 1, 1, 0);
        let lines = rig.logs(&ada, job.id).await;
        printed.push(lines.into_iter().map(|line| line.text).collect::<Vec<_>>());
    }
    let place = pods[0].directory.join("code").display().to_string();
    assert_eq!(printed[0], [place.as_str(), "helpers", "run.sh"]);
    assert_eq!(printed[1], ["it is ***"]);
    assert_eq!(rig.cat(&ada, "code@main", "/data").await, "of the code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_takes_the_code_along_and_costs_no_try() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "2")]).await;
    let (script, go) = waits(&rig, "cp /pfs/in/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", &script)]).await;
    let job = applied[0].job.unwrap();
    let mut pod = Pod::start(&rig, "pod-1", pool_of(&rig, job).await);
    let code = begun(&rig, &ada, job).await;
    pod.restart_agent();
    testkit::wait::wait_until("the code to end", LIMIT, async || !is_alive(code)).await;
    std::fs::write(&go, "").unwrap();
    open(&go);
    let done = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&done, 2, 2, 0);
    assert_eq!(
        rig.cat(&ada, "p@main", "/a").await + &rig.cat(&ada, "p@main", "/b").await,
        "12"
    );
    assert!(rig.datums(&ada, job).await.iter().all(|datum| datum.attempts == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_of_the_code_is_told_as_such_and_the_datum_runs_again() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "2")]).await;
    let (script, go) = waits(&rig, "cp /pfs/in/* /pfs/out/");
    let mut spec = shell("p", "in", "/*", &script);
    spec["resource_limits"] = json!({ "memory": "100Mi" });
    let applied = rig.apply(&ada, vec![spec]).await;
    let job = applied[0].job.unwrap();
    let mut pod = Pod::start(&rig, "pod-1", pool_of(&rig, job).await);
    begun(&rig, &ada, job).await;
    pod.restart_shim();
    // The second try stands still too, so that it is seen why the first one ended.
    testkit::wait::wait_until("the reason", LIMIT, async || {
        let datums = rig.datums(&ada, job).await;
        datums.iter().any(|datum| {
            let reason = datum.reason.as_deref().unwrap_or_default();
            datum.attempts == 1 && reason.contains("its container was killed") && reason.contains("104857600 bytes")
        })
    })
    .await;
    std::fs::write(&go, "").unwrap();
    open(&go);
    let done = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&done, 2, 2, 0);
    assert_eq!(
        rig.cat(&ada, "p@main", "/a").await + &rig.cat(&ada, "p@main", "/b").await,
        "12"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_told_to_stop_gives_its_datums_back_at_once_and_costs_them_nothing() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let (script, go) = waits(&rig, "cp /pfs/in/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", &script)]).await;
    let job = applied[0].job.unwrap();
    let mut first = Pod::start(&rig, "pod-1", pool_of(&rig, job).await);
    begun(&rig, &ada, job).await;
    std::fs::write(&go, "").unwrap();
    open(&go);
    // Before it can go on: the code was seen to stand still.
    let pool = database(&rig).await;
    assert!(first.stop_agent().success());
    let held: (i64, i64) =
        sqlx::query_as("select count(*), (select sum(lost + deaths)::bigint from datums) from leases")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(held, (0, 0));
    let _second = Pod::start(&rig, "pod-2", pool_of(&rig, job).await);
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_killed_and_comes_back_finds_its_pods_at_work() {
    let (mut rig, ada) = rig(&[("a", "1")]).await;
    let (script, go) = waits(&rig, "cp /pfs/in/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", &script)]).await;
    let job = applied[0].job.unwrap();
    let _pod = Pod::start(&rig, "pod-1", pool_of(&rig, job).await);
    let code = begun(&rig, &ada, job).await;
    rig.kill9();
    // As if it had been away for longer than leases last.
    sqlx::query("update leases set expires_at = expires_at - interval '1 minute'")
        .execute(&database(&rig).await)
        .await
        .unwrap();
    rig.boot().await;
    let pool = database(&rig).await;
    testkit::wait::wait_until("the lease to be renewed", LIMIT, async || {
        sqlx::query_scalar::<_, bool>("select bool_and(expires_at > now()) from leases")
            .fetch_one(&pool)
            .await
            .unwrap()
    })
    .await;
    assert!(is_alive(code));
    std::fs::write(&go, "").unwrap();
    open(&go);
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    let claims: i32 = sqlx::query_scalar("select claims from datums")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(claims, 1, "the code ran once");
}

pub struct Stranger<'a> {
    pub rig: &'a Rig,
    pub pool: Option<Pool>,
    pub secret: Option<String>,
}

impl Stranger<'_> {
    pub async fn post(&self, verb: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/internal/v1/worker/{verb}", self.rig.url());
        let mut request = reqwest::Client::new().post(url).json(&body);
        if let Some(secret) = &self.secret {
            request = request.header("howdah-worker-secret", secret);
        }
        if let Some(pool) = self.pool {
            request = request.header("howdah-worker-pool", pool.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }
}

fn bodies(job: JobId) -> [(&'static str, Value); 6] {
    let worker = uuid::Uuid::from_u128(7);
    [
        (
            "claim",
            json!({ "worker": worker, "datums_max": 1, "wait_ms": 0, "isolation": "pod" }),
        ),
        (
            "heartbeat",
            json!({ "worker": worker, "leases": [], "jobs": [job], "logs": [] }),
        ),
        ("complete", json!({ "worker": worker, "datums": [], "logs": [] })),
        ("leave", json!({ "worker": worker })),
        (
            "services",
            json!({ "worker": worker, "services": [], "isolation": "pod", "wait_ms": 0 }),
        ),
        (
            "commits",
            json!({ "worker": worker, "job": job, "run": 1, "request": worker, "key": null, "message": "", "outputs": "" }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_capability_of_a_pool_is_let_in() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let job = rig.apply(&ada, vec![shell("p", "in", "/*", "true")]).await[0]
        .job
        .unwrap();
    let pool = pool_of(&rig, job).await;
    let other = Pool { version: 7, ..pool };
    let of_another_plane = Capabilities::new(Some(&"5b".repeat(32)), "").of(pool);
    for (pool, secret) in [
        (None, None),
        (Some(pool), None),
        (None, Some(capability(&rig, pool))),
        (Some(pool), Some(capability(&rig, other))),
        (Some(other), Some(capability(&rig, pool))),
        (Some(pool), Some(of_another_plane)),
        (Some(pool), Some("5a".repeat(32))),
        (None, Some(ada.token().to_owned())),
    ] {
        let stranger = Stranger {
            rig: &rig,
            pool,
            secret,
        };
        for (verb, body) in bodies(job) {
            assert_eq!(stranger.post(verb, body).await.0, 401, "{verb} {:?}", stranger.pool);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_one_pool_gets_and_touches_nothing_of_another_one() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let applied = rig
        .apply(
            &ada,
            vec![shell("mine", "in", "/*", "true"), shell("theirs", "in", "/*", "true")],
        )
        .await;
    let [mine, theirs] = [0, 1].map(|n| applied[n].job.unwrap());
    let pools = [pool_of(&rig, mine).await, pool_of(&rig, theirs).await];
    let [me, they] = pools.map(|pool| Stranger {
        rig: &rig,
        pool: Some(pool),
        secret: Some(capability(&rig, pool)),
    });
    let claim = json!({ "worker": uuid::Uuid::from_u128(7), "datums_max": 10, "wait_ms": 20_000, "isolation": "pod" });
    let claimed = they.post("claim", claim.clone()).await.1;
    assert_eq!(claimed["datums"][0]["job"], json!(theirs));
    assert_eq!(claimed["datums"].as_array().unwrap().len(), 1);
    let own = me.post("claim", claim).await.1;
    assert_eq!(
        (&own["datums"][0]["job"], own["jobs"].as_array().unwrap().len()),
        (&json!(mine), 1)
    );

    // Under the very names that the other one goes by.
    let worker = uuid::Uuid::from_u128(7);
    let lease = &claimed["lease"];
    let beat = |jobs: Value| json!({ "worker": worker, "leases": [lease], "jobs": jobs, "logs": [] });
    let (status, answer) = me.post("heartbeat", beat(json!([]))).await;
    assert_eq!((status, &answer["lost"]), (200, &json!([lease])));
    assert_eq!(me.post("heartbeat", beat(json!([theirs]))).await.0, 404);
    let line = json!({ "job": theirs, "key": claimed["datums"][0]["key"], "run": 1, "line": 0, "at": "2026-01-01T00:00:00Z",
                       "stream": "stdout", "text": "forged" });
    let logs = json!({ "worker": worker, "leases": [], "jobs": [], "logs": [line] });
    assert_eq!(me.post("heartbeat", logs).await.0, 404);
    let report = json!({ "job": theirs, "position": 0, "lease": lease, "ending": { "kind": "recovered" }, "exit_code": 0,
                         "download_ms": 0, "process_ms": 0, "upload_ms": 0, "started_at": "2026-01-01T00:00:00Z",
                         "memory_bytes": 0, "cpu_ms": 0, "bytes_in": 0, "bytes_out": 0 });
    let complete = |logs: Value| json!({ "worker": worker, "datums": [report], "logs": logs });
    assert_eq!(me.post("complete", complete(json!([]))).await.0, 404);
    assert_eq!(
        me.post("leave", json!({ "worker": worker })).await.1["freed"],
        json!(1),
        "its own datum"
    );
    let [.., services, commits] = bodies(theirs);
    let (status, answer) = me.post(services.0, services.1).await;
    assert_eq!((status, &answer["services"]), (200, &json!([])));
    assert_eq!(me.post(commits.0, commits.1).await.0, 404);
    // The other one holds what it held, and its word counts.
    assert_eq!(they.post("heartbeat", beat(json!([theirs]))).await.1["lost"], json!([]));
    assert_eq!(they.post("complete", complete(json!([]))).await.1["accepted"], json!(1));
    let states: Vec<DatumState> = rig
        .datums(&ada, theirs)
        .await
        .into_iter()
        .map(|datum| datum.state)
        .collect();
    assert_eq!(states, [DatumState::Recovered]);
    assert!(rig.logs(&ada, theirs).await.is_empty());
    let open: Job = rig.get(&ada, &format!("/v1/jobs/{mine}")).await;
    assert_eq!(open.state, JobState::Running);
}
