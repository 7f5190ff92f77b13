//! The records of a zip archive whose files stand in it as they are, made without going back to what was written: pure, a
//! record from what is known to bytes. Sizes and places beyond 32 bits go into the extra fields of zip64.

use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Datelike, Timelike, Utc};

const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_PLACE: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;
/// The version that zip64 came with, and Unix as the system that the attributes are of.
const MADE_BY: u16 = 3 << 8 | 45;
const NEEDS: u16 = 20;
const NEEDS_64: u16 = 45;
const DESCRIBED: u16 = 1 << 3;
const UTF_8: u16 = 1 << 11;
const EXTRA_64: u16 = 1;
/// What stands in a field whose value does not fit.
const ELSEWHERE: u32 = u32::MAX;

/// A file of an archive.
#[derive(Debug, Clone)]
pub(super) struct Member<'a> {
    /// Its name below the archive's root.
    pub(super) name: &'a str,
    /// Its bytes.
    pub(super) size: u64,
    /// Whether it may be executed.
    pub(super) executable: bool,
    /// Whether its checksum stands behind it, since it was not known before.
    pub(super) described: bool,
}

/// A moment as zip has it: two seconds are the least, and there is nothing before 1980.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    date: u16,
    time: u16,
}

impl Stamp {
    pub(super) fn of(at: DateTime<Utc>) -> Self {
        let year = u16::try_from(at.year().clamp(1980, 2107) - 1980).unwrap_or(0);
        let part = |n: u32| u16::try_from(n).unwrap_or(0);
        Self {
            date: year << 9 | part(at.month()) << 5 | part(at.day()),
            time: part(at.hour()) << 11 | part(at.minute()) << 5 | part(at.second() / 2),
        }
    }
}

fn fits(value: u64) -> bool {
    value < u64::from(ELSEWHERE)
}

fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(ELSEWHERE)
}

impl Member<'_> {
    fn flags(&self) -> u16 {
        UTF_8 | if self.described { DESCRIBED } else { 0 }
    }

    fn name_bytes(&self) -> u16 {
        // No path is longer than 4 KiB.
        u16::try_from(self.name.len()).unwrap_or(u16::MAX)
    }

    /// What stands in front of the content. The checksum of one that is described is 0.
    pub(super) fn local(&self, out: &mut BytesMut, stamp: Stamp, checksum: u32) {
        let large = !fits(self.size);
        out.put_u32_le(LOCAL);
        out.put_u16_le(if large { NEEDS_64 } else { NEEDS });
        out.put_u16_le(self.flags());
        out.put_u16_le(0);
        out.put_u16_le(stamp.time);
        out.put_u16_le(stamp.date);
        out.put_u32_le(checksum);
        out.put_u32_le(short(self.size));
        out.put_u32_le(short(self.size));
        out.put_u16_le(self.name_bytes());
        out.put_u16_le(if large { 20 } else { 0 });
        out.put_slice(self.name.as_bytes());
        if large {
            out.put_u16_le(EXTRA_64);
            out.put_u16_le(16);
            out.put_u64_le(self.size);
            out.put_u64_le(self.size);
        }
    }

    /// What stands behind the content of one that is described.
    pub(super) fn descriptor(&self, out: &mut BytesMut, checksum: u32) {
        out.put_u32_le(DESCRIPTOR);
        out.put_u32_le(checksum);
        for _ in 0..2 {
            if fits(self.size) {
                out.put_u32_le(short(self.size));
            } else {
                out.put_u64_le(self.size);
            }
        }
    }

    /// How many bytes of the archive it takes, without its record in the directory.
    pub(super) fn room(&self) -> u64 {
        let large = !fits(self.size);
        let head = 30 + self.name.len() as u64 + if large { 20 } else { 0 };
        let tail = match (self.described, large) {
            (false, _) => 0,
            (true, false) => 16,
            (true, true) => 24,
        };
        head + self.size + tail
    }

    /// Its record in the directory at the archive's end.
    pub(super) fn central(&self, out: &mut BytesMut, stamp: Stamp, checksum: u32, place: u64) {
        let large = !fits(self.size);
        let far = !fits(place);
        let extra = u16::from(large) * 16 + u16::from(far) * 8;
        let mode: u32 = if self.executable { 0o100_755 } else { 0o100_644 };
        out.put_u32_le(CENTRAL);
        out.put_u16_le(MADE_BY);
        out.put_u16_le(if large || far { NEEDS_64 } else { NEEDS });
        out.put_u16_le(self.flags());
        out.put_u16_le(0);
        out.put_u16_le(stamp.time);
        out.put_u16_le(stamp.date);
        out.put_u32_le(checksum);
        out.put_u32_le(short(self.size));
        out.put_u32_le(short(self.size));
        out.put_u16_le(self.name_bytes());
        out.put_u16_le(if extra > 0 { extra + 4 } else { 0 });
        // No comment, one disk, no internal attributes.
        out.put_slice(&[0; 6]);
        out.put_u32_le(mode << 16);
        out.put_u32_le(short(place));
        out.put_slice(self.name.as_bytes());
        if extra > 0 {
            out.put_u16_le(EXTRA_64);
            out.put_u16_le(extra);
        }
        if large {
            out.put_u64_le(self.size);
            out.put_u64_le(self.size);
        }
        if far {
            out.put_u64_le(place);
        }
    }
}

/// The end of an archive: how many files, where the directory begins and how long it is.
pub(super) fn end(out: &mut BytesMut, files: u64, place: u64, length: u64) {
    if files >= u64::from(u16::MAX) || !fits(place) || !fits(length) {
        out.put_u32_le(END_64);
        out.put_u64_le(44);
        out.put_u16_le(MADE_BY);
        out.put_u16_le(NEEDS_64);
        out.put_u64_le(0);
        out.put_u64_le(files);
        out.put_u64_le(files);
        out.put_u64_le(length);
        out.put_u64_le(place);
        out.put_u32_le(END_64_PLACE);
        out.put_u32_le(0);
        out.put_u64_le(place + length);
        out.put_u32_le(1);
    }
    let count = u16::try_from(files).unwrap_or(u16::MAX);
    out.put_u32_le(END);
    out.put_u32_le(0);
    out.put_u16_le(count);
    out.put_u16_le(count);
    out.put_u32_le(short(length));
    out.put_u32_le(short(place));
    out.put_u16_le(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn member(size: u64, described: bool) -> Member<'static> {
        Member {
            name: "d/\u{fc}",
            size,
            executable: true,
            described,
        }
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(wide)
    }

    #[test]
    fn what_fits_into_32_bits_stands_where_every_reader_looks_and_the_rest_in_zip64() {
        let stamp = Stamp::of(DateTime::UNIX_EPOCH);
        for (size, place, extra) in [
            (7, 9, 0),
            (4 * GIB - 2, 9, 0),
            (4 * GIB - 1, 9, 20),
            (5 * GIB, 9, 20),
            (7, 5 * GIB, 12),
            (5 * GIB, 6 * GIB, 28),
        ] {
            let (mut local, mut central) = (BytesMut::new(), BytesMut::new());
            member(size, false).local(&mut local, stamp, 1);
            member(size, false).central(&mut central, stamp, 1, place);
            let large = size >= 4 * GIB - 1;
            assert_eq!(number(&local, 28, 2), if large { 20 } else { 0 }, "{size}");
            assert_eq!(number(&local, 22, 4), if large { 0xffff_ffff } else { size });
            assert_eq!(local.len() as u64 + size, member(size, false).room());
            assert_eq!(number(&central, 30, 2), extra, "{size} {place}");
            assert_eq!(central.len() as u64, 46 + 4 + extra);
            if large {
                assert_eq!(number(&local, 30 + 4 + 4, 8), size);
                assert_eq!(number(&central, 46 + 4 + 4, 8), size);
            }
            if place > 4 * GIB {
                assert_eq!(number(&central, central.len() - 8, 8), place);
            }
        }
    }

    #[test]
    fn a_descriptor_takes_the_room_that_is_reckoned_with() {
        for (size, length) in [(7, 16), (5 * GIB, 24)] {
            let mut out = BytesMut::new();
            member(size, true).descriptor(&mut out, 1);
            assert_eq!(out.len(), length);
            assert_eq!(member(size, true).room() - member(size, false).room(), length as u64);
        }
    }

    #[test]
    fn the_end_counts_in_64_bits_where_it_must() {
        for (files, place, length, wide) in [
            (2, 10, 20, false),
            (65_534, 10, 20, false),
            (65_535, 10, 20, true),
            (2, 5 * GIB, 20, true),
            (2, 10, 5 * GIB, true),
        ] {
            let mut out = BytesMut::new();
            end(&mut out, files, place, length);
            assert_eq!(out.len(), if wide { 98 } else { 22 }, "{files} {place} {length}");
            if wide {
                assert_eq!(number(&out, 32, 8), files);
                assert_eq!(number(&out, 40, 8), length);
                assert_eq!(number(&out, 48, 8), place);
                assert_eq!(number(&out, 56 + 8, 8), place + length);
            }
        }
    }

    #[test]
    fn times_are_those_of_msdos() {
        let at = DateTime::from_timestamp(1_790_000_001, 0).unwrap();
        let stamp = Stamp::of(at);
        assert_eq!((stamp.date >> 9) + 1980, u16::try_from(at.year()).unwrap());
        assert_eq!(u32::from(stamp.date >> 5 & 15), at.month());
        assert_eq!(u32::from(stamp.time >> 11), at.hour());
        assert_eq!(Stamp::of(DateTime::UNIX_EPOCH).date >> 9, 0);
    }
}
