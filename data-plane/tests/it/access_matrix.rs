//! Every operation of the data plane × who asks, held against the table of `access_table.rs`. An operation of the document that is
//! missing there fails.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::api::{Job, Page, Purge, Repo, Upload};
use contract::claims::plane_audience;
use contract::ids::ProjectId;
use contract::policy::{Grant, Grantee, Principal, Resource, Role};
use serde_json::json;

use crate::access_table::{Row, TABLE};
use crate::app::{App, Person, archive};

#[test]
fn the_document_is_openapi_and_says_what_it_must() {
    let document = serde_json::to_value(data_plane::server::openapi()).unwrap();
    let faults = testkit::openapi::faults(&document);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let operations = testkit::openapi::operations(&document);
    assert!(operations.len() > 60, "{}", operations.len());
}

#[test]
fn every_operation_of_the_document_stands_in_the_table() {
    let fits = |route: &str, path: &str| {
        let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
        route.len() == path.len() && route.iter().zip(&path).all(|(r, p)| r.starts_with('{') || r == p)
    };
    let document = serde_json::to_value(data_plane::server::openapi()).unwrap();
    let stands = |method: &str, route: &str| {
        let mut rows = TABLE.iter();
        rows.any(|row| row.0.eq_ignore_ascii_case(method) && fits(route, row.1.split('?').next().unwrap_or_default()))
    };
    let missing: Vec<String> = testkit::openapi::operations(&document)
        .into_iter()
        .filter(|(method, route, _)| !stands(method, route))
        .map(|(method, route, _)| format!("{method} {route}"))
        .collect();
    assert!(missing.is_empty(), "operations without a row: {missing:?}");
}

async fn status(app: &App, person: Option<&Person>, row: &Row<'_>, uri: &str) -> StatusCode {
    let body = match row.2 {
        "tar" => Body::from(archive(&[("x", b"1")])),
        text => Body::from(text.to_owned()),
    };
    match person {
        Some(person) => app.call(person, row.0, uri, body).await.status,
        None => {
            let request = Request::builder().method(row.0).uri(uri).body(body).unwrap();
            app.send(request).await.status
        }
    }
}

/// What the table names by a word, as it is called here.
async fn prepare(app: &App, owner: &Person) -> Vec<(&'static str, String)> {
    app.put(owner, "r", &[("a", b"1")]).await.ok();
    app.put(owner, "r", &[("secret", b"2")]).await.ok();
    let purge = json!({ "repo": "r", "path": "/secret" });
    let purge: Purge = app.post(owner, "/v1/purges", purge).await.json();
    let upload: Upload = app
        .post(owner, "/v1/uploads", json!({ "repo": "r", "branch": "main" }))
        .await
        .json();
    let spec = json!({ "pipeline": { "name": "p" }, "input": { "pfs": { "repo": "r", "glob": "/*" } }, "transform": { "cmd": ["true"] } });
    app.post(owner, "/v1/pipelines", json!({ "specs": [spec] })).await.ok();
    let jobs: Page<Job> = app.get(owner, "/v1/jobs?pipeline=p").await.json();
    vec![
        ("{job}", jobs.items[0].id.to_string()),
        ("{purge}", purge.id.to_string()),
        ("{upload}", upload.id.to_string()),
    ]
}

/// Owns another project, and nothing in this one.
async fn owner_elsewhere(app: &App) -> Person {
    let person = app.member("elsewhere").await;
    let Principal::Account(account) = person.principal else {
        panic!("an account is wanted");
    };
    let id = app.environment.id();
    let grant = Grant {
        id,
        grantee: Grantee::Account(account),
        role: Role::Owner,
        resource: Resource::Project("elsewhere".parse().unwrap()),
    };
    app.control.change(|s| s.grants.push(grant));
    app.caught_up().await;
    let project: ProjectId = app.environment.id();
    sqlx::query("insert into projects (id, name, created_at) values ($1, 'elsewhere', now())")
        .bind(project.uuid())
        .execute(&app.plane.pool)
        .await
        .unwrap();
    person
}

#[tokio::test]
async fn every_operation_answers_every_kind_of_caller_as_the_table_says() {
    let app = App::start().await;
    let owner = app.member("owner").await;
    let repo = app.repo(&owner, "r").await;
    let words = prepare(&app, &owner).await;
    let output: Repo = app.get(&owner, "/v1/projects/default/repos/p").await.json();
    let stranger = app.member("stranger").await;
    let (discoverer, viewer) = (app.member("discoverer").await, app.member("viewer").await);
    for repo in [&repo, &output] {
        app.grant(&discoverer, Role::Discoverer, repo).await;
        app.grant(&viewer, Role::Viewer, repo).await;
    }
    let foreign = app.environment.id();
    let foreign = app.with_claims(&owner, |c| {
        c.org = foreign;
        c.aud = plane_audience(foreign);
    });
    let expired = app.with_claims(&owner, |c| c.exp = c.iat - 60);
    let elsewhere = owner_elsewhere(&app).await;
    let token = app.environment.id();
    let revoked = app.with_claims(&owner, |c| c.token = token);
    app.control.change(|s| s.revoked_tokens.push(token));
    app.caught_up().await;
    let callers = [
        None,
        Some(&stranger),
        Some(&discoverer),
        Some(&viewer),
        Some(&owner),
        Some(&foreign),
        Some(&expired),
        Some(&elsewhere),
        Some(&revoked),
    ];
    let mut wrong = Vec::new();
    for row in TABLE {
        let uri = words
            .iter()
            .fold(row.1.to_owned(), |uri, (word, id)| uri.replace(word, id));
        let mut found = [0; 9];
        // The owner last: what he may do changes what the others would see.
        for at in [0, 1, 2, 3, 5, 6, 7, 8, 4] {
            found[at] = status(&app, callers[at], row, &uri).await.as_u16();
        }
        if found != row.3 {
            wrong.push(format!(
                "{} {} {}: expected {:?}, found {found:?}",
                row.0, row.1, row.2, row.3
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
