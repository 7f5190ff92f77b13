//! A view of a commit whose plane can go away and say no.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use contract::api::{FileInfo, FileKind, Page};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use super::*;
use crate::mount::tree::{Digest, File, ROOT};

/// What is in `/small/only`: in every file stands its path.
const CONTENT: &[u8] = b"/small/only";

/// `/large/0` … `/large/499` and `/small/only`.
#[derive(Default)]
struct Commit {
    requests: AtomicUsize,
    denied: AtomicBool,
    away: AtomicBool,
    /// The content of files is gone.
    purged: AtomicBool,
    /// The next cursor is refused.
    stale: AtomicBool,
}

fn line(path: &str) -> FileInfo {
    let directory = path.ends_with('/');
    FileInfo {
        path: path.to_owned(),
        kind: if directory { FileKind::Directory } else { FileKind::File },
        size_bytes: path.len() as u64,
        digest: (!directory).then(|| Digest::of(path.as_bytes()).to_string()),
        executable: path == "/small/only",
        files: 1,
    }
}

impl Commit {
    fn answer(&self) -> Result<(), Refused> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Refused::Away("away".into()));
        }
        match self.denied.load(Ordering::SeqCst) {
            true => Err(Refused::Nothing),
            false => Ok(()),
        }
    }

    fn all(directory: &str) -> Vec<FileInfo> {
        match directory {
            "/" => vec![line("/large/"), line("/small/")],
            "/small" => vec![line("/small/only")],
            "/large" => (0..500).map(|n| line(&format!("/large/{n}"))).collect(),
            _ => Vec::new(),
        }
    }
}

impl Source for Commit {
    async fn page(&self, directory: &str, cursor: Option<&str>) -> Result<Page<FileInfo>, Refused> {
        self.answer()?;
        if cursor.is_some() && self.stale.swap(false, Ordering::SeqCst) {
            return Err(Refused::Stale);
        }
        let from: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let items: Vec<_> = Self::all(directory).into_iter().skip(from).take(200).collect();
        let next_cursor = (items.len() == 200).then(|| (from + 200).to_string());
        Ok(Page { items, next_cursor })
    }

    async fn look(&self, path: &str) -> Result<Page<FileInfo>, Refused> {
        self.answer()?;
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let items: Vec<_> = Self::all(parent).into_iter().filter(|info| info.path == path).collect();
        match items.is_empty() {
            true => Err(Refused::Nothing),
            false => Ok(Page {
                items,
                next_cursor: None,
            }),
        }
    }

    async fn bytes(
        &self,
        path: &str,
        _: &File,
        _: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, Refused>>, Refused> {
        self.answer()?;
        if self.purged.load(Ordering::SeqCst) {
            return Err(Refused::Nothing);
        }
        Ok(futures::stream::iter([Ok(Bytes::copy_from_slice(path.as_bytes()))]).boxed())
    }

    async fn may_read(&self) -> Result<(), Refused> {
        self.answer().map_err(|refused| match refused {
            Refused::Nothing => Refused::Denied("no".into()),
            other => other,
        })
    }
}

fn view() -> (Arc<Commit>, View<Commit>) {
    let source = Arc::new(Commit::default());
    let memory = 64 << 20;
    let blocks = Arc::new(Blocks::new(
        source.clone(),
        memory,
        None,
        Duration::ZERO,
        Handle::current(),
    ));
    (source.clone(), View::new(source, blocks, memory, Duration::ZERO))
}

async fn found(view: &View<Commit>, path: &str) -> Result<(Inode, Kind), Trouble> {
    let mut at = (ROOT, Kind::Directory);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = view.look_up(at.0, name).await?;
    }
    Ok(at)
}

#[tokio::test]
async fn names_are_found_and_a_large_directory_is_not_listed_for_one_of_them() {
    let (source, view) = view();
    let (only, kind) = found(&view, "/small/only").await.unwrap();
    assert!(matches!(kind, Kind::File(file) if file.executable));
    assert_eq!(found(&view, "/small/other").await, Err(Trouble::Absent));
    let before = source.requests.load(Ordering::SeqCst);
    let (late, _) = found(&view, "/large/499").await.unwrap();
    assert_eq!(
        source.requests.load(Ordering::SeqCst) - before,
        2,
        "a page, and the one"
    );
    assert_eq!(found(&view, "/large/500").await, Err(Trouble::Absent));
    assert_eq!(found(&view, "/large/499").await.unwrap().0, late);
    assert_eq!(view.known(ROOT, "nothing"), Some(Err(Trouble::Absent)));
    assert_eq!(view.list(only, 0, 10).await.unwrap_err(), Trouble::NotDirectory);
    assert_eq!(view.open(ROOT).unwrap_err(), Trouble::IsDirectory);
}

#[tokio::test]
async fn a_listing_goes_on_where_it_was_and_begins_again_when_the_cursor_is_not_taken() {
    let (source, view) = view();
    let (large, _) = found(&view, "/large").await.unwrap();
    let mut names = Vec::new();
    loop {
        let lines = view.list(large, names.len(), 70).await.unwrap();
        if lines.is_empty() {
            break;
        }
        source.stale.store(names.len() == 140, Ordering::SeqCst);
        names.extend(lines.iter().map(|line| line.name.to_string()));
    }
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(names, expected);
    assert!(view.listed(large, 490, 70).is_some(), "it is known whole");
}

#[tokio::test]
async fn a_revoked_right_ends_all_reads_and_a_right_given_back_begins_them() {
    let (source, view) = view();
    let (only, _) = found(&view, "/small/only").await.unwrap();
    let handle = view.open(only).unwrap();
    let open = view.opened(handle).unwrap();
    assert_eq!(view.read(&open, 5, 100).await.unwrap(), CONTENT[5..]);
    assert!(view.read_at_hand(&open, 0, 4).is_some());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    view.when_revoked(Box::new(move |open| tell.lock().unwrap().push(open)));

    source.denied.store(true, Ordering::SeqCst);
    // What the watch does from time to time.
    assert_eq!(view.ask(Duration::ZERO).await, Err(Trouble::Denied));
    assert_eq!(view.ask(Duration::ZERO).await, Err(Trouble::Denied));
    assert_eq!(*told.lock().unwrap(), [vec![only]], "once, with what is open");
    assert_eq!(view.may_read_now(), Some(Err(Trouble::Denied)));
    assert_eq!(view.read(&open, 0, 4).await, Err(Trouble::Denied));
    assert_eq!(view.look_up(ROOT, "small").await, Err(Trouble::Denied));
    assert_eq!(view.list(ROOT, 0, 9).await.unwrap_err(), Trouble::Denied);
    assert!(view.blocks.at_hand(&open.readable.file, 0).is_none());

    source.denied.store(false, Ordering::SeqCst);
    assert_eq!(view.ask(Duration::ZERO).await, Ok(()));
    assert_eq!(view.read(&open, 0, 4).await.unwrap(), CONTENT[..4]);
    view.close(handle);
    assert!(view.opened(handle).is_none());
}

#[tokio::test]
async fn a_name_that_may_not_be_known_any_more_is_denied_and_not_absent() {
    let (source, view) = view();
    let (large, _) = found(&view, "/large").await.unwrap();
    view.list(large, 0, 1).await.unwrap();
    source.denied.store(true, Ordering::SeqCst);
    assert_eq!(view.look_up(large, "499").await, Err(Trouble::Denied));
}

#[tokio::test]
async fn a_file_that_was_purged_is_absent_and_the_others_stay() {
    let (source, view) = view();
    let (only, _) = found(&view, "/small/only").await.unwrap();
    let open = view.opened(view.open(only).unwrap()).unwrap();
    source.purged.store(true, Ordering::SeqCst);
    assert_eq!(view.read(&open, 0, 4).await, Err(Trouble::Absent));
    assert_eq!(view.may_read_now(), Some(Ok(())));
    assert_eq!(found(&view, "/large/1").await.map(|_| ()), Ok(()));
    source.denied.store(true, Ordering::SeqCst);
    assert_eq!(view.read(&open, 0, 4).await, Err(Trouble::Denied));
    assert_eq!(view.may_read_now(), Some(Err(Trouble::Denied)));
}

#[tokio::test]
async fn a_plane_that_is_away_costs_what_is_not_there_yet_and_nothing_else() {
    let (source, view) = view();
    let (only, _) = found(&view, "/small/only").await.unwrap();
    let open = view.opened(view.open(only).unwrap()).unwrap();
    view.read(&open, 0, 4).await.unwrap();
    source.away.store(true, Ordering::SeqCst);
    assert_eq!(view.look_up(ROOT, "large").await.map(|_| ()), Ok(()));
    assert_eq!(found(&view, "/large/1").await, Err(Trouble::Away));
    assert_eq!(view.read(&open, 0, 4).await.unwrap(), CONTENT[..4]);
}

#[tokio::test]
async fn files_that_are_opened_one_after_another_are_fetched_before_they_are_opened() {
    let (source, view) = view();
    let (large, _) = found(&view, "/large").await.unwrap();
    let lines = view.list(large, 0, 9).await.unwrap();
    let file = |n: usize| match lines[n].kind {
        Kind::File(file) => file,
        Kind::Directory => panic!("it is a file"),
    };
    let before = source.requests.load(Ordering::SeqCst);
    for jump in [8, 1, 6] {
        view.close(view.open(lines[jump].inode).unwrap());
    }
    tokio::task::yield_now().await;
    assert_eq!(
        source.requests.load(Ordering::SeqCst),
        before,
        "no order, nothing ahead"
    );
    view.close(view.open(lines[6].inode).unwrap());
    while view.blocks.at_hand(&file(7), 0).is_none() || view.blocks.at_hand(&file(8), 0).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(view.blocks.at_hand(&file(7), 0).unwrap(), lines_path(7));
}

fn lines_path(n: usize) -> String {
    format!("/large/{n}")
}

#[test]
fn a_read_takes_its_part_of_each_block() {
    let block = Bytes::from(vec![7; BLOCK as usize]);
    assert_eq!(part(&block, 1, BLOCK - 2, 5).len(), 3);
    assert_eq!(part(&block, 0, BLOCK - 2, 5).len(), 2);
    assert_eq!(part(&block, 3, 3 * BLOCK + 10, 20).len(), 20);
    assert_eq!(together(vec![]).len(), 0);
    assert_eq!(together(vec![block.slice(..2), block.slice(..3)]).len(), 5);
}
