//! Images of registries that show them only to who signs in (`transform.image_pull_secrets`).

use std::sync::Arc;

use contract::api::Pipeline;
use contract::config::ImportConfig;
use contract::policy::Role;
use contract::problem::ProblemKind;
use data_plane::images::{Credentials, ImageError, Images, Store};
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell, succeeded};
use crate::jobs_secrets::grant;
use crate::registry::Registry;

const PASSWORD: &str = "hunter2-registry";
const PRINT: &str = "cat /data/version > /pfs/out/version; (export -p; ls -R /pfs /tmp /etc; cat /proc/*/environ /proc/*/cmdline) > /pfs/out/seen 2>&1; cat /pfs/out/seen";

fn allowing() -> ImportConfig {
    ImportConfig {
        allow: vec!["127.0.0.1".parse().unwrap()],
        ..ImportConfig::default()
    }
}

/// A plane that may speak to registries on this machine, a repo `in`, an image that takes who signs in, and its host.
async fn rig() -> (Rig, Person, Registry) {
    let registry = Registry::start().await;
    let mut rig = Rig::start().await;
    rig.kill9();
    rig.config.imports = allowing();
    rig.boot().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    registry.push("private/tool", "1", "inside", &json!({}));
    (rig, ada, registry)
}

async fn set(rig: &Rig, person: &Person, values: Value) {
    let body = json!({ "values": values });
    let (status, text) = rig
        .send(person, "PUT", "/v1/projects/default/secrets/registry", Some(body))
        .await;
    assert!(status < 300 && !text.contains(PASSWORD), "{status} {text}");
}

fn spec(registry: &Registry, secrets: &[&str]) -> Value {
    let mut spec = shell("p", "in", "/*", PRINT);
    spec["transform"]["image"] = json!(registry.image("private/tool:1"));
    if !secrets.is_empty() {
        spec["transform"]["image_pull_secrets"] = json!(secrets);
    }
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_takes_who_signs_in_is_fetched_with_a_secret_that_code_never_sees() {
    let (rig, ada, registry) = rig().await;
    let problem = rig.refused(&ada, vec![spec(&registry, &[])]).await;
    assert!(problem.errors[0].message.contains("image_pull_secrets"), "{problem:?}");
    for (values, said) in [
        (
            json!({ "username": "ada", "password": "other", "registry": registry.host }),
            "only for who signs in",
        ),
        // It would go to any registry that the name of an image gives.
        (
            json!({ "username": "ada", "password": PASSWORD }),
            "does not say which registry",
        ),
        (json!({ "username": "ada" }), "signs in to no registry"),
        (
            json!({ "username": "ada", "password": PASSWORD, "registry": "ghcr.io" }),
            "only for who signs in",
        ),
    ] {
        set(&rig, &ada, values).await;
        let problem = rig.refused(&ada, vec![spec(&registry, &["registry"])]).await;
        assert_eq!(problem.errors[0].pointer, "/specs/0/transform/image");
        let detail = &problem.errors[0].message;
        assert!(detail.contains(said) && !detail.contains(PASSWORD), "{detail}");
    }
    // As `docker login` writes it.
    let auths = json!({ "auths": { registry.host.clone(): { "auth": "YWRhOmh1bnRlcjItcmVnaXN0cnk=" } } });
    set(&rig, &ada, json!({ "config.json": auths.to_string() })).await;
    let applied = rig.apply(&ada, vec![spec(&registry, &["registry"])]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/version").await, "inside");
    let logs = serde_json::to_string(&rig.logs(&ada, job.id).await).unwrap();
    for seen in [logs, rig.cat(&ada, "p@main", "/seen").await] {
        assert!(
            !seen.contains(PASSWORD) && !seen.contains("YWRhOmh1bnRlcjItcmVnaXN0cnk"),
            "{seen}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_use_a_secret_has_nothing_fetched_with_it_nor_what_another_one_fetched() {
    let (rig, ada, registry) = rig().await;
    set(
        &rig,
        &ada,
        json!({ "username": "ada", "password": PASSWORD, "registry": registry.host }),
    )
    .await;
    let applied = rig.apply(&ada, vec![spec(&registry, &["registry"])]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let eve = rig.member("eve").await;
    rig.grant(&eve, Role::Contributor, "in");
    rig.grant(&eve, Role::Owner, "p");
    let refused = rig.refused(&eve, vec![spec(&registry, &["registry"])]).await;
    assert_eq!(refused.kind(), Some(ProblemKind::NotAllowed));
    assert_eq!(refused.errors[0].pointer, "/specs/0/transform/image_pull_secrets");
    // The image is on the machine, and its digest is told; neither is of use.
    let pipeline: Pipeline = rig.get(&ada, "/v1/pipelines/default/p").await;
    let by_digest = format!("{}@{}", registry.image("private/tool"), pipeline.image_digest.unwrap());
    for (name, image) in [
        ("p", registry.image("private/tool:1")),
        ("p", by_digest.clone()),
        ("q", by_digest),
    ] {
        let mut other = spec(&registry, &[]);
        other["pipeline"]["name"] = json!(name);
        other["transform"]["image"] = json!(image);
        let refused = rig.refused(&eve, vec![other]).await;
        assert!(
            refused.errors[0].message.contains("only for who signs in"),
            "{refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_have_is_no_reason_to_refuse_it_to_another_one() {
    chassis::process::install_tls_provider();
    let registry = Registry::start().await;
    let digest = registry.push("private/tool", "1", "inside", &json!({}));
    let reference = registry.image("private/tool:1").parse().unwrap();
    let directory = testkit::temporary_directory();
    let images = Images::new(&allowing()).unwrap();
    let store = Arc::new(Store::open(directory.path().join("images"), None, images).unwrap());
    let who = Credentials {
        username: "ada".to_owned(),
        password: PASSWORD.into(),
    };
    let (with, without) = tokio::join!(
        store.get(&reference, &digest, Some(&who)),
        store.get(&reference, &digest, None),
    );
    assert!(with.unwrap().rootfs.join("data/version").exists());
    let error = without.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    assert!(store.ready(&reference, &digest, None).await.is_none());
    assert!(store.ready(&reference, &digest, Some(&who)).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_here_is_given_to_nobody_whose_registry_does_not_give_its_layers() {
    chassis::process::install_tls_provider();
    let (registry, foreign) = (Registry::start().await, Registry::start().await);
    let digest = registry.push("private/tool", "1", "inside", &json!({}));
    let directory = testkit::temporary_directory();
    let images = Images::new(&allowing()).unwrap();
    let store = Arc::new(Store::open(directory.path().join("images"), None, images).unwrap());
    let who = Credentials {
        username: "ada".to_owned(),
        password: PASSWORD.into(),
    };
    let reference = registry.image("private/tool:1").parse().unwrap();
    let first = store.get(&reference, &digest, Some(&who)).await.unwrap();
    assert!(first.fetched.is_some());

    // All that is told of it is there, and it may be had there by its digest; only its layers are not.
    foreign.impersonate(&registry, "private/tool", "eve/tool");
    let by_digest = foreign.image(&format!("eve/tool@{digest}")).parse().unwrap();
    let resolving = Images::new(&allowing()).unwrap();
    assert_eq!(resolving.resolve(&by_digest, true, None).await.unwrap(), digest);
    assert!(store.ready(&by_digest, &digest, None).await.is_none());
    let error = store.get(&by_digest, &digest, None).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    assert!(store.ready(&by_digest, &digest, None).await.is_none());

    // Who has them there is given the same, and so is who is shown them by the registry that it came from, without another fetch.
    foreign.push("own/tool", "1", "inside", &json!({}));
    let own = foreign.image("own/tool:1").parse().unwrap();
    assert!(Arc::ptr_eq(&store.get(&own, &digest, None).await.unwrap(), &first));
    registry.push("open/tool", "1", "inside", &json!({}));
    let open = registry.image("open/tool:1").parse().unwrap();
    assert!(Arc::ptr_eq(&store.get(&open, &digest, None).await.unwrap(), &first));
    assert!(store.get(&by_digest, &digest, None).await.is_err());
}
