//! Signing keys: two published, rotated by age and by hand, retired ones believed until nothing lives that they signed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Duration;
use control_plane::keys::{Keyring, Withdrawn};
use serde_json::{Value, json};

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

/// An operator, in another process.
async fn withdraw(app: &TestApp, kid: &str) -> anyhow::Result<Withdrawn> {
    control_plane::keys::withdraw(&app.app.pool, &app.app.vault, &app.environment, kid).await
}

/// What every process that serves does each second.
async fn refresh(app: &TestApp) {
    let service = &app.app;
    let refreshed = service.keys.refresh(&service.pool, &service.vault, &app.environment);
    refreshed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stolen_key_is_believed_no_more_at_once_and_sessions_and_api_tokens_stay() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let pat = app
        .post("/v1/tokens", &org.owner.token, json!({ "name": "mine" }))
        .await;
    let pat = pat.ok(201)["secret"].as_str().unwrap().to_owned();
    let old = app.access_token(&org, &org.owner).await;
    let (stolen, before) = (kid(&old), published(&app).await);
    let epoch = app.snapshot(&org).await.epoch;
    app.get("/o/acme/v1/repos", &old).await.ok(200);

    let done = withdraw(&app, &stolen).await.unwrap();
    assert_eq!((&done.withdrawn, done.organizations), (&stolen, 1));
    refresh(&app).await;
    let after = published(&app).await;
    assert!(!after.contains(&stolen) && after.len() == 2, "{after:?}");
    app.get("/o/acme/v1/repos", &old).await.problem(401, "signed-out");
    // Nobody knew the new one before: planes of the version before read the published keys again when they meet it.
    let new = app.access_token(&org, &org.owner).await;
    assert!(kid(&new) == done.signs && !before.contains(&done.signs));
    app.get("/o/acme/v1/repos", &new).await.ok(200);
    app.get("/v1/account", &org.owner.token).await.ok(200);
    app.get("/v1/account", &pat).await.ok(200);
    // The policy is signed anew, under a higher epoch.
    assert_eq!(app.snapshot(&org).await.epoch, epoch + 1);
    let trail = app
        .get(&org.path("audit?action=signing_key"), &org.owner.token)
        .await
        .ok(200);
    let subject = trail["items"][0]["subject"].as_str().unwrap();
    assert!(subject.contains(&stolen) && subject.contains("stolen"), "{subject}");
    // Looking again, rotating and restarting do not bring it back.
    keep(&app).await;
    control_plane::keys::rotate(&app.app.pool, &app.app.vault, &app.environment)
        .await
        .unwrap();
    refresh(&app).await;
    let again = Keyring::open(&app.app.pool, &app.app.vault, &app.environment)
        .await
        .unwrap();
    assert!(!again.jwks().to_string().contains(&stolen));
    app.get("/o/acme/v1/repos", &old).await.problem(401, "signed-out");
    app.get("/o/acme/v1/repos", &new).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn any_published_key_can_be_withdrawn_and_no_other() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let old = app.access_token(&org, &org.owner).await;
    let next = published(&app).await.into_iter().find(|id| *id != kid(&old)).unwrap();
    let epoch = app.snapshot(&org).await.epoch;
    let refused = withdraw(&app, "0123456789abcdef").await.unwrap_err().to_string();
    assert!(refused.contains(&next) && refused.contains(&kid(&old)), "{refused}");
    assert_eq!(app.snapshot(&org).await.epoch, epoch);
    // The next one, which has signed nothing yet: what the one before it signed is good.
    withdraw(&app, &next).await.unwrap();
    refresh(&app).await;
    app.get("/o/acme/v1/repos", &old).await.ok(200);
    let new = app.access_token(&org, &org.owner).await;
    // A retired one.
    withdraw(&app, &kid(&old)).await.unwrap();
    refresh(&app).await;
    app.get("/o/acme/v1/repos", &old).await.problem(401, "signed-out");
    app.get("/o/acme/v1/repos", &new).await.ok(200);
    assert!(withdraw(&app, &kid(&old)).await.is_err());
    let left = published(&app).await;
    assert!(!left.contains(&next) && left.contains(&kid(&new)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn planes_are_told_newer_keys_by_the_poll_that_they_wait_in() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let agent = app.agent(&org).await;
    let poll = async |query: String| app.get(&org.internal(&format!("policy?{query}")), &agent).await.ok(200);
    let first = poll("after=0&keys=0".to_owned()).await;
    let (epoch, version) = (&first["epoch"], first["keys"]["version"].as_u64().unwrap());
    assert_eq!(first["keys"]["keys"].as_array().unwrap().len(), 2);
    let known = poll(format!("after={epoch}&keys={version}")).await;
    assert!(known["keys"].is_null() && known["signed_snapshot"].is_null(), "{known}");
    // One of the version before does not ask, and is told none; one that knows more than this process is told nothing older.
    assert!(poll("after=0".to_owned()).await["keys"].is_null());
    assert!(poll(format!("after=0&keys={}", version + 1)).await["keys"].is_null());

    let stolen = published(&app).await.remove(0);
    let waiting = poll(format!("after={epoch}&keys={version}&wait_seconds=30"));
    let (told, ()) = tokio::join!(waiting, async {
        withdraw(&app, &stolen).await.unwrap();
        refresh(&app).await;
    });
    assert!(told["keys"]["version"].as_u64().unwrap() > version, "{told}");
    assert!(!told["keys"].to_string().contains(&stolen));
    let signed = poll(format!("after={epoch}&keys={version}")).await;
    let signed = signed["signed_snapshot"].as_str().unwrap();
    assert!(told["keys"].to_string().contains(&kid(signed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_epoch_that_a_withdrawal_raises_is_signed_by_the_key_that_came_with_it() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let agent = app.agent(&org).await;
    let poll = async |query: String| app.get(&org.internal(&format!("policy?{query}")), &agent).await.ok(200);
    let first = poll("after=0&keys=0".to_owned()).await;
    let (epoch, version) = (&first["epoch"], &first["keys"]["version"]);
    let stolen = kid(first["signed_snapshot"].as_str().unwrap());
    // Another process withdraws; this one sees the epoch before it looks after its keys.
    let done = withdraw(&app, &stolen).await.unwrap();
    let told = poll(format!("after={epoch}&keys={version}")).await;
    assert_eq!(kid(told["signed_snapshot"].as_str().unwrap()), done.signs);
    let keys = told["keys"].to_string();
    assert!(keys.contains(&done.signs) && !keys.contains(&stolen), "{keys}");
}
