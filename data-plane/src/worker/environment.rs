//! The variables that user code sees, under our names and, where Pachyderm has one, under its.

use super::desk::JobShared;
use super::protocol::{DatumTask, TaskInput};
use super::secrets;

/// The variables of a datum. Those of the spec come first: ours win.
pub fn variables(job: &JobShared, datum: &DatumTask) -> Vec<(String, String)> {
    let task = &job.task;
    let mut all = task.env.clone();
    let secrets = secrets::variables(&task.secrets);
    all.retain(|(name, _)| secrets.iter().all(|(secret, _)| secret != name));
    all.extend(secrets);
    let mut set = |name: String, value: String| {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    };
    let name_of = |input: &TaskInput| task.inputs.get(input.position as usize);
    for input in &datum.inputs {
        let Some(tree) = name_of(input) else { continue };
        let same = datum
            .inputs
            .iter()
            .filter(|other| name_of(other).is_some_and(|t| t.name == tree.name))
            .count();
        // Of several files under one name there is no single path.
        let path = if same == 1 {
            input.path.trim_end_matches('/')
        } else {
            ""
        };
        let place = match tree.code {
            Some(_) => "/code".to_owned(),
            None => format!("/pfs/{}{path}", tree.name),
        };
        set(tree.name.clone(), place);
        set(format!("{}_COMMIT", tree.name), tree.commit.to_string());
        if let Some(key) = &input.join_on {
            set(format!("HOWDAH_JOIN_ON_{}", tree.name), key.clone());
            set(format!("PACH_DATUM_{}_JOIN_ON", tree.name), key.clone());
        }
        if let Some(key) = &input.group_by {
            set(format!("HOWDAH_GROUP_BY_{}", tree.name), key.clone());
            set(format!("PACH_DATUM_{}_GROUP_BY", tree.name), key.clone());
        }
    }
    let (pipeline, output) = (&task.pipeline, task.output_commit.to_string());
    set("HOWDAH_DATUM_ID".to_owned(), datum.key.clone());
    set("PACH_DATUM_ID".to_owned(), datum.key.clone());
    set("HOWDAH_JOB_ID".to_owned(), datum.job.to_string());
    set("PACH_JOB_ID".to_owned(), datum.job.to_string());
    set("HOWDAH_OUTPUT_COMMIT".to_owned(), output.clone());
    set("PACH_OUTPUT_COMMIT_ID".to_owned(), output);
    set("HOWDAH_PIPELINE".to_owned(), pipeline.clone());
    let name = pipeline.rsplit('/').next().unwrap_or(pipeline);
    set("PPS_PIPELINE_NAME".to_owned(), name.to_owned());
    all
}
