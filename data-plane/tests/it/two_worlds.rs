//! Two copies of a plane that differ only in what is hidden from somebody, and one random program of his: he must not be able to tell them
//! apart, not by a status, a body, a header or an order (R15). Ids differ, so they are compared by where each was met first.
//!
//! `SEED=n` replays one; `WORLDS=n` runs as many.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::Request;
use contract::api::Commit;
use contract::policy::Role;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::app::{App, Person, archive};

const STEPS: usize = 60;
/// What he asks about: some that he may read, one that he may know of, hidden ones, one that is nowhere.
const NAMES: [&str; 7] = ["open", "read", "known", "alpha", "beta", "hid", "nowhere"];
/// A path of each, and one of none.
const PATHS: [&str; 4] = ["/a", "/dir/b", "/secret", "/none"];

struct World {
    app: App,
    bob: Person,
    /// A commit that he may not know of.
    hidden: String,
    met: HashMap<String, usize>,
}

/// The same for both, but for what is in `alpha`, and whether there are `beta` and a pipeline `hid` that reads what bob may read.
async fn world(rich: bool) -> World {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let open = app.repo(&ada, "open").await;
    let read = app.repo(&ada, "read").await;
    let known = app.repo(&ada, "known").await;
    app.repo(&ada, "alpha").await;
    app.put(&ada, "alpha", &[("a", b"1")]).await.ok();
    if rich {
        app.repo(&ada, "beta").await;
        app.put(&ada, "beta", &[("a", b"2"), ("secret", b"of beta")]).await.ok();
        app.put(&ada, "alpha", &[("secret", b"much more of it"), ("dir/b", b"3")])
            .await
            .ok();
        let spec = json!({
            "pipeline": { "name": "hid" },
            "transform": { "cmd": ["/bin/true"] },
            "input": { "cross": [{ "pfs": { "repo": "read", "glob": "/*" } }, { "pfs": { "repo": "alpha", "glob": "/*" } }] },
        });
        app.post(&ada, "/v1/pipelines", json!({ "specs": [spec] })).await.ok();
    }
    for repo in ["open", "read", "known"] {
        app.put(&ada, repo, &[("a", b"1"), ("dir/b", b"2")]).await.ok();
    }
    // Made from `alpha`: bob may know of it and not read it, and not of what it was made from.
    let copy = json!({ "from_ref": "alpha", "from_path": "/a", "repo": "known", "path": "/copy" });
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.grant(&bob, Role::Contributor, &open).await;
    app.grant(&bob, Role::Viewer, &read).await;
    app.grant(&bob, Role::Viewer, &known).await;
    let hidden: Commit = app.get(&ada, "/v1/commits?ref=alpha").await.json();
    // The epoch is the organization's and told to every member (R13): it grows with what is hidden from him too.
    while app.control.epoch() < 50 {
        app.control.change(|_| {});
    }
    app.caught_up().await;
    World {
        hidden: hidden.id.to_string(),
        app,
        bob,
        met: HashMap::new(),
    }
}

/// A request of the program: method, address, body. `HIDDEN` stands for a commit that each world hides.
type Asked = (&'static str, String, Vec<u8>);

fn get(uri: String) -> Asked {
    ("GET", uri, Vec::new())
}

fn post(uri: &str, body: &serde_json::Value) -> Asked {
    ("POST", uri.to_owned(), body.to_string().into_bytes())
}

/// Looks at lists, which must not count, order or page by what is hidden.
fn list(random: &mut StdRng) -> Asked {
    let limit = random.random_range(1..4);
    let uri = [
        "/v1/repos?",
        "/v1/projects?",
        "/v1/projects/default/repos?",
        "/v1/pipelines?",
        "/v1/jobs?",
        "/v1/projects/default/secrets?",
        "/v1/purges?",
    ];
    get(format!("{}limit={limit}", uri.choose(random).unwrap()))
}

/// Looks at one thing.
fn look(random: &mut StdRng) -> Asked {
    let name = *NAMES.choose(random).unwrap();
    let path = *PATHS.choose(random).unwrap();
    let reference = match random.random_range(0..5) {
        0 => format!("{name}@HIDDEN"),
        1 => format!("{name}@main^"),
        2 => format!("{name}@other"),
        _ => name.to_owned(),
    };
    let other = NAMES.choose(random).unwrap();
    get(match random.random_range(0..20) {
        0 => format!("/v1/projects/default/repos/{name}"),
        1 => format!("/v1/projects/default/repos/{name}/branches"),
        2 => format!("/v1/projects/default/repos/{name}/statistics"),
        3 => format!("/v1/log?ref={reference}&limit=2"),
        4 => format!("/v1/files?ref={reference}&recursive=true"),
        5 => format!("/v1/files?ref={reference}&glob=/*"),
        6 => format!("/v1/content?ref={reference}&path={path}"),
        7 => format!("/v1/archive?ref={reference}"),
        8 => format!("/v1/diff?a={reference}&b={other}"),
        9 => format!("/v1/provenance?ref={reference}"),
        10 => format!("/v1/impact?ref={reference}"),
        11 => format!("/v1/evidence?ref={reference}"),
        12 => format!("/v1/access/explain?ref={reference}"),
        13 => format!("/v1/access/who-can-read?ref={reference}"),
        14 => format!("/v1/access/exposure?repo={name}"),
        15 => format!("/v1/wait?target={reference}&timeout_seconds=0"),
        16 => format!("/v1/pipelines/default/{name}"),
        17 => format!("/v1/jobs?pipeline=default/{name}"),
        18 => format!("/v1/critical-path?target={reference}"),
        _ => format!("/v1/commits?ref={reference}"),
    })
}

/// Tries to change or use something. What he makes himself has no hidden name: names are taken or not for everybody.
fn attempt(random: &mut StdRng, step: usize) -> Asked {
    let name = *NAMES.choose(random).unwrap();
    let path = *PATHS.choose(random).unwrap();
    match random.random_range(0..12) {
        0 => post(
            "/v1/copies",
            &json!({ "from_ref": name, "from_path": path, "repo": "open", "path": format!("/copy{step}") }),
        ),
        1 => (
            "POST",
            format!("/v1/files?repo={name}&path=new{step}"),
            archive(&[("x", b"1")]),
        ),
        2 => ("DELETE", format!("/v1/files?repo={name}&path={path}"), Vec::new()),
        3 => post(
            &format!("/v1/projects/default/repos/{name}/branches"),
            &json!({ "name": format!("b{step}"), "from": name }),
        ),
        4 => ("DELETE", format!("/v1/projects/default/repos/{name}"), Vec::new()),
        5 => post("/v1/commits", &json!({ "repo": name, "branch": format!("s{step}") })),
        6 => post("/v1/chunks", &json!({ "ref": name, "paths": [path] })),
        7 => post(
            "/v1/pipelines",
            &json!({ "dry_run": true, "specs": [{
                "pipeline": { "name": format!("p{step}") },
                "transform": { "cmd": ["/bin/true"] },
                "input": { "pfs": { "repo": name, "glob": "/*" } },
            }] }),
        ),
        8 => post(
            "/v1/access/what-if",
            &json!({ "grant": { "subject": "user:bob", "role": "viewer", "resource": name } }),
        ),
        9 => post(
            "/v1/access/what-if",
            &json!({ "release": { "domains": [name], "pipeline": "hid" } }),
        ),
        10 => post(
            "/v1/commits/squash",
            &json!({ "ref": format!("{name}@HIDDEN"), "dry_run": true }),
        ),
        _ => post("/v1/reproductions", &json!({ "ref": name })),
    }
}

impl World {
    /// What bob gets for it: status, headers and body, with ids by where each was met first.
    async fn ask(&mut self, (method, uri, body): &Asked) -> String {
        let body = String::from_utf8_lossy(body).replace("HIDDEN", &self.hidden);
        let request = Request::builder()
            .method(*method)
            .uri(uri.replace("HIDDEN", &self.hidden))
            .header("authorization", format!("Bearer {}", self.bob.token))
            .header(
                "content-type",
                if uri.contains("/files") {
                    "application/x-tar"
                } else {
                    "application/json"
                },
            )
            .header("x-request-id", "same")
            .body(Body::from(body.into_bytes()))
            .unwrap();
        let reply = self.app.send(request).await;
        let mut headers: Vec<String> = reply.headers.iter().map(|(n, v)| format!("{n}: {v:?}")).collect();
        headers.sort();
        let text = format!(
            "{}\n{}\n{}",
            reply.status,
            headers.join("\n"),
            String::from_utf8_lossy(&reply.body)
        );
        self.without_ids(&text)
    }

    fn without_ids(&mut self, text: &str) -> String {
        let (mut out, mut run) = (String::new(), String::new());
        for c in text.chars().chain(['\n']) {
            if c.is_ascii_digit() || ('a'..='f').contains(&c) {
                run.push(c);
                continue;
            }
            // Shorter ones are words and sizes.
            if run.len() >= 32 {
                let count = self.met.len();
                let place = *self.met.entry(run.clone()).or_insert(count);
                out.push_str(&format!("#{place}"));
            } else {
                out.push_str(&run);
            }
            run.clear();
            out.push(c);
        }
        out
    }
}

async fn compare(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut poor, mut rich) = (world(false).await, world(true).await);
    for step in 0..STEPS {
        let asked = match random.random_range(0..5) {
            0 => list(&mut random),
            1..4 => look(&mut random),
            _ => attempt(&mut random, step),
        };
        let (one, two) = (poor.ask(&asked).await, rich.ask(&asked).await);
        let body = String::from_utf8_lossy(&asked.2);
        assert_eq!(one, two, "SEED={seed}, step {step}: {} {} {body}", asked.0, asked.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_know_of_something_cannot_tell_the_world_that_has_it_from_the_one_that_has_not() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = asked("SEED") {
        return compare(seed).await;
    }
    let first = rand::random::<u32>();
    for n in 0..asked("WORLDS").unwrap_or(4) {
        let seed = u64::from(first) + n;
        println!("SEED={seed} cargo test --workspace --test it two_worlds");
        compare(seed).await;
    }
}
