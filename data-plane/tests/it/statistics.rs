//! What a repo takes: the figures, and who is told them.

use contract::api::RepoStatistics;
use contract::policy::Role;
use contract::problem::ProblemKind;
use data_plane::call::Call;
use data_plane::statistics::measure;
use serde_json::json;

use crate::app::{App, Person};
use crate::room::noise;

const LARGE: u64 = 3 << 20;
/// Trees and what is around the pieces of a large file.
const LITTLE: u64 = 64 << 10;

async fn statistics(app: &App, person: &Person, repo: &str) -> RepoStatistics {
    let uri = format!("/v1/projects/default/repos/{repo}/statistics");
    app.get(person, &uri).await.json()
}

async fn copy(app: &App, person: &Person, from: &str, to: &str) {
    let body = json!({"from_ref": from, "from_path": "/large", "repo": to, "path": "/copy"});
    app.post(person, "/v1/copies", body).await.ok();
}

fn about(bytes: u64, wanted: u64) -> bool {
    (wanted..wanted + LITTLE).contains(&bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_tell_what_is_shared_with_repos_that_the_caller_may_read_and_with_no_others() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let images = app.repo(&ada, "images").await;
    app.repo(&ada, "others").await;
    let empty = statistics(&app, &ada, "images").await;
    assert_eq!((empty.commits, empty.stored_bytes, empty.saved_bytes), (0, 0, 0));

    app.put(&ada, "images", &[("large", &noise(1, 3 << 20)), ("small", b"1")])
        .await
        .ok();
    app.put(&ada, "images", &[("small", b"22")]).await.ok();
    let body = json!({"name": "side", "from": "images@main"});
    app.post(&ada, "/v1/projects/default/repos/images/branches", body)
        .await
        .ok();
    let alone = statistics(&app, &ada, "images").await;
    assert_eq!(
        (alone.files, alone.size_bytes, alone.commits),
        (2, LARGE + 2, 2),
        "a commit of two branches counts once: {alone:?}"
    );
    assert_eq!(alone.commits_bytes, 2 * LARGE + 3);
    assert!(about(alone.stored_bytes, LARGE), "{alone:?}");
    assert_eq!((alone.unique_bytes, alone.shared_bytes), (alone.stored_bytes, 0));
    assert_eq!(alone.saved_bytes, alone.commits_bytes - alone.stored_bytes);

    copy(&app, &ada, "images", "others").await;
    app.put(&ada, "others", &[("own", &noise(2, 1 << 20))]).await.ok();
    let shared = statistics(&app, &ada, "images").await;
    assert_eq!(shared.stored_bytes, alone.stored_bytes);
    assert!(about(shared.shared_bytes, LARGE), "{shared:?}");
    assert_eq!(shared.unique_bytes + shared.shared_bytes, shared.stored_bytes);
    let others = statistics(&app, &ada, "others").await;
    assert!(about(others.stored_bytes, LARGE + (1 << 20)), "{others:?}");
    assert!(about(others.unique_bytes, 1 << 20), "{others:?}");

    app.grant(&bob, Role::Viewer, &images).await;
    let seen = statistics(&app, &bob, "images").await;
    assert_eq!(
        (seen.unique_bytes, seen.shared_bytes),
        (shared.stored_bytes, 0),
        "that a hidden repo holds the same is not told: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_ended_while_a_request_waited_count_no_more() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let images = app.repo(&ada, "images").await;
    let others = app.repo(&ada, "others").await;
    app.put(&ada, "images", &[("large", &noise(1, 3 << 20))]).await.ok();
    copy(&app, &ada, "images", "others").await;
    app.grant(&bob, Role::Viewer, &images).await;
    let grant = app.grant(&bob, Role::Viewer, &others).await;
    let call = Call::admit(app.plane.clone(), &bob.token, None).await.unwrap();
    let repo = "images".parse().unwrap();
    let before = measure(&call, &repo).await.unwrap();
    assert!(before.shared_bytes > LARGE / 2, "{before:?}");

    app.revoke(grant).await;

    let after = measure(&call, &repo).await.unwrap();
    assert_eq!((after.unique_bytes, after.shared_bytes), (before.stored_bytes, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_every_commit_is_told_no_figure() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let carl = app.member("carl").await;
    let shared = app.repo(&ada, "shared").await;
    let secret = app.repo(&ada, "secret").await;
    let uri = "/v1/projects/default/repos/shared/statistics";
    app.grant(&carl, Role::Discoverer, &shared).await;
    app.get(&carl, uri).await.refused(ProblemKind::NotAllowed);
    app.put(&ada, "shared", &[("a", b"a")]).await.ok();
    app.grant(&bob, Role::Viewer, &shared).await;
    app.get(&bob, uri).await.ok();
    app.get(&carl, uri).await.refused(ProblemKind::NotAllowed);
    let dora = app.member("dora").await;
    let hidden = app.get(&dora, uri).await.refused(ProblemKind::NotFound);
    let missing = app.get(&dora, "/v1/projects/default/repos/none/statistics").await;
    assert_eq!(hidden.detail, missing.refused(ProblemKind::NotFound).detail);

    app.put(&ada, "secret", &[("large", b"plan")]).await.ok();
    copy(&app, &ada, "secret", "shared").await;
    app.put(&ada, "shared", &[("b", b"b")]).await.ok();
    app.get(&bob, uri).await.refused(ProblemKind::NotAllowed);
    app.grant(&bob, Role::Viewer, &secret).await;
    app.get(&bob, uri).await.ok();
}
