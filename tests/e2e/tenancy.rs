//! Two organizations on one service: whatever the second asks, on whatever route, nothing of the first shows.

use std::process::Command;

use serde_json::Value;

use super::harness::{Person, Service, eventually, text};

/// Every route of a data plane that reads or changes something, with placeholders for what belongs to the first
/// organization. ARCHITECTURE.md lists the routes.
const ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/projects"),
    ("DELETE", "/v1/projects/default"),
    ("GET", "/v1/repos"),
    ("GET", "/v1/projects/default/repos"),
    ("POST", "/v1/projects/default/repos"),
    ("GET", "/v1/projects/default/repos/secret-images"),
    ("GET", "/v1/projects/default/repos/secret-images/statistics"),
    ("DELETE", "/v1/projects/default/repos/secret-images"),
    ("GET", "/v1/projects/default/repos/secret-images/branches"),
    ("POST", "/v1/projects"),
    ("POST", "/v1/projects/default/repos/secret-images/branches"),
    ("PATCH", "/v1/projects/default/repos/secret-images/branches/main"),
    ("DELETE", "/v1/projects/default/repos/secret-images/branches/main"),
    ("POST", "/v1/commits"),
    ("POST", "/v1/commits/finish?ref=secret-images@main"),
    ("POST", "/v1/commits/finish-together"),
    ("POST", "/v1/commits/squash"),
    ("POST", "/v1/commits/drop"),
    ("POST", "/v1/purges"),
    ("GET", "/v1/purges"),
    ("POST", "/v1/files?repo=default/secret-images&branch=main"),
    ("GET", "/v1/commits?ref=secret-images@main"),
    ("GET", "/v1/commits?ref=secret-images@{commit}"),
    ("GET", "/v1/log?ref=secret-images@main"),
    ("GET", "/v1/files?ref=secret-images@main&path=/"),
    ("DELETE", "/v1/files?repo=default/secret-images&branch=main&path=/a.txt"),
    ("GET", "/v1/content?ref=secret-images@main&path=/a.txt"),
    ("GET", "/v1/archive?ref=secret-images@main&path=/"),
    ("POST", "/v1/chunks"),
    ("POST", "/v1/uploads"),
    ("GET", "/v1/uploads/upl_00000000000070008000000000000000"),
    ("DELETE", "/v1/uploads/upl_00000000000070008000000000000000"),
    ("POST", "/v1/copies"),
    ("POST", "/v1/imports"),
    ("GET", "/v1/diff?a=secret-images@main&b=secret-images@main"),
    ("GET", "/v1/provenance?ref=secret-images@main"),
    ("GET", "/v1/impact?ref=secret-images@main"),
    ("GET", "/v1/access/explain?ref=secret-images@main"),
    ("GET", "/v1/access/who-can-read?ref=secret-images@main"),
    ("GET", "/v1/pipelines"),
    ("POST", "/v1/pipelines"),
    ("GET", "/v1/pipelines/default/secret-pipeline"),
    ("DELETE", "/v1/pipelines/default/secret-pipeline"),
    ("POST", "/v1/pipelines/default/secret-pipeline/stop"),
    ("POST", "/v1/pipelines/default/secret-pipeline/start"),
    ("POST", "/v1/pipelines/default/secret-pipeline/run"),
    ("GET", "/v1/pipelines/default/secret-pipeline/history"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job}"),
    ("POST", "/v1/jobs/{job}/stop"),
    ("GET", "/v1/jobs/{job}/datums"),
    ("GET", "/v1/jobs/{job}/logs"),
    ("GET", "/v1/wait?target={commit_set}&timeout_seconds=0"),
    ("GET", "/v1/fsck"),
    ("POST", "/v1/fsck"),
    ("POST", "/v1/gc"),
    ("GET", "/v1/audit"),
    ("GET", "/v1/audit/export"),
];

/// Every route of the control plane below an organization.
const CONTROL_ROUTES: &[(&str, &str)] = &[
    ("GET", "/v1/organizations/{org}"),
    ("PATCH", "/v1/organizations/{org}"),
    ("DELETE", "/v1/organizations/{org}"),
    ("GET", "/v1/organizations/{org}/members"),
    ("GET", "/v1/organizations/{org}/invitations"),
    ("POST", "/v1/organizations/{org}/invitations"),
    ("GET", "/v1/organizations/{org}/teams"),
    ("GET", "/v1/organizations/{org}/service-accounts"),
    ("GET", "/v1/organizations/{org}/grants"),
    ("POST", "/v1/organizations/{org}/grants"),
    ("GET", "/v1/organizations/{org}/releases"),
    ("POST", "/v1/organizations/{org}/releases"),
    ("GET", "/v1/organizations/{org}/access-requests"),
    ("GET", "/v1/organizations/{org}/plane"),
    ("POST", "/v1/organizations/{org}/restore"),
    ("GET", "/v1/organizations/{org}/audit"),
    ("GET", "/v1/organizations/{org}/audit/export"),
];

struct Answer {
    status: u16,
    body: String,
}

/// One HTTP request by curl: the command line would refuse to send most of these.
fn request(method: &str, url: &str, bearer: &str) -> Answer {
    let mut command = Command::new("curl");
    command.args([
        "-s",
        "-m",
        "20",
        "-X",
        method,
        "-w",
        "\n%{http_code}",
        "-H",
        &format!("authorization: Bearer {bearer}"),
    ]);
    if ["POST", "PATCH"].contains(&method) {
        command.args(["-H", "content-type: application/json", "-d", "{}"]);
    }
    let output = command.arg(url).output().expect("curl can be started");
    let all = text(&output.stdout);
    let (body, status) = all.rsplit_once('\n').unwrap_or(("", "0"));
    Answer {
        status: status.parse().unwrap_or(0),
        body: body.to_owned(),
    }
}

/// An API token of that person, and an access token and the address of the own plane made from it.
fn credentials(person: &Person<'_>, organization: &str) -> (String, Value) {
    let token = person.json(&["token", "create", "--name", "story"])["secret"]
        .as_str()
        .expect("it is shown once")
        .to_owned();
    let body = format!("{{\"organization\":\"{organization}\"}}");
    let output = Command::new("curl")
        .args([
            "-s",
            "-X",
            "POST",
            "-H",
            &format!("authorization: Bearer {token}"),
            "-H",
            "content-type: application/json",
            "-d",
            &body,
        ])
        .arg(format!("{}/v1/access-tokens", person.service.url()))
        .output()
        .expect("curl can be started");
    (token, serde_json::from_slice(&output.stdout).expect("an access token"))
}

fn first_organization<'s>(service: &'s Service, name: &str) -> (Person<'s>, String, String, String) {
    let owner = service.person(name, Some("first"));
    service.file("data/a.txt", b"nobody else may know this\n");
    owner.run(&["repo", "create", "secret-images"]);
    let put = owner.json(&["put", "secret-images@main", "data", "-r"]);
    let spec = r#"{"pipeline":{"name":"secret-pipeline"},"transform":{"cmd":["/bin/sh","-c","echo secret log; cp /pfs/secret-images/* /pfs/out"]},"input":{"pfs":{"repo":"secret-images","glob":"/*"}}}"#;
    let spec = service.file("spec.json", spec.as_bytes());
    owner.run(&["pipeline", "apply", "-f", &spec]);
    owner.run(&["wait", "secret-pipeline@main", "--timeout", "2m"]);
    let jobs = owner.json(&["job", "list"]);
    let job = jobs
        .as_array()
        .or_else(|| jobs["items"].as_array())
        .map_or(jobs["id"].clone(), |j| j[0]["id"].clone());
    let id = |v: &Value| v.as_str().expect("an id").to_owned();
    (owner, id(&put["id"]), id(&put["commit_set"]), id(&job))
}

#[test]
fn the_second_organization_sees_nothing_of_the_first_by_any_route() {
    let service = Service::start();
    let (owner, commit, commit_set, job) = first_organization(&service, "ada");
    let stranger = service.person("eve", Some("second"));
    let (_, of_owner) = credentials(&owner, "first");
    let (token, of_stranger) = credentials(&stranger, "second");
    let stranger_jwt = of_stranger["access_token"].as_str().expect("a token");
    let direct = of_owner["direct_url"]
        .as_str()
        .expect("an embedded plane is reached directly");

    for (method, route) in ROUTES {
        let route = route
            .replace("{commit}", &commit)
            .replace("{commit_set}", &commit_set)
            .replace("{job}", &job);
        for bearer in [stranger_jwt, &token, ""] {
            for base in [format!("{}/o/first", service.url()), direct.to_owned()] {
                let answer = request(method, &format!("{base}{route}"), bearer);
                assert!(
                    matches!(answer.status, 401 | 403 | 404),
                    "{method} {base}{route}: {} {}",
                    answer.status,
                    answer.body
                );
                assert!(
                    !answer.body.contains("secret") && !answer.body.contains("a.txt"),
                    "{method} {route}: {}",
                    answer.body
                );
            }
        }
        // The own plane does not know the first one's names, and its answer is that for a name nobody ever used.
        let own = format!("{}/o/second{route}", service.url());
        let answer = request(method, &own, stranger_jwt);
        assert!(!answer.body.contains("nobody else"), "{method} {own}: {}", answer.body);
        if method == &"GET" && route.contains("secret") {
            let never = request(method, &own.replace("secret-", "never00-"), stranger_jwt);
            assert_eq!(
                (answer.status, without_id(&answer.body)),
                (never.status, without_id(&never.body)),
                "{method} {own}"
            );
        }
    }
}

#[test]
fn the_control_plane_tells_a_stranger_the_same_of_an_organization_as_of_none() {
    let service = Service::start();
    let (_owner, ..) = first_organization(&service, "ada");
    let stranger = service.person("eve", Some("second"));
    let (token, _) = credentials(&stranger, "second");

    for (method, route) in CONTROL_ROUTES {
        let there = request(
            method,
            &format!("{}{}", service.url(), route.replace("{org}", "first")),
            &token,
        );
        let nowhere = request(
            method,
            &format!("{}{}", service.url(), route.replace("{org}", "fifth")),
            &token,
        );
        assert!(
            matches!(there.status, 404 | 422 | 400),
            "{method} {route}: {} {}",
            there.status,
            there.body
        );
        assert_eq!(
            (there.status, without_id(&there.body)),
            (nowhere.status, without_id(&nowhere.body)),
            "{method} {route}"
        );
    }
}

/// A problem without its request id.
fn without_id(body: &str) -> String {
    let mut document: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    if let Some(object) = document.as_object_mut() {
        object.remove("instance");
    }
    document.to_string()
}

#[test]
fn each_organization_has_a_process_a_database_and_a_bucket_of_its_own() {
    let service = Service::start();
    let first = service.person("ada", Some("first"));
    let second = service.person("eve", Some("second"));
    for person in [&first, &second] {
        person.run(&["repo", "create", "things"]);
        let file = service.file("x.txt", person.name.as_bytes());
        person.run(&["put", "things@main", &file]);
    }

    eventually("two data planes run", || {
        service.processes(&["howdah-data-plane", "serve"]).len() == 2
    });
    assert_eq!(first.run(&["cat", "things@main:/x.txt"]), "ada");
    assert_eq!(second.run(&["cat", "things@main:/x.txt"]), "eve");
    let tenants: Vec<_> = std::fs::read_dir(service.home.path().join("service/tenants"))
        .expect("a folder of tenants")
        .flatten()
        .collect();
    assert_eq!(tenants.len(), 2);
    let formats: Vec<String> = tenants
        .iter()
        .map(|tenant| std::fs::read_to_string(tenant.path().join("bucket/format")).expect("a bucket says its format"))
        .collect();
    assert!(
        formats.iter().all(|format| format.contains("aes-256-ctr")),
        "{formats:?}"
    );
    assert_ne!(formats[0], formats[1], "each has a key of its own");
}
