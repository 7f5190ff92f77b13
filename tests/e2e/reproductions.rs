//! A whole chain made again, from what people made on.

use super::harness::Service;

#[test]
fn a_whole_chain_is_reproduced_from_what_people_made_and_gone_on_with_by_its_id() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "raw"]);
    let file = service.file("a", b"one");
    ada.run(&["put", "raw@main:/a", &file]);
    let spec = |name: &str, from: &str, script: &str| {
        let spec = serde_json::json!({
            "pipeline": { "name": name }, "transform": { "cmd": ["/bin/sh", "-c", script] },
            "input": { "pfs": { "repo": from, "glob": "/*" } },
        });
        let spec = service.file(&format!("{name}.json"), spec.to_string().as_bytes());
        ada.run(&["pipeline", "apply", "-f", &spec]);
    };
    spec("up", "raw", "tr a-z A-Z < /pfs/raw/a > /pfs/out/a");
    spec("twice", "up", "cat /pfs/up/a /pfs/up/a > /pfs/out/a");
    ada.run(&["wait", "twice@main"]);
    let whole = ada.json(&["reproduce", "twice@main", "--deep"]);
    let steps = whole["steps"].as_array().expect("steps");
    let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    assert!(
        names.len() == 2 && names[0].contains("/up@") && names[1].contains("/twice@"),
        "{names:?}"
    );
    assert!(steps.iter().all(|step| step["state"] == "identical"), "{whole}");

    // Going on runs nothing again.
    let id = whole["id"].as_str().expect("an id");
    let again = ada.json(&["reproduce", "twice@main", "--deep", "--continue", id]);
    for (before, now) in steps.iter().zip(again["steps"].as_array().expect("steps")) {
        assert_eq!(before["reproduction"]["id"], now["reproduction"]["id"]);
    }

    // The first commit that differs is named, with its first path; what was made from it is not run.
    spec("clock", "up", "date +%s%N > /pfs/out/now");
    spec("last", "clock", "cp /pfs/clock/now /pfs/out/now");
    ada.run(&["wait", "last@main"]);
    let said = ada.fails(1, &["reproduce", "last@main", "--deep"]);
    assert!(said.contains("/clock@") && said.contains("/now"), "{said}");
    let said = ada.fails(2, &["reproduce", "raw@main", "--deep"]);
    assert!(said.contains("no pipeline made it"), "{said}");
}
