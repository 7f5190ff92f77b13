//! What happens when rights end while the plane runs, and when it cannot know of them.

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use chrono::Duration;
use contract::policy::{OrganizationState, Role};
use contract::problem::ProblemKind;
use futures::StreamExt;
use tower::ServiceExt;

use crate::app::{App, Person};

/// Puts a file at `f` that takes long to be read, and answers its size.
pub async fn put_large(app: &App, owner: &Person, repo: &str) -> usize {
    let large: Vec<u8> = (0..2_000_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    app.put(owner, repo, &[("f", &large)]).await.ok();
    large.len()
}

/// A read that is under way.
pub struct Reading {
    stream: BodyDataStream,
    read: usize,
}

impl Reading {
    /// Begins to read `f`.
    pub async fn begin(app: &App, reader: &Person, repo: &str) -> Self {
        let request = Request::get(format!("/v1/content?ref={repo}&path=f"))
            .header(header::AUTHORIZATION, format!("Bearer {}", reader.token))
            .body(Body::empty())
            .unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        let mut stream = response.into_body().into_data_stream();
        let first = stream.next().await.unwrap().unwrap();
        Self {
            stream,
            read: first.len(),
        }
    }

    /// Reads on until it is cut, and answers how many bytes came before.
    pub async fn until_cut(mut self) -> usize {
        let end = loop {
            match self.stream.next().await {
                Some(Ok(bytes)) => self.read += bytes.len(),
                other => break other,
            }
        };
        assert!(matches!(end, Some(Err(_))), "the stream was cut");
        self.read
    }
}

#[tokio::test]
async fn revoking_a_grant_ends_reads_and_cuts_open_streams() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    let size = put_large(&app, &ada, "r").await;
    let grant = app.grant(&bob, Role::Viewer, &repo).await;
    let reading = Reading::begin(&app, &bob, "r").await;
    app.revoke(grant).await;
    assert!(reading.until_cut().await < size);
    app.cat(&bob, "r", "f").await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn a_request_that_names_an_epoch_is_decided_by_that_policy_or_a_newer_one() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", b"1")]).await.ok();
    let grant = app.grant(&bob, Role::Viewer, &repo).await;
    let epoch = app.control.change(|s| s.grants.retain(|g| g.id != grant));
    let request = Request::get("/v1/content?ref=r&path=f")
        .header(header::AUTHORIZATION, format!("Bearer {}", bob.token))
        .header("howdah-epoch", epoch.to_string())
        .body(Body::empty())
        .unwrap();
    app.send(request).await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn without_word_from_the_control_plane_everything_is_denied_until_it_is_back() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", b"1")]).await.ok();
    app.control.set_away(true);
    app.environment.advance(Duration::seconds(59));
    app.cat(&ada, "r", "f").await.ok();
    app.environment.advance(Duration::seconds(2));
    let reply = app.cat(&ada, "r", "f").await;
    reply.refused(ProblemKind::PolicyUnreachable);
    assert!(reply.headers.contains_key("retry-after"));
    app.control.set_away(false);
    app.caught_up().await;
    app.cat(&ada, "r", "f").await.ok();
}

#[tokio::test]
async fn the_policy_never_goes_back_and_survives_a_restart() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let old = app.plane.policy.last_known().unwrap().snapshot().clone();
    let bob = app.member("bob").await;
    assert!(!app.plane.policy.install(old));
    assert!(app.plane.policy.last_known().unwrap().member(bob.principal).is_some());

    let storage = app.plane.storage.clone();
    let again = data_plane::plane::Plane::new(app.plane.config.clone(), storage, app.environment.clone()).unwrap();
    assert!(again.policy.load().unwrap());
    assert_eq!(again.policy.epoch(), app.plane.policy.epoch());
    assert!(
        again.policy.current(app.environment.now()).is_err(),
        "it counts once the control plane was heard of"
    );
}

#[tokio::test]
async fn a_revocation_counts_though_the_disk_does_not_take_it() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", b"1")]).await.ok();
    let grant = app.grant(&bob, Role::Viewer, &repo).await;
    std::fs::remove_dir_all(&app.plane.config.home).unwrap();
    app.revoke(grant).await;
    app.cat(&bob, "r", "f").await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_let_the_policy_live_longer() {
    let app = App::start().await;
    let now = app.plane.now();
    assert!(app.plane.policy.current(now).is_ok());
    assert!(app.plane.policy.current(now - Duration::seconds(5)).is_err());
}

#[tokio::test]
async fn a_suspended_organization_and_a_revoked_token_are_told_so() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let token = ada.claims.token;
    app.control.change(|s| s.state = OrganizationState::Suspended);
    app.caught_up().await;
    app.get(&ada, "/v1/repos")
        .await
        .refused(ProblemKind::OrganizationSuspended);
    app.control.change(|s| {
        s.state = OrganizationState::Active;
        s.revoked_tokens.push(token);
    });
    app.caught_up().await;
    app.get(&ada, "/v1/repos").await.refused(ProblemKind::SignedOut);
}
