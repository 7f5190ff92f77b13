//! What running datums costs beyond the sandboxes themselves, and what planning one new datum costs in small and large
//! repos. Ratios within one run count, not times.

#[path = "../tests/it/control.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests")]
mod control;
#[path = "../tests/it/jobs_rig.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests")]
mod jobs_rig;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jobs_rig::{Person, Rig};
use sandbox::{Exit, Isolation, Run};
use serde_json::{Value, json};

const DATUMS: usize = 1000;
const SLOTS: usize = 2;
const ROUNDS: usize = 3;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap_or_else(|e| panic!("{e}"));
    runtime.block_on(async {
        overhead().await;
        planning().await;
    });
}

/// The same command, sandbox and parallelism, with nothing of ours around.
fn bare(sandbox_binary: &Path) -> Duration {
    let isolation = sandbox::probe(sandbox_binary);
    assert_ne!(
        isolation,
        Isolation::Plain,
        "the sandboxes of this machine isolate nothing"
    );
    let directory = testkit::temporary_directory();
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SLOTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= DATUMS {
                        return;
                    }
                    spawn_one(sandbox_binary, isolation, &directory.path().join(number.to_string()));
                }
            });
        }
    });
    began.elapsed()
}

fn spawn_one(sandbox_binary: &Path, isolation: Isolation, place: &Path) {
    let run = Run {
        command: vec!["/bin/true".to_owned()],
        pfs: place.join("pfs"),
        inputs: vec!["in".to_owned()],
        scratch: place.join("tmp"),
        ..Run::default()
    };
    for made in [run.pfs.join("in"), run.pfs.join("out"), run.scratch.clone()] {
        std::fs::create_dir_all(made).unwrap_or_else(|e| panic!("{e}"));
    }
    let running = sandbox::spawn(sandbox_binary, isolation, &run).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(running.wait().exit, Exit::Code(0));
}

async fn overhead() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put_archive(&ada, "in", archive(DATUMS)).await;
    let sandbox_binary = rig.config.sandbox_binary.clone();
    for round in 1..=ROUNDS {
        let path = sandbox_binary.clone();
        let alone = tokio::task::spawn_blocking(move || bare(&path))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        let spec = json!({
            "pipeline": { "name": "noop" },
            "transform": { "cmd": ["/bin/true"] },
            "input": { "pfs": { "repo": "in", "glob": "/*" } },
            "salt": round.to_string(),
        });
        let began = Instant::now();
        let applied = rig.apply(&ada, vec![spec]).await;
        let set = applied[0].commit_set.unwrap_or_else(|| panic!("no job was begun"));
        let job = rig.job(&ada, set, "noop").await;
        let ours = began.elapsed();
        assert_eq!(job.datums.succeeded, DATUMS as u64);
        println!(
            "{DATUMS} no-op datums, {SLOTS} at once: bare sandboxes {alone:.2?}, as a job {ours:.2?}, ratio {:.2} (at most 2)",
            ours.as_secs_f64() / alone.as_secs_f64()
        );
    }
}

fn archive(files: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..files {
        let text = format!("file {number}");
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let path = format!("f{number:06}");
        builder
            .append_data(&mut header, path, text.as_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
    }
    builder.into_inner().unwrap_or_else(|e| panic!("{e}"))
}

/// What finds one new file among the others: the kind of input and the input.
fn inputs(repo: &str) -> [(&'static str, Value); 5] {
    let pfs = |repo: &str, glob: &str| json!({ "pfs": { "repo": repo, "name": "n", "glob": glob } });
    let keyed = |repo: &str, grouped: bool| {
        let mut pfs = json!({ "repo": repo, "glob": "/(*)", "join_on": "$1" });
        if grouped {
            pfs["group_by"] = json!("$1");
        }
        json!({ "pfs": pfs })
    };
    // Every file has a key, and few of them one that makes a datum.
    let join = |grouped: bool| json!({ "join": [keyed(repo, grouped), keyed("new", grouped)] });
    [
        // Nothing that globs begin with narrows the listing.
        ("pfs", pfs(repo, "/?ew*")),
        ("union", json!({ "union": [pfs(repo, "/?ew*"), pfs(repo, "/??w*")] })),
        (
            "cross",
            json!({ "cross": [pfs(repo, "/?ew*"), { "pfs": { "repo": "new", "glob": "/0*" } }] }),
        ),
        ("join", join(false)),
        ("group", json!({ "group": [join(true)] })),
    ]
}

async fn planning() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "new").await;
    let labels: Vec<String> = ["join", "group"]
        .iter()
        .flat_map(|kind| (0..ROUNDS).map(move |round| format!("new{kind}{round}")))
        .collect();
    let labels: Vec<(&str, &str)> = labels
        .iter()
        .map(|name| (name.as_str(), ""))
        .chain([("0", "")])
        .collect();
    rig.put(&ada, "new", &labels).await;
    let sizes = [1_000, 100_000];
    for files in sizes {
        let repo = format!("r{files}");
        rig.repo(&ada, &repo).await;
        rig.put_archive(&ada, &repo, archive(files)).await;
    }
    let kinds = inputs("").map(|(kind, _)| kind);
    for (at, kind) in kinds.into_iter().enumerate() {
        let mut times = Vec::new();
        for files in sizes {
            let repo = format!("r{files}");
            let name = format!("{kind}{files}");
            let spec = json!({
                "pipeline": { "name": name },
                "transform": { "cmd": ["/bin/true"] },
                "input": inputs(&repo)[at].1,
            });
            let applied = rig.apply(&ada, vec![spec]).await;
            let set = applied[0].commit_set.unwrap_or_else(|| panic!("no job was begun"));
            rig.job(&ada, set, &name).await;
            let mut best = f64::MAX;
            for round in 0..ROUNDS {
                let file = format!("new{kind}{round}");
                best = best.min(one(&rig, &ada, &repo, &name, &file).await);
            }
            let _: Value = rig
                .post(&ada, &format!("/v1/pipelines/default/{name}/stop"), json!({}))
                .await;
            times.push(best);
        }
        println!(
            "planning one new datum of a {kind}, {sizes:?} files: {:.1} ms and {:.1} ms, ratio {:.2} (at most 2)",
            times[0] * 1000.0,
            times[1] * 1000.0,
            times[1] / times[0]
        );
    }
}

/// Seconds from the start of a job until its datums were planned.
async fn one(rig: &Rig, ada: &Person, repo: &str, pipeline: &str, file: &str) -> f64 {
    let put = rig.put(ada, repo, &[(file, "new")]).await;
    let job = rig.job(ada, put.commit_set, pipeline).await;
    assert_eq!(job.datums.succeeded, 1, "{job:?}");
    let pool = sqlx::PgPool::connect(&rig.config.database_url)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    sqlx::query_scalar::<_, f64>(
        "select extract(epoch from min(d.queued_at) - j.started_at)::float8 from jobs j join datums d on d.job_id = j.id
          where j.id = $1 group by j.started_at",
    )
    .bind(job.id.uuid())
    .fetch_one(&pool)
    .await
    .unwrap_or_else(|e| panic!("{e}"))
}
