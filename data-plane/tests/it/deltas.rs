//! Files that arrive as what is new of them: what a client is told of the chunks that are there, and what it may make of
//! them.

use contract::api::{Commit, CommitState, FileChunks};
use contract::ids::CommitId;
use contract::policy::Role;
use contract::problem::ProblemKind;
use contract::upload::{DELTA, Step, record};
use serde_json::json;

use crate::app::{App, Person, Reply, escape};
use crate::room::noise;

/// An archive of one delta: steps with the bytes of literals behind them.
pub fn delta(path: &str, size: u64, steps: &[(Step, &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = steps.iter().flat_map(|(s, b)| [&s.encode()[..], b].concat()).collect();
    let mut builder = tar::Builder::new(Vec::new());
    let records = record(DELTA, size);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    builder.append(&header, records.as_bytes()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(body.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, &body[..]).unwrap();
    builder.into_inner().unwrap()
}

fn copy(offset: u64, length: u64) -> (Step, &'static [u8]) {
    (Step::Copy { offset, length }, b"")
}

fn literal(bytes: &[u8]) -> (Step, &[u8]) {
    let length = bytes.len() as u64;
    (Step::Literal { length }, bytes)
}

async fn put(app: &App, person: &Person, query: &str, archive: Vec<u8>) -> Reply {
    app.call(person, "POST", &format!("/v1/files?{query}"), archive.into())
        .await
}

async fn chunks(app: &App, person: &Person, reference: &str, paths: &[&str]) -> Reply {
    app.post(person, "/v1/chunks", json!({ "ref": reference, "paths": paths }))
        .await
}

fn lines(reply: &Reply) -> Vec<FileChunks> {
    let text = reply.ok().text();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_chunks_is_what_the_file_is_cut_into() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let large = noise(1, 5 << 20);
    let commit: Commit = app
        .put(&ada, "r", &[("d/large", &large), ("small", b"abc"), ("empty", b"")])
        .await
        .json();

    let asked = ["d/large", "/small", "empty", "d", "nothing"];
    let told = lines(&chunks(&app, &ada, "r@main", &asked).await);
    assert_eq!(
        told.iter().map(|l| l.path.as_str()).collect::<Vec<_>>(),
        ["d/large", "/small"],
        "of what has no bytes nothing is told"
    );
    assert!(told.iter().all(|l| l.commit == commit.id && l.offset == 0));
    let records = hex::decode(&told[0].chunks).unwrap();
    let mut at = 0;
    let same = chunks::cut_all(&large, |chunk| {
        let record = &records[at..at + FileChunks::CHUNK_BYTES];
        at += FileChunks::CHUNK_BYTES;
        let length = u32::from_le_bytes(record[..4].try_into().unwrap()) as usize;
        let right = length == chunk.len() && record[4..] == *blake3::hash(chunk).as_bytes();
        if right { Ok(()) } else { Err(at) }
    });
    assert_eq!((same, at), (Ok(()), records.len()));
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    chunks(&app, &ada, "r@main", &many).await.refused(ProblemKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_makes_the_file_whose_bytes_it_tells_of_with_the_digest_of_its_contents() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.repo(&ada, "plain").await;
    let old = noise(1, 9 << 20);
    let first: Commit = app.put(&ada, "r", &[("f", &old)]).await.json();
    let (half, length) = (4 << 20, old.len() as u64);
    let new = [&old[..half], b"x", &old[half..]].concat();
    let told = delta(
        "f",
        length + 1,
        &[
            copy(0, half as u64),
            literal(b"x"),
            copy(half as u64, length - half as u64),
        ],
    );
    assert!(told.len() < 8192);

    let query = format!("repo=r&base={}", first.id);
    let second: Commit = put(&app, &ada, &query, told).await.json();
    assert_eq!((second.parent, second.size_bytes), (Some(first.id), length + 1));
    assert!(second.provenance.is_empty(), "its base is before it on its branch");
    assert!(app.cat(&ada, "r@main", "f").await.ok().body == new);
    let plain: Commit = app.put(&ada, "plain", &[("f", &new)]).await.json();
    assert_eq!(second.digest, plain.digest);

    // The whole file as it is, which nobody reads.
    let same = delta("f", length, &[copy(0, length)]);
    let third: Commit = put(&app, &ada, &query, same).await.json();
    assert_eq!(third.digest, first.digest);
    // Into an open commit.
    app.post(&ada, "/v1/commits", json!({ "repo": "r" })).await.ok();
    let shorter = delta("f", 3 << 20, &[copy(1 << 20, 3 << 20)]);
    let query = format!("repo=r&base={}", third.id);
    let open: Commit = put(&app, &ada, &query, shorter).await.json();
    assert_eq!(open.state, CommitState::Open);
    app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .ok();
    assert!(app.cat(&ada, "r@main", "f").await.ok().body == old[1 << 20..4 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_lies_is_refused_and_makes_no_commit() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.repo(&ada, "other").await;
    let old = noise(1, 2 << 20);
    let length = old.len() as u64;
    let first: Commit = app.put(&ada, "r", &[("f", &old)]).await.json();
    let other: Commit = app.put(&ada, "other", &[("f", &noise(2, 2 << 20))]).await.json();
    let whole = || delta("f", length, &[copy(0, length)]);
    let query = format!("repo=r&base={}", first.id);

    for (what, archive) in [
        ("a file that is not there", delta("g", length, &[copy(0, length)])),
        ("behind the end", delta("f", length, &[copy(1, length)])),
        ("round the corner", delta("f", 10, &[copy(u64::MAX - 3, 10)])),
        ("too long", delta("f", length - 1, &[copy(0, length)])),
        ("too short", delta("f", length + 1, &[copy(0, length)])),
        ("too often", delta("f", 3 * length, &[copy(0, length); 3])),
        (
            "a short literal",
            delta("f", 9, &[(Step::Literal { length: 9 }, b"short")]),
        ),
        ("no step", delta("f", 0, &[copy(0, 0)])),
    ] {
        let refused = put(&app, &ada, &query, archive).await;
        assert!(refused.refused(ProblemKind::Invalid).detail.contains('d'), "{what}");
    }
    put(&app, &ada, "repo=r", whole()).await.refused(ProblemKind::Invalid);
    put(&app, &ada, &format!("{query}&append=true"), whole())
        .await
        .refused(ProblemKind::Invalid);
    // A commit of another repo is none of this one's, whoever may read it.
    let foreign = put(&app, &ada, &format!("repo=r&base={}", other.id), whole()).await;
    foreign.refused(ProblemKind::NotFound);
    let mut broken = delta("f", length + 5000, &[copy(0, length), literal(&[7; 5000])]);
    broken.truncate(3000);
    put(&app, &ada, &query, broken).await.refused(ProblemKind::Malformed);

    assert_eq!(app.log(&ada, "r").await.len(), 1);
}

/// What somebody who may write and not read gets to see of a branch.
async fn seen(app: &App, writer: &Person, head: CommitId) -> Vec<(u16, String)> {
    let told = |reply: Reply| {
        let mut problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        problem.as_object_mut().unwrap().remove("instance");
        let text = problem.to_string().replace(&head.to_string(), "HEAD");
        (reply.status.as_u16(), text)
    };
    let whole = delta("f", 2 << 20, &[copy(0, 2 << 20)]);
    vec![
        told(chunks(app, writer, "r@main", &["f"]).await),
        told(chunks(app, writer, &format!("r@{head}"), &["f"]).await),
        told(chunks(app, writer, "r@nowhere", &["f"]).await),
        told(put(app, writer, &format!("repo=r&base={head}"), whole).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_learns_nothing_of_what_is_there() {
    let mut worlds = Vec::new();
    for hidden in [noise(1, 2 << 20), noise(2, 3 << 20)] {
        let app = App::start().await;
        let ada = app.member("ada").await;
        app.repo(&ada, "r").await;
        let head: Commit = app.put(&ada, "r", &[("f", &hidden)]).await.json();
        let writer = app.scoped(&ada, &["write:default/r"]);
        let seen = seen(&app, &writer, head.id).await;
        assert!(seen.iter().all(|(status, _)| (403..=404).contains(status)), "{seen:?}");
        assert!(
            seen.iter()
                .all(|(_, text)| !text.contains("nowhere") || text == &seen[2].1)
        );
        // What he sends is taken as if nothing were there.
        app.put(&writer, "r", &[("f", &noise(1, 2 << 20))]).await.ok();
        worlds.push(seen);
    }
    assert_eq!(worlds[0], worlds[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_from_a_commit_that_is_not_before_the_new_one_bring_its_origins_along() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    app.grant(&bob, Role::Viewer, &repo).await;
    app.repo(&ada, "secret").await;
    app.put(&ada, "secret", &[("f", &noise(1, 2 << 20))]).await.ok();
    let copied = json!({ "from_ref": "secret@main", "from_path": "f", "repo": "r", "branch": "side", "path": "f" });
    let side: Commit = app.post(&ada, "/v1/copies", copied).await.json();
    app.put(&ada, "r", &[("g", b"harmless")]).await.ok();
    app.cat(&bob, "r@main", "g").await.ok();

    let whole = delta("f", 2 << 20, &[copy(0, 2 << 20)]);
    let query = format!("repo=r&branch=main&base={}", side.id);
    let made: Commit = put(&app, &ada, &query, whole).await.json();
    assert_eq!(made.provenance.len(), 1);
    assert_eq!(made.provenance[0].commit, side.id);
    let refused = app
        .get(&bob, &format!("/v1/content?ref={}&path=f", escape("r@main")))
        .await;
    refused.refused(ProblemKind::NotAllowed);
}
