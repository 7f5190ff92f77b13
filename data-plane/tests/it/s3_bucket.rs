//! A plane whose bytes lie in an S3 bucket: everything that reads and writes them, over HTTP.

use std::path::PathBuf;

use axum::http::StatusCode;
use contract::config::{CacheConfig, StoreConfig};
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde_json::json;

use crate::app::{App, escape};
use crate::imports::import;
use crate::room::noise;
use crate::s3::{BUCKET, KEY, SECRET, Server};
use crate::web::{Reply, Web};

async fn objects(server: &Server) -> usize {
    let all: Vec<_> = server.client().list(None).try_collect().await.unwrap();
    all.len()
}

/// The bucket of this server, with a cache in a directory.
pub fn bucket_of(server: &Server, cache: PathBuf) -> StoreConfig {
    StoreConfig::S3 {
        bucket: BUCKET.to_owned(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        access_key_id: KEY.to_owned(),
        secret_access_key: SECRET.to_owned(),
        temporary: None,
        cache: Some(CacheConfig {
            directory: cache,
            most_bytes: None,
        }),
        public_endpoint: None,
        direct: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_works_on_a_bucket_as_on_a_directory() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let app = App::on_store(bucket_of(&server, cache.path().join("packs"))).await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let large = noise(1, 40 << 20);
    app.put(
        &ada,
        "r",
        &[("d/large", &large), ("d/small", b"small"), ("other", b"other")],
    )
    .await
    .ok();

    for _ in 0..2 {
        assert!(app.cat(&ada, "r@main", "d/large").await.ok().body == large);
    }
    let kept = std::fs::read_dir(cache.path().join("packs")).unwrap().count();
    assert!(kept > 1, "nothing is kept on local disk");
    let part = app
        .send(
            axum::http::Request::get(format!("/v1/content?ref={}&path=d/large", escape("r@main")))
                .header("authorization", format!("Bearer {}", ada.token))
                .header("range", "bytes=30000000-30000009")
                .body(axum::body::Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body[..], large[30_000_000..30_000_010]);
    assert_eq!(
        app.ls(&ada, "ref=r@main&recursive=true").await,
        ["/d/large", "/d/small", "/other"]
    );
    let archive = app.get(&ada, "/v1/archive?ref=r@main&path=/d").await.ok().body.len();
    assert!(archive > large.len());

    // What is refused is taken back.
    let before = objects(&server).await;
    let refused = app.put(&ada, "r", &[("other/below", &noise(2, 9 << 20))]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let limit = std::time::Duration::from_secs(20);
    testkit::wait::wait_until("the packs to be gone", limit, async || objects(&server).await == before).await;

    // And what a deleted repo held is collected.
    app.repo(&ada, "gone").await;
    app.put(&ada, "gone", &[("f", &noise(3, 9 << 20))]).await.ok();
    app.delete(&ada, "/v1/projects/default/repos/gone?force=true")
        .await
        .ok();
    for freed in [false, true] {
        let report = data_plane::garbage::collect(&app.plane, std::time::Duration::ZERO, false)
            .await
            .unwrap();
        assert_eq!(report.freed_bytes > 9 << 20, freed, "{report:?}");
    }
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let checked = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(checked.lines().count() == 1 && checked.contains("\"ok\""), "{checked}");
}

/// A plane that may read this server's bucket, and somebody with a repo.
pub async fn importer(server: &Server) -> (App, crate::app::Person, serde_json::Value) {
    let app = App::importing(|config| {
        config.allow = vec!["127.0.0.1".parse().unwrap()];
        config.retry_milliseconds = 1;
        config.retries = 1;
    })
    .await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let access = json!({ "access_key_id": KEY, "secret_access_key": SECRET, "endpoint": server.endpoint() });
    (app, ada, access)
}

/// What is asked for to import a key, or what is below it, into `/in`.
pub fn from_bucket(key: &str, recursive: bool, access: &serde_json::Value) -> serde_json::Value {
    let source = json!({ "url": format!("s3://{BUCKET}/{key}"), "recursive": recursive });
    json!({ "repo": "r", "path": "/in/", "sources": [source], "s3": access })
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_bucket_are_imported_one_by_one_or_everything_below_a_prefix() {
    let server = Server::start().await;
    let bucket = server.client();
    let large = noise(4, 12 << 20);
    let put = async |key: &str, bytes: Vec<u8>| {
        bucket.put(&key.into(), bytes.into()).await.unwrap();
    };
    put("d/large", large.clone()).await;
    for n in 0..1_200 {
        put(&format!("d/many/{n:04}"), n.to_string().into_bytes()).await;
    }
    put("dd/beside", b"1".to_vec()).await;
    let (app, ada, access) = importer(&server).await;

    let one = import(&app, &ada, from_bucket("d/large", false, &access))
        .await
        .unwrap();
    assert!(app.cat(&ada, "r@main", "in/large").await.ok().body == large);
    let [source] = &one.sources[..] else { panic!("{one:?}") };
    assert_eq!(
        (source.url.as_str(), source.path.as_str()),
        ("s3://packs/d/large", "/in/large")
    );
    assert!(source.etag.is_some() && source.version.is_some());

    let all = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    assert_eq!(all.files, 1_201);
    assert_eq!(app.cat(&ada, "r@main", "in/many/0999").await.text(), "999");
    let [source] = &all.sources[..] else { panic!("{all:?}") };
    assert_eq!(
        (source.url.as_str(), source.path.as_str(), source.files),
        ("s3://packs/d/", "/in", 1_201)
    );
    // The same again is the same, which the digest of names and tags tells.
    let again = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    assert_eq!((&again.digest, &again.sources[0].etag), (&all.digest, &source.etag));
    put("d/many/0000", b"other".to_vec()).await;
    let changed = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    assert_ne!(changed.sources[0].etag, source.etag);
    // The keys are nowhere in the answer.
    assert!(!serde_json::to_string(&changed).unwrap().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_very_many_objects_below_a_prefix_few_are_in_memory_and_what_comes_of_it_is_the_same() {
    let server = Server::start().await;
    let files = 1_100;
    for n in 0..files {
        let key = format!("d/{n:04}");
        server
            .client()
            .put(&key.as_str().into(), key.clone().into())
            .await
            .unwrap();
    }
    let (app, ada, access) = importer(&server).await;
    let all = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();

    // The more are written at once, the less each may hold.
    let crowd: Vec<_> = (0..100).map(|_| app.plane.storage.writer()).collect();
    assert!(data_plane::files::change::held_most(&app.plane.storage) < files);
    app.delete(&ada, "/v1/files?repo=r&path=in").await.ok();
    let crowded = import(&app, &ada, from_bucket("d/", true, &access)).await.unwrap();
    assert_eq!((crowded.files, &crowded.digest), (files as u64, &all.digest));
    assert_eq!(crowded.sources[0].etag, all.sources[0].etag);
    assert_eq!(app.cat(&ada, "r@main", "in/0001").await.text(), "d/0001");

    server.client().put(&"e/f".into(), "e".into()).await.unwrap();
    let mut twice = from_bucket("e/", true, &access);
    let source = twice["sources"][0].clone();
    twice["sources"].as_array_mut().unwrap().push(source);
    let refused = import(&app, &ada, twice.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ProblemKind::Invalid), "{refused:?}");
    twice["append"] = true.into();
    twice["path"] = "/both/".into();
    let both = import(&app, &ada, twice).await.unwrap();
    assert_eq!((both.files, both.sources.len()), (files as u64 + 1, 2));
    assert_eq!(app.cat(&ada, "r@main", "both/f").await.text(), "ee");
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_not_read_without_its_keys_nor_from_where_nobody_may_go() {
    let server = Server::start().await;
    server.client().put(&"f".into(), "1".into()).await.unwrap();
    let (app, ada, access) = importer(&server).await;
    let with = |name: &str, value: &str| {
        let mut access = access.clone();
        access[name] = value.into();
        access
    };
    let port = server.endpoint().rsplit(':').next().unwrap().to_owned();
    for (key, recursive, access, kind) in [
        ("absent", false, access.clone(), ProblemKind::SourceFailed),
        ("absent/", true, access.clone(), ProblemKind::SourceFailed),
        ("f", true, access.clone(), ProblemKind::Invalid),
        ("", false, access.clone(), ProblemKind::Invalid),
        (
            "f",
            false,
            with("secret_access_key", "wrong"),
            ProblemKind::SourceFailed,
        ),
        (
            "f",
            false,
            json!({ "endpoint": server.endpoint() }),
            ProblemKind::SourceFailed,
        ),
        ("f", false, json!({ "access_key_id": KEY }), ProblemKind::Invalid),
        ("f", false, with("region", "x@127.0.0.1/"), ProblemKind::Invalid),
        (
            "f",
            false,
            with("endpoint", "http://169.254.169.254"),
            ProblemKind::Invalid,
        ),
        ("f", false, with("endpoint", "http://127.0.0.2"), ProblemKind::Invalid),
        ("f", false, with("endpoint", "file:///etc"), ProblemKind::Invalid),
        (
            "f",
            false,
            with("endpoint", &format!("http://localhost:{port}")),
            ProblemKind::Invalid,
        ),
    ] {
        let problem = import(&app, &ada, from_bucket(key, recursive, &access))
            .await
            .unwrap_err();
        assert_eq!(problem.kind(), Some(kind), "{key} {access} {problem:?}");
        assert!(!format!("{problem:?}").contains(SECRET));
    }
    app.get(&ada, "/v1/files?ref=r@main")
        .await
        .refused(ProblemKind::NotFound);
    import(&app, &ada, from_bucket("f", false, &access)).await.unwrap();

    // A name that stands for what may not be reached is noticed when it is connected to.
    let closed = App::start().await;
    let bob = closed.member("bob").await;
    closed.repo(&bob, "r").await;
    let named = from_bucket("f", false, &with("endpoint", "http://localhost"));
    let problem = import(&closed, &bob, named).await.unwrap_err();
    assert_eq!(problem.kind(), Some(ProblemKind::Invalid), "{problem:?}");
}

/// A page of a bucket's list: key and size.
fn list(objects: &[(&str, usize)]) -> String {
    let rows: String = objects
        .iter()
        .map(|(key, size)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-09-01T12:00:00.000Z</LastModified>\
                 <ETag>&quot;v1&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        })
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>open</Name><KeyCount>{}</KeyCount>\
         <MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>",
        objects.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_for_everybody_is_read_without_keys_and_resumed_where_it_breaks() {
    let large = noise(6, 3 << 20);
    let served = large.clone();
    let web = Web::start(move |asked| {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        assert!(!asked.headers.contains_key("authorization"));
        match path {
            "/open" => {
                assert!(query.contains("prefix=d"), "{query}");
                let page = list(&[
                    ("d/", 0),
                    ("d/a b+c%20\u{fc}#.txt", 5),
                    ("d/empty/", 0),
                    ("d/in/", 0),
                    ("d/in/x", 5),
                    ("d/large", 3 << 20),
                ]);
                let length = ("content-length", page.len().to_string());
                Reply::new("200 OK", &[length], page.as_bytes())
            }
            "/open/d/large" => Reply::file(asked, &served, "v1", (1 << 20) + 77),
            "/open/d/in/x" => Reply::file(asked, b"below", "v1", 5),
            "/open/d/a%20b%2Bc%2520%C3%BC%23.txt" => Reply::file(asked, b"small", "v1", 5),
            _ => Reply::new("404 Not Found", &[("content-length", "0".to_owned())], b""),
        }
    })
    .await;
    let app = App::importing(|config| {
        config.allow = vec!["127.0.0.1".parse().unwrap()];
        config.retry_milliseconds = 1;
    })
    .await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let source = json!({ "url": "s3://open/d/", "recursive": true });
    let body = json!({ "repo": "r", "sources": [source], "s3": { "endpoint": web.url("") } });

    let commit = import(&app, &ada, body).await.unwrap();

    // What marks directories is no file.
    assert_eq!(commit.files, 3);
    let listed = app.ls(&ada, "ref=r@main&recursive=true").await;
    assert_eq!(listed, ["/a b+c%20\u{fc}#.txt", "/in/x", "/large"]);
    assert!(app.cat(&ada, "r@main", "large").await.ok().body == large);
    let resumed: Vec<_> = web.asked().into_iter().filter(|asked| asked.from().is_some()).collect();
    assert!(!resumed.is_empty() && resumed.iter().all(|asked| asked.headers["if-match"] == "\"v1\""));
}
