//! Applying pipelines: what is refused, and why; what changing one does to its readers.

use contract::api::{Page, Pipeline};
use contract::policy::Role;
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::jobs_rig::{Rig, shell};

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_are_told_at_their_places_and_nothing_is_applied() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let mut typo = shell("typo", "in", "/*", "true");
    typo["transfrom"] = json!({});
    let mut bad_glob = shell("glob", "in", "/[", "true");
    bad_glob["datum_tries"] = json!(0);
    let mut user = shell("user", "in", "/*", "true");
    user["transform"]["user"] = json!("root");
    let problem = rig
        .refused(&ada, vec![shell("fine", "in", "/*", "true"), typo, bad_glob, user])
        .await;
    assert_eq!(problem.kind(), Some(ProblemKind::Invalid));
    let pointers: Vec<&str> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
    assert!(
        pointers.iter().any(|p| p.starts_with("/specs/1/transfrom")),
        "{pointers:?}"
    );
    assert!(pointers.iter().any(|p| p.starts_with("/specs/2/input")), "{pointers:?}");
    assert!(pointers.contains(&"/specs/3/transform/user"), "{pointers:?}");
    let page: Page<Pipeline> = rig.get(&ada, "/v1/pipelines").await;
    assert!(page.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_unknown_inputs_and_taken_names_are_refused() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "in").await;
    rig.apply(
        &ada,
        vec![shell("p", "in", "/*", "true"), shell("q", "p", "/*", "true")],
    )
    .await;

    let cycle = rig.refused(&ada, vec![shell("p", "q", "/*", "true")]).await;
    assert!(cycle.detail.contains("cycle"), "{}", cycle.detail);
    let own = rig.refused(&ada, vec![shell("x", "x", "/*", "true")]).await;
    assert!(own.detail.contains("its own output"), "{}", own.detail);
    let taken = rig.refused(&ada, vec![shell("in", "p", "/*", "true")]).await;
    assert_eq!(taken.kind(), Some(ProblemKind::AlreadyExists));

    let hidden = rig.refused(&bob, vec![shell("y", "in", "/*", "true")]).await;
    let absent = rig.refused(&bob, vec![shell("y", "no", "/*", "true")]).await;
    assert_eq!(hidden.kind(), Some(ProblemKind::NotFound));
    assert_eq!(hidden.detail.replace("/in", "/no"), absent.detail);
    let foreign = rig.refused(&bob, vec![shell("p", "in", "/*", "true")]).await;
    assert_eq!(foreign.kind(), Some(ProblemKind::AlreadyExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn derive_is_needed_on_everything_that_an_input_was_made_from() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "images").await;
    rig.put(&ada, "images", &[("a", "1")]).await;
    let applied = rig
        .apply(&ada, vec![shell("found", "images", "/*", "cp /pfs/images/* /pfs/out/")])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.grant(&bob, Role::Deriver, "found");

    let problem = rig.refused(&bob, vec![shell("mine", "found", "/*", "true")]).await;
    assert_eq!(problem.kind(), Some(ProblemKind::NotAllowed));
    assert!(
        problem.detail.contains("restricted upstream #") && !problem.detail.contains("images"),
        "{problem:?}"
    );

    rig.grant(&bob, Role::Discoverer, "images");
    let problem = rig.refused(&bob, vec![shell("mine", "found", "/*", "true")]).await;
    assert!(problem.detail.contains("`default/images`"), "{problem:?}");
    assert!(problem.hint.unwrap().contains("ada"));

    rig.grant(&bob, Role::Deriver, "images");
    let applied = rig.apply(&bob, vec![shell("mine", "found", "/*", "true")]).await;
    assert_eq!(applied[0].change, "created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_who_would_lose_read_and_changes_nothing() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "open").await;
    rig.repo(&ada, "closed").await;
    rig.put(&ada, "open", &[("a", "1")]).await;
    rig.put(&ada, "closed", &[("b", "1")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "open", "/*", "true")]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.grant(&bob, Role::Viewer, "open");
    rig.grant(&bob, Role::Viewer, "p");
    let both = json!({
        "pipeline": { "name": "p" },
        "transform": { "cmd": ["/bin/true"] },
        "input": { "cross": [
            { "pfs": { "repo": "open", "glob": "/*" } },
            { "pfs": { "repo": "closed", "glob": "/*" } },
        ] },
    });
    let answer: Value = rig
        .post(&ada, "/v1/pipelines", json!({ "specs": [both], "dry_run": true }))
        .await;
    let impact = answer["items"][0]["impact"].to_string();
    assert!(impact.contains("bob") && impact.contains("default/closed"), "{answer}");
    assert_eq!(answer["items"][0]["change"], "updated");
    let shown: Pipeline = rig.get(&ada, "/v1/pipelines/default/p").await;
    assert_eq!(shown.version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_datums_and_logs_are_shown_only_to_readers_of_everything_upstream() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "images").await;
    rig.put(&ada, "images", &[("a", "1")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "images", "/*", "echo seen")]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    let asked = [
        format!("/v1/jobs/{}", job.id),
        format!("/v1/jobs/{}/datums", job.id),
        format!("/v1/jobs/{}/logs", job.id),
        format!("/v1/wait?target={}", job.id),
    ];
    for uri in &asked {
        assert_eq!(rig.send(&bob, "GET", uri, None).await.0, 404, "{uri}");
    }
    rig.grant(&bob, Role::Viewer, "p");
    for uri in &asked {
        assert_eq!(rig.send(&bob, "GET", uri, None).await.0, 403, "{uri}");
    }
    assert!(rig.jobs(&bob, "p").await.is_empty());
    let shown: Pipeline = rig.get(&bob, "/v1/pipelines/default/p").await;
    assert!(!shown.spec.to_string().contains("images"), "{}", shown.spec);
    rig.grant(&bob, Role::Viewer, "images");
    for uri in &asked {
        assert_eq!(rig.send(&bob, "GET", uri, None).await.0, 200, "{uri}");
    }
    assert_eq!(rig.jobs(&bob, "p").await.len(), 1);
    assert_eq!(rig.logs(&bob, job.id).await[0].text, "seen");
}
