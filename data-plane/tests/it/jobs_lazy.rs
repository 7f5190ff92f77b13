//! Lazy inputs: files that are there at once and fetched when they are read.

use contract::api::{Datum, Job};
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

const LARGE: usize = 16 << 20;

/// A file of 16 MiB of which no two blocks are equal, beside a program.
async fn rig() -> (Rig, Person) {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let mut content = vec![0_u8; LARGE];
    for (n, block) in content.chunks_mut(8).enumerate() {
        block.copy_from_slice(&(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    add("d/large", 0o644, &content);
    add("d/program", 0o755, b"#!/bin/sh\necho ran\n");
    add("small", 0o644, b"small");
    rig.put_archive(&ada, "in", builder.into_inner().unwrap()).await;
    (rig, ada)
}

fn lazy(name: &str, script: &str) -> Value {
    let mut spec = shell(name, "in", "/", script);
    spec["input"]["pfs"]["lazy"] = json!(true);
    spec
}

async fn ran(rig: &Rig, ada: &Person, spec: Value) -> (Job, Datum) {
    let name = spec["pipeline"]["name"].as_str().unwrap().to_owned();
    let applied = rig.apply(ada, vec![spec]).await;
    let job = rig.job(ada, applied[0].commit_set.unwrap(), &name).await;
    let datum = rig.datums(ada, job.id).await.remove(0);
    (job, datum)
}

/// Mounts of lazy inputs below the rig's directory.
fn mounts(rig: &Rig) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = rig.directory.path().display().to_string();
    table
        .lines()
        .filter(|line| line.contains(&below) && line.contains(" howdah-lazy "))
        .count()
}

fn is_mountable() -> bool {
    std::path::Path::new("/dev/fuse").exists()
}

/// Where lazy inputs cannot be mounted their files are there all the same, and the log says so.
async fn fetched_whole(rig: &Rig, ada: &Person, job: &Job, end: &Datum) {
    assert!(end.bytes_in.unwrap_or(0) > LARGE as u64);
    assert_eq!(rig.cat(ada, "end@main", "/size").await.trim(), LARGE.to_string());
    let lines = rig.logs(ada, job.id).await;
    assert!(
        lines.iter().any(|line| line.text.contains("FUSE does not work here")),
        "{lines:?}"
    );
}

/// Reads the end of the large file, and looks at everything else.
const END: &str = "stat -c %s /pfs/in/d/large > /pfs/out/size; tail -c 4096 /pfs/in/d/large > /pfs/out/end; \
    /pfs/in/d/program > /pfs/out/program; ls -R /pfs/in > /pfs/out/names; ln -s /pfs/in/small /pfs/out/link; \
    echo x 2> /dev/null > /pfs/in/small && exit 1; true";

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_input_costs_what_is_read_of_it() {
    let (rig, ada) = rig().await;
    let (job, end) = ran(&rig, &ada, lazy("end", END)).await;
    succeeded(&job, 1, 1, 0);
    if !is_mountable() {
        return fetched_whole(&rig, &ada, &job, &end).await;
    }
    assert_eq!(rig.cat(&ada, "end@main", "/size").await.trim(), LARGE.to_string());
    assert_eq!(rig.cat(&ada, "end@main", "/program").await, "ran\n");
    assert_eq!(rig.cat(&ada, "end@main", "/link").await, "small");
    assert!(rig.cat(&ada, "end@main", "/names").await.contains("large"));
    let bytes_in = end.bytes_in.unwrap_or(0);
    assert!((4096..LARGE as u64 / 4).contains(&bytes_in), "{bytes_in}");
    let (_, all) = ran(
        &rig,
        &ada,
        lazy("all", "b3=$(sha256sum < /pfs/in/d/large); echo $b3 > /pfs/out/sum"),
    )
    .await;
    let bytes_in = all.bytes_in.unwrap_or(0);
    assert!(bytes_in >= LARGE as u64, "{bytes_in}");
    let eager = shell(
        "eager",
        "in",
        "/",
        "b3=$(sha256sum < /pfs/in/d/large); echo $b3 > /pfs/out/sum",
    );
    ran(&rig, &ada, eager).await;
    assert_eq!(
        rig.cat(&ada, "all@main", "/sum").await,
        rig.cat(&ada, "eager@main", "/sum").await
    );
    assert_eq!(mounts(&rig), 0);
    // How files are brought makes no datum new.
    let again = shell(
        "all",
        "in",
        "/",
        "b3=$(sha256sum < /pfs/in/d/large); echo $b3 > /pfs/out/sum",
    );
    let applied = rig.apply(&ada, vec![again]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "all").await;
    succeeded(&job, 1, 0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_no_mounts_and_the_datum_runs_again() {
    let (rig, ada) = rig().await;
    if !is_mountable() {
        let (job, end) = ran(&rig, &ada, lazy("end", END)).await;
        return fetched_whole(&rig, &ada, &job, &end).await;
    }
    let script = "tail -c 4096 /pfs/in/d/large > /pfs/out/end; sleep 5";
    let applied = rig.apply(&ada, vec![lazy("slow", script)]).await;
    testkit::wait::wait_until("the lazy input to be mounted", LIMIT, async || mounts(&rig) == 1).await;
    testkit::processes::kill9(rig.worker_pid().unwrap());
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "slow").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(mounts(&rig), 0);
}
