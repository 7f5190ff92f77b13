//! Provenance for others: written by one who may read, checked by somebody who has nothing but the file.

use std::process::Command;

use super::harness::{Service, text};

const MANY: &str = r#"{"pipeline":{"name":"many"},"transform":{"cmd":["/bin/sh"],"stdin":["for n in $(seq 1 3000); do echo $n > /pfs/out/f-$n; done","mkdir /pfs/out/d && cp /pfs/raw/* /pfs/out/d/ && chmod +x /pfs/out/d/a"]},"input":{"pfs":{"repo":"raw","glob":"/"}}}"#;
const LAST: &str = r#"{"pipeline":{"name":"last"},"transform":{"cmd":["/bin/sh","-c","cp -r /pfs/many/* /pfs/out/"]},"input":{"pfs":{"repo":"many","glob":"/"}}}"#;

#[test]
fn a_bundle_of_provenance_is_checked_by_somebody_who_has_neither_service_nor_account() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "raw"]);
    for (name, bytes) in [("a", "one"), ("b", "two")] {
        let file = service.file(name, bytes.as_bytes());
        ada.run(&["put", &format!("raw@main:/{name}"), &file]);
    }
    for (name, spec) in [("many.json", MANY), ("last.json", LAST)] {
        let spec = service.file(name, spec.as_bytes());
        ada.run(&["pipeline", "apply", "-f", &spec]);
    }
    ada.run(&["wait", "last@main"]);
    let at = |name: &str| service.files.path().join(name).to_string_lossy().into_owned();
    let (bundle, data) = (at("last.tar"), at("last"));
    let written = ada.json(&["provenance", "last@main", "--bundle", &bundle]);
    assert_eq!(
        (written["commits"].as_u64(), written["files"].as_u64()),
        (Some(4), Some(3002))
    );
    let record = written["record"].as_str().expect("a digest");
    ada.run(&["get", "last@main:/", "-r", "-o", &data]);

    // Somebody else: no address, no session, no home.
    let stranger = |args: &[&str]| {
        let home = tempfile::tempdir().expect("a directory");
        let command = &mut Command::new(super::harness::binaries().join("howdah"));
        let command = command.args(args).env_clear().env("HOWDAH_HOME", home.path());
        let command = command
            .env("HOWDAH_CONFIG_HOME", home.path())
            .env("HOWDAH_URL", "http://127.0.0.1:9");
        command.output().expect("it runs")
    };
    let output = stranger(&["verify", &bundle, "--data", &data, "--expect", record, "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["records"], 4);
    assert_eq!(report["specs"], 2);
    assert_eq!(report["files"], 3002);
    // The commit before the output's on its branch is none of its sources.
    assert_eq!(report["not_checkable"], serde_json::json!([]));

    std::fs::write(format!("{data}/f-77"), "other").expect("it can be written");
    let output = stranger(&["verify", &bundle, "--data", &data]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/f-77"), "{}", text(&output.stderr));
    let mut bytes = std::fs::read(&bundle).expect("it is there");
    bytes[2000] ^= 1;
    std::fs::write(&bundle, bytes).expect("it can be written");
    assert_eq!(stranger(&["verify", &bundle]).status.code(), Some(1));

    let prov = ada.json(&["provenance", "last@main", "--format", "prov"]);
    assert_eq!(prov["wasGeneratedBy"].as_object().map(serde_json::Map::len), Some(4));
    let events = ada.run(&["impact", "raw@main", "--format", "openlineage"]);
    assert_eq!(events.lines().count(), 3, "{events}");
}
