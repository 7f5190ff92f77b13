//! Stores what datums left in `/pfs/out` and reports them, a batch at a time: one write session, one flush and one
//! request for all that ended meanwhile. Small files travel inside their entries and links to inputs as the inputs'
//! entries, so that a batch without larger files writes nothing to the bucket.

use std::time::{Duration, Instant};

use futures::StreamExt;
use sandbox::{Output, OutputKind};
use storage::{FileEntry, FilePath, StorageError, Writer, encode_entries};
use tokio::io::AsyncReadExt;

use super::execute::{Bench, Ran, RunEnd};
use super::protocol::{DatumReport, Ending};

/// Files up to this size travel in their entries.
const EMBEDDED_BYTES_MAX: u64 = 1024;
/// Files of one batch that are stored at the same time.
const UPLOADS: usize = 8;

type Entries = Vec<(FilePath, FileEntry)>;

/// What storing the outputs of a datum came to.
enum Stored {
    Entries(Entries),
    /// The outputs are not acceptable: the user's affair.
    Refused(String),
    /// Try the datum again.
    Lost(String),
}

/// Stores the outputs of these datums and says how each ended. The directories are removed.
pub async fn deliver(bench: &Bench, batch: Vec<Ran>) -> Vec<DatumReport> {
    let writer = bench.storage.writer();
    let stored: Vec<(Ran, Stored, Duration, bool)> = futures::stream::iter(batch)
        .map(|ran| async {
            let began = Instant::now();
            let (stored, wrote) = store(&writer, &ran).await;
            (ran, stored, began.elapsed(), wrote)
        })
        .buffered(UPLOADS)
        .collect()
        .await;
    let began = Instant::now();
    let flushed = if stored.iter().any(|(.., wrote)| *wrote) {
        writer.flush().await.map(drop)
    } else {
        Ok(())
    };
    let flush = began.elapsed();
    let mut places = Vec::new();
    let reports = stored
        .into_iter()
        .map(|(ran, stored, upload, _)| {
            places.push(ran.place.root.clone());
            report(ran, stored, &flushed, upload + flush)
        })
        .collect();
    // The next batch need not wait for the removal.
    tokio::task::spawn_blocking(move || {
        for place in places {
            let _ = std::fs::remove_dir_all(place);
        }
    });
    reports
}

fn report(ran: Ran, stored: Stored, flushed: &Result<(), StorageError>, upload: Duration) -> DatumReport {
    let ending = match (ran.end, stored, flushed) {
        (RunEnd::Recovered, ..) => Ending::Recovered,
        (RunEnd::Failed(reason), ..) | (_, Stored::Refused(reason), _) => Ending::Failed { reason },
        (RunEnd::Lost(reason), ..) | (_, Stored::Lost(reason), _) => Ending::Lost { reason },
        (_, _, Err(error)) => Ending::Lost {
            reason: error.to_string(),
        },
        (RunEnd::Succeeded, Stored::Entries(entries), Ok(())) => match encode_entries(&entries) {
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
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Stores the outputs of one datum; says too whether anything went into the write session.
async fn store(writer: &Writer, ran: &Ran) -> (Stored, bool) {
    if ran.end != RunEnd::Succeeded {
        return (Stored::Entries(Vec::new()), false);
    }
    let out = ran.place.pfs.join("out");
    let outputs = {
        let out = out.clone();
        tokio::task::spawn_blocking(move || sandbox::collect_outputs(&out)).await
    };
    let outputs = match outputs {
        Ok(Ok(outputs)) => outputs,
        Ok(Err(error)) => return (Stored::Refused(error.to_string()), false),
        Err(error) => return (Stored::Lost(error.to_string()), false),
    };
    let mut entries = Vec::new();
    let mut wrote = false;
    for output in outputs {
        match one(writer, ran, &out, output, &mut wrote).await {
            Stored::Entries(more) => entries.extend(more),
            other => return (other, wrote),
        }
    }
    (Stored::Entries(entries), wrote)
}

async fn one(writer: &Writer, ran: &Ran, out: &std::path::Path, output: Output, wrote: &mut bool) -> Stored {
    let path = match FilePath::parse(&output.path) {
        Ok(path) => path,
        Err(error) => return Stored::Refused(format!("output `{}`: {error}", output.path)),
    };
    match output.kind {
        OutputKind::LinkToInput { input, path: target } => linked(ran, &path, &input, &target),
        OutputKind::File { size, executable } => {
            let file = match sandbox::open_output(out, &output.path) {
                Ok(file) => tokio::fs::File::from_std(file),
                Err(error) => return Stored::Refused(error.to_string()),
            };
            let entry = if size <= EMBEDDED_BYTES_MAX {
                embedded(file, executable).await
            } else {
                *wrote = true;
                writer.write_file(file, executable).await
            };
            match entry {
                Ok(entry) => Stored::Entries(vec![(path, entry)]),
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

/// A link to an input is a copy without bytes moving. It may only name what this datum saw.
fn linked(ran: &Ran, path: &FilePath, input: &str, target: &str) -> Stored {
    let target = target.trim_matches('/');
    let mut entries = Vec::new();
    for seen in ran.seen.iter().filter(|seen| seen.name == input && !seen.empty) {
        let seen_path = seen.path.as_str();
        if seen_path == target {
            entries.push((path.clone(), seen.file.clone()));
            continue;
        }
        let below = if target.is_empty() {
            Some(seen_path)
        } else {
            seen_path.strip_prefix(target).and_then(|rest| rest.strip_prefix('/'))
        };
        if let Some(below) = below {
            match path.join(below) {
                Ok(path) => entries.push((path, seen.file.clone())),
                Err(error) => return Stored::Refused(format!("output `{path}`: {error}")),
            }
        }
    }
    if entries.is_empty() {
        return Stored::Refused(format!(
            "output `{path}` is a link to `/pfs/{input}/{target}`, which this datum has not: link to one of its inputs or write a file"
        ));
    }
    Stored::Entries(entries)
}
