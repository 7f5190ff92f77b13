//! What is in a commit and how it differs: `ls`, `rm`, `cp`, `diff`.

use clap::Args;
use contract::api::{ChangeKind, Commit, FileChange, FileInfo, FileKind, Page};

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size};
use crate::references::{commit, commit_and_path, place};

/// List files.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah ls images@main:/2026 -r\n         howdah ls images@main --glob '/**/*.ppm'")]
pub struct Ls {
    /// `REF[:/PATH]`
    reference: String,
    /// What is below, too
    #[arg(short, long)]
    recursive: bool,
    /// Only what matches
    #[arg(long)]
    glob: Option<String>,
}

/// Remove a file or directory, as one commit.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah rm images@main:/blurred.ppm -m \"clouds\"")]
pub struct Rm {
    /// `REPO@BRANCH:/PATH`
    target: String,
    /// What the commit is about
    #[arg(short, long, default_value = "")]
    message: String,
}

/// Copy a file or directory on the server, with its provenance.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah cp images@main^:/a.ppm images@main:/a.ppm")]
pub struct Cp {
    /// `REF:/PATH`
    source: String,
    /// `REPO@BRANCH:/PATH`
    target: String,
    /// What the commit is about
    #[arg(short, long, default_value = "")]
    message: String,
}

/// Show how two commits differ.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah diff images@main^ images@main --stat")]
pub struct Diff {
    /// The first
    a: String,
    /// The second
    b: String,
    /// Only how many and how large
    #[arg(long)]
    stat: bool,
}

/// `howdah ls`.
///
/// # Errors
/// What the service answers.
pub async fn ls(arguments: Ls, client: &Client, output: Output) -> Outcome {
    let (reference, path) = commit_and_path(&arguments.reference, &client.settings.project)?;
    let request = Request::get("/v1/files")
        .query("ref", reference)
        .query_if("path", path)
        .query("recursive", arguments.recursive)
        .query_if("glob", arguments.glob)
        .query("limit", 200);
    let mut cursor: Option<String> = None;
    loop {
        let page: Page<FileInfo> = client.plane_page(request.clone().query_if("cursor", cursor)).await?;
        for file in &page.items {
            output.streamed(file, || {
                let kind = if file.kind == FileKind::Directory {
                    "dir "
                } else {
                    "file"
                };
                let count = match (file.kind, file.files) {
                    (FileKind::File, _) => String::new(),
                    (FileKind::Directory, 1) => "  (1 file)".to_owned(),
                    (FileKind::Directory, files) => format!("  ({files} files)"),
                };
                format!("{kind}  {:>12}  {}{count}", size(file.size_bytes), file.path)
            })?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn needed(path: Option<String>, text: &str) -> Outcome<String> {
    path.ok_or_else(|| {
        Failure::usage(
            "wrong usage",
            format!("`{text}` names no path"),
            "write `REPO@BRANCH:/PATH`",
        )
    })
}

/// `howdah rm`.
///
/// # Errors
/// What the service answers.
pub async fn rm(arguments: Rm, client: &Client, output: Output) -> Outcome {
    let target = place(&arguments.target, &client.settings.project)?;
    let path = needed(target.path, &arguments.target)?;
    let request = Request::delete("/v1/files")
        .query("repo", target.repo)
        .query("branch", target.branch)
        .query("path", path)
        .query("message", arguments.message);
    let made: Commit = client.plane(request).await?;
    output.result(&made, || crate::commit::name(&made))
}

/// `howdah cp`.
///
/// # Errors
/// What the service answers.
pub async fn cp(arguments: Cp, client: &Client, output: Output) -> Outcome {
    let (reference, from) = commit_and_path(&arguments.source, &client.settings.project)?;
    let target = place(&arguments.target, &client.settings.project)?;
    let body = serde_json::json!({
        "from_ref": reference,
        "from_path": needed(from, &arguments.source)?,
        "repo": target.repo,
        "branch": target.branch,
        "path": needed(target.path, &arguments.target)?,
        "message": arguments.message,
    });
    let made: Commit = client.plane(Request::post("/v1/copies").body(&body)?).await?;
    output.result(&made, || crate::commit::name(&made))
}

/// `howdah diff`.
///
/// # Errors
/// What the service answers.
pub async fn diff(arguments: Diff, client: &Client, output: Output) -> Outcome {
    let default = &client.settings.project;
    let request = Request::get("/v1/diff")
        .query("a", commit(&arguments.a, default)?)
        .query("b", commit(&arguments.b, default)?);
    let mut counts = [(0_u64, 0_u64); 3];
    client
        .lines(&request, |change: FileChange| {
            let (place, sign) = match change.change {
                ChangeKind::Added => (0, '+'),
                ChangeKind::Changed => (1, '~'),
                ChangeKind::Removed => (2, '-'),
            };
            counts[place].0 += 1;
            counts[place].1 += change.size_bytes;
            if arguments.stat {
                return Ok(());
            }
            output.streamed(&change, || {
                format!("{sign} {}  {}", change.path, size(change.size_bytes))
            })
        })
        .await?;
    if !arguments.stat {
        return Ok(());
    }
    let [added, changed, removed] = counts;
    let each = |(files, bytes): (u64, u64)| serde_json::json!({ "files": files, "size_bytes": bytes });
    let shown = serde_json::json!({ "added": each(added), "changed": each(changed), "removed": each(removed) });
    output.result(&shown, || {
        let text = |(files, bytes): (u64, u64)| format!("{files} ({})", size(bytes));
        format!(
            "added {}, changed {}, removed {}",
            text(added),
            text(changed),
            text(removed)
        )
    })
}
