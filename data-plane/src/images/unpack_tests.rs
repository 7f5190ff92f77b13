//! Layers as builders make them, and layers that were made to get out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::unpack::{Bounds, Unpacking};
use super::{Digest, ImageError};

const BOUNDS: Bounds = Bounds {
    bytes: 1 << 20,
    entries: 1000,
    free_bytes: 0,
};

/// A layer in the making. Names are written as they are, whatever they lead to.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: tar::EntryType, path: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        let fields = header.as_old_mut();
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).expect("an entry");
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(tar::EntryType::Regular, path, "", 0o644, content.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.entry(tar::EntryType::Directory, path, "", 0o755, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, target, 0o777, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, target, 0o644, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a layer")
    }
}

/// An image and what lies beside it, which no layer may touch.
struct Place {
    directory: tempfile::TempDir,
    unpacking: Unpacking,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("outside")).expect("a directory");
        fs::write(directory.path().join("outside/kept"), "kept").expect("a file");
        let unpacking = Unpacking::begin(&directory.path().join("image"), None, BOUNDS).expect("begin");
        Self { directory, unpacking }
    }

    fn apply(&mut self, layer: Layer) -> Result<(), ImageError> {
        let bytes = layer.bytes();
        self.unpacking.layer(bytes.as_slice(), &Digest::of(&bytes))
    }

    fn with(layers: Vec<Layer>) -> Self {
        let mut place = Self::new();
        for layer in layers {
            place.apply(layer).expect("a layer");
        }
        place
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("image").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    #[track_caller]
    fn nothing_got_out(&self) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).expect("list");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.directory.path()), ["image", "outside"]);
        assert_eq!(names(&self.directory.path().join("outside")), ["kept"]);
        let kept = self.directory.path().join("outside/kept");
        assert_eq!(fs::read_to_string(&kept).expect("the file"), "kept");
        assert_eq!(fs::metadata(kept).expect("the file").nlink(), 1);
    }
}

#[test]
fn files_links_and_permissions_are_laid_one_over_the_other() {
    let long = "d".repeat(90);
    let mut paths = Layer::new();
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o600);
    paths
        .0
        .append_data(&mut header, format!("{long}/{long}/{long}"), &b"long"[..])
        .expect("a long name");
    let place = Place::with(vec![
        paths
            .directory("usr/")
            .file("usr/bin/tool", "one")
            .entry(tar::EntryType::Regular, "usr/bin/su", "", 0o4755, b"su")
            .link("bin", "usr/bin")
            .link("absolute", "/usr/bin")
            .hard_link("usr/bin/same", "/usr/bin/tool")
            .entry(tar::EntryType::Char, "dev/null", "", 0o666, b"")
            .entry(tar::EntryType::Fifo, "pipe", "", 0o666, b"")
            .entry(tar::EntryType::Directory, "locked", "", 0o000, b""),
        Layer::new()
            .file("./bin/second", "through a link")
            .file("absolute/third", "through an absolute link")
            .file("locked/in", "in")
            .file("usr/bin/tool", "two"),
    ]);
    assert_eq!(place.read(&format!("{long}/{long}/{long}")), "long");
    assert_eq!(place.read("usr/bin/second"), "through a link");
    assert_eq!(place.read("usr/bin/third"), "through an absolute link");
    // The other name keeps what it had: a layer replaces names, not contents.
    assert_eq!(
        (place.read("usr/bin/tool"), place.read("usr/bin/same")),
        ("two".into(), "one".into())
    );
    assert_eq!(
        fs::read_link(place.path("bin")).expect("the link"),
        Path::new("usr/bin")
    );
    let mode = |path: &str| fs::metadata(place.path(path)).expect(path).permissions().mode() & 0o7777;
    assert_eq!(
        (mode("usr/bin/su"), mode("usr/bin/tool"), mode("locked")),
        (0o755, 0o644, 0o700)
    );
    assert_eq!(
        fs::metadata(place.path("usr/bin/tool")).expect("it").mtime(),
        1_000_000_000
    );
    assert!(!place.has("dev/null") && !place.has("pipe"));
    place.nothing_got_out();
}

#[test]
fn what_a_layer_takes_away_is_gone_and_what_it_brings_is_there() {
    let place = Place::with(vec![
        Layer::new()
            .file("a/one", "1")
            .file("a/two", "2")
            .file("b/old/deep", "old")
            .file("b/other", "other")
            .link("l", "a"),
        Layer::new()
            .file("a/.wh.one", "")
            .file("a/.wh.never", "")
            .file("none/.wh.x", "")
            .file("b/new", "new")
            .file("b/old/newer", "newer")
            .file("b/.wh..wh..opq", "")
            .file(".wh.l", "")
            .file("l/x", "now a directory")
            .file("a/.wh..wh.plnk", ""),
    ]);
    assert!(!place.has("a/one") && place.has("a/two") && !place.has("none"));
    assert!(!place.has("b/other") && !place.has("b/old/deep"));
    assert_eq!(
        (place.read("b/new"), place.read("b/old/newer")),
        ("new".into(), "newer".into())
    );
    assert_eq!(place.read("l/x"), "now a directory");
    assert!(!place.has("a/x") && !place.has("a/.wh..wh.plnk"));
}

#[test]
fn a_hostile_layer_gets_nowhere_but_into_the_image() {
    let outside = |place: &Place| place.directory.path().join("outside").display().to_string();
    // Refused by their names.
    for path in [
        "../outside/new",
        "a/../../outside/new",
        "..",
        "a/.wh...",
        "a/.wh..",
        ".wh..",
    ] {
        let mut place = Place::new();
        let refused = place.apply(Layer::new().directory("a").file(path, "x"));
        assert!(matches!(refused, Err(ImageError::Damaged(_))), "{path}: {refused:?}");
        place.nothing_got_out();
    }
    // Links that lead out are links of the image: what comes below them stays inside, or is refused.
    for target in [
        "../outside",
        "../../../../../..",
        "/",
        "/proc/self/root",
        "/proc/self/cwd",
        "OUTSIDE",
    ] {
        let mut place = Place::new();
        let target = target.replace("OUTSIDE", &outside(&place));
        let layers = [
            Layer::new().link("out", &target).file("out/new", "x"),
            Layer::new().link("out", &target).directory("out").file("out/kept", "x"),
            Layer::new().link("out", &target).file("out/.wh.kept", ""),
            Layer::new().link("out", &target).file("out/.wh..wh..opq", ""),
            Layer::new().link("out", &format!("{target}/kept")).file("out", "x"),
            Layer::new().hard_link("stolen", &format!("{target}/kept")),
            Layer::new()
                .link("out", &target)
                .hard_link("stolen", "out/kept")
                .file("stolen", "x"),
            Layer::new()
                .link("a", "b")
                .link("b", &target)
                .link("a/c", "/")
                .file("a/c/new", "x"),
        ];
        for layer in layers {
            let _ = place.apply(layer);
            place.nothing_got_out();
        }
    }
    let mut place = Place::new();
    let looped = place.apply(Layer::new().link("a", "b").link("b", "a").file("a/x", "x"));
    assert!(looped.is_err(), "a circle leads nowhere");
    place.nothing_got_out();
}

#[test]
fn a_link_to_proc_is_not_followed_to_this_process() {
    let mut place = Place::new();
    let stolen = format!("/proc/self/fd/{}", 0);
    let _ = place.apply(Layer::new().link("fd", &stolen).file("fd/x", "x"));
    place.nothing_got_out();
    assert_eq!(super::unpack::read_inside(&place.path(""), "fd", 100), "");
    fs::create_dir_all(place.path("etc")).expect("a directory");
    std::os::unix::fs::symlink("/etc/real", place.path("etc/passwd")).expect("a link");
    fs::write(place.path("etc/real"), "of the image").expect("a file");
    assert_eq!(
        super::unpack::read_inside(&place.path(""), "etc/passwd", 100),
        "of the image"
    );
}

#[test]
fn layers_are_compared_with_their_digests_and_bounded() {
    let bytes = Layer::new().file("a", "a").bytes();
    let other = Digest::of(b"other");
    let mut place = Place::new();
    let differs = place.unpacking.layer(bytes.as_slice(), &other);
    assert!(
        matches!(&differs, Err(ImageError::Damaged(why)) if why.contains(other.as_str())),
        "{differs:?}"
    );
    // Compressed either way, and with something behind the end of the archive.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).expect("compress");
    let gzip = gzip.finish().expect("compress");
    let zstd = zstd::encode_all(bytes.as_slice(), 1).expect("compress");
    let longer = [bytes.as_slice(), &[0; 4096]].concat();
    for (layer, whole) in [(&gzip, &bytes), (&zstd, &bytes), (&longer, &longer)] {
        Place::new()
            .unpacking
            .layer(layer.as_slice(), &Digest::of(whole))
            .expect("a layer");
    }
    let cut = Place::new()
        .unpacking
        .layer(&gzip[..gzip.len() / 2], &Digest::of(&bytes));
    assert!(cut.is_err());
    let large = Layer::new().file("large", &"x".repeat(2 << 20)).bytes();
    let refused = Place::new().unpacking.layer(large.as_slice(), &Digest::of(&large));
    assert!(refused.is_err_and(|error| error.to_string().contains("more than 1048576 bytes")));
    let mut many = Layer::new();
    for n in 0..1001 {
        many = many.file(&format!("f{n}"), "");
    }
    let refused = Place::new().apply(many);
    assert!(refused.is_err_and(|error| error.to_string().contains("more than 1000 files")));
    let deep = format!("{}x", "d/".repeat(45));
    let mut place = Place::new();
    let mut layer = Layer::new().file(&deep, "x");
    // Each link leads to the deepest directory so far.
    let (mut at, mut refused) = ("d/".repeat(45), false);
    for n in 0..20 {
        let name = format!("l{n}");
        layer = layer
            .link(&name, &format!("/{at}"))
            .file(&format!("{name}/{deep}"), "x");
        refused |= place.apply(std::mem::replace(&mut layer, Layer::new())).is_err();
        at = format!("{name}/{}", "d/".repeat(20));
    }
    assert!(refused, "links make no bottomless directory");
}

#[test]
fn what_describes_a_file_is_read_and_bounded() {
    use tar::EntryType::{GNULongLink, GNULongName, GNUSparse, Regular, Symlink, XGlobalHeader, XHeader};
    let long = format!("{}/name", ["directory-of-a-long-name"; 8].join("/"));
    let record = |text: &str| {
        // Its length counts itself.
        let length = (1..9)
            .map(|digits| text.len() + digits + 2)
            .find(|n| n.to_string().len() == n - text.len() - 2);
        format!("{} {text}\n", length.expect("a length"))
    };
    let extensions = record("path=by-extension") + &record("SCHILY.xattr.user.note=x") + &record("size=4");
    let layer = Layer::new()
        .entry(XGlobalHeader, "global", "", 0o644, &[b'x'; 100_000])
        .entry(GNULongName, "././@LongLink", "", 0o644, format!("{long}\0").as_bytes())
        .file("short", "said")
        .entry(GNULongLink, "././@LongLink", "", 0o644, format!("{long}\0").as_bytes())
        .entry(Symlink, "link", "short", 0o777, b"")
        .entry(XHeader, "extensions", "", 0o644, extensions.as_bytes())
        .entry(Regular, "ignored", "", 0o644, b"four");
    let place = Place::with(vec![layer]);
    assert_eq!(place.read(&long), "said");
    assert_eq!(place.read("link"), "said");
    assert_eq!(place.read("by-extension"), "four");
    assert!(!place.has("short") && !place.has("ignored"));

    let much = vec![b'x'; (64 << 10) + 1];
    for (kind, content, why) in [
        (GNULongName, much.as_slice(), "more than 65536"),
        (GNULongLink, much.as_slice(), "more than 65536"),
        (XHeader, much.as_slice(), "more than 65536"),
        (GNUSparse, b"".as_slice(), "sparse"),
        (XHeader, record("GNU.sparse.major=1").as_bytes(), "sparse"),
        (GNULongName, b"name".as_slice(), "described twice"),
    ] {
        let layer = Layer::new().entry(kind, "x", "", 0o644, content);
        let layer = layer.entry(GNULongName, "x", "", 0o644, b"name").file("file", "");
        let refused = Place::new().apply(layer).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let dangling = Layer::new().entry(GNULongName, "x", "", 0o644, b"name");
    assert!(Place::new().apply(dangling).is_err());
}

#[test]
fn directories_on_the_way_and_names_count_too() {
    let deep = |at: usize| format!("{at}/{}", ["d"; 40].join("/"));
    let layer = (0..40).fold(Layer::new(), |layer, at| layer.file(&deep(at), ""));
    let refused = Place::new().apply(layer).expect_err("1,600 directories");
    assert!(refused.to_string().contains("more than 1000 files"), "{refused}");
    // Other names of one directory make none.
    let through = |at: usize| format!("l{at}/{}", ["l"; 35].join("/"));
    let layer = (0..60).fold(Layer::new().link("l", "."), |layer, at| {
        layer.link(&format!("l{at}"), ".")
    });
    let layer = (0..60).fold(layer, |layer, at| layer.file(&format!("{}/f{at}", through(at)), ""));
    let refused = Place::new().apply(layer).expect_err("2,160 names");
    assert!(refused.to_string().contains("more than 1000 files"), "{refused}");
}
