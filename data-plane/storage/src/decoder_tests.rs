//! Decoders of packs, nodes and extent blocks against hostile bytes, behind checksums that fit: what
//! is decoded must be an error or a value, in time and memory proportional to the input.

use std::sync::Arc;

use proptest::prelude::*;

use crate::buffer::Pool;
use crate::codec::put_number;
use crate::digest::Digest;
use crate::entry::{BlockRef, Content, Extent, FileEntry};
use crate::extents::{Block, Part};
use crate::location::{Location, PackRef};
use crate::pack::{Piece, PieceKind, decode_index, decode_trailer, encode_end};
use crate::path::FilePath;
use crate::slot::PackSlot;
use crate::tree::boundary::Boundary;
use crate::tree::node::{Child, Items, Node};

fn location(offset: u32) -> Location {
    Location {
        pack: PackRef::Stored(Digest::of(b"pack")),
        offset,
        length: 7,
    }
}

fn path(index: u32) -> FilePath {
    FilePath::parse(&format!("directory/{index:05}")).unwrap()
}

fn slot() -> PackSlot {
    PackSlot::new(0, &Arc::new(Pool::default()), None)
}

fn leaf() -> Vec<u8> {
    let extent = |offset| Extent {
        location: location(offset),
        digest: Digest::of(b"chunk"),
    };
    let files = (0..20).map(|index| {
        let content = Content::Extents((0..index % 4).map(extent).collect());
        let size = u64::from(index % 4) * 7;
        (
            path(index),
            FileEntry {
                size,
                digest: Digest::of(&[1]),
                executable: index % 2 == 0,
                content,
            },
        )
    });
    Node::new(Items::Leaf(files.collect())).encode(&slot()).unwrap()
}

fn inner() -> Vec<u8> {
    let child = |index| Child {
        last: path(index),
        digest: Digest::of(b"node"),
        location: location(index),
        files: 3,
        bytes: 4,
    };
    Node::new(Items::Inner(1, (0..20).map(child).collect()))
        .encode(&slot())
        .unwrap()
}

/// Changes some bytes of a node and makes its checksum fit again.
fn tampered(mut node: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    node.truncate(node.len() - 16);
    for (at, byte) in changes {
        let at = at % node.len();
        node[at] = *byte;
    }
    let checksum = Digest::of(&node);
    node.extend_from_slice(&checksum.as_bytes()[..16]);
    node
}

proptest! {
    #[test]
    fn tampered_nodes_never_make_the_decoder_panic(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let own = PackRef::Stored(Digest::default());
        let _ = Node::decode(&tampered(leaf(), &changes), &own);
        let _ = Node::decode(&tampered(inner(), &changes), &own);
        let _ = Node::decode(&garbage, &own);
        let _ = Node::decode(&tampered([&[1, 1], &garbage[..], &[0; 16]].concat(), &changes), &own);
    }

    #[test]
    fn random_blocks_indexes_and_trailers_never_make_a_decoder_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let own = PackRef::Stored(Digest::default());
        for height in [0, 1, 9] {
            let _ = Block::decode(&garbage, height, &own);
            let _ = Block::decode(&[&[1, height], &garbage[..]].concat(), height, &own);
        }
        let _ = decode_index(&garbage);
        let _ = decode_trailer(&garbage);
    }
}

#[test]
fn a_hostile_count_reserves_no_memory() {
    // A leaf that claims 2^60 files.
    let claimed = [1, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    let node = tampered([&claimed[..], &[0; 16]].concat(), &[(0, 1)]);
    assert!(Node::decode(&node, &PackRef::Stored(Digest::default())).is_err());
    assert!(decode_index(&claimed[3..]).is_err());
}

fn blocks() -> [(u8, Vec<u8>); 2] {
    let extents = (0..5).map(|index| Extent {
        location: location(index),
        digest: Digest::of(b"chunk"),
    });
    let parts = (0..5).map(|index| Part {
        bytes: 1 << (12 * index),
        block: BlockRef {
            location: location(index),
            digest: Digest::of(b"block"),
            height: 0,
        },
    });
    [
        (0, Block::Extents(extents.collect()).encode(0, &slot()).unwrap()),
        (1, Block::Blocks(parts.collect()).encode(1, &slot()).unwrap()),
    ]
}

/// Each byte becomes each of the values that numbers begin, go on and end with.
fn mutations(sample: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..sample.len()).flat_map(move |at| {
        [0, 1, 2, 0x7f, 0x80, 0xff].into_iter().map(move |byte| {
            let mut mutated = sample.to_vec();
            mutated[at] = byte;
            mutated
        })
    })
}

#[test]
fn every_mutation_of_every_record_decodes_to_no_more_than_its_bytes_can_say() {
    let own = PackRef::Stored(Digest::default());
    for node in [leaf(), inner()] {
        let bare = &node[..node.len() - 16];
        for mutated in mutations(bare) {
            let mutated = tampered([&mutated[..], &[0; 16]].concat(), &[]);
            let Ok(decoded) = Node::decode(&mutated, &own) else {
                continue;
            };
            let items = match &decoded.items {
                Items::Leaf(files) => files.len(),
                Items::Inner(_, children) => children.len(),
            };
            // The shortest item has two numbers of a path, a digest and the numbers of a place.
            assert!(items * 36 <= mutated.len(), "{items} items in {} bytes", mutated.len());
            assert!(decoded.weight() <= items * (4096 + 512));
        }
    }
    for (height, block) in blocks() {
        for mutated in mutations(&block) {
            let Ok(decoded) = Block::decode(&mutated, height, &own) else {
                continue;
            };
            assert!(decoded.covered() > 0);
            assert!(decoded.weight() <= mutated.len() * 8);
        }
    }
    let (end, _) = encode_end(&[Piece {
        kind: PieceKind::Node,
        length: 300_000,
        digest: Digest::of(b"piece"),
    }]);
    for mutated in mutations(&end[..end.len() - 48]) {
        let pieces = decode_index(&mutated).map_or(0, |pieces| pieces.len());
        assert!(pieces * 34 <= mutated.len());
    }
}

#[test]
fn blocks_that_cover_nothing_or_everything_are_refused() {
    let own = PackRef::Stored(Digest::default());
    let part = |bytes: u64| {
        let mut out = Vec::new();
        put_number(&mut out, bytes);
        // This pack, at 8, 100 bytes long.
        [&out[..], &[0, 8, 100], Digest::of(b"block").as_bytes()].concat()
    };
    let block = |height: u8, parts: &[Vec<u8>]| [&[1, height, 0, parts.len() as u8], &parts.concat()[..]].concat();
    assert!(Block::decode(&block(1, &[part(5), part(6)]), 1, &own).is_ok());
    assert!(Block::decode(&block(1, &[]), 1, &own).is_err());
    assert!(Block::decode(&block(0, &[]), 0, &own).is_err());
    // A thousand of these below a thousand of these, eight times, is more than anybody can walk.
    assert!(Block::decode(&block(1, &[part(5), part(0)]), 1, &own).is_err());
    assert!(Block::decode(&block(1, &[part(u64::MAX), part(1)]), 1, &own).is_err());
    assert!(Block::decode(&block(9, &[part(5)]), 9, &own).is_err());
    assert!(Block::decode(&block(2, &[part(5)]), 1, &own).is_err());
    let empty = [&[1, 0, 0, 1, 0, 8, 0][..], Digest::of(b"chunk").as_bytes()].concat();
    assert!(Block::decode(&empty, 0, &own).is_err());
    let oversized = [
        &[1, 0, 0, 1, 0, 8, 0xff, 0xff, 0xff, 0x7f][..],
        Digest::of(b"chunk").as_bytes(),
    ]
    .concat();
    assert!(Block::decode(&oversized, 0, &own).is_err());
}

#[test]
fn a_pack_is_full_by_its_index_too() {
    let slot = slot();
    for number in 0..10_000u32 {
        let piece = number.to_le_bytes();
        slot.append(PieceKind::Chunk, Digest::of(&piece), &piece).unwrap();
    }
    let held = slot.len();
    let (_, pack) = slot.seal(None).unwrap();
    assert!(held >= pack.len(), "{held} bytes are held for a pack of {}", pack.len());
}

#[test]
fn an_index_and_its_trailer_are_read_as_they_were_written() {
    let pieces: Vec<Piece> = [PieceKind::Chunk, PieceKind::Node, PieceKind::Extents]
        .into_iter()
        .map(|kind| Piece {
            kind,
            length: 300_000,
            digest: Digest::of(&[kind as u8]),
        })
        .collect();
    let (end, id) = encode_end(&pieces);
    let (index, trailer) = end.split_at(end.len() - 48);
    assert_eq!(decode_trailer(trailer), Ok((index.len() as u64, id)));
    assert_eq!(decode_index(index), Ok(pieces));
    assert_eq!(Digest::of(index), id);
}

#[test]
fn nodes_are_about_four_kibibytes_at_every_level() {
    for level in 0..3 {
        let mut boundary = Boundary::new(level);
        let nodes = (0..50_000)
            .filter(|index| boundary.ends_with(path(*index).as_str()))
            .count();
        let items = 50_000 / nodes;
        assert!((30..100).contains(&items), "{items} items a node at level {level}");
    }
}
