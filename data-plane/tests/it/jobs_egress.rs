//! Outputs that are sent to a bucket: what arrives there, what is sent again, and who may not.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use contract::api::{CommitState, Job, JobState};
use contract::policy::Role;
use contract::problem::ProblemKind;
use futures::TryStreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};
use crate::jobs_secrets::grant;
use crate::s3::{BUCKET, KEY, SECRET, client, service};
use crate::web::{Reply, Web};

/// What was asked of a bucket, and how much more it does.
struct Gate {
    writes: Mutex<Vec<String>>,
    left: AtomicI64,
}

/// An S3 server that answers 503 once so many writes were done.
struct Bucket {
    gate: Arc<Gate>,
    endpoint: String,
    task: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Bucket {
    async fn start(writes: i64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let s3 = service(directory.path());
        let gate = Arc::new(Gate {
            writes: Mutex::default(),
            left: AtomicI64::new(writes),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let at_gate = gate.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (s3, gate) = (s3.clone(), at_gate.clone());
                let asked = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (s3, gate) = (s3.clone(), gate.clone());
                    async move {
                        if request.method() != hyper::Method::GET {
                            if gate.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                                let busy = hyper::Response::builder().status(503).body(s3s::Body::empty());
                                return Ok(busy.unwrap());
                            }
                            let asked = format!("{} {}", request.method(), request.uri().path());
                            gate.writes.lock().unwrap().push(asked);
                        }
                        hyper::service::Service::call(&s3, request).await
                    }
                });
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), asked)
                        .await;
                });
            }
        });
        Self {
            gate,
            endpoint,
            task,
            _directory: directory,
        }
    }

    fn client(&self) -> Arc<dyn ObjectStore> {
        client(&self.endpoint)
    }

    async fn put(&self, key: &str, text: &str) {
        self.client().put(&key.into(), text.to_owned().into()).await.unwrap();
    }

    async fn text(&self, key: &str) -> String {
        let key = object_store::path::Path::parse(key).unwrap();
        let got = self.client().get(&key).await.unwrap().bytes().await.unwrap();
        String::from_utf8(got.to_vec()).unwrap()
    }

    async fn keys(&self) -> Vec<String> {
        let all: Vec<_> = self.client().list(None).try_collect().await.unwrap();
        let mut keys: Vec<String> = all.into_iter().map(|meta| meta.location.to_string()).collect();
        keys.sort();
        keys
    }

    /// What was written since it was asked last.
    fn writes(&self) -> Vec<String> {
        let mut writes = std::mem::take(&mut *self.gate.writes.lock().unwrap());
        writes.sort();
        writes
    }

    fn egress(&self) -> Value {
        json!({ "url": format!("s3://{BUCKET}/results/v1/"), "endpoint": self.endpoint, "secret": { "name": "aws" } })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A plane that may reach this machine and does not wait long.
pub async fn rig() -> (Rig, Person) {
    let mut rig = Rig::start().await;
    rig.kill9();
    rig.config.imports.allow = vec!["127.0.0.1".parse().unwrap()];
    rig.config.imports.retry_milliseconds = 20;
    rig.boot().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    (rig, ada)
}

pub async fn secret(rig: &Rig, person: &Person, name: &str, values: Value) {
    let (status, text) = rig
        .send(
            person,
            "PUT",
            &format!("/v1/projects/default/secrets/{name}"),
            Some(json!({ "values": values })),
        )
        .await;
    assert!(status < 300, "{status} {text}");
}

async fn keys(rig: &Rig, person: &Person, secret_key: &str) {
    let values = json!({ "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret_key });
    secret(rig, person, "aws", values).await;
}

fn copy(egress: Value) -> Value {
    let mut spec = shell("p", "in", "/*", "cp -r /pfs/in/* /pfs/out/");
    spec["egress"] = egress;
    spec
}

/// The newest job once it is in that state.
pub async fn job_in(rig: &Rig, person: &Person, state: JobState) -> Job {
    testkit::wait::wait_for(&format!("a job that is {}", state.as_str()), LIMIT, async || {
        let newest = rig.jobs(person, "p").await.into_iter().next();
        newest.filter(|job| job.state == state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_is_in_the_bucket_when_its_commit_is_there_and_only_what_changed_is_sent() {
    let bucket = Bucket::start(i64::MAX).await;
    let (rig, ada) = rig().await;
    keys(&rig, &ada, SECRET).await;
    bucket.put("results/v1/not-ours", "1").await;
    bucket.put("elsewhere", "1").await;
    let large = "0123456789abcdef".repeat(20 << 16);
    rig.put(
        &ada,
        "in",
        &[("a", "1"), ("d/b c#ü%20", "2"), ("gone/x", "3"), ("large", &large)],
    )
    .await;

    let applied = rig.apply(&ada, vec![copy(bucket.egress())]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&job, 4, 4, 0);
    assert_eq!(job.reason, None);
    assert_eq!(
        bucket.keys().await,
        [
            "elsewhere",
            "results/v1/a",
            "results/v1/d/b c#ü%20",
            "results/v1/gone/x",
            "results/v1/large",
            "results/v1/not-ours"
        ]
    );
    assert_eq!(bucket.text("results/v1/d/b c#ü%20").await, "2");
    assert!(bucket.text("results/v1/large").await == large);
    let parts = bucket
        .writes()
        .iter()
        .filter(|w| *w == "PUT /packs/results/v1/large")
        .count();
    assert_eq!(parts, 3, "parts of 8 MiB");

    // What is there already is not sent again, what is gone from the output goes, what others put there stays.
    rig.put(&ada, "in", &[("a", "other"), ("new", "4")]).await;
    let job = rig
        .job(&ada, rig.remove(&ada, "in", "/gone").await.commit_set, "p")
        .await;
    assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
    assert_eq!(
        bucket.writes(),
        ["POST /packs", "PUT /packs/results/v1/a", "PUT /packs/results/v1/new"]
    );
    assert!(!bucket.keys().await.contains(&"results/v1/gone/x".to_owned()));
    assert_eq!(bucket.text("results/v1/a").await, "other");
    assert!(bucket.keys().await.contains(&"results/v1/not-ours".to_owned()));
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    let latest = async || rig.job(&ada, rig.jobs(&ada, "p").await[0].commit_set, "p").await;
    assert_eq!(latest().await.state, JobState::Success);
    assert_eq!(bucket.writes(), Vec::<String>::new());

    // Until everything is asked for.
    bucket.put("results/v1/new", "spoilt").await;
    let specs = json!({ "specs": [copy(bucket.egress())], "reprocess": true });
    rig.post::<Value>(&ada, "/v1/pipelines", specs).await;
    succeeded(&latest().await, 4, 4, 0);
    assert_eq!(bucket.text("results/v1/new").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_is_waited_for_over_the_death_of_the_plane_and_gets_everything_once() {
    let bucket = Bucket::start(3).await;
    let (mut rig, ada) = rig().await;
    keys(&rig, &ada, SECRET).await;
    let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    rig.put(&ada, "in", &files).await;
    let mut spec = copy(bucket.egress());
    spec["input"]["pfs"]["glob"] = json!("/");
    let applied = rig.apply(&ada, vec![spec]).await;

    let waits = testkit::wait::wait_for("the egress to be tried again", LIMIT, async || {
        let job = rig.jobs(&ada, "p").await.into_iter().next()?;
        assert!(!job.state.is_terminal(), "{job:?}");
        job.reason.filter(|_| job.state == JobState::Egressing)
    })
    .await;
    assert!(waits.contains("tried again") && waits.contains("503"), "{waits}");
    let (status, _) = rig.send(&ada, "GET", "/v1/content?ref=p@main&path=/f1", None).await;
    assert_eq!(status, 404, "nothing is published before it has arrived");

    rig.kill9();
    rig.boot().await;
    bucket.gate.left.store(20, Ordering::SeqCst);
    job_in(&rig, &ada, JobState::Egressing).await;
    testkit::wait::wait_until("some to be sent", LIMIT, async || {
        bucket.gate.left.load(Ordering::SeqCst) <= 0
    })
    .await;
    rig.kill9();
    bucket.gate.left.store(i64::MAX, Ordering::SeqCst);
    rig.boot().await;

    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    assert_eq!((job.state, job.reason), (JobState::Success, None));
    assert_eq!(bucket.keys().await.len(), 40);
    assert_eq!(rig.ls(&ada, "p@main").await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_egress_that_cannot_be_fails_with_what_to_do_and_is_repeated_without_running_anything() {
    let bucket = Bucket::start(i64::MAX).await;
    let (rig, ada) = rig().await;
    keys(&rig, &ada, "hunter2-wrong").await;
    rig.put(&ada, "in", &[("a", "1")]).await;

    let applied = rig.apply(&ada, vec![copy(bucket.egress())]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.unwrap();
    assert!(
        reason.contains("howdah secret set") && reason.contains("pipeline run"),
        "{reason}"
    );
    assert!(reason.contains("s3://packs/results/v1 at http://127.0.0.1"), "{reason}");
    let output = rig.commit(&ada, "p", job.output_commit).await;
    assert_eq!(output.state, CommitState::Errored);
    for path in ["/v1/pipelines".to_owned(), format!("/v1/jobs/{}", job.id)] {
        let (_, text) = rig.send(&ada, "GET", &path, None).await;
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }

    keys(&rig, &ada, SECRET).await;
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    succeeded(
        &rig.job(&ada, rig.jobs(&ada, "p").await[0].commit_set, "p").await,
        1,
        0,
        1,
    );
    assert_eq!(bucket.keys().await, ["results/v1/a"]);

    // Another place gets everything; the first keeps what it has.
    let mut elsewhere = bucket.egress();
    elsewhere["url"] = json!(format!("s3://{BUCKET}"));
    let applied = rig.apply(&ada, vec![copy(elsewhere)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 0, 1);
    assert_eq!(bucket.keys().await, ["a", "results/v1/a"]);
    let absent = b"<Error><Code>NoSuchBucket</Code></Error>";
    let length = [("content-length", absent.len().to_string())];
    let web = Web::start(move |_| Reply::new("404 Not Found", &length, absent)).await;
    let mut nowhere = bucket.egress();
    nowhere["endpoint"] = json!(web.url("").trim_end_matches('/'));
    let applied = rig.apply(&ada, vec![copy(nowhere)]).await;
    let reason = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await.reason.unwrap();
    assert!(reason.contains("no such bucket"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_stopped_or_takes_too_long_while_it_sends_ends() {
    let bucket = Bucket::start(0).await;
    let (rig, ada) = rig().await;
    keys(&rig, &ada, SECRET).await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    rig.apply(&ada, vec![copy(bucket.egress())]).await;
    let job = job_in(&rig, &ada, JobState::Egressing).await;

    rig.post::<Job>(&ada, &format!("/v1/jobs/{}/stop", job.id), json!({}))
        .await;
    assert_eq!(job_in(&rig, &ada, JobState::Killed).await.id, job.id);
    bucket.gate.left.store(0, Ordering::SeqCst);
    let mut spec = copy(bucket.egress());
    spec["job_timeout"] = json!("3s");
    rig.apply(&ada, vec![spec]).await;
    let late = job_in(&rig, &ada, JobState::Failure).await;
    assert!(late.reason.unwrap().contains("job_timeout"), "it does not say why");
    assert_eq!(bucket.keys().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_away_needs_declassify_of_who_applied_it_when_it_is_applied_and_when_it_is_sent() {
    let bucket = Bucket::start(i64::MAX).await;
    let (rig, ada) = rig().await;
    let bob = rig.member("bob").await;
    grant(&rig, &bob, Role::Contributor);
    keys(&rig, &ada, SECRET).await;
    rig.put(&ada, "in", &[("a", "1")]).await;

    let refused = rig.refused(&bob, vec![copy(bucket.egress())]).await;
    assert_eq!(refused.kind(), Some(ProblemKind::NotAllowed));
    assert_eq!(refused.errors[0].pointer, "/specs/0/egress");
    assert!(
        refused.detail.contains("declassify") && refused.detail.contains("default/in"),
        "{refused:?}"
    );

    // All that leads out is named.
    let mut both = copy(bucket.egress());
    both["network"] = json!("internet");
    let refused = rig.refused(&bob, vec![both]).await;
    let pointers: Vec<&str> = refused.errors.iter().map(|e| e.pointer.as_str()).collect();
    assert_eq!(pointers, ["/specs/0/egress", "/specs/0/network"]);
    assert!(
        refused.detail.contains("`egress` sends") && refused.detail.contains("`network: internet` lets"),
        "{}",
        refused.detail
    );

    // What may not be reached, and whose keys are not there, is told at once.
    let mut inside = bucket.egress();
    inside["endpoint"] = json!("http://169.254.169.254");
    let refused = rig.refused(&ada, vec![copy(inside)]).await;
    assert_eq!(refused.errors[0].pointer, "/specs/0/egress");
    let mut unset = bucket.egress();
    unset["secret"]["name"] = json!("other");
    let refused = rig.refused(&ada, vec![copy(unset)]).await;
    assert!(refused.detail.contains("howdah secret set other"), "{}", refused.detail);

    let applied = rig.apply(&ada, vec![copy(bucket.egress())]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    // The right is gone while the output waits for the bucket.
    bucket.gate.left.store(0, Ordering::SeqCst);
    bucket.writes();
    let put = rig.put(&bob, "in", &[("b", "2")]).await;
    job_in(&rig, &ada, JobState::Egressing).await;
    let contract::policy::Principal::Account(account) = ada.principal else {
        panic!("an account is wanted")
    };
    rig.control.change(|s| {
        for grant in &mut s.grants {
            if grant.grantee == contract::policy::Grantee::Account(account) {
                grant.role = Role::Contributor;
            }
        }
    });
    let job = rig.job(&bob, put.commit_set, "p").await;
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.unwrap();
    assert!(
        reason.starts_with("EgressNotAllowed: `egress` needs `declassify`"),
        "{reason}"
    );
    assert_eq!(bucket.writes(), Vec::<String>::new());
    // What is made to be compared is sent nowhere, so it needs no right to that.
    reproduced(&rig, &ada).await;
    assert_eq!(bucket.writes(), Vec::<String>::new());
}

async fn reproduced(rig: &Rig, ada: &Person) {
    let body = json!({ "ref": "default/p@main" });
    let begun: contract::api::Reproduction = rig.post(ada, "/v1/reproductions", body).await;
    let path = format!("/v1/reproductions/{}", begun.id);
    testkit::wait::wait_until("the reproduction", LIMIT, async || {
        let found: contract::api::Reproduction = rig.get(ada, &path).await;
        found.state == contract::api::ReproductionState::Identical
    })
    .await;
}
