//! Tables of inputs and the datums that they yield.

use std::sync::Arc;

use contract::names::ProjectName;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::spec::PipelineSpec;

fn domain(n: u8) -> DomainId {
    DomainId::from_uuid(Uuid::from_bytes([n; 16]))
}

fn input(value: &Value) -> InputSpec {
    let spec = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["x"] }, "input": value });
    PipelineSpec::parse(&spec, &ProjectName::default_project())
        .unwrap_or_else(|e| panic!("{e:#?}"))
        .input
}

/// Matches of every leaf in a repo of these paths; directories end in `/`.
fn datums(value: &Value, files: &[&[&str]]) -> Vec<Datum> {
    tried(value, files).unwrap_or_else(|e| panic!("{e}"))
}

fn tried(value: &Value, files: &[&[&str]]) -> Result<Vec<Datum>, TooMany> {
    let input = input(value);
    let leaves = input.leaves();
    let lists: Vec<Arc<[Match]>> = leaves
        .iter()
        .zip(files)
        .map(|(leaf, paths)| listed(&leaf.glob, paths))
        .collect();
    let domains: Vec<DomainId> = (0..leaves.len()).map(|n| domain(n as u8)).collect();
    enumerate(&input, &domains, &Lists::new(&input, lists))
}

fn listed(glob: &Glob, paths: &[&str]) -> Arc<[Match]> {
    let found = paths.iter().filter_map(|path| {
        let kind = if path.ends_with('/') {
            Kind::Directory
        } else {
            Kind::File
        };
        let captures = glob.matches(path, kind == Kind::Directory)?;
        Some(Match {
            path: path.trim_end_matches('/').to_owned(),
            kind,
            digest: *blake3::hash(path.as_bytes()).as_bytes(),
            size: 1,
            captures,
        })
    });
    found.collect()
}

fn texts(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn pfs(repo: &str, glob: &str) -> Value {
    json!({ "pfs": { "repo": repo, "glob": glob } })
}

#[test]
fn files_and_directories_at_the_top_are_102_datums() {
    let mut paths: Vec<String> = (0..100).map(|n| format!("/{n}")).collect();
    paths.extend(["/dir1/", "/dir1/x", "/dir2/", "/dir2/dir3/", "/dir2/dir3/y"].map(str::to_owned));
    assert_eq!(datums(&pfs("a", "/*"), &[&texts(&paths)]).len(), 102);
    assert_eq!(datums(&pfs("a", "/nothing*"), &[&texts(&paths)]).len(), 0);
}

#[test]
fn a_cross_is_a_product_and_an_empty_factor_makes_it_empty() {
    let cross = json!({ "cross": [pfs("a", "/*"), pfs("b", "/*"), pfs("c", "/*")] });
    let all = datums(&cross, &[&["/1", "/2"], &["/x", "/y", "/z"], &["/k"]]);
    assert_eq!(all.len(), 6);
    assert_eq!(all[0].labels(), ["a:/1", "b:/x", "c:/k"]);
    assert_eq!(datums(&cross, &[&["/1", "/2"], &[], &["/k"]]), []);
}

#[test]
fn a_union_has_equal_datums_once() {
    let union = json!({ "union": [pfs("a", "/a*"), pfs("b", "/*")] });
    assert_eq!(datums(&union, &[&["/a1", "/a2", "/b"], &["/a1"]]).len(), 3);
    let same = input(&json!({ "union": [pfs("a", "/a*"), pfs("a", "/*b")] }));
    let lists: Vec<_> = same
        .leaves()
        .iter()
        .map(|l| listed(&l.glob, &["/ab", "/ax", "/xb"]))
        .collect();
    let all = enumerate(&same, &[domain(1), domain(1)], &Lists::new(&same, lists)).unwrap();
    assert_eq!(
        all.iter().flat_map(Datum::labels).collect::<Vec<_>>(),
        ["a:/ab", "a:/ax", "a:/xb"]
    );
}

#[test]
fn a_group_has_one_datum_for_each_key_with_all_files_of_all_inputs() {
    let keyed = |repo: &str, key: &str| json!({ "pfs": { "repo": repo, "glob": "/foo(?)(?)", "group_by": key } });
    let names: Vec<String> = (10..50).map(|n| format!("/foo{n}")).collect();
    let all = datums(&json!({ "group": [keyed("a", "$1")] }), &[&texts(&names)]);
    assert_eq!(all.iter().map(|d| d.inputs.len()).collect::<Vec<_>>(), [10, 10, 10, 10]);
    assert!(all[0].inputs.iter().all(|i| i.group_by.as_deref() == Some("1")));
    let two = json!({ "group": [keyed("a", "$1"), keyed("b", "$2")] });
    let all = datums(&two, &[&texts(&names), &texts(&names)]);
    // Keys 1 to 4 have files of both, 0 and 5 to 9 of the second only.
    let mut sizes: Vec<usize> = all.iter().map(|d| d.inputs.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 4, 4, 4, 4, 4, 14, 14, 14, 14]);
}

#[test]
fn inputs_nest_freely() {
    let keyed = json!({ "pfs": { "repo": "g", "glob": "/(?)*", "group_by": "$1" } });
    let nested = json!({ "cross": [pfs("a", "/*"), { "union": [pfs("b", "/"), { "group": [keyed] }] }] });
    let all = datums(&nested, &[&["/1", "/2"], &["/"], &["/x1", "/x2", "/y1"]]);
    assert_eq!(all.len(), 2 * (1 + 2));
}

#[test]
fn keys_change_with_what_user_code_sees_and_with_nothing_else() {
    let base = datums(&pfs("a", "/*"), &[&["/1"]]).remove(0);
    let code = [1; 32];
    let changed = |change: &dyn Fn(&mut DatumInput)| {
        let mut datum = base.clone();
        change(&mut datum.inputs[0]);
        datum.key(&code) != base.key(&code)
    };
    assert_ne!(base.key(&[2; 32]), base.key(&code));
    assert!(changed(&|i| i.path = "/2".to_owned()));
    assert!(changed(&|i| i.name = "b".parse().unwrap()));
    assert!(changed(&|i| i.domain = domain(9)));
    assert!(changed(&|i| i.digest = [0; 32]));
    assert!(changed(&|i| i.kind = Kind::Directory));
    assert!(changed(&|i| i.empty_files = true));
    // User code has them in its environment.
    assert!(changed(&|i| i.group_by = Some("k".to_owned())));
    assert!(changed(&|i| i.join_on = Some("k".to_owned())));
    assert!(!changed(&|i| i.leaf = 7));
    let cross = |first: &str, second: &str| {
        let spec = json!({ "cross": [pfs(first, "/*"), pfs(second, "/*")] });
        let input = input(&spec);
        let number = |l: usize| domain(input.leaves()[l].repo.as_str().len() as u8);
        let list = listed(&input.leaves()[0].glob, &["/1"]);
        enumerate(
            &input,
            &[number(0), number(1)],
            &Lists::new(&input, vec![list.clone(), list.clone()]),
        )
        .unwrap()
        .remove(0)
        .key(&code)
    };
    assert_eq!(cross("a", "bb"), cross("bb", "a"));
}

#[test]
fn a_changed_file_touches_the_matches_that_hold_it() {
    let touched = |glob: &str, changed: &[&str]| -> Vec<String> {
        let list = changed_matches(&Glob::parse(glob).unwrap(), changed.iter().copied());
        list.into_iter()
            .map(|t| {
                if t.kind == Kind::Directory {
                    format!("{}>", t.path)
                } else {
                    t.path
                }
            })
            .collect()
    };
    let changed = ["/a", "/d/e/f", "/d/e/g", "/d/h"];
    assert_eq!(touched("/", &changed), ["/>"]);
    assert_eq!(touched("/*", &changed), ["/a", "/d>"]);
    assert_eq!(touched("/*/*", &changed), ["/d/e>", "/d/h"]);
    assert_eq!(
        touched("/**", &changed),
        ["/a", "/d>", "/d/e>", "/d/e/f", "/d/e/g", "/d/h"]
    );
    assert_eq!(touched("/x*", &changed), Vec::<String>::new());
}

/// Says what is asked of lists.
struct Asked<'a> {
    lists: Lists<'a>,
    asked: std::cell::RefCell<Vec<String>>,
}

impl Matches for Asked<'_> {
    type Error = TooMany;

    fn all(&self, leaf: usize) -> Result<Arc<[Match]>, TooMany> {
        self.asked.borrow_mut().push(format!("all of {leaf}"));
        self.lists.all(leaf)
    }

    fn keyed(&self, leaf: usize, by: By, values: &std::collections::BTreeSet<String>) -> Result<Vec<Match>, TooMany> {
        let told = values.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        self.asked.borrow_mut().push(format!("{told} of {leaf}"));
        self.lists.keyed(leaf, by, values)
    }

    fn at(&self, leaf: usize, path: &str, kind: Kind) -> Result<Option<Match>, TooMany> {
        self.asked.borrow_mut().push(format!("{path} of {leaf}"));
        self.lists.at(leaf, path, kind)
    }
}

#[test]
fn only_what_changes_is_asked_for_and_never_a_whole_list_that_stays() {
    let paths: Vec<String> = (10..99).map(|n| format!("/{n}")).collect();
    // What is asked for when `/50` comes in these leaves.
    let asked = |value: &Value, changed: &[usize]| -> Vec<String> {
        let input = input(value);
        let leaves = input.leaves();
        let domains: Vec<_> = leaves.iter().map(|l| domain(l.repo.as_str().as_bytes()[0])).collect();
        let lists = leaves.iter().map(|l| listed(&l.glob, &texts(&paths))).collect();
        let change = |leaf: &usize| LeafChange {
            removed: Vec::new(),
            added: listed(&leaves[*leaf].glob, &["/50"]).to_vec(),
        };
        let changes = changed.iter().map(|leaf| (*leaf, change(leaf))).collect();
        let source = Asked {
            lists: Lists::new(&input, lists),
            asked: Default::default(),
        };
        enumerate_changes(&input, &domains, &changes, &source).unwrap();
        let mut asked = source.asked.into_inner();
        asked.sort();
        asked.dedup();
        asked
    };
    let none: [&str; 0] = [];
    assert_eq!(asked(&pfs("a", "/*"), &[0]), none);
    assert_eq!(asked(&json!({ "union": [pfs("a", "/*"), pfs("b", "/*")] }), &[0]), none);
    let twice = json!({ "union": [pfs("a", "/*"), pfs("a", "/*0")] });
    assert_eq!(asked(&twice, &[0]), ["/50 of 0", "/50 of 1"]);
    let cross = json!({ "cross": [pfs("a", "/*"), pfs("b", "/*"), pfs("c", "/*")] });
    assert_eq!(asked(&cross, &[0]), ["all of 1", "all of 2"]);
    assert_eq!(asked(&cross, &[0, 1]), ["all of 0", "all of 1", "all of 2"]);
    assert_eq!(asked(&cross, &[]), none);
    let keyed = |repo: &str, join: &str, group: &str| json!({ "pfs": { "repo": repo, "glob": "/(?)(?)", "join_on": join, "group_by": group } });
    let join = json!({ "join": [keyed("a", "$1", "$2"), keyed("b", "$2", "$1")] });
    let group = json!({ "group": [join] });
    assert_eq!(
        asked(
            &json!({ "group": [{ "pfs": { "repo": "a", "glob": "/(?)(?)", "group_by": "$1" } }] }),
            &[0]
        ),
        ["5 of 0"]
    );
    // The new file joins `/?5` of the other side; the keys that these are in need the rest of theirs.
    let found = asked(&group, &[0]);
    assert!(found.iter().all(|a| !a.starts_with("all")), "{found:?}");
    let beside = json!({ "cross": [pfs("c", "/*"), { "group": [keyed("a", "$1", "$2")] }] });
    let found = beside.to_string().replace("\"join_on\":\"$1\",", "");
    assert_eq!(
        asked(&serde_json::from_str(&found).unwrap(), &[1]),
        ["0 of 1", "all of 0"]
    );
}

#[test]
fn joins_give_the_datums_of_the_documented_table() {
    let names = |from: u32| -> Vec<String> { (from..50).map(|n| format!("/foo{n:02}")).collect() };
    let side = |repo: &str, key: &str, outer: bool| json!({ "pfs": { "repo": repo, "glob": "/foo(?)(?)", "join_on": key, "outer_join": outer } });
    let join = |outer: [bool; 2]| json!({ "join": [side("a", "$1$2", outer[0]), side("b", "$2$1", outer[1])] });
    for (from, both, one, all) in [(10, 16, 40, 64), (0, 25, 50, 75)] {
        let names = names(from);
        let count = |outer: [bool; 2]| datums(&join(outer), &[&texts(&names), &texts(&names)]).len();
        assert_eq!(count([false, false]), both, "from {from}");
        assert_eq!((count([true, false]), count([false, true])), (one, one), "from {from}");
        assert_eq!(count([true, true]), all, "from {from}");
    }
    let found = datums(&join([true, false]), &[&["/foo12", "/foo13"], &["/foo21", "/foo44"]]);
    let labels: Vec<String> = found.iter().map(|d| d.labels().join(" ")).collect();
    assert_eq!(labels, ["a:/foo12 b:/foo21", "a:/foo13"]);
    assert_eq!(found[0].inputs[1].join_on.as_deref(), Some("12"));
    assert_eq!(datums(&join([false, false]), &[&["/foo12"], &[]]), []);
    assert_eq!(datums(&join([false, true]), &[&["/foo12"], &[]]), []);
    assert_eq!(datums(&join([true, true]), &[&["/foo12"], &[]]).len(), 1);
}

#[test]
fn a_join_of_three_keeps_the_product_of_the_outer_ones_that_are_there() {
    let side = |repo: &str, outer: bool| json!({ "pfs": { "repo": repo, "glob": "/(?)*", "join_on": "$1", "outer_join": outer } });
    let join = json!({ "join": [side("a", true), side("b", true), side("c", false)] });
    let all = datums(&join, &[&["/k1", "/k2", "/l1"], &["/k3", "/m1"], &["/l2", "/n1"]]);
    let labels: Vec<String> = all.iter().map(|d| d.labels().join(" ")).collect();
    assert_eq!(labels, ["a:/k1 b:/k3", "a:/k2 b:/k3", "a:/l1", "b:/m1"]);
}

#[test]
fn joins_nest_with_groups_unions_and_crosses() {
    let leaf = |repo: &str, extra: Value| {
        let mut pfs = json!({ "repo": repo, "glob": "/(?)(?)" });
        for (name, value) in extra.as_object().unwrap() {
            pfs[name] = value.clone();
        }
        json!({ "pfs": pfs })
    };
    let both = json!({ "join_on": "$1", "group_by": "$2" });
    let group = json!({ "group": [{ "join": [leaf("a", both.clone()), leaf("b", both)] }] });
    let all = datums(&group, &[&["/x1", "/y2"], &["/x1", "/y1", "/y2"]]);
    // Keys: {1} of x1·x1, {1, 2} of y2·y1, {2} of y2·y2.
    assert_eq!(all.len(), 3);
    let keyed = json!({ "join_on": "$1" });
    let union = json!({ "union": [leaf("b", keyed.clone()), leaf("c", keyed.clone())] });
    let all = datums(
        &json!({ "join": [leaf("a", keyed.clone()), union] }),
        &[&["/x1"], &["/x2", "/y2"], &["/x3"]],
    );
    let labels: Vec<String> = all.iter().map(|d| d.labels().join(" ")).collect();
    assert_eq!(labels, ["a:/x1 b:/x2", "a:/x1 c:/x3"]);
    let join = json!({ "join": [leaf("a", keyed.clone()), leaf("b", keyed)] });
    let cross = json!({ "cross": [pfs("z", "/*"), join] });
    assert_eq!(datums(&cross, &[&["/1", "/2"], &["/x1"], &["/x2", "/x3"]]).len(), 4);
    let grouped = json!({ "group_by": "$1" });
    let union = json!({ "union": [{ "group": [leaf("a", grouped)] }, pfs("b", "/*")] });
    assert_eq!(datums(&union, &[&["/x1", "/x2"], &["/1"]]).len(), 2);
}

#[test]
fn a_product_that_is_too_large_is_refused_before_it_is_made() {
    let names: Vec<String> = (0..2001).map(|n| format!("/a{n}")).collect();
    let cross = json!({ "cross": [pfs("a", "/*"), pfs("b", "/*")] });
    let refused = tried(&cross, &[&texts(&names), &texts(&names)]).unwrap_err();
    assert_eq!((refused.0.datums, refused.0.inputs), (2001 * 2001, 2 * 2001 * 2001));
    let text = refused.to_string();
    assert!(
        text.contains("4004001 datums") && text.contains("narrow a glob"),
        "{text}"
    );
    let side = |repo: &str, glob: &str| json!({ "pfs": { "repo": repo, "glob": glob, "join_on": "$1" } });
    // Of one key it is that cross; of keys of their own it is a list.
    let join = json!({ "join": [side("a", "/(?)*"), side("b", "/(?)*")] });
    assert_eq!(tried(&join, &[&texts(&names), &texts(&names)]).unwrap_err(), refused);
    let join = json!({ "join": [side("a", "/(*)"), side("b", "/(*)")] });
    assert_eq!(datums(&join, &[&texts(&names), &texts(&names)]).len(), 2001);
    assert_eq!(datums(&cross, &[&texts(&names), &[]]), []);
}

#[test]
fn colliding_outputs_name_both_datums_and_the_path() {
    let out =
        |list: &[(&'static str, &'static str)]| collision(list.iter().map(|(datum, path)| OutputPath { datum, path }));
    assert_eq!(out(&[("d1", "/a"), ("d2", "/b"), ("d2", "/c/d")]), None);
    let found = out(&[("d2", "/a"), ("d1", "/a")]).unwrap();
    assert_eq!(
        (found.path.as_str(), found.first.as_str(), found.second.as_str()),
        ("/a", "d1", "d2")
    );
    assert_eq!(out(&[("d1", "/a"), ("d2", "/a/b/c")]).unwrap().path, "/a");
    assert_eq!(out(&[("d1", "/a!"), ("d2", "/a/b")]), None);
}
