//! What takes something out of the past: `commit squash`, `commit drop`.

use contract::api::{RemoveCommits, RemovedCommits};
use contract::ids::CommitId;

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::output::{Output, or_dash};
use crate::references::commit;

/// A commit with its project, or a commit set's id as it is.
fn target(text: &str, default_project: &str) -> Outcome<String> {
    if text.len() == 32 && text.parse::<CommitId>().is_ok() {
        return Ok(text.to_owned());
    }
    commit(text, default_project)
}

/// `commit squash` (`way` = `squash`) and `commit drop` (`drop`).
///
/// # Errors
/// What the service answers.
pub async fn remove(
    way: &str,
    reference: &str,
    (dry_run, force): (bool, bool),
    client: &Client,
    output: Output,
) -> Outcome {
    let body = RemoveCommits {
        reference: target(reference, &client.settings.project)?,
        dry_run,
        force,
    };
    let request = Request::post(format!("/v1/commits/{way}")).body(&body)?;
    let done: RemovedCommits = client.plane(request).await?;
    let word = match (dry_run, way) {
        (true, "squash") => "would squash",
        (true, _) => "would drop",
        (false, "squash") => "squashed",
        (false, _) => "dropped",
    };
    output.result(&done, || describe(word, &done))
}

fn describe(word: &str, done: &RemovedCommits) -> String {
    let mut lines = Vec::new();
    for here in &done.repos {
        let name = format!("{}/{}", here.project, here.repo);
        let ids: Vec<String> = here.commits.iter().map(ToString::to_string).collect();
        let more = here.count.saturating_sub(here.commits.len() as u64);
        let more = if more > 0 {
            format!(" and {more} older")
        } else {
            String::new()
        };
        lines.push(format!("{word} {} in {name}: {}{more}", here.count, ids.join(" ")));
        for moved in &here.branches {
            lines.push(format!("  {name}@{} -> {}", moved.branch, or_dash(moved.head)));
        }
    }
    let stopped = if done.dry_run { "would stop" } else { "stopped" };
    lines.extend(done.jobs.iter().map(|job| format!("{stopped} {job}")));
    if done.restricted {
        lines.push("and something that you may not know of, so it will be refused".to_owned());
    } else if done.dry_run && done.needs_force {
        lines.push("more than was named: repeat it with --force".to_owned());
    }
    lines.join("\n")
}
