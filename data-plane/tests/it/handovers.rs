//! Files that a client on the plane's machine hands over instead of sending them.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use chassis::process::Shutdown;
use contract::api::{Commit, Upload};
use contract::problem::ProblemKind;
use contract::upload::{HANDED, KEY, OFFSET, Ticket, record};
use data_plane::uploads::handover;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;

use crate::app::{App, Person};
use crate::room::noise;
use crate::uploads::Archive;

const KEY_OF_FILE: &str = "4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b";

struct Rig {
    app: App,
    ada: Person,
    shutdown: Shutdown,
}

impl Rig {
    async fn start() -> Self {
        let app = App::start().await;
        let ada = app.member("ada").await;
        app.repo(&ada, "r").await;
        let shutdown = Shutdown::new();
        shutdown.spawn("handovers", handover::follow(app.plane.clone(), shutdown.clone()));
        Self { app, ada, shutdown }
    }

    async fn begin(&self) -> Upload {
        testkit::wait::wait_until("the socket to be there", Duration::from_secs(10), async || {
            self.app.plane.handovers.name().is_some()
        })
        .await;
        self.app
            .post(&self.ada, "/v1/uploads", json!({ "repo": "r" }))
            .await
            .json()
    }

    /// What comes of an archive that says that a file of `length` bytes from `offset` on was handed over.
    async fn put(&self, upload: &Upload, ticket: Ticket, offset: usize, length: usize) -> crate::app::Reply {
        let records = record(KEY, KEY_OF_FILE)
            + &record(OFFSET, offset)
            + &record(HANDED, format!("{} {length}", hex::encode(ticket.as_bytes())));
        let archive = Archive::new().extension(tar::EntryType::XHeader, &records);
        let body = archive.file("large", b"").file("small", b"beside it").bytes();
        let path = format!("/v1/files?repo=r&upload={}", upload.id);
        self.app.call(&self.ada, "POST", &path, body.into()).await
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

fn hand_over(upload: &Upload, what: impl AsFd, ticket: Ticket) -> UnixStream {
    let name = upload.handover.as_ref().expect("a plane on this machine takes files");
    let to = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [what.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(
        &to,
        &[IoSlice::new(ticket.as_bytes())],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    to
}

/// The last count that comes; everything until the other side lets go.
fn counts(mut from: UnixStream) -> Vec<u64> {
    let mut told = Vec::new();
    from.read_to_end(&mut told).unwrap();
    let (counts, rest) = told.as_chunks::<8>();
    assert!(rest.is_empty());
    counts.iter().map(|count| u64::from_le_bytes(*count)).collect()
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_handed_over_is_stored_as_if_it_had_been_sent() {
    let rig = Rig::start().await;
    let content = noise(1, 9 << 20);
    let upload = rig.begin().await;
    let ticket = Ticket::from_bytes([1; 32]);
    let from = hand_over(&upload, file_of(&content), ticket);
    let commit: Commit = rig.put(&upload, ticket, 0, content.len()).await.json();
    let told = tokio::task::spawn_blocking(|| counts(from)).await.unwrap();
    assert!(
        told.is_sorted() && told.last() == Some(&(content.len() as u64)),
        "{told:?}"
    );

    rig.app.repo(&rig.ada, "plain").await;
    let files: &[(&str, &[u8])] = &[("large", &content), ("small", b"beside it")];
    let plain: Commit = rig.app.put(&rig.ada, "plain", files).await.json();
    assert_eq!((commit.files, &commit.digest), (2, &plain.digest));
    assert!(rig.app.cat(&rig.ada, "r@main", "large").await.ok().body == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_becomes_shorter_or_never_comes_makes_no_commit() {
    let rig = Rig::start().await;
    let upload = rig.begin().await;
    let ticket = Ticket::from_bytes([2; 32]);
    let from = hand_over(&upload, file_of(&noise(1, 1 << 20)), ticket);
    let refused = rig.put(&upload, ticket, 0, (1 << 20) + 1).await;
    refused.refused(ProblemKind::UpstreamTimeout);
    tokio::task::spawn_blocking(|| counts(from)).await.unwrap();
    // One that can only be written.
    let place = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(place.path(), noise(1, 1 << 20)).unwrap();
    let closed = File::options().write(true).open(place.path()).unwrap();
    let ticket = Ticket::from_bytes([3; 32]);
    let _from = hand_over(&upload, closed, ticket);
    let refused = rig.put(&upload, ticket, 0, 1 << 20).await;
    refused.refused(ProblemKind::UpstreamTimeout);
    // A ticket is good once, and one that nobody came with for nothing.
    let again = rig.put(&upload, ticket, 0, 1 << 20).await;
    again.refused(ProblemKind::UpstreamTimeout);
    rig.app
        .get(&rig.ada, "/v1/log?ref=r@main")
        .await
        .refused(ProblemKind::NotFound);
    // The upload goes on with the bytes themselves.
    let archive = Archive::new().large("large", KEY_OF_FILE, 0, b"sent");
    let path = format!("/v1/files?repo=r&upload={}", upload.id);
    let body = archive.bytes().into();
    let commit: Commit = rig.app.call(&rig.ada, "POST", &path, body).await.json();
    assert_eq!(commit.files, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_and_what_is_no_ticket_is_let_go_of_at_once() {
    let rig = Rig::start().await;
    let upload = rig.begin().await;
    let ticket = Ticket::from_bytes([3; 32]);
    let (pipe, _other_end) = std::io::pipe().unwrap();
    let directory = File::open("/").unwrap();
    for from in [hand_over(&upload, pipe, ticket), hand_over(&upload, directory, ticket)] {
        let told = tokio::task::spawn_blocking(|| counts(from)).await.unwrap();
        assert!(told.is_empty());
    }
    let name = upload.handover.as_ref().unwrap();
    let mut to = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    to.write_all(&[0; 32]).unwrap();
    let mut rest = Vec::new();
    let ended = tokio::task::spawn_blocking(move || to.read_to_end(&mut rest));
    assert_eq!(ended.await.unwrap().unwrap(), 0, "a ticket without a file");
    // Waiting for their archives are none of them.
    let refused = rig.put(&upload, ticket, 0, 1).await;
    refused.refused(ProblemKind::UpstreamTimeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_files_wait_for_their_archives() {
    let rig = Rig::start().await;
    let upload = rig.begin().await;
    let waiting: Vec<UnixStream> = (0..64)
        .map(|n| hand_over(&upload, file_of(b"x"), Ticket::from_bytes([n; 32])))
        .collect();
    let one_more = hand_over(&upload, file_of(b"x"), Ticket::from_bytes([64; 32]));
    // Whichever came last is let go of.
    let mut all = waiting;
    all.push(one_more);
    let ended = || {
        all.iter().any(|from| {
            from.set_nonblocking(true).unwrap();
            matches!((&*from).read(&mut [0; 8]), Ok(0))
        })
    };
    testkit::wait::wait_until("one to be let go of", Duration::from_secs(10), async || ended()).await;
}
