//! The plane's audit trail: what leaves a row in it, who reads it, and that it is one chain.

use axum::body::Body;
use contract::api::{AuditEvent, Commit, Job, Page, SignedCheckpoint};
use contract::audit::Entry;
use contract::config::StoreConfig;
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person};

/// Carries out what is asked for and asserts the rows that it leaves.
async fn leaves(
    app: &App,
    person: &Person,
    (method, uri, body): (&str, &str, Value),
    expected: &[(&str, &str)],
) -> String {
    let before = all(app).await.len();
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    let reply = app.call(person, method, uri, body).await;
    assert!(reply.status.is_success(), "{method} {uri}: {}", reply.text());
    let rows = all(app).await;
    let left: Vec<&AuditEvent> = rows.iter().skip(before).collect();
    assert_eq!(left.len(), expected.len(), "{method} {uri}: {left:?}");
    for (row, (action, subject)) in left.iter().zip(expected) {
        assert!(
            row.action == *action && row.subject.contains(subject),
            "{method} {uri}: {row:?}"
        );
        assert_eq!(
            (row.actor.clone(), row.token.clone()),
            (person.principal.to_string(), person.claims.token.to_string())
        );
        assert!(
            row.via == "access token" && row.request_id.starts_with("req_"),
            "{row:?}"
        );
    }
    reply.text()
}

async fn all(app: &App) -> Vec<AuditEvent> {
    let auditor = app.member_as("auditor", OrganizationRole::Auditor).await;
    app.all(&auditor, "/v1/audit?order=oldest").await
}

/// Method, address, body, and the row that is left: its action and a part of its subject; no action where nothing is left.
type Step<'a> = (&'a str, &'a str, Value, &'a str, &'a str);

async fn tell(app: &App, person: &Person, steps: Vec<Step<'_>>) {
    for (method, uri, body, action, subject) in steps {
        let expected = [(action, subject)];
        let expected = if action.is_empty() { &[] } else { expected.as_slice() };
        leaves(app, person, (method, uri, body), expected).await;
    }
}

#[tokio::test]
async fn every_change_that_is_no_commit_leaves_one_row_and_a_commit_none() {
    let directory = testkit::temporary_directory();
    let bucket = StoreConfig::Local {
        directory: directory.path().join("bucket"),
    };
    let app = App::on_encrypted(bucket, Some("5a".repeat(32))).await;
    let ada = app.member_as("ada", OrganizationRole::Owner).await;
    let (secret, repos) = ("/v1/projects/default/secrets/db", "/v1/projects/default/repos");
    let values = json!({"values": {"k": "swordfish"}});
    let steps = vec![
        ("POST", "/v1/projects", json!({"name": "p"}), "project.create", "p"),
        ("DELETE", "/v1/projects/p", Value::Null, "project.delete", "p"),
        (
            "PUT",
            "/v1/defaults",
            json!({"datum_tries": 2}),
            "defaults.set",
            "the organization",
        ),
        ("PUT", secret, values.clone(), "secret.set", "default/db version 1"),
        ("PUT", secret, values, "", ""),
        ("DELETE", secret, Value::Null, "secret.delete", "default/db"),
        ("POST", repos, json!({"name": "r"}), "repo.create", "default/r as dom_"),
    ];
    tell(&app, &ada, steps).await;

    let mut commits = Vec::new();
    for content in [b"1", b"2", b"3"] {
        let commit: Commit = app.put(&ada, "r", &[("a", content), ("b", content)]).await.json();
        commits.push(format!("r@{}", commit.id));
    }
    let branches = "/v1/projects/default/repos/r/branches";
    let (old, to) = (format!("{branches}/old"), json!({"to": "r@main"}));
    let made = json!({"name": "old", "from": commits[0]});
    let steps = vec![
        ("POST", branches, made, "branch.create", "default/r@old at"),
        ("PATCH", &old, to.clone(), "branch.move", "default/r@old to"),
        ("PATCH", &old, to, "", ""),
        ("DELETE", &old, Value::Null, "branch.delete", "default/r@old"),
    ];
    tell(&app, &ada, steps).await;
    pipelines(&app, &ada).await;
    what_goes(&app, &ada, &commits).await;
    assert_one_chain(&app, &ada).await;
}

async fn pipelines(app: &App, ada: &Person) {
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "r", "glob": "/*"}}});
    let apply = json!({"specs": [spec]});
    let steps = vec![
        (
            "POST",
            "/v1/pipelines",
            apply.clone(),
            "pipeline.apply",
            "default/p version 1",
        ),
        ("POST", "/v1/pipelines", apply, "", ""),
    ];
    tell(app, ada, steps).await;
    let jobs: Page<Job> = app.get(ada, "/v1/jobs?pipeline=default/p").await.json();
    let job = format!("/v1/jobs/{}/stop", jobs.items[0].id);
    let steps = vec![
        ("POST", job.as_str(), Value::Null, "job.stop", "of default/p"),
        ("POST", &job, Value::Null, "", ""),
        (
            "POST",
            "/v1/pipelines/default/p/run",
            Value::Null,
            "pipeline.run",
            "default/p",
        ),
        (
            "POST",
            "/v1/pipelines/default/p/stop",
            Value::Null,
            "pipeline.stop",
            "default/p",
        ),
        (
            "POST",
            "/v1/pipelines/default/p/start",
            Value::Null,
            "pipeline.start",
            "default/p",
        ),
        ("POST", "/v1/pipelines/default/p/start", Value::Null, "", ""),
        (
            "DELETE",
            "/v1/pipelines/default/p",
            Value::Null,
            "pipeline.delete",
            "default/p",
        ),
    ];
    tell(app, ada, steps).await;
}

async fn what_goes(app: &App, ada: &Person, commits: &[String]) {
    let going = |commit: &String, dry_run| json!({"ref": commit, "dry_run": dry_run, "force": true});
    let purge = json!({"repo": "r", "path": "/b", "dry_run": false, "force": true});
    let repo = "/v1/projects/default/repos/r?force=true";
    let steps = vec![
        ("POST", "/v1/commits/squash", going(&commits[1], true), "", ""),
        (
            "POST",
            "/v1/commits/squash",
            going(&commits[1], false),
            "commit.squash",
            "(1 commits)",
        ),
        (
            "POST",
            "/v1/purges",
            purge,
            "file.purge",
            "default/r:/b with the receipt",
        ),
        (
            "POST",
            "/v1/commits/drop",
            going(&commits[2], false),
            "commit.drop",
            "commits)",
        ),
        ("POST", "/v1/gc?dry_run=true", Value::Null, "", ""),
        ("POST", "/v1/gc", Value::Null, "garbage.collect", "bytes freed"),
        ("GET", "/v1/fsck", Value::Null, "", ""),
        ("POST", "/v1/fsck", Value::Null, "storage.repair", "damaged"),
        ("DELETE", repo, Value::Null, "repo.delete", "default/r"),
    ];
    tell(app, ada, steps).await;
}

async fn assert_one_chain(app: &App, reader: &Person) {
    let text = app.get(reader, "/v1/audit/export").await.ok().text();
    assert!(!text.contains("swordfish"));
    let mut lines: Vec<&str> = text.lines().collect();
    let end: SignedCheckpoint = serde_json::from_str(lines.pop().unwrap()).unwrap();
    let mut before: Vec<u8> = Vec::new();
    for (line, seq) in lines.iter().zip(1..) {
        let row: AuditEvent = serde_json::from_str(line).unwrap();
        let entry = Entry {
            trail: row.trail,
            organization: app.control.organization,
            seq,
            at: row.at,
            actor: &row.actor,
            actor_name: &row.actor_name,
            token: &row.token,
            via: &row.via,
            action: &row.action,
            subject: &row.subject,
            request_id: &row.request_id,
            address: &row.address,
        };
        assert_eq!((row.seq, row.prev_hash), (seq, hex::encode(&before)));
        before = entry.link(&before).to_vec();
        assert_eq!(row.hash, hex::encode(&before));
    }
    assert_eq!(
        (end.checkpoint.seq, end.checkpoint.hash),
        (lines.len() as u64, hex::encode(before))
    );
}

#[tokio::test]
async fn a_refused_change_leaves_no_row_and_members_read_none() {
    let app = App::start().await;
    let ada = app.member_as("ada", OrganizationRole::Owner).await;
    let (bob, auditor) = (
        app.member("bob").await,
        app.member_as("eve", OrganizationRole::Auditor).await,
    );
    let repo = app.repo(&ada, "r").await;
    app.grant(&bob, Role::Viewer, &repo).await;
    app.delete(&bob, "/v1/projects/default/repos/r")
        .await
        .refused(ProblemKind::NotAllowed);
    app.post(&bob, "/v1/projects", json!({"name": "p"}))
        .await
        .refused(ProblemKind::NotAllowed);
    assert_eq!(all(&app).await.len(), 1);
    for uri in ["/v1/audit", "/v1/audit/export"] {
        app.get(&bob, uri).await.refused(ProblemKind::NotAllowed);
        app.get(&app.scoped(&auditor, &["read:*"]), uri)
            .await
            .refused(ProblemKind::NotAllowed);
        app.get(&auditor, uri).await.ok();
    }
    let found: Page<AuditEvent> = app
        .get(&auditor, "/v1/audit?action=repo&actor=ada&q=default/r&limit=1")
        .await
        .json();
    assert_eq!(found.items[0].action, "repo.create");
    let none: Page<AuditEvent> = app.get(&auditor, "/v1/audit?q=%25").await.json();
    assert!(none.items.is_empty());
    for statement in ["update audit_events set subject = ''", "delete from audit_events"] {
        let refused = sqlx::query(statement).execute(&app.plane.pool).await.unwrap_err();
        assert!(refused.to_string().contains("neither changed nor removed"), "{refused}");
    }
}
