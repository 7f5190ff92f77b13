//! What specs say of machines and portions, carried out or told: sets of datums, one node's variables, what there is not.

use contract::api::AppliedPipeline;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::jobs_rig::{LIMIT, Rig, shell, succeeded};

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_claims_no_more_datums_at_a_time_than_the_datum_set_spec_says() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let files: Vec<String> = (0..6).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|name| (name.as_str(), "ten bytes\n")).collect();
    rig.put(&ada, "in", &files).await;
    let pool = PgPool::connect(&rig.config.database_url).await.unwrap();
    let mut most = Vec::new();
    // One that is larger than all that may be taken is taken alone.
    for (number, set) in [
        json!({}),
        json!({ "number": 1 }),
        json!({ "size_bytes": 15 }),
        json!({ "size_bytes": 5 }),
        json!({ "size_bytes": 20 }),
    ]
    .into_iter()
    .enumerate()
    {
        let spec = with(
            shell(&format!("p{number}"), "in", "/*", "sleep 3600"),
            "datum_set_spec",
            set,
        );
        let job = rig.apply(&ada, vec![spec]).await[0].job.unwrap();
        testkit::wait::wait_until("the worker's queue to be full", LIMIT, async || {
            let sql = "select count(*) from datums d join jobs j on j.id = d.job_id where d.state = 'running' and j.state = 'running'";
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.unwrap() >= 4
        })
        .await;
        let sql = "select max(n) from (select count(*) as n from datums where state = 'running' and job_id = $1 group by lease_id) c";
        let found: i64 = sqlx::query_scalar(sql).bind(job.uuid()).fetch_one(&pool).await.unwrap();
        most.push(found);
        let _: Value = rig.post(&ada, &format!("/v1/jobs/{job}/stop"), json!({})).await;
    }
    assert!(most[0] >= 2, "{most:?}");
    assert_eq!(most[1..], [1, 1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_only_a_cluster_makes_sense_of_are_kept_and_told_to_be_without_effect() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let mut spec = shell("p", "in", "/*", "true");
    spec["scheduling_spec"] = json!({ "node_selector": { "disktype": "ssd" } });
    spec["tolerations"] = json!([{ "key": "spot", "operator": "Exists", "effect": "NoSchedule" }]);
    spec["pod_patch"] = json!([{ "op": "add", "path": "/spec/hostname", "value": "x" }]);
    let applied = rig.apply(&ada, vec![spec.clone()]).await;
    assert_eq!(applied[0].warnings.len(), 3, "{:?}", applied[0].warnings);
    assert!(applied[0].warnings[0].contains("processes of one machine"));
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    let again = rig.apply(&ada, vec![spec.clone()]).await;
    assert_eq!((again[0].change.as_str(), again[0].warnings.len()), ("unchanged", 3));
    spec["tolerations"] = json!([]);
    let changed: &AppliedPipeline = &rig.apply(&ada, vec![spec]).await[0];
    assert_eq!(changed.differences, ["/tolerations"]);
    succeeded(&rig.job(&ada, changed.commit_set.unwrap(), "p").await, 1, 0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_executor_cannot_give_is_refused_when_the_spec_is_applied() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let gpu = json!({ "gpu": { "type": "nvidia.com/gpu", "number": 1 } });
    let problem = rig
        .refused(
            &ada,
            vec![
                with(shell("p", "in", "/*", "true"), "resource_limits", gpu),
                with(shell("q", "in", "/*", "true"), "distributed", json!({ "nodes": 2 })),
            ],
        )
        .await;
    let places: Vec<&str> = problem.errors.iter().map(|e| e.pointer.as_str()).collect();
    assert_eq!(
        places,
        ["/specs/0/resource_limits/gpu", "/specs/1/distributed/nodes"],
        "{problem:?}"
    );
    assert!(problem.errors[0].message.contains("remove `gpu`"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_on_one_node_finds_the_variables_of_torchrun() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let script = "echo $MASTER_ADDR $RANK $WORLD_SIZE $PET_NNODES $PET_NPROC_PER_NODE > /pfs/out/found";
    let spec = with(
        shell("p", "in", "/*", script),
        "distributed",
        json!({ "nodes": 1, "processes_per_node": 2 }),
    );
    let applied = rig.apply(&ada, vec![spec]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/found").await, "127.0.0.1 0 2 1 2\n");
}
