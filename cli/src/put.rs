//! `howdah put`: files, directories and standard input as one tar stream that becomes one atomic commit. Nothing is held in
//! memory but the chunk under way; a source that changes or vanishes while it is read breaks the stream, so that nothing
//! half-read is ever committed. Of a file that the branch has in another version only what is new is sent.

mod bases;
mod delta;
mod import;
mod sources;
mod tarball;

use clap::Args;
use contract::api::Commit;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size};
use crate::references::place;
use bases::Bases;
use sources::Source;

/// Chunks on their way between the disk and the connection.
const CHUNKS_AHEAD: usize = 8;

/// Put files into a branch as one commit; prints the commit.
///
/// Of a file of 1 MiB and more that replaces another version, only what is new is sent.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah put images@main tiles -r -m \"October\"\n         howdah put images@main:/a/tile.ppm tile.ppm\n         date | howdah put notes@main:/now.txt -\n         howdah put images@main:/a/ https://data.example.org/tile.ppm\n         howdah put images@main:/b s3://bucket/tiles/ -r\n\nAddresses are fetched by the service itself. Buckets are read with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,\nAWS_REGION and AWS_ENDPOINT_URL, as far as they are set; the service keeps none of them."
)]
pub struct Put {
    /// `REPO@BRANCH[:/PATH]`
    target: String,
    /// Files, directories (with -r), or `-` for standard input; or `https://…`, `s3://BUCKET/KEY`, `s3://BUCKET/PREFIX/` (with -r)
    #[arg(required = true)]
    sources: Vec<String>,
    /// Put what is in directories, and below
    #[arg(short, long)]
    recursive: bool,
    /// What the commit is about
    #[arg(short, long, default_value = "")]
    message: String,
    /// Put the content behind what is there instead of replacing it
    #[arg(long)]
    append: bool,
}

/// Runs the command.
///
/// # Errors
/// What cannot be read, and what the service answers.
pub async fn run(arguments: Put, client: &Client, output: Output) -> Outcome {
    let target = place(&arguments.target, &client.settings.project)?;
    if arguments.sources.iter().any(|source| import::is_address(source)) {
        return import::run(&arguments, &target, client, output).await;
    }
    let path = target.path.clone();
    let (given, recursive) = (arguments.sources, arguments.recursive);
    let sources = tokio::task::spawn_blocking(move || sources::find(&given, path.as_deref(), recursive))
        .await
        .map_err(|e| Failure::new("the sources could not be read", e, "repeat the command"))??;
    let total = sources.iter().map(Source::size).sum();
    let base = match arguments.append {
        true => None,
        false => bases::commit(client, &target, &sources).await,
    };
    let (bases, answering) = Bases::of(client, &target.repo, base);
    let bar = output.bytes(Some(total));
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let counted = bar.clone();
    let reading = tokio::task::spawn_blocking(move || tarball::write(&sources, bases, &sender, &counted));
    let request = Request::post("/v1/files")
        .query("repo", &target.repo)
        .query("branch", &target.branch)
        .query("path", "/")
        .query("message", &arguments.message)
        .query("append", arguments.append)
        .query_if("base", base);
    let (sent, ()) = tokio::join!(client.upload::<Commit>(&request, receiver), answering);
    // The reader's failure is the cause of the connection's.
    let read = reading
        .await
        .unwrap_or_else(|e| Err(Failure::new("the sources could not be read", e, "repeat the command")));
    bar.finish_and_clear();
    let (commit, sent) = match (sent, read) {
        (Ok(commit), Ok(sent)) => (commit, sent),
        (Err(sent), Err(read)) if sent.problem.is_none() => return Err(read),
        (Err(failure), _) | (Ok(_), Err(failure)) => return Err(failure),
    };
    let made = Made {
        commit,
        sent_bytes: sent,
        total_bytes: total,
    };
    if sent < total {
        output.hint(&saved(sent, total));
    }
    output.result(&made, || crate::commit::name(&made.commit))
}

/// The commit, and what it took to make it.
#[derive(Debug, Serialize)]
struct Made {
    #[serde(flatten)]
    commit: Commit,
    /// Bytes of contents that were sent.
    sent_bytes: u64,
    /// Bytes of the files.
    total_bytes: u64,
}

fn saved(sent: u64, total: u64) -> String {
    let percent = (total - sent) as f64 * 100.0 / total as f64;
    // Rounded down: nothing that was sent is told away.
    let percent = (percent * 10.0).floor() / 10.0;
    format!("sent {} of {} (saved {percent:.1} %)", size(sent), size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_never_rounded_up() {
        assert_eq!(saved(1 << 20, 2 << 30), "sent 1.00 MiB of 2.00 GiB (saved 99.9 %)");
        assert_eq!(saved(1, 3 << 30), "sent 1 B of 3.00 GiB (saved 99.9 %)");
        assert_eq!(saved(0, 10), "sent 0 B of 10 B (saved 100.0 %)");
    }
}
