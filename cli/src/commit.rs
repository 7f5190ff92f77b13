//! Commits, and the log of a branch or path.

use clap::{Args, Subcommand};
use contract::api::{Attest, Commit as CommitView, CommitState, ImportedSource, Page};

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::output::{Output, or_dash, size, time};
use crate::references::{commit, commit_and_path, place};

/// Commits
#[derive(Debug, Subcommand)]
pub enum Commit {
    /// Begin a commit that several commands add to
    #[command(after_help = "Example: howdah commit start images@main -m \"October\"")]
    Start {
        /// `REPO@BRANCH`
        branch: String,
        /// What it is about
        #[arg(short, long, default_value = "")]
        message: String,
    },
    /// Finish the open commit of a branch; several of them in one transaction, as one commit set
    #[command(
        after_help = "Example: howdah commit finish images@main\n         howdah commit finish images@main truth@main"
    )]
    Finish {
        /// Branches or commits
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Show a commit
    #[command(after_help = "Example: howdah commit show score-red@main --json")]
    Show {
        /// Branch or commit
        reference: String,
    },
    /// List the commits of a branch, newest first
    #[command(after_help = "Example: howdah commit list images@main -n 5")]
    List {
        /// Branch or commit to begin with
        reference: String,
        /// At most so many
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Answer for what a spout received: from then on it takes no more rights than other data
    ///
    /// A commit holds the files of those before it, so they are attested with it, back to one that was attested. Needs read
    /// on it and `declassify` (the role owner) on the spout's repo of what is not attested, `<pipeline>_unattested`.
    #[command(
        after_help = "Example: howdah commit show feed@main\n         howdah commit attest feed@0190c0de0190c0de0190c0de0190c0de -m \"compared with the sender's list\""
    )]
    Attest {
        /// Commit, by its id: a branch moves with what is received
        reference: String,
        /// Why it may be trusted
        #[arg(short, long, default_value = "")]
        message: String,
    },
    /// Give up the content of a commit whose data the commits after it keep
    #[command(
        after_help = "Example: howdah commit squash images@main^ --dry-run\n         howdah commit squash images@main^"
    )]
    Squash {
        /// Commit, or the id of a commit set
        reference: String,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a commit with everything that was made from it
    ///
    /// Branches go back to what is left; pipelines run again where that changes what they read. What was removed keeps its
    /// place in provenance, without content.
    #[command(
        after_help = "Example: howdah commit drop images@main --dry-run\n         howdah commit drop images@main --force"
    )]
    Drop {
        /// Commit, branch (its newest commit), or the id of a commit set
        reference: String,
        /// Only tell what would go
        #[arg(long)]
        dry_run: bool,
        /// Also what was made from it
        #[arg(long)]
        force: bool,
    },
}

/// Show the commits of a branch, or those that changed a path, newest first.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah log images@main:/tile-01.ppm -n 10")]
pub struct Log {
    /// `REF` or `REF:/PATH`
    reference: String,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Commit, client: &Client, output: Output) -> Outcome {
    let default = &client.settings.project;
    let shown = match command {
        Commit::Start { branch, message } => {
            let target = place(&branch, default)?;
            let body = serde_json::json!({ "repo": target.repo, "branch": target.branch, "message": message });
            client
                .plane::<CommitView>(Request::post("/v1/commits").body(&body)?)
                .await?
        }
        Commit::Finish { references } if references.len() > 1 => {
            let refs: Vec<String> = references
                .iter()
                .map(|reference| commit(reference, default))
                .collect::<Outcome<_>>()?;
            let request = Request::post("/v1/commits/finish-together");
            let body = serde_json::json!({ "refs": refs });
            let done: Page<CommitView> = client.plane(request.body(&body)?).await?;
            return output.list(&done.items, &["commit", "commit set"], |c| {
                vec![name(c), c.commit_set.to_string()]
            });
        }
        Commit::Finish { references } => {
            let reference = references.into_iter().next().unwrap_or_default();
            let request = Request::post("/v1/commits/finish").query("ref", commit(&reference, default)?);
            client.plane(request).await?
        }
        Commit::Show { reference } => {
            let request = Request::get("/v1/commits").query("ref", commit(&reference, default)?);
            let found: CommitView = client.plane(request).await?;
            return output.result(&found, || describe(&found));
        }
        Commit::Attest { reference, message } => {
            let body = Attest {
                reference: commit(&reference, default)?,
                message,
            };
            let attested: CommitView = client.plane(Request::post("/v1/commits/attest").body(&body)?).await?;
            return output.result(&attested, || describe(&attested));
        }
        Commit::List { reference, limit } => {
            return list(&commit(&reference, default)?, None, limit, client, output).await;
        }
        Commit::Squash { reference, dry_run } => {
            return crate::history::remove("squash", &reference, (dry_run, false), client, output).await;
        }
        Commit::Drop {
            reference,
            dry_run,
            force,
        } => return crate::history::remove("drop", &reference, (dry_run, force), client, output).await,
    };
    output.result(&shown, || name(&shown))
}

/// `howdah log`.
///
/// # Errors
/// What the service answers.
pub async fn log(arguments: Log, client: &Client, output: Output) -> Outcome {
    let (reference, path) = commit_and_path(&arguments.reference, &client.settings.project)?;
    list(&reference, path, arguments.limit, client, output).await
}

async fn list(reference: &str, path: Option<String>, limit: Option<usize>, client: &Client, output: Output) -> Outcome {
    let request = Request::get("/v1/log").query("ref", reference).query_if("path", path);
    let items: Vec<CommitView> = client.plane_list(request, limit).await?;
    output.list(
        &items,
        &["commit", "state", "finished", "size", "files", "by", "message"],
        |c| {
            vec![
                c.id.to_string(),
                state(c.state).to_owned(),
                or_dash(c.finished_at.as_ref().map(time)),
                size(c.size_bytes),
                c.files.to_string(),
                c.pipeline
                    .as_ref()
                    .map_or_else(|| c.actor.name.clone(), |p| format!("pipeline {p}")),
                c.message.clone(),
            ]
        },
    )
}

/// The word of a state.
pub fn state(state: CommitState) -> &'static str {
    match state {
        CommitState::Open => "open",
        CommitState::Finished => "finished",
        CommitState::Errored => "errored",
        CommitState::Removed => "removed",
    }
}

/// How other commands name this commit.
pub fn name(commit: &CommitView) -> String {
    if commit.project.as_str() == "default" {
        return format!("{}@{}", commit.repo, commit.id);
    }
    format!("{}/{}@{}", commit.project, commit.repo, commit.id)
}

fn describe(commit: &CommitView) -> String {
    let mut lines = vec![
        format!("commit      {}", name(commit)),
        format!("branch      {}", commit.branch),
        format!("commit set  {}", commit.commit_set),
        format!("state       {}", state(commit.state)),
    ];
    if let Some(reason) = &commit.reason {
        lines.push(format!("reason      {reason}"));
    }
    if commit.unattested {
        lines.push("received    from outside, not attested".to_owned());
    }
    if let Some(attested) = &commit.attested {
        let (by, at) = (&attested.by.name, time(&attested.at));
        let why = match attested.message.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        lines.push(format!("attested    by {by}, {at}{why}"));
    }
    if let Some(removed) = &commit.removed {
        let (how, by) = (removed.how.as_str(), &removed.by.name);
        lines.push(format!("removed     {how} by {by}, {}", time(&removed.at)));
    }
    lines.push(format!("started     {}", time(&commit.started_at)));
    lines.push(format!(
        "finished    {}",
        or_dash(commit.finished_at.as_ref().map(time))
    ));
    lines.push(format!(
        "content     {} in {} files, digest {}",
        size(commit.size_bytes),
        commit.files,
        or_dash(commit.digest.as_ref())
    ));
    lines.push(format!("by          {}", commit.actor.name));
    if let Some(run) = &commit.actor.ci {
        lines.push(format!("run         {run}"));
        lines.push(format!("vouched by  {}", run.issuer));
    }
    if let Some(pipeline) = &commit.pipeline {
        let version = or_dash(commit.pipeline_version);
        lines.push(format!(
            "pipeline    {pipeline} version {version}, code {}",
            or_dash(commit.code_revision.as_ref())
        ));
    }
    if !commit.message.is_empty() {
        lines.push(format!("message     {}", commit.message));
    }
    for input in &commit.provenance {
        lines.push(format!("made from   {}/{}@{}", input.project, input.repo, input.commit));
    }
    for source in &commit.sources {
        lines.push(format!("fetched     {}", fetched(source)));
    }
    lines.join("\n")
}

/// Where something was fetched from, in words.
pub fn fetched(source: &ImportedSource) -> String {
    let version = source.etag.as_ref().or(source.version.as_ref());
    let files = match source.files {
        1 => String::new(),
        files => format!("{files} files, "),
    };
    format!(
        "{} ({files}{}, version {}, {})",
        source.url,
        size(source.size_bytes),
        or_dash(version),
        time(&source.fetched_at)
    )
}
