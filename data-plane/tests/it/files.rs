//! The versioned file system, as its semantics are written down: each test is one or two of those lines.

use axum::http::StatusCode;
use chrono::Duration;
use contract::api::{Branch, Commit, CommitState, FileChange, FileInfo};
use contract::problem::ProblemKind;
use serde_json::json;

use crate::app::{App, archive, escape};

/// What a tar archive holds, in its order.
pub fn names_and_sizes(archive: &[u8]) -> Vec<(String, u64)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .map(|e| (e.path().unwrap().to_string_lossy().into_owned(), e.size()))
        .collect()
}

#[tokio::test]
async fn a_put_to_a_branch_is_one_atomic_commit_with_its_maker_and_message() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "images").await;

    let query = "repo=images&message=first%20light";
    let commit: Commit = app
        .put_with(&ada, query, &[("a", b"one"), ("dir/b", b"two")])
        .await
        .json();

    assert_eq!(
        (commit.state, commit.files, commit.size_bytes),
        (CommitState::Finished, 2, 6)
    );
    assert_eq!(
        (commit.message.as_str(), commit.actor.name.as_str()),
        ("first light", "ada")
    );
    assert_eq!(app.ls(&ada, "ref=images@main&recursive=true").await, ["/a", "/dir/b"]);
    assert_eq!(app.ls(&ada, "ref=images").await, ["/a", "/dir/"]);
    assert_eq!(app.cat(&ada, "images@main", "/dir/b").await.text(), "two");
    let shown: Commit = app
        .get(&ada, &format!("/v1/commits?ref=images@{}", commit.id))
        .await
        .json();
    assert_eq!(shown.digest, commit.digest);
}

#[tokio::test]
async fn a_put_replaces_the_file_at_its_path_and_finished_commits_stay_as_they_were() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let first: Commit = app
        .put(&ada, "r", &[("a", b"long content"), ("b", b"stays")])
        .await
        .json();
    let second: Commit = app.put(&ada, "r", &[("a", b"new")]).await.json();

    assert_eq!(second.parent, Some(first.id));
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "new");
    assert_eq!(app.cat(&ada, "r@main", "b").await.text(), "stays");
    assert_eq!(
        app.cat(&ada, &format!("r@{}", first.id), "a").await.text(),
        "long content"
    );
    assert_eq!(app.cat(&ada, "r@main^", "a").await.text(), "long content");
}

#[tokio::test]
async fn equal_content_has_an_equal_digest_whatever_way_it_arrived() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "x").await;
    app.repo(&ada, "y").await;
    app.put(&ada, "x", &[("a", b"1"), ("b", b"2")]).await.ok();
    app.put(&ada, "y", &[("b", b"2"), ("c", b"3")]).await.ok();
    let x: Commit = app.put(&ada, "x", &[("c", b"3")]).await.json();
    let y: Commit = app.put(&ada, "y", &[("a", b"1")]).await.json();
    assert_eq!(x.digest, y.digest);
}

#[tokio::test]
async fn an_append_goes_behind_what_is_there_and_makes_what_is_not() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"one ")]).await.ok();
    let files: &[(&str, &[u8])] = &[("a", b"two"), ("b", b"new"), ("a", b" three")];
    app.put_with(&ada, "repo=r&append=true", files).await.ok();
    assert_eq!(app.cat(&ada, "r", "a").await.text(), "one two three");
    assert_eq!(app.cat(&ada, "r", "b").await.text(), "new");
}

#[tokio::test]
async fn deleting_a_directory_deletes_what_is_below_and_nothing_else() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(
        &ada,
        "r",
        &[("d/a", b"1"), ("d/e/b", b"2"), ("d-not", b"3"), ("x", b"4")],
    )
    .await
    .ok();
    app.delete(&ada, "/v1/files?repo=r&path=/d").await.ok();
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await, ["/d-not", "/x"]);
    app.delete(&ada, "/v1/files?repo=r&path=/d")
        .await
        .refused(ProblemKind::NotFound);
    app.delete(&ada, "/v1/files?repo=r&path=/").await.ok();
    assert!(app.ls(&ada, "ref=r").await.is_empty());
}

#[tokio::test]
async fn a_path_cannot_be_a_file_and_a_directory() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"1")]).await.ok();
    app.put(&ada, "r", &[("a/b", b"2")])
        .await
        .refused(ProblemKind::Conflict);
    app.put(&ada, "r", &[("c/d", b"1"), ("c", b"2")])
        .await
        .refused(ProblemKind::Conflict);
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await, ["/a"]);
    assert_eq!(app.log(&ada, "r").await.len(), 1);
}

#[tokio::test]
async fn an_upload_that_is_no_archive_or_breaks_off_or_climbs_out_leaves_no_commit() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let whole = archive(&[("a", &[7; 300_000]), ("b", b"2")]);
    for cut in [100, 5_000, 301_000] {
        let reply = app
            .call(&ada, "POST", "/v1/files?repo=r", whole[..cut].to_vec().into())
            .await;
        reply.refused(ProblemKind::Malformed);
    }
    let climbing = climbing_archive();
    let reply = app.call(&ada, "POST", "/v1/files?repo=r", climbing.into()).await;
    assert!(reply.refused(ProblemKind::Invalid).detail.contains(".."));
    let branches: contract::api::Page<Branch> = app.get(&ada, "/v1/projects/default/repos/r/branches").await.json();
    assert!(branches.items.is_empty());
}

fn climbing_archive() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..10].copy_from_slice(b"a/../../up");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, std::io::empty()).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn an_open_commit_takes_puts_and_is_seen_only_when_it_is_finished() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"old"), ("gone", b"x")]).await.ok();
    let open: Commit = app
        .post(&ada, "/v1/commits", json!({ "repo": "r", "message": "many" }))
        .await
        .json();
    assert_eq!(open.state, CommitState::Open);
    app.post(&ada, "/v1/commits", json!({ "repo": "r" }))
        .await
        .refused(ProblemKind::Conflict);

    let into: Commit = app.put(&ada, "r", &[("a", b"new")]).await.json();
    assert_eq!(into.id, open.id);
    app.put_with(&ada, "repo=r&append=true", &[("a", b"er")]).await.ok();
    app.put(&ada, "r", &[("large", &[9; 200_000])]).await.ok();
    app.delete(&ada, "/v1/files?repo=r&path=gone").await.ok();
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "old");
    app.cat(&ada, &format!("r@{}", open.id), "a")
        .await
        .refused(ProblemKind::Conflict);

    let finished: Commit = app
        .call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .json();
    assert_eq!(
        (finished.id, finished.state, finished.files),
        (open.id, CommitState::Finished, 2)
    );
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "newer");
    let again = app
        .call(
            &ada,
            "POST",
            &format!("/v1/commits/finish?ref=r@{}", open.id),
            "".into(),
        )
        .await;
    again.refused(ProblemKind::CommitFinished);
}

#[tokio::test]
async fn references_walk_up_from_the_root_and_back_in_time() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let mut commits = Vec::new();
    for text in ["one", "two", "three"] {
        app.pass(Duration::days(1)).await;
        let commit: Commit = app.put(&ada, "r", &[("f", text.as_bytes())]).await.json();
        commits.push(commit);
    }
    for (reference, expected) in [
        ("r", "three"),
        ("default/r@main", "three"),
        ("r@main^", "two"),
        ("r@main^^", "one"),
        ("r@main^2", "one"),
        ("r@main.1", "one"),
        ("r@main.3", "three"),
        ("r@main@1d", "two"),
        ("r@main@2d", "one"),
        (
            &format!("r@main@{}", commits[1].finished_at.unwrap().to_rfc3339()),
            "two",
        ),
        (&format!("r@{}", commits[0].id), "one"),
        (&format!("r@{}^", commits[1].id), "one"),
        (&format!("r@{}", commits[1].commit_set), "two"),
    ] {
        assert_eq!(app.cat(&ada, reference, "f").await.text(), expected, "{reference}");
    }
    for nothing in ["r@main^3", "r@main.4", "r@other", "r@main@9d", "nothing@main"] {
        app.cat(&ada, nothing, "f").await.refused(ProblemKind::NotFound);
    }
    app.cat(&ada, "r@main^x", "f").await.refused(ProblemKind::Invalid);
}

#[tokio::test]
async fn the_log_shows_the_line_of_parents_newest_first_and_only_what_touched_a_path() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let mut ids = Vec::new();
    for (path, text) in [("a", "1"), ("b", "1"), ("a", "2"), ("c/d", "1"), ("a", "3")] {
        let commit: Commit = app.put(&ada, "r", &[(path, text.as_bytes())]).await.json();
        ids.push(commit.id);
    }
    ids.reverse();
    let all: Vec<_> = app.log(&ada, "r").await.into_iter().map(|c| c.id).collect();
    assert_eq!(all, ids);
    let touched: Vec<Commit> = app.all(&ada, "/v1/log?ref=r&path=a&limit=1").await;
    let touched: Vec<_> = touched.into_iter().map(|c| c.id).collect();
    assert_eq!(touched, [ids[0], ids[2], ids[4]]);
    let touched: Vec<Commit> = app.all(&ada, "/v1/log?ref=r&path=/c").await;
    assert_eq!(touched.len(), 1);
}

#[tokio::test]
async fn a_diff_lists_what_was_added_changed_and_removed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("same", b"1"), ("changed", b"1"), ("removed", b"123")])
        .await
        .ok();
    app.put(&ada, "r", &[("changed", b"22"), ("added", b"4444")]).await.ok();
    app.delete(&ada, "/v1/files?repo=r&path=removed").await.ok();
    let text = app.get(&ada, "/v1/diff?a=r@main^2&b=r@main").await.text();
    let lines: Vec<FileChange> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let shown: Vec<String> = lines
        .iter()
        .map(|l| format!("{:?} {} {}", l.change, l.path, l.size_bytes))
        .collect();
    assert_eq!(shown, ["Added /added 4", "Changed /changed 2", "Removed /removed 3"]);
}

#[tokio::test]
async fn lists_come_in_pages_and_globs_match_directories_too() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let paths: Vec<String> = (0..30)
        .map(|i| format!("{}/{i}", i % 3))
        .chain(["top".to_owned()])
        .collect();
    let files: Vec<(&str, &[u8])> = paths.iter().map(|p| (p.as_str(), b"x".as_slice())).collect();
    app.put(&ada, "r", &files).await.ok();
    let mut expected: Vec<String> = paths.iter().map(|p| format!("/{p}")).collect();
    expected.sort();
    assert_eq!(app.ls(&ada, "ref=r&recursive=true&limit=7").await, expected);
    assert_eq!(app.ls(&ada, "ref=r&limit=1").await, ["/0/", "/1/", "/2/", "/top"]);
    assert_eq!(app.ls(&ada, "ref=r&path=/1&limit=3").await.len(), 10);
    assert_eq!(app.ls(&ada, "ref=r&path=/top").await, ["/top"]);
    assert_eq!(
        app.ls(&ada, "ref=r&limit=2&glob=/*").await,
        ["/0/", "/1/", "/2/", "/top"]
    );
    assert_eq!(
        app.ls(&ada, "ref=r&limit=2&glob=/*/*1").await,
        ["/1/1", "/0/21", "/2/11"]
            .map(str::to_owned)
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    let mut everything: Vec<String> = ["/0/", "/1/", "/2/"]
        .map(str::to_owned)
        .into_iter()
        .chain(expected)
        .collect();
    everything.sort();
    assert_eq!(app.ls(&ada, "ref=r&limit=5&glob=/**").await, everything);
    let directory: contract::api::Page<FileInfo> = app.get(&ada, "/v1/files?ref=r&limit=1").await.json();
    assert_eq!(
        (directory.items[0].size_bytes, directory.items[0].digest.as_ref()),
        (10, None)
    );
    app.get(&ada, "/v1/files?ref=r&glob=/[")
        .await
        .refused(ProblemKind::Invalid);
    app.get(&ada, "/v1/files?ref=r&limit=500")
        .await
        .refused(ProblemKind::Invalid);
    app.get(&ada, "/v1/files?ref=r&path=/no")
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn content_is_read_in_ranges_and_not_sent_again_when_it_is_known() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    app.put(&ada, "r", &[("f", &bytes)]).await.ok();
    let whole = app.cat(&ada, "r", "f").await;
    assert_eq!(whole.body, bytes);
    let etag = whole.headers["etag"].to_str().unwrap().to_owned();
    let get = async |name: &str, value: &str| {
        let request = axum::http::Request::get("/v1/content?ref=r&path=f")
            .header("authorization", format!("Bearer {}", ada.token))
            .header(name, value)
            .body(axum::body::Body::empty())
            .unwrap();
        app.send(request).await
    };
    let part = get("range", "bytes=1000000-1000003").await;
    assert_eq!(
        (part.status, &part.body[..]),
        (StatusCode::PARTIAL_CONTENT, &bytes[1_000_000..1_000_004])
    );
    assert_eq!(part.headers["content-range"], "bytes 1000000-1000003/2000000");
    assert_eq!(
        get("range", "bytes=2000000-").await.status,
        StatusCode::RANGE_NOT_SATISFIABLE
    );
    assert_eq!(get("if-none-match", &etag).await.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn an_archive_holds_what_is_below_a_directory_under_relative_names() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let long = format!("d/{}/x", "long".repeat(40));
    let large = vec![5; 700_001];
    app.put(
        &ada,
        "r",
        &[("d/a", b"1"), ("d/large", &large), (&long, b"3"), ("else", b"4")],
    )
    .await
    .ok();
    let found = names_and_sizes(&app.get(&ada, "/v1/archive?ref=r&path=/d").await.ok().body);
    assert_eq!(
        found,
        [
            ("a".to_owned(), 1),
            ("large".to_owned(), 700_001),
            (long[2..].to_owned(), 1)
        ]
    );
    assert_eq!(
        names_and_sizes(&app.get(&ada, "/v1/archive?ref=r&path=else").await.ok().body),
        [("else".to_owned(), 1)]
    );
    assert_eq!(
        names_and_sizes(&app.get(&ada, "/v1/archive?ref=r").await.ok().body).len(),
        4
    );
}

#[tokio::test]
async fn names_are_unicode_in_one_form_and_awkward_ones_survive() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("u\u{308}ber", b"1"), ("a*[b]?{c} d", b"2")])
        .await
        .ok();
    assert_eq!(app.cat(&ada, "r", "\u{fc}ber").await.text(), "1");
    assert_eq!(app.cat(&ada, "r", "a*[b]?{c} d").await.text(), "2");
    app.cat(&ada, "r", "a/../b").await.refused(ProblemKind::Invalid);
}

#[tokio::test]
async fn puts_of_many_people_at_once_all_arrive() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let names: Vec<String> = (0..20).map(|i| format!("f{i}")).collect();
    let puts = names.iter().map(|n| {
        app.put_with(
            &ada,
            "repo=r",
            std::slice::from_ref(Box::leak(Box::new((
                Box::leak(n.clone().into_boxed_str()) as &str,
                b"x".as_slice(),
            )))),
        )
    });
    for reply in futures::future::join_all(puts).await {
        reply.ok();
    }
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await.len(), 20);
    assert_eq!(app.log(&ada, "r").await.len(), 20);
}

#[tokio::test]
async fn a_copy_takes_references_and_its_source_becomes_provenance() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "from").await;
    app.repo(&ada, "to").await;
    let source: Commit = app
        .put(&ada, "from", &[("d/a", b"1"), ("d/b", b"2"), ("c", b"3")])
        .await
        .json();
    let copy = |path: &str, to: &str| json!({"from_ref": "from@main", "from_path": path, "repo": "to", "branch": "main", "path": to});
    let made: Commit = app.post(&ada, "/v1/copies", copy("/d", "/x")).await.json();
    assert_eq!(
        made.provenance.iter().map(|e| e.commit).collect::<Vec<_>>(),
        [source.id]
    );
    app.post(&ada, "/v1/copies", copy("/c", "/x/")).await.ok();
    app.post(&ada, "/v1/copies", copy("/c", "/y")).await.ok();
    assert_eq!(
        app.ls(&ada, "ref=to&recursive=true").await,
        ["/x/a", "/x/b", "/x/c", "/y"]
    );
    app.post(&ada, "/v1/copies", copy("/no", "/y"))
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn branches_start_anywhere_move_and_go_without_touching_commits() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let first: Commit = app.put(&ada, "r", &[("a", b"1")]).await.json();
    app.put(&ada, "r", &[("a", b"2")]).await.ok();
    let branches = "/v1/projects/default/repos/r/branches";
    let made: Branch = app
        .post(&ada, branches, json!({"name": "old", "from": "r@main^"}))
        .await
        .json();
    assert_eq!(made.head, Some(first.id));
    app.post(&ada, branches, json!({"name": "old"}))
        .await
        .refused(ProblemKind::AlreadyExists);
    assert_eq!(app.cat(&ada, "r@old", "a").await.text(), "1");
    app.patch(&ada, &format!("{branches}/old"), json!({"to": "r@main"}))
        .await
        .ok();
    assert_eq!(app.cat(&ada, "r@old", "a").await.text(), "2");
    app.put_with(&ada, "repo=r&branch=old", &[("a", b"3")]).await.ok();
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "2");
    app.delete(&ada, &format!("{branches}/old")).await.ok();
    app.cat(&ada, "r@old", "a").await.refused(ProblemKind::NotFound);
    app.delete(&ada, &format!("{branches}/old"))
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn a_corrupt_pack_is_named_with_the_file() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", &[3; 300_000])]).await.ok();
    let contract::config::StoreConfig::Local { directory } = &app.plane.config.store else {
        panic!("a local store");
    };
    let mut spoiled = 0;
    for pack in std::fs::read_dir(directory.join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        // The tree's nodes, which lie behind the content, stay whole.
        for byte in bytes.iter_mut().skip(16).take(1000) {
            *byte ^= 1;
        }
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        std::fs::set_permissions(&path, permissions).unwrap();
        std::fs::write(&path, bytes).unwrap();
        spoiled += 1;
    }
    assert!(spoiled > 0);
    // A plane that has nothing in memory.
    let fresh = data_plane::stores::open(&app.plane.config.store, &app.plane.environment).unwrap();
    let plane = data_plane::plane::Plane::new(app.plane.config.clone(), fresh, app.environment.clone()).unwrap();
    plane
        .policy
        .install(app.plane.policy.last_known().unwrap().snapshot().clone());
    plane.policy.heard(app.environment.now());
    let request = axum::http::Request::get(format!("/v1/content?ref={}&path=f", escape("r@main")))
        .header("authorization", format!("Bearer {}", ada.token))
        .body(axum::body::Body::empty())
        .unwrap();
    let response = tower::ServiceExt::oneshot(data_plane::server::router(plane), request)
        .await
        .unwrap();
    let status = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    match body {
        Err(_) => assert_eq!(status, StatusCode::OK, "a body that breaks off"),
        Ok(body) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            assert!(text.contains("packs/") && text.contains("corrupt"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_glob_finds_what_it_matches_wherever_it_begins_and_a_directory_says_what_is_below_it() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let names: Vec<String> = (0..400).map(|n| format!("a{}/b{n:03}/{}", n % 3, n % 7)).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"1"[..])).collect();
    app.put(&ada, "r", &files).await.ok();

    for text in [
        "/a1/b1*/*",
        "/a1/b10*",
        "/a?/b1*/3",
        "/a1/b100/2",
        "/**/6",
        "/x*",
        "/a2/b00*/",
        "/a1/b100/",
        "/a*",
    ] {
        let glob = provenance::glob::Glob::parse(text).unwrap();
        let mut expected: Vec<String> = Vec::new();
        for name in &names {
            let parts: Vec<&str> = name.split('/').collect();
            for depth in 1..=3 {
                let path = format!("/{}{}", parts[..depth].join("/"), if depth < 3 { "/" } else { "" });
                if glob.matches(&path, depth < 3).is_some() {
                    expected.push(path);
                }
            }
        }
        expected.sort();
        expected.dedup();
        let mut found = app.ls(&ada, &format!("ref=r@main&limit=7&glob={}", escape(text))).await;
        found.sort();
        assert_eq!(found, expected, "{text}");
    }
    let top: Vec<FileInfo> = app.all(&ada, "/v1/files?ref=r@main").await;
    let counts: Vec<(&str, u64, u64)> = top.iter().map(|d| (d.path.as_str(), d.files, d.size_bytes)).collect();
    assert_eq!(counts, [("/a0/", 134, 134), ("/a1/", 133, 133), ("/a2/", 133, 133)]);
}
