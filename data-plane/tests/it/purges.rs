//! Purges: what is taken out of all history is in no commit, no result and no log any more, and does not come back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use contract::api::{Commit, CommitState, Page, Purge, PurgeState};
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use contract::upload::Step;
use data_plane::garbage::collect;
use object_store::ObjectStoreExt;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};
use crate::deltas::delta;
use crate::imports::import;
use crate::room::{bucket, noise};
use crate::s3::Server;
use crate::s3_bucket::{from_bucket, importer};

async fn purge(app: &App, person: &Person, path: &str, more: Value) -> Reply {
    let mut body = json!({ "repo": "r", "path": path });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post(person, "/v1/purges", body).await
}

async fn checked(app: &App) {
    let owner = app.member_as("checker", OrganizationRole::Owner).await;
    let lines = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(lines.lines().count() == 1 && lines.contains("\"ok\""), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_file_is_in_no_commit_any_more_and_its_bytes_go_with_the_garbage() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("kept", b"kept")]).await.ok();
    let held: Commit = app.put(&ada, "r", &[("d/secret", &noise(1, 5 << 20))]).await.json();
    app.put(&ada, "r", &[("d/other", b"other")]).await.ok();
    let branches = "/v1/projects/default/repos/r/branches";
    app.post(&ada, branches, json!({"name": "side", "from": "r@main"}))
        .await
        .ok();
    app.put_with(&ada, "repo=r&branch=side", &[("side", b"s")]).await.ok();
    app.delete(&ada, "/v1/files?repo=r&path=d/secret").await.ok();
    app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
    app.put(&ada, "r", &[("d/secret", b"again"), ("new", b"new")])
        .await
        .ok();

    let told: Purge = purge(&app, &ada, "/d/secret", json!({"dry_run": true})).await.json();
    assert!(
        told.dry_run && told.rewritten == 3 && told.open_commits == 1,
        "{told:?}"
    );
    let none: Page<Purge> = app.get(&ada, "/v1/purges").await.json();
    assert!(none.items.is_empty(), "a dry run keeps no receipt");
    app.cat(&ada, "r@side", "d/secret").await.ok();

    let done: Purge = purge(&app, &ada, "/d/secret", json!({})).await.json();
    assert_eq!(
        (done.rewritten, done.open_commits, done.state),
        (3, 1, PurgeState::Pending)
    );
    assert_eq!(
        (done.path.as_str(), done.by.name.as_str(), done.packs.len()),
        ("/d/secret", "ada", told.packs.len())
    );
    for reference in [format!("r@{}", held.id), "r@side".to_owned(), "r@main^0".to_owned()] {
        app.cat(&ada, &reference, "d/secret")
            .await
            .refused(ProblemKind::NotFound);
        assert_eq!(app.cat(&ada, &reference, "kept").await.ok().text(), "kept");
    }
    let shown: Commit = app.get(&ada, &format!("/v1/commits?ref=r@{}", held.id)).await.json();
    assert_eq!(
        (shown.state, shown.files, shown.size_bytes),
        (CommitState::Finished, 1, 4)
    );
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    assert_eq!(
        app.ls(&ada, "ref=r@main&recursive=true").await,
        ["/d/other", "/kept", "/new"]
    );
    checked(&app).await;

    // What went on from a rewritten commit is verified too.
    app.put_with(&ada, "repo=r&branch=side", &[("more", b"m")]).await.ok();
    checked(&app).await;
    // What else the packs hold is copied, then they are found unneeded twice.
    for _ in 0..3 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    let receipt: Purge = app.get(&ada, &format!("/v1/purges/{}", done.id)).await.json();
    assert_eq!(receipt.state, PurgeState::Erased, "{receipt:?}");
    let listed: Page<Purge> = app.get(&ada, "/v1/purges").await.json();
    assert_eq!(listed.items, [receipt]);
    purge(&app, &ada, "/d/secret", json!({}))
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_waits_for_the_names_of_what_was_purged_and_they_go_from_packs_of_which_most_is_needed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    // What is this small stands in the tree itself.
    let (name, content) = ("in-a-name-that-tells", b"and some words that tell as well");
    let large = noise(1, 1 << 20);
    let files: [(&str, &[u8]); 3] = [("kept", &large), (name, content), ("z", b"kept too")];
    app.put(&ada, "r", &files).await.ok();
    app.put(&ada, "r", &[("more", b"more")]).await.ok();
    let tell = || {
        let packs = std::fs::read_dir(bucket(&app).join("packs")).unwrap();
        let bytes = packs.map(|pack| std::fs::read(pack.unwrap().path()).unwrap());
        let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let tells = |bytes: &Vec<u8>| has(bytes, name.as_bytes()) || has(bytes, content);
        bytes.filter(tells).count()
    };
    assert_eq!(tell(), 2);
    let done: Purge = purge(&app, &ada, name, json!({})).await.json();
    assert_eq!((done.state, done.packs.len()), (PurgeState::Pending, 2), "{done:?}");
    let state = async || {
        let receipt: Purge = app.get(&ada, &format!("/v1/purges/{}", done.id)).await.json();
        receipt.state
    };
    for _ in 0..3 {
        assert_eq!((state().await, tell()), (PurgeState::Pending, 2));
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
        if tell() == 0 {
            break;
        }
    }
    assert_eq!((state().await, tell()), (PurgeState::Erased, 0));
    assert_eq!(app.cat(&ada, "r@main", "kept").await.ok().body, large);
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_among_very_many_that_an_open_commit_was_given_is_not_in_it_when_it_is_finished() {
    // More than one request holds in memory.
    const FILES: usize = 33_000;
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
    let named: Vec<String> = (0..FILES).map(|n| format!("d{}/{n}", n % 7)).collect();
    let files: Vec<(&str, &[u8])> = named.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    app.put(&ada, "r", &files).await.ok();

    for path in ["/d0/0", "/d1"] {
        let done: Purge = purge(&app, &ada, path, json!({})).await.json();
        assert_eq!((done.rewritten, done.open_commits), (0, 1), "{path}");
        assert!(!done.packs.is_empty(), "{path}");
    }
    let finished: Commit = app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.json();
    let below_d1 = named.iter().filter(|name| name.starts_with("d1/")).count();
    assert_eq!(finished.files, (FILES - below_d1 - 1) as u64);
    app.cat(&ada, "r@main", "d0/0").await.refused(ProblemKind::NotFound);
    app.cat(&ada, "r@main", "d0/7").await.ok();
}

#[tokio::test]
async fn a_directory_is_purged_with_all_below_it_and_what_has_a_like_name_stays() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    for file in ["d/a", "d/e/b", "dd", "kept"] {
        app.put(&ada, "r", &[(file, file.as_bytes())]).await.ok();
    }
    let done: Purge = purge(&app, &ada, "/d", json!({})).await.json();
    assert_eq!(done.rewritten, 4);
    assert_eq!(app.ls(&ada, "ref=r@main&recursive=true").await, ["/dd", "/kept"]);
    assert_eq!(app.ls(&ada, "ref=r@main^^&recursive=true").await, Vec::<String>::new());
    checked(&app).await;
}

#[tokio::test]
async fn only_owners_purge_and_see_receipts_and_copies_elsewhere_are_named_to_who_may_know() {
    let app = App::start().await;
    let (ada, bob, eve) = (
        app.member("ada").await,
        app.member("bob").await,
        app.member("eve").await,
    );
    let r = app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", b"1"), ("g", b"2")]).await.ok();
    app.grant(&bob, Role::Contributor, &r).await;
    let copies = app.repo(&bob, "copies").await;
    let body = json!({"from_ref": "r@main", "from_path": "/f", "repo": "copies", "path": "/"});
    let copied: Commit = app.post(&bob, "/v1/copies", body).await.json();

    purge(&app, &bob, "/f", json!({}))
        .await
        .refused(ProblemKind::NotAllowed);
    purge(&app, &eve, "/f", json!({})).await.refused(ProblemKind::NotFound);
    purge(&app, &ada, "/absent", json!({}))
        .await
        .refused(ProblemKind::NotFound);
    purge(&app, &ada, "/", json!({})).await.refused(ProblemKind::Invalid);
    let refused = purge(&app, &ada, "/f", json!({})).await.refused(ProblemKind::Conflict);
    assert!(
        refused.detail.contains("may not know of") && !refused.detail.contains("copies`"),
        "{refused:?}"
    );
    let done: Purge = purge(&app, &ada, "/f", json!({"force": true})).await.json();
    assert!(done.restricted && done.copies.is_empty(), "{done:?}");
    app.grant(&ada, Role::Viewer, &copies).await;
    let uri = format!("/v1/purges/{}", done.id);
    let seen: Purge = app.get(&ada, &uri).await.json();
    assert_eq!((seen.restricted, seen.copies[0].commit), (false, copied.id));
    assert_eq!(app.cat(&bob, "copies@main", "f").await.ok().text(), "1", "a copy stays");
    for person in [&bob, &eve] {
        app.get(person, &uri).await.refused(ProblemKind::NotFound);
        let none: Page<Purge> = app.get(person, "/v1/purges").await.json();
        assert!(none.items.is_empty());
    }
}

#[tokio::test]
async fn who_may_not_read_all_that_was_copied_into_a_repo_is_told_of_no_name_in_it() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let r = app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", b"1"), ("g", b"2")]).await.ok();
    let done: Purge = purge(&app, &ada, "/g", json!({})).await.json();
    app.grant(&bob, Role::Contributor, &r).await;
    let hidden = app.repo(&bob, "hidden").await;
    app.put(&bob, "hidden", &[("plan", b"x")]).await.ok();
    let body = json!({"from_ref": "hidden@main", "from_path": "/plan", "repo": "r", "branch": "side", "path": "/plan"});
    app.post(&bob, "/v1/copies", body).await.ok();

    let uri = format!("/v1/purges/{}", done.id);
    let dry = json!({"dry_run": true});
    let mut told = Vec::new();
    for path in ["/plan", "/absent"] {
        let refused = purge(&app, &ada, path, dry.clone()).await;
        told.push(refused.refused(ProblemKind::NotAllowed).detail);
    }
    assert_eq!(told[0], told[1]);
    app.get(&ada, &uri).await.refused(ProblemKind::NotFound);
    let none: Page<Purge> = app.get(&ada, "/v1/purges").await.json();
    assert!(none.items.is_empty());

    app.grant(&ada, Role::Viewer, &hidden).await;
    let known: Purge = purge(&app, &ada, "/plan", dry).await.json();
    assert_eq!(known.rewritten, 1);
    app.get(&ada, &uri).await.ok();
    let listed: Page<Purge> = app.get(&ada, "/v1/purges").await.json();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_against_a_commit_that_loses_the_file_meanwhile_does_not_bring_it_back() {
    for open in [false, true] {
        let app = Arc::new(App::start().await);
        let ada = Arc::new(app.member("ada").await);
        app.repo(&ada, "r").await;
        let first: Commit = app.put(&ada, "r", &[("f", &noise(1, 2 << 20))]).await.json();
        if open {
            app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
        }
        let length = 2 << 20;
        let archive = delta("f", length, &[(Step::Copy { offset: 0, length }, b"")]);
        let (inside, person) = (Arc::clone(&app), Arc::clone(&ada));
        // The first of the body comes when the base was looked up.
        let body = futures::stream::once(async move {
            purge(&inside, &person, "/f", json!({})).await.ok();
            Ok::<_, std::io::Error>(archive)
        });
        let uri = format!("/v1/files?repo=r&base={}", first.id);
        let refused = app.call(&ada, "POST", &uri, Body::from_stream(body)).await;
        let problem = refused.refused(ProblemKind::Conflict);
        assert!(problem.detail.contains("lost a file"), "{problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_purged_file_was_fetched_from_stands_in_no_commit_any_more() {
    let server = Server::start().await;
    for key in ["secret-one", "d/secret-a", "d/secret-b", "d/other/f"] {
        server.client().put(&key.into(), key.into()).await.unwrap();
    }
    let (app, ada, access) = importer(&server).await;
    let one = import(&app, &ada, from_bucket("secret-one", false, &access))
        .await
        .unwrap();
    let all = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    app.put(&ada, "r", &[("later", b"1")]).await.ok();
    app.delete(&ada, "/v1/files?repo=r&path=in/secret-one").await.ok();
    let known = async |of: &Commit| -> String {
        let shown: Commit = app.get(&ada, &format!("/v1/commits?ref=r@{}", of.id)).await.json();
        shown.sources[0].url.clone()
    };
    let rows = async || -> String {
        let rows: Vec<Value> = sqlx::query_scalar("select sources from commits")
            .fetch_all(&app.plane.pool)
            .await
            .unwrap();
        serde_json::to_string(&rows).unwrap()
    };

    purge(&app, &ada, "/in/secret-one", json!({"dry_run": true})).await.ok();
    assert_eq!(known(&one).await, "s3://packs/secret-one", "a dry run changes nothing");
    purge(&app, &ada, "/in/secret-one", json!({})).await.ok();
    assert_eq!(
        (known(&one).await.as_str(), known(&all).await.as_str()),
        ("(purged)", "s3://packs/d/")
    );
    assert!(!rows().await.contains("secret"), "{}", rows().await);
    checked(&app).await;
    purge(&app, &ada, "/in/secret-a", json!({})).await.ok();
    purge(&app, &ada, "/in/other", json!({})).await.ok();
    assert_eq!(known(&all).await, "s3://packs/d/", "a file from below it is left");
    purge(&app, &ada, "/in/secret-b", json!({})).await.ok();
    assert_eq!(known(&all).await, "(purged)");
    checked(&app).await;

    // Who changes a record afterwards is found out as before.
    sqlx::query("update commits set message = 'forged' where id = $1")
        .bind(one.id.uuid())
        .execute(&app.plane.pool)
        .await
        .unwrap();
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let lines = app.get(&owner, "/v1/fsck").await.ok().text();
    assert!(lines.contains("its record does not have the digest"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_prefix_goes_when_nothing_that_came_from_there_is_left_also_where_others_put_files_beside_it()
{
    let server = Server::start().await;
    for key in ["d/secret-a", "d/secret-b"] {
        server.client().put(&key.into(), key.into()).await.unwrap();
    }
    let (app, ada, access) = importer(&server).await;
    app.put(&ada, "r", &[("in/mine", b"1")]).await.ok();
    let finished = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
    let open = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    let known = async || {
        let mut urls = Vec::new();
        for commit in [&finished, &open] {
            let shown: Commit = app.get(&ada, &format!("/v1/commits?ref=r@{}", commit.id)).await.json();
            urls.push(shown.sources[0].url.clone());
        }
        urls
    };
    purge(&app, &ada, "/in/secret-a", json!({})).await.ok();
    assert_eq!(known().await, ["s3://packs/d/"; 2], "the other one is left");
    let done: Purge = purge(&app, &ada, "/in/secret-b", json!({})).await.json();
    assert_eq!((done.rewritten, done.open_commits), (1, 1), "{done:?}");
    assert_eq!(known().await, ["(purged)"; 2]);
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    assert_eq!(app.ls(&ada, "ref=r@main&recursive=true").await, ["/in/mine"]);
    checked(&app).await;
}
