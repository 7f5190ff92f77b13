//! Archives and rows of changes that were made to break their readers: an error or a value, never a panic, never more work or
//! memory than the input is long.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use storage::{FileEntry, FilePath, Options, Storage, Store};
use tar::{EntryType, Header};
use tokio::io::AsyncReadExt;

use super::archive_reader::ArchiveReader;
use super::change::{FileChange, decode, encode};
use crate::failure::Answer;

const MUTATIONS: usize = 4_000;
const BLOCK: usize = 512;

fn chance() -> StdRng {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!("again with: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// What an archive gave.
struct Read {
    members: usize,
    bytes: usize,
}

async fn read(archive: &[u8]) -> Answer<Read> {
    let mut reader = ArchiveReader::new(archive);
    let mut found = Read { members: 0, bytes: 0 };
    let mut scratch = vec![0; 4096];
    while let Some(member) = reader.next().await? {
        assert_eq!(FilePath::parse(member.path.as_str()), Ok(member.path.clone()));
        found.members += 1;
        // Every third is passed over, as one is whose upload was refused.
        if found.members.is_multiple_of(3) {
            continue;
        }
        loop {
            let read = reader.body().read(&mut scratch).await;
            match read.map_err(crate::failure::Failure::internal)? {
                0 => break,
                read => found.bytes += read,
            }
        }
    }
    Ok(found)
}

fn block(kind: u8, size: &[u8], name: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(0);
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name);
    bytes[124..124 + size.len()].copy_from_slice(size);
    bytes[156] = kind;
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A header with these contents behind it.
fn member(kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", content.len());
    let mut out = block(kind, size.as_bytes(), name);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits);
    let line = [(rest.len() + digits.unwrap_or(1)).to_string().into_bytes(), rest].concat();
    member(b'x', b"pax", &line)
}

/// Every kind of header that is taken, and the end mark.
fn sample() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, bytes) in [
        ("d/", EntryType::Directory, &b""[..]),
        ("d/a", EntryType::Regular, b"one"),
        ("d/\u{e9}", EntryType::Regular, &[7; 1500]),
        ("e", EntryType::Continuous, b""),
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    }
    let mut header = Header::new_gnu();
    header.set_size(4);
    builder
        .append_data(&mut header, "x/".repeat(90) + "long", &b"long"[..])
        .unwrap();
    let mut out = builder.into_inner().unwrap();
    out.truncate(out.len() - 2 * BLOCK);
    out.extend(member(b'g', b"global", b"19 comment=anything\n"));
    out.extend(pax("path", "p/\u{fc}".as_bytes()));
    out.extend(member(b'0', b"short", b"content"));
    out.extend(pax("size", b"5"));
    out.extend(member(b'0', b"sized", b"12345"));
    out.extend([0; 2 * BLOCK]);
    out
}

fn sum(block: &[u8]) -> u32 {
    let blank = (148..156).map(|at| u32::from(block[at])).sum::<u32>();
    block.iter().map(|byte| u32::from(*byte)).sum::<u32>() - blank + 8 * u32::from(b' ')
}

fn is_header(block: &[u8]) -> bool {
    let given = std::str::from_utf8(&block[148..155]).ok();
    given.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()) == Some(sum(block))
}

/// Makes the checksums of all headers fit again that stand where those of the sample stand.
fn repair(archive: &mut [u8], headers: &[usize]) {
    for at in headers {
        let Some(block) = archive.get_mut(*at..at + BLOCK) else {
            continue;
        };
        let text = format!("{:07o}\0", sum(block));
        block[148..156].copy_from_slice(text.as_bytes());
    }
}

#[tokio::test]
async fn mutated_archives_are_read_or_refused_in_proportion_to_their_length() {
    let sample = sample();
    let headers: Vec<usize> = (0..sample.len() - 2 * BLOCK)
        .step_by(BLOCK)
        .filter(|at| is_header(&sample[*at..at + BLOCK]))
        .collect();
    let whole = read(&sample).await.unwrap();
    assert!(whole.members == 6 && headers.len() > 9, "{} {headers:?}", whole.members);
    let mut chance = chance();
    let mut taken = 0;
    for _ in 0..MUTATIONS {
        let mut archive = sample.clone();
        for _ in 0..chance.random_range(1..4) {
            // Mostly where the numbers and the kind of a header are.
            let at = match chance.random_range(0..4) {
                0 => chance.random_range(0..archive.len()),
                1 => headers[chance.random_range(0..headers.len())] + 156,
                _ => headers[chance.random_range(0..headers.len())] + chance.random_range(100..137),
            };
            let values = [0, b'0', b'7', b'x', b'L', b'S', 0x80, 0xff, chance.random()];
            archive[at] = values[chance.random_range(0..values.len())];
        }
        repair(&mut archive, &headers);
        if chance.random_range(0..5) == 0 {
            archive.truncate(chance.random_range(0..archive.len()));
        }
        if let Ok(found) = read(&archive).await {
            assert!(found.bytes <= archive.len() && found.members <= archive.len() / BLOCK);
            taken += 1;
        }
    }
    assert!(
        taken > MUTATIONS / 100,
        "{taken} of {MUTATIONS} were read: too few to mean anything"
    );
}

#[tokio::test]
async fn archives_with_absurd_numbers_and_names_are_refused() {
    let largest = {
        let mut size = [0xff; 12];
        size[0] = 0x80;
        size
    };
    let end = vec![0; 2 * BLOCK];
    for (what, archive) in [
        ("a file of 2^64 - 1 bytes", block(b'0', &largest, b"a")),
        ("a directory of 2^64 - 1 bytes", block(b'5', &largest, b"d/")),
        ("a long name of 2^64 - 1 bytes", block(b'L', &largest, b"l")),
        ("an extension of 2^64 - 1 bytes", block(b'x', &largest, b"p")),
        ("an extension of 8 GiB", block(b'x', b"77777777777\0", b"p")),
        ("a size of 2^64 - 1", pax("size", b"18446744073709551615")),
        ("a size of more than 64 bits", pax("size", b"99999999999999999999999")),
        ("a negative size", pax("size", b"-1")),
        ("a name with NUL", pax("path", b"a\0b")),
        ("a name of 100 kB", pax("path", &[b'x'; 100_000])),
        ("a name of nothing", pax("path", b"///")),
        ("a name that climbs out", pax("path", b"a/../../etc/passwd")),
        ("a name that is not UTF-8", pax("path", b"\xff\xfe")),
        (
            "a line of absurd length",
            member(b'x', b"p", b"99999999999999999999 path=a\n"),
        ),
        ("a line without end", member(b'x', b"p", b"999 path=a")),
        ("a sparse file, new style", pax("GNU.sparse.major", b"1")),
        ("a sparse file, old style", member(b'S', b"s", b"")),
        ("a file of a kind nobody knows", member(b'?', b"q", b"")),
    ] {
        let archive = [archive, member(b'0', b"a", b"content"), end.clone()].concat();
        assert!(read(&archive).await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn a_great_many_extension_headers_name_one_file() {
    let mut archive = Vec::new();
    for number in 0..20_000 {
        archive.extend(pax("path", format!("name-{number}").as_bytes()));
    }
    archive.extend(member(b'0', b"short", b"content"));
    archive.extend([0; 2 * BLOCK]);
    assert_eq!(read(&archive).await.unwrap().members, 1);
}

async fn changes() -> Vec<FileChange> {
    let path = |text: &str| FilePath::parse(text).unwrap();
    let storage = Storage::new(Store::memory(), Options::default());
    let writer = storage.writer();
    let large = writer.write_bytes(vec![0; 2_000_000].into(), true).await.unwrap();
    let small = writer.write_bytes("small".into(), false).await.unwrap();
    let parts = writer
        .write_bytes((0..400_000u32).flat_map(u32::to_le_bytes).collect(), false)
        .await
        .unwrap();
    writer.flush().await.unwrap();
    let stored = vec![
        FileChange::Put(path("d/large"), large),
        FileChange::Put(path("d/small"), small),
        FileChange::Put(path("d/small-and-here"), FileEntry::embedded("here".into(), true)),
        FileChange::Put(path("empty"), FileEntry::embedded("".into(), false)),
        FileChange::Append(path("log"), parts),
        FileChange::Delete(path("d/old")),
        FileChange::Delete(path("\u{fc}")),
        FileChange::Clear,
        FileChange::Put(path("last"), FileEntry::embedded("!".into(), false)),
    ];
    // References by name, as they are read from a row.
    decode(&encode(&stored).unwrap()).unwrap()
}

#[tokio::test]
async fn mutated_rows_of_changes_decode_to_what_can_be_encoded_or_not_at_all() {
    let row = encode(&changes().await).unwrap();
    let mut chance = chance();
    let mut taken = 0;
    for _ in 0..MUTATIONS {
        let mut bytes = row.clone();
        for _ in 0..chance.random_range(1..3) {
            let at = chance.random_range(0..bytes.len());
            let values = [0, 1, 0x7f, 0x80, 0xff, chance.random()];
            bytes[at] = values[chance.random_range(0..values.len())];
        }
        if chance.random_range(0..8) == 0 {
            bytes.truncate(chance.random_range(0..bytes.len()));
        }
        if let Ok(found) = decode(&bytes) {
            assert!(found.len() <= bytes.len());
            assert_eq!(decode(&encode(&found).unwrap()).unwrap(), found);
            taken += 1;
        }
    }
    assert!(taken > MUTATIONS / 100, "{taken} of {MUTATIONS} were decoded");
}

#[test]
fn rows_of_changes_with_absurd_lengths_are_refused() {
    let run = |tag: u8, length: u64, bytes: &[u8]| [&[1, tag], &length.to_le_bytes()[..], bytes].concat();
    let number = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let packs = [&[1][..], &number].concat();
    let entries = [&[1, 0][..], &number].concat();
    for (what, row) in [
        ("nothing", Vec::new()),
        ("another version", vec![2]),
        ("a run of 2^64 - 1 bytes", run(1, u64::MAX, b"")),
        ("a run of 2^63 bytes", run(3, 1 << 63, b"a")),
        ("2^64 - 1 packs", run(1, packs.len() as u64, &packs)),
        ("2^64 - 1 entries", run(2, entries.len() as u64, &entries)),
        ("a deleted path of nothing", run(3, 0, b"")),
        ("a deleted path that climbs out", run(3, 4, b"../a")),
        ("a deleted path that is not UTF-8", run(3, 1, b"\xff")),
        ("a clear that says something", run(4, 1, b"a")),
        ("an unknown run", run(9, 0, b"")),
    ] {
        assert!(decode(&row).is_err(), "{what}");
    }
}
