//! Projects, repos and branches.

use clap::{Args, Subcommand};
use contract::api::{
    Branch as BranchView, BranchTrigger, NewTrigger, Project as ProjectView, Repo as RepoView, RepoStatistics,
};
use contract::names::BranchName;

use crate::client::{Client, Request, segment};
use crate::failure::Outcome;
use crate::output::{Output, or_dash, size, time};
use crate::references::{bytes, commit, full_repo, place, project, repo};

/// Projects
#[derive(Debug, Subcommand)]
pub enum Project {
    /// Make a project
    #[command(after_help = "Example: howdah project create challenge")]
    Create {
        /// Its name
        name: String,
    },
    /// List the projects
    #[command(after_help = "Example: howdah project list")]
    List,
    /// Delete an empty project
    #[command(after_help = "Example: howdah project delete challenge")]
    Delete {
        /// Its name
        name: String,
    },
}

/// Repos
#[derive(Debug, Subcommand)]
pub enum Repo {
    /// Make a repo
    #[command(after_help = "Example: howdah repo create images --description \"satellite images\"")]
    Create {
        /// `[project/]name`
        name: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List the repos that you may know of, of all projects or of HOWDAH_PROJECT
    #[command(after_help = "Example: howdah repo list")]
    List,
    /// Show a repo
    #[command(after_help = "Example: howdah repo show images")]
    Show {
        /// `[project/]name`
        name: String,
    },
    /// Show what a repo takes, and how much of that other repos that you may read hold too
    #[command(after_help = "Example: howdah repo statistics images")]
    Statistics {
        /// `[project/]name`
        name: String,
    },
    /// Delete a repo
    #[command(after_help = "Example: howdah repo delete images")]
    Delete {
        /// `[project/]name`
        name: String,
        /// Also when pipelines or data derived from it remain
        #[arg(long)]
        force: bool,
    },
}

/// Branches
#[derive(Debug, Subcommand)]
pub enum Branch {
    /// Make a branch
    ///
    /// With a trigger it follows another branch of the repo when enough has come there, and pipelines that read it run then:
    /// when one of the conditions holds, or all of them with --trigger-all.
    #[command(
        after_help = "Example: howdah branch create images@staging --from images@main\n         howdah branch create images@nightly --trigger-branch main --trigger-cron '0 3 * * *'"
    )]
    Create {
        /// `REPO@BRANCH`
        branch: String,
        /// Where it points to at first
        #[arg(long, value_name = "REF")]
        from: Option<String>,
        #[command(flatten)]
        trigger: Trigger,
    },
    /// List the branches of a repo
    #[command(after_help = "Example: howdah branch list images")]
    List {
        /// `[project/]name`
        repo: String,
    },
    /// Move a branch to another commit
    #[command(after_help = "Example: howdah branch move images@main --to images@staging^3")]
    Move {
        /// `REPO@BRANCH`
        branch: String,
        /// Where it points to then
        #[arg(long, value_name = "REF")]
        to: String,
    },
    /// Delete a branch; its commits stay
    #[command(after_help = "Example: howdah branch delete images@staging")]
    Delete {
        /// `REPO@BRANCH`
        branch: String,
    },
}

/// What makes a branch follow another one.
#[derive(Debug, Args)]
pub struct Trigger {
    /// Follow this branch of the repo
    #[arg(long, value_name = "BRANCH")]
    trigger_branch: Option<BranchName>,
    /// When it has grown by so much
    #[arg(long, value_name = "SIZE", value_parser = bytes, requires = "trigger_branch")]
    trigger_size: Option<u64>,
    /// When it is ahead by so many commits
    #[arg(long, value_name = "N", requires = "trigger_branch")]
    trigger_commits: Option<u64>,
    /// When a tick of this cron expression (five fields, UTC) has passed
    #[arg(long, value_name = "CRON", requires = "trigger_branch")]
    trigger_cron: Option<String>,
    /// When all of these hold
    #[arg(long, requires = "trigger_branch")]
    trigger_all: bool,
}

impl Trigger {
    fn wanted(self) -> Option<NewTrigger> {
        let branch = self.trigger_branch?;
        Some(NewTrigger {
            branch,
            size_bytes: self.trigger_size,
            commits: self.trigger_commits,
            cron: self.trigger_cron,
            all: self.trigger_all,
        })
    }
}

/// `main: 1 GiB or 10 commits`.
fn follows(trigger: &BranchTrigger) -> String {
    let on = &trigger.on;
    let conditions = [
        on.size_bytes.map(size),
        on.commits.map(|n| format!("{n} commits")),
        on.cron.clone(),
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    let word = if on.all { " and " } else { " or " };
    let reason = trigger.reason.as_ref().map_or_else(String::new, |r| format!(" ({r})"));
    format!("{}: {}{reason}", on.branch, conditions.join(word))
}

/// Runs a command on projects.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Project, client: &Client, output: Output) -> Outcome {
    match command {
        Project::Create { name } => {
            let body = serde_json::json!({ "name": name });
            let made: ProjectView = client.plane(Request::post("/v1/projects").body(&body)?).await?;
            output.result(&made, || format!("made project {}", made.name))
        }
        Project::List => {
            let items: Vec<ProjectView> = client.plane_list(Request::get("/v1/projects"), None).await?;
            output.list(&items, &["name", "since"], |p| {
                vec![p.name.to_string(), time(&p.created_at)]
            })
        }
        Project::Delete { name } => {
            client
                .plane_done(Request::delete(format!("/v1/projects/{}", project(&name)?)))
                .await?;
            output.result(&serde_json::json!({ "deleted": name }), || format!("deleted {name}"))
        }
    }
}

/// The path of a repo.
fn repo_path(name: &str, client: &Client, rest: &str) -> Outcome<String> {
    let (project, name) = repo(name, &client.settings.project)?;
    Ok(format!("/v1/projects/{project}/repos/{name}{rest}"))
}

/// Runs a command on repos.
///
/// # Errors
/// What the service answers.
pub async fn run_repo(command: Repo, client: &Client, output: Output) -> Outcome {
    match command {
        Repo::Create { name, description } => {
            let (project, name) = repo(&name, &client.settings.project)?;
            let body = serde_json::json!({ "name": name, "description": description });
            let request = Request::post(format!("/v1/projects/{project}/repos")).body(&body)?;
            let made: RepoView = client.plane(request).await?;
            output.result(&made, || format!("made {}/{}", made.project, made.name))
        }
        Repo::List => {
            let request = match crate::settings::variable("HOWDAH_PROJECT") {
                Some(name) => Request::get(format!("/v1/projects/{}/repos", project(&name)?)),
                None => Request::get("/v1/repos"),
            };
            let items: Vec<RepoView> = client.plane_list(request, None).await?;
            output.list(&items, &["project", "name", "", "since", "description"], |r| {
                let kind = if r.pipeline { "pipeline" } else { "" };
                let (project, name) = (r.project.to_string(), r.name.to_string());
                vec![
                    project,
                    name,
                    kind.to_owned(),
                    time(&r.created_at),
                    r.description.clone(),
                ]
            })
        }
        Repo::Show { name } => {
            let found: RepoView = client.plane(Request::get(repo_path(&name, client, "")?)).await?;
            output.result(&found, || {
                let branches: Vec<String> = found.branches.iter().map(ToString::to_string).collect();
                let by = if found.pipeline { "\nwritten by a pipeline" } else { "" };
                format!(
                    "{}/{} {}\nsince {}\nbranches: {}{by}",
                    found.project,
                    found.name,
                    found.description,
                    time(&found.created_at),
                    branches.join(", ")
                )
            })
        }
        Repo::Statistics { name } => {
            let spinner = output.spinner("looking for what is stored");
            let request = Request::get(repo_path(&name, client, "/statistics")?);
            let found: RepoStatistics = client.plane(request).await?;
            spinner.finish_and_clear();
            output.result(&found, || describe_statistics(&found))
        }
        Repo::Delete { name, force } => {
            let request = Request::delete(repo_path(&name, client, "")?).query("force", force);
            client.plane_done(request).await?;
            let full = full_repo(&name, &client.settings.project)?;
            output.result(&serde_json::json!({ "deleted": full }), || format!("deleted {full}"))
        }
    }
}

fn describe_statistics(found: &RepoStatistics) -> String {
    let line = |what: &str, bytes: u64, rest: String| format!("{what:<12} {:>10}{rest}", size(bytes));
    [
        line("heads", found.size_bytes, format!(" in {} files", found.files)),
        line("history", found.commits_bytes, format!(" in {} commits", found.commits)),
        line("stored", found.stored_bytes, String::new()),
        line("unique", found.unique_bytes, String::new()),
        line("shared", found.shared_bytes, " with other repos".to_owned()),
        line("saved", found.saved_bytes, String::new()),
    ]
    .join("\n")
}

/// Runs a command on branches.
///
/// # Errors
/// What the service answers.
pub async fn run_branch(command: Branch, client: &Client, output: Output) -> Outcome {
    let default = &client.settings.project;
    let show = |branch: &BranchView| {
        format!(
            "{}/{}@{} -> {}",
            branch.project,
            branch.repo,
            branch.name,
            or_dash(branch.head)
        )
    };
    match command {
        Branch::Create { branch, from, trigger } => {
            let target = place(&branch, default)?;
            let from = from.map(|r| commit(&r, default)).transpose()?;
            let body = serde_json::json!({ "name": target.branch, "from": from, "trigger": trigger.wanted() });
            let request = Request::post(repo_path(&target.repo, client, "/branches")?).body(&body)?;
            let made: BranchView = client.plane(request).await?;
            output.result(&made, || show(&made))
        }
        Branch::List { repo } => {
            let request = Request::get(repo_path(&repo, client, "/branches")?);
            let items: Vec<BranchView> = client.plane_list(request, None).await?;
            output.list(&items, &["name", "head", "follows"], |b| {
                vec![
                    b.name.to_string(),
                    or_dash(b.head),
                    or_dash(b.trigger.as_ref().map(follows)),
                ]
            })
        }
        Branch::Move { branch, to } => {
            let target = place(&branch, default)?;
            let rest = format!("/branches/{}", segment(target.branch.as_str()));
            let body = serde_json::json!({ "to": commit(&to, default)? });
            let request = Request::patch(repo_path(&target.repo, client, &rest)?).body(&body)?;
            let moved: BranchView = client.plane(request).await?;
            output.result(&moved, || show(&moved))
        }
        Branch::Delete { branch } => {
            let target = place(&branch, default)?;
            let rest = format!("/branches/{}", segment(target.branch.as_str()));
            client
                .plane_done(Request::delete(repo_path(&target.repo, client, &rest)?))
                .await?;
            output.result(&serde_json::json!({ "deleted": branch }), || {
                format!("deleted {branch}")
            })
        }
    }
}
