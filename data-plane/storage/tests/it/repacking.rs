//! Repacking: whatever happens before, between and after, what is needed can be read, and what is not goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use proptest::prelude::*;
use storage::{Digest, FileEntry, FilePath, ForwardRepair, Options, Storage, Store, TreeChange, TreeRef};

use crate::faulty::{Fault, Faulty};
use crate::samples::{noise, path};

type Files = BTreeMap<FilePath, Bytes>;

fn open(store: &Store) -> Storage {
    let options = Options {
        pack_bytes: 64 << 10,
        seed: Some(rand_seed()),
        ..Options::default()
    };
    Storage::new(store.clone(), options)
}

/// Unlike that of any other storage of this process.
fn rand_seed() -> [u8; 32] {
    use std::sync::atomic::{AtomicU8, Ordering};
    static SERIAL: AtomicU8 = AtomicU8::new(0);
    [SERIAL.fetch_add(1, Ordering::Relaxed); 32]
}

async fn packs(storage: &Storage) -> BTreeSet<Digest> {
    storage.packs().map_ok(|pack| pack.id).try_collect().await.unwrap()
}

/// What a plane does, with a collection in the place of a day.
#[derive(Default)]
struct Collector {
    condemned: BTreeSet<Digest>,
    repacked: u64,
}

impl Collector {
    async fn collect(&mut self, storage: &Storage, trees: &[Vec<u8>]) -> storage::Result<()> {
        let mut marking = storage.marking().await?;
        for tree in trees {
            marking.tree(&TreeRef::from_bytes(tree)?).await?;
        }
        let (mut present, mut sparse, mut condemned) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for pack in storage.packs().try_collect::<Vec<_>>().await? {
            let needed = marking.bytes_of(pack.id) > 0;
            if needed {
                sparse.extend(storage.sparse_pack(&marking, pack).await?);
            } else if self.condemned.contains(&pack.id) {
                storage.remove_pack(pack.id).await?;
                continue;
            } else {
                condemned.insert(pack.id);
            }
            present.insert(pack.id);
        }
        self.condemned = condemned;
        for name in storage.forwards().await? {
            if !storage
                .forward_packs(name)
                .await?
                .iter()
                .any(|pack| present.contains(pack))
            {
                storage.remove_forward(name).await?;
            }
        }
        self.repacked += sparse.len() as u64;
        storage.repack(&marking, &sparse).await.map(|_| ())
    }
}

async fn commit(storage: &Storage, base: &TreeRef, changes: Vec<TreeChange>) -> storage::Result<Vec<u8>> {
    let writer = storage.writer();
    let tree = storage.apply(&writer, base, changes).await?;
    writer.flush().await?;
    tree.to_bytes()
}

async fn check(storage: &Storage, tree: &[u8], files: &Files) {
    let tree = TreeRef::from_bytes(tree).unwrap();
    assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    let listed: Vec<(FilePath, FileEntry)> = storage.list(&tree, None, None).try_collect().await.unwrap();
    assert_eq!(listed.len(), files.len());
    let entries: Vec<FileEntry> = listed.iter().map(|(_, file)| file.clone()).collect();
    let together: Vec<(usize, Bytes)> = storage.read_many(entries).try_collect().await.unwrap();
    for (index, bytes) in together {
        assert!(bytes == files[&listed[index].0], "{}", listed[index].0);
    }
    for (path, file) in &listed {
        assert!(storage.read_all(file).await.unwrap() == files[path], "{path}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A tree with some new files and some of those of another tree, over that tree or over nothing.
    Make {
        from: usize,
        fresh: Vec<u16>,
        kept: u8,
        over: bool,
    },
    /// As `Make`, with files that were looked up before the last collection, whatever became of their tree since.
    MakeOfHeld {
        kept: u8,
    },
    Drop(usize),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let make = (
        any::<usize>(),
        prop::collection::vec(any::<u16>(), 1..8),
        any::<u8>(),
        any::<bool>(),
    );
    prop_oneof![
        3 => make.prop_map(|(from, fresh, kept, over)| Step::Make { from, fresh, kept, over }),
        1 => any::<u8>().prop_map(|kept| Step::MakeOfHeld { kept }),
        3 => any::<usize>().prop_map(Step::Drop),
        4 => Just(Step::Collect),
    ]
}

#[derive(Clone)]
struct Tree {
    stored: Vec<u8>,
    files: Files,
    /// It has what no tree needed when the last collection came by: a request that was under way brought it back. That
    /// another one takes it from there, and is under way still when the next collection comes by and this tree is gone
    /// already, is not promised to end well.
    revived: bool,
}

struct Run {
    store: Store,
    storage: Storage,
    /// A process that keeps what it learned of forwards.
    reader: Storage,
    collector: Collector,
    trees: Vec<Tree>,
    /// What requests under way know of since before the last collection, and since it.
    held: [Vec<(FilePath, FileEntry, Bytes)>; 2],
    serial: u64,
}

impl Run {
    fn new() -> Self {
        let store = Store::memory();
        Self {
            storage: open(&store),
            reader: open(&store),
            store,
            collector: Collector::default(),
            trees: Vec::new(),
            held: Default::default(),
            serial: 0,
        }
    }

    async fn store_tree(
        &mut self,
        base: &TreeRef,
        mut files: Files,
        puts: Vec<(FilePath, FileEntry, Bytes)>,
        revived: bool,
    ) {
        let mut changes = Vec::new();
        for (path, entry, bytes) in puts {
            files.insert(path.clone(), bytes);
            changes.push(TreeChange::Put(path, entry));
        }
        let stored = commit(&self.storage, base, changes).await.unwrap();
        self.trees.push(Tree { stored, files, revived });
    }

    fn fresh(&mut self, sizes: &[u16]) -> Vec<(FilePath, FileEntry, Bytes)> {
        let file = |size: &u16| {
            self.serial += 1;
            // One in some is a file of many chunks.
            let length = if size.is_multiple_of(16) {
                700_000
            } else {
                usize::from(*size)
            };
            let bytes = noise(self.serial, length);
            let name = path(&format!("d{}/f{}", size % 5, self.serial));
            (name, FileEntry::embedded(bytes.clone(), false), bytes)
        };
        sizes.iter().map(file).collect()
    }

    async fn entries(&self, tree: &Tree, kept: u8) -> Vec<(FilePath, FileEntry, Bytes)> {
        let stored = TreeRef::from_bytes(&tree.stored).unwrap();
        let listed: Vec<(FilePath, FileEntry)> = self.storage.list(&stored, None, None).try_collect().await.unwrap();
        let bit = |index: usize| kept >> (index % 8) & 1 == 1;
        let chosen = listed.into_iter().enumerate().filter(|(index, _)| bit(*index));
        chosen
            .map(|(_, (path, file))| (path.clone(), file, tree.files[&path].clone()))
            .collect()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Make {
                from,
                fresh,
                kept,
                over,
            } => {
                let mut puts = self.fresh(&fresh);
                let (mut base, mut files, mut revived) = (TreeRef::empty(), Files::new(), false);
                if let Some(tree) = self.trees.get(from % self.trees.len().max(1)).cloned() {
                    puts.extend(self.entries(&tree, kept).await);
                    revived = tree.revived;
                    if over {
                        (base, files) = (TreeRef::from_bytes(&tree.stored).unwrap(), tree.files);
                    }
                }
                self.store_tree(&base, files, puts, revived).await;
            }
            Step::MakeOfHeld { kept } => {
                let bit = |index: usize| kept >> (index % 8) & 1 == 1;
                let held = self.held.concat().into_iter().enumerate();
                let puts = held.filter(|(index, _)| bit(*index)).map(|(_, put)| put).collect();
                self.store_tree(&TreeRef::empty(), Files::new(), puts, true).await;
            }
            Step::Drop(which) => {
                if !self.trees.is_empty() {
                    let tree = self.trees.swap_remove(which % self.trees.len());
                    if !tree.revived {
                        let entries = self.entries(&tree, 0xff).await;
                        self.held[1].extend(entries);
                    }
                }
            }
            Step::Collect => {
                let trees: Vec<Vec<u8>> = self.trees.iter().map(|tree| tree.stored.clone()).collect();
                self.collector.collect(&self.storage, &trees).await.unwrap();
                self.trees.iter_mut().for_each(|tree| tree.revived = false);
                self.held.swap(0, 1);
                self.held[1].clear();
            }
        }
        let cold = open(&self.store);
        for tree in &self.trees {
            check(&cold, &tree.stored, &tree.files).await;
            check(&self.storage.without_memory(), &tree.stored, &tree.files).await;
            check(&self.reader, &tree.stored, &tree.files).await;
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_is_needed_outlives_any_order_of_writes_drops_and_collections(
        steps in prop::collection::vec(step(), 5..40),
    ) {
        run(async {
            let mut run = Run::new();
            for step in steps {
                run.take(step).await;
            }
            // Without a tree all goes away, the records too.
            run.trees.clear();
            for _ in 0..4 {
                run.take(Step::Collect).await;
            }
            assert!(packs(&run.storage).await.is_empty());
            assert_eq!(run.storage.forwards().await.unwrap(), []);
        });
    }
}

/// A pack of which one file of ten is needed: the tree that needs it, what is in it, and the pack's names.
async fn sparse(storage: &Storage) -> (Vec<u8>, Files, BTreeSet<Digest>) {
    let puts = (0..10_u64).map(|n| {
        let file = FileEntry::embedded(noise(n, 5_000), false);
        TreeChange::Put(path(&format!("f{n}")), file)
    });
    let all = commit(storage, &TreeRef::empty(), puts.collect()).await.unwrap();
    let before = packs(storage).await;
    let all = TreeRef::from_bytes(&all).unwrap();
    let kept = storage.get(&all, &path("f7")).await.unwrap().unwrap();
    let change = vec![TreeChange::Put(path("kept"), kept)];
    let tree = commit(storage, &TreeRef::empty(), change).await.unwrap();
    (tree, Files::from([(path("kept"), noise(7, 5_000))]), before)
}

#[tokio::test]
async fn what_is_needed_of_a_sparse_pack_moves_and_the_pack_goes_and_so_again() {
    let store = Store::memory();
    let storage = open(&store);
    let (tree, files, sparse) = sparse(&storage).await;
    let reader = open(&store);
    let mut collector = Collector::default();
    for _ in 0..3 {
        collector.collect(&storage, std::slice::from_ref(&tree)).await.unwrap();
        check(&reader, &tree, &files).await;
    }
    assert_eq!(collector.repacked, 1, "what is dense is not repacked");
    let left = packs(&storage).await;
    assert!(left.is_disjoint(&sparse), "{left:?}");
    assert_eq!(storage.forwards().await.unwrap().len(), 1);

    // What was moved is not stored again, and is referred to by its old name.
    let first = TreeRef::from_bytes(&tree).unwrap();
    let kept = storage.get(&first, &path("kept")).await.unwrap().unwrap();
    let writer = storage.writer();
    let again = writer
        .write_file_over(&kept, &noise(7, 5_000)[..], false)
        .await
        .unwrap();
    let change = vec![TreeChange::Put(path("again"), again)];
    let next = storage.apply(&writer, &TreeRef::empty(), change).await.unwrap();
    let report = writer.flush().await.unwrap();
    assert_eq!(report.bytes_deduplicated, 5_000, "{report:?}");
    let next = next.to_bytes().unwrap();
    for _ in 0..4 {
        collector.collect(&storage, std::slice::from_ref(&next)).await.unwrap();
    }
    let files = Files::from([(path("again"), noise(7, 5_000))]);
    check(&reader, &next, &files).await;
}

#[tokio::test]
async fn a_pack_that_others_were_repacked_into_is_repacked_and_their_forwards_lead_straight_to_the_last() {
    let store = Store::memory();
    let (storage, reader) = (open(&store), open(&store));
    let mut collector = Collector::default();
    let mut kept = Vec::new();
    for round in 0..2 {
        let puts = (0..18_u64).map(|n| {
            let bytes = noise(round * 100 + n, 2_000);
            let name = path(&format!("r{round}/f{n:02}"));
            TreeChange::Put(name, FileEntry::embedded(bytes, false))
        });
        let all = commit(&storage, &TreeRef::empty(), puts.collect()).await.unwrap();
        let all: Vec<(FilePath, FileEntry)> = storage
            .list(&TreeRef::from_bytes(&all).unwrap(), None, None)
            .try_collect()
            .await
            .unwrap();
        kept.extend(all);
    }
    let mut before = packs(&storage).await;
    // Fewer and fewer of them are needed, by trees of their own.
    for (modulus, repacked) in [(3, 2), (9, 3), (36, 4)] {
        let chosen = kept.iter().enumerate().filter(|(index, _)| index % modulus == 0);
        let chosen: Vec<(FilePath, FileEntry)> = chosen.map(|(_, file)| file.clone()).collect();
        let mut files = Files::new();
        for (path, file) in &chosen {
            files.insert(path.clone(), reader.read_all(file).await.unwrap());
        }
        let puts = chosen.into_iter().map(|(path, file)| TreeChange::Put(path, file));
        let tree = commit(&storage, &TreeRef::empty(), puts.collect()).await.unwrap();
        for _ in 0..3 {
            collector.collect(&storage, std::slice::from_ref(&tree)).await.unwrap();
            check(&reader, &tree, &files).await;
            check(&open(&store), &tree, &files).await;
        }
        assert_eq!(collector.repacked, repacked);
        let left = packs(&storage).await;
        assert!(left.is_disjoint(&before) && left.len() == 2, "{left:?}");
        for name in storage.forwards().await.unwrap() {
            let leads_to = storage.forward_packs(name).await.unwrap();
            assert!(leads_to.iter().any(|pack| left.contains(pack)), "{leads_to:?}");
        }
        before = left;
    }
}

#[tokio::test]
async fn a_repacking_that_fails_at_any_call_to_the_store_leaves_everything_readable_and_is_made_up_for() {
    for fault in [Fault::Refuse, Fault::LoseAnswer, Fault::Die, Fault::Full] {
        for calls_before in 0.. {
            let inner = Arc::new(InMemory::new());
            let whole = Store::from_object_store(Arc::clone(&inner) as Arc<_>);
            let (tree, files, before) = sparse(&open(&whole)).await;
            let trees = std::slice::from_ref(&tree);
            let faulty = Faulty::after(Arc::clone(&inner), calls_before, fault);
            let storage = open(&Store::from_object_store(Arc::clone(&faulty) as Arc<_>));
            let failed = Collector::default().collect(&storage, trees).await;
            check(&open(&whole), &tree, &files).await;
            let mut collector = Collector::default();
            for _ in 0..4 {
                collector.collect(&open(&whole), trees).await.unwrap();
                check(&open(&whole), &tree, &files).await;
            }
            let left = packs(&open(&whole)).await;
            assert!(left.is_disjoint(&before) && left.len() == 2, "{left:?}");
            if let Err(error) = failed {
                assert!(error.is_retryable(), "{error}");
            }
            if faulty.struck() == 0 {
                assert!(calls_before >= 2, "a pack and a forward are put");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_forward_that_is_damaged_or_gone_is_told_of_and_nothing_is_collected_by_it() {
    use object_store::{ObjectStoreExt, PutPayload, path::Path};
    let store = Store::memory();
    let storage = open(&store);
    let (tree, files, _) = sparse(&storage).await;
    let trees = std::slice::from_ref(&tree);
    let mut collector = Collector::default();
    collector.collect(&storage, trees).await.unwrap();
    let name = storage.forwards().await.unwrap()[0];
    let object = Path::from(format!("forwards/{name}"));
    assert_eq!(storage.repair_forward(name).await.unwrap(), ForwardRepair::Whole);
    store
        .object_store()
        .put(&object, PutPayload::from("nonsense"))
        .await
        .unwrap();
    let repaired = open(&store).repair_forward(name).await.unwrap();
    assert_eq!(
        repaired,
        ForwardRepair::Removed,
        "the pack that was repacked is still there"
    );
    check(&open(&store), trees[0].as_slice(), &files).await;
    for _ in 0..4 {
        collector.collect(&storage, trees).await.unwrap();
    }
    check(&open(&store), trees[0].as_slice(), &files).await;
    let bytes = store.object_store().get(&object).await.unwrap().bytes().await.unwrap();
    let tree = TreeRef::from_bytes(&tree).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        store
            .object_store()
            .put(&object, PutPayload::from(damaged))
            .await
            .unwrap();
        let found = open(&store).verify(&tree, false).await.unwrap();
        assert!(
            found
                .iter()
                .any(|f| f.pack == Some(name) && f.problem.contains("forwards/")),
            "{found:?}"
        );
        let refused = collector.collect(&open(&store), trees).await.unwrap_err();
        assert!(
            refused.is_damage() && refused.to_string().contains("forwards/"),
            "{refused}"
        );
    }
    let lost = open(&store).repair_forward(name).await.unwrap();
    assert_eq!(lost, ForwardRepair::Lost);
    store.object_store().delete(&object).await.unwrap();
    let found = open(&store).verify(&tree, false).await.unwrap();
    assert!(
        found
            .iter()
            .any(|f| f.pack == Some(name) && f.problem.contains("is missing")),
        "{found:?}"
    );
}
