//! Random programs over a store that fails at any time, against a model: every answer is the right one or an error that says to
//! try again; and when the store is well again, everything that was acknowledged is there, and nothing else stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{DiskCache, FilePath, Options, Result, Storage, Store, TreeChange, TreeRef, Writer};

use crate::faulty::Faulty;
use crate::samples::{Chance, collect, noise, path, seed};
use crate::troubled;

const PROGRAMS: u64 = 12;
const STEPS: usize = 80;
/// Older trees are forgotten, so that there is something to collect.
const TREES: usize = 6;

type Model = BTreeMap<FilePath, Bytes>;

struct World {
    chance: Chance,
    faulty: Arc<Faulty>,
    storage: Storage,
    /// What the database holds: the references that were acknowledged, and what is below them.
    trees: Vec<(Vec<u8>, Model)>,
    /// Sessions that failed and are still to be taken back.
    failed: Vec<Writer>,
    commits: usize,
    failures: usize,
    _disk: tempfile::TempDir,
}

fn open(store: Store, chance: &mut Chance) -> Storage {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&chance.number().to_le_bytes());
    Storage::new(
        store,
        Options {
            // One node fits into the memory, so that most are read.
            cache_bytes: 4 << 10,
            pack_bytes: 64 << 10,
            seed: Some(seed),
            ..Options::default()
        },
    )
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let skew = [0, 3 * 86_400, -3 * 86_400][chance.below(3)];
        let faulty = Faulty::weather(seed, skew);
        let disk = tempfile::tempdir().unwrap();
        let mut store = Store::from_object_store(faulty.clone());
        if chance.below(2) == 0 {
            let cache = DiskCache::open(disk.path(), 1 << 20, || SystemTime::UNIX_EPOCH).unwrap();
            store = store.with_cache(cache);
        }
        let storage = open(store, &mut chance);
        Self {
            _disk: disk,
            chance,
            faulty,
            storage,
            trees: vec![(TreeRef::empty().to_bytes().unwrap(), Model::new())],
            failed: Vec::new(),
            commits: 0,
            failures: 0,
        }
    }

    fn any_tree(&mut self) -> (TreeRef, Model) {
        let (stored, model) = &self.trees[self.chance.below(self.trees.len())];
        (TreeRef::from_bytes(stored).unwrap(), model.clone())
    }

    fn name(&mut self) -> FilePath {
        path(&format!("d{}/f{}", self.chance.below(6), self.chance.below(40)))
    }

    async fn step(&mut self) {
        let done = match self.chance.below(12) {
            0..=3 => self.commit().await,
            4 | 5 => self.read().await,
            6 => self.list().await,
            7 => self.compare().await,
            8 => self.check().await,
            9 => self.collect().await,
            10 => self.clock().await,
            _ => {
                // Another process.
                let store = self.storage.store().clone();
                self.storage = open(store, &mut self.chance);
                Ok(())
            }
        };
        if let Err(error) = done {
            assert!(error.is_retryable() && !error.is_damage(), "{error}");
            self.failures += 1;
        }
    }

    async fn commit(&mut self) -> Result<()> {
        let (base, mut model) = self.any_tree();
        let mut files = Vec::new();
        for _ in 0..=self.chance.below(30) {
            let size = [0, 10, 5_000, 150_000][self.chance.below(4)];
            files.push((self.name(), noise(self.chance.number(), size)));
        }
        let gone = path(&format!("d{}", self.chance.below(6)));
        let writer = self.storage.writer();
        let made = write(&self.storage, &writer, &base, &gone, &files).await;
        let tree = match made {
            Ok(tree) => tree,
            Err(error) => {
                if let Err(error) = writer.discard().await {
                    assert!(error.is_retryable(), "{error}");
                    self.failed.push(writer);
                }
                return Err(error);
            }
        };
        model.retain(|path, _| path.strip_directory(&gone).is_none());
        model.extend(files);
        self.trees.push((tree, model));
        if self.trees.len() > TREES {
            self.trees.remove(0);
        }
        self.commits += 1;
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let (tree, model) = self.any_tree();
        let name = self.name();
        let found = self.storage.get(&tree, &name).await?;
        assert_eq!(found.is_some(), model.contains_key(&name), "{name}");
        let (Some(file), Some(expected)) = (found, model.get(&name)) else {
            return Ok(());
        };
        let from = self.chance.below(expected.len() + 1);
        let to = from + self.chance.below(expected.len() - from + 1);
        let parts: Vec<Bytes> = self.storage.read(&file, from as u64..to as u64).try_collect().await?;
        assert!(parts.concat() == expected[from..to], "{name} {from}..{to}");
        Ok(())
    }

    async fn list(&mut self) -> Result<()> {
        let (tree, model) = self.any_tree();
        let files: Vec<_> = self.storage.list(&tree, None, None).try_collect().await?;
        assert!(files.iter().map(|(path, _)| path).eq(model.keys()));
        let entries = files.into_iter().map(|(_, file)| file).collect();
        let mut contents: Vec<_> = self.storage.read_many(entries).try_collect().await?;
        contents.sort_by_key(|(index, _)| *index);
        assert!(contents.iter().map(|(_, content)| content).eq(model.values()));
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        let ((a, before), (b, after)) = (self.any_tree(), self.any_tree());
        let changes: Vec<_> = self.storage.diff(&a, &b).try_collect().await?;
        let mut paths: Vec<_> = before.keys().chain(after.keys()).collect();
        paths.sort();
        paths.dedup();
        paths.retain(|path| before.get(*path) != after.get(*path));
        assert!(changes.iter().map(|change| &change.path).eq(paths));
        Ok(())
    }

    async fn check(&mut self) -> Result<()> {
        let (tree, _) = self.any_tree();
        let deep = self.chance.below(2) == 0;
        assert_eq!(self.storage.without_memory().verify(&tree, deep).await?, []);
        Ok(())
    }

    async fn collect(&mut self) -> Result<()> {
        let needed: Vec<Vec<u8>> = self.trees.iter().map(|(stored, _)| stored.clone()).collect();
        collect(&self.storage, &needed).await.map(|_| ())
    }

    /// However wrong the store's clock, a pack that has just been written is young by it.
    async fn clock(&mut self) -> Result<()> {
        let packs: Vec<_> = self.storage.packs().try_collect().await?;
        let now = self.storage.store_time().await?;
        for pack in packs {
            let age = now.duration_since(pack.modified_at).unwrap_or_default();
            assert!(age.as_secs() < 3_600, "{age:?}");
        }
        Ok(())
    }

    /// The store is well again.
    async fn recover(mut self) -> (usize, usize) {
        self.faulty.calm();
        for failed in std::mem::take(&mut self.failed) {
            // A second time does what the first one could not.
            failed.discard().await.unwrap();
        }
        let before = self.commits;
        self.commit().await.unwrap();
        assert_eq!(self.commits, before + 1);
        let store = self.storage.store().clone();
        self.storage = open(store, &mut self.chance);
        self.collect().await.unwrap();
        for (stored, model) in &self.trees {
            let tree = TreeRef::from_bytes(stored).unwrap();
            assert_eq!(self.storage.without_memory().verify(&tree, true).await.unwrap(), []);
            let files: Vec<_> = self.storage.list(&tree, None, None).try_collect().await.unwrap();
            assert!(files.iter().map(|(path, _)| path).eq(model.keys()));
        }
        let needed: Vec<Vec<u8>> = self.trees.iter().map(|(stored, _)| stored.clone()).collect();
        let packs: Vec<_> = self.storage.packs().try_collect().await.unwrap();
        assert_eq!(collect(&self.storage, &needed).await.unwrap(), packs.len());
        assert!(self.faulty.struck() > 0);
        (before, self.failures)
    }
}

/// One commit; the reference to its tree, as the database gets it.
async fn write(
    storage: &Storage,
    writer: &Writer,
    base: &TreeRef,
    gone: &FilePath,
    files: &[(FilePath, Bytes)],
) -> Result<Vec<u8>> {
    let mut changes = vec![TreeChange::Delete(gone.clone())];
    for (path, content) in files {
        let file = match storage.get(base, path).await? {
            Some(before) => writer.write_file_over(&before, &content[..], false).await?,
            None => writer.write_bytes(content.clone(), false).await?,
        };
        changes.push(TreeChange::Put(path.clone(), file));
    }
    let tree = storage.apply(writer, base, changes).await?;
    writer.flush().await?;
    tree.to_bytes()
}

#[tokio::test]
async fn over_a_store_that_fails_at_any_time_everything_is_right_or_an_error_and_right_again_afterwards() {
    let first = seed();
    let (mut commits, mut failures) = (0, 0);
    for seed in first..first.saturating_add(PROGRAMS) {
        println!("program of seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step().await;
        }
        let (done, failed) = world.recover().await;
        commits += done;
        failures += failed;
    }
    assert!(commits > 10 && failures > 10, "{commits} commits, {failures} failures");
}

/// A retry of the caller, as a person's or a scheduler's would be.
const TRIES: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_throttles_breaks_connections_and_loses_answers_only_costs_tries() {
    let seed = seed();
    let server = troubled::Server::start(seed).await;
    let store = Store::from_object_store(server.client());
    let mut chance = Chance::new(seed);
    let mut tree = TreeRef::empty().to_bytes().unwrap();
    let mut model = Model::new();
    for number in 0..8 {
        let files = vec![
            (path(&format!("d{}/large", number % 3)), noise(number, 300_000)),
            (path(&format!("d{number}/small")), noise(number, 100)),
        ];
        let gone = path(&format!("d{}", number % 4));
        let mut made = None;
        for _ in 0..TRIES {
            let storage = open(store.clone(), &mut chance);
            let base = TreeRef::from_bytes(&tree).unwrap();
            match write(&storage, &storage.writer(), &base, &gone, &files).await {
                Ok(tree) => {
                    made = Some(tree);
                    break;
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        tree = made.unwrap();
        model.retain(|path, _| path.strip_directory(&gone).is_none());
        model.extend(files);
    }
    assert!(server.troubles() > 10, "{} troubles only", server.troubles());
    server.calm();
    let storage = open(store, &mut chance);
    let needed = [tree];
    collect(&storage, &needed).await.unwrap();
    let tree = TreeRef::from_bytes(&needed[0]).unwrap();
    assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    let files: Vec<_> = storage.list(&tree, None, None).try_collect().await.unwrap();
    assert!(files.iter().map(|(path, _)| path).eq(model.keys()));
    let packs: Vec<_> = storage.packs().try_collect().await.unwrap();
    assert_eq!(collect(&storage, &needed).await.unwrap(), packs.len());
}
