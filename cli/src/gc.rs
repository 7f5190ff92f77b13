//! `howdah gc`: collects garbage and says what was freed.

use clap::Args;
use contract::api::CollectionReport;

use crate::client::{Client, Request};
use crate::failure::Outcome;
use crate::output::{Output, size};

/// Remove what nothing refers to any more from the organization's bucket.
///
/// What is found unneeded is removed by a later run, a day on; the service runs one every day by itself.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah gc --dry-run")]
pub struct Gc {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(arguments: Gc, client: &Client, output: Output) -> Outcome {
    let spinner = output.spinner("looking for what is still needed");
    let request = Request::post("/v1/gc").query("dry_run", arguments.dry_run);
    let report: CollectionReport = client.plane(request).await?;
    spinner.finish_and_clear();
    output.result(&report, || describe(&report))
}

fn describe(report: &CollectionReport) -> String {
    let line = |what: &str, packs: u64, bytes: u64| format!("{what:<12} {:>10} in {packs} packs", size(bytes));
    let freed = if report.dry_run { "would free" } else { "freed" };
    let mut lines = vec![
        line("stored", report.packs, report.size_bytes),
        format!(
            "{:<12} {:>10}, of commits that hold {}",
            "needed",
            size(report.needed_bytes),
            size(report.commits_bytes)
        ),
        line(freed, report.freed_packs, report.freed_bytes),
    ];
    if report.condemned_packs > 0 {
        let hours = report.grace_seconds / 3600;
        lines.push(format!(
            "{}, to be removed once unneeded for {hours} h",
            line("unneeded", report.condemned_packs, report.condemned_bytes)
        ));
    }
    if report.young_packs > 0 {
        lines.push(format!(
            "{}, too young to tell",
            line("not needed", report.young_packs, report.young_bytes)
        ));
    }
    if report.repacked_packs > 0 {
        let repacked = if report.dry_run { "would repack" } else { "repacked" };
        lines.push(format!(
            "{}, {} of it copied",
            line(repacked, report.repacked_packs, report.repacked_bytes),
            size(report.copied_bytes)
        ));
    }
    if let Some(why) = &report.repacking_failed {
        lines.push(format!("{:<12} {why}", "not repacked"));
    }
    if let Some(why) = &report.forwards_failed {
        lines.push(format!(
            "{:<12} old forwards, which the next collection does: {why}",
            "not removed"
        ));
    }
    if report.sparse_packs > 0 {
        lines.push(line("sparse", report.sparse_packs, report.sparse_bytes));
    }
    lines.join("\n")
}
