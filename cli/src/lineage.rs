//! Where something comes from (`provenance`) and what was made of it (`impact`).

use clap::Args;
use contract::api::{Lineage, UpstreamCommit};

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::output::{Output, or_dash};
use crate::references::commit;

/// Show everything that a commit was made from.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah provenance score-red@main")]
pub struct Provenance {
    /// Branch or commit
    reference: String,
}

/// Show everything that was made from a commit.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah impact images@main")]
pub struct Impact {
    /// Branch or commit
    reference: String,
}

/// `howdah provenance`.
///
/// # Errors
/// What the service answers.
pub async fn provenance(arguments: Provenance, client: &Client, output: Output) -> Outcome {
    show("/v1/provenance", &arguments.reference, "made from", client, output).await
}

/// `howdah impact`.
///
/// # Errors
/// What the service answers.
pub async fn impact(arguments: Impact, client: &Client, output: Output) -> Outcome {
    show("/v1/impact", &arguments.reference, "went into", client, output).await
}

async fn show(address: &str, reference: &str, word: &str, client: &Client, output: Output) -> Outcome {
    let request = Request::get(address).query("ref", commit(reference, &client.settings.project)?);
    let found: Lineage = client.plane(request).await?;
    output.result(&found, || in_words(reference, word, &found))
}

fn in_words(reference: &str, word: &str, found: &Lineage) -> String {
    let mut lines = vec![format!("{reference} ({})", found.commit)];
    lines.extend(found.upstream.iter().map(|step| line(word, step)));
    if found.restricted {
        lines.push("  and something that you may not know of".to_owned());
    }
    if found.upstream.is_empty() && !found.restricted {
        lines.push(format!("  {word} nothing"));
    }
    lines.join("\n")
}

fn line(word: &str, step: &UpstreamCommit) -> String {
    let indent = "  ".repeat(usize::try_from(step.depth).unwrap_or(1).clamp(1, 20));
    let by = step.pipeline.as_ref().map_or_else(String::new, |pipeline| {
        let mut text = format!("  by pipeline {pipeline} version {}", or_dash(step.pipeline_version));
        if let Some(image) = &step.image_digest {
            text.push_str(&format!(", image {image}"));
        }
        if let Some(revision) = &step.code_revision {
            text.push_str(&format!(", code {revision}"));
        }
        text
    });
    format!("{indent}{word} {}/{}@{}{by}", step.project, step.repo, step.commit)
}
