//! Secrets of pipelines: who sets and uses them, where user code finds them, and where nobody does.

use contract::api::{JobState, NewSecret, Page, Secret};
use contract::policy::{Grant, Grantee, Principal, Resource, Role};
use contract::problem::{Problem, ProblemKind};
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell, succeeded};

const SECRETS: &str = "/v1/projects/default/secrets";

async fn set(rig: &Rig, person: &Person, name: &str, value: &str) -> Secret {
    let body = json!({ "values": { "password": value, "user": "app" } });
    let (status, text) = rig.send(person, "PUT", &format!("{SECRETS}/{name}"), Some(body)).await;
    assert!(status < 300, "{status} {text}");
    assert!(!text.contains(value), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Gives a role on the whole project.
pub fn grant(rig: &Rig, person: &Person, role: Role) {
    let Principal::Account(account) = person.principal else {
        panic!("an account is wanted");
    };
    let id = rig.environment().id();
    rig.control.change(|s| {
        s.grants.push(Grant {
            id,
            grantee: Grantee::Account(account),
            role,
            resource: Resource::Project("default".parse().unwrap()),
        });
    });
}

fn spec(script: &str) -> Value {
    let mut spec = shell("p", "in", "/*", script);
    spec["transform"]["secrets"] = json!([
        { "name": "db", "env_var": "PGPASSWORD", "key": "password" }, { "name": "db", "mount_path": "/secrets/db" },
    ]);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_user_code_and_nothing_else_and_another_version_runs_the_datums_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    assert_eq!(set(&rig, &ada, "db", "hunter2-first").await.version, 1);
    let script = "printf '%s' \"$PGPASSWORD\" | wc -c > /pfs/out/length; \
                  test \"$PGPASSWORD\" = \"$(cat /secrets/db/password)\" && cat /secrets/db/user > /pfs/out/user; \
                  stat -c %a /secrets/db/password > /pfs/out/mode; echo x > /secrets/db/new; \
                  echo \"the password is $PGPASSWORD.\"; cat /secrets/db/password >&2; ls /pfs; true";
    let applied = rig.apply(&ada, vec![spec(script)]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/length").await.trim(), "13");
    assert_eq!(rig.cat(&ada, "p@main", "/user").await, "app");
    assert_eq!(rig.cat(&ada, "p@main", "/mode").await.trim(), "400");
    let lines = rig.logs(&ada, job.id).await;
    let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert!(
        text.contains(&"the password is ***.") && text.contains(&"***"),
        "{text:?}"
    );
    for path in [
        "/v1/pipelines".to_owned(),
        format!("/v1/jobs/{}", job.id),
        format!("/v1/jobs/{}/datums", job.id),
    ] {
        let (_, text) = rig.send(&ada, "GET", &path, None).await;
        assert!(!text.contains("hunter2"), "{path}: {text}");
    }

    // Set to what it is, it is the same version; a run again is a skip, another version is not; neither is one that was deleted and set again.
    assert_eq!(set(&rig, &ada, "db", "hunter2-first").await.version, 1);
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    let latest = async || rig.job(&ada, rig.jobs(&ada, "p").await[0].commit_set, "p").await;
    succeeded(&latest().await, 1, 0, 1);
    assert_eq!(set(&rig, &ada, "db", "hunter2-second!").await.version, 2);
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    succeeded(&latest().await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/length").await.trim(), "15");
    let (status, _) = rig.send(&ada, "DELETE", &format!("{SECRETS}/db"), None).await;
    assert_eq!(status, 204);
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    let failed = latest().await;
    assert_eq!(failed.state, JobState::Failure);
    assert!(failed.reason.unwrap().contains("howdah secret set db"));
    assert_eq!(set(&rig, &ada, "db", "hunter2-first").await.version, 3);
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    succeeded(&latest().await, 1, 1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_set_by_admins_of_the_project_and_used_by_its_writers() {
    let rig = Rig::start().await;
    let (ada, bob, eve) = (
        rig.member("ada").await,
        rig.member("bob").await,
        rig.member("eve").await,
    );
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    rig.grant(&bob, Role::Contributor, "in");
    rig.grant(&eve, Role::Contributor, "in");
    grant(&rig, &bob, Role::Contributor);

    let unset = rig.refused(&ada, vec![spec("true")]).await;
    assert_eq!(unset.errors[0].pointer, "/specs/0/transform/secrets");
    assert!(unset.detail.contains("howdah secret set db"), "{}", unset.detail);
    set(&rig, &ada, "db", "hunter2-first").await;
    let mut pulling = shell("p", "in", "/*", "true");
    pulling["transform"]["image_pull_secrets"] = json!(["db", "registry"]);
    let unset = rig.refused(&ada, vec![pulling.clone()]).await;
    assert_eq!(unset.errors[0].pointer, "/specs/0/transform/image_pull_secrets/1");
    for person in [&bob, &eve] {
        for (method, path) in [
            ("GET", SECRETS.to_owned()),
            ("DELETE", format!("{SECRETS}/db")),
            ("PUT", format!("{SECRETS}/x")),
        ] {
            let body = (method == "PUT").then(|| json!({ "values": { "a": "b" } }));
            let (_, text) = rig.send(person, method, &path, body).await;
            let problem: Problem = serde_json::from_str(&text).unwrap();
            assert_eq!(problem.kind(), Some(ProblemKind::NotAllowed), "{method} {path}");
        }
    }
    let page: Page<Secret> = rig.get(&ada, SECRETS).await;
    assert_eq!(page.items[0].keys, ["password", "user"]);

    // Who may write to the pipeline only, and would edit what it does with the secret, is refused.
    rig.apply(&bob, vec![spec("true")]).await;
    rig.grant(&eve, Role::Owner, "p");
    let edited = rig.refused(&eve, vec![spec("cat /secrets/db/*")]).await;
    assert_eq!(edited.kind(), Some(ProblemKind::NotAllowed));
    assert_eq!(edited.errors[0].pointer, "/specs/0/transform/secrets");
    // Who applied it loses the right: nothing runs with the secret any more.
    rig.control.change(|s| {
        s.grants
            .retain(|g| g.role != Role::Contributor || g.resource != Resource::Project("default".parse().unwrap()));
    });
    let put = rig.put(&ada, "in", &[("b", "2")]).await;
    let job = rig.job(&ada, put.commit_set, "p").await;
    assert_eq!(job.state, JobState::Failure);
    assert!(job.reason.unwrap().starts_with("SecretNotAllowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_of_a_secret_is_encrypted_and_what_is_no_secret_is_refused() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    set(&rig, &ada, "db", "hunter2-first").await;
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&rig.config.database_url)
        .await
        .unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select values_encrypted from secrets")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert!(!stored.windows(7).any(|bytes| bytes == b"hunter2"));
    for values in [
        json!({}),
        json!({ "a b": "x" }),
        json!({ "..": "x" }),
        json!({ "a": "x\0" }),
        json!({ "a": "x".repeat(70_000) }),
    ] {
        let body = Some(json!({ "values": values }));
        let (status, text) = rig.send(&ada, "PUT", &format!("{SECRETS}/x"), body).await;
        assert_eq!(status, 422, "{text}");
    }
    let new = NewSecret {
        values: [("a".to_owned(), "hunter2".to_owned())].into(),
    };
    assert!(!format!("{new:?}").contains("hunter2"));
}

/// A connection to the plane's own database.
async fn database(rig: &Rig) -> sqlx::PgConnection {
    <sqlx::PgConnection as sqlx::Connection>::connect(&rig.config.database_url)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_cannot_be_decrypted_fails_its_own_jobs_and_no_others() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    set(&rig, &ada, "db", "hunter2-first").await;
    let mut conn = database(&rig).await;
    sqlx::query("update secrets set values_encrypted = 'damaged, and long enough to have a nonce'")
        .execute(&mut conn)
        .await
        .unwrap();
    let other = shell("q", "in", "/*", "echo fine > /pfs/out/x");
    let applied = rig.apply(&ada, vec![spec("true"), other]).await;
    let failed = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    assert_eq!(failed.state, JobState::Failure);
    assert!(failed.reason.unwrap().contains("howdah secret set db"));
    succeeded(&rig.job(&ada, applied[1].commit_set.unwrap(), "q").await, 1, 1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_secret_is_set_while_it_runs_is_planned_again_and_runs_with_the_new_one() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    grant(&rig, &ada, Role::Owner);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    set(&rig, &ada, "db", "hunter2-first").await;
    // It fails, and is tried again, until it has the second version.
    let mut slow = spec(
        "printf '%s' \"$PGPASSWORD\" | wc -c > /pfs/out/$(basename $in); test $(printf '%s' \"$PGPASSWORD\" | wc -c) != 13 || exit 1",
    );
    slow["parallelism_spec"] = json!({ "constant": 1 });
    slow["datum_tries"] = json!(1_000_000);
    let applied = rig.apply(&ada, vec![slow]).await;
    let set_of = applied[0].commit_set.unwrap();
    testkit::wait::wait_until("a first try of the datum", crate::jobs_rig::LIMIT, async || {
        let jobs = rig.jobs(&ada, "p").await;
        let datums = rig.datums(&ada, jobs[0].id).await;
        datums.iter().any(|datum| datum.attempts > 0)
    })
    .await;
    set(&rig, &ada, "db", "hunter2-second!").await;
    succeeded(&rig.job(&ada, set_of, "p").await, 2, 2, 0);
    for path in ["/a", "/b"] {
        assert_eq!(rig.cat(&ada, "p@main", path).await.trim(), "15");
    }
    // What stands under the key of the second version was made with it: nothing runs again.
    rig.post::<Value>(&ada, "/v1/pipelines/default/p/run", json!({})).await;
    let again = rig.job(&ada, rig.jobs(&ada, "p").await[0].commit_set, "p").await;
    succeeded(&again, 2, 0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_deleted_with_its_secrets() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.control
        .change(|s| s.members[0].role = contract::policy::OrganizationRole::Owner);
    rig.post::<Value>(&ada, "/v1/projects", json!({ "name": "vision" }))
        .await;
    let body = Some(json!({ "values": { "a": "hunter2" } }));
    let (status, text) = rig.send(&ada, "PUT", "/v1/projects/vision/secrets/db", body).await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = rig.send(&ada, "DELETE", "/v1/projects/vision", None).await;
    assert_eq!(status, 204, "{text}");
    let mut conn = database(&rig).await;
    let left: i64 = sqlx::query_scalar("select count(*) from secrets")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}
