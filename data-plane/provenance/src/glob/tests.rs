//! Tables of globs and paths, one line for each statement about the language.

use super::*;

fn yes(glob: &str, path: &str) -> Vec<String> {
    let is_dir = path.ends_with('/');
    let found = Glob::parse(glob).unwrap().matches(path, is_dir);
    found.unwrap_or_else(|| panic!("{glob} must match {path}")).0
}

fn no(glob: &str, path: &str) {
    let is_dir = path.ends_with('/');
    assert!(
        Glob::parse(glob).unwrap().matches(path, is_dir).is_none(),
        "{glob} must not match {path}"
    );
}

#[test]
fn every_piece_of_the_language_matches_what_it_says() {
    for (glob, path) in [
        ("/", "/"),
        ("/*", "/a"),
        ("/*", "/dir/"),
        ("*", "/a"),
        ("/a?c", "/abc"),
        ("/a?c", "/aßc"),
        ("/**", "/a/b/c"),
        ("/**", "/a"),
        ("/**.tif", "/a/b.tif"),
        ("/**/x", "/x"),
        ("/**/x", "/a/x"),
        ("/**/x", "/a/b/x"),
        ("/a/**/**/x", "/a/x"),
        ("/a/**", "/a/b"),
        ("/[a-c]x", "/bx"),
        ("/[!a-c]x", "/dx"),
        ("/[^a-c]x", "/dx"),
        ("/[]a]", "/]"),
        ("/[a-]", "/-"),
        ("/[[:digit:]_]", "/7"),
        ("/{a,b/c}/d", "/b/c/d"),
        ("/{a,}b", "/b"),
        ("{/a,/b}", "/b"),
        ("/@(a|b)", "/b"),
        ("/?(a)b", "/b"),
        ("/*(ab)c", "/ababc"),
        ("/*(ab)c", "/c"),
        ("/+(ab)c", "/abc"),
        ("/!(a)", "/b"),
        ("/!(a)", "/ab"),
        ("/!(a|b).tif", "/c.tif"),
        ("/!(*.tif)", "/c.png"),
        ("/x!(a)y", "/xy"),
        ("/\\*", "/*"),
        ("/\\[a\\]\\{b\\}\\?", "/[a]{b}?"),
        ("/[\\]]", "/]"),
        ("/dir/", "/dir/"),
        ("/a,b|c", "/a,b|c"),
        ("/*(*)", "/abc"),
        ("/日本*", "/日本語"),
    ] {
        yes(glob, path);
    }
}

#[test]
fn stars_stay_inside_a_part_and_negations_hold() {
    for (glob, path) in [
        ("/", "/a"),
        ("/*", "/"),
        ("/**", "/"),
        ("/*", "/a/b"),
        ("/?", "/ab"),
        ("/a?b", "/a/b"),
        ("/a[!x]b", "/a/b"),
        ("/!(a)", "/a"),
        ("/!(a)", "/b/c"),
        ("/!(*.tif)", "/c.tif"),
        ("/!(a|b).tif", "/a.tif"),
        ("/+(ab)c", "/c"),
        ("/@(a|b)", "/ab"),
        ("/a/**", "/a/"),
        ("/**/x", "/ax"),
        ("/dir/", "/dir"),
        ("/\\*", "/a"),
        ("/[[:digit:]]", "/a"),
    ] {
        no(glob, path);
    }
}

#[test]
fn captures_are_numbered_by_their_opening_parenthesis() {
    assert_eq!(yes("/foo(?)(?)", "/foo12"), ["1", "2"]);
    assert_eq!(yes("/((a|b)*)-(*)", "/ax-y"), ["ax", "a", "y"]);
    assert_eq!(yes("/@(a|b)_+([0-9]).tif", "/b_123.tif"), ["b", "123"]);
    assert_eq!(yes("/?(x)y", "/y"), [""]);
    assert_eq!(yes("/!(a)-(b)", "/c-b"), ["c", "b"]);
    assert_eq!(yes("/(*)/(*)", "/a/b"), ["a", "b"]);
    let captures = Glob::parse("/foo(?)(?)").unwrap().matches("/foo12", false).unwrap();
    assert_eq!(captures.expand("$2$1-${1}x$$1$3"), "21-1x$1");
    assert_eq!(
        (highest_group("$2$1"), highest_group("$$1"), highest_group("x${12}")),
        (Some(2), None, Some(12))
    );
}

#[test]
fn a_star_over_a_hundred_files_and_two_directories_is_102_datums() {
    let glob = Glob::parse("/*").unwrap();
    let files = (0..100).map(|n| (format!("/{n}"), false));
    let dirs = ["/dir1", "/dir2", "/dir2/dir3"].map(|d| (d.to_owned(), true));
    let all: Vec<_> = files.chain(dirs).collect();
    assert_eq!(all.iter().filter(|(p, d)| glob.matches(p, *d).is_some()).count(), 102);
}

#[test]
fn walks_are_told_where_to_look() {
    let glob = |text: &str| Glob::parse(text).unwrap();
    for (text, prefix, depth) in [
        ("/", "/", Some(0)),
        ("/*", "/", Some(1)),
        ("/a/b*", "/a/b", Some(2)),
        ("/a/\\*b", "/a/*b", Some(2)),
        ("/a/**", "/a/", None),
        ("/{a,b}/c", "/", Some(2)),
        ("/{a,b/c}", "/", None),
        ("/@(a|b)/+(c)", "/", Some(2)),
        ("/+(a/)b", "/", None),
        ("/dir/", "/dir", Some(1)),
    ] {
        assert_eq!(
            (glob(text).literal_prefix(), glob(text).depth()),
            (prefix, depth),
            "{text}"
        );
    }
    assert!(glob("/a/*/x").may_match_below("/"));
    assert!(glob("/a/*/x").may_match_below("/a"));
    assert!(glob("/a/*/x").may_match_below("/a/b/"));
    assert!(!glob("/a/*/x").may_match_below("/b"));
    assert!(!glob("/a/*/x").may_match_below("/a/b/x"));
    assert!(!glob("/*").may_match_below("/a"));
    assert!(glob("/**").may_match_below("/a/b"));
    assert!(glob("/!(a)/x").may_match_below("/b"));
    assert!(!glob("/!(a)/x").may_match_below("/a"));
    assert!(!glob("/").may_match_below("/"));
}

#[test]
fn what_is_not_a_glob_is_refused_with_a_reason() {
    for (glob, why) in [
        ("", "empty"),
        ("/a//b", "empty part"),
        ("/[ab", "`[` at byte 1 is never closed"),
        ("/{a,b", "`{` at byte 1 is never closed; add `}`"),
        ("/@(a|b", "`(` at byte 1 is never closed"),
        ("/a)", "`)` at byte 2 closes nothing; quote it as `\\)`"),
        ("/a}", "closes nothing"),
        ("/(a}", "closes nothing"),
        ("/a\\", "ends in"),
        ("/[z-a]", "range"),
        ("/[[:foo:]]", "not known"),
    ] {
        let error = Glob::parse(glob).unwrap_err();
        assert!(error.why.contains(why), "{glob}: {error}");
    }
    assert!(Glob::parse(&"(".repeat(200)).is_err());
}

#[test]
fn nested_repeats_end_in_time() {
    let glob = Glob::parse("/+(+(*(a)*)*)b").unwrap();
    assert!(glob.matches(&format!("/{}", "a".repeat(2000)), false).is_none());
}

#[test]
fn a_glob_without_wildcards_has_one_path() {
    for (glob, path) in [
        ("/a/b", Some("/a/b")),
        ("a", Some("/a")),
        ("/a/", Some("/a")),
        ("/a\\*", Some("/a*")),
        ("/a*", None),
        ("/a?", None),
        ("/(a)", None),
        ("/a/**", None),
    ] {
        assert_eq!(Glob::parse(glob).unwrap().only_path(), path, "{glob}");
    }
}

#[test]
fn a_quoted_path_matches_itself_only() {
    for path in ["/a*b", "/x[1]{2}(3)|4,5", "/back\\slash", "/a!(b)", "/ü?"] {
        yes(&quote(path), path);
    }
    no(&quote("/a*"), "/ab");
}
