//! Jobs, their datums and what user code printed; and waiting for them.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use contract::api::{
    Commit, CommitState, CriticalPath, Datum as DatumView, DatumState, Job as JobView, JobState, JobStatistics,
    LogLine, Page, RemovedHow, WaitAnswer,
};
use contract::ids::{CommitSetId, JobId};

use serde::Serialize;

use crate::client::{Client, Request, segment};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, or_dash, time};
use crate::references::{commit, duration, full_repo};
use crate::times;

/// Jobs
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List jobs, newest first
    #[command(after_help = "Example: howdah job list --pipeline score-red -n 5")]
    List {
        /// Of that pipeline only
        #[arg(long, value_name = "PIPELINE")]
        pipeline: Option<String>,
        /// In that state only: created, starting, running, egressing, finishing, success, failure, killed or unrunnable
        #[arg(long, value_name = "STATE", value_parser = job_state)]
        state: Option<JobState>,
        /// At most so many
        #[arg(short = 'n', long, value_name = "N", default_value = "50")]
        limit: usize,
    },
    /// Show a job: where its time went, its slowest datums, what could make it faster
    #[command(after_help = "Example: howdah job show job_…")]
    Show {
        /// Its id
        job: String,
    },
    /// Show the chain of jobs that a commit set waited for
    #[command(after_help = "Example: howdah job critical-path score-red@main")]
    CriticalPath {
        /// A reference, a commit set's id or a job's id
        target: String,
    },
    /// Stop a job; its output commit is errored
    #[command(after_help = "Example: howdah job stop job_…")]
    Stop {
        /// Its id
        job: String,
    },
}

/// Datums
#[derive(Debug, Subcommand)]
pub enum Datum {
    /// List the datums of a job
    #[command(after_help = "Example: howdah datum list job_… --state failed")]
    List {
        /// The job's id
        job: String,
        /// pending, running, succeeded, skipped, failed or recovered
        #[arg(long, value_parser = datum_state)]
        state: Option<DatumState>,
        /// In which order: as planned, or those that took longest first (of those only that were run)
        #[arg(long, value_enum, default_value = "position")]
        sort: Sort,
        /// At most so many
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a datum: what it read, what it took, how it ended
    #[command(after_help = "Example: howdah datum show job_… 4f1c09ab")]
    Show {
        /// The job's id
        job: String,
        /// The datum's id, or 8 digits of its beginning at the least
        datum: String,
    },
}

/// The order of datums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// As they were planned
    Position,
    /// Those that took longest first
    Slowest,
}

impl Sort {
    const fn word(self) -> &'static str {
        match self {
            Self::Position => "position",
            Self::Slowest => "slowest",
        }
    }
}

fn datum_state(text: &str) -> Result<DatumState, String> {
    let found = DatumState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| "one of pending, running, succeeded, skipped, failed, recovered is wanted".to_owned())
}

fn job_state(text: &str) -> Result<JobState, String> {
    let found = JobState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| {
        let words: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        format!("one of {} is wanted", words.join(", "))
    })
}

/// Show what the code of a job printed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah logs job_… -f\n         howdah logs score-red --tail 100\n         howdah logs score-red --since 10m"
)]
pub struct Logs {
    /// A job's id, or a pipeline for its newest job
    job: String,
    /// Of that datum only: its id, or the beginning of it as `datum list` shows it
    #[arg(long)]
    datum: Option<String>,
    /// Go on until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Printed since then: a time, or how long ago (`10m`)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// The last so many lines only
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// At most so many lines
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u32>,
}

/// A moment: a time, or how long ago.
///
/// # Errors
/// When it is neither.
pub fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    let ago = duration(text)
        .map_err(|_| format!("`{text}` is no time like 2026-11-26T10:00:00Z, and no duration like 10m"))?;
    let ago = chrono::Duration::from_std(ago).map_err(|e| e.to_string())?;
    Ok(crate::clock::now() - ago)
}

/// Wait for a commit, a commit set or a job.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah wait score-red@main --timeout 10m")]
pub struct Wait {
    /// A reference, a commit set's id or a job's id
    target: String,
    /// Give up after that long
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
    timeout: Duration,
}

/// Runs a command on jobs.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Job, client: &Client, output: Output) -> Outcome {
    match command {
        Job::List { pipeline, state, limit } => {
            let items = jobs(client, pipeline.as_deref(), state, limit).await?;
            output.list(&items, &["id", "pipeline", "state", "datums", "made", "reason"], |j| {
                vec![
                    j.id.to_string(),
                    format!("{} v{}", j.pipeline, j.version),
                    j.state.as_str().to_owned(),
                    counts(j),
                    time(&j.created_at),
                    j.reason.clone().unwrap_or_default(),
                ]
            })
        }
        Job::Show { job } => {
            let path = format!("/v1/jobs/{}", segment(&job));
            let found = Shown {
                job: client.plane(Request::get(&path)).await?,
                statistics: client.plane(Request::get(format!("{path}/statistics"))).await?,
            };
            output.result(&found, || {
                format!("{}\n{}", describe(&found.job), times::of_job(&found.statistics))
            })
        }
        Job::CriticalPath { target } => {
            let request = Request::get("/v1/critical-path").query("target", wanted(&target, client)?);
            let found: CriticalPath = client.plane(request).await?;
            output.result(&found, || times::critical_path(&found))
        }
        Job::Stop { job } => {
            let found: JobView = client
                .plane(Request::post(format!("/v1/jobs/{}/stop", segment(&job))))
                .await?;
            output.result(&found, || format!("{} {}", found.id, found.state.as_str()))
        }
    }
}

/// A job with where its time went.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    job: JobView,
    statistics: JobStatistics,
}

async fn jobs(client: &Client, pipeline: Option<&str>, state: Option<JobState>, limit: usize) -> Outcome<Vec<JobView>> {
    let pipeline = pipeline.map(|p| full_repo(p, &client.settings.project)).transpose()?;
    client
        .plane_list(
            Request::get("/v1/jobs")
                .query_if("pipeline", pipeline)
                .query_if("state", state.map(JobState::as_str)),
            Some(limit),
        )
        .await
}

/// How many of a job's datums are where.
pub fn counts(job: &JobView) -> String {
    let d = &job.datums;
    let mut text = format!("{} total, {} ran, {} skipped", d.total, d.succeeded, d.skipped);
    if d.failed > 0 {
        text.push_str(&format!(", {} failed", d.failed));
    }
    if d.recovered > 0 {
        text.push_str(&format!(", {} recovered", d.recovered));
    }
    text
}

fn describe(job: &JobView) -> String {
    let mut lines = vec![
        format!("job         {}", job.id),
        format!("pipeline    {}/{} version {}", job.project, job.pipeline, job.version),
        format!("state       {}", job.state.as_str()),
    ];
    if let Some(reason) = &job.reason {
        lines.push(format!("reason      {reason}"));
    }
    lines.push(format!("output      {}@{}", job.pipeline, job.output_commit));
    lines.push(format!("commit set  {}", job.commit_set));
    lines.push(format!("datums      {}", counts(job)));
    if let Some(executor) = &job.executor {
        lines.push(format!("executor    {executor}"));
    }
    if let Some(isolation) = &job.isolation {
        lines.push(format!("isolation   {isolation}"));
    }
    lines.push(format!("started     {}", or_dash(job.started_at.as_ref().map(time))));
    lines.push(format!("finished    {}", or_dash(job.finished_at.as_ref().map(time))));
    lines.join("\n")
}

/// Runs a command on datums.
///
/// # Errors
/// What the service answers.
pub async fn run_datum(command: Datum, client: &Client, output: Output) -> Outcome {
    let (job, state, sort, limit) = match command {
        Datum::List {
            job,
            state,
            sort,
            limit,
        } => (job, state, sort, limit),
        Datum::Show { job, datum } => {
            let path = format!("/v1/jobs/{}/datums/{}", segment(&job), segment(&datum));
            let found: DatumView = client.plane(Request::get(path)).await?;
            return output.result(&found, || times::of_datum(&found));
        }
    };
    let mut left = limit.unwrap_or(usize::MAX);
    let request = Request::get(format!("/v1/jobs/{}/datums", segment(&job)))
        .query_if("state", state.map(DatumState::as_str))
        .query("sort", sort.word());
    let mut cursor: Option<String> = None;
    while left > 0 {
        let asked = request.clone().query("limit", left.min(200));
        let page: Page<DatumView> = client.plane_page(asked.query_if("cursor", cursor)).await?;
        for datum in &page.items {
            output.streamed(datum, || times::datum_line(datum))?;
        }
        left = left.saturating_sub(page.items.len());
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// As much of a datum's id as tells it from others, and as `logs --datum` takes.
pub fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

/// `howdah logs`.
///
/// # Errors
/// What the service answers.
pub async fn logs(arguments: Logs, client: &Client, output: Output) -> Outcome {
    let job = if arguments.job.starts_with("job_") {
        arguments.job
    } else {
        let newest = jobs(client, Some(&arguments.job), None, 1).await?;
        newest.first().map(|j| j.id.to_string()).ok_or_else(|| {
            Failure::new(
                "not found",
                format!("{} has no job yet", arguments.job),
                "put something into its inputs",
            )
            .with_exit(Exit::NotFound)
        })?
    };
    let request = Request::get(format!("/v1/jobs/{}/logs", segment(&job)))
        .query_if("datum", arguments.datum)
        .query("follow", arguments.follow)
        .query_if("since", arguments.since.map(|at| at.to_rfc3339()))
        .query_if("tail", arguments.tail)
        .query_if("limit", arguments.limit);
    client
        .lines(&request, |line: LogLine| {
            output.streamed(&line, || {
                let datum = short(&line.datum);
                format!(
                    "{} {datum} {}: {}",
                    line.at.format("%H:%M:%S%.3f"),
                    line.stream,
                    line.text
                )
            })
        })
        .await
}

/// A job, a commit set or a reference as the service reads it.
fn wanted(text: &str, client: &Client) -> Outcome<String> {
    if text.parse::<JobId>().is_ok() || text.parse::<CommitSetId>().is_ok() {
        return Ok(text.to_owned());
    }
    commit(text, &client.settings.project)
}

/// `howdah wait`.
///
/// # Errors
/// Exit code 5 when a job failed, 1 when it took too long.
pub async fn wait(arguments: Wait, client: &Client, output: Output) -> Outcome {
    let text = &arguments.target;
    let target = wanted(text, client)?;
    let began = Instant::now();
    let spinner = output.spinner(&format!("waiting for {text}"));
    loop {
        let left = arguments.timeout.saturating_sub(began.elapsed());
        let request = Request::get("/v1/wait")
            .query("target", &target)
            .query("timeout_seconds", left.as_secs().min(30));
        let answer: WaitAnswer = client.plane(request).await?;
        if answer.done {
            spinner.finish_and_clear();
            output.result(&answer, || in_words(&answer))?;
            return verdict(&answer);
        }
        if began.elapsed() >= arguments.timeout {
            return Err(Failure::new(
                format!("{text} is not finished"),
                format!("it took longer than {} s", arguments.timeout.as_secs()),
                "wait again with a longer --timeout, or see `howdah job list`",
            ));
        }
        let running = answer.jobs.iter().find(|j| !j.state.is_terminal() && !j.serving);
        if let Some(job) = running {
            spinner.set_message(format!("{} {}: {}", job.pipeline, job.state.as_str(), counts(job)));
        }
    }
}

fn in_words(answer: &WaitAnswer) -> String {
    let jobs = answer.jobs.iter().map(|j| {
        let reason = j.reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
        format!("{} {} ({}){reason}", j.pipeline, j.state.as_str(), counts(j))
    });
    let commits = answer
        .commits
        .iter()
        .map(|c| format!("{} {}", crate::commit::name(c), crate::commit::state(c.state)));
    let lines: Vec<String> = commits.chain(jobs).collect();
    lines.join("\n")
}

fn verdict(answer: &WaitAnswer) -> Outcome {
    let failed = answer.jobs.iter().find(|j| j.state != JobState::Success && !j.serving);
    // One that was squashed since was finished before.
    let gone = |c: &Commit| c.removed.as_ref().is_some_and(|r| r.how != RemovedHow::Squashed);
    let errored = answer
        .commits
        .iter()
        .find(|c| c.state == CommitState::Errored || gone(c));
    let (what, reason, hint) = match (failed, errored) {
        (Some(job), _) => (
            format!("job {} of {} ended as {}", job.id, job.pipeline, job.state.as_str()),
            job.reason.clone(),
            format!(
                "see `howdah datum list {} --state failed` and `howdah logs {}`",
                job.id, job.id
            ),
        ),
        (None, Some(commit)) => (
            format!(
                "{} is {}",
                crate::commit::name(commit),
                crate::commit::state(commit.state)
            ),
            commit.reason.clone(),
            "see `howdah job list`".to_owned(),
        ),
        (None, None) => return Ok(()),
    };
    Err(Failure::new(what, reason.unwrap_or_else(|| "no reason was given".to_owned()), hint).with_exit(Exit::JobFailed))
}
