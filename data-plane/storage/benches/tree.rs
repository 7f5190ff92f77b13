//! Measures of storage, as ratios within one run: what a commit, a diff and a listing cost in a
//! repo of 100,000 files compared with one of 1,000, and bulk puts compared with `cp` and a sync on
//! the same disk. `cargo bench` prints a table; `HOWDAH_BENCH_DIR` chooses the disk.

#![expect(clippy::unwrap_used, reason = "a bench that fails may panic")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{DataKey, FilePath, LocalFile, Options, Storage, Store, TreeChange, TreeRef, Writer};

/// Says which part of the bench a child process runs.
const PART: &str = "HOWDAH_BENCH_PART";
const SMALL: usize = 1_000;
const LARGE: usize = 100_000;
const ROUNDS: usize = 15;
const BIG_FILE_BYTES: usize = 2 << 30;
const BATCH_FILES: usize = 2048;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` also runs benches, with `--test`; it wants to know that they build.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let place = std::env::var_os("HOWDAH_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let part = std::env::var(PART);
    let Ok(part) = part else {
        // Each part in a process of its own, so that one's memory is not counted for the next.
        for part in ["trees", "many_files", "big_file"] {
            let bench = std::env::current_exe().unwrap();
            assert!(Command::new(bench).env(PART, part).status().unwrap().success());
        }
        return;
    };
    let directory = tempfile::tempdir_in(place).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match part.as_str() {
        "trees" => runtime.block_on(trees(directory.path())),
        "many_files" => runtime.block_on(many_files(directory.path())),
        _ => runtime.block_on(big_file(directory.path())),
    }
}

fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    Bytes::from(bytes)
}

fn name(index: usize) -> FilePath {
    FilePath::parse(&format!("images/{:03}/tile-{index:06}.tif", index / 500)).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn line(what: &str, ours: Duration, theirs: Duration, limit: f64) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let verdict = if ratio <= limit { "ok" } else { "TOO SLOW" };
    println!("{what:<58} {ours:>12.2?} / {theirs:>10.2?} = {ratio:>5.2}  (at most {limit:.1}) {verdict}");
}

/// Processor time of this process so far.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The most memory used since the last call, in MiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = peak
        .and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    // `5` resets the peak; where that is not allowed the peak is that of the whole run.
    let _ = fs::write("/proc/self/clear_refs", "5");
    kib / 1024
}

async fn put_all(storage: &Storage, writer: &Writer, count: usize) -> TreeRef {
    let mut changes = Vec::with_capacity(count);
    for start in (0..count).step_by(BATCH_FILES) {
        let batch = start..(start + BATCH_FILES).min(count);
        let files = batch.clone().map(|index| (noise(index as u64, 256), false)).collect();
        let entries = writer.write_small_files(files).await.unwrap();
        changes.extend(
            batch
                .zip(entries)
                .map(|(index, entry)| TreeChange::Put(name(index), entry)),
        );
    }
    let tree = storage.apply(writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    tree
}

/// Ten files, spread over the tree, change.
async fn commit(storage: &Storage, base: &TreeRef, count: usize, round: usize) -> TreeRef {
    let writer = storage.writer();
    let mut changes = Vec::new();
    for step in 0..10 {
        let index = (step * count / 10 + round * 7) % count;
        let content = noise((round * 10 + step + LARGE) as u64, 4096);
        changes.push(TreeChange::Put(
            name(index),
            writer.write_bytes(content, false).await.unwrap(),
        ));
    }
    let tree = storage.apply(&writer, base, changes).await.unwrap();
    writer.flush().await.unwrap();
    tree
}

struct Times {
    commit: Duration,
    commit_processor: Duration,
    diff_warm: Duration,
    diff_cold: Duration,
    list_warm: Duration,
    list_cold: Duration,
}

async fn measure(directory: &Path, count: usize) -> Times {
    let store = Store::local(directory.join(format!("tree-{count}"))).unwrap();
    let storage = Storage::new(store.clone(), Options::default());
    let mut base = put_all(&storage, &storage.writer(), count).await;
    let (mut commits, mut warm, mut cold) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lists, mut cold_lists, mut in_memory) = (Vec::new(), Vec::new(), Vec::new());
    let directory = name(0).parent().unwrap();
    for round in 0..ROUNDS {
        let start = Instant::now();
        let next = commit(&storage, &base, count, round).await;
        commits.push(start.elapsed());
        for (storage, times) in [(storage.clone(), &mut warm), (cold_storage(&store), &mut cold)] {
            let start = Instant::now();
            let changes: Vec<_> = storage.diff(&base, &next).try_collect().await.unwrap();
            times.push(start.elapsed());
            assert_eq!(changes.len(), 10);
        }
        for (storage, times) in [(storage.clone(), &mut lists), (cold_storage(&store), &mut cold_lists)] {
            let start = Instant::now();
            let listed = storage
                .list_directory(&next, Some(&directory), None, 100)
                .await
                .unwrap();
            times.push(start.elapsed());
            assert_eq!(listed.len(), 100);
        }
        let writer = storage.writer();
        let entry = writer
            .write_bytes(noise(round as u64 + 9_000_000, 4096), false)
            .await
            .unwrap();
        let changes = (0..10)
            .map(|step| TreeChange::Put(name(step * count / 10), entry.clone()))
            .collect();
        let start = Instant::now();
        storage.apply(&writer, &next, changes).await.unwrap();
        in_memory.push(start.elapsed());
        base = next;
    }
    Times {
        commit: median(commits),
        commit_processor: median(in_memory),
        diff_warm: median(warm),
        diff_cold: median(cold),
        list_warm: median(lists),
        list_cold: median(cold_lists),
    }
}

fn cold_storage(store: &Store) -> Storage {
    Storage::new(store.clone(), Options::default())
}

async fn trees(directory: &Path) {
    let small = measure(directory, SMALL).await;
    let large = measure(directory, LARGE).await;
    println!("100,000 files compared with 1,000:");
    line("  commit of 10 changed files, durable", large.commit, small.commit, 2.0);
    line(
        "  the same without flush",
        large.commit_processor,
        small.commit_processor,
        2.0,
    );
    line("  diff of those commits", large.diff_warm, small.diff_warm, 2.0);
    line(
        "  diff of those commits, empty cache",
        large.diff_cold,
        small.diff_cold,
        2.0,
    );
    line("  list_directory, 100 entries", large.list_warm, small.list_warm, 2.0);
    line(
        "  list_directory, 100 entries, empty cache",
        large.list_cold,
        small.list_cold,
        2.0,
    );
}

async fn big_file(directory: &Path) {
    let source = directory.join("big");
    let mut file = File::create(&source).unwrap();
    for part in 0..BIG_FILE_BYTES >> 22 {
        file.write_all(&noise(part as u64, 4 << 20)).unwrap();
    }
    file.sync_all().unwrap();

    let (mut copies, mut plain, mut encrypted) = (Vec::new(), Bulk::default(), Bulk::default());
    for round in 0..3 {
        let start = Instant::now();
        let copy = directory.join("copy");
        assert!(Command::new("cp").args([&source, &copy]).status().unwrap().success());
        File::open(&copy).unwrap().sync_all().unwrap();
        copies.push(start.elapsed());
        fs::remove_file(copy).unwrap();
        let place = directory.join(format!("big-{round}"));
        plain.measure(&source, &place, None).await;
        encrypted.measure(&source, &place, Some(DataKey::new([7; 32]))).await;
    }
    fs::remove_file(source).unwrap();
    println!("Bulk puts compared with the file system, and what encryption costs:");
    line(
        "  one file of 2 GiB, against cp + fsync",
        median(encrypted.puts.clone()),
        median(copies),
        1.25,
    );
    for (what, with, without) in [
        ("  put encrypted, against put plain", encrypted.puts, plain.puts),
        ("  processor time of that", encrypted.put_cpu, plain.put_cpu),
        ("  read encrypted, against read plain", encrypted.gets, plain.gets),
        ("  processor time of that", encrypted.get_cpu, plain.get_cpu),
    ] {
        line(what, median(with), median(without), 1.15);
    }
}

/// Times of puts and reads of one large file.
#[derive(Default)]
struct Bulk {
    puts: Vec<Duration>,
    put_cpu: Vec<Duration>,
    gets: Vec<Duration>,
    get_cpu: Vec<Duration>,
}

impl Bulk {
    async fn measure(&mut self, source: &Path, place: &Path, key: Option<DataKey>) {
        let store = Store::local(place).unwrap().unlocked(key).await.unwrap();
        let storage = Storage::new(store, Options::default());
        peak_memory();
        let (start, processor) = (Instant::now(), cpu());
        let writer = storage.writer();
        let (read, _listening) = tokio::sync::watch::channel(0);
        let file = LocalFile::new(File::open(source).unwrap(), 0..BIG_FILE_BYTES as u64, read);
        let entry = writer.write_file(file, false).await.unwrap();
        let changes = vec![TreeChange::Put(name(0), entry)];
        let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
        writer.flush().await.unwrap();
        self.puts.push(start.elapsed());
        self.put_cpu.push(cpu() - processor);
        let (start, processor) = (Instant::now(), cpu());
        let entry = storage.get(&tree, &name(0)).await.unwrap().unwrap();
        let mut reading = storage.read(&entry, 0..entry.size);
        let mut bytes = 0;
        while let Some(part) = reading.try_next().await.unwrap() {
            bytes += part.len();
        }
        assert_eq!(bytes, BIG_FILE_BYTES);
        self.gets.push(start.elapsed());
        self.get_cpu.push(cpu() - processor);
        println!(
            "  (2 GiB: processor {:.2?} and {:.2?}, memory at most {} MiB)",
            self.put_cpu.last().unwrap(),
            self.get_cpu.last().unwrap(),
            peak_memory()
        );
        fs::remove_dir_all(place).unwrap();
    }
}

async fn many_files(directory: &Path) {
    let source = directory.join("many");
    let mut paths = Vec::new();
    for index in 0..LARGE {
        let path = source.join(name(index).as_str());
        if index % 500 == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&path, noise(index as u64, 4096)).unwrap();
        paths.push(path);
    }
    assert!(Command::new("sync").arg("-f").arg(&source).status().unwrap().success());

    let start = Instant::now();
    let copy = directory.join("copies");
    assert!(
        Command::new("cp")
            .arg("-r")
            .args([&source, &copy])
            .status()
            .unwrap()
            .success()
    );
    assert!(Command::new("sync").arg("-f").arg(&copy).status().unwrap().success());
    let copied = start.elapsed();

    let storage = Storage::new(Store::local(directory.join("packed")).unwrap(), Options::default());
    peak_memory();
    let (start, processor) = (Instant::now(), cpu());
    let writer = storage.writer();
    let mut changes = Vec::with_capacity(LARGE);
    let mut index = 0;
    for batch in paths.chunks(BATCH_FILES) {
        let batch = batch.to_vec();
        let read = move || {
            batch
                .iter()
                .map(|path| (Bytes::from(fs::read(path).unwrap()), false))
                .collect()
        };
        let files = tokio::task::spawn_blocking(read).await.unwrap();
        for entry in writer.write_small_files(files).await.unwrap() {
            changes.push(TreeChange::Put(name(index), entry));
            index += 1;
        }
    }
    let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    let put = start.elapsed();
    assert_eq!(tree.files(), LARGE as u64);
    println!(
        "  (100,000 files: processor {:.2?}, memory at most {} MiB)",
        cpu() - processor,
        peak_memory()
    );
    line("  100,000 files of 4 KiB, against cp -r + sync", put, copied, 3.0);
}
