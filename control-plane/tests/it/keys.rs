//! Signing keys: two published, rotated by age and by hand, retired ones believed until nothing lives that they signed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Duration;
use serde_json::Value;

use crate::app::TestApp;

async fn published(app: &TestApp) -> Vec<String> {
    let set = app.get("/.well-known/jwks.json", "").await.ok(200);
    let all = set["keys"].as_array().unwrap().iter();
    all.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn keep(app: &TestApp) {
    let service = &app.app;
    service
        .keys
        .keep(&service.pool, &service.vault, &app.environment)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_next_key_is_published_before_it_signs_and_the_last_one_as_long_as_anything_it_signed_lives() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let before = published(&app).await;
    assert_eq!(before.len(), 2);
    let old = app.access_token(&org, &org.owner).await;
    assert!(before.contains(&kid(&old)));
    // An operator, in another process.
    app.environment.advance(Duration::seconds(1));
    control_plane::keys::rotate(&app.app.pool, &app.app.vault, &app.environment)
        .await
        .unwrap();
    assert_eq!(kid(&app.access_token(&org, &org.owner).await), kid(&old));
    keep(&app).await;
    let new = app.access_token(&org, &org.owner).await;
    assert!(kid(&new) != kid(&old) && before.contains(&kid(&new)));
    let after = published(&app).await;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|kid| after.contains(kid)));
    for token in [&old, &new] {
        app.get("/o/acme/v1/repos", token).await.ok(200);
    }
    assert_eq!(app.snapshot(&org).await.organization, org.id);
    app.environment.advance(Duration::hours(25));
    keep(&app).await;
    let left = published(&app).await;
    assert!(left.len() == 2 && !left.contains(&kid(&old)) && left.contains(&kid(&new)));
    app.get("/o/acme/v1/repos", &old).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_signs_for_a_month_and_processes_that_look_at_once_agree() {
    let app = TestApp::start().await;
    let before = published(&app).await;
    app.environment.advance(Duration::days(29));
    keep(&app).await;
    assert_eq!(published(&app).await, before);
    app.environment.advance(Duration::days(1));
    tokio::join!(keep(&app), keep(&app));
    keep(&app).await;
    let after = published(&app).await;
    assert_eq!((after.len(), &after[..2].len()), (3, &2));
    assert!(before.iter().all(|kid| after.contains(kid)));
}
