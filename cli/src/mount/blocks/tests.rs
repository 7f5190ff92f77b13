//! Blocks from a source that counts, breaks and lies.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use contract::api::{FileInfo, Page};
use futures::stream::BoxStream;

use super::*;

/// What the next request meets.
#[derive(Debug, Clone, Copy)]
enum Fate {
    BreaksAfter(usize),
    Lies,
    Denied,
}

struct Bytewise {
    content: Vec<u8>,
    requests: AtomicUsize,
    fates: Mutex<VecDeque<Fate>>,
}

impl Bytewise {
    fn new(size: u64, fates: &[Fate]) -> Arc<Self> {
        Arc::new(Self {
            content: (0..size).map(|n| (n % 251) as u8).collect(),
            requests: AtomicUsize::new(0),
            fates: Mutex::new(fates.iter().copied().collect()),
        })
    }

    fn readable(&self) -> Readable {
        Readable {
            path: "/file".into(),
            file: File {
                size: self.content.len() as u64,
                digest: Digest::of(&self.content),
                executable: false,
            },
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Source for Bytewise {
    async fn page(&self, _: &str, _: Option<&str>) -> Result<Page<FileInfo>, Refused> {
        Err(Refused::Nothing)
    }

    async fn look(&self, _: &str) -> Result<Page<FileInfo>, Refused> {
        Err(Refused::Nothing)
    }

    async fn bytes(
        &self,
        _: &str,
        file: &File,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Refused>>, Refused> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let range = range.unwrap_or(0..file.size);
        let mut bytes = self.content[range.start as usize..range.end as usize].to_vec();
        let fate = self.fates.lock().unwrap().pop_front();
        let mut end = None;
        match fate {
            Some(Fate::Denied) => return Err(Refused::Denied("no".into())),
            Some(Fate::Lies) => bytes[0] ^= 1,
            Some(Fate::BreaksAfter(n)) => {
                bytes.truncate(n);
                end = Some(Err(Refused::Away("broken".into())));
            }
            None => {}
        }
        // In pieces that end nowhere near the end of a block.
        let pieces: Vec<_> = bytes.chunks(300_007).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Ok(futures::stream::iter(pieces.into_iter().chain(end)).boxed())
    }

    async fn may_read(&self) -> Result<(), Refused> {
        Ok(())
    }
}

fn blocks(source: &Arc<Bytewise>, memory: u64, disk: Option<Arc<Disk>>) -> Arc<Blocks<Bytewise>> {
    let patience = Duration::from_secs(20);
    Arc::new(Blocks::new(source.clone(), memory, disk, patience, Handle::current()))
}

async fn all(blocks: &Arc<Blocks<Bytewise>>, of: &Readable) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..blocks_of(of.file.size) {
        bytes.extend_from_slice(&blocks.block(of, index).await.unwrap());
    }
    bytes
}

#[tokio::test]
async fn many_readers_of_one_block_cost_one_request_and_a_run_is_one_too() {
    let source = Bytewise::new(5 * BLOCK + 3, &[]);
    let (blocks, of) = (blocks(&source, 1 << 30, None), source.readable());
    let readers = (0..20).map(|_| blocks.block(&of, 2));
    let read = futures::future::join_all(readers).await;
    assert!(read.iter().all(|block| block.as_ref().unwrap().len() as u64 == BLOCK));
    assert_eq!(source.requests(), 1);

    blocks.fetch(&of, 3..6);
    assert_eq!(blocks.block(&of, 5).await.unwrap().len(), 3);
    assert_eq!(source.requests(), 2);
    assert_eq!(all(&blocks, &of).await, source.content);
    // 0 and 1 alone.
    assert_eq!(source.requests(), 4);
}

#[tokio::test]
async fn a_request_that_breaks_goes_on_behind_the_last_whole_block() {
    let fates = [
        Fate::BreaksAfter(2_200_000),
        Fate::BreaksAfter(10),
        Fate::BreaksAfter(0),
    ];
    let source = Bytewise::new(4 * BLOCK, &fates);
    let (blocks, of) = (blocks(&source, 1 << 30, None), source.readable());
    blocks.fetch(&of, 0..4);
    assert_eq!(all(&blocks, &of).await, source.content);
    assert_eq!(source.requests(), 4);
}

#[tokio::test]
async fn a_small_file_that_is_not_what_its_digest_says_is_fetched_again() {
    let source = Bytewise::new(1000, &[Fate::Lies]);
    let (blocks, of) = (blocks(&source, 1 << 30, None), source.readable());
    assert_eq!(all(&blocks, &of).await, source.content);
    assert_eq!(source.requests(), 2);
}

#[tokio::test]
async fn a_refusal_reaches_all_who_wait_and_is_not_remembered() {
    let source = Bytewise::new(3 * BLOCK, &[Fate::Denied]);
    let (blocks, of) = (blocks(&source, 1 << 30, None), source.readable());
    blocks.fetch(&of, 0..3);
    let waiting = (0..3).map(|index| blocks.block(&of, index));
    for answer in futures::future::join_all(waiting).await {
        assert_eq!(answer, Err(Refused::Denied("no".into())));
    }
    assert_eq!(source.requests(), 1);
    assert_eq!(all(&blocks, &of).await, source.content);
}

#[tokio::test]
async fn what_is_on_the_disk_is_not_fetched_again_until_it_is_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(home.path(), 1 << 30).unwrap());
    let source = Bytewise::new(3 * BLOCK + 1, &[]);
    let of = source.readable();
    for index in [0, 2] {
        let block = bytes_of(&(index..index + 1), of.file.size);
        disk.write(
            key(&of.file, index),
            &source.content[block.start as usize..block.end as usize],
        );
    }
    let cached = blocks(&source, 1 << 30, Some(disk.clone()));
    cached.fetch(&of, 0..4);
    assert_eq!(all(&cached, &of).await, source.content);
    // 1 and 3, each between what is there.
    assert_eq!(source.requests(), 2);

    cached.forget(vec![of.file]);
    assert_eq!(cached.at_hand(&of.file, 0), None);
    while disk.read(key(&of.file, 0)).is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_comes_after_the_right_to_read_is_gone_is_neither_kept_nor_given() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::open(home.path(), 1 << 30).unwrap());
    let source = Bytewise::new(1000, &[]);
    let (blocks, of) = (blocks(&source, 1 << 30, Some(disk.clone())), source.readable());
    blocks.set_revoked(true);
    // A block that waits for the disk.
    keep(&disk, key(&of.file, 0), &source.content, &blocks.revoked);
    // And one that is on its way.
    assert!(matches!(blocks.block(&of, 0).await, Err(Refused::Denied(_))));
    assert_eq!(blocks.at_hand(&of.file, 0), None);
    assert_eq!(disk.read(key(&of.file, 0)), None);
    blocks.set_revoked(false);
    assert_eq!(all(&blocks, &of).await, source.content);
}

#[tokio::test]
async fn without_memory_and_disk_every_read_is_answered_all_the_same() {
    let source = Bytewise::new(2 * BLOCK + 9, &[]);
    let (blocks, of) = (blocks(&source, 0, None), source.readable());
    assert_eq!(all(&blocks, &of).await, source.content);
    assert_eq!(all(&blocks, &of).await, source.content);
}
