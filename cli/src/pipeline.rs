//! Pipelines: applied from files, declaratively.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use contract::api::{
    AppliedPipeline, ApplyPipelines, DryRun, Estimate, Page, Pipeline as PipelineView, PipelineState,
    PipelineStatistics, SpecChange,
};

use serde::Serialize;

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome, io};
use crate::notebook::{self, FromNotebook};
use crate::output::{Output, or_dash, time};
use crate::references::{full_repo, repo};
use crate::template::{Setting, set_project, setting, specs};
use crate::times;

/// So many of the last jobs are shown.
const RUNS: usize = 10;
/// So many characters of a value are shown in a diff.
const SHOWN: usize = 100;

/// Pipelines
#[derive(Debug, Subcommand)]
pub enum Pipeline {
    /// Make the pipelines what a file says; all of them or none
    Apply(Apply),
    FromNotebook(FromNotebook),
    /// Print the JSON Schema of a spec, for editors and checks; asks no service
    #[command(after_help = "Example: howdah pipeline schema > pipeline.schema.json")]
    Schema,
    /// List the pipelines
    #[command(after_help = "Example: howdah pipeline list")]
    List,
    /// Show a pipeline with its spec and its last jobs
    #[command(after_help = "Example: howdah pipeline show score-red --json")]
    Show(Name),
    /// Delete a pipeline; its output stays
    #[command(after_help = "Example: howdah pipeline delete score-red")]
    Delete {
        #[command(flatten)]
        name: Name,
        /// Also when others depend on it
        #[arg(long)]
        force: bool,
    },
    /// Stop a pipeline: new data starts no jobs
    #[command(after_help = "Example: howdah pipeline stop score-red")]
    Stop(Name),
    /// Start a stopped pipeline: one job for what is there now
    #[command(after_help = "Example: howdah pipeline start score-red")]
    Start(Name),
    /// Run a pipeline once for what is there now
    #[command(after_help = "Example: howdah pipeline run score-red")]
    Run(Name),
    /// Show the versions of a pipeline
    #[command(after_help = "Example: howdah pipeline history score-red")]
    History(Name),
}

/// A pipeline.
#[derive(Debug, Args)]
pub struct Name {
    /// `[project/]name`
    pipeline: String,
}

/// Make the pipelines what a file says; all of them or none.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah pipeline apply -f challenge.yaml --set competitor=red --dry-run")]
pub struct Apply {
    /// YAML or JSON, several specs separated by `---`; `-` is standard input
    #[arg(short, long)]
    file: PathBuf,
    /// Fill in `{{ key }}`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
    /// The image to run, whatever the file says
    #[arg(long)]
    image: Option<String>,
    /// The git revision of the code, kept in the provenance
    #[arg(long, value_name = "SHA")]
    code_revision: Option<String>,
    /// Change nothing, say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Run all datums again
    #[arg(long)]
    reprocess: bool,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Pipeline, client: &Client, output: Output) -> Outcome {
    let path = |name: &Name, rest: &str| {
        let (project, name) = repo(&name.pipeline, &client.settings.project)?;
        Ok::<_, Failure>(format!("/v1/pipelines/{project}/{name}{rest}"))
    };
    match command {
        Pipeline::Apply(arguments) => apply(arguments, client, output).await,
        Pipeline::FromNotebook(arguments) => notebook::run(arguments, client, output).await,
        Pipeline::Schema => schema(output),
        Pipeline::List => list(Request::get("/v1/pipelines"), client, output).await,
        Pipeline::History(name) => list(Request::get(path(&name, "/history")?), client, output).await,
        Pipeline::Show(name) => {
            let runs = Request::get(path(&name, "/statistics")?).query("limit", RUNS);
            let found = Shown {
                pipeline: client.plane(Request::get(path(&name, "")?)).await?,
                statistics: client.plane(runs).await?,
            };
            output.result(&found, || {
                let runs = times::of_pipeline(&found.statistics);
                format!("{}\n{runs}", describe(&found.pipeline))
            })
        }
        Pipeline::Delete { name, force } => {
            client
                .plane_done(Request::delete(path(&name, "")?).query("force", force))
                .await?;
            let full = full_repo(&name.pipeline, &client.settings.project)?;
            output.result(&serde_json::json!({ "deleted": full }), || format!("deleted {full}"))
        }
        Pipeline::Stop(name) => act(path(&name, "/stop")?, "stopped", client, output).await,
        Pipeline::Start(name) => act(path(&name, "/start")?, "started", client, output).await,
        Pipeline::Run(name) => act(path(&name, "/run")?, "running", client, output).await,
    }
}

/// Prints the schema of a spec.
///
/// # Errors
/// When standard output is closed.
pub fn schema(output: Output) -> Outcome {
    let schema = contract::schema::pipeline();
    output.result(&schema, || serde_json::to_string_pretty(&schema).unwrap_or_default())
}

/// A pipeline with its last jobs.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    pipeline: PipelineView,
    statistics: PipelineStatistics,
}

async fn act(path: String, word: &str, client: &Client, output: Output) -> Outcome {
    let changed: PipelineView = client.plane(Request::post(path)).await?;
    output.result(&changed, || format!("{word} {}/{}", changed.project, changed.name))
}

async fn list(request: Request, client: &Client, output: Output) -> Outcome {
    let items: Vec<PipelineView> = client.plane_list(request, None).await?;
    output.list(
        &items,
        &[
            "project", "name", "version", "state", "service", "applied", "by", "reason",
        ],
        |p| {
            vec![
                p.project.to_string(),
                p.name.to_string(),
                p.version.to_string(),
                state(p.state).to_owned(),
                or_dash(p.service.as_ref().map(|s| s.state.as_str())),
                time(&p.created_at),
                p.actor.name.clone(),
                p.reason.clone().unwrap_or_default(),
            ]
        },
    )
}

async fn apply(arguments: Apply, client: &Client, output: Output) -> Outcome {
    let name = arguments.file.display().to_string();
    let text = if name == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|e| Failure::new("cannot read standard input", e, "send the specs as text"))?;
        text
    } else {
        std::fs::read_to_string(&arguments.file).map_err(io("read", &arguments.file))?
    };
    let mut specs = specs(&name, &text, &arguments.settings)?;
    set_project(&mut specs, &client.settings.project);
    let body = ApplyPipelines {
        specs,
        dry_run: arguments.dry_run,
        image: arguments.image,
        code_revision: arguments.code_revision,
        reprocess: arguments.reprocess,
    };
    send(&body, client, output).await
}

/// Applies specs and says what came of it.
///
/// # Errors
/// What the service answers.
pub async fn send(body: &ApplyPipelines, client: &Client, output: Output) -> Outcome {
    let applied: Page<AppliedPipeline> = client.plane(Request::post("/v1/pipelines").body(body)?).await?;
    for one in &applied.items {
        for warning in &one.warnings {
            output.hint(&format!("warning: {}/{}: {warning}", one.project, one.name));
        }
    }
    output.result(&applied, || {
        let lines: Vec<String> = applied.items.iter().map(|p| outcome(p, body.dry_run)).collect();
        lines.join("\n")
    })
}

fn outcome(applied: &AppliedPipeline, dry_run: bool) -> String {
    let would = if dry_run && applied.change != "unchanged" {
        "would be "
    } else {
        ""
    };
    let mut lines = vec![format!(
        "{}/{} {would}{}, version {}",
        applied.project, applied.name, applied.change, applied.version
    )];
    if applied.change == "updated" {
        lines.extend(applied.changes.iter().map(changed));
    }
    lines.extend(applied.impact.iter().map(|text| format!("  impact: {text}")));
    lines.extend(applied.dry_run.iter().flat_map(foreseen));
    if let Some(job) = applied.job {
        lines.push(format!("  job {job}, commit set {}", or_dash(applied.commit_set)));
    }
    lines.join("\n")
}

/// A field of the spec as it was and is, on one line.
fn changed(change: &SpecChange) -> String {
    let short = |value: &Option<serde_json::Value>| {
        let text = value.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    format!(
        "  changed: {}: {} -> {}",
        change.pointer,
        short(&change.before),
        short(&change.after)
    )
}

/// What a dry run found.
fn foreseen(found: &DryRun) -> Vec<String> {
    let least = if found.at_least { "at least " } else { "" };
    let mut lines = Vec::new();
    match (found.datums, found.to_run, found.known) {
        (Some(all), Some(run), Some(known)) => {
            lines.push(format!("  datums: {least}{all}, {run} would run, {known} are known"));
        }
        (Some(all), ..) => lines.push(format!("  datums: {least}{all}")),
        (None, ..) => {}
    }
    if let Some(reason) = &found.reason {
        let what = if found.datums.is_some() { "note" } else { "datums" };
        lines.push(format!("  {what}: {reason}"));
    }
    lines.extend(
        found
            .estimate
            .iter()
            .map(|one| format!("  estimate: {}", estimated(one, least))),
    );
    if !found.downstream.is_empty() {
        lines.push(format!(
            "  then: {}; their datums depend on what it makes",
            found.downstream.join(", ")
        ));
    }
    lines
}

fn estimated(one: &Estimate, least: &str) -> String {
    let seconds = |s: Option<f64>| s.map_or_else(|| "?".to_owned(), |s| format!("{s:.1} s"));
    if let Some(reason) = &one.reason {
        return reason.clone();
    }
    let mut text = format!(
        "{least}{} of processors, {} in all",
        seconds(one.cpu_s),
        seconds(one.wall_s)
    );
    if one.from_datums > 0 {
        text.push_str(&format!(
            " with {} at once (from {} datums before: {} each, the middle one {})",
            one.at_once,
            one.from_datums,
            seconds(one.datum_s),
            seconds(one.datum_median_s)
        ));
    }
    text
}

fn state(state: PipelineState) -> &'static str {
    match state {
        PipelineState::Starting => "starting",
        PipelineState::Running => "running",
        PipelineState::Standby => "standby",
        PipelineState::Paused => "paused",
        PipelineState::Suspended => "suspended",
        PipelineState::Failure => "failure",
        PipelineState::Crashing => "crashing",
    }
}

fn describe(found: &PipelineView) -> String {
    let reason = found.reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
    let spec = serde_json::to_string_pretty(&found.spec).unwrap_or_default();
    let service = found.service.as_ref().map_or_else(String::new, |service| {
        format!(
            "service {} at port {}, job {}; `howdah open {}/{}` leads there\n",
            service.state.as_str(),
            service.internal_port,
            service.job,
            found.project,
            found.name
        )
    });
    format!(
        "{}/{} version {}, {}{reason}\n{service}applied {} by {}\nspec digest {}\n{spec}",
        found.project,
        found.name,
        found.version,
        state(found.state),
        time(&found.created_at),
        found.actor.name,
        found.spec_digest
    )
}
