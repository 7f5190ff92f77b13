//! `howdah get` and `howdah cat`: bytes out. A file appears whole or not at all, and no archive writes outside of the
//! directory that was asked for.

use std::io::Write;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use futures::StreamExt;
use indicatif::ProgressBar;
use reqwest::Response;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, Request, blocking_reader, broken};
use crate::failure::{Failure, Outcome, io};
use crate::output::{Output, closed};
use crate::references::commit_and_path;

/// Get a file, or a directory with -r.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah get score-red@main:/report.json -o report.json\n         howdah get images@main:/ -r -o images"
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
}

/// Print files to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah cat score-red@main:/report.json")]
pub struct Cat {
    /// `REF:/PATH`; several
    #[arg(required = true)]
    sources: Vec<String>,
}

fn request(source: &str, client: &Client, address: &str) -> Outcome<(Request, String)> {
    let (reference, path) = commit_and_path(source, &client.settings.project)?;
    let path = path.ok_or_else(|| {
        Failure::usage(
            "wrong usage",
            format!("`{source}` names no path"),
            "write `REF:/PATH`, `REF:/` for everything",
        )
    })?;
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
        Some(to) if to.as_os_str() == "-" => return print(client.download(&request).await?).await,
        Some(to) if to.is_dir() => to.join(name),
        Some(to) => to,
        None if name.is_empty() => {
            return Err(Failure::usage("wrong usage", "that is a directory", "repeat with -r"));
        }
        None => PathBuf::from(name),
    };
    let response = client.download(&request).await?;
    let bar = output.bytes(response.content_length());
    let bytes = save(response, &destination, &bar).await?;
    bar.finish_and_clear();
    let shown = serde_json::json!({ "path": destination, "size_bytes": bytes });
    output.result(&shown, || destination.display().to_string())
}

/// Into a file beside the destination first, which then takes its name.
async fn save(response: Response, destination: &Path, bar: &ProgressBar) -> Outcome<u64> {
    let directory = destination
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let executable = response.headers().contains_key("howdah-executable");
    let fresh = file_beside(directory, executable)?;
    let file = fresh.reopen().map_err(io("write", destination))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut stream = response.bytes_stream();
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| broken(&e))?;
        file.write_all(&chunk).await.map_err(io("write", destination))?;
        bytes += chunk.len() as u64;
        bar.set_position(bytes);
    }
    file.flush().await.map_err(io("write", destination))?;
    fresh
        .persist(destination)
        .map_err(|e| io("write", destination)(e.error))?;
    Ok(bytes)
}

/// A file that is removed unless it takes its place.
fn file_beside(directory: &Path, executable: bool) -> Outcome<tempfile::NamedTempFile> {
    let mode = if executable { 0o755 } else { 0o644 };
    tempfile::Builder::new()
        .prefix(".howdah-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
        .tempfile_in(directory)
        .map_err(io("write in", directory))
}

async fn print(response: Response) -> Outcome {
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| broken(&e))?;
        // A closed pipe must end the command at once, so this is not left to another thread.
        std::io::stdout().lock().write_all(&chunk).map_err(closed)?;
    }
    std::io::stdout().lock().flush().map_err(closed)
}

async fn directory(arguments: Get, client: &Client, output: Output) -> Outcome {
    let (request, path) = request(&arguments.source, client, "/v1/archive")?;
    let destination = match arguments.destination {
        Some(to) => to,
        None => {
            let repo = arguments.source.split(['@', ':']).next().unwrap_or_default();
            let part = |text: &str| text.rsplit('/').find(|p| !p.is_empty()).map(str::to_owned);
            PathBuf::from(part(&path).or_else(|| part(repo)).unwrap_or_else(|| ".".to_owned()))
        }
    };
    let response = client.download(&request).await?;
    let bar = output.bytes(None);
    let (to, counted) = (destination.clone(), bar.clone());
    let unpacked = tokio::task::spawn_blocking(move || unpack(blocking_reader(response), &to, &counted)).await;
    let files = unpacked.map_err(|e| Failure::new("the files could not be written", e, "repeat the command"))??;
    bar.finish_and_clear();
    let shown = serde_json::json!({ "path": destination, "files": files });
    output.result(&shown, || format!("{files} files in {}", destination.display()))
}

/// Writes the files of an archive below a directory. Names that lead out of it, links and devices are refused.
fn unpack(archive: impl std::io::Read, to: &Path, bar: &ProgressBar) -> Outcome<u64> {
    std::fs::create_dir_all(to).map_err(io("make", to))?;
    let bad = |e: std::io::Error| Failure::new("the archive broke off", e, "repeat the command; see `howdah status`");
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(256 << 10, archive));
    let mut files = 0;
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let name = entry.path().map_err(bad)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            directory_below(to, &name)?;
            continue;
        }
        let last = name.file_name().filter(|_| kind.is_file());
        let last = last.ok_or_else(|| {
            Failure::new(
                format!("cannot get {}", name.display()),
                "the archive holds something that is neither a file nor a directory",
                "report this",
            )
        })?;
        let directory = directory_below(to, name.parent().unwrap_or(Path::new("")))?;
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let mut fresh = file_beside(&directory, executable)?;
        let size = entry.size();
        let written = std::io::copy(&mut entry, &mut fresh).map_err(bad)?;
        if written < size {
            return Err(bad(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let path = directory.join(last);
        fresh.persist(&path).map_err(|e| io("write", &path)(e.error))?;
        files += 1;
        bar.inc(size);
    }
    Ok(files)
}

/// Makes a directory below another one; a link that is there already could lead out of it, so none is followed.
fn directory_below(to: &Path, name: &Path) -> Outcome<PathBuf> {
    let mut path = to.to_path_buf();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => continue,
            _ => {
                return Err(Failure::new(
                    format!("cannot get {}", name.display()),
                    "its name leads out of the directory",
                    "report this",
                ));
            }
        }
        match std::fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => {}
            Ok(_) => {
                return Err(Failure::new(
                    format!("cannot get {}", name.display()),
                    format!("{} is there and is no directory", path.display()),
                    "remove it, or choose another destination with -o",
                ));
            }
            Err(_) => std::fs::create_dir(&path).map_err(io("make", &path))?,
        }
    }
    Ok(path)
}

/// `howdah cat`.
///
/// # Errors
/// What the service answers.
pub async fn cat(arguments: Cat, client: &Client) -> Outcome {
    for source in &arguments.sources {
        let (request, _) = request(source, client, "/v1/content")?;
        print(client.download(&request).await?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        // The library refuses such names, an attacker does not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.resize(2048, 0);
        bytes
    }

    #[test]
    fn files_are_written_below_the_directory_and_nowhere_else() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("to");
        let bar = ProgressBar::hidden();
        assert_eq!(
            unpack(archive("a/b").as_slice(), &to, &bar).unwrap_or_else(|e| panic!("{e:?}")),
            1
        );
        assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"abc");
        assert!(unpack(archive("../out").as_slice(), &to, &bar).is_err());
        assert!(!home.path().join("out").exists());
        std::os::unix::fs::symlink(home.path(), to.join("link")).unwrap();
        assert!(unpack(archive("link/out").as_slice(), &to, &bar).is_err());
        assert!(!home.path().join("out").exists());
    }

    #[test]
    fn an_archive_that_breaks_off_leaves_no_piece_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        let whole = archive("piece");
        assert!(unpack(&whole[..514], home.path(), &ProgressBar::hidden()).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
