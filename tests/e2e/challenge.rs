//! The satellite challenge: a host, two competitors, a template applied for each, a release, a new image, a changed
//! submission.

use serde_json::Value;

use super::harness::{Person, Service};

/// Every competitor's pipelines come from this one template.
const TEMPLATE: &str = r#"
pipeline: { name: "detect-{{ competitor }}" }
transform:
  cmd: ["/bin/sh", "-c", "/pfs/submission-{{ competitor }}/detect /pfs/images/*.ppm > /pfs/out/$(basename /pfs/images/*.ppm).txt"]
input:
  cross:
    - pfs: { repo: "submission-{{ competitor }}", glob: "/" }
    - pfs: { repo: images, glob: "/*" }
---
pipeline: { name: "score-{{ competitor }}" }
transform:
  cmd: ["/bin/sh"]
  stdin:
    - "right=0; total=0; failed="
    - "for truth in /pfs/truth/*.txt; do name=$(basename $truth); total=$((total+1));"
    - "if cmp -s $truth /pfs/detect-{{ competitor }}/$name; then right=$((right+1)); else failed=\"$failed $name\"; fi; done"
    - "echo \"right $right of $total, failed:$failed\" > /pfs/out/report.txt"
input:
  cross:
    - pfs: { repo: "detect-{{ competitor }}", glob: "/" }
    - pfs: { repo: truth, glob: "/" }
"#;

/// Three tiles of a photograph, cut down: what they show does not matter here, that they differ does.
const TILES: [(&str, &[u8]); 3] = [
    ("a.ppm", b"P3 2 1 255  10 200 10  20 190 30\n"),
    ("b.ppm", b"P3 2 1 255  10 20 200  20 30 190\n"),
    ("c.ppm", b"P3 2 1 255  90 180 10  80 220 30\n"),
];

const RED: &str = r#"#!/usr/bin/python3
import sys
for name in sys.argv[1:]:
    numbers = [int(n) for n in open(name).read().split()[4:]]
    print("green" if sum(numbers[1::3]) > sum(numbers[2::3]) else "blue")
"#;

const BLUE: &str = "#!/bin/sh\necho green\n";

struct Challenge<'s> {
    host: Person<'s>,
    red: Person<'s>,
    blue: Person<'s>,
}

fn set_up(service: &Service) -> Challenge<'_> {
    let host = service.person("host", Some("challenge"));
    let red = service.person("red", None);
    let blue = service.person("blue", None);
    host.run(&["repo", "create", "images"]);
    host.run(&["repo", "create", "truth"]);
    for (name, tile) in TILES {
        service.file(&format!("images/{name}"), tile);
        let label = if name == "b.ppm" { "blue\n" } else { "green\n" };
        service.file(&format!("truth/{name}.txt"), label.as_bytes());
    }
    host.run(&["put", "images@main", "images", "-r"]);
    host.run(&["put", "truth@main", "truth", "-r"]);
    let template = service.file("challenge.yaml", TEMPLATE.as_bytes());
    for (competitor, code) in [(&red, RED), (&blue, BLUE)] {
        let name = &competitor.name;
        competitor.joins(&host, "challenge");
        let repo = format!("submission-{name}");
        competitor.run(&["repo", "create", &repo]);
        let script = service.script(&format!("{name}/detect"), code);
        competitor.run(&["put", &format!("{repo}@main:/detect"), &script]);
        competitor.run(&["grant", "add", &format!("user:{}", host.email()), "deriver", &repo]);
        host.run(&[
            "pipeline",
            "apply",
            "-f",
            &template,
            "--set",
            &format!("competitor={name}"),
        ]);
        host.run(&[
            "grant",
            "add",
            &format!("user:{}", competitor.email()),
            "viewer",
            &format!("score-{name}"),
        ]);
        host.run(&[
            "grant",
            "add",
            &format!("user:{}", competitor.email()),
            "viewer",
            &format!("detect-{name}"),
        ]);
        host.run(&[
            "grant",
            "add",
            &format!("user:{}", competitor.email()),
            "discoverer",
            "images",
        ]);
    }
    for name in ["red", "blue"] {
        host.run(&["wait", &format!("score-{name}@main"), "--timeout", "2m"]);
    }
    Challenge { host, red, blue }
}

fn datums(person: &Person<'_>, pipeline: &str) -> (u64, u64, u64) {
    let jobs = person.json(&["job", "list", "--pipeline", pipeline, "--limit", "1"]);
    let job = jobs
        .as_array()
        .or_else(|| jobs["items"].as_array())
        .and_then(|jobs| jobs.first())
        .cloned()
        .unwrap_or(jobs);
    let count = |name: &str| job["datums"][name].as_u64().unwrap_or_else(|| panic!("{job}"));
    (count("total"), count("succeeded"), count("skipped"))
}

#[test]
fn the_host_sees_every_score_and_a_competitor_only_what_was_released() {
    let service = Service::start();
    let Challenge { host, red, blue } = set_up(&service);

    assert_eq!(
        host.run(&["cat", "score-red@main:/report.txt"]),
        "right 3 of 3, failed:\n"
    );
    assert_eq!(
        host.run(&["cat", "score-blue@main:/report.txt"]),
        "right 2 of 3, failed: b.ppm.txt\n"
    );

    // Without a release the competitor may not even read the score of the own submission.
    red.fails(4, &["cat", "score-red@main:/report.txt"]);
    let explained = red.json(&["access", "explain", "score-red@main"]);
    assert_eq!(explained["decision"], "deny");
    let missing = explained.to_string();
    assert!(missing.contains("default/images"), "{missing}");
    assert!(
        missing.contains("restricted upstream"),
        "what red may not know of has no name: {missing}"
    );
    assert!(!missing.contains("truth"), "{missing}");

    release(&host, "red");
    host.run(&["wait", "score-red@main"]);
    assert_eq!(
        red.run(&["cat", "score-red@main:/report.txt"]),
        "right 3 of 3, failed:\n"
    );
    let explained = red.json(&["access", "explain", "score-red@main"]);
    assert_eq!(explained["decision"], "allow");
    assert_eq!(explained["releases"].as_array().map(Vec::len), Some(1));

    // Not the other's report, not the images, not what the own code made of them.
    red.fails(3, &["cat", "score-blue@main:/report.txt"]);
    red.fails(3, &["cat", "submission-blue@main:/detect"]);
    red.fails(3, &["ls", "truth@main"]);
    red.fails(4, &["ls", "images@main"]);
    red.fails(4, &["ls", "detect-red@main"]);
    let denied = red.json(&["access", "explain", "detect-red@main"]);
    assert_eq!(denied["decision"], "deny");
    assert_eq!(denied["missing"][0]["domain"], "default/images");
    assert!(
        denied["missing"][0]["who_can_grant"]
            .to_string()
            .contains("host@example.test"),
        "{denied}"
    );
    blue.fails(4, &["cat", "score-blue@main:/report.txt"]);

    // Taking the release back takes effect at once, also for what was readable.
    let releases = host.json(&["release", "list"]);
    let id = releases
        .as_array()
        .or_else(|| releases["items"].as_array())
        .map_or(releases["id"].clone(), |r| r[0]["id"].clone());
    host.run(&["release", "revoke", id.as_str().expect("a release has an id")]);
    red.fails(4, &["cat", "score-red@main:/report.txt"]);
}

fn release(host: &Person<'_>, competitor: &str) {
    let detect = format!("detect-{competitor}");
    let score = format!("score-{competitor}");
    let args = [
        "release",
        "create",
        "--domain",
        "images",
        "--domain",
        "truth",
        "--domain",
        &detect,
        "--pipeline",
        &score,
    ];
    let purpose = ["--purpose", "a competitor sees the own score", "--retroactive"];
    host.run(&[&args[..], &purpose[..]].concat());
}

#[test]
fn a_new_image_and_a_changed_submission_rerun_only_what_they_touch() {
    let service = Service::start();
    let Challenge { host, red, .. } = set_up(&service);
    let last_week = host.json(&["commit", "show", "score-red@main"]);
    assert_eq!(datums(&host, "detect-red"), (3, 3, 0));

    service.file("new/d.ppm", b"P3 1 1 255  5 9 3\n");
    service.file("new-truth/d.ppm.txt", b"green\n");
    host.run(&["put", "truth@main", "new-truth", "-r"]);
    let put = host.json(&["put", "images@main", "new", "-r"]);
    host.run(&[
        "wait",
        put["commit_set"].as_str().expect("a commit has a set"),
        "--timeout",
        "2m",
    ]);
    assert_eq!(datums(&host, "detect-red"), (4, 1, 3), "one new image is one datum");
    assert_eq!(datums(&host, "detect-blue"), (4, 1, 3));
    assert_eq!(
        host.run(&["cat", "score-red@main:/report.txt"]),
        "right 4 of 4, failed:\n"
    );

    let script = service.script("red/detect", "#!/bin/sh\necho blue\n");
    let put = red.json(&["put", "submission-red@main:/detect", &script]);
    host.run(&[
        "wait",
        put["commit_set"].as_str().expect("a commit has a set"),
        "--timeout",
        "2m",
    ]);
    assert_eq!(
        datums(&host, "detect-red"),
        (4, 4, 0),
        "changed code runs on every image"
    );
    assert_eq!(
        datums(&host, "detect-blue"),
        (4, 1, 3),
        "blue's pipeline was not touched"
    );
    assert_eq!(
        host.run(&["cat", "score-red@main:/report.txt"]),
        "right 1 of 4, failed: a.ppm.txt c.ppm.txt d.ppm.txt\n"
    );

    // Going back to the code of before costs nothing.
    let script = service.script("red/detect", RED);
    let put = red.json(&["put", "submission-red@main:/detect", &script]);
    host.run(&[
        "wait",
        put["commit_set"].as_str().expect("a commit has a set"),
        "--timeout",
        "2m",
    ]);
    assert_eq!(datums(&host, "detect-red"), (4, 0, 4));

    let id = last_week["id"].as_str().expect("a commit has an id");
    assert_eq!(
        host.run(&["cat", &format!("score-red@{id}:/report.txt")]),
        "right 3 of 3, failed:\n"
    );
}

#[test]
fn the_provenance_of_a_report_names_all_that_it_was_made_of() {
    let service = Service::start();
    let Challenge { host, red, .. } = set_up(&service);
    let commit_of = |repo: &str| host.json(&["commit", "show", &format!("{repo}@main")])["id"].clone();

    let lineage = host.json(&["provenance", "score-red@main"]);

    let upstream = lineage["upstream"].as_array().expect("a list");
    let find = |repo: &str| {
        upstream
            .iter()
            .find(|u| u["repo"] == repo)
            .unwrap_or_else(|| panic!("{repo} in {lineage}"))
            .clone()
    };
    for repo in ["images", "truth", "submission-red", "detect-red"] {
        assert_eq!(find(repo)["commit"], commit_of(repo), "{repo}");
    }
    assert_eq!(upstream.len(), 4, "{lineage}");
    assert_eq!(find("detect-red")["pipeline"], "detect-red");
    assert_eq!(find("detect-red")["pipeline_version"], 1);
    assert_eq!(find("images")["pipeline"], Value::Null);
    let report = host.json(&["commit", "show", "score-red@main"]);
    assert_eq!(report["pipeline"], "score-red");
    assert_eq!(report["pipeline_version"], 1);

    assert_eq!(lineage["pipeline"], "score-red");
    assert_eq!(lineage["pipeline_version"], 1);

    // After another image, every commit of the images is named.
    let first = commit_of("images");
    let image = service.file("d.ppm", b"P3 2 1 255  10 200 10  20 190 31\n");
    let put = host.json(&["put", "images@main:/d.ppm", &image]);
    host.run(&["wait", put["commit_set"].as_str().expect("a set"), "--timeout", "2m"]);
    let lineage = host.json(&["provenance", "score-red@main"]).to_string();
    for commit in [&first, &put["id"]] {
        assert!(
            lineage.contains(commit.as_str().expect("an id")),
            "{commit} in {lineage}"
        );
    }

    // Downward from an image: both competitors' results.
    let impact = host.json(&["impact", "images@main"]).to_string();
    for repo in ["detect-red", "score-red", "detect-blue", "score-blue"] {
        assert!(impact.contains(&format!("\"{repo}\"")), "{repo}: {impact}");
    }
    // A competitor sees no name of what may not be discovered.
    release(&host, "red");
    let seen = red.json(&["provenance", "score-red@main"]).to_string();
    assert!(!seen.contains("truth"), "{seen}");
    assert!(seen.contains("\"restricted\":true"), "{seen}");
}
