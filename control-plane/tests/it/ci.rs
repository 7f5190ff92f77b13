//! Runs of CI systems that exchange their OIDC tokens: what is believed, what lets whom in, and what is refused, always alike.

use chassis::signed::Verifier;
use chrono::Duration;
use contract::ci::CiProvider;
use control_plane::rate_limits::RateLimits;
use serde_json::{Value, json};

use crate::app::{Answer, Org, TestApp};
use crate::ci_issuer::{FakeIssuer, Key, github, gitlab};

pub const AUDIENCE: &str = "howdah-acme";

/// An organization that trusts runs of `acme/tiles` on GitHub.
pub struct Rig {
    pub issuer: FakeIssuer,
    pub app: TestApp,
    pub org: Org,
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_telling(RateLimits::default()).await
    }

    pub async fn start_telling(limits: RateLimits) -> Self {
        let issuer = FakeIssuer::start(CiProvider::Github, &[Key::first()]).await;
        let app = TestApp::start_telling(limits, vec![issuer.config()]).await;
        let org = organization(&app, "acme").await;
        let rig = Self { issuer, app, org };
        rig.trust(
            "tiles",
            json!({ "owner_id": "65", "repository_id": "74", "environment": "production", "ref": "refs/heads/main" }),
        )
        .await
        .ok(201);
        rig
    }

    async fn trust(&self, name: &str, conditions: Value) -> Answer {
        let body = json!({
            "name": name, "issuer": self.issuer.url, "audience": AUDIENCE, "service_account": "ci",
            "conditions": conditions, "scopes": ["write:default/tiles"],
        });
        self.app
            .post(&self.org.path("ci-trusts"), &self.org.owner.token, body)
            .await
    }

    pub fn now(&self) -> i64 {
        self.app.environment.now().timestamp()
    }

    pub fn claims(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut claims = github(&self.issuer.url, AUDIENCE, self.now());
        change(&mut claims);
        claims
    }

    pub async fn exchange(&self, token: &str) -> Answer {
        let body = json!({ "organization": "acme", "token": token });
        self.app.post("/v1/token-exchange", "", body).await
    }

    async fn audited(&self, action: &str) -> Vec<String> {
        sqlx::query_scalar("select subject from audit_events where action = $1 order by seq")
            .bind(action)
            .fetch_all(&self.app.app.pool)
            .await
            .unwrap()
    }

    /// The reasons that the audit trail gives, once there are so many.
    pub async fn reasons(&self, count: usize) -> Vec<String> {
        loop {
            let found = self.audited("token.exchange_refused").await;
            if found.len() >= count {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The least that a trust of `acme/tiles` says.
fn named() -> Value {
    json!({ "owner_id": "65", "claims": { "repository": "acme/tiles" }, "ref": "refs/heads/main" })
}

pub async fn organization(app: &TestApp, name: &str) -> Org {
    let org = app.organization(name).await;
    app.post(&org.path("service-accounts"), &org.owner.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    org
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_run_that_its_issuer_vouches_for_acts_as_the_service_account_for_a_quarter_of_an_hour() {
    let rig = Rig::start().await;
    let made = rig.exchange(&Key::first().sign(&rig.claims(|_| ()))).await.ok(201);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("hwd_ci_"));
    assert_eq!(made["expires_at"], "2026-11-23T12:15:30Z");
    assert_eq!(made["scopes"], json!(["write:default/tiles"]));
    assert_eq!(rig.app.get("/v1/account", token).await.ok(200)["name"], "ci");

    let access = rig.app.post("/v1/access-tokens", token, json!({})).await.ok(200);
    let audience = contract::claims::plane_audience(rig.org.id);
    let verifier = Verifier::new(rig.app.app.keys.jwks(), &rig.app.url, &audience).unwrap();
    let claims = verifier
        .access(access["access_token"].as_str().unwrap(), rig.now())
        .unwrap();
    let run = claims.ci.unwrap();
    assert_eq!(json!(run), made["identity"]);
    assert_eq!(
        run.to_string(),
        "github acme/tiles run 30433642, refs/heads/main at 10f2e6dbc1c6a7a5c6f3, environment production, set off by ada"
    );
    assert_eq!(
        (run.owner_id.as_deref(), run.repository_id.as_deref()),
        (Some("65"), Some("74"))
    );
    assert_eq!(claims.scopes[0].to_string(), "write:default/tiles");

    let told = rig.audited("token.exchange").await;
    assert!(
        told[0].contains("by the trust tiles: github acme/tiles run 30433642"),
        "{told:?}"
    );
    rig.app.environment.advance(Duration::minutes(15));
    rig.app.get("/v1/account", token).await.problem(401, "token-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_runs_token_is_exchanged_once_however_often_and_at_once_it_is_sent() {
    let rig = Rig::start().await;
    let token = Key::first().sign(&rig.claims(|_| ()));
    let (one, two) = tokio::join!(rig.exchange(&token), rig.exchange(&token));
    let mut found = [one.status, two.status];
    found.sort_unstable();
    assert_eq!(found, [201, 401], "{} {}", one.text, two.text);
    rig.exchange(&token).await.problem(401, "signed-out");
    // Another token of the same `jti` is the same one.
    let again = rig.claims(|claims| claims["sha"] = json!("another"));
    rig.exchange(&Key::first().sign(&again))
        .await
        .problem(401, "signed-out");
    let reasons = rig.reasons(3).await;
    assert!(
        reasons.iter().all(|reason| reason.contains("used before")),
        "{reasons:?}"
    );
    // One without a `jti` is known by what was signed.
    let bare = rig.claims(|claims| {
        claims.as_object_mut().unwrap().remove("jti");
    });
    let bare = Key::first().sign(&bare);
    rig.exchange(&bare).await.ok(201);
    rig.exchange(&bare).await.problem(401, "signed-out");
    // What is kept of it goes when nothing believes it any more.
    let left = || async {
        let now = rig.app.environment.now();
        let proof = control_plane::authz::System::because("a test");
        control_plane::token_exchange::forget_expired(&rig.app.app.pool, &proof, now)
            .await
            .unwrap();
        let (left,): (i64,) = sqlx::query_as("select count(*) from ci_spent")
            .fetch_one(&rig.app.app.pool)
            .await
            .unwrap();
        left
    };
    rig.app.environment.advance(Duration::seconds(329));
    assert_eq!(left().await, 2);
    rig.app.environment.advance(Duration::seconds(2));
    assert_eq!(left().await, 0);
    rig.exchange(&token).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_rotate_and_are_read_again_once_a_minute_at_most() {
    let rig = Rig::start().await;
    let (first, second) = (Key::first(), Key::second());
    let token = |key: &Key, jti: &str| key.sign(&rig.claims(|claims| claims["jti"] = json!(jti)));
    rig.exchange(&token(&first, "1")).await.ok(201);
    rig.issuer.publish(&[first.clone(), second.clone()]);
    // Within the minute nobody makes us read them again, whatever he sends.
    for jti in ["2", "3"] {
        rig.exchange(&token(&second, jti)).await.problem(401, "signed-out");
    }
    assert_eq!(rig.issuer.reads(), 1);
    rig.app.environment.advance(Duration::seconds(60));
    rig.exchange(&token(&second, "4")).await.ok(201);
    rig.exchange(&token(&first, "5")).await.ok(201);
    assert_eq!(rig.issuer.reads(), 2);
    // A key that was withdrawn is believed for an hour at most.
    rig.issuer.publish(std::slice::from_ref(&second));
    rig.app.environment.advance(Duration::minutes(61));
    rig.exchange(&token(&first, "6")).await.problem(401, "signed-out");
    rig.exchange(&token(&second, "7")).await.ok(201);
    // An issuer that is away is believed by the keys that are known, for a day.
    rig.issuer.go_away();
    rig.app.environment.advance(Duration::hours(23));
    rig.exchange(&token(&second, "8")).await.ok(201);
    rig.app.environment.advance(Duration::hours(2));
    rig.exchange(&token(&second, "9")).await.problem(503, "overloaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_issuer_that_does_not_say_who_it_is_or_leads_elsewhere_is_not_believed() {
    let rig = Rig::start().await;
    let token = Key::first().sign(&rig.claims(|_| ()));
    rig.issuer.call_itself("https://another.test");
    rig.exchange(&token).await.problem(503, "overloaded");
    rig.issuer.call_itself(&rig.issuer.url);
    rig.issuer.redirect();
    rig.app.environment.advance(Duration::seconds(6));
    rig.exchange(&token).await.problem(503, "overloaded");
    assert_eq!(rig.issuer.reads(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_are_too_short_are_not_believed_and_elliptic_ones_are() {
    let issuer = FakeIssuer::start(CiProvider::Generic, &[Key::weak(), Key::elliptic()]).await;
    let app = TestApp::start_allowing(vec![issuer.config()]).await;
    let org = organization(&app, "acme").await;
    let body = json!({
        "name": "build", "issuer": issuer.url, "audience": AUDIENCE, "service_account": "ci",
        "conditions": { "claims": { "sub": "pipeline:tiles:*", "protected": "true" } }, "life_minutes": 5,
    });
    app.post(&org.path("ci-trusts"), &org.owner.token, body).await.ok(201);
    let now = app.environment.now().timestamp();
    let claims = |sub: &str| json!({ "iss": issuer.url, "aud": AUDIENCE, "sub": sub, "iat": now, "exp": now + 60, "protected": true });
    let exchange = |token: String| {
        app.post_owned(
            "/v1/token-exchange".to_owned(),
            String::new(),
            json!({ "organization": "acme", "token": token }),
        )
    };
    exchange(Key::weak().sign(&claims("pipeline:tiles:7")))
        .await
        .problem(401, "signed-out");
    exchange(Key::elliptic().sign(&claims("pipeline:other:7")))
        .await
        .problem(401, "signed-out");
    let made = exchange(Key::elliptic().sign(&claims("pipeline:tiles:7")))
        .await
        .ok(201);
    assert_eq!(made["identity"]["subject"], "pipeline:tiles:7");
    assert_eq!(made["expires_at"], "2026-11-23T12:05:30Z");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_of_gitlab_is_known_by_the_id_of_its_namespace() {
    let issuer = FakeIssuer::start(CiProvider::Gitlab, &[Key::first()]).await;
    let app = TestApp::start_allowing(vec![issuer.config()]).await;
    let org = organization(&app, "acme").await;
    let body = json!({
        "name": "site", "issuer": issuer.url, "service_account": "ci",
        "conditions": {
            "owner_id": "9970", "repository_id": "278964", "ref": "refs/heads/*", "environment": "production",
            "workflow": "gitlab.test/acme/site//.gitlab-ci.yml@refs/heads/main", "claims": { "ref_protected": "true" },
        },
    });
    let trust = app.post(&org.path("ci-trusts"), &org.owner.token, body).await.ok(201);
    let audience = trust["audience"].as_str().unwrap();
    assert_eq!(audience, format!("{}/o/acme", app.url));
    let now = app.environment.now().timestamp();
    let exchange = |change: fn(&mut Value)| {
        let mut claims = gitlab(&issuer.url, audience, now);
        change(&mut claims);
        let token = Key::first().sign(&claims);
        app.post_owned(
            "/v1/token-exchange".to_owned(),
            String::new(),
            json!({ "organization": "acme", "token": token }),
        )
    };
    // A namespace that was given up and taken by somebody else has another id.
    exchange(|c| c["namespace_id"] = json!("9971"))
        .await
        .problem(401, "signed-out");
    exchange(|c| c["ref_protected"] = json!("false"))
        .await
        .problem(401, "signed-out");
    exchange(|c| c["ci_config_ref_uri"] = json!("gitlab.test/acme/site//.gitlab-ci.yml@refs/heads/x@refs/heads/main"))
        .await
        .problem(401, "signed-out");
    let made = exchange(|_| ()).await.ok(201);
    let run = &made["identity"];
    assert_eq!(
        (&run["repository"], &run["run_id"], &run["actor"]),
        (&json!("acme/site"), &json!("574"), &json!("ada"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trust_that_is_deleted_takes_its_tokens_along() {
    let rig = Rig::start().await;
    let made = rig.exchange(&Key::first().sign(&rig.claims(|_| ()))).await.ok(201);
    let token = made["token"].as_str().unwrap();
    rig.app.get("/v1/account", token).await.ok(200);
    let before = rig.app.snapshot(&rig.org).await.epoch;
    rig.app
        .delete(&rig.org.path("ci-trusts/tiles"), &rig.org.owner.token)
        .await
        .ok(200);
    rig.app.get("/v1/account", token).await.problem(401, "signed-out");
    let snapshot = rig.app.snapshot(&rig.org).await;
    assert!(snapshot.epoch > before);
    assert_eq!(json!(snapshot.revoked_tokens), json!([made["id"]]));
    let listed = rig
        .app
        .get(&rig.org.path("ci-trusts"), &rig.org.owner.token)
        .await
        .ok(200);
    assert_eq!(listed["items"], json!([]));
    let next = rig.claims(|claims| claims["jti"] = json!("next"));
    rig.exchange(&Key::first().sign(&next)).await.problem(401, "signed-out");
    // As does its service account; the name is free again.
    rig.trust("tiles", named()).await.ok(201);
    let made = rig.exchange(&Key::first().sign(&next)).await.ok(201);
    rig.app
        .delete(&rig.org.path("service-accounts/ci"), &rig.org.owner.token)
        .await
        .ok(200);
    rig.app
        .get("/v1/account", made["token"].as_str().unwrap())
        .await
        .problem(401, "signed-out");
    let later = rig.claims(|claims| claims["jti"] = json!("later"));
    rig.exchange(&Key::first().sign(&later))
        .await
        .problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trusts_are_made_by_admins_without_limits_and_name_whose_runs_they_mean() {
    let rig = Rig::start().await;
    rig.trust("tiles", named()).await.problem(409, "already-exists");
    rig.trust("all", json!({})).await.problem(422, "invalid");
    rig.trust("all", json!({ "owner_id": "acme" }))
        .await
        .problem(422, "invalid");
    rig.trust(
        "all",
        json!({ "claims": { "repository_owner": "acme", "repository": "acme/tiles" }, "environment": "x" }),
    )
    .await
    .problem(422, "invalid");
    let path = rig.org.path("ci-trusts");
    let wish = |change: fn(&mut Value)| {
        let mut body = json!({
            "name": "x", "issuer": rig.issuer.url, "audience": AUDIENCE, "service_account": "ci", "conditions": named(),
        });
        change(&mut body);
        body
    };
    for change in [
        (|b| b["issuer"] = json!("https://evil.test")) as fn(&mut Value),
        |b| b["audience"] = json!("https://github.com/acme"),
        |b| b["life_minutes"] = json!(16),
        |b| b["service_account"] = json!("none"),
        |b| b["scopes"] = json!(["eat:*"]),
        |b| b["name"] = json!("a b"),
    ] {
        rig.app
            .post(&path, &rig.org.owner.token, wish(change))
            .await
            .problem(422, "invalid");
    }
    let limited = json!({ "name": "limited", "scopes": ["admin:*"], "organization": "acme" });
    let limited = rig.app.post("/v1/tokens", &rig.org.owner.token, limited).await.ok(201);
    rig.app
        .post(&path, limited["secret"].as_str().unwrap(), wish(|_| ()))
        .await
        .problem(403, "not-allowed");
    // Where two trusts let a run in, it says which is meant.
    rig.trust("again", named()).await.ok(201);
    let token = Key::first().sign(&rig.claims(|_| ()));
    rig.exchange(&token).await.problem(401, "signed-out");
    let reason = &rig.reasons(1).await[0];
    assert!(
        reason.contains("several trusts") && reason.contains("again"),
        "{reason}"
    );
    let body = json!({ "organization": "acme", "token": token, "trust": "again" });
    let made = rig.app.post("/v1/token-exchange", "", body).await.ok(201);
    // A run's token makes none that would not name the run.
    rig.app
        .post("/v1/tokens", made["token"].as_str().unwrap(), json!({ "name": "mine" }))
        .await
        .problem(403, "not-allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trust_that_names_its_owner_only_is_refused_with_what_to_add_and_those_that_are_there_stay() {
    let rig = Rig::start().await;
    for (conditions, pointer, hint) in [
        (
            json!({ "owner_id": "65" }),
            "/conditions/repository_id",
            "`repository_id`",
        ),
        (
            json!({ "owner_id": "65", "environment": "production" }),
            "/conditions/repository_id",
            "`repository`",
        ),
        (
            json!({ "owner_id": "65", "repository_id": "74" }),
            "/conditions",
            "`environment`",
        ),
    ] {
        let refused = rig.trust("owner", conditions).await.problem(422, "invalid").to_string();
        assert!(refused.contains(pointer) && refused.contains(hint), "{refused}");
    }
    let all = rig.audited("ci_trust.create").await;
    let said = r#"where repository_owner_id="65", repository_id="74", environment="production", ref="refs/heads/main""#;
    assert!(all.len() == 1 && all[0].ends_with(said), "{all:?}");
    assert!(
        all[0].contains("as sa:ci, for 15 minutes, scopes write:default/tiles"),
        "{all:?}"
    );
    // One that was made before that was asked for.
    sqlx::query("update ci_trusts set conditions = '{\"owner_id\": \"65\"}'")
        .execute(&rig.app.app.pool)
        .await
        .unwrap();
    rig.exchange(&Key::first().sign(&rig.claims(|c| c["repository_id"] = json!("75"))))
        .await
        .ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_write_a_few_lines_a_minute_into_an_audit_trail_at_most() {
    let rig = Rig::start().await;
    // Whatever names they give themselves, and whatever they say of a trust.
    let foreign = |n: usize| Key::first().sign(&rig.claims(|c| c["repository_owner_id"] = json!(format!("9{n}"))));
    for n in 0..15 {
        rig.exchange(&format!("nonsense{n}")).await.problem(401, "signed-out");
        rig.exchange(&foreign(n)).await.problem(401, "signed-out");
    }
    // What comes of the owner's own runs is counted apart, for each trust: the reason of an honest one is not lost in the noise.
    let own = |n: usize| {
        let change = |c: &mut Value| {
            c["ref"] = json!("refs/heads/x");
            c["jti"] = json!(n.to_string());
        };
        Key::first().sign(&rig.claims(change))
    };
    for n in 0..15 {
        rig.exchange(&own(n)).await.problem(401, "signed-out");
    }
    let reasons = loop {
        let reasons = rig.reasons(9).await;
        if ["`ref`", "repository_owner_id", "is no JWT"]
            .iter()
            .all(|why| reasons.iter().any(|told| told.contains(why)))
        {
            break reasons;
        }
    };
    assert!(reasons.len() <= 12, "{reasons:?}");
}
