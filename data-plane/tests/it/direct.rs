//! Packs that clients put into the bucket themselves: as if their bytes had come through the plane, and nothing of them believed.

use std::sync::Arc;

use contract::api::{Commit, FileChunks, NewUpload, PackPlace, Upload, UploadPart};
use contract::config::StoreConfig;
use contract::ids::UploadId;
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use contract::upload::{KEY, OFFSET, record};
use data_plane::garbage::collect;
use futures::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::{ObjectStore, ObjectStoreExt};
use packs::{Builder, PackKey};
use serde_json::json;
use std::time::Duration;

use crate::app::{App, Person, Reply};
use crate::room::noise;
use crate::s3::{self, BUCKET, SECRET, Server};

const MIB: usize = 1 << 20;
const SOME_KEY: [u8; 32] = [1; 32];

/// The bucket of this server, into which clients put packs themselves.
pub fn direct_bucket(server: &Server) -> StoreConfig {
    StoreConfig::S3 {
        bucket: BUCKET.to_owned(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".to_owned(),
        access_key_id: s3::KEY.to_owned(),
        secret_access_key: SECRET.to_owned(),
        temporary: None,
        cache: None,
        public_endpoint: None,
        direct: Some(true),
    }
}

/// A plane on a bucket that clients reach, and somebody who puts a file.
struct Rig {
    app: App,
    ada: Person,
    bucket: Arc<AmazonS3>,
    upload: UploadId,
    _server: Server,
}

impl Rig {
    async fn start(data_key: Option<[u8; 32]>) -> Self {
        let server = Server::start().await;
        let app = App::on_encrypted(direct_bucket(&server), data_key.map(hex::encode)).await;
        let ada = app.member("ada").await;
        app.repo(&ada, "r").await;
        let upload = begin(&app, &ada).await;
        Self {
            bucket: s3::amazon(&server.endpoint()),
            app,
            ada,
            upload,
            _server: server,
        }
    }

    async fn announce(&self, from: usize, pack: &Builder) -> Reply {
        let body = new_pack(from, pack);
        let path = format!("/v1/uploads/{}/packs", self.upload);
        self.app.post(&self.ada, &path, body).await
    }

    async fn take(&self, place: &PackPlace) -> Reply {
        let path = format!("/v1/uploads/{}/packs/{}", self.upload, place.pack);
        self.app.call(&self.ada, "PUT", &path, "".into()).await
    }

    /// Announces a pack and puts it.
    async fn put(&self, from: usize, pack: Builder) -> PackPlace {
        let place: PackPlace = self.announce(from, &pack).await.json();
        assert_eq!(put_to(&place, sealed(&place, pack)).await, 200);
        place
    }

    /// What the bucket holds below a prefix.
    async fn names(&self, below: &str) -> Vec<String> {
        let listed: Vec<_> = self.bucket.list(Some(&below.into())).try_collect().await.unwrap();
        listed.into_iter().map(|object| object.location.to_string()).collect()
    }

    async fn parts(&self) -> Vec<(u64, u64)> {
        let shown = self.app.get(&self.ada, &format!("/v1/uploads/{}", self.upload)).await;
        let shown: Upload = shown.json();
        shown.parts.iter().map(|part| (part.from, part.to)).collect()
    }

    /// Says that all of the file has arrived.
    async fn finish(&self, size: usize) -> Reply {
        let records = record(KEY, hex::encode(SOME_KEY)) + &record(OFFSET, size);
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        archive.append(&header, records.as_bytes()).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        archive.append_data(&mut header, "large", &b""[..]).unwrap();
        let path = format!("/v1/files?repo=r&upload={}", self.upload);
        let body = archive.into_inner().unwrap();
        self.app.call(&self.ada, "POST", &path, body.into()).await
    }
}

async fn begin(app: &App, person: &Person) -> UploadId {
    let new = NewUpload {
        repo: "r".to_owned(),
        branch: None,
    };
    let begun = app
        .post(person, "/v1/uploads", serde_json::to_value(new).unwrap())
        .await;
    let begun: Upload = begun.json();
    assert!(begun.takes_packs);
    begun.id
}

fn new_pack(from: usize, pack: &Builder) -> serde_json::Value {
    let record = |(length, digest): &(u32, packs::Digest)| [&length.to_le_bytes()[..], digest.as_bytes()].concat();
    let chunks: Vec<u8> = pack.chunks().iter().flat_map(record).collect();
    json!({ "key": hex::encode(SOME_KEY), "path": "large", "from": from, "chunks": hex::encode(chunks) })
}

fn sealed(place: &PackPlace, pack: Builder) -> Vec<u8> {
    let key = place.key.as_deref().map(|key| PackKey::from_hex(key).unwrap());
    let sealed = pack.seal(place.salt.parse().unwrap(), key.as_ref());
    assert_eq!(sealed.id.to_string(), place.pack);
    sealed.bytes
}

async fn put_to(place: &PackPlace, bytes: Vec<u8>) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.put(&place.url).body(bytes).send().await.unwrap();
    answer.status().as_u16()
}

/// A file in packs, with where each begins.
fn packed(file: &[u8], pack_bytes: usize) -> Vec<(usize, Builder)> {
    let mut all = vec![(0, Builder::with_room(pack_bytes))];
    let mut at = 0;
    chunks::cut_all(file, |chunk| {
        if all[all.len() - 1].1.content_bytes() + chunk.len() > pack_bytes {
            all.push((at, Builder::with_room(pack_bytes)));
        }
        let last = all.len() - 1;
        all[last].1.push(chunk);
        at += chunk.len();
        Ok::<(), ()>(())
    })
    .unwrap();
    all
}

fn one_pack(file: &[u8]) -> Builder {
    packed(file, 64 * MIB).remove(0).1
}

async fn is_the_same_file(data_key: Option<[u8; 32]>, in_order: bool) {
    let rig = Rig::start(data_key).await;
    let (app, ada) = (&rig.app, &rig.ada);
    let file = noise(1, 20 * MIB + 12_345);
    let mut places = Vec::new();
    for (from, pack) in packed(&file, 3 * MIB) {
        places.push(rig.put(from, pack).await);
    }
    assert_eq!(rig.names("incoming").await.len(), places.len());
    if !in_order {
        places.swap(0, 2);
    }
    for place in &places {
        let part: UploadPart = rig.take(place).await.json();
        assert_eq!((part.key, part.whole), (hex::encode(SOME_KEY), false));
    }
    assert!(rig.names("incoming").await.is_empty());
    let digests = &app.plane.digests;
    let known = digests.at(rig.upload, storage::Digest::from_bytes(SOME_KEY), file.len() as u64);
    assert_eq!(known.is_some(), in_order);

    // A collection in between takes nothing of it.
    for _ in 0..2 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    let commit: Commit = rig.finish(file.len()).await.json();
    assert!(app.cat(ada, "r@main", "large").await.ok().body == file);
    app.repo(ada, "plain").await;
    let plain: Commit = app.put(ada, "plain", &[("large", &file)]).await.json();
    assert_eq!(commit.digest, plain.digest);
    let chunks = async |reference: &str| {
        let body = json!({ "ref": reference, "paths": ["large"] });
        let line: FileChunks =
            serde_json::from_str(app.post(ada, "/v1/chunks", body).await.ok().text().trim()).unwrap();
        line.chunks
    };
    assert_eq!(chunks("r@main").await, chunks("plain@main").await);
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let checked = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(checked.lines().count() == 1 && checked.contains("\"ok\""), "{checked}");

    // It is over: nothing more is taken, and forgetting the upload takes nothing of the commit.
    rig.take(&places[0]).await.refused(ProblemKind::NotFound);
    data_plane::uploads::give_up(&app.plane, rig.upload).await.unwrap();
    assert!(app.cat(ada, "r@main", "large").await.ok().body == file);
    for name in rig.names("packs").await {
        let bytes = rig.bucket.get(&name.into()).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.starts_with(b"HWDPACK"), data_key.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_in_packs_is_the_same_as_if_it_had_come_through_the_plane() {
    is_the_same_file(None, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_packs_were_taken_in_another_order_is_the_same_too() {
    is_the_same_file(None, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_in_packs_to_an_encrypted_bucket_is_the_same_too() {
    is_the_same_file(Some([9; 32]), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_not_what_was_announced_is_refused_and_leaves_nothing() {
    let rig = Rig::start(None).await;
    let file = noise(1, 2 * MIB);
    let place: PackPlace = rig.announce(0, &one_pack(&file)).await.json();
    rig.take(&place).await.refused(ProblemKind::Conflict);

    let mut bytes = sealed(&place, one_pack(&file));
    assert_eq!(put_to(&place, bytes[1..].to_vec()).await, 200);
    rig.take(&place).await.refused(ProblemKind::Invalid);
    bytes[1_000_000] ^= 1;
    assert_eq!(put_to(&place, bytes).await, 200);
    rig.take(&place).await.refused(ProblemKind::Invalid);
    assert!(rig.names("packs").await.is_empty() && rig.names("incoming").await.is_empty());

    // Its name is used up; the same file may come by another one.
    assert_eq!(put_to(&place, sealed(&place, one_pack(&file))).await, 200);
    rig.take(&place).await.refused(ProblemKind::NotFound);
    assert!(rig.names("packs").await.is_empty() && rig.parts().await.is_empty());
    let again = rig.put(0, one_pack(&file)).await;
    assert_ne!(again.pack, place.pack);
    rig.take(&again).await.ok();
    rig.finish(file.len()).await.ok();
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_taken_stays_what_it_was_whatever_is_put_and_however_often_it_is_taken() {
    let rig = Rig::start(None).await;
    let file = noise(1, 2 * MIB);
    let place = rig.put(0, one_pack(&file)).await;
    let (one, two) = tokio::join!(rig.take(&place), rig.take(&place));
    assert!(
        one.status.is_success() || two.status.is_success(),
        "{} {}",
        one.text(),
        two.text()
    );
    for answer in [one, two] {
        if !answer.status.is_success() {
            answer.refused(ProblemKind::Overloaded);
        }
    }
    let first: UploadPart = rig.take(&place).await.json();
    let mut bytes = sealed(&place, one_pack(&file));
    bytes[1_000_000] ^= 1;
    assert_eq!(put_to(&place, bytes).await, 200);
    let again: UploadPart = rig.take(&place).await.json();
    assert_eq!(first, again);

    // Of each place in the file the first piece counts, for the digest of the whole too.
    let other = rig.put(0, one_pack(&noise(2, 2 * MIB))).await;
    rig.take(&other).await.refused(ProblemKind::Conflict);
    assert_eq!(rig.names("packs").await, [format!("packs/{}", place.pack)]);
    let commit: Commit = rig.finish(file.len()).await.json();
    rig.app.repo(&rig.ada, "plain").await;
    let plain: Commit = rig.app.put(&rig.ada, "plain", &[("large", &file)]).await.json();
    assert_eq!(commit.digest, plain.digest);
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_whose_taking_over_failed_is_no_more_and_the_same_bytes_may_come_by_another_name() {
    let rig = Rig::start(None).await;
    let file = noise(1, 2 * MIB);
    let place = rig.put(0, one_pack(&file)).await;
    let run = async |sql: &'static str| sqlx::raw_sql(sql).execute(&rig.app.plane.pool).await.unwrap();
    run(
        "create function no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger no before insert on upload_parts for each row execute function no();",
    )
    .await;
    rig.take(&place).await.refused(ProblemKind::Internal);
    run("drop trigger no on upload_parts").await;
    assert_eq!(put_to(&place, sealed(&place, one_pack(&file))).await, 200);
    rig.take(&place).await.refused(ProblemKind::NotFound);
    let again = rig.put(0, one_pack(&file)).await;
    rig.take(&again).await.ok();
    rig.finish(file.len()).await.ok();
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == file);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_puts_packs_for_the_upload_of_another_and_nonsense_is_refused() {
    let rig = Rig::start(None).await;
    let file = noise(1, MIB);
    let place = rig.put(0, one_pack(&file)).await;
    let bob = rig.app.member("bob").await;
    let repo: contract::api::Repo = rig.app.get(&rig.ada, "/v1/projects/default/repos/r").await.json();
    rig.app.grant(&bob, Role::Contributor, &repo).await;
    let packs = format!("/v1/uploads/{}/packs", rig.upload);
    let body = new_pack(0, &one_pack(&file));
    rig.app.post(&bob, &packs, body).await.refused(ProblemKind::NotFound);
    let taken = rig
        .app
        .call(&bob, "PUT", &format!("{packs}/{}", place.pack), "".into())
        .await;
    taken.refused(ProblemKind::NotFound);
    // Nor by an upload of his own.
    let own = begin(&rig.app, &bob).await;
    let path = format!("/v1/uploads/{own}/packs/{}", place.pack);
    let taken = rig.app.call(&bob, "PUT", &path, "".into()).await;
    taken.refused(ProblemKind::NotFound);

    let good = new_pack(0, &one_pack(&file));
    for (name, value) in [
        ("chunks", json!("")),
        ("chunks", json!("00")),
        ("chunks", json!("zz")),
        ("chunks", json!("00".repeat(36))),
        ("key", json!("1")),
        ("path", json!("../x")),
    ] {
        let mut body = good.clone();
        body[name] = value;
        let refused = rig.app.post(&rig.ada, &packs, body.clone()).await;
        assert_eq!(refused.status, 422, "{name}: {}", refused.text());
    }
    for pack in ["x", &"0".repeat(64)] {
        let taken = rig
            .app
            .call(&rig.ada, "PUT", &format!("{packs}/{pack}"), "".into())
            .await;
        taken.refused(ProblemKind::NotFound);
    }
    let mut announced = 1;
    while rig.announce(0, &one_pack(&file)).await.status.is_success() {
        announced += 1;
    }
    assert_eq!(announced, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_forgotten_or_left_by_a_killed_plane_is_removed() {
    let rig = Rig::start(None).await;
    let file = noise(1, 2 * MIB);
    let taken = rig.put(0, one_pack(&file)).await;
    rig.take(&taken).await.ok();
    // Put and not taken; and copied by a plane that died before it could say so.
    rig.put(2 * MIB, one_pack(&file)).await;
    let copied = rig.put(4 * MIB, one_pack(&file)).await;
    let staged = format!("incoming/{}/{}", rig.upload, copied.pack);
    let packed = format!("packs/{}", copied.pack);
    rig.bucket.copy(&staged.into(), &packed.into()).await.unwrap();
    sqlx::query("update upload_packs set state = 'taking' where pack = $1")
        .bind(hex::decode(&copied.pack).unwrap())
        .execute(&rig.app.plane.pool)
        .await
        .unwrap();
    rig.take(&copied).await.refused(ProblemKind::Overloaded);
    assert_eq!(
        (rig.names("packs").await.len(), rig.names("incoming").await.len()),
        (2, 2)
    );
    rig.app
        .delete(&rig.ada, &format!("/v1/uploads/{}", rig.upload))
        .await
        .ok();
    assert!(rig.names("packs").await.is_empty() && rig.names("incoming").await.is_empty());

    // What nothing knows of is garbage.
    let path = format!("packs/{}", copied.pack).into();
    rig.bucket.put(&path, b"left".to_vec().into()).await.unwrap();
    for freed in [0, 1] {
        let report = collect(&rig.app.plane, Duration::ZERO, false).await.unwrap();
        assert_eq!(report.freed_packs, freed);
    }
    // An answer that was lost, then nothing more: forgotten after a while.
    let upload = begin(&rig.app, &rig.ada).await;
    let rig = Rig { upload, ..rig };
    let taken = rig.put(0, one_pack(&file)).await;
    rig.take(&taken).await.ok();
    rig.put(2 * MIB, one_pack(&file)).await;
    rig.app.pass(chrono::Duration::hours(13)).await;
    collect(&rig.app.plane, Duration::ZERO, false).await.unwrap();
    assert!(rig.names("packs").await.is_empty() && rig.names("incoming").await.is_empty());
}
