//! A bundle of three steps, held against everything that may be done to it.

use std::io::Cursor;

use contract::api::{Actor, EvidenceCommit, EvidenceVersion, ImportedSource, RemovedHow};
use contract::ids::{AccountId, CommitId, CommitSetId, DomainId, OrganizationId, TokenId};
use contract::policy::Principal;
use contract::record::{Record, RecordedCommit, RecordedPipeline};
use uuid::Uuid;

use super::check::{Report, check};
use super::tree::Tree;
use super::*;

type Change = fn(&mut Evidence, &mut Vec<ListedFile>);

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn commit_id(n: u128) -> CommitId {
    CommitId::from_uuid(uuid(n))
}

fn files(count: usize) -> Vec<ListedFile> {
    (0..count)
        .map(|n| ListedFile {
            path: format!("d/{n:05}"),
            size_bytes: n as u64,
            digest: RecordDigest::new(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            executable: n % 7 == 0,
        })
        .collect()
}

fn content(files: &[ListedFile]) -> RecordDigest {
    let mut tree = Tree::new();
    files.iter().for_each(|file| tree.add(file));
    RecordDigest::new(tree.digest(files.last().map_or("", |file| &file.path)))
}

fn named(name: &str, of: &EvidenceCommit) -> RecordedCommit {
    RecordedCommit {
        name: name.to_owned(),
        digest: of.digest,
        commit: of.commit,
    }
}

fn ci() -> contract::ci::CiIdentity {
    contract::ci::CiIdentity {
        provider: contract::ci::CiProvider::Github,
        issuer: "https://ci.example".to_owned(),
        subject: "repo:acme/tiles".to_owned(),
        trust: contract::ids::CiTrustId::from_uuid(uuid(52)),
        repository: Some("acme/tiles".to_owned()),
        repository_id: None,
        owner: None,
        owner_id: Some("65".to_owned()),
        reference: None,
        sha: None,
        workflow: None,
        environment: None,
        run_id: Some("17".to_owned()),
        actor: None,
    }
}

fn record(n: u128, files: &[ListedFile], inputs: Vec<RecordedCommit>) -> Record {
    Record {
        commit: commit_id(n),
        repo: DomainId::from_uuid(uuid(n + 100)),
        branch: "main".parse().unwrap(),
        commit_set: CommitSetId::from_uuid(uuid(7)),
        parent: None,
        tree: content(files),
        origins: RecordDigest::new([9; 32]),
        inputs,
        message: "m".to_owned(),
        actor: Actor {
            id: Principal::Account(AccountId::from_uuid(uuid(50))),
            name: "ada@example.org".to_owned(),
            token: TokenId::from_uuid(uuid(51)),
            ci: None,
        },
        pipeline: None,
        started_at: chrono::DateTime::UNIX_EPOCH,
        finished_at: chrono::DateTime::UNIX_EPOCH + chrono::Duration::seconds(i64::try_from(n).unwrap()),
        sources: Vec::new(),
    }
}

fn shown(repo: &str, files: &[ListedFile], record: Record) -> EvidenceCommit {
    let pipeline = record.pipeline.clone();
    EvidenceCommit {
        commit: record.commit,
        project: "default".parse().unwrap(),
        repo: repo.parse().unwrap(),
        pipeline: pipeline.as_ref().map(|p| p.id),
        pipeline_version: pipeline.as_ref().map(|p| p.version),
        image_digest: pipeline.and_then(|p| p.image_digest),
        code_revision: None,
        earlier: false,
        removed: None,
        inputs: record.inputs.iter().map(|input| input.commit).collect(),
        digest: Some(record.digest()),
        purged_digest: None,
        content: Some(record.tree),
        files: files.len() as u64,
        size_bytes: files.iter().map(|file| file.size_bytes).sum(),
        restricted: false,
        record: Some(record),
    }
}

/// Data, a pipeline, and a pipeline of that.
fn evidence() -> (Evidence, Vec<ListedFile>) {
    let (few, many) = (files(2), files(30));
    let mut raw = record(1, &few, Vec::new());
    raw.sources.push(ImportedSource {
        url: "https://example.org/a".to_owned(),
        path: "/a".to_owned(),
        files: 1,
        size_bytes: 1,
        etag: Some("\"e\"".to_owned()),
        version: None,
        fetched_at: chrono::DateTime::UNIX_EPOCH,
    });
    raw.actor.ci = Some(Box::new(ci()));
    let raw = shown("raw", &few, raw);
    let mut versions = Vec::new();
    let mut derived = |n: u128, name: &str, from: &EvidenceCommit, files: &[ListedFile]| {
        let image = Some(format!("sha256:{n}"));
        let sealed = json!({ "image": image, "spec": { "pipeline": { "name": name, "project": "default" }, "transform": { "cmd": ["sh"], "stdin": ["true"] } } });
        let sealed = sealed.to_string();
        let spec = RecordDigest::new(blake3::derive_key("howdah spec v1", sealed.as_bytes()));
        let id = DomainId::from_uuid(uuid(n + 100));
        let mut made = record(n, files, vec![named("in", from)]);
        made.pipeline = Some(RecordedPipeline {
            id,
            version: 1,
            image_digest: image,
            code_revision: None,
            spec_digest: Some(spec),
        });
        versions.push(EvidenceVersion {
            pipeline: id,
            project: "default".parse().unwrap(),
            name: name.parse().unwrap(),
            version: 1,
            spec_digest: spec,
            sealed: Some(sealed),
        });
        shown(name, files, made)
    };
    let middle = derived(2, "middle", &raw, &few);
    let end = derived(3, "end", &middle, &many);
    let evidence = Evidence {
        organization: OrganizationId::from_uuid(uuid(99)),
        subject: end.commit,
        way: EvidenceWay::Up,
        restricted: false,
        commits: vec![end, middle, raw],
        versions,
    };
    (evidence, many)
}

fn written(evidence: &Evidence, files: &[ListedFile]) -> Vec<u8> {
    let lines: Vec<Value> = files.iter().map(|file| json!(file)).collect();
    let mut list = Cursor::new(super::lines(lines).unwrap());
    list.set_position(list.get_ref().len() as u64);
    let mut bytes = Vec::new();
    put(evidence, &mut list, &mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Outcome<Report> {
    check(bytes, None, None)
}

/// Why a bundle of that does not hold, though it is written as it should be.
fn refused(change: impl FnOnce(&mut Evidence, &mut Vec<ListedFile>)) -> String {
    let (mut evidence, mut files) = evidence();
    change(&mut evidence, &mut files);
    read(&written(&evidence, &files)).unwrap_err().why
}

fn of(evidence: &mut Evidence, at: usize) -> &mut Record {
    evidence.commits[at].record.as_mut().unwrap()
}

#[test]
fn a_bundle_of_three_steps_holds_and_says_what_was_checked() {
    let (evidence, files) = evidence();
    let report = read(&written(&evidence, &files)).unwrap();
    assert_eq!(
        (report.records, report.links, report.specs, report.files),
        (3, 2, 2, 30)
    );
    assert!(report.not_checkable.is_empty(), "{:?}", report.not_checkable);
    let digest = evidence.commits[0].digest;
    assert!(check(&written(&evidence, &files)[..], None, digest).is_ok());
    let other = Some(RecordDigest::new([1; 32]));
    assert!(check(&written(&evidence, &files)[..], None, other).is_err());
}

#[test]
fn a_bit_that_is_flipped_anywhere_is_found() {
    let (evidence, files) = evidence();
    let whole = written(&evidence, &files);
    // A prime apart, so that every part and every bit is met.
    for at in (0..whole.len()).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(read(&bytes).is_err(), "byte {at} of {}", whole.len());
    }
}

#[test]
fn a_bundle_that_is_cut_or_goes_on_does_not_hold() {
    let (evidence, files) = evidence();
    let whole = written(&evidence, &files);
    for length in (0..whole.len()).step_by(97) {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
    assert!(read(&[&whole[..], &[0]].concat()).is_err());
}

#[test]
fn what_is_changed_and_written_anew_is_found_by_its_digests() {
    let changes: [(&str, Change); 16] = [
        ("has the digest", |e, _| of(e, 0).message.push('x')),
        ("has the digest", |e, _| of(e, 2).actor.name.push('x')),
        ("has the digest", |e, _| of(e, 2).actor.ci = None),
        ("has the digest", |e, _| {
            of(e, 2).actor.ci.as_mut().unwrap().run_id = None;
        }),
        ("has the digest", |e, _| of(e, 2).sources[0].url.push('x')),
        ("has the digest", |e, _| {
            of(e, 1).started_at += chrono::Duration::microseconds(1);
        }),
        ("by another digest", |e, _| {
            of(e, 2).message.push('x');
            e.commits[2].digest = Some(of(e, 2).digest());
        }),
        ("has the digest", |e, _| {
            e.versions[1].sealed = e.versions[1].sealed.as_ref().map(|s| s.replace("true", "false"));
        }),
        ("another spec", |e, _| {
            let sealed = e.versions[1].sealed.as_ref().unwrap().replace("true", "false");
            e.versions[1].spec_digest = RecordDigest::new(blake3::derive_key("howdah spec v1", sealed.as_bytes()));
            e.versions[1].sealed = Some(sealed);
        }),
        ("not what did", |e, _| {
            e.commits[0].image_digest = Some("sha256:other".to_owned());
        }),
        ("which is not in it", |e, _| {
            e.commits.pop();
        }),
        ("nothing in it was made from", |e, _| {
            let few = files(2);
            e.commits.push(shown("stray", &few, record(8, &few, Vec::new())));
        }),
        ("the listed files have the digest", |_, f| f[3].executable = true),
        ("are listed, but", |_, f| {
            f.pop();
        }),
        ("out of order", |_, f| f.swap(3, 4)),
        ("out of order", |_, f| f[0].path = "../d".to_owned()),
    ];
    for (n, (expected, change)) in changes.into_iter().enumerate() {
        let why = refused(change);
        assert!(why.contains(expected), "change {n}: {why}");
    }
}

#[test]
fn documents_that_say_something_else_than_the_records_are_found() {
    let (honest, files) = evidence();
    let mut other = honest.clone();
    other.restricted = true;
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    let document = json!({ "format": check::FORMAT, "evidence": honest });
    writer
        .member(bundle::EVIDENCE, &super::lines([document]).unwrap())
        .unwrap();
    let list: Vec<Value> = files.iter().map(|file| json!(file)).collect();
    writer.member(bundle::FILES, &super::lines(list).unwrap()).unwrap();
    writer
        .member(bundle::PROV, &super::lines([prov::document(&other)]).unwrap())
        .unwrap();
    writer.member(bundle::OPENLINEAGE, b"").unwrap();
    writer.member(bundle::README, README).unwrap();
    writer.finish().unwrap();
    assert!(read(&bytes).unwrap_err().why.contains("prov.json"));
}

#[test]
fn what_is_left_out_is_said_and_the_rest_is_checked() {
    let (mut evidence, files) = evidence();
    // The one that was asked for may be read; what it was made from, and what that was made from, may not be known of.
    evidence.commits.truncate(1);
    evidence
        .versions
        .retain(|version| Some(version.pipeline) == evidence.commits[0].pipeline);
    evidence.versions[0].sealed = None;
    evidence.restricted = true;
    evidence.commits[0].restricted = true;
    evidence.commits[0].inputs.clear();
    of(&mut evidence, 0).inputs.clear();
    let report = read(&written(&evidence, &files)).unwrap();
    assert_eq!((report.records, report.files), (0, 30));
    assert_eq!((report.complete, report.record), (false, None));
    assert_eq!(report.not_checkable.len(), 3, "{:?}", report.not_checkable);
}

/// Why a bundle does not hold that somebody wrote as if it were the one whose record has the honest one's digest.
fn forged(change: impl FnOnce(&mut Evidence, &mut Vec<ListedFile>)) -> String {
    let (mut evidence, mut files) = evidence();
    let honest = evidence.commits[0].digest;
    change(&mut evidence, &mut files);
    match check(&written(&evidence, &files)[..], None, honest) {
        Ok(report) => format!("it holds: {report:?}"),
        Err(failure) => failure.why,
    }
}

#[test]
fn what_is_forged_without_a_contradiction_does_not_hold_for_who_knows_the_digest() {
    let changes: [(&str, Change); 9] = [
        // Other files, with all that no record covers made to fit.
        ("no files can be held against it", |e, f| {
            f.truncate(5);
            let commit = &mut e.commits[0];
            commit.content = Some(content(f));
            (commit.files, commit.size_bytes) = (5, f.iter().map(|file| file.size_bytes).sum());
        }),
        ("nothing says that it was given up", |e, f| {
            f.clear();
            let commit = &mut e.commits[0];
            (commit.content, commit.files, commit.size_bytes) = (None, 0, 0);
        }),
        ("no files can be held against it", |e, f| {
            f.clear();
            let commit = &mut e.commits[0];
            commit.removed = Some(RemovedHow::Squashed);
            (commit.content, commit.files, commit.size_bytes) = (None, 0, 0);
        }),
        // Another record, whose digest is said not to be its own.
        ("cannot be computed", |e, _| {
            e.commits[0].restricted = true;
            of(e, 0).message = "forged".to_owned();
        }),
        ("cannot be computed", |e, _| {
            of(e, 0).message = "forged".to_owned();
            e.commits[0].purged_digest = Some(of(e, 0).digest());
        }),
        // What it was made from, without the record that the digest is of.
        ("is left out", |e, _| {
            let input = &mut e.commits[1];
            (input.record, input.digest, input.content) = (None, None, None);
        }),
        ("has no record", |e, _| {
            let commit = &mut e.commits[0];
            (commit.record, commit.digest, commit.content) = (None, None, None);
        }),
        ("names an input twice", |e, _| {
            let input = e.commits[0].inputs[0];
            e.commits[0].inputs.push(input);
        }),
        ("\\u{1b}[2J", |_, f| f[0].path = "\u{1b}[2J/..".to_owned()),
    ];
    for (n, (expected, change)) in changes.into_iter().enumerate() {
        let why = forged(change);
        assert!(why.contains(expected), "change {n}: {why}");
    }
}

#[test]
fn a_record_upstream_that_is_only_told_makes_it_hold_in_part() {
    let replaced: [fn(&mut Evidence); 2] = [
        |e| e.commits[2].restricted = true,
        |e| e.commits[2].purged_digest = Some(of(e, 2).digest()),
    ];
    for replace in replaced {
        let (mut evidence, files) = evidence();
        let honest = evidence.commits[0].digest;
        of(&mut evidence, 2).message = "forged".to_owned();
        replace(&mut evidence);
        let report = check(&written(&evidence, &files)[..], None, honest).unwrap();
        assert!(!report.complete && report.records == 2, "{report:?}");
        assert!(in_words(&report).starts_with("holds in part"));
    }
}

#[test]
fn what_people_changed_leads_on_to_where_it_was_copied_from() {
    let (few, more) = (files(2), files(3));
    let source = shown("source", &few, record(1, &few, Vec::new()));
    let copied = record(2, &few, vec![named("copy", &source)]);
    let copied = shown("mine", &few, copied);
    let mut put = record(3, &more, Vec::new());
    put.repo = DomainId::from_uuid(uuid(102));
    put.parent = Some(named("", &copied));
    let mut put = shown("mine", &more, put);
    // As the service tells it: what is in it was made from all of these.
    put.inputs = vec![source.commit, copied.commit];
    let evidence = Evidence {
        organization: OrganizationId::from_uuid(uuid(99)),
        subject: put.commit,
        way: EvidenceWay::Up,
        restricted: false,
        commits: vec![put, copied, source],
        versions: Vec::new(),
    };
    assert!(read(&written(&evidence, &more)).unwrap().complete);
    let prov = prov::document(&evidence);
    let derived: Vec<(&str, &str)> = prov["wasDerivedFrom"]
        .as_object()
        .unwrap()
        .values()
        .map(|edge| {
            let end = |name: &str| edge[name].as_str().unwrap();
            (end("prov:generatedEntity"), end("prov:usedEntity"))
        })
        .collect();
    let ids = [3, 2, 1].map(|n| format!("commit:{}", commit_id(n)));
    assert_eq!(derived, [(&*ids[0], &*ids[1]), (&*ids[1], &*ids[2])]);
    let events: Vec<Value> = openlineage::events(&evidence).collect();
    assert_eq!(events[2]["inputs"][0]["name"], "default/mine");
    // One that is not in it is no end of an edge.
    let mut cut = evidence.clone();
    cut.commits.truncate(1);
    assert!(prov::document(&cut)["wasDerivedFrom"].is_null());
}

#[test]
fn what_is_hidden_downstream_did_not_influence_what_it_was_made_from() {
    let (mut evidence, _) = evidence();
    evidence.restricted = true;
    for (way, hidden) in [
        (EvidenceWay::Up, "prov:influencer"),
        (EvidenceWay::Down, "prov:influencee"),
    ] {
        evidence.way = way;
        let prov = prov::document(&evidence);
        let influence = prov["wasInfluencedBy"].as_object().unwrap().values().next().unwrap();
        assert_eq!(influence[hidden], "howdah:restricted", "{influence}");
    }
}

#[test]
fn a_directory_is_compared_and_the_first_difference_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // `a-b` comes before `a/c`, though `a` comes before `a-b`.
    std::fs::create_dir(at("a")).unwrap();
    for name in ["a/c", "a-b", "z"] {
        std::fs::write(at(name), name).unwrap();
    }
    let files: Vec<ListedFile> = ["a-b", "a/c", "z"]
        .map(|name| ListedFile {
            path: name.to_owned(),
            size_bytes: name.len() as u64,
            digest: RecordDigest::new(*blake3::hash(name.as_bytes()).as_bytes()),
            executable: false,
        })
        .into();
    let commit = shown("r", &files, record(1, &files, Vec::new()));
    let evidence = Evidence {
        organization: OrganizationId::from_uuid(uuid(99)),
        subject: commit.commit,
        way: EvidenceWay::Up,
        restricted: false,
        commits: vec![commit],
        versions: Vec::new(),
    };
    let bytes = written(&evidence, &files);
    let compare = || check(&bytes[..], Some(directory.path()), None).map_err(|failure| failure.why);
    assert!(compare().unwrap().data);
    std::fs::write(at("more"), "x").unwrap();
    assert!(compare().unwrap_err().contains("`/more` is in the directory"));
    std::fs::write(at("a/c"), "a/d").unwrap();
    assert!(compare().unwrap_err().contains("`/a/c`"));
    // Neither is waited for, nor read without end.
    std::fs::remove_file(at("a/c")).unwrap();
    nix::unistd::mkfifo(&at("a/c"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(compare().unwrap_err().contains("neither a file nor a directory"));
    std::fs::remove_file(at("a/c")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("a/c")).unwrap();
    assert!(compare().unwrap_err().contains("neither a file nor a directory"));
    std::fs::remove_file(at("a-b")).unwrap();
    assert!(compare().unwrap_err().contains("`/a-b` is not in the directory"));
}

#[test]
fn the_documents_have_the_parts_that_their_standards_demand() {
    let (evidence, _) = evidence();
    let prov = prov::document(&evidence);
    for section in [
        "prefix",
        "entity",
        "activity",
        "agent",
        "wasGeneratedBy",
        "used",
        "wasDerivedFrom",
    ] {
        assert!(prov[section].is_object(), "{section}: {prov}");
    }
    let events: Vec<Value> = openlineage::events(&evidence).collect();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2]["outputs"][0]["name"], "default/end");
    assert_eq!(events[2]["inputs"][0]["name"], "default/middle");
    assert_eq!(events[0]["inputs"][0]["namespace"], "https://example.org");
}
