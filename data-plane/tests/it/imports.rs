//! Files that the plane fetches itself: from servers that behave, and from such as break off, change, hang, lie, or lead
//! where nobody may go.

use axum::body::Body;
use axum::http::Request;
use contract::api::{Commit, CommitState, ImportLine, Lineage};
use contract::config::ImportConfig;
use contract::policy::{OrganizationRole, Role};
use contract::problem::{Problem, ProblemKind};
use contract::reach::Reach;
use data_plane::imports::running::RUNNING_MAX;
use serde_json::{Value, json};

use crate::app::{App, Person, escape};
use crate::room::{noise, packs};
use crate::web::{Reply, Web};

const MIB: usize = 1 << 20;

fn near(config: &mut ImportConfig) {
    config.allow = vec!["127.0.0.1".parse().unwrap()];
    config.retry_milliseconds = 1;
    config.retries = 3;
}

async fn app() -> (App, Person) {
    let app = App::importing(near).await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    (app, ada)
}

/// The last line of the answer.
pub async fn import(app: &App, person: &Person, body: Value) -> Result<Commit, Problem> {
    let reply = app.post(person, "/v1/imports", body).await;
    let text = reply.text();
    let last = text.lines().last().unwrap_or_default();
    if !reply.status.is_success() {
        return Err(serde_json::from_str(last).unwrap());
    }
    match serde_json::from_str::<ImportLine>(last) {
        Ok(ImportLine::Commit { commit }) => Ok(*commit),
        Ok(other) => panic!("{other:?}"),
        Err(_) => Err(serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"))),
    }
}

async fn fetch(app: &App, person: &Person, url: &str) -> Result<Commit, Problem> {
    import(app, person, json!({ "repo": "r", "sources": [{ "url": url }] })).await
}

#[track_caller]
fn refused(answer: Result<Commit, Problem>, kind: ProblemKind) -> String {
    let problem = answer.expect_err("it was done");
    assert_eq!(problem.kind(), Some(kind), "{problem:?}");
    problem.detail
}

/// Nothing was committed, and what was stored is taken back.
async fn nothing_is_left(app: &App, person: &Person, packs_before: usize) {
    assert_eq!(app.ls(person, "ref=r@main").await, Vec::<String>::new());
    let limit = std::time::Duration::from_secs(20);
    testkit::wait::wait_until("the packs to be gone", limit, async || packs(app) == packs_before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_a_file_and_where_it_came_from_stands_in_its_commit() {
    let web = Web::start(|asked| Reply::file(asked, b"content", "v1", 7)).await;
    let (app, ada) = app().await;

    let url = web.url("/deep/a%20tile.tif?signature=secret");
    let commit = fetch(&app, &ada, &url).await.unwrap();

    assert_eq!(
        (commit.state, commit.files, commit.size_bytes),
        (CommitState::Finished, 1, 7)
    );
    assert_eq!(app.cat(&ada, "r@main", "/a tile.tif").await.text(), "content");
    let [source] = &commit.sources[..] else {
        panic!("{commit:?}")
    };
    assert_eq!(source.url, web.url("/deep/a%20tile.tif?…"));
    assert_eq!(
        (source.path.as_str(), source.files, source.size_bytes),
        ("/a tile.tif", 1, 7)
    );
    assert_eq!(source.etag.as_deref(), Some("\"v1\""));
    assert_eq!(web.asked()[0].headers["accept-encoding"], "identity");

    // The next commit did not come from there, but what it was made on did.
    app.put(&ada, "r", &[("b", b"1")]).await.ok();
    app.post(&ada, "/v1/projects/default/repos", json!({ "name": "copy" }))
        .await
        .ok();
    let body = json!({"from_ref": "r@main", "from_path": "/", "repo": "copy", "path": "/"});
    let copy: Commit = app.post(&ada, "/v1/copies", body).await.json();
    assert_eq!(copy.sources, []);
    let lineage: Lineage = app.get(&ada, "/v1/provenance?ref=copy@main").await.json();
    let sources: Vec<_> = lineage
        .upstream
        .iter()
        .filter(|c| c.commit == commit.id)
        .map(|c| &c.sources)
        .collect();
    assert_eq!(sources, [&commit.sources]);
    let lineage: Lineage = app
        .get(&ada, &format!("/v1/provenance?ref=r@{}", commit.id))
        .await
        .json();
    assert_eq!(lineage.sources, commit.sources);

    // And the record's digest covers it.
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let checked = app.get(&owner, "/v1/fsck").await.ok().text();
    assert!(checked.lines().count() == 1 && checked.contains("\"ok\""), "{checked}");
    sqlx::query("update commits set sources = jsonb_set(sources, '{0,url}', '\"https://elsewhere/\"') where id = $1")
        .bind(commit.id.uuid())
        .execute(&app.plane.pool)
        .await
        .unwrap();
    let checked = app.get(&owner, "/v1/fsck").await.ok().text();
    assert!(checked.contains("does not have the digest"), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_under_a_key_is_fetched_once() {
    let web = Web::start(|asked| Reply::file(asked, b"content", "v1", 7)).await;
    let (app, ada) = app().await;
    let body = json!({ "repo": "r", "sources": [{ "url": web.url("/f") }] }).to_string();
    let mut commits = Vec::new();
    for replayed in [None, Some("true")] {
        let request = Request::post("/v1/imports")
            .header("authorization", format!("Bearer {}", ada.token))
            .header("content-type", "application/json")
            .header("idempotency-key", "k")
            .body(Body::from(body.clone()));
        let reply = app.send(request.unwrap()).await;
        assert_eq!(reply.ok().headers["content-type"], "application/x-ndjson");
        let told = reply.headers.get("idempotent-replayed").map(|v| v.to_str().unwrap());
        assert_eq!(told, replayed);
        let text = reply.text();
        let line: ImportLine = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let ImportLine::Commit { commit } = line else {
            panic!("{text}")
        };
        commits.push(serde_json::to_value(commit).unwrap());
    }
    assert_eq!(commits[0], commits[1]);
    assert_eq!(web.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let content = noise(1, 3 * MIB);
    let served = content.clone();
    let web = Web::start(move |asked| Reply::file(asked, &served, "v1", MIB + 1000)).await;
    let (app, ada) = app().await;

    let commit = fetch(&app, &ada, &web.url("/f")).await.unwrap();

    assert_eq!(commit.size_bytes, 3 * MIB as u64);
    assert!(app.cat(&ada, "r@main", "f").await.body == content);
    let asked = web.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].from(), None);
    assert!(
        asked[1].from() > Some(0) && asked[2].from() > asked[1].from(),
        "{asked:?}"
    );
    assert_eq!(asked[1].headers["if-range"], "\"v1\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_while_it_is_read_is_read_again_and_never_mixed() {
    let (old, new) = (noise(1, 2 * MIB), noise(2, 2 * MIB + 5));
    let served = (old, new.clone());
    let web = Web::start(move |asked| match asked.before {
        0 => Reply::file(asked, &served.0, "old", MIB),
        _ => Reply::file(asked, &served.1, "new", usize::MAX),
    })
    .await;
    let (app, ada) = app().await;

    let commit = fetch(&app, &ada, &web.url("/f")).await.unwrap();

    assert!(app.cat(&ada, "r@main", "f").await.body == new);
    assert_eq!(commit.sources[0].etag.as_deref(), Some("\"new\""));
    assert_eq!(commit.sources[0].size_bytes, new.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_the_condition_of_a_range_gets_no_versions_mixed() {
    let (old, new) = (noise(1, 2 * MIB), noise(2, 2 * MIB));
    let served = (old, new.clone());
    let web = Web::start(move |asked| {
        let (content, day, sent) = match asked.before {
            0 => (&served.0, "01", MIB),
            _ => (&served.1, "02", usize::MAX),
        };
        let from = asked.from().unwrap_or(0);
        let rest = &content[from..];
        let headers = [
            ("last-modified", format!("Tue, {day} Sep 2026 12:00:00 GMT")),
            ("content-length", rest.len().to_string()),
            (
                "content-range",
                format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
            ),
        ];
        let (status, headers) = match asked.from() {
            None => ("200 OK", &headers[..2]),
            Some(_) => ("206 Partial Content", &headers[..]),
        };
        Reply::new(status, headers, &rest[..sent.min(rest.len())])
    })
    .await;
    let (app, ada) = app().await;

    fetch(&app, &ada, &web.url("/f")).await.unwrap();

    assert!(app.cat(&ada, "r@main", "f").await.body == new);
    assert!(web.asked()[1].from() > Some(0), "it was not asked for the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_before_its_first_byte_is_known_by_the_version_that_was_stored() {
    let web = Web::start(move |asked| match asked.before {
        0 => Reply::file(asked, b"old old", "old", 0),
        _ => Reply::file(asked, b"new new", "new", usize::MAX),
    })
    .await;
    let (app, ada) = app().await;

    let commit = fetch(&app, &ada, &web.url("/f")).await.unwrap();

    assert_eq!(app.cat(&ada, "r@main", "f").await.text(), "new new");
    assert_eq!(commit.sources[0].etag.as_deref(), Some("\"new\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_which_nothing_tells_versions_apart_is_begun_again_and_given_up_at_last() {
    let content = noise(3, 9 * MIB);
    let served = content.clone();
    let length = content.len().to_string();
    let web = Web::start(move |asked| {
        let whole = asked.path == "/works" && asked.before == 2;
        let sent = if whole { served.len() } else { 8 * MIB };
        Reply::new("200 OK", &[("content-length", length.clone())], &served[..sent])
    })
    .await;
    let (app, ada) = app().await;
    app.put(&ada, "r", &[]).await.ok();
    let before = packs(&app);

    let why = refused(fetch(&app, &ada, &web.url("/breaks")).await, ProblemKind::SourceFailed);
    assert!(why.contains("4 times"), "{why}");
    nothing_is_left(&app, &ada, before).await;

    fetch(&app, &ada, &web.url("/works")).await.unwrap();
    assert!(app.cat(&ada, "r@main", "works").await.body == content);
    assert!(web.asked().iter().all(|asked| asked.from().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_lies_or_refuses_is_given_up_and_leaves_nothing() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/hangs" => Reply::file(asked, &[1; 1000], "v1", 10).hangs(),
        "/silent" => Reply::silence(),
        "/endless" => Reply::new("200 OK", &[], b"half"),
        "/chunks" => Reply::new(
            "200 OK",
            &[("transfer-encoding", "chunked".to_owned())],
            b"4\r\nhalf\r\n",
        ),
        "/long" => Reply::file(asked, &[1; 1000], "v1", 0),
        "/other-range" if asked.from().is_some() => Reply::new(
            "206 Partial Content",
            &[
                ("content-length", "990".to_owned()),
                ("etag", "\"v1\"".to_owned()),
                ("content-range", "bytes 5-999/1000".to_owned()),
            ],
            &[2; 990],
        ),
        "/other-range" => Reply::file(asked, &[1; 1000], "v1", 10),
        "/busy" if asked.before < 2 => {
            Reply::new("503 Service Unavailable", &[("content-length", "0".to_owned())], b"")
        }
        "/busy" => Reply::file(asked, b"at last", "v1", 7),
        _ => Reply::new("404 Not Found", &[("content-length", "0".to_owned())], b""),
    })
    .await;
    let app = App::importing(|config| {
        near(config);
        config.idle_seconds = 1;
        config.retries = 1;
    })
    .await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[]).await.ok();
    let before = packs(&app);

    for (path, why) in [
        ("/hangs", "nothing came for 1 s"),
        ("/silent", "no answer came for 1 s"),
        ("/long", "2 tries"),
        ("/other-range", "changed while it was read"),
        ("/absent", "404"),
        ("/endless", "does not say where it ends"),
        ("/chunks", "breaks off"),
    ] {
        let told = refused(fetch(&app, &ada, &web.url(path)).await, ProblemKind::SourceFailed);
        assert!(told.contains(why), "{path}: {told}");
    }
    nothing_is_left(&app, &ada, before).await;
    // Within the patience of another plane.
    let patient = App::importing(near).await;
    let bob = patient.member("bob").await;
    patient.repo(&bob, "r").await;
    fetch(&patient, &bob, &web.url("/busy")).await.unwrap();
    assert_eq!(patient.cat(&bob, "r@main", "busy").await.text(), "at last");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_not_public_is_reached() {
    let web = Web::start(|asked| Reply::file(asked, b"inside", "v1", 6)).await;
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let port = web.address.port();

    for url in [
        web.url("/"),
        web.url("/f"),
        web.named("/f"),
        format!("http://[::1]:{port}/f"),
        format!("http://[::ffff:127.0.0.1]:{port}/f"),
        format!("http://2130706433:{port}/f"),
        "http://localhost/f".to_owned(),
        "http://169.254.169.254/latest/meta-data/f".to_owned(),
        "https://ada:secret@example.org/f".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let why = refused(fetch(&app, &ada, &url).await, ProblemKind::Invalid);
        assert!(!why.contains("secret"), "{why}");
    }
    assert_eq!(web.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_a_few_times_and_never_inside() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/near" => Reply::redirect("/there?token=secret"),
        "/there?token=secret" => Reply::file(asked, b"there", "v1", 5),
        "/round" => Reply::redirect("/round"),
        "/inside" => Reply::redirect(&format!(
            "http://127.0.0.1:{}/there",
            asked.headers["host"].split(':').nth(1).unwrap()
        )),
        "/metadata" => Reply::redirect("http://169.254.169.254/latest"),
        "/elsewhere" => Reply::redirect("file:///etc/passwd"),
        _ => panic!("{asked:?}"),
    })
    .await;
    // The name may be reached, the address not.
    let app = App::importing(|config| config.allow = vec![Reach::Host("localhost".to_owned())]).await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;

    let commit = fetch(&app, &ada, &web.named("/near")).await.unwrap();
    assert_eq!(app.cat(&ada, "r@main", "near").await.text(), "there");
    assert_eq!(commit.sources[0].url, web.named("/near"));
    for path in ["/inside", "/metadata", "/elsewhere"] {
        refused(fetch(&app, &ada, &web.named(path)).await, ProblemKind::Invalid);
    }
    let why = refused(fetch(&app, &ada, &web.named("/round")).await, ProblemKind::SourceFailed);
    assert!(why.contains("more than 5 times"), "{why}");
    assert!(web.asked().iter().all(|asked| asked.path != "/there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sources_are_one_commit_or_none() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/absent" => Reply::new("404 Not Found", &[("content-length", "0".to_owned())], b""),
        path => Reply::file(asked, path.as_bytes(), "v1", 100),
    })
    .await;
    let app = App::importing(|config| {
        near(config);
        config.bytes_max = 20;
    })
    .await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let many = |paths: &[&str], to: &str| {
        let sources: Vec<Value> = paths.iter().map(|path| json!({ "url": web.url(path) })).collect();
        json!({ "repo": "r", "path": to, "sources": sources, "message": "several" })
    };

    refused(
        import(&app, &ada, many(&["/a", "/absent"], "/d")).await,
        ProblemKind::SourceFailed,
    );
    refused(
        import(&app, &ada, many(&["/x/a", "/y/a"], "/d")).await,
        ProblemKind::Invalid,
    );
    refused(import(&app, &ada, many(&[], "/d")).await, ProblemKind::Invalid);
    let long = format!("/{}", "x".repeat(30));
    refused(import(&app, &ada, many(&[&long], "/d")).await, ProblemKind::TooLarge);
    let below = json!({ "repo": "r", "sources": [{ "url": web.url("/a"), "recursive": true }] });
    refused(import(&app, &ada, below).await, ProblemKind::Invalid);
    app.get(&ada, "/v1/files?ref=r@main")
        .await
        .refused(ProblemKind::NotFound);

    let commit = import(&app, &ada, many(&["/x/a", "/y/b"], "/d")).await.unwrap();
    assert_eq!((commit.files, commit.message.as_str()), (2, "several"));
    assert_eq!(app.ls(&ada, "ref=r@main&recursive=true").await, ["/d/a", "/d/b"]);
    let exact = import(&app, &ada, many(&["/x/a"], "/d/named")).await.unwrap();
    assert_eq!(exact.sources[0].path, "/d/named");
    assert_eq!(app.cat(&ada, "r@main", "/d/named").await.text(), "/x/a");
    import(&app, &ada, many(&["/x/a"], "/d/into/")).await.unwrap();
    assert_eq!(app.cat(&ada, "r@main", "/d/into/a").await.text(), "/x/a");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_an_open_commit_come_together_and_only_readers_see_them() {
    let web = Web::start(|asked| Reply::file(asked, b"content", "v1", 7)).await;
    let (app, ada) = app().await;
    let repo: contract::api::Repo = app.get(&ada, "/v1/projects/default/repos/r").await.json();
    let (wes, eve) = (app.member("wes").await, app.member("eve").await);
    app.grant(&wes, Role::Contributor, &repo).await;
    app.repo(&ada, "secret").await;
    app.put(&ada, "secret", &[("s", b"1")]).await.ok();
    let body = json!({"from_ref": "secret@main", "from_path": "/s", "repo": "r", "path": "/s"});
    app.post(&ada, "/v1/copies", body).await.ok();

    let body = json!({ "repo": "r", "sources": [{ "url": web.url("/x") }] });
    refused(import(&app, &eve, body).await, ProblemKind::NotFound);
    app.post(&ada, "/v1/commits", json!({ "repo": "r" })).await.ok();
    fetch(&app, &ada, &web.url("/a")).await.unwrap();
    // Who may write and not read is told nothing of what others put there.
    let told = fetch(&app, &wes, &web.url("/b")).await.unwrap();
    assert_eq!((told.sources, told.files), (Vec::new(), 0));
    let uri = format!("/v1/commits/finish?ref={}", escape("r@main"));
    let commit: Commit = app.post(&ada, &uri, json!({})).await.json();

    let urls: Vec<&str> = commit.sources.iter().map(|s| s.url.as_str()).collect();
    assert_eq!(urls, [web.url("/a"), web.url("/b")]);
    assert_eq!(app.ls(&ada, "ref=r@main").await, ["/a", "/b", "/s"]);
    assert_eq!(web.asked().len(), 2);
}

async fn commits(app: &App) -> i64 {
    sqlx::query_scalar("select count(*) from commits")
        .fetch_one(&app.plane.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_pieces_is_whole_when_its_last_piece_is_there() {
    let whole = b"4\r\nhalf\r\n4\r\nhalf\r\n0\r\n\r\n";
    let web = Web::start(|_| Reply::new("200 OK", &[("transfer-encoding", "chunked".to_owned())], whole)).await;
    let (app, ada) = app().await;
    let commit = fetch(&app, &ada, &web.url("/f")).await.unwrap();
    assert_eq!(app.cat(&ada, "r@main", "f").await.text(), "halfhalf");
    assert_eq!((&commit.sources[0].etag, commit.sources[0].size_bytes), (&None, 8));
}

/// An import whose answer is not read yet.
async fn begin(app: &App, person: &Person, body: &Value) -> axum::response::Response {
    let request = axum::http::Request::post("/v1/imports")
        .header("authorization", format!("Bearer {}", person.token))
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    tower::ServiceExt::oneshot(app.router.clone(), request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_imports_of_one_person_run_at_once() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/never" => Reply::silence(),
        _ => Reply::file(asked, b"content", "v1", 7),
    })
    .await;
    let (app, ada) = app().await;
    let eve = app.member("eve").await;
    let repo: contract::api::Repo = app.get(&ada, "/v1/projects/default/repos/r").await.json();
    app.grant(&eve, Role::Contributor, &repo).await;
    let body = json!({ "repo": "r", "sources": [{ "url": web.url("/never") }] });
    let mut running = Vec::new();
    for _ in 0..RUNNING_MAX {
        let answer = begin(&app, &ada, &body).await;
        assert_eq!(answer.status(), 200);
        running.push(answer);
    }
    let one_more = begin(&app, &ada, &body).await;
    assert_eq!(one_more.status(), 429);
    assert_eq!(one_more.headers()["retry-after"], "10");
    let why = refused(fetch(&app, &ada, &web.url("/f")).await, ProblemKind::SlowDown);
    assert!(why.contains(&RUNNING_MAX.to_string()), "{why}");
    // It is nobody else's limit, and what was refused before it counts for nothing.
    import(
        &app,
        &eve,
        json!({ "repo": "r", "sources": [{ "url": web.url("/f") }] }),
    )
    .await
    .unwrap();
    for _ in 0..=RUNNING_MAX {
        refused(fetch(&app, &eve, "ftp://nothing").await, ProblemKind::Invalid);
    }
    running.pop();
    let limit = std::time::Duration::from_secs(20);
    testkit::wait::wait_until("the turn to be given back", limit, async || {
        fetch(&app, &ada, &web.url("/f")).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_gets_no_commit_and_leaves_nothing() {
    let content = noise(5, 31 * MIB);
    let web = Web::start(move |asked| Reply::file(asked, &content, "v1", 30 * MIB).hangs()).await;
    let (app, ada) = app().await;
    let before = packs(&app);
    let body = json!({ "repo": "r", "sources": [{ "url": web.url("/f") }] });
    let mut lines = begin(&app, &ada, &body).await.into_body();
    let first = http_body_util::BodyExt::frame(&mut lines).await.unwrap().unwrap();
    let first: ImportLine = serde_json::from_slice(&first.into_data().unwrap()).unwrap();
    assert!(matches!(first, ImportLine::Progress { .. }), "{first:?}");
    let limit = std::time::Duration::from_secs(60);
    testkit::wait::wait_until("a pack", limit, async || packs(&app) > before).await;

    drop(lines);

    testkit::wait::wait_until("the packs to be gone", limit, async || packs(&app) == before).await;
    assert_eq!(commits(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_right_to_write_while_a_file_is_fetched_gets_no_commit() {
    let app = App::importing(|config| {
        near(config);
        config.retries = 100;
    })
    .await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let (plane, control) = (app.plane.clone(), app.control.clone());
    let web = Web::start(move |asked| {
        if asked.before == 0 {
            control.change(|policy| policy.grants.clear());
        }
        // Until the plane has heard of it.
        if plane.policy.epoch() < control.epoch() {
            return Reply::new("503 Service Unavailable", &[("content-length", "0".to_owned())], b"");
        }
        Reply::file(asked, b"content", "v1", 7)
    })
    .await;

    refused(fetch(&app, &ada, &web.url("/f")).await, ProblemKind::NotFound);
    assert_eq!(commits(&app).await, 0);
}
