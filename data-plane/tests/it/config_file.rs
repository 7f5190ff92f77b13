//! The real process configured by a file, as an orchestrator starts it: nobody is at its standard input.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use contract::config::DataPlaneReady;
use testkit::processes::{is_alive, terminate};
use testkit::wait::{wait_for, wait_until};

use crate::jobs_rig::{LIMIT, Rig, worker_of};

fn plane(verb: &str, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah-data-plane"));
    command
        .args([verb, "--config"])
        .arg(config)
        .env("HOWDAH_LOG", "error")
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_configured_by_a_file_needs_no_parent_and_ends_in_order_at_a_signal() {
    let mut rig = Rig::start().await;
    rig.kill9();
    let config = rig.directory.path().join("config.json");
    std::fs::write(&config, serde_json::to_vec_pretty(&rig.config).unwrap()).unwrap();
    assert!(plane("migrate", &config).status().unwrap().success());

    let mut serving = plane("serve", &config).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(serving.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: DataPlaneReady = serde_json::from_str(&line).unwrap();
    let answer = reqwest::get(format!("{}/healthz", ready.url)).await.unwrap();
    assert!(answer.status().is_success());
    let worker = wait_for("its worker", LIMIT, async || worker_of(serving.id())).await;

    terminate(serving.id());
    wait_until("the plane to end", LIMIT, || {
        let ended = serving.try_wait().unwrap().is_some();
        async move { ended }
    })
    .await;
    assert!(serving.wait().unwrap().success());
    wait_until("its worker to end", LIMIT, async || !is_alive(worker)).await;
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = plane("serve", Path::new("/nonexistent/config.json")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("/nonexistent/config.json"),
        "{said}"
    );
}
