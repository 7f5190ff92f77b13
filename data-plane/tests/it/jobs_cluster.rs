//! A plane whose code runs in pods: it makes them at a cluster's API, and processes of this machine are their containers.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use contract::api::{Job, JobState};
use contract::config::ImportConfig;
use contract::executor::{ExecutorConfig, PodsConfig};
use contract::ids::JobId;
use data_plane::worker::protocol::{RunnerConfig, WorkerConfig};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::jobs_rig::{LIMIT, Person, Rig, binary, shell, succeeded};
use crate::jobs_services;
use crate::registry::Registry;
use crate::s3::Server;
use crate::s3_bucket::bucket_of;

struct World {
    rig: Rig,
    ada: Person,
    cluster: Cluster,
    image: String,
    _registry: Registry,
    _bucket: Server,
}

/// A plane that runs pods, somebody, and the repo `in` with these files.
async fn world(files: &[(&str, &str)], more: &Value) -> World {
    let (registry, bucket, cluster) = (Registry::start().await, Server::start().await, Cluster::start().await);
    let mut rig = Rig::start().await;
    rig.kill9();
    let kubeconfig = rig.directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig()).unwrap();
    rig.config.listen = format!("127.0.0.1:{}", testkit::processes::free_port());
    let mut config = json!({
        "namespace": "howdah-acme", "image": "howdah/data-plane:1", "kubeconfig": kubeconfig,
        "workers_url": format!("http://{}", rig.config.listen),
    });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    let config: PodsConfig = serde_json::from_value(config).unwrap();
    rig.config.executor = ExecutorConfig::Kubernetes(Box::new(config));
    rig.config.store = bucket_of(&bucket, rig.directory.path().join("packs"));
    rig.config.imports = ImportConfig {
        allow: vec!["127.0.0.1".parse().unwrap()],
        ..ImportConfig::default()
    };
    rig.boot().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", files).await;
    registry.push("acme/tool", "1", "one", &json!({}));
    World {
        image: registry.image("acme/tool:1"),
        rig,
        ada,
        cluster,
        _registry: registry,
        _bucket: bucket,
    }
}

impl World {
    fn spec(&self, script: &str) -> Value {
        let mut spec = shell("p", "in", "/*", script);
        spec["transform"]["image"] = json!(self.image);
        spec
    }

    async fn job(&self, id: JobId) -> Job {
        self.rig.get(&self.ada, &format!("/v1/jobs/{id}")).await
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        testkit::wait::wait_until(what, LIMIT, async || is_so().await).await;
    }

    fn pods(&self) -> Vec<String> {
        self.cluster.objects().pods.keys().cloned().collect()
    }
}

/// Starts and ends processes as the containers of the pods that there are.
struct Kubelet {
    task: tokio::task::JoinHandle<()>,
    pods: Arc<Mutex<BTreeMap<String, [Child; 2]>>>,
}

impl Kubelet {
    fn start(world: &World) -> Self {
        let pods: Arc<Mutex<BTreeMap<String, [Child; 2]>>> = Arc::default();
        let (cluster, directory, running) = (
            world.cluster.clone(),
            world.rig.directory.path().join("pods"),
            Arc::clone(&pods),
        );
        let task = tokio::spawn(async move {
            let mut changed = cluster.changed();
            loop {
                changed.borrow_and_update();
                look(&cluster, &directory, &running);
                if changed.changed().await.is_err() {
                    return;
                }
            }
        });
        Self { task, pods }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
        for children in self.pods.lock().unwrap().values_mut() {
            end(children);
        }
    }
}

fn end(children: &mut [Child; 2]) {
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn look(cluster: &Cluster, directory: &std::path::Path, running: &Mutex<BTreeMap<String, [Child; 2]>>) {
    let (pods, secrets) = {
        let objects = cluster.objects();
        (objects.pods.clone(), objects.secrets.clone())
    };
    let mut running = running.lock().unwrap();
    let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let wanted: BTreeMap<String, &Value> = pods.values().map(|pod| (uid(pod), pod)).collect();
    running.retain(|uid, children| {
        let stays = wanted.contains_key(uid);
        if !stays {
            end(children);
        }
        stays
    });
    for (uid, pod) in wanted {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let secret = volumes
            .iter()
            .find_map(|volume| volume["secret"]["secretName"].as_str())
            .unwrap();
        if running.contains_key(&uid) || !secrets.contains_key(secret) {
            continue;
        }
        let config = secrets[secret]["stringData"]["config.json"].as_str().unwrap();
        running.insert(uid.clone(), containers(&directory.join(&uid), config, &uid));
        let container =
            |name: &str| json!({ "name": name, "ready": true, "restartCount": 0, "state": { "running": {} } });
        let status = json!({ "phase": "Running", "containerStatuses": [container("user"), container("agent")] });
        cluster.set_status(pod["metadata"]["name"].as_str().unwrap(), &status);
    }
}

/// The shim and the agent, with the paths that they have on this machine.
fn containers(directory: &std::path::Path, config: &str, uid: &str) -> [Child; 2] {
    let at = |name: &str| directory.join(name);
    for name in ["pfs", "code", "home"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    let mut config: WorkerConfig = serde_json::from_str(config).unwrap();
    config.home = at("home");
    config.runner = RunnerConfig::Pod {
        socket: at("shim.sock"),
        pfs: at("pfs"),
        code: at("code"),
        door: 0,
    };
    std::fs::write(at("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let mut shim = Command::new(binary("howdah-shim"));
    shim.args(["serve", "--socket"])
        .arg(at("shim.sock"))
        .arg("--scratch")
        .arg(at("tmp"));
    let mut agent = Command::new(env!("CARGO_BIN_EXE_howdah-data-plane"));
    agent
        .args(["worker", "--config"])
        .arg(at("config.json"))
        .env(pods::manifest::WORKER_VARIABLE, uid);
    [shim, agent].map(|mut command| command.stdin(Stdio::null()).spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_gets_pods_while_it_has_datums_and_nothing_is_left_of_them() {
    let world = world(&[("a", "1"), ("b", "2"), ("c", "3")], &json!({ "idle_seconds": 2 })).await;
    let kubelet = Kubelet::start(&world);
    let mut spec = world.spec("cp /pfs/in/* /pfs/out/");
    spec["parallelism_spec"] = json!({ "constant": 2 });
    let applied = world.rig.apply(&world.ada, vec![spec]).await;
    let done = world.rig.job(&world.ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&done, 3, 3, 0);
    assert_eq!(done.reason, None);
    assert_eq!(world.rig.cat(&world.ada, "p@main", "/c").await, "3");
    world.until("the pods to go", async || world.pods().is_empty()).await;
    world
        .until("the secret to go", async || world.cluster.objects().secrets.is_empty())
        .await;
    assert_eq!(world.cluster.objects().made.len(), 2);
    let pool = sqlx::PgPool::connect(&world.rig.config.database_url).await.unwrap();
    world
        .until("it to be forgotten", async || {
            let left: i64 = sqlx::query_scalar("select count(*) from pod_secrets")
                .fetch_one(&pool)
                .await
                .unwrap();
            left == 0
        })
        .await;
    drop(kubelet);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_died_and_pods_that_were_lost_change_nothing_of_the_result() {
    let mut world = world(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")], &json!({})).await;
    let kubelet = Kubelet::start(&world);
    let mut spec = world.spec("sleep 1; cp /pfs/in/* /pfs/out/");
    spec["parallelism_spec"] = json!({ "constant": 2 });
    let applied = world.rig.apply(&world.ada, vec![spec]).await;
    world.until("pods", async || world.pods().len() == 2).await;
    world.rig.kill9();
    world.cluster.lose(&world.pods()[0]);
    world.rig.boot().await;
    let done = world.rig.job(&world.ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&done, 4, 4, 0);
    assert_eq!(world.rig.ls(&world.ada, "p@main").await, ["/a", "/b", "/c", "/d"]);
    let names: std::collections::BTreeSet<String> = world.cluster.objects().made.iter().cloned().collect();
    assert_eq!(names.len(), 2, "the same names again: {names:?}");
    drop(kubelet);
}

fn without_image(message: &str, reason: &str) -> Value {
    json!({ "phase": "Pending", "containerStatuses": [{ "name": "user", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": reason, "message": message } } }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_pods_is_told_with_the_job_and_ends_it_where_it_never_passes() {
    let world = world(&[("a", "1")], &json!({})).await;
    world.cluster.objects().quota = Some(0);
    let applied = world.rig.apply(&world.ada, vec![world.spec("true")]).await;
    let job = applied[0].job.unwrap();
    let told = async |text: &str| world.job(job).await.reason.unwrap_or_default().contains(text);
    world
        .until("the quota to be told", async || {
            told("the quota of the organization is used up").await
        })
        .await;
    world.cluster.objects().quota = None;
    world.until("a pod", async || world.pods().len() == 1).await;
    let name = world.pods().remove(0);
    world
        .until("it to be told no more", async || world.job(job).await.reason.is_none())
        .await;
    let message = "0/3 nodes are available: 3 Insufficient memory.";
    let unplaced = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message }] });
    world.cluster.set_status(&name, &unplaced);
    world
        .until("the nodes to be told", async || {
            told("waits for a node: no node of the cluster has memory").await
        })
        .await;
    world
        .cluster
        .set_status(&name, &without_image("not found", "ErrImagePull"));
    world
        .until("the image to be told", async || {
            told("the image cannot be pulled: the registry has it no more").await
        })
        .await;
    assert_eq!(world.job(job).await.state, JobState::Running);
    world
        .cluster
        .set_status(&name, &without_image("couldn't parse image name", "InvalidImageName"));
    let done = world.rig.job(&world.ada, applied[0].commit_set.unwrap(), "p").await;
    assert_eq!(done.state, JobState::Failure);
    assert!(done.reason.unwrap_or_default().contains("correct `transform.image`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pods_may_not_have_is_refused_when_a_spec_is_applied() {
    let world = world(&[], &json!({})).await;
    for (more, pointer) in [
        (
            json!({ "pod_patch": [{ "op": "add", "path": "/spec/hostNetwork", "value": true }] }),
            "/specs/0/pod_patch/0",
        ),
        (
            json!({ "tolerations": [{ "operator": "Exists" }] }),
            "/specs/0/tolerations/0",
        ),
        (json!({ "transform": { "cmd": ["true"] } }), "/specs/0/transform/image"),
        (
            json!({ "service": { "internal_port": 7434 } }),
            "/specs/0/service/internal_port",
        ),
        (
            json!({ "resource_limits": { "gpu": { "type": "nvidia.com/gpu", "number": 1 } } }),
            "/specs/0/resource_limits/gpu",
        ),
    ] {
        let mut spec = world.spec("true");
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let problem = world.rig.refused(&world.ada, vec![spec]).await;
        let at: Vec<&str> = problem.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(at, [pointer], "{problem:?}");
    }
    let defaults = json!({ "tolerations": [{ "operator": "Exists" }] });
    let (status, text) = world.rig.send(&world.ada, "PUT", "/v1/defaults", Some(defaults)).await;
    assert!(status >= 400, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_one_pod_as_long_as_its_plane_is_up() {
    let mut world = world(&[("a", "first")], &json!({ "idle_seconds": 1 })).await;
    let mut spec = jobs_services::spec_at(testkit::processes::free_port());
    spec["transform"]["image"] = json!(world.image);
    world.cluster.objects().quota = Some(0);
    let applied = world.rig.apply(&world.ada, vec![spec]).await;
    let job = applied[0].job.unwrap();
    world
        .until("what keeps it to be told", async || {
            let (status, text) = jobs_services::ask(&world.rig, &world.ada, "/").await;
            status == 503 && text.contains("the quota of the organization is used up")
        })
        .await;
    world.cluster.objects().quota = None;
    let kubelet = Kubelet::start(&world);
    jobs_services::answers(&world.rig, &world.ada, "first").await;
    let pods = world.cluster.objects().pods.clone();
    let parts: Vec<&Value> = pods
        .values()
        .map(|pod| &pod["metadata"]["labels"]["howdah.dev/part"])
        .collect();
    assert_eq!(parts, [&json!("service")]);

    // It is lost with its node: the next one has it at once.
    world.cluster.lose(&world.pods()[0]);
    world
        .until("another pod", async || {
            world.cluster.objects().made.len() == 2 && world.pods().len() == 1
        })
        .await;
    jobs_services::answers(&world.rig, &world.ada, "first").await;

    world.rig.terminate();
    assert!(world.pods().is_empty(), "a plane that stops takes the pod along");
    world.rig.boot().await;
    jobs_services::answers(&world.rig, &world.ada, "first").await;
    assert_eq!(world.job(job).await.state, JobState::Running);

    let _: contract::api::Pipeline = world
        .rig
        .post(&world.ada, "/v1/pipelines/default/page/stop", json!({}))
        .await;
    world.until("the pod to go", async || world.pods().is_empty()).await;
    drop(kubelet);
}
