//! `howdah put`: files, directories and standard input as one tar stream that becomes one atomic commit. Nothing is held in
//! memory but the chunk under way; a source that changes or vanishes while it is read breaks the stream, so that nothing
//! half-read is ever committed. Of a file that the branch has in another version only what is new is sent.

mod bases;
mod delta;
mod direct;
mod handover;
mod import;
mod parts;
mod reading;
mod resume;
mod sources;
mod tarball;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use contract::api::Commit;
use contract::ids::CommitId;
use contract::problem::ProblemKind;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::client::{Client, Request, nothing_was_done};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, size};
use crate::references::{Place, place};
use bases::Bases;
use direct::{Direct, Stop};
use handover::Handover;
use parts::{Held, Part};
use resume::{Session, Taken, Wish};
use sources::Source;
use tarball::{Contents, Count};

/// Chunks on their way between the disk and the connection.
const CHUNKS_AHEAD: usize = 8;
/// From here on an upload can be taken up again.
const RESUMABLE_BYTES: u64 = 64 << 20;
/// So often in a row an upload is sent again of which nothing more arrives, after pauses that double: half a minute.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);

/// Put files into a branch as one commit; prints the commit.
///
/// Of a file of 1 MiB and more that replaces another version, only what is new is sent. An
/// upload of 64 MiB and more that was interrupted is continued by the same command within 12 hours.
/// When the connection breaks or the service is busy, it is sent again for half a minute, and is one commit all the same.
/// New files of 64 MiB and more go straight into the service's bucket where it has one that can be
/// reached from here.
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
    /// Begin from the beginning, even where an interrupted upload could be continued
    #[arg(long)]
    no_resume: bool,
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
    let (given, recursive) = (arguments.sources.clone(), arguments.recursive);
    let sources = tokio::task::spawn_blocking(move || sources::find(&given, path.as_deref(), recursive))
        .await
        .map_err(|e| Failure::new("the sources could not be read", e, "repeat the command"))??;
    let mut parts = parts::divide(&sources);
    let total = sources.iter().map(Source::size).sum();
    let resumable = total >= RESUMABLE_BYTES && !arguments.append && sources.iter().all(Source::is_on_disk);
    let wish = Wish {
        target: &target,
        sources: &arguments.sources,
        recursive,
        message: &arguments.message,
        anew: arguments.no_resume,
    };
    let session = match resumable {
        // What is put behind what is there could not be told from the same put twice.
        false if arguments.append => None,
        false => Some(resume::begin(client, &target).await?),
        true => match resume::take_up(client, &wish, &mut parts, output).await? {
            Taken::Up(session) => Some(session),
            Taken::Made(commit) => {
                output.hint("the interrupted upload had arrived");
                return print(*commit, Count::default(), total, output);
            }
        },
    };
    let may_be_told = !arguments.append && !bases::wanted(sources.iter()).is_empty();
    let mut upload = Upload {
        client,
        reached: session.as_ref().is_some_and(|session| !session.keeps),
        begun: session.is_some(),
        base: match may_be_told {
            true => bases::commit(client, &target).await,
            false => None,
        },
        arguments: &arguments,
        target: &target,
        sources: Arc::new(sources),
        parts: Arc::new(parts),
        session,
        count: Count::default(),
    };
    let commit = upload.run(output.bytes(Some(total)), output).await?;
    if let Some(session) = upload.session {
        session.forget();
    }
    print(commit, upload.count, total, output)
}

fn print(commit: Commit, count: Count, total: u64, output: Output) -> Outcome {
    if count.copied > 0 {
        output.hint(&saved(total - count.copied.min(total), total));
    }
    let made = Made {
        commit,
        sent_bytes: count.sent,
        total_bytes: total,
    };
    output.result(&made, || crate::commit::name(&made.commit))
}

/// An upload on its way.
struct Upload<'c> {
    client: &'c Client,
    /// It was asked for something just now.
    reached: bool,
    /// It was asked for something at all: when it does not answer any more, it may again.
    begun: bool,
    arguments: &'c Put,
    target: &'c Place,
    base: Option<CommitId>,
    sources: Arc<Vec<Source>>,
    parts: Arc<Vec<Part>>,
    session: Option<Session>,
    count: Count,
}

impl Upload<'_> {
    /// Sends it until it is there: again when the connection breaks or the service is busy, as long as more of it arrives,
    /// or for a while. Where it may have arrived already, the service is asked first.
    async fn run(&mut self, bar: ProgressBar, output: Output) -> Outcome<Commit> {
        let (mut there, mut tries) = (0, 0);
        let mut sent = self.send_once(&bar, output).await?;
        loop {
            let failure = match sent {
                Ok(commit) => {
                    bar.finish_and_clear();
                    return Ok(commit);
                }
                Err(failure) => failure,
            };
            if tries >= TRIES {
                return Err(failure);
            }
            output.hint(&format!("{}: {}; continuing", failure.what, failure.why));
            tokio::time::sleep(failure.pause.max(PAUSE * 2_u32.pow(tries))).await;
            tries += 1;
            bar.reset();
            sent = match self.look().await {
                Err(unanswered) if !unanswered.is_refusal() => Err(unanswered),
                // What the service says to that is of less use than what broke.
                Err(_) => return Err(failure),
                Ok(Err(commit)) => Ok(*commit),
                Ok(Ok(now)) => {
                    if now > there {
                        (there, tries) = (now, 0);
                    }
                    self.send_once(&bar, output).await?
                }
            };
        }
    }

    /// What has arrived already.
    async fn look(&mut self) -> Outcome<Result<u64, Box<Commit>>> {
        match &self.session {
            Some(session) => {
                let parts = Arc::make_mut(&mut self.parts);
                session.look(self.client, parts).await
            }
            None => Ok(Ok(0)),
        }
    }

    /// Sends what is missing. A failure that is answered is one after which it may be sent again.
    async fn send_once(&mut self, bar: &ProgressBar, output: Output) -> Outcome<Outcome<Commit>> {
        if !std::mem::take(&mut self.reached) {
            match self.client.reach().await {
                Err(unanswered) if self.begun && !unanswered.is_refusal() => return Ok(Err(unanswered)),
                reached => reached?,
            }
        }
        self.begun = true;
        let (sent, read) = match self.send_directly(bar, output).await? {
            Ok(()) => self.send(bar).await,
            Err(failure) => (Err(failure), Ok(())),
        };
        let failure = match (sent, read) {
            (Ok(commit), Ok(())) => return Ok(Ok(commit)),
            // The reader's failure is the cause of the connection's.
            (_, Err(read)) if !tarball::is_connection(&read) => return Err(read),
            // What has become a commit before is answered without the rest being read.
            (Ok(commit), Err(_)) if self.session.is_some() => return Ok(Ok(commit)),
            (Ok(_), Err(read)) => return Err(read),
            (Err(sent), _) => sent,
        };
        match nothing_was_done(&failure) || self.session.is_some() && is_passing(&failure) {
            true => Ok(Err(failure)),
            false => Err(failure),
        }
    }

    /// Puts large files into the bucket, as far as that can be done from here; what is left then is sent the other way. Answers what
    /// the service said to it.
    async fn send_directly(&mut self, bar: &ProgressBar, output: Output) -> Outcome<Outcome> {
        let Some(session) = self
            .session
            .as_mut()
            .filter(|session| session.keeps && session.takes_packs)
        else {
            return Ok(Ok(()));
        };
        // On its own machine the service reads files where they lie: less work than packs that are made here and read there.
        if session.handover.as_ref().is_some_and(Handover::is_here) {
            return Ok(Ok(()));
        }
        let direct = Direct {
            client: self.client,
            upload: session.id,
            bar,
        };
        for part in Arc::make_mut(&mut self.parts) {
            if !part.is_large() || part.held == Held::Whole {
                continue;
            }
            let source = &self.sources[part.sources.start];
            if bases::has(self.client, &self.target.repo, self.base, &source.path).await {
                continue;
            }
            let (sent, ended) = direct.send(&self.sources, part).await;
            self.count.sent += sent;
            match ended {
                Ok(()) => {}
                Err(Stop::Source(failure)) => return Err(failure),
                Err(Stop::Service(failure)) => return Ok(Err(failure)),
                Err(Stop::Bucket(why)) => {
                    output.hint(&format!(
                        "large files do not go straight into the bucket ({why}); sending through the service"
                    ));
                    session.takes_packs = false;
                    break;
                }
            }
        }
        // What is there is counted once more on the way.
        bar.set_position(0);
        Ok(Ok(()))
    }

    async fn send(&mut self, bar: &ProgressBar) -> (Outcome<Commit>, Outcome) {
        let missing = self.parts.iter().filter(|part| part.held != Held::Whole);
        let missing = missing.flat_map(|part| &self.sources[part.sources.clone()]);
        let (bases, answering) = Bases::of(self.client, &self.target.repo, self.base, bases::wanted(missing));
        let contents = Contents {
            sources: Arc::clone(&self.sources),
            parts: Arc::clone(&self.parts),
            keep: self.session.as_ref().is_some_and(|session| session.keeps),
            bases,
            // A second try takes the way that always works.
            handover: self.session.as_mut().and_then(|session| session.handover.take()),
        };
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let counted = bar.clone();
        let reading = tokio::task::spawn_blocking(move || tarball::write(contents, &sender, &counted));
        let request = Request::post("/v1/files")
            .query("repo", &self.target.repo)
            .query("branch", &self.target.branch)
            .query("path", "/")
            .query("message", &self.arguments.message)
            .query("append", self.arguments.append)
            .query_if("base", self.base)
            .query_if("upload", self.session.as_ref().map(|session| session.id));
        let (sent, ()) = tokio::join!(self.client.upload::<Commit>(&request, receiver), answering);
        let failed = |e| Failure::new("the sources could not be read", e, "repeat the command");
        let (count, read) = reading.await.unwrap_or_else(|e| (Count::default(), Err(failed(e))));
        self.count.sent += count.sent;
        self.count.copied += count.copied;
        (sent, read)
    }
}

/// Whether the same may succeed in a moment.
fn is_passing(failure: &Failure) -> bool {
    use ProblemKind as P;
    let kinds = [P::Overloaded, P::UpstreamTimeout, P::TokenExpired];
    !failure.is_refusal() || nothing_was_done(failure) || kinds.into_iter().any(|kind| failure.is(kind))
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
