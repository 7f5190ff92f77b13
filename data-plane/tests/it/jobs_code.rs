//! `transform.code`: code that stands in a repo of ours.

use contract::api::{JobState, Pipeline};
use contract::policy::{Release, Role};
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::jobs_rig::{Rig, shell, succeeded};

fn spec(path: &str) -> Value {
    let mut spec = shell(
        "p",
        "in",
        "/*",
        "sh ./run.sh $in > /pfs/out/$(basename $in); ls /pfs > /pfs/out/seen",
    );
    spec["transform"]["code"] = json!({ "repo": "programs", "path": path });
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_a_repo_is_shown_at_code_and_a_new_commit_of_it_runs_every_datum_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.repo(&ada, "programs").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let first = "echo first; cat $1; touch /code/x 2>/dev/null || echo readonly; echo $code";
    rig.put(&ada, "programs", &[("team/run.sh", first), ("other/x", "")])
        .await;
    let applied = rig.apply(&ada, vec![spec("/team")]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/a").await, "first\n1readonly\n/code\n");
    assert_eq!(rig.cat(&ada, "p@main", "/seen").await, "in\nout\n");

    let put = rig.put(&ada, "in", &[("b", "2")]).await;
    // `seen` is written by both datums.
    assert_eq!(rig.job(&ada, put.commit_set, "p").await.state, JobState::Failure);
    let mut alone = spec("/team");
    alone["transform"]["cmd"][2] = json!("sh ./run.sh $in > /pfs/out/$(basename $in)");
    let applied = rig.apply(&ada, vec![alone.clone()]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 2, 2, 0);
    // Elsewhere in the repo: no datum runs. There: all of them.
    let put = rig.put(&ada, "programs", &[("other/x", "changed")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "p").await, 2, 0, 2);
    let put = rig.put(&ada, "programs", &[("team/run.sh", "echo second")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "p").await, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/b").await, "second\n");
    let commit = rig.get::<contract::api::Commit>(&ada, "/v1/commits?ref=p@main").await;
    assert!(
        commit.provenance.iter().any(|source| source.commit == put.id),
        "{:?}",
        commit.provenance
    );

    // A link to the code is a copy by reference.
    rig.put(&ada, "programs", &[("team/model/weights", "heavy")]).await;
    let mut linking = alone.clone();
    linking["transform"]["cmd"][2] = json!(
        "ln -s /code/model/weights /pfs/out/weights-$(basename $in); ln -s ../../code/run.sh /pfs/out/run-$(basename $in)"
    );
    let applied = rig.apply(&ada, vec![linking]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/weights-a").await, "heavy");
    assert_eq!(rig.cat(&ada, "p@main", "/run-b").await, "echo second");

    // The same repo, another directory, and one that is not there.
    rig.put(&ada, "programs", &[("two/run.sh", "echo moved")]).await;
    alone["transform"]["code"]["path"] = json!("two/");
    let applied = rig.apply(&ada, vec![alone.clone()]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 2, 2, 0);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a", "/b"]);
    alone["transform"]["code"]["path"] = json!("nowhere");
    let applied = rig.apply(&ada, vec![alone]).await;
    let failed = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    assert_eq!(failed.state, JobState::Failure);
    assert!(failed.reason.unwrap().contains("`/nowhere`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn code_is_an_input_whose_owner_lets_others_derive_from_it() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "programs").await;
    rig.repo(&bob, "in").await;
    rig.put(&ada, "programs", &[("run.sh", "true")]).await;
    let hidden = rig.refused(&bob, vec![spec("/")]).await;
    assert_eq!(hidden.kind(), Some(ProblemKind::NotFound));
    rig.grant(&bob, Role::Viewer, "programs");
    assert_eq!(
        rig.refused(&bob, vec![spec("/")]).await.kind(),
        Some(ProblemKind::NotAllowed)
    );
    rig.grant(&bob, Role::Deriver, "programs");
    rig.apply(&bob, vec![spec("/")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_of_the_code_that_was_looked_at_and_void_for_code_pushed_later() {
    let rig = Rig::start().await;
    let (ada, bob, eve) = (
        rig.member("ada").await,
        rig.member("bob").await,
        rig.member("eve").await,
    );
    rig.repo(&ada, "in").await;
    rig.repo(&ada, "programs").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    rig.put(&ada, "programs", &[("run.sh", "echo counted")]).await;
    rig.grant(&bob, Role::Contributor, "programs");
    let mut alone = spec("/");
    alone["transform"]["cmd"][2] = json!("sh ./run.sh $in > /pfs/out/x");
    let applied = rig.apply(&ada, vec![alone.clone()]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.grant(&eve, Role::Viewer, "p");
    let seen: Pipeline = rig.get(&ada, "/v1/pipelines/default/p").await;
    release(&rig, &seen.spec_digest);
    let readable = async || rig.send(&eve, "GET", "/v1/content?ref=p@main&path=/x", None).await.0 == 200;
    assert!(!readable().await);
    let put = rig.put(&ada, "in", &[("a", "2")]).await;
    rig.settle(&ada, put.commit_set).await;
    assert!(readable().await);

    // Bob's code was looked at by nobody.
    let put = rig.put(&bob, "programs", &[("run.sh", "cat $1")]).await;
    rig.settle(&ada, put.commit_set).await;
    assert_eq!(rig.cat(&ada, "p@main", "/x").await, "2");
    assert!(!readable().await);
    let other: Pipeline = rig.get(&ada, "/v1/pipelines/default/p").await;
    assert_ne!(other.spec_digest, seen.spec_digest);
    // Back to the code that was released.
    let put = rig.put(&bob, "programs", &[("run.sh", "echo counted")]).await;
    rig.settle(&ada, put.commit_set).await;
    assert!(readable().await);
    let (status, findings) = rig.send(&ada, "GET", "/v1/fsck", None).await;
    assert!(status != 200 || !findings.contains("\"error\""), "{findings}");
    for (field, value) in [
        ("network", json!("internet")),
        ("secrets", json!([{ "name": "db", "mount_path": "/secrets" }])),
    ] {
        let mut open = alone.clone();
        match field {
            "network" => open[field] = value,
            _ => open["transform"][field] = value,
        }
        assert_eq!(
            rig.refused(&ada, vec![open]).await.kind(),
            Some(ProblemKind::Invalid),
            "{field}"
        );
    }
}

fn release(rig: &Rig, spec_digest: &str) {
    let now = rig.environment().now();
    let id = rig.environment().id();
    rig.control.change(|s| {
        let domain = |name: &str| s.domains.iter().find(|d| d.name.as_str() == name).unwrap().id;
        let release = Release {
            id,
            domains: vec![domain("in"), domain("programs")],
            pipeline: domain("p"),
            spec_digest: spec_digest.to_owned(),
            purpose: "counts".to_owned(),
            approvers: Vec::new(),
            retroactive: false,
            created_at: now,
            expires_at: now + chrono::Duration::days(30),
            revoked_at: None,
        };
        s.releases.push(release);
    });
}
