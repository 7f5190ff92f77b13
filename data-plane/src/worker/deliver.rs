//! Stores what datums left in `/pfs/out` and reports them, a batch at a time: one write session, one flush and one
//! request for all that ended meanwhile. Small files travel inside their entries and links to inputs as the inputs'
//! entries, so that a batch without larger files writes nothing to the bucket. All of this is bounded, because user code
//! decides how much there is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use sandbox::{Output, OutputKind, OutputLimits};
use storage::{FileEntry, FilePath, StorageError, Writer, encode_entries};
use tokio::io::AsyncReadExt;

use super::execute::{Bench, OVER, Ran, RunEnd};
use super::protocol::{DatumReport, Ending};
use super::report::Reporter;

/// Files up to this size travel in their entries.
const EMBEDDED_BYTES_MAX: u64 = 1024;
/// So many bytes of one datum travel in entries; small files beyond that go into packs.
const EMBEDDED_OF_DATUM_MAX: u64 = 1 << 20;
/// Files of one batch that are stored at the same time.
const UPLOADS: usize = 8;
/// So many files and directories may one datum leave.
const OUTPUTS_MAX: usize = 500_000;
/// So many entries are kept in memory before they are flushed and reported.
const ENTRIES_MAX: usize = 250_000;
/// The list of a datum's outputs is one value in the database and in a request.
pub(super) const LIST_BYTES_MAX: usize = 64 << 20;

pub(super) type Entries = Vec<(FilePath, FileEntry)>;

/// What storing the outputs of a datum came to.
pub(super) enum Stored {
    /// They are stored.
    Entries(Entries),
    /// The outputs are not acceptable: the user's affair.
    Refused(String),
    /// Try the datum again.
    Lost(String),
    /// A file of this machine could not be read.
    Unreadable(String),
}

/// A datum whose outputs are stored, but not durable yet.
struct Kept {
    ran: Ran,
    stored: Stored,
    upload: Duration,
    /// Whether anything went into the write session.
    wrote: bool,
}

/// Stores the outputs of these datums and reports how each ended. The directories are removed.
pub async fn deliver(bench: &Bench, reporter: &Reporter<'_>, batch: Vec<Ran>) {
    let writer = bench.storage.writer();
    let mut storing = futures::stream::iter(batch)
        .map(|ran| async {
            let began = Instant::now();
            let mut wrote = false;
            let stored = tokio::select! {
                biased;
                // Nobody wants it any more: it need not hold up the others.
                () = ran.stop.over() => Stored::Lost(OVER.to_owned()),
                stored = store(&writer, &ran, &mut wrote) => stored,
            };
            Kept {
                upload: began.elapsed(),
                ran,
                stored,
                wrote,
            }
        })
        .buffered(UPLOADS);
    let mut kept = Vec::new();
    let mut entries = 0;
    while let Some(one) = storing.next().await {
        if let Stored::Entries(more) = &one.stored {
            entries += more.len();
        }
        kept.push(one);
        if entries >= ENTRIES_MAX {
            settle(&writer, reporter, std::mem::take(&mut kept)).await;
            entries = 0;
        }
    }
    settle(&writer, reporter, kept).await;
}

/// Makes durable what was stored and reports it.
async fn settle(writer: &Writer, reporter: &Reporter<'_>, kept: Vec<Kept>) {
    let began = Instant::now();
    let flushed = if kept.iter().any(|one| one.wrote) {
        writer.flush().await.map(drop)
    } else {
        Ok(())
    };
    let flush = began.elapsed();
    let mut places = Vec::new();
    let reports = kept
        .into_iter()
        .map(|one| {
            places.push(one.ran.place.root.clone());
            report(one.ran, one.stored, &flushed, one.upload + flush)
        })
        .collect();
    // The next batch need not wait for the removal.
    tokio::task::spawn_blocking(move || remove(places));
    reporter.send(reports).await;
}

fn remove(places: Vec<PathBuf>) {
    for place in places {
        if let Err(error) = sandbox::discard(&place) {
            tracing::warn!("the directory of a datum could not be removed: {error}");
        }
    }
}

fn report(ran: Ran, stored: Stored, flushed: &Result<(), StorageError>, upload: Duration) -> DatumReport {
    let bytes_out = match &stored {
        Stored::Entries(entries) => entries.iter().map(|(_, file)| file.size).sum(),
        Stored::Refused(_) | Stored::Lost(_) | Stored::Unreadable(_) => 0,
    };
    let ending = match (ran.end, stored, flushed) {
        (RunEnd::Recovered, ..) => Ending::Recovered,
        (RunEnd::Failed(reason), ..) | (_, Stored::Refused(reason), _) => Ending::Failed { reason },
        (RunEnd::Lost(reason), ..) | (_, Stored::Lost(reason) | Stored::Unreadable(reason), _) => {
            Ending::Lost { reason }
        }
        (_, _, Err(error)) => Ending::Lost {
            reason: error.to_string(),
        },
        (RunEnd::Succeeded, Stored::Entries(entries), Ok(())) => match encode_entries(&entries) {
            Ok(bytes) if bytes.len() > LIST_BYTES_MAX => Ending::Failed {
                reason: format!(
                    "the list of its {} outputs has {} bytes, at most {LIST_BYTES_MAX} can be kept: write fewer files per datum, \
                     or pack them into an archive",
                    entries.len(),
                    bytes.len()
                ),
            },
            Ok(bytes) => Ending::Succeeded {
                outputs: hex::encode(bytes),
            },
            Err(error) => Ending::Lost {
                reason: error.to_string(),
            },
        },
    };
    DatumReport {
        job: ran.datum.job,
        position: ran.datum.position,
        lease: ran.lease,
        ending,
        exit_code: ran.exit_code,
        download_ms: millis(ran.download),
        process_ms: millis(ran.process),
        upload_ms: millis(upload),
        started_at: ran.started_at,
        memory_bytes: ran.memory_bytes,
        cpu_ms: millis(ran.cpu),
        bytes_in: ran.bytes_in,
        bytes_out,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Stores the outputs of one datum; `wrote` says whether anything went into the write session.
async fn store(writer: &Writer, ran: &Ran, wrote: &mut bool) -> Stored {
    if ran.end != RunEnd::Succeeded {
        return Stored::Entries(Vec::new());
    }
    let seen = seen_files(ran);
    let code = ran.job.trees.iter().find_map(|tree| {
        let path = tree.code.as_deref()?.trim_matches('/');
        // Of a file, `/code` is the directory that it is in.
        let is_file = seen.contains_key(&(tree.name.as_str(), path));
        let shown = if is_file {
            path.rsplit_once('/').map_or("", |(directory, _)| directory)
        } else {
            path
        };
        Some((tree.name.as_str(), shown))
    });
    let out = ran.place.pfs.join("out");
    below(writer, (&seen, code), &out, ran.job.disk_bytes_max(), wrote).await
}

/// Stores what a command that goes on left in a directory which it does not see any more; it may hold files of it open. Makes
/// nothing durable: `wrote` says whether anything went into the write session.
pub(super) async fn store_received(writer: &Writer, directory: &Path, bytes_max: u64, wrote: &mut bool) -> Stored {
    below(writer, (&SeenFiles::new(), None), directory, bytes_max, wrote).await
}

/// Stores everything below a directory.
async fn below(
    writer: &Writer,
    (seen, code): (&SeenFiles<'_>, Option<(&str, &str)>),
    out: &Path,
    bytes_max: u64,
    wrote: &mut bool,
) -> Stored {
    let limits = OutputLimits {
        entries: OUTPUTS_MAX,
        path_bytes: LIST_BYTES_MAX,
        bytes: bytes_max,
    };
    let outputs = {
        let out = out.to_owned();
        tokio::task::spawn_blocking(move || sandbox::collect_outputs(&out, limits)).await
    };
    let outputs = match outputs {
        Ok(Ok(outputs)) => outputs,
        Ok(Err(error)) => return Stored::Refused(error.to_string()),
        Err(error) => return Stored::Lost(error.to_string()),
    };
    let mut left = EMBEDDED_OF_DATUM_MAX;
    let mut entries = Vec::new();
    for output in outputs {
        match one(writer, (seen, code), out, output, (&mut left, wrote)).await {
            Stored::Entries(more) => entries.extend(more),
            other => return other,
        }
        if entries.len() > OUTPUTS_MAX {
            return Stored::Refused(format!(
                "its outputs are more than {OUTPUTS_MAX} files, with those that its links stand for: write fewer per datum"
            ));
        }
    }
    match twice(&entries) {
        Some(path) => Stored::Refused(format!(
            "two outputs are named `{path}` once their names are in Unicode's composed form: rename one of them"
        )),
        None => Stored::Entries(entries),
    }
}

/// A path that is there twice: names that differ on this disk can be the same in a repo.
fn twice(entries: &Entries) -> Option<&FilePath> {
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    entries.iter().map(|(path, _)| path).find(|path| !seen.insert(*path))
}

async fn one(
    writer: &Writer,
    (seen, code): (&SeenFiles<'_>, Option<(&str, &str)>),
    out: &Path,
    output: Output,
    (left, wrote): (&mut u64, &mut bool),
) -> Stored {
    let path = match FilePath::parse(&output.path) {
        Ok(path) => path,
        Err(error) => return Stored::Refused(format!("output `{}`: {error}", output.path)),
    };
    match output.kind {
        OutputKind::LinkToInput { input, path: target } => linked(seen, &path, &input, &target),
        OutputKind::LinkToCode { path: target } => match code {
            Some((input, shown)) => linked(seen, &path, input, &format!("{shown}/{target}")),
            None => Stored::Refused(format!(
                "output `{path}` is a link to `/code/{target}`, and there is no code of a repo: write a file"
            )),
        },
        OutputKind::File { size, executable } => {
            let file = match sandbox::open_output(out, &output.path) {
                Ok(file) => tokio::fs::File::from_std(file),
                Err(error) => return Stored::Refused(error.to_string()),
            };
            let entry = if size <= EMBEDDED_BYTES_MAX && size <= *left {
                *left -= size;
                embedded(file, executable).await
            } else {
                *wrote = true;
                writer.write_file(file.take(size), executable).await
            };
            match entry {
                Ok(entry) => Stored::Entries(vec![(path, entry)]),
                Err(StorageError::Source(error)) => Stored::Unreadable(format!("output `{}`: {error}", output.path)),
                Err(error) => Stored::Lost(error.to_string()),
            }
        }
    }
}

async fn embedded(file: tokio::fs::File, executable: bool) -> Result<FileEntry, StorageError> {
    let mut bytes = Vec::new();
    let read = file.take(EMBEDDED_BYTES_MAX).read_to_end(&mut bytes).await;
    read.map_err(|source| StorageError::Source(std::sync::Arc::new(source)))?;
    Ok(FileEntry::embedded(bytes.into(), executable))
}

/// What a datum saw, by input and path: a link is looked up, not searched for. Of two inputs of one name with the same
/// path, the first one was laid out.
type SeenFiles<'a> = BTreeMap<(&'a str, &'a str), &'a FileEntry>;

fn seen_files(ran: &Ran) -> SeenFiles<'_> {
    let mut files = SeenFiles::new();
    for seen in ran.seen.iter().filter(|seen| !seen.empty) {
        files
            .entry((seen.name.as_str(), seen.path.as_str()))
            .or_insert(&seen.file);
    }
    files
}

/// A link to an input is a copy without bytes moving. It may only name what this datum saw.
fn linked(files: &SeenFiles<'_>, path: &FilePath, input: &str, target: &str) -> Stored {
    let target = target.trim_matches('/');
    if let Some(file) = files.get(&(input, target)) {
        return Stored::Entries(vec![(path.clone(), (*file).clone())]);
    }
    let directory = if target.is_empty() {
        String::new()
    } else {
        format!("{target}/")
    };
    let mut entries = Vec::new();
    for ((_, seen), file) in files
        .range((input, directory.as_str())..)
        .take_while(|((name, seen), _)| *name == input && seen.starts_with(&directory))
    {
        match path.join(&seen[directory.len()..]) {
            Ok(path) => entries.push((path, (*file).clone())),
            Err(error) => return Stored::Refused(format!("output `{path}`: {error}")),
        }
    }
    if entries.is_empty() {
        return Stored::Refused(format!(
            "output `{path}` is a link to `/pfs/{input}/{target}`, which this datum has not: link to one of its inputs or write a file"
        ));
    }
    Stored::Entries(entries)
}
