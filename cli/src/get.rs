//! `howdah get` and `howdah cat`: bytes out. A file appears whole or not at all, and no archive writes outside of the
//! directory that was asked for.

mod content;
mod directory;
mod unpack;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use reqwest::Response;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome, io};
use crate::output::{Output, closed};
use crate::references::commit_and_path;
use content::Content;
use directory::Directory;
use unpack::file_beside;

/// Get a file, or a directory with -r.
///
/// Files that are there are replaced, others in the directory stay. A connection that breaks is
/// taken up again where it broke.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah get score-red@main:/report.json -o report.json\n         howdah get images@main:/ -r -o images\n         howdah get images@main:/ -r -o images --continue\n         howdah get images@main:/2026 -r --format zip -o 2026.zip"
)]
pub struct Get {
    /// `REF:/PATH`
    source: String,
    /// Where to; the name in the repo when it is missing, `-` for standard output
    #[arg(short = 'o', long = "output", value_name = "DEST")]
    destination: Option<PathBuf>,
    /// Get what is in a directory, and below
    #[arg(short, long)]
    recursive: bool,
    /// Keep a directory as one archive instead of unpacking it
    #[arg(long, value_enum, requires = "recursive")]
    format: Option<Format>,
    /// Go on where an interrupted `get -r` stopped: its first files that are there as they are in the commit are not fetched
    #[arg(long = "continue", requires = "recursive", conflicts_with = "format")]
    go_on: bool,
}

/// Kinds of archives.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Uncompressed
    Tar,
    /// Uncompressed, as browsers and desktops open it
    Zip,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Zip => "zip",
        }
    }
}

/// Print files to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah cat score-red@main:/report.json")]
pub struct Cat {
    /// `REF:/PATH`; several
    #[arg(required = true)]
    sources: Vec<String>,
}

/// The reference and the path of `REF:/PATH`.
fn reference(source: &str, client: &Client) -> Outcome<(String, String)> {
    let (reference, path) = commit_and_path(source, &client.settings.project)?;
    let path = path.ok_or_else(|| {
        Failure::usage(
            "wrong usage",
            format!("`{source}` names no path"),
            "write `REF:/PATH`, `REF:/` for everything",
        )
    })?;
    Ok((reference, path))
}

fn request(source: &str, client: &Client, address: &str) -> Outcome<(Request, String)> {
    let (reference, path) = reference(source, client)?;
    Ok((Request::get(address).query("ref", reference).query("path", &path), path))
}

/// `howdah get`.
///
/// # Errors
/// What the service answers, and what cannot be written.
pub async fn run(arguments: Get, client: &Client, output: Output) -> Outcome {
    if arguments.recursive {
        return directory(arguments, client, output).await;
    }
    let (request, path) = request(&arguments.source, client, "/v1/content")?;
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
    let destination = match arguments.destination {
        Some(to) if to.as_os_str() == "-" => {
            let response = client.download(&request).await?;
            return print(Content::new(response, Some((client, &request)))).await;
        }
        Some(to) if to.is_dir() => to.join(name),
        Some(to) => to,
        None if name.is_empty() => {
            return Err(Failure::usage("wrong usage", "that is a directory", "repeat with -r"));
        }
        None => PathBuf::from(name),
    };
    let response = client.download(&request).await?;
    let bar = output.bytes(response.content_length());
    let bytes = save(response, Some((client, &request)), &destination, &bar).await?;
    bar.finish_and_clear();
    let shown = serde_json::json!({ "path": destination, "size_bytes": bytes });
    output.result(&shown, || destination.display().to_string())
}

/// Into a file beside the destination first, which then takes its name. A pipe or a device stays what it is.
async fn save(
    response: Response,
    from: Option<(&Client, &Request)>,
    destination: &Path,
    bar: &ProgressBar,
) -> Outcome<u64> {
    if std::fs::metadata(destination).is_ok_and(|there| !there.is_file()) {
        let file = std::fs::OpenOptions::new().write(true).open(destination);
        let file = file.map_err(io("write", destination))?;
        return pour(Content::new(response, from), file, destination, bar).await;
    }
    let executable = response.headers().contains_key("howdah-executable");
    let fresh = file_beside(destination, executable)?;
    let file = fresh.reopen().map_err(io("write", destination))?;
    let bytes = pour(Content::new(response, from), file, destination, bar).await?;
    fresh
        .persist(destination)
        .map_err(|e| io("write", destination)(e.error))?;
    Ok(bytes)
}

async fn pour(mut content: Content<'_>, file: std::fs::File, destination: &Path, bar: &ProgressBar) -> Outcome<u64> {
    let mut file = tokio::fs::File::from_std(file);
    let mut bytes = 0;
    while let Some(chunk) = content.next().await? {
        file.write_all(&chunk).await.map_err(io("write", destination))?;
        bytes += chunk.len() as u64;
        bar.set_position(bytes);
    }
    file.flush().await.map_err(io("write", destination))?;
    Ok(bytes)
}

async fn print(mut content: Content<'_>) -> Outcome {
    while let Some(chunk) = content.next().await? {
        // A closed pipe must end the command at once, so this is not left to another thread.
        std::io::stdout().lock().write_all(&chunk).map_err(closed)?;
    }
    std::io::stdout().lock().flush().map_err(closed)
}

async fn directory(arguments: Get, client: &Client, output: Output) -> Outcome {
    let (reference, path) = reference(&arguments.source, client)?;
    let name = {
        let repo = arguments.source.split(['@', ':']).next().unwrap_or_default();
        let part = |text: &str| text.rsplit('/').find(|p| !p.is_empty()).map(str::to_owned);
        part(&path).or_else(|| part(repo))
    };
    if let Some(format) = arguments.format {
        let request = Request::get("/v1/archive").query("ref", reference).query("path", &path);
        let request = request.query("format", format.name());
        return archive(&request, arguments.destination, name, format, client, output).await;
    }
    let destination = arguments
        .destination
        .unwrap_or_else(|| PathBuf::from(name.unwrap_or_else(|| ".".to_owned())));
    let bar = output.bytes(None);
    let directory = Directory::find(client, &reference, &path, bar.clone()).await?;
    let there = match arguments.go_on {
        true => directory.is_there_up_to(&destination).await?,
        false => None,
    };
    if let Some((last, files)) = &there {
        output.hint(&format!("{files} files are there already; continuing behind {last}"));
    }
    let (after, before) = there.map_or((None, 0), |(last, files)| (Some(last), files));
    let files = before + directory.write(&destination, after).await?;
    bar.finish_and_clear();
    let shown = serde_json::json!({ "path": destination, "files": files });
    output.result(&shown, || format!("{files} files in {}", destination.display()))
}

/// A directory as one file.
async fn archive(
    request: &Request,
    destination: Option<PathBuf>,
    name: Option<String>,
    format: Format,
    client: &Client,
    output: Output,
) -> Outcome {
    let name = format!("{}.{}", name.as_deref().unwrap_or("files"), format.name());
    let destination = match destination {
        Some(to) if to.as_os_str() == "-" => return print(Content::new(client.download(request).await?, None)).await,
        Some(to) if to.is_dir() => to.join(name),
        Some(to) => to,
        None => PathBuf::from(name),
    };
    let response = client.download(request).await?;
    let bar = output.bytes(None);
    let bytes = save(response, None, &destination, &bar).await?;
    bar.finish_and_clear();
    let shown = serde_json::json!({ "path": destination, "size_bytes": bytes });
    output.result(&shown, || destination.display().to_string())
}

/// `howdah cat`.
///
/// # Errors
/// What the service answers.
pub async fn cat(arguments: Cat, client: &Client) -> Outcome {
    for source in &arguments.sources {
        let (request, _) = request(source, client, "/v1/content")?;
        let response = client.download(&request).await?;
        print(Content::new(response, Some((client, &request)))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &'static str) -> Response {
        http::Response::new(text).into()
    }

    #[tokio::test]
    async fn a_pipe_is_written_to_and_a_file_is_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let home = tempfile::tempdir().unwrap();
        let (file, pipe) = (home.path().join("file"), home.path().join("pipe"));
        std::fs::write(&file, "old").unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap())
        };
        let bar = ProgressBar::hidden();
        for to in [&file, &pipe] {
            save(response("new"), None, to, &bar)
                .await
                .unwrap_or_else(|e| panic!("{e:?}"));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(reader.join().unwrap(), "new");
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}
