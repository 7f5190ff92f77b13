//! Directories as zip archives, read by programs that others wrote.

use std::io::Write;
use std::process::Command;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use contract::problem::ProblemKind;

use crate::app::{App, archive, escape};
use crate::files::names_and_sizes;
use crate::room::noise;

/// Says of each member what it holds, and fails when a checksum or a size is wrong.
const READER: &str = r#"
import hashlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    for i in archive.infolist():
        digest = hashlib.sha256(archive.read(i)).hexdigest()
        print(i.filename, i.file_size, oct(i.external_attr >> 16), i.date_time[0], digest, sep="\t")
"#;

fn read(zip: &[u8]) -> Vec<Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(zip).unwrap();
    let output = Command::new("python3")
        .args(["-X", "utf8", "-c", READER])
        .arg(file.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    if let Ok(unzip) = Command::new("unzip").arg("-tqq").arg(file.path()).output() {
        assert!(unzip.status.success() || unzip.status.code() == Some(1), "{unzip:?}");
    }
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_archive_holds_what_the_directory_holds_and_any_program_reads_it() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let large = noise(1, 700_000);
    let mut files: Vec<(String, Vec<u8>)> = (0..1_100)
        .map(|n| (format!("d/many/{n:04}"), n.to_string().into_bytes()))
        .collect();
    files.push(("d/empty".to_owned(), Vec::new()));
    files.push(("d/large".to_owned(), large.clone()));
    files.push(("d/\u{fc}ber uns/\u{65e5}\u{672c}".to_owned(), b"far".to_vec()));
    files.push(("outside".to_owned(), b"outside".to_vec()));
    let given: Vec<(&str, &[u8])> = files.iter().map(|(p, c)| (p.as_str(), &c[..])).collect();
    app.put(&ada, "r", &given).await.ok();
    let mut program = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(3);
    head.set_mode(0o755);
    program.append_data(&mut head, "d/run", &b"run"[..]).unwrap();
    let body = Body::from(program.into_inner().unwrap());
    app.call(&ada, "POST", "/v1/files?repo=r", body).await.ok();

    let uri = format!("/v1/archive?ref={}&path=/d&format=zip", escape("r@main"));
    let reply = app.get(&ada, &uri).await;
    let members = read(&reply.ok().body);

    let names: Vec<&str> = members.iter().map(|m| m[0].as_str()).collect();
    let mut expected: Vec<&str> = files.iter().filter_map(|(path, _)| path.strip_prefix("d/")).collect();
    expected.push("run");
    expected.sort_unstable();
    assert_eq!(names, expected);
    for member in &members {
        let path = format!("d/{}", member[0]);
        let content = files.iter().find(|(p, _)| *p == path).map_or(&b"run"[..], |(_, c)| c);
        assert_eq!(member[1], content.len().to_string(), "{path}");
        assert_eq!(member[2], if member[0] == "run" { "0o100755" } else { "0o100644" });
        assert_eq!(member[3], "2026");
    }
    let digest = |name: &str| members.iter().find(|m| m[0] == name).unwrap()[4].clone();
    assert_eq!(
        digest("empty"),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert!(
        app.get(&ada, &uri).await.body == reply.body,
        "the same again is the same"
    );

    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/zip");
    assert!(
        reply.headers[header::CONTENT_DISPOSITION]
            .to_str()
            .unwrap()
            .ends_with("d.zip")
    );
    let etag = reply.headers[header::ETAG].clone();
    let known = Request::get(&uri)
        .header(header::AUTHORIZATION, format!("Bearer {}", ada.token))
        .header(header::IF_NONE_MATCH, &etag)
        .body(Body::empty())
        .unwrap();
    assert_eq!(app.send(known).await.status, StatusCode::NOT_MODIFIED);
    let tar = app.get(&ada, &uri.replace("zip", "tar")).await;
    assert_ne!(tar.ok().headers[header::ETAG], etag);
    let eve = app.member("eve").await;
    app.get(&eve, &uri).await.refused(ProblemKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_and_nothing_at_all_are_archives_too() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[]).await.ok();
    let uri = |path: &str| format!("/v1/archive?ref={}&path={path}&format=zip", escape("r@main"));
    assert_eq!(
        read(&app.get(&ada, &uri("/")).await.ok().body),
        Vec::<Vec<String>>::new()
    );

    app.call(&ada, "POST", "/v1/files?repo=r", archive(&[("d/f", b"1")]).into())
        .await
        .ok();
    let members = read(&app.get(&ada, &uri("/d/f")).await.ok().body);
    assert_eq!((members.len(), members[0][0].as_str()), (1, "f"));
    app.get(&ada, &uri("/absent")).await.refused(ProblemKind::NotFound);
    app.get(&ada, "/v1/archive?ref=r@main&format=rar")
        .await
        .refused(ProblemKind::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_on_behind_any_of_its_files() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let large = noise(1, 700_000);
    // Between `a` and `a/` lie names that begin with `a` and a smaller character.
    let names = ["d/a-b", "d/a.txt", "d/a/x", "d/a/y/z", "d/large", "d/ä", "d.txt", "e"];
    let files = names.map(|name| (name, if name == "d/large" { &large[..] } else { name.as_bytes() }));
    app.put(&ada, "r", &files).await.ok();
    let uri = |path: &str, after: &str| format!("/v1/archive?ref=r&path={}{after}", escape(path));

    for (path, beginning) in [("/", ""), ("/d", "d/")] {
        let whole = names_and_sizes(&app.get(&ada, &uri(path, "")).await.ok().body);
        assert_eq!(whole.len(), if path == "/" { 8 } else { 6 });
        for (n, (name, _)) in whole.iter().enumerate() {
            let after = format!("&after={}", escape(&format!("/{beginning}{name}")));
            let rest = names_and_sizes(&app.get(&ada, &uri(path, &after)).await.ok().body);
            assert_eq!(rest, whole[n + 1..], "{path} behind {name}");
        }
    }
    let all = names_and_sizes(&app.get(&ada, &uri("/d", "&after=/c")).await.ok().body);
    assert_eq!(all.len(), 6, "what comes before the directory is no beginning of it");
    assert_eq!(
        names_and_sizes(&app.get(&ada, &uri("/e", "&after=/e")).await.ok().body),
        []
    );

    let zip = uri("/d", "&after=/d/a.txt&format=zip");
    app.get(&ada, &zip).await.refused(ProblemKind::Invalid);
    app.get(&ada, &uri("/d", "&after=/d/../e"))
        .await
        .refused(ProblemKind::Invalid);
    let eve = app.member("eve").await;
    for after in ["&after=/d/a.txt", "&after=/d/../e"] {
        app.get(&eve, &uri("/d", after)).await.refused(ProblemKind::NotFound);
    }
}
