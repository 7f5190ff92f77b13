//! Evidence as W3C PROV in JSON (<https://www.w3.org/submissions/prov-json/>). It follows from the evidence alone, so whoever
//! has that can make the same document again and compare.

use std::collections::{BTreeMap, HashSet};

use contract::api::{Evidence, EvidenceCommit, EvidenceWay};
use contract::ids::{CommitId, DomainId};
use contract::policy::Principal;
use contract::record::Record;
use serde_json::{Map, Value, json};

/// What stands for all that may not be known.
const RESTRICTED: &str = "howdah:restricted";

fn entity(commit: CommitId) -> String {
    format!("commit:{commit}")
}

fn activity(commit: CommitId) -> String {
    format!("run:{commit}")
}

fn plan(pipeline: DomainId, version: i32) -> String {
    format!("plan:{pipeline}-v{version}")
}

fn kind(name: &str) -> Value {
    json!({ "$": name, "type": "prov:QUALIFIED_NAME" })
}

/// The document while it is made.
#[derive(Default)]
struct Document {
    sections: BTreeMap<String, Map<String, Value>>,
    relations: usize,
}

impl Document {
    fn section(&mut self, name: &str) -> &mut Map<String, Value> {
        self.sections.entry(name.to_owned()).or_default()
    }

    fn node(&mut self, section: &str, id: String, attributes: Vec<(&str, Value)>) {
        let attributes = attributes.into_iter().filter(|(_, value)| !value.is_null());
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value)).collect();
        self.section(section).insert(id, Value::Object(attributes));
    }

    fn relation(&mut self, section: &str, attributes: Vec<(&str, Value)>) {
        self.relations += 1;
        let id = format!("_:r{}", self.relations);
        self.node(section, id, attributes);
    }
}

/// The PROV document of evidence.
pub fn document(evidence: &Evidence) -> Value {
    let mut document = Document::default();
    let names = ["terms", "commit", "run", "plan", "agent", "source"];
    for name in names {
        let prefix = if name == "terms" { "howdah" } else { name };
        document
            .section("prefix")
            .insert(prefix.to_owned(), json!(format!("urn:howdah:{name}:")));
    }
    for version in &evidence.versions {
        document.node(
            "entity",
            plan(version.pipeline, version.version),
            vec![
                ("prov:type", kind("prov:Plan")),
                (
                    "prov:label",
                    json!(format!(
                        "{}/{} version {}",
                        version.project, version.name, version.version
                    )),
                ),
                ("howdah:spec", json!(version.spec_digest)),
            ],
        );
    }
    let known = evidence.commits.iter().map(|commit| commit.commit).collect();
    for commit in &evidence.commits {
        named(&mut document, commit);
        match &commit.record {
            Some(record) => {
                recorded(&mut document, commit, record);
                derived(&mut document, commit, record, &known);
            }
            None => unrecorded(&mut document, commit),
        }
    }
    if evidence.restricted {
        let label = "something that may not be known";
        document.node("entity", RESTRICTED.to_owned(), vec![("prov:label", json!(label))]);
        let (subject, hidden) = (json!(entity(evidence.subject)), json!(RESTRICTED));
        let (influencee, influencer) = match evidence.way {
            EvidenceWay::Up => (subject, hidden),
            EvidenceWay::Down => (hidden, subject),
        };
        document.relation(
            "wasInfluencedBy",
            vec![("prov:influencee", influencee), ("prov:influencer", influencer)],
        );
    }
    json!(document.sections)
}

fn named(document: &mut Document, commit: &EvidenceCommit) {
    let label = format!("{}/{}@{}", commit.project, commit.repo, commit.commit);
    let record = commit.record.as_ref();
    document.node(
        "entity",
        entity(commit.commit),
        vec![
            ("prov:type", kind("howdah:Commit")),
            ("prov:label", json!(label)),
            ("howdah:record", json!(commit.purged_digest.or(commit.digest))),
            ("howdah:content", json!(record.map(|record| record.tree))),
            ("howdah:branch", json!(record.map(|record| &record.branch))),
            ("howdah:commitSet", json!(record.map(|record| record.commit_set))),
            ("howdah:files", json!(record.map(|_| commit.files))),
            ("howdah:bytes", json!(record.map(|_| commit.size_bytes))),
            ("howdah:removed", json!(commit.removed)),
        ],
    );
}

fn recorded(document: &mut Document, commit: &EvidenceCommit, record: &Record) {
    let (made, run) = (entity(commit.commit), activity(commit.commit));
    let message = Some(&record.message).filter(|message| !message.is_empty());
    let ci = record.actor.ci.as_deref();
    document.node(
        "activity",
        run.clone(),
        vec![
            (
                "prov:type",
                kind(if record.pipeline.is_some() {
                    "howdah:Job"
                } else {
                    "howdah:Change"
                }),
            ),
            ("prov:startTime", json!(record.started_at)),
            ("prov:endTime", json!(record.finished_at)),
            ("howdah:message", json!(message)),
            ("howdah:image", json!(commit.image_digest)),
            ("howdah:codeRevision", json!(commit.code_revision)),
            ("howdah:ciIssuer", json!(ci.map(|ci| &ci.issuer))),
            ("howdah:ciSubject", json!(ci.map(|ci| &ci.subject))),
            ("howdah:ciRun", json!(ci.map(ToString::to_string))),
        ],
    );
    let agent = format!("agent:{}", record.actor.id);
    let person = match record.actor.id {
        Principal::Account(_) => "prov:Person",
        Principal::ServiceAccount(_) => "prov:SoftwareAgent",
    };
    document.node(
        "agent",
        agent.clone(),
        vec![("prov:type", kind(person)), ("prov:label", json!(record.actor.name))],
    );
    document.relation(
        "wasGeneratedBy",
        vec![
            ("prov:entity", json!(made)),
            ("prov:activity", json!(run)),
            ("prov:time", json!(record.finished_at)),
        ],
    );
    let plan = record.pipeline.as_ref().map(|p| plan(p.id, p.version));
    document.relation(
        "wasAssociatedWith",
        vec![
            ("prov:activity", json!(run)),
            ("prov:agent", json!(agent)),
            ("prov:plan", json!(plan)),
        ],
    );
}

/// The commit before it, where it is that one, changed. What a pipeline made from its inputs alone is not.
pub fn changed(commit: &EvidenceCommit, record: &Record) -> Option<CommitId> {
    let parent = record.parent.as_ref()?.commit;
    (record.pipeline.is_none() || commit.inputs.contains(&parent)).then_some(parent)
}

/// What it was made from.
fn derived(document: &mut Document, commit: &EvidenceCommit, record: &Record, known: &HashSet<CommitId>) {
    let (made, run) = (entity(commit.commit), activity(commit.commit));
    for input in &record.inputs {
        let used = json!(entity(input.commit));
        let role = json!(input.name);
        document.relation(
            "used",
            vec![
                ("prov:activity", json!(run)),
                ("prov:entity", used.clone()),
                ("prov:role", role),
            ],
        );
        document.relation(
            "wasDerivedFrom",
            vec![
                ("prov:generatedEntity", json!(made)),
                ("prov:usedEntity", used),
                ("prov:activity", json!(run)),
            ],
        );
    }
    if let Some(parent) = changed(commit, record).filter(|parent| known.contains(parent)) {
        document.relation(
            "wasDerivedFrom",
            vec![
                ("prov:generatedEntity", json!(made)),
                ("prov:usedEntity", json!(entity(parent))),
                ("prov:type", kind("prov:Revision")),
            ],
        );
    }
    for (n, source) in record.sources.iter().enumerate() {
        let id = format!("source:{}-{}", commit.commit, n + 1);
        document.node(
            "entity",
            id.clone(),
            vec![
                ("prov:location", json!(source.url)),
                ("howdah:etag", json!(source.etag)),
                ("howdah:version", json!(source.version)),
                ("howdah:fetchedAt", json!(source.fetched_at)),
                ("howdah:path", json!(source.path)),
            ],
        );
        document.relation(
            "wasDerivedFrom",
            vec![("prov:generatedEntity", json!(made)), ("prov:usedEntity", json!(id))],
        );
    }
}

/// Of a commit that may be known of and not be read: what made it, and from what.
fn unrecorded(document: &mut Document, commit: &EvidenceCommit) {
    let (made, run) = (entity(commit.commit), activity(commit.commit));
    if let (Some(pipeline), Some(version)) = (commit.pipeline, commit.pipeline_version) {
        document.node(
            "activity",
            run.clone(),
            vec![
                ("prov:type", kind("howdah:Job")),
                ("howdah:image", json!(commit.image_digest)),
                ("howdah:codeRevision", json!(commit.code_revision)),
            ],
        );
        document.relation(
            "wasGeneratedBy",
            vec![("prov:entity", json!(made)), ("prov:activity", json!(run))],
        );
        document.relation(
            "wasAssociatedWith",
            vec![
                ("prov:activity", json!(run)),
                ("prov:plan", json!(plan(pipeline, version))),
            ],
        );
    }
    for input in &commit.inputs {
        document.relation(
            "wasDerivedFrom",
            vec![
                ("prov:generatedEntity", json!(made)),
                ("prov:usedEntity", json!(entity(*input))),
            ],
        );
    }
}
