//! Uploads that break off and go on: what is kept of them, who may go on with them, and what becomes of those that never do.

use contract::api::{Commit, NewUpload, Upload};
use contract::ids::UploadId;
use contract::policy::Role;
use contract::problem::ProblemKind;
use contract::upload::{DELTA, END, HELD, KEY, OFFSET, Step, record};
use data_plane::garbage::collect;
use serde_json::json;
use std::time::Duration;

use crate::app::{App, Person, Reply};
use crate::room::{LIMIT, SmallDisk, bucket, noise, packs};

const MIB: usize = 1 << 20;

/// An archive under construction.
pub struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn extension(mut self, kind: tar::EntryType, records: &str) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.0.append(&header, records.as_bytes()).unwrap();
        self
    }

    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, path, bytes).unwrap();
        self
    }

    pub fn large(self, path: &str, key: &str, offset: usize, bytes: &[u8]) -> Self {
        let records = record(KEY, key) + &record(OFFSET, offset);
        self.extension(tar::EntryType::XHeader, &records).file(path, bytes)
    }

    fn end(self, key: &str) -> Self {
        self.extension(tar::EntryType::XGlobalHeader, &record(END, key))
    }

    fn held(self, key: &str) -> Self {
        self.extension(tar::EntryType::XGlobalHeader, &record(HELD, key))
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn key(n: u8) -> String {
    hex::encode([n; 32])
}

async fn begin(app: &App, person: &Person, repo: &str) -> UploadId {
    let new = NewUpload {
        repo: repo.to_owned(),
        branch: None,
    };
    let begun: Upload = app
        .post(person, "/v1/uploads", serde_json::to_value(new).unwrap())
        .await
        .json();
    begun.id
}

async fn show(app: &App, person: &Person, id: UploadId) -> Upload {
    app.get(person, &format!("/v1/uploads/{id}")).await.json()
}

async fn send(app: &App, person: &Person, query: &str, archive: Vec<u8>) -> Reply {
    app.call(person, "POST", &format!("/v1/files?{query}"), archive.into())
        .await
}

/// Which parts are kept: the first byte of the key, whether whole, from, to.
fn kept(upload: &Upload) -> Vec<(u8, bool, u64, u64)> {
    let part = |p: &contract::api::UploadPart| (hex::decode(&p.key).unwrap()[0], p.whole, p.from, p.to);
    upload.parts.iter().map(part).collect()
}

async fn chunks(app: &App, person: &Person, reference: &str) -> String {
    let body = json!({ "ref": reference, "paths": ["large"] });
    let text = app.post(person, "/v1/chunks", body).await.ok().text();
    let line: contract::api::FileChunks = serde_json::from_str(text.trim()).unwrap();
    line.chunks
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_goes_on_where_it_was_and_is_as_if_it_had_never_broken_off() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.repo(&ada, "plain").await;
    let large = noise(1, 130 * MIB);
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}&message=slow");
    let first = Archive::new()
        .file("a", b"one")
        .file("b", &noise(2, 300_000))
        .end(&key(1));

    let mut broken = first.large("large", &key(2), 0, &large).bytes();
    broken.truncate(110 * MIB);
    send(&app, &ada, &query, broken).await.refused(ProblemKind::Malformed);
    let there = show(&app, &ada, id).await;
    let parts = kept(&there);
    assert_eq!(parts[0], (1, true, 0, 300_003));
    assert_eq!((parts[1].0, parts[1].1, parts[1].2), (2, false, 0));
    assert_eq!((parts[2].2, parts.len()), (parts[1].3, 3));
    let at = parts[2].3 as usize;
    assert!((96 * MIB..110 * MIB).contains(&at), "{at}");
    app.get(&ada, "/v1/log?ref=r@main").await.refused(ProblemKind::NotFound);

    // A collection in between takes nothing of it.
    for _ in 0..2 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    let rest = Archive::new().held(&key(1)).large("large", &key(2), at, &large[at..]);
    let commit: Commit = send(&app, &ada, &query, rest.file("c", b"three").bytes()).await.json();
    assert_eq!((commit.files, commit.message.as_str()), (4, "slow"));
    assert!(app.cat(&ada, "r@main", "large").await.ok().body == large);
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "one");

    let files: &[(&str, &[u8])] = &[
        ("a", b"one"),
        ("b", &noise(2, 300_000)),
        ("large", &large),
        ("c", b"three"),
    ];
    let plain: Commit = app.put(&ada, "plain", files).await.json();
    assert_eq!(commit.digest, plain.digest);
    assert_eq!(
        chunks(&app, &ada, "r@main").await,
        chunks(&app, &ada, "plain@main").await
    );
    let over = show(&app, &ada, id).await;
    assert_eq!((over.commit.map(|c| c.id), over.parts.len()), (Some(commit.id), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_goes_on_where_it_was_too() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let old = noise(1, 70 * MIB);
    let inserted = noise(2, 5 * MIB);
    let (length, more) = (old.len() as u64, inserted.len() as u64);
    let base: Commit = app.put(&ada, "r", &[("large", &old)]).await.json();
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}&base={}", base.id);
    let delta = |offset: u64, steps: &[(Step, &[u8])]| {
        let body: Vec<u8> = steps.iter().flat_map(|(s, b)| [&s.encode()[..], b].concat()).collect();
        let records = record(KEY, key(1)) + &record(OFFSET, offset) + &record(DELTA, length + more);
        let archive = Archive::new().extension(tar::EntryType::XHeader, &records);
        archive.file("large", &body).bytes()
    };
    let new = (Step::Literal { length: more }, &inserted[..]);
    let copy = |offset| {
        let length = length - offset;
        (Step::Copy { offset, length }, &b""[..])
    };

    let mut broken = delta(0, &[new, copy(0), copy(0)]);
    broken.truncate(broken.len() - 1024);
    send(&app, &ada, &query, broken).await.refused(ProblemKind::Invalid);
    let at = kept(&show(&app, &ada, id).await)[0].3;
    assert!(at > 48 << 20, "{at}");
    let commit: Commit = send(&app, &ada, &query, delta(at, &[copy(at - more)])).await.json();
    assert_eq!(commit.size_bytes, length + more);
    let got = app.cat(&ada, "r@main", "large").await;
    assert!(got.ok().body == [inserted, old].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_the_new_one_whatever_else_is_kept() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}");
    let (old, new) = (noise(1, MIB), noise(2, MIB));
    let parts = Archive::new()
        .file("a", b"old")
        .end(&key(1))
        .large("l", &key(2), 0, &old);
    let mut broken = parts.file("z", b"z").end(&key(3)).file("rest", &[7; 5000]).bytes();
    broken.truncate(broken.len() - 4000);
    send(&app, &ada, &query, broken).await.refused(ProblemKind::Malformed);
    assert_eq!(show(&app, &ada, id).await.parts.len(), 3);

    let parts = Archive::new()
        .file("a", b"new")
        .end(&key(4))
        .large("l", &key(5), 0, &new);
    let commit: Commit = send(&app, &ada, &query, parts.held(&key(3)).bytes()).await.json();
    assert_eq!(commit.files, 3);
    assert_eq!(app.cat(&ada, "r@main", "a").await.text(), "new");
    assert!(app.cat(&ada, "r@main", "l").await.ok().body == new);
    assert_eq!(app.cat(&ada, "r@main", "z").await.text(), "z");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_sent_twice_is_one_commit() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}");
    let archive = Archive::new().file("a", &noise(1, 2 * MIB)).end(&key(1)).bytes();

    let (one, two) = tokio::join!(
        send(&app, &ada, &query, archive.clone()),
        send(&app, &ada, &query, archive.clone())
    );
    let (one, two): (Commit, Commit) = (one.json(), two.json());
    let three: Commit = send(&app, &ada, &query, archive).await.json();
    assert_eq!((one.id, two.id), (two.id, three.id));
    assert_eq!(app.log(&ada, "r").await.len(), 1);

    // Two uploads are two commits, also at the same time.
    let (a, b) = (begin(&app, &ada, "r").await, begin(&app, &ada, "r").await);
    let (to_a, to_b) = (format!("repo=r&upload={a}"), format!("repo=r&upload={b}"));
    let file = |name| Archive::new().file(name, &noise(2, MIB)).end(&key(2)).bytes();
    let (one, two) = tokio::join!(send(&app, &ada, &to_a, file("x")), send(&app, &ada, &to_b, file("y")));
    one.ok();
    two.ok();
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await, ["/a", "/x", "/y"]);
    assert_eq!(app.log(&ada, "r").await.len(), 3);

    // Into an open commit as well.
    app.post(&ada, "/v1/commits", json!({ "repo": "r" })).await.ok();
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}");
    let one: Commit = send(&app, &ada, &query, file("z")).await.json();
    let two: Commit = send(&app, &ada, &query, file("z")).await.json();
    assert_eq!(one.id, two.id);
    app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .ok();
    assert_eq!(app.ls(&ada, "ref=r&recursive=true").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_on_trust_and_nothing_of_others() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    app.grant(&bob, contract::policy::Role::Contributor, &repo).await;
    let id = begin(&app, &ada, "r").await;
    let query = format!("repo=r&upload={id}");
    let small = || Archive::new().file("a", b"a");
    let mut broken = small().end(&key(1)).file("b", &[7; 5000]).bytes();
    broken.truncate(3000);
    send(&app, &ada, &query, broken).await.refused(ProblemKind::Malformed);
    assert_eq!(kept(&show(&app, &ada, id).await), [(1, true, 0, 1)]);

    for (what, query, archive) in [
        (
            "a part that is not there",
            query.as_str(),
            small().held(&key(9)).bytes(),
        ),
        (
            "a beginning that is not there",
            &query,
            small().large("l", &key(1), 5, b"x").bytes(),
        ),
        ("parts of no upload", "repo=r", small().held(&key(1)).bytes()),
        (
            "the end of a file of no upload",
            "repo=r",
            small().large("l", &key(1), 5, b"x").bytes(),
        ),
        ("another branch", &format!("{query}&branch=other"), small().bytes()),
        ("a directory", &format!("{query}&path=/d"), small().bytes()),
        ("behind what is there", &format!("{query}&append=true"), small().bytes()),
    ] {
        let refused = send(&app, &ada, query, archive).await;
        assert_eq!(refused.status, 422, "{what}: {}", refused.text());
    }
    // Somebody else's upload is none, whatever he may do in the repo, and so is one that never was.
    let never: UploadId = data_plane::Environment::system().id();
    for of in [id, never] {
        let archive = Archive::new().held(&key(1)).bytes();
        let mut answers = vec![send(&app, &bob, &format!("repo=r&upload={of}"), archive).await];
        answers.push(app.get(&bob, &format!("/v1/uploads/{of}")).await);
        answers.push(app.delete(&bob, &format!("/v1/uploads/{of}")).await);
        for answer in answers {
            let problem = answer.refused(ProblemKind::NotFound);
            assert!(!problem.detail.contains("upl_"), "{}", problem.detail);
        }
    }
    let viewer = app.scoped(&ada, &["read:default/r"]);
    let refused = app
        .post(&viewer, "/v1/uploads", json!({ "repo": "r", "branch": null }))
        .await;
    refused.refused(ProblemKind::NotAllowed);
    app.get(&ada, "/v1/log?ref=r@main").await.refused(ProblemKind::NotFound);
    assert_eq!(kept(&show(&app, &ada, id).await).len(), 1, "what is there stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_his_rights_is_told_nothing_of_what_he_began() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    let grant = app.grant(&bob, Role::Contributor, &repo).await;
    let id = begin(&app, &bob, "r").await;
    let uri = format!("/v1/uploads/{id}");
    app.get(&bob, &uri).await.ok();

    let reader = app.scoped(&bob, &["read:default/r"]);
    app.delete(&reader, &uri).await.refused(ProblemKind::NotAllowed);
    let done = Archive::new().file("a", b"one").bytes();
    send(&app, &bob, &format!("repo=r&upload={id}"), done).await.ok();
    assert!(show(&app, &bob, id).await.commit.is_some());

    app.revoke(grant).await;
    let never: UploadId = data_plane::Environment::system().id();
    let none = app.get(&bob, &format!("/v1/uploads/{never}")).await;
    let none = none.refused(ProblemKind::NotFound).detail;
    for answer in [app.get(&bob, &uri).await, app.delete(&bob, &uri).await] {
        assert_eq!(answer.refused(ProblemKind::NotFound).detail, none);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_or_abandoned_takes_no_room() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("f", &noise(1, 3 * MIB))]).await.ok();
    let arrived = begin(&app, &ada, "r").await;
    let small = Archive::new().file("small", b"s").bytes();
    send(&app, &ada, &format!("repo=r&upload={arrived}"), small).await.ok();
    let before = packs(&app);
    let broken = || {
        let mut bytes = Archive::new()
            .file("f", &noise(1, 3 * MIB))
            .file("g", &noise(2, 9 * MIB))
            .end(&key(1));
        bytes = bytes.file("h", &noise(3, 9 * MIB));
        let mut bytes = bytes.bytes();
        bytes.truncate(bytes.len() - 2000);
        bytes
    };
    let begun = async || {
        let id = begin(&app, &ada, "r").await;
        let query = format!("repo=r&upload={id}");
        send(&app, &ada, &query, broken()).await.refused(ProblemKind::Malformed);
        assert_eq!(show(&app, &ada, id).await.parts.len(), 1);
        assert!(packs(&app) > before);
        id
    };

    let id = begun().await;
    app.delete(&ada, &format!("/v1/uploads/{id}")).await.ok();
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;
    app.get(&ada, &format!("/v1/uploads/{id}"))
        .await
        .refused(ProblemKind::NotFound);

    let id = begun().await;
    app.pass(chrono::Duration::hours(11)).await;
    collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    assert_eq!(show(&app, &ada, id).await.parts.len(), 1);
    assert!(show(&app, &ada, arrived).await.commit.is_some());
    app.pass(chrono::Duration::hours(2)).await;
    collect(&app.plane, Duration::from_secs(3600), true).await.unwrap();
    assert_eq!(show(&app, &ada, id).await.parts.len(), 1, "a dry run gives nothing up");
    collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;
    for gone in [id, arrived] {
        app.get(&ada, &format!("/v1/uploads/{gone}"))
            .await
            .refused(ProblemKind::NotFound);
    }
    assert_eq!(app.cat(&ada, "r@main", "small").await.ok().body, "s");
    // Whoever still sends to it is told, and what he sent is taken back.
    let late = send(&app, &ada, &format!("repo=r&upload={id}"), broken()).await;
    late.refused(ProblemKind::NotFound);
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;
    assert_eq!(app.cat(&ada, "r@main", "f").await.ok().body, noise(1, 3 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_which_nothing_is_kept_before_its_end_waits_from_when_it_was_sent_last() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let id = begin(&app, &ada, "r").await;
    app.pass(chrono::Duration::hours(8)).await;
    let mut broken = Archive::new().file("f", b"not all of it").bytes();
    broken.truncate(700);
    let query = format!("repo=r&upload={id}");
    send(&app, &ada, &query, broken).await.refused(ProblemKind::Malformed);
    app.pass(chrono::Duration::hours(8)).await;
    collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    assert_eq!(show(&app, &ada, id).await.parts.len(), 0);
    app.pass(chrono::Duration::hours(5)).await;
    collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    app.get(&ada, &format!("/v1/uploads/{id}"))
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fills_the_disk_gives_back_all_that_it_took() {
    let app = App::start().await;
    let directory = bucket(&app);
    let Some(_disk) = SmallDisk::over(&directory, "96m") else {
        eprintln!("left out: only root can mount a small disk");
        return;
    };
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("kept", &noise(1, 6 * MIB))]).await.ok();
    let before = packs(&app);
    let id = begin(&app, &ada, "r").await;
    let archive = Archive::new().file("small", b"small").end(&key(1));
    let archive = archive.large("large", &key(2), 0, &noise(2, 150 * MIB)).bytes();

    let refused = send(&app, &ada, &format!("repo=r&upload={id}"), archive).await;
    refused.refused(ProblemKind::StorageFull);
    testkit::wait::wait_until("the packs to be gone", LIMIT, async || packs(&app) == before).await;
    app.get(&ada, &format!("/v1/uploads/{id}"))
        .await
        .refused(ProblemKind::NotFound);
    app.put(&ada, "r", &[("small", &noise(3, 6 * MIB))]).await.ok();
    assert_eq!(app.cat(&ada, "r@main", "kept").await.ok().body, noise(1, 6 * MIB));
}
