//! Tables of inputs and the datums that they yield.

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
    let input = input(value);
    let leaves = input.leaves();
    let lists: Vec<Arc<[Match]>> = leaves
        .iter()
        .zip(files)
        .map(|(leaf, paths)| listed(&leaf.glob, paths))
        .collect();
    let domains: Vec<DomainId> = (0..leaves.len()).map(|n| domain(n as u8)).collect();
    enumerate(&input, &domains, &|leaf| lists[leaf].clone())
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
    let all = enumerate(&same, &[domain(1), domain(1)], &|leaf| lists[leaf].clone());
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
    assert!(!changed(&|i| i.leaf = 7));
    assert!(!changed(&|i| i.group_by = Some("k".to_owned())));
    let cross = |first: &str, second: &str| {
        let spec = json!({ "cross": [pfs(first, "/*"), pfs(second, "/*")] });
        let input = input(&spec);
        let number = |l: usize| domain(input.leaves()[l].repo.as_str().len() as u8);
        let list = listed(&input.leaves()[0].glob, &["/1"]);
        enumerate(&input, &[number(0), number(1)], &|_| list.clone())
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

#[test]
fn only_what_may_be_needed_is_asked_for() {
    let needed = |value: &Value, changed: &[usize]| -> Vec<usize> {
        let input = input(value);
        let domains: Vec<_> = (0..input.leaves().len()).map(|n| domain(n as u8)).collect();
        leaves_needed(&input, &domains, &|n| changed.contains(&n))
            .into_iter()
            .collect()
    };
    assert_eq!(needed(&pfs("a", "/*"), &[0]), [0usize; 0]);
    let union = json!({ "union": [pfs("a", "/*"), pfs("b", "/*")] });
    assert_eq!(needed(&union, &[0]), [0usize; 0]);
    let cross = json!({ "cross": [pfs("a", "/*"), pfs("b", "/*"), pfs("c", "/*")] });
    assert_eq!(needed(&cross, &[0]), [1, 2]);
    assert_eq!(needed(&cross, &[0, 1]), [0, 1, 2]);
    assert_eq!(needed(&cross, &[]), [0usize; 0]);
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
