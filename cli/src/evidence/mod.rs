//! Provenance for others: as W3C PROV, as OpenLineage, and as a bundle that anybody can check (`howdah verify`).

mod bundle;
mod check;
mod directory;
mod openlineage;
mod prov;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use contract::api::{Evidence, EvidenceWay, ListedFile};
use contract::record::RecordDigest;
use serde::Serialize;
use serde_json::{Value, json};

use self::bundle::{Writer, unwritten};
use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

const README: &[u8] = include_bytes!("README-of-a-bundle.md");

/// Check a bundle of provenance, without a service and without an account.
///
/// Computes again the digests of all records and specs, the chain that they are, and the digest of the content from its list
/// of files; says what was checked and what could not be. Exit code 1, with the first thing that is wrong, when it does not
/// hold, and when it holds in part: where parts of a record are left out or were purged, nothing proves what is told of it.
/// `--expect` and `--data` hold only for a commit whose content is the one of its record.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah provenance score-red@main --bundle scores.tar
         howdah verify scores.tar
         howdah get score-red@main:/ -r -o scores && howdah verify scores.tar --data scores")]
pub struct Verify {
    /// What `howdah provenance --bundle` wrote
    bundle: PathBuf,
    /// A directory with the files of the commit, to be compared
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The digest that the commit's record must have, as somebody whom you trust told it
    #[arg(long, value_name = "DIGEST")]
    expect: Option<RecordDigest>,
}

/// As which document lineage is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    /// W3C PROV.
    Prov,
    /// OpenLineage events.
    OpenLineage,
}

/// Asks for the evidence of a commit.
///
/// # Errors
/// What the service answers.
pub async fn ask(client: &Client, reference: &str, way: EvidenceWay) -> Outcome<Evidence> {
    let way = match way {
        EvidenceWay::Up => "up",
        EvidenceWay::Down => "down",
    };
    client
        .plane(Request::get("/v1/evidence").query("ref", reference).query("way", way))
        .await
}

/// Documents as JSON lines.
fn lines(documents: impl IntoIterator<Item = Value>) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    for document in documents {
        serde_json::to_writer(&mut bytes, &document)
            .map_err(|e| Failure::new("cannot write JSON", e, "report this"))?;
        bytes.push(b'\n');
        if bytes.len() > bundle::DOCUMENT_MAX {
            return Err(bundle::too_large(bundle::DOCUMENT_MAX));
        }
    }
    Ok(bytes)
}

/// Prints lineage as a document of a standard.
///
/// # Errors
/// What the service answers.
pub async fn print(client: &Client, reference: &str, way: EvidenceWay, standard: Standard, output: Output) -> Outcome {
    let evidence = ask(client, reference, way).await?;
    let text = match standard {
        Standard::Prov => lines([prov::document(&evidence)])?,
        Standard::OpenLineage => lines(openlineage::events(&evidence))?,
    };
    let text = String::from_utf8_lossy(&text);
    match text.trim_end() {
        "" => Ok(()),
        text => output.line(text),
    }
}

/// What is told of a bundle that was written.
#[derive(Debug, Serialize)]
struct Written<'a> {
    bundle: &'a Path,
    commits: usize,
    files: u64,
    record: Option<RecordDigest>,
    restricted: bool,
}

/// Writes the bundle of a commit.
///
/// # Errors
/// What the service answers; when the file cannot be written.
pub async fn write(client: &Client, reference: &str, to: &Path, output: Output) -> Outcome {
    let spinner = output.spinner("asking for the records");
    let evidence = ask(client, reference, EvidenceWay::Up).await?;
    let subject = evidence
        .commits
        .first()
        .filter(|commit| commit.commit == evidence.subject);
    let subject = subject.ok_or_else(|| {
        Failure::new(
            "the answer was not understood",
            "a commit is missing",
            "check the versions",
        )
    })?;
    if subject.record.is_none() {
        return Err(Failure::new(
            "there is nothing to prove",
            "the commit has no record: it is not finished, or failed",
            "name one that is finished, or wait for it with `howdah wait`",
        ));
    }
    // By its id: a branch may have moved on since.
    let pinned = format!("{}/{}@{}", subject.project, subject.repo, subject.commit);
    let mut list = tempfile::tempfile().map_err(unwritten)?;
    let mut files = 0;
    if subject.content.is_some() {
        let mut out = BufWriter::new(&mut list);
        let request = Request::get("/v1/manifest").query("ref", &pinned);
        client
            .lines::<ListedFile>(&request, |file| {
                files += 1;
                if files % 1000 == 0 {
                    spinner.set_message(format!("{files} of {} files", subject.files));
                }
                out.write_all(&lines([json!(file)])?).map_err(unwritten)
            })
            .await?;
        out.flush().map_err(unwritten)?;
    }
    spinner.finish_and_clear();
    let directory = to
        .parent()
        .filter(|at| !at.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(unwritten)?;
    put(&evidence, &mut list, BufWriter::new(file.as_file_mut()))?;
    file.persist(to).map_err(|e| unwritten(e.error))?;
    let written = Written {
        bundle: to,
        commits: evidence.commits.len(),
        files,
        record: subject.digest,
        restricted: evidence.restricted,
    };
    output.result(&written, || told(&written, reference))
}

fn told(written: &Written<'_>, reference: &str) -> String {
    let mut text = format!(
        "{}: {reference} with the records of {} commits and a list of {} files",
        written.bundle.display(),
        written.commits,
        written.files
    );
    if let Some(digest) = &written.record {
        text.push_str(&format!(
            "\nthe digest of its record is {digest}: whoever is told it from you can `howdah verify --expect` it"
        ));
    }
    if written.restricted {
        text.push_str("\nthere is more upstream that you may not know of; the bundle says that, and no more");
    }
    text
}

/// The members of a bundle, in their order.
fn put(evidence: &Evidence, list: &mut (impl std::io::Read + Seek), out: impl Write) -> Outcome {
    let document = json!({ "format": check::FORMAT, "evidence": evidence });
    let mut writer = Writer::new(out);
    writer.member(bundle::EVIDENCE, &lines([document])?)?;
    let size = list.stream_position().map_err(unwritten)?;
    list.rewind().map_err(unwritten)?;
    writer.stream(bundle::FILES, size, list)?;
    writer.member(bundle::PROV, &lines([prov::document(evidence)])?)?;
    writer.member(bundle::OPENLINEAGE, &lines(openlineage::events(evidence))?)?;
    writer.member(bundle::README, README)?;
    writer.finish()?;
    Ok(())
}

/// `howdah verify`.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(arguments: &Verify, output: Output) -> Outcome {
    let at = &arguments.bundle;
    let file = std::fs::File::open(at)
        .map_err(|e| Failure::new(format!("cannot read {}", at.display()), e, "check the path"))?;
    let spinner = output.spinner("checking");
    let checked = check::check(BufReader::new(file), arguments.data.as_deref(), arguments.expect);
    spinner.finish_and_clear();
    let report = checked?;
    output.result(&report, || in_words(&report))?;
    match report.complete {
        true => Ok(()),
        false => Err(Failure::new(
            "the bundle holds in part",
            "something that it tells rests on the word of whoever made it, because a part is left out or was purged",
            "see what is not checkable, or ask for a bundle by somebody who may read all of it",
        )),
    }
}

fn in_words(report: &check::Report) -> String {
    let mut said = vec![format!(
        "{}: {}@{}",
        if report.complete { "holds" } else { "holds in part" },
        report.name,
        report.commit
    )];
    said.push(format!(
        "  checked: {} records and {} links between them, {} specs, {}PROV and OpenLineage",
        report.records,
        report.links,
        report.specs,
        match report.content {
            Some(_) => format!("the content from its {} files, ", report.files),
            None => String::new(),
        }
    ));
    if report.data {
        said.push("  the files of the directory are those of the commit".to_owned());
    }
    said.extend(
        report
            .not_checkable
            .iter()
            .map(|what| format!("  not checkable: {what}")),
    );
    if let Some(digest) = &report.record {
        said.push(format!(
            "  the digest of its record is {digest}: compare it with what somebody whom you trust says (--expect)"
        ));
    }
    said.join("\n")
}
