//! A service that says what a test wants it to say: it exchanges every token, and answers one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

/// A request to the data plane.
pub struct Asked {
    /// Method, path and query.
    pub line: String,
    /// How many bytes of a body came.
    pub bytes: usize,
    /// Where the range begins that it asks for.
    pub from: usize,
}

impl Asked {
    pub fn is(&self, beginning: &str) -> bool {
        self.line.replace("/o/acme", "").starts_with(beginning)
    }

    /// The value of a query parameter.
    pub fn query(&self, name: &str) -> Option<String> {
        let at = self.line.split(' ').nth(1)?;
        let url = reqwest::Url::parse(&format!("http://plane{at}")).ok()?;
        url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
    }
}

/// Starts one; answers its address. What is said is all that is sent: a length that is longer is a connection that breaks.
pub fn start(say: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> String {
    start_hasty(|_| false, say)
}

/// More than connections hold on their way.
const HASTY_BYTES: u64 = 24 << 20;

/// The same, which answers such requests before it reads their bodies, and of these but so much.
pub fn start_hasty(
    is_hasty: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    say: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (here, is_hasty, say) = (url.clone(), Arc::new(is_hasty), Arc::new(say));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (here, is_hasty, say) = (here.clone(), is_hasty.clone(), say.clone());
            std::thread::spawn(move || {
                let Some((asked, whole)) = read(&stream, &*is_hasty) else {
                    return;
                };
                let said = match asked.line.contains("/v1/access-tokens") {
                    true => json(200, &token(&here)),
                    false => say(&asked),
                };
                let _ = stream.write_all(&said);
                if !whole {
                    // Closed with something unread in it, a connection is reset, and an answer that has not been seen is lost.
                    let _ = std::io::copy(&mut stream.take(HASTY_BYTES), &mut std::io::sink());
                }
            });
        }
    });
    url
}

fn token(here: &str) -> Value {
    let organization = json!({
        "id": "org_00000000000000000000000000000000", "name": "acme", "role": "owner",
        "created_at": "2026-01-01T00:00:00Z",
    });
    json!({
        "access_token": "x", "expires_in": 600, "plane_url": format!("{here}/o/acme"), "direct_url": null, "epoch": 1,
        "organization": organization,
    })
}

/// A request, and whether its body was read too.
fn read(stream: &TcpStream, is_hasty: &dyn Fn(&Asked) -> bool) -> Option<(Asked, bool)> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let from = lines.iter().find_map(|line| {
        let range = line.strip_prefix("range: bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    });
    let mut asked = Asked {
        line: lines.first()?.clone(),
        bytes: 0,
        from: from.unwrap_or(0),
    };
    if is_hasty(&asked) {
        return Some((asked, false));
    }
    let has = |text: &str| lines.iter().any(|line| line.eq_ignore_ascii_case(text));
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().ok())?
    });
    asked.bytes = length.unwrap_or(0);
    reader.read_exact(&mut vec![0; asked.bytes]).ok()?;
    while has("transfer-encoding: chunked") {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        reader.read_exact(&mut vec![0; size + 2]).ok()?;
        asked.bytes += size;
        if size == 0 {
            break;
        }
    }
    Some((asked, true))
}

/// An answer.
pub fn json(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A refusal.
pub fn problem(status: u16, slug: &str) -> Vec<u8> {
    let said = json!({
        "type": format!("https://howdah.dev/problems/{slug}"), "title": slug, "status": status, "detail": "for a test",
    });
    json(status, &said)
}

/// The commit that there is.
pub fn commit() -> Value {
    let actor = json!({
        "id": "acc_00000000000000000000000000000000", "name": "ada", "token": "tok_00000000000000000000000000000000",
    });
    json!({
        "repo": "images", "project": "default", "branch": "main", "id": "0190b6a2000070008000000000000001",
        "commit_set": "0190b6a2000070008000000000000002", "state": "finished", "parent": null, "digest": null,
        "size_bytes": 0, "files": 0, "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z",
        "message": "", "actor": actor, "provenance": [], "pipeline": null,
        "pipeline_version": null, "image_digest": null, "code_revision": null,
    })
}

/// `howdah`, as somebody who uses that service.
pub fn howdah(url: &str, home: &Path, files: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
    command
        .args(args)
        .env_clear()
        .env("HOWDAH_HOME", home)
        .env("HOWDAH_CONFIG_HOME", home)
        .env("HOWDAH_URL", url)
        .env("HOWDAH_ORG", "acme")
        .env("HOWDAH_TOKEN", "hwd_pat_of_somebody")
        .current_dir(files);
    command
}
