//! What takes something out of the past: `commit squash`, `commit drop`, `purge`.

use clap::{Args, Subcommand};
use contract::api::{Purge as Receipt, PurgePath, PurgeState, RemoveCommits, RemovedCommits};
use contract::ids::CommitId;
use contract::reference::split_path;

use crate::client::{Client, Request, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, or_dash, time};
use crate::references::{commit, full_repo};

/// Remove a file or directory from all history, with what was made from it.
///
/// It leaves every commit of every branch. Outputs that were made from it are given up, what their datums gave and said is
/// deleted, and the pipelines run again on what is left. Copies in other places are named and stay. The bytes are gone when
/// garbage has been collected: the receipt says so then.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Example: howdah purge images:/portrait.ppm --dry-run\n         howdah purge images:/portrait.ppm --force"
)]
pub struct Purge {
    #[command(subcommand)]
    command: Option<Receipts>,
    /// `REPO:/PATH`
    #[arg(required = true)]
    target: Option<String>,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Also where something was made from it or copied
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum Receipts {
    /// List the receipts of purges in repos that you own, newest first
    #[command(after_help = "Example: howdah purge list")]
    List,
    /// Show a receipt, and whether the bytes are gone
    #[command(after_help = "Example: howdah purge show prg_0190c0de0190c0de0190c0de0190c0de --json")]
    Show {
        /// Its id
        id: String,
    },
}

/// `howdah purge`.
///
/// # Errors
/// What the service answers.
pub async fn purge(arguments: Purge, client: &Client, output: Output) -> Outcome {
    match (arguments.command, arguments.target) {
        (Some(Receipts::List), _) => {
            let items: Vec<Receipt> = client.plane_list(Request::get("/v1/purges"), None).await?;
            output.list(&items, &["id", "state", "purged", "by", "at"], |r| {
                let what = format!("{}/{}:{}", r.project, r.repo, r.path);
                vec![
                    r.id.to_string(),
                    word(r.state).to_owned(),
                    what,
                    r.by.name.clone(),
                    time(&r.at),
                ]
            })
        }
        (Some(Receipts::Show { id }), _) => {
            let request = Request::get(format!("/v1/purges/{}", segment(&id)));
            let found: Receipt = client.plane(request).await?;
            output.result(&found, || receipt(&found))
        }
        (None, target) => {
            let target = target.unwrap_or_default();
            let (repo, path) = split_path(&target);
            let path = path.ok_or_else(|| {
                Failure::usage("wrong usage", format!("`{target}` names no path"), "write `REPO:/PATH`")
            })?;
            let body = PurgePath {
                repo: full_repo(repo, &client.settings.project)?,
                path: path.to_owned(),
                dry_run: arguments.dry_run,
                force: arguments.force,
            };
            let spinner = output.spinner("looking through all commits");
            let done: Receipt = client.plane(Request::post("/v1/purges").body(&body)?).await?;
            spinner.finish_and_clear();
            output.result(&done, || receipt(&done))
        }
    }
}

fn word(state: PurgeState) -> &'static str {
    match state {
        PurgeState::Pending => "pending",
        PurgeState::Erased => "erased",
    }
}

fn receipt(receipt: &Receipt) -> String {
    let head = if receipt.dry_run {
        "would be purged".to_owned()
    } else {
        format!("{} purged by {} at {}", receipt.id, receipt.by.name, time(&receipt.at))
    };
    let mut lines = vec![
        format!("{}/{}:{}  {head}", receipt.project, receipt.repo, receipt.path),
        format!(
            "commits without it   {}, {} open",
            receipt.rewritten, receipt.open_commits
        ),
    ];
    for here in &receipt.voided {
        lines.push(format!(
            "made from it, gone   {} in {}/{}",
            here.count, here.project, here.repo
        ));
    }
    for copy in &receipt.copies {
        let name = format!("{}/{}@{}", copy.project, copy.repo, copy.commit);
        lines.push(format!("copied, NOT purged   {name}"));
    }
    if receipt.restricted {
        lines.push("and something that you may not know of".to_owned());
    }
    lines.push(format!(
        "deleted              {} results, {} lines of logs, {} jobs stopped",
        receipt.results, receipt.log_lines, receipt.jobs
    ));
    let packs = receipt.packs.len();
    lines.push(match receipt.erased_at {
        Some(at) => format!("bytes                erased, known since {}", time(&at)),
        None => format!("bytes                in {packs} packs until garbage is collected"),
    });
    lines.join("\n")
}

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
