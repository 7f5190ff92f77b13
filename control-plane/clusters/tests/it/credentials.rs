//! What planes reach their buckets with, asked for as the services that give it want to be asked.

use chrono::TimeDelta;
use clusters::buckets::TenantBuckets;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::{BucketKeys, Buckets};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::server::{Asked, Clock, Server};

fn organization() -> OrganizationId {
    OrganizationId::generate(1, [7; 10])
}

fn bucket() -> String {
    format!("howdah-{}", organization().uuid().simple())
}

async fn open(server: &Server, credentials: Value) -> TenantBuckets {
    server.buckets(credentials, &Clock::default()).await.unwrap()
}

fn session_of(role: &str) -> Value {
    json!({ "kind": "session", "role_arn": role, "session_seconds": 7200,
        "administrator": { "access_key_id": "admin", "secret_access_key": "adm1n-s3cret" } })
}

/// Fields of a form.
fn form(body: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

#[tokio::test]
async fn a_session_is_asked_for_with_a_policy_for_one_bucket() {
    let server = Server::start(|_| {
        let text = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>s3cret</SecretAccessKey><SessionToken>t0ken</SessionToken>\
             <Expiration>2026-11-26T14:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        (200, text.to_owned())
    })
    .await;
    let buckets = open(&server, session_of("arn:aws:iam::1:role/planes")).await;
    assert!(matches!(
        buckets.keys(organization()).await.unwrap(),
        BucketKeys::Sessions
    ));
    let session = buckets.session(organization()).await.unwrap();
    assert_eq!(
        (
            session.access_key_id.as_str(),
            session.secret_access_key.as_str(),
            session.session_token.as_str()
        ),
        ("ASIA1", "s3cret", "t0ken")
    );
    assert_eq!(session.expires_at.to_rfc3339(), "2026-11-26T14:00:00+00:00");

    let [asked] = &server.asked()[..] else {
        panic!("asked more than once")
    };
    assert!(asked.authorization.contains("Credential=admin/") && asked.authorization.contains("/eu-1/sts/"));
    let form = form(&asked.body);
    assert_eq!(field(&form, "Action"), "AssumeRole");
    assert_eq!(field(&form, "RoleArn"), "arn:aws:iam::1:role/planes");
    assert_eq!(field(&form, "DurationSeconds"), "7200");
    assert_eq!(field(&form, "RoleSessionName"), bucket());
    let policy: Value = serde_json::from_str(field(&form, "Policy")).unwrap();
    assert_eq!(policy, clusters::credentials::session_policy(None, &bucket()));
}

#[tokio::test]
async fn a_session_that_is_refused_says_why_and_no_secret() {
    let server = Server::start(|_| {
        let text = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>AccessDenied</Code><Message>not this role</Message></Error></ErrorResponse>";
        (403, text.to_owned())
    })
    .await;
    let buckets = open(&server, session_of("arn:aws:iam::1:role/planes")).await;
    let Err(error) = buckets.session(organization()).await else {
        panic!("there is one")
    };
    let text = format!("{error:#}");
    assert!(text.contains("AccessDenied: not this role"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn sessions_that_last_too_short_or_too_long_and_one_role_for_all_are_refused_at_the_start() {
    let server = Server::start(|_| (500, String::new())).await;
    for (seconds, fine) in [(900, false), (1_800, true), (43_200, true), (43_201, false)] {
        let mut credentials = session_of("arn:aws:iam::1:role/planes");
        credentials["session_seconds"] = seconds.into();
        let opened = server.buckets(credentials, &Clock::default()).await;
        assert_eq!(opened.is_ok(), fine, "{seconds}");
    }
    let administrator = json!({ "access_key_id": "a", "secret_access_key": "b" });
    let role = |arn: &str| json!({ "kind": "irsa", "role_arn": arn, "administrator": administrator });
    let shared = role("arn:aws:iam::1:role/planes");
    assert!(server.buckets(shared, &Clock::default()).await.is_err());
    let own = open(&server, role("arn:aws:iam::1:role/howdah-{organization}")).await;
    let BucketKeys::Role {
        arn,
        sts_endpoint: None,
    } = own.keys(organization()).await.unwrap()
    else {
        panic!("no role")
    };
    assert_eq!(arn, format!("arn:aws:iam::1:role/{}", bucket()));
    assert!(own.session(organization()).await.is_err());
    assert!(server.asked().is_empty());
}

/// What an issuer answers: another secret each time it is asked.
async fn issuer() -> Server {
    let times = std::sync::atomic::AtomicU32::new(0);
    Server::start(move |asked| match asked.method.as_str() {
        "PUT" => {
            let n = times.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            (
                200,
                format!("{{\"access_key_id\": \"key\", \"secret_access_key\": \"{n}\"}}"),
            )
        }
        _ => (204, String::new()),
    })
    .await
}

async fn secret(buckets: &TenantBuckets) -> String {
    match buckets.keys(organization()).await.unwrap() {
        BucketKeys::Lasting { secret_access_key, .. } => secret_access_key.expose_secret().to_owned(),
        _ => panic!("other keys"),
    }
}

#[tokio::test]
async fn an_issuer_is_asked_once_in_ten_minutes_for_each_bucket() {
    let issuer = issuer().await;
    let store = Server::start(|asked: &Asked| match asked.method.as_str() {
        "DELETE" => (204, String::new()),
        _ => (200, "<ListVersionsResult></ListVersionsResult>".to_owned()),
    })
    .await;
    let credentials = json!({ "kind": "issued", "access_key_id": "a", "secret_access_key": "b",
        "issuer": format!("{}/keys/", issuer.url), "issuer_token": "tok" });
    let clock = Clock::default();
    let buckets = store.buckets(credentials, &clock).await.unwrap();
    for _ in 0..3 {
        assert_eq!(secret(&buckets).await, "0");
    }
    clock.advance(TimeDelta::seconds(601));
    assert_eq!(secret(&buckets).await, "1");
    // With the bucket its keys go, and what is known of them.
    buckets.remove(organization()).await.unwrap();
    assert_eq!(secret(&buckets).await, "2");
    let asked: Vec<(String, String)> = issuer.asked().into_iter().map(|a| (a.method, a.path)).collect();
    let path = format!("/keys/{}", bucket());
    let expected = ["PUT", "PUT", "DELETE", "PUT"].map(|method| (method.to_owned(), path.clone()));
    assert_eq!(asked, expected);
    assert!(issuer.asked().iter().all(|asked| asked.authorization == "Bearer tok"));
}
