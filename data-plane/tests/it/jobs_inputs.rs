//! Crosses, unions and groups through whole jobs: what a change of one factor runs again.

use serde_json::{Value, json};

use crate::jobs_rig::{Rig, succeeded};

fn spec(name: &str, input: &Value, script: &str) -> Value {
    json!({
        "pipeline": { "name": name },
        "transform": { "cmd": ["/bin/sh", "-c", script] },
        "input": input,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cross_runs_again_only_what_a_change_touches() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "images").await;
    rig.repo(&ada, "code").await;
    rig.put(&ada, "images", &[("a", "1"), ("b", "2"), ("c", "3")]).await;
    rig.put(&ada, "code", &[("run", "#!/bin/sh\ncat $1\n")]).await;
    let input = json!({ "cross": [
        { "pfs": { "repo": "images", "glob": "/*" } },
        { "pfs": { "repo": "code", "glob": "/" } },
    ] });
    let script = "f=$(ls /pfs/images); /pfs/code/run /pfs/images/$f > /pfs/out/$f";
    let applied = rig.apply(&ada, vec![spec("detect", &input, script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "detect").await, 3, 3, 0);

    let image = rig.put(&ada, "images", &[("d", "4")]).await;
    succeeded(&rig.job(&ada, image.commit_set, "detect").await, 4, 1, 3);

    let code = rig.put(&ada, "code", &[("run", "#!/bin/sh\necho new; cat $1\n")]).await;
    succeeded(&rig.job(&ada, code.commit_set, "detect").await, 4, 4, 0);
    assert_eq!(rig.cat(&ada, "detect@main", "/d").await, "new\n4");

    let back = rig.put(&ada, "code", &[("run", "#!/bin/sh\ncat $1\n")]).await;
    succeeded(&rig.job(&ada, back.commit_set, "detect").await, 4, 0, 4);
    assert_eq!(rig.cat(&ada, "detect@main", "/d").await, "4");
    assert_eq!(rig.ls(&ada, "detect@main").await, ["/a", "/b", "/c", "/d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_runs_the_keys_that_changed() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("x1", "1"), ("x2", "2"), ("y1", "3")]).await;
    let input = json!({ "group": [{ "pfs": { "repo": "in", "glob": "/(?)?", "group_by": "$1" } }] });
    let script = "cat /pfs/in/* > /pfs/out/$HOWDAH_GROUP_BY_in";
    let applied = rig.apply(&ada, vec![spec("sum", &input, script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "sum").await, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "sum@main", "/x").await, "12");

    let more = rig.put(&ada, "in", &[("y2", "4"), ("z1", "5")]).await;
    succeeded(&rig.job(&ada, more.commit_set, "sum").await, 3, 2, 1);
    assert_eq!(rig.cat(&ada, "sum@main", "/y").await, "34");
    let less = rig.remove(&ada, "in", "/z1").await;
    succeeded(&rig.job(&ada, less.commit_set, "sum").await, 2, 0, 2);
    assert_eq!(rig.ls(&ada, "sum@main").await, ["/x", "/y"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_of_the_same_files_under_another_key_run_again_because_code_sees_the_key() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a-1", "x"), ("b-2", "y")]).await;
    let input = |by: &str| json!({ "group": [{ "pfs": { "repo": "in", "glob": "/(*)-(*)", "group_by": by } }] });
    let script = "cat /pfs/in/* > /pfs/out/$HOWDAH_GROUP_BY_in";
    for (by, ran, names) in [
        ("$1", 2, ["/a", "/b"]),
        ("$2", 2, ["/1", "/2"]),
        ("$1", 0, ["/a", "/b"]),
    ] {
        let applied = rig.apply(&ada, vec![spec("sum", &input(by), script)]).await;
        let job = rig.job(&ada, applied[0].commit_set.unwrap(), "sum").await;
        succeeded(&job, 2, ran, 2 - ran);
        assert_eq!(rig.ls(&ada, "sum@main").await, names);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_runs_the_keys_that_changed_and_tells_code_its_key() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "images").await;
    rig.repo(&ada, "labels").await;
    let images = [("a-1.tif", "1"), ("a-2.tif", "2"), ("b-1.tif", "3"), ("c-1.tif", "4")];
    rig.put(&ada, "images", &images).await;
    rig.put(&ada, "labels", &[("a.txt", "A"), ("b.txt", "B"), ("d.txt", "D")])
        .await;
    let input = json!({ "join": [
        { "pfs": { "repo": "images", "glob": "/(*)-*.tif", "join_on": "$1", "outer_join": true } },
        { "pfs": { "repo": "labels", "glob": "/(*).txt", "join_on": "$1" } },
    ] });
    let script = "test \"$HOWDAH_JOIN_ON_images\" = \"$PACH_DATUM_images_JOIN_ON\" || exit 1
        cat /pfs/images/* $(ls /pfs/labels/* 2>/dev/null) > /pfs/out/$HOWDAH_JOIN_ON_images$(basename $images .tif)";
    let applied = rig.apply(&ada, vec![spec("pair", &input, script)]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "pair").await;
    succeeded(&job, 4, 4, 0);
    assert_eq!(rig.ls(&ada, "pair@main").await, ["/aa-1", "/aa-2", "/bb-1", "/cc-1"]);
    assert_eq!(rig.cat(&ada, "pair@main", "/aa-2").await, "2A");
    assert_eq!(rig.cat(&ada, "pair@main", "/cc-1").await, "4");

    // A label comes: the image that was alone is not any more. One goes: its image is alone now.
    let more = rig.put(&ada, "labels", &[("c.txt", "C")]).await;
    succeeded(&rig.job(&ada, more.commit_set, "pair").await, 4, 1, 3);
    assert_eq!(rig.cat(&ada, "pair@main", "/cc-1").await, "4C");
    let less = rig.remove(&ada, "labels", "/b.txt").await;
    succeeded(&rig.job(&ada, less.commit_set, "pair").await, 4, 1, 3);
    assert_eq!(rig.cat(&ada, "pair@main", "/bb-1").await, "3");
    let image = rig.put(&ada, "images", &[("a-3.tif", "5")]).await;
    succeeded(&rig.job(&ada, image.commit_set, "pair").await, 5, 1, 4);
    let gone = rig.remove(&ada, "images", "/a-1.tif").await;
    succeeded(&rig.job(&ada, gone.commit_set, "pair").await, 4, 0, 4);
    let names = ["/aa-2", "/aa-3", "/bb-1", "/cc-1"];
    assert_eq!(rig.ls(&ada, "pair@main").await, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_datums_and_a_rename_inside_is_a_change() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("d/a", "1"), ("d/b", "2"), ("e/a", "3"), ("top", "4")])
        .await;
    let input = json!({ "union": [
        { "pfs": { "repo": "in", "name": "l", "glob": "/*" } },
        { "pfs": { "repo": "in", "name": "r", "glob": "/e" } },
    ] });
    let script = "cd /pfs; for i in l r; do [ -d $i ] && find $i -type f | sort > /pfs/out/$i-$(ls $i); done; true";
    let applied = rig.apply(&ada, vec![spec("dirs", &input, script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "dirs").await, 4, 4, 0);
    assert_eq!(rig.ls(&ada, "dirs@main").await, ["/l-d", "/l-e", "/l-top", "/r-e"]);

    rig.put(&ada, "in", &[("d/c", "2")]).await;
    let renamed = rig.remove(&ada, "in", "/d/b").await;
    succeeded(&rig.job(&ada, renamed.commit_set, "dirs").await, 4, 1, 3);
    assert_eq!(rig.cat(&ada, "dirs@main", "/l-d").await, "l/d/a\nl/d/c\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_outputs_and_inputs_pass_unchanged() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let large: String = (0..400_000).map(|n| format!("{n:07}\n")).collect();
    rig.put(&ada, "in", &[("large", &large), ("small", "s")]).await;
    let input = json!({ "pfs": { "repo": "in", "glob": "/*" } });
    let script = "f=$(ls /pfs/in); mkdir -p /pfs/out/$f/copies; cat /pfs/in/$f /pfs/in/$f > /pfs/out/$f/copies/twice";
    let applied = rig.apply(&ada, vec![spec("twice", &input, script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "twice").await, 2, 2, 0);
    let found = rig.cat(&ada, "twice@main", "/large/copies/twice").await;
    assert_eq!(found.len(), 2 * large.len());
    assert!(found[..large.len()] == large && found[large.len()..] == large);
}
