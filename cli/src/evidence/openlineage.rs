//! Evidence as OpenLineage run events (<https://openlineage.io/spec>): one that is complete for each commit that may be read,
//! oldest first. Our own facet `howdah_commit` has the digests. It follows from the evidence alone, like PROV.

use std::collections::HashMap;

use contract::api::{Evidence, EvidenceCommit, EvidenceVersion, ImportedSource};
use contract::ids::{CommitId, DomainId};
use contract::record::Record;
use serde_json::{Map, Value, json};

use super::prov;

const PRODUCER: &str = "urn:howdah:producer:1";
const EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const FACETS: &str = "https://openlineage.io/spec/facets";

/// The events of evidence.
pub fn events(evidence: &Evidence) -> impl Iterator<Item = Value> {
    let known = Known {
        namespace: format!("howdah://{}", evidence.organization),
        commits: evidence.commits.iter().map(|commit| (commit.commit, commit)).collect(),
        versions: evidence
            .versions
            .iter()
            .map(|version| ((version.pipeline, version.version), (version, source_code(version))))
            .collect(),
    };
    let mut commits: Vec<_> = evidence
        .commits
        .iter()
        .filter_map(|commit| commit.record.as_ref().map(|record| (commit, record)))
        .collect();
    commits.sort_by_key(|(commit, record)| (record.finished_at, commit.commit));
    commits
        .into_iter()
        .map(move |(commit, record)| known.event(commit, record))
}

struct Known<'a> {
    namespace: String,
    commits: HashMap<CommitId, &'a EvidenceCommit>,
    /// With the code of each.
    versions: HashMap<(DomainId, i32), (&'a EvidenceVersion, Option<Value>)>,
}

fn facet(schema: Option<&str>, fields: Value) -> Value {
    let mut facet = Map::from_iter([
        ("_producer".to_owned(), json!(PRODUCER)),
        (
            "_schemaURL".to_owned(),
            match schema {
                Some(name) => json!(format!("{FACETS}/{name}")),
                None => json!("urn:howdah:facet:commit:1"),
            },
        ),
    ]);
    if let Value::Object(fields) = fields {
        facet.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(facet)
}

impl Known<'_> {
    fn event(&self, commit: &EvidenceCommit, record: &Record) -> Value {
        let named = record.inputs.iter().map(|input| input.commit);
        let named = named.chain(prov::changed(commit, record));
        let inputs = named.filter_map(|input| self.commits.get(&input));
        let mut inputs: Vec<Value> = inputs.map(|input| self.dataset(input)).collect();
        inputs.extend(record.sources.iter().map(fetched));
        json!({
            "eventType": "COMPLETE",
            "eventTime": record.finished_at,
            "producer": PRODUCER,
            "schemaURL": EVENT,
            "run": {
                "runId": commit.commit.uuid().hyphenated().to_string(),
                "facets": {
                    "nominalTime": facet(
                        Some("1-0-1/NominalTimeRunFacet.json#/$defs/NominalTimeRunFacet"),
                        json!({ "nominalStartTime": record.started_at, "nominalEndTime": record.finished_at }),
                    ),
                },
            },
            "job": self.job(commit, record),
            "inputs": inputs,
            "outputs": [self.dataset(commit)],
        })
    }

    fn job(&self, commit: &EvidenceCommit, record: &Record) -> Value {
        let version = commit.pipeline.zip(commit.pipeline_version);
        let version = version.and_then(|version| self.versions.get(&version));
        let (version, code) = version.map_or((None, None), |(version, code)| (Some(*version), code.clone()));
        let mut facets = Map::new();
        facets.insert(
            "jobType".to_owned(),
            facet(
                Some("2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"),
                json!({
                    "processingType": "BATCH",
                    "integration": "HOWDAH",
                    "jobType": if version.is_some() { "PIPELINE" } else { "CHANGE" },
                }),
            ),
        );
        if let Some(code) = code {
            facets.insert("sourceCode".to_owned(), code);
        }
        let told = match version {
            Some(version) => format!(
                "version {} of the pipeline {}/{}, spec {}",
                version.version, version.project, version.name, version.spec_digest
            ),
            None if record.message.is_empty() => format!("a change by {}", record.actor.name),
            None => record.message.clone(),
        };
        facets.insert(
            "documentation".to_owned(),
            facet(
                Some("1-0-1/DocumentationJobFacet.json#/$defs/DocumentationJobFacet"),
                json!({ "description": told }),
            ),
        );
        let name = match version {
            Some(version) => format!("{}/{}", version.project, version.name),
            None => format!("{}/{} changed", commit.project, commit.repo),
        };
        json!({ "namespace": self.namespace, "name": name, "facets": facets })
    }

    fn dataset(&self, commit: &EvidenceCommit) -> Value {
        let record = commit.record.as_ref();
        json!({
            "namespace": self.namespace,
            "name": format!("{}/{}", commit.project, commit.repo),
            "facets": {
                "version": facet(
                    Some("1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"),
                    json!({ "datasetVersion": commit.commit }),
                ),
                "howdah_commit": facet(None, json!({
                    "record": commit.purged_digest.or(commit.digest),
                    "content": record.map(|record| record.tree),
                    "branch": record.map(|record| &record.branch),
                    "commitSet": record.map(|record| record.commit_set),
                    "files": record.map(|_| commit.files),
                    "bytes": record.map(|_| commit.size_bytes),
                    "image": commit.image_digest,
                    "codeRevision": commit.code_revision,
                })),
            },
        })
    }
}

/// Where files were fetched from, as a dataset of its own.
fn fetched(source: &ImportedSource) -> Value {
    let (scheme, rest) = source.url.split_once("://").unwrap_or(("file", &source.url));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let version = source.version.as_ref().or(source.etag.as_ref());
    let facets = version.map(|version| {
        json!({
            "version": facet(
                Some("1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"),
                json!({ "datasetVersion": version }),
            ),
        })
    });
    json!({
        "namespace": format!("{scheme}://{host}"),
        "name": if path.is_empty() { "/" } else { path },
        "facets": facets.unwrap_or_else(|| json!({})),
    })
}

/// The command of a spec.
fn source_code(version: &EvidenceVersion) -> Option<Value> {
    let sealed: Value = serde_json::from_str(version.sealed.as_deref()?).ok()?;
    let transform = &sealed["spec"]["transform"];
    let words = |name: &str| -> Vec<String> {
        let all = transform[name].as_array().into_iter().flatten();
        all.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let command = words("cmd");
    let language = command.first().cloned().unwrap_or_default();
    let code = [command, words("stdin")].concat().join("\n");
    Some(facet(
        Some("1-0-1/SourceCodeJobFacet.json#/$defs/SourceCodeJobFacet"),
        json!({ "language": language, "sourceCode": code }),
    ))
}
