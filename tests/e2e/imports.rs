//! Files that are put by their address: typed as people type it, fetched by the service.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

use super::harness::Service;

/// A web server that answers every request with its path.
fn web() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it has an address");
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut lines = BufReader::new(&socket).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = first.split(' ').nth(1).unwrap_or_default();
            let length = path.len();
            let _ = write!(
                &socket,
                "HTTP/1.1 200 OK\r\nconnection: close\r\netag: \"v1\"\r\ncontent-length: {length}\r\n\r\n{path}"
            );
        }
    });
    address
}

#[test]
fn an_address_is_put_like_a_file_where_the_operator_allows_it() {
    let web = web();
    let service = Service::prepare();
    let wrong = service.operator_with(["up", "--detach"], &[("HOWDAH_IMPORT_ALLOW", "http://no")]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let allowed = [("HOWDAH_IMPORT_ALLOW", "*.example.org,127.0.0.1")];
    let up = service.operator_with(["up", "--detach", "--listen", &service.listen], &allowed);
    assert!(up.status.success(), "{up:?}");
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "images"]);
    let local = service.file("local", b"local");

    let url = |path: &str| format!("http://{web}{path}");
    let made = ada.json(&["put", "images@main:/in/", &url("/a.tif?key=secret"), &url("/b.tif")]);
    assert_eq!(made["files"], 2);
    assert_eq!(ada.run(&["cat", "images@main:/in/b.tif"]), "/b.tif");
    let shown = ada.run(&["commit", "show", "images@main"]);
    assert!(shown.contains("/a.tif?…") && !shown.contains("secret"), "{shown}");
    let lineage = ada.run(&["provenance", "images@main"]);
    assert!(
        lineage.contains(&format!("fetched from http://{web}/b.tif")),
        "{lineage}"
    );

    let zip = service.files.path().join("all.zip");
    ada.run(&[
        "get",
        "images@main:/in",
        "-r",
        "--format",
        "zip",
        "-o",
        &zip.to_string_lossy(),
    ]);
    let bytes = std::fs::read(&zip).expect("it is there");
    assert!(
        bytes.starts_with(b"PK\x03\x04") && bytes.len() > 200,
        "{} bytes",
        bytes.len()
    );
    ada.fails(2, &["get", "images@main:/in/a.tif", "--format", "zip"]);

    let mixed = ada.fails(2, &["put", "images@main", &local, &url("/c")]);
    assert!(mixed.contains("commit start"), "{mixed}");
    let inside = ada.fails(2, &["put", "images@main", "http://127.0.0.2/c"]);
    assert!(inside.contains("no public address"), "{inside}");
    ada.fails(2, &["put", "images@main", "s3://bucket/prefix/"]);
    ada.fails(2, &["put", "images@main", "ftp://example.org/c"]);
}
