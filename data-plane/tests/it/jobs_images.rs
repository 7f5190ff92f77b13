//! Pipelines that run from images.

use std::sync::Arc;

use contract::api::{AppliedPipeline, JobState, Pipeline};
use contract::config::ImportConfig;
use contract::problem::ProblemKind;
use data_plane::images::{Images, Store};
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell, succeeded};
use crate::registry::Registry;

/// A plane that may speak to registries on this machine, and a repo `in` with these files.
async fn rig(files: &[(&str, &str)]) -> (Rig, Person, Registry) {
    let registry = Registry::start().await;
    let mut rig = Rig::start().await;
    rig.kill9();
    rig.config.imports = allowing();
    rig.boot().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", files).await;
    (rig, ada, registry)
}

fn allowing() -> ImportConfig {
    ImportConfig {
        allow: vec!["127.0.0.1".parse().unwrap()],
        ..ImportConfig::default()
    }
}

fn in_image(name: &str, image: &str, script: &str) -> Value {
    let mut spec = shell(name, "in", "/*", script);
    spec["transform"]["image"] = json!(image);
    spec
}

async fn apply(rig: &Rig, person: &Person, spec: Value) -> AppliedPipeline {
    rig.apply(person, vec![spec]).await.remove(0)
}

const NOTE: &str = "cat /data/version > /pfs/out/$(basename $in)";

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_runs_in_the_image_that_its_tag_stood_for_when_it_was_applied() {
    let (rig, ada, registry) = rig(&[("a", "1")]).await;
    let image = registry.image("acme/tool:1");
    let first = registry.push("acme/tool", "1", "one", &json!({}));
    let applied = apply(&rig, &ada, in_image("p", &image, NOTE)).await;
    let job = rig.job(&ada, applied.commit_set.unwrap(), "p").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(job.executor.as_deref(), Some("container"));
    assert_eq!(rig.cat(&ada, "default/p@main", "/a").await, "one");
    let commit = rig.commit(&ada, "p", job.output_commit).await;
    assert!(
        serde_json::to_string(&commit).unwrap().contains(first.as_str()),
        "{commit:?}"
    );
    let provenance: Value = rig.get(&ada, "/v1/provenance?ref=default/p@main").await;
    assert!(provenance.to_string().contains(first.as_str()), "{provenance}");
    let logs = rig.logs(&ada, job.id).await;
    let told = |text: &str| {
        logs.iter()
            .any(|line| line.stream == "system" && line.text.contains(text))
    };
    assert!(told("fetching the image") && told("fetched and unpacked"), "{logs:?}");

    // Another image under the same tag changes nothing by itself.
    let second = registry.push("acme/tool", "1", "two", &json!({}));
    let put = rig.put(&ada, "in", &[("b", "2")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "p").await, 2, 1, 1);
    assert_eq!(rig.cat(&ada, "default/p@main", "/b").await, "one");
    assert_eq!(
        registry.asked("/blobs/"),
        2 + 2 * 3,
        "each blob once, with and without a token, and the configuration twice"
    );

    let applied = apply(&rig, &ada, in_image("p", &image, NOTE)).await;
    assert_eq!(applied.differences, ["/transform/image"]);
    succeeded(&rig.job(&ada, applied.commit_set.unwrap(), "p").await, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "default/p@main", "/a").await, "two");
    let pipeline: Pipeline = rig.get(&ada, "/v1/pipelines/default/p").await;
    assert_eq!(pipeline.image_digest.as_deref(), Some(second.as_str()));
    let again = apply(&rig, &ada, in_image("p", &image, NOTE)).await;
    assert_eq!(again.change, "unchanged");

    // What is here needs no registry; going back to the older image runs nothing.
    registry.stop();
    let put = rig.put(&ada, "in", &[("c", "3")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "p").await, 3, 1, 2);
    // An image that stays keeps its digest; another one cannot be known.
    let again = apply(&rig, &ada, in_image("p", &image, NOTE)).await;
    assert_eq!(again.change, "unchanged");
    let other = registry.image("acme/tool:2");
    let problem = rig.refused(&ada, vec![in_image("p", &other, NOTE)]).await;
    assert!(problem.detail.contains("cannot be reached"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_apply_a_spec_makes_nobody_ask_for_its_image() {
    let (rig, ada, registry) = rig(&[("a", "1")]).await;
    let digest = registry.push("acme/tool", "1", "one", &json!({}));
    let image = registry.image("acme/tool:1");
    let eve = rig.member("eve").await;
    let body = json!({ "specs": [in_image("p", &image, NOTE)] });
    let (status, _) = rig.send(&eve, "POST", "/v1/pipelines", Some(body)).await;
    assert!(matches!(status, 403 | 404), "{status}");
    assert_eq!(registry.asked("/v2/"), 0);
    // One that is named by the digest that it has needs no registry.
    let pinned = format!("{}@{digest}", registry.image("acme/tool"));
    apply(&rig, &ada, in_image("p", &pinned, NOTE)).await;
    let before = registry.asked("/manifests/");
    let applied = apply(&rig, &ada, in_image("p", &pinned, "true")).await;
    assert_eq!(applied.change, "updated");
    succeeded(&rig.job(&ada, applied.commit_set.unwrap(), "p").await, 1, 1, 0);
    assert!(registry.asked("/manifests/") - before <= 2, "the worker alone fetches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_from_before_images_were_fetched_runs_as_it_did_until_it_is_applied_again() {
    let (rig, ada, registry) = rig(&[("a", "1")]).await;
    let digest = registry.push("acme/tool", "1", "one", &json!({}));
    let pinned = format!("{}@{digest}", registry.image("acme/tool"));
    let script = "if [ -e /data/version ]; then echo image; else echo machine; fi > /pfs/out/$(basename $in)";
    let applied = apply(&rig, &ada, in_image("p", &pinned, script)).await;
    succeeded(&rig.job(&ada, applied.commit_set.unwrap(), "p").await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "default/p@main", "/a").await, "image\n");
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    sqlx::query("update pipeline_versions set in_image = false")
        .execute(&pool)
        .await
        .unwrap();
    let put = rig.put(&ada, "in", &[("b", "2")]).await;
    let job = rig.job(&ada, put.commit_set, "p").await;
    assert_eq!(job.executor.as_deref(), Some("process"));
    assert_eq!(rig.cat(&ada, "default/p@main", "/b").await, "machine\n");
    let applied = apply(&rig, &ada, in_image("p", &pinned, script)).await;
    assert_eq!(applied.differences, ["/transform/image"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_says_what_is_run_as_whom_where_and_with_which_variables() {
    let (rig, ada, registry) = rig(&[("a", "1")]).await;
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c"], "User": "app:web", "WorkingDir": "/work/here", "Env": ["GREETING=hello", "PATH=/bin"],
        "Cmd": ["(id -u; id -g; pwd; echo $GREETING $HOME $PATH $OWN; ls /usr/share) > /pfs/out/said 2> /dev/null; true"],
    });
    registry.push("acme/tool", "1", "one", &config);
    let mut spec = in_image("p", &registry.image("acme/tool:1"), "");
    spec["transform"].as_object_mut().unwrap().remove("cmd");
    spec["transform"]["env"] = json!({ "OWN": "spec" });
    let applied = apply(&rig, &ada, spec.clone()).await;
    let job = rig.job(&ada, applied.commit_set.unwrap(), "p").await;
    succeeded(&job, 1, 1, 0);
    let said = rig.cat(&ada, "default/p@main", "/said").await;
    assert_eq!(said, "1000\n33\n/work/here\nhello /home/app /bin spec\n");

    spec["transform"]["user"] = json!("root");
    spec["transform"]["env"] = json!({ "GREETING": "moin" });
    let applied = apply(&rig, &ada, spec.clone()).await;
    succeeded(&rig.job(&ada, applied.commit_set.unwrap(), "p").await, 1, 1, 0);
    let said = rig.cat(&ada, "default/p@main", "/said").await;
    assert_eq!(said, "0\n0\n/work/here\nmoin /root /bin\n");

    spec["transform"]["user"] = json!("nobody-knows");
    let applied = apply(&rig, &ada, spec).await;
    let job = rig.job(&ada, applied.commit_set.unwrap(), "p").await;
    assert_eq!(job.state, JobState::Failure);
    assert!(job.reason.unwrap().contains("no user or group `nobody-knows`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_datum_writes_into_its_image_no_other_datum_sees() {
    let (rig, ada, registry) = rig(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    registry.push("acme/tool", "1", "one", &json!({}));
    let script = "ls /data > /pfs/out/$(basename $in); echo mine > /data/$(basename $in); rm /data/version; exit 0";
    let applied = apply(&rig, &ada, in_image("p", &registry.image("acme/tool:1"), script)).await;
    succeeded(&rig.job(&ada, applied.commit_set.unwrap(), "p").await, 3, 3, 0);
    for path in ["/a", "/b", "/c"] {
        assert_eq!(rig.cat(&ada, "default/p@main", path).await, "version\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_refused_at_apply_with_what_to_do() {
    let (mut rig, ada, registry) = rig(&[("a", "1")]).await;
    registry.push("acme/tool", "1", "one", &json!({}));
    let reason = async |rig: &Rig, image: &str, script: &str| {
        let problem = rig.refused(&ada, vec![in_image("p", image, script)]).await;
        assert_eq!(problem.kind(), Some(ProblemKind::Invalid));
        let error = problem.errors.into_iter().next().unwrap();
        assert_eq!(error.pointer, "/specs/0/transform/image");
        error.message
    };
    let missing = reason(&rig, &registry.image("acme/tool:2"), "true").await;
    assert!(missing.contains("check the name and the tag"), "{missing}");
    let name = reason(&rig, "../etc/passwd", "true").await;
    assert!(name.contains("is no name of an image"), "{name}");
    let inside = reason(&rig, "10.0.0.1:5000/x", "true").await;
    assert!(
        inside.contains("10.0.0.1") && inside.contains("HOWDAH_IMPORT_ALLOW"),
        "{inside}"
    );
    let digest = format!("{}@sha256:{}", registry.image("acme/tool"), "0".repeat(64));
    assert!(reason(&rig, &digest, "true").await.contains("is not there"));
    let mut spec = in_image("p", &registry.image("acme/tool:1"), "");
    spec["transform"].as_object_mut().unwrap().remove("cmd");
    let silent = rig.refused(&ada, vec![spec]).await;
    assert!(silent.detail.contains("no command to run"), "{}", silent.detail);
    let dry = json!({ "specs": [in_image("p", &registry.image("acme/tool:2"), "true")], "dry_run": true });
    assert_eq!(rig.send(&ada, "POST", "/v1/pipelines", Some(dry)).await.0, 422);
    assert_eq!(rig.send(&ada, "GET", "/v1/pipelines/default/p", None).await.0, 404);

    rig.kill9();
    rig.config.imports = ImportConfig::default();
    rig.boot().await;
    let loopback = reason(&rig, &registry.image("acme/tool:1"), "true").await;
    assert!(loopback.contains("HOWDAH_IMPORT_ALLOW"), "{loopback}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_once_however_many_wait_and_what_is_damaged_leaves_nothing() {
    chassis::process::install_tls_provider();
    let registry = Registry::start().await;
    let digest = registry.push("acme/tool", "1", "one", &json!({}));
    let reference = registry.image("acme/tool:1").parse().unwrap();
    let directory = testkit::temporary_directory();
    let open = || Store::open(directory.path().join("images"), None, Images::new(&allowing()).unwrap()).unwrap();
    let names = || {
        let entries = std::fs::read_dir(directory.path().join("images")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    registry.damage();
    let store = Arc::new(open());
    let damaged = store.get(&reference, &digest, None).await.unwrap_err();
    assert!(damaged.to_string().contains("not what its digest says"), "{damaged}");
    assert_eq!(names(), ["incoming"]);
    assert_eq!(
        std::fs::read_dir(directory.path().join("images/incoming"))
            .unwrap()
            .count(),
        0
    );

    // It is not asked for again at once.
    registry.damage();
    let before = registry.asked("/blobs/");
    assert_eq!(store.get(&reference, &digest, None).await.unwrap_err(), damaged);
    assert_eq!(registry.asked("/blobs/"), before);
    let store = Arc::new(open());
    let all = (0..8).map(|_| store.get(&reference, &digest, None));
    for found in futures::future::join_all(all).await {
        assert!(found.unwrap().rootfs.join("data/version").exists());
    }
    assert_eq!(registry.asked("/blobs/") - before, 6);
    assert_eq!(names(), [digest.hex(), "incoming"]);
    // As a crash leaves it.
    std::fs::create_dir_all(directory.path().join("images/incoming/half/rootfs")).unwrap();
    registry.stop();
    let store = Arc::new(open());
    assert!(!directory.path().join("images/incoming/half").exists());
    assert!(store.get(&reference, &digest, None).await.unwrap().fetched.is_none());
    // What is known of one counts only while it is there.
    std::fs::remove_dir_all(directory.path().join("images").join(digest.hex())).unwrap();
    assert!(store.ready(&reference, &digest, None).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_claims_absurd_sizes_evicts_nothing_and_costs_nothing() {
    chassis::process::install_tls_provider();
    let registry = Registry::start().await;
    let digest = registry.push("acme/tool", "1", "one", &json!({}));
    let reference = registry.image("acme/tool:1").parse().unwrap();
    let directory = testkit::temporary_directory();
    let store = Store::open(directory.path().join("images"), None, Images::new(&allowing()).unwrap()).unwrap();
    let store = Arc::new(store);
    store.get(&reference, &digest, None).await.unwrap();
    for sizes in [[u64::MAX, 2], [u64::MAX / 2, u64::MAX / 2], [15 << 30, 15 << 30]] {
        let absurd = registry.claim("acme/tool", &digest, sizes);
        let before = registry.asked("/blobs/");
        let refused = store.get(&reference, &absurd, None).await.unwrap_err();
        assert!(refused.to_string().contains("more than 21474836480 bytes"), "{refused}");
        assert!(!refused.may_pass());
        // The configuration, with and without a token.
        assert_eq!(registry.asked("/blobs/") - before, 2);
        assert!(store.ready(&reference, &digest, None).await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_input_is_read_in_an_image_too() {
    if !std::path::Path::new("/dev/fuse").exists() {
        return;
    }
    let (rig, ada, registry) = rig(&[("a", "1"), ("b", "22")]).await;
    let image = registry.image("acme/tool:1");
    registry.push("acme/tool", "1", "one", &json!({}));
    let mut spec = in_image("p", &image, "cat $in > /pfs/out/$(basename $in)");
    spec["input"]["pfs"]["lazy"] = json!(true);
    let applied = apply(&rig, &ada, spec).await;
    let job = rig.job(&ada, applied.commit_set.unwrap(), "p").await;
    succeeded(&job, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/b").await, "22");
    let read: u64 = rig.datums(&ada, job.id).await.iter().filter_map(|d| d.bytes_in).sum();
    assert_eq!(read, 3);
}
