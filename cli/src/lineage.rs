//! Where something comes from (`provenance`) and what was made of it (`impact`).

use std::path::PathBuf;

use clap::Args;
use contract::api::{EvidenceWay, ImportedSource, Lineage, UpstreamCommit};
use contract::names::RepoName;

use crate::client::{Client, Request};
use crate::evidence::{self, Standard};
use crate::failure::{Failure, Outcome};
use crate::graph::{self, Format, Way};
use crate::output::{Output, or_dash};
use crate::references::commit;

/// Of more commits in a row than this, the first few are shown.
const RUN_MAX: usize = 8;
const RUN_SHOWN: usize = 5;

/// Show everything that a commit was made from.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah provenance score-red@main
         howdah provenance score-red@main --format dot | dot -Tsvg > lineage.svg
         howdah provenance score-red@main --bundle scores.tar && howdah verify scores.tar")]
pub struct Provenance {
    /// Branch or commit
    reference: String,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write all that it takes to check it, without a service, into this file; see `howdah verify`
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    bundle: Option<PathBuf>,
}

/// Show everything that was made from a commit.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah impact images@main
         howdah impact images@main --format mermaid")]
pub struct Impact {
    /// Branch or commit
    reference: String,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// `howdah provenance`.
///
/// # Errors
/// What the service answers.
pub async fn provenance(arguments: Provenance, client: &Client, output: Output) -> Outcome {
    if let Some(bundle) = &arguments.bundle {
        let reference = commit(&arguments.reference, &client.settings.project)?;
        return evidence::write(client, &reference.to_string(), bundle, output).await;
    }
    let question = ("/v1/provenance", Way::Up, "made from");
    show(question, &arguments.reference, arguments.format, client, output).await
}

/// `howdah impact`.
///
/// # Errors
/// What the service answers.
pub async fn impact(arguments: Impact, client: &Client, output: Output) -> Outcome {
    let question = ("/v1/impact", Way::Down, "went into");
    show(question, &arguments.reference, arguments.format, client, output).await
}

async fn show(
    (address, way, word): (&str, Way, &str),
    reference: &str,
    format: Format,
    client: &Client,
    output: Output,
) -> Outcome {
    if output.json && matches!(format, Format::Dot | Format::Mermaid) {
        return Err(Failure::usage(
            "wrong usage",
            "a graph is not JSON, so --json and this --format exclude each other",
            "leave one of them out",
        ));
    }
    let way_of = match way {
        Way::Up => EvidenceWay::Up,
        Way::Down => EvidenceWay::Down,
    };
    let standard = match format {
        Format::Prov => Some(Standard::Prov),
        Format::Openlineage => Some(Standard::OpenLineage),
        _ => None,
    };
    if let Some(standard) = standard {
        let reference = commit(reference, &client.settings.project)?;
        return evidence::print(client, &reference.to_string(), way_of, standard, output).await;
    }
    let request = Request::get(address).query("ref", commit(reference, &client.settings.project)?);
    let found: Lineage = client.plane(request).await?;
    match format {
        Format::Text => output.result(&found, || in_words(reference, word, &found)),
        Format::Json | Format::Prov | Format::Openlineage => Output { json: true }.result(&found, String::new),
        Format::Dot => output.line(&graph::dot(reference, &found, way)),
        Format::Mermaid => output.line(&graph::mermaid(reference, &found, way)),
    }
}

fn in_words(reference: &str, word: &str, found: &Lineage) -> String {
    let by = maker(
        found.pipeline.as_ref(),
        found.pipeline_version,
        found.image_digest.as_deref(),
        found.code_revision.as_deref(),
    );
    let mut lines = vec![format!("{reference} ({}){by}", found.commit)];
    lines.extend(found.ci.iter().map(|run| format!("  in the name of {run}")));
    fetched("  ", &found.sources, &mut lines);
    let mut rest = found.upstream.as_slice();
    while let Some(first) = rest.first() {
        // A branch may have a long history: its newest commits stand for the others.
        let alike = |step: &&UpstreamCommit| {
            step.pipeline.is_none()
                && (step.depth, &step.project, &step.repo) == (first.depth, &first.project, &first.repo)
        };
        let run = rest.iter().take_while(alike).count().max(1);
        let shown = if run > RUN_MAX { RUN_SHOWN } else { run };
        for step in &rest[..shown] {
            lines.push(line(word, step));
            lines.extend(
                step.ci
                    .iter()
                    .map(|run| format!("  {}in the name of {run}", indent(step))),
            );
            fetched(&format!("  {}", indent(step)), &step.sources, &mut lines);
        }
        if run > shown {
            lines.push(format!(
                "{}and {} more commits of {}/{}",
                indent(first),
                run - shown,
                first.project,
                first.repo
            ));
        }
        rest = &rest[run..];
    }
    if found.restricted {
        lines.push("  and something that you may not know of".to_owned());
    }
    if found.upstream.is_empty() && !found.restricted {
        lines.push(format!("  {word} nothing"));
    }
    lines.join("\n")
}

/// Where a commit's files were fetched from; of many, the first few.
fn fetched(indent: &str, sources: &[ImportedSource], lines: &mut Vec<String>) {
    let shown = if sources.len() > RUN_MAX {
        RUN_SHOWN
    } else {
        sources.len()
    };
    let told = sources[..shown].iter().map(crate::commit::fetched);
    lines.extend(told.map(|source| format!("{indent}fetched from {source}")));
    if sources.len() > shown {
        lines.push(format!("{indent}and from {} more", sources.len() - shown));
    }
}

fn indent(step: &UpstreamCommit) -> String {
    "  ".repeat(usize::try_from(step.depth).unwrap_or(1).clamp(1, 20))
}

fn maker(pipeline: Option<&RepoName>, version: Option<u32>, image: Option<&str>, revision: Option<&str>) -> String {
    let Some(pipeline) = pipeline else { return String::new() };
    let mut text = format!("  by pipeline {pipeline} version {}", or_dash(version));
    if let Some(image) = image {
        text.push_str(&format!(", image {image}"));
    }
    if let Some(revision) = revision {
        text.push_str(&format!(", code {revision}"));
    }
    text
}

fn line(word: &str, step: &UpstreamCommit) -> String {
    let by = maker(
        step.pipeline.as_ref(),
        step.pipeline_version,
        step.image_digest.as_deref(),
        step.code_revision.as_deref(),
    );
    let word = if step.earlier { "on top of" } else { word };
    let gone = if step.removed { " (removed)" } else { "" };
    format!(
        "{}{word} {}/{}@{}{gone}{by}",
        indent(step),
        step.project,
        step.repo,
        step.commit
    )
}
