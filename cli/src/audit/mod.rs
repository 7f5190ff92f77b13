//! The audit trail of an organization: shown, exported, and checked with or without the service.

mod chain;

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::Args;
use contract::api::AuditEvent;
use contract::audit::Trail;
use futures::StreamExt;
use jsonwebtoken::jwk::JwkSet;

use self::chain::Report;
use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::job::moment;
use crate::organization::path;
use crate::output::{Output, time};

/// Show, export or check the audit trail of the organization in use; for owners, admins and auditors
///
/// Every change of members, teams, tokens, grants, releases, settings, repos and pipelines is a row, and each row's hash covers the
/// row before it (docs/audit.md). `--verify` takes all of it and computes it again; with `--file` it does that with a file of an
/// earlier `--export`, without a service and without an account. Exit code 1 names the first row that is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah org audit --since 7d --action grant
         howdah org audit --export trail.jsonl && howdah org audit --verify
         howdah org audit --verify --file trail.jsonl --jwks keys.json")]
pub struct Audit {
    /// From then on: a time, or how long ago (`7d`)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<DateTime<Utc>>,
    /// Before then: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<DateTime<Utc>>,
    /// `noun.verb`, or a noun: `grant.create`, `grant`
    #[arg(long)]
    action: Option<String>,
    /// Who: an address, a name, an id, or the id of a session or token
    #[arg(long)]
    actor: Option<String>,
    /// A part of what a row says
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// The oldest rows first
    #[arg(long)]
    oldest_first: bool,
    /// Only one of its trails: `control`, of members, tokens, grants and releases, or `plane`, of repos, pipelines and jobs
    #[arg(long, value_name = "TRAIL", conflicts_with = "file")]
    trail: Option<Trail>,
    /// At most so many rows
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Write all of the trail into a file, with a signed checkpoint at its end
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since", "until", "action", "actor", "search"])]
    export: Option<PathBuf>,
    /// Check all of the trail
    #[arg(long, conflicts_with_all = ["since", "until", "action", "actor", "search"])]
    verify: bool,
    /// With --verify: the trail of this file, without a service
    #[arg(long, value_name = "FILE", requires = "verify", conflicts_with = "export")]
    file: Option<PathBuf>,
    /// With --file: the service's public keys, as `/.well-known/jwks.json` gives them
    #[arg(long, value_name = "FILE", requires = "file")]
    jwks: Option<PathBuf>,
    /// With --verify: an earlier export that the trail must go on from
    #[arg(long, value_name = "FILE", requires = "verify")]
    against: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What the service answers; the first thing that is wrong with a trail.
pub async fn run(arguments: Audit, client: &Client, output: Output) -> Outcome {
    if let Some(file) = &arguments.file {
        let keys = arguments.jwks.as_deref().map(read_keys).transpose()?;
        return verify(file, keys.as_ref(), arguments.against.as_deref(), output);
    }
    let organization = client.organization().await?;
    if let Some(file) = &arguments.export {
        export(client, &organization, arguments.trail, file).await?;
        if !arguments.verify {
            let written = serde_json::json!({ "exported": file });
            return output.result(&written, || {
                format!("the audit trail of {organization} is in {}", file.display())
            });
        }
        let keys = client.control(Request::get("/.well-known/jwks.json")).await?;
        return verify(file, Some(&keys), arguments.against.as_deref(), output);
    }
    if arguments.verify {
        let file = tempfile::NamedTempFile::new().map_err(unwritten)?;
        export(client, &organization, arguments.trail, file.path()).await?;
        let keys = client.control(Request::get("/.well-known/jwks.json")).await?;
        return verify(file.path(), Some(&keys), arguments.against.as_deref(), output);
    }
    let rows = rows(&arguments, client, &organization).await?;
    output.list(
        &rows,
        &["time", "trail", "seq", "who", "via", "from", "action", "subject"],
        |row| {
            vec![
                time(&row.at),
                row.trail.to_string(),
                row.seq.to_string(),
                row.actor_name.clone(),
                row.via.clone(),
                row.address.clone(),
                row.action.clone(),
                row.subject.clone(),
            ]
        },
    )
}

/// The rows that are wanted, of both trails by their time.
async fn rows(arguments: &Audit, client: &Client, organization: &str) -> Outcome<Vec<AuditEvent>> {
    let asked = |path: String| {
        Request::get(path)
            .query_if("since", arguments.since.map(|at| at.to_rfc3339()))
            .query_if("until", arguments.until.map(|at| at.to_rfc3339()))
            .query_if("action", arguments.action.as_ref())
            .query_if("actor", arguments.actor.as_ref())
            .query_if("q", arguments.search.as_ref())
            .query("order", if arguments.oldest_first { "oldest" } else { "newest" })
    };
    let mut rows: Vec<AuditEvent> = Vec::new();
    if arguments.trail != Some(Trail::Plane) {
        let request = asked(path(organization, "/audit"));
        rows.extend(
            client
                .control_list_at_most::<AuditEvent>(request, arguments.limit)
                .await?,
        );
    }
    if arguments.trail != Some(Trail::Control) {
        let request = asked("/v1/audit".to_owned());
        rows.extend(client.plane_list::<AuditEvent>(request, Some(arguments.limit)).await?);
    }
    rows.sort_by_key(|row| (row.at, row.trail, row.seq));
    if !arguments.oldest_first {
        rows.reverse();
    }
    rows.truncate(arguments.limit);
    Ok(rows)
}

/// Writes the trails into a file, one behind the other: all of it, or nothing.
async fn export(client: &Client, organization: &str, trail: Option<Trail>, to: &Path) -> Outcome {
    let directory = to
        .parent()
        .filter(|at| !at.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(unwritten)?;
    if trail != Some(Trail::Plane) {
        let request = Request::get(path(organization, "/audit/export"));
        copy(client.control_download(&request).await?, &mut file).await?;
    }
    if trail != Some(Trail::Control) {
        copy(client.download(&Request::get("/v1/audit/export")).await?, &mut file).await?;
    }
    file.persist(to).map(drop).map_err(|e| unwritten(e.error))
}

async fn copy(response: reqwest::Response, file: &mut impl Write) -> Outcome {
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| Failure::new("the connection broke", e, "repeat the command"))?;
        file.write_all(&piece).map_err(unwritten)?;
    }
    Ok(())
}

fn verify(file: &Path, keys: Option<&JwkSet>, against: Option<&Path>, output: Output) -> Outcome {
    let earlier = against.map(|earlier| check(earlier, None, &[])).transpose()?;
    let reports = check(file, keys, &earlier.unwrap_or_default())?;
    output.result(&reports, || reports.iter().map(in_words).collect::<Vec<_>>().join("\n"))?;
    match keys {
        Some(_) => Ok(()),
        None => Err(Failure::new(
            "the trail holds in part",
            "nobody vouches for its end: its signature was not checked",
            "give the service's public keys with `--jwks FILE`, from `/.well-known/jwks.json` of the service",
        )),
    }
}

fn check(file: &Path, keys: Option<&JwkSet>, earlier: &[Report]) -> Outcome<Vec<Report>> {
    let opened =
        File::open(file).map_err(|e| Failure::new(format!("cannot read {}", file.display()), e, "check the path"))?;
    chain::check(BufReader::new(opened), keys, earlier).map_err(|wrong| {
        Failure::new(
            format!("the audit trail in {} does not hold", file.display()),
            wrong,
            "compare it with another export; tell whoever runs the service",
        )
    })
}

fn in_words(report: &Report) -> String {
    let mut said = vec![
        format!(
            "holds: {} rows of {} ({})",
            report.rows, report.organization, report.trail
        ),
        format!("  the last row's hash is {}", report.hash),
    ];
    if let Some(by) = &report.signed_by {
        said.push(format!("  signed by {by} at {}", time(&report.at)));
    }
    if let Some(rows) = report.continues {
        said.push(format!("  its first {rows} rows are those of the earlier export"));
    }
    said.join("\n")
}

fn read_keys(file: &Path) -> Outcome<JwkSet> {
    let wrong = |e: &dyn std::fmt::Display| {
        Failure::new(
            format!("cannot read keys from {}", file.display()),
            e,
            "give what `/.well-known/jwks.json` of the service answers",
        )
    };
    let text = std::fs::read(file).map_err(|e| wrong(&e))?;
    serde_json::from_slice(&text).map_err(|e| wrong(&e))
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure::new(
        "cannot write the audit trail",
        error,
        "check the path and the room there",
    )
}
