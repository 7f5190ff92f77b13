//! A plane whose bytes lie in an S3 bucket: everything that reads and writes them, over HTTP.

use axum::http::StatusCode;
use contract::config::StoreConfig;
use contract::policy::OrganizationRole;
use futures::TryStreamExt;

use crate::app::{App, escape};
use crate::room::noise;
use crate::s3::{BUCKET, KEY, SECRET, Server};

async fn objects(server: &Server) -> usize {
    let all: Vec<_> = server.client().list(None).try_collect().await.unwrap();
    all.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_works_on_a_bucket_as_on_a_directory() {
    let server = Server::start().await;
    let app = App::on_store(StoreConfig::S3 {
        bucket: BUCKET.to_owned(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        access_key_id: KEY.to_owned(),
        secret_access_key: SECRET.to_owned(),
    })
    .await;
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

    assert!(app.cat(&ada, "r@main", "d/large").await.ok().body == large);
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
