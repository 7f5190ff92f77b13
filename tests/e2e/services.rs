//! Services through the gateway, as a browser and as a program reach them, WebSockets included.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Person, Service, eventually};

/// A page with what the service reads, and a WebSocket that says it again.
const SERVER: &str = r#"
import base64, hashlib, http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            self.close_connection = True
            while head := self.rfile.read(2):
                mask = self.rfile.read(4)
                text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
                self.wfile.write(bytes([0x81, len(text)]) + text)
            return
        body = (open("/pfs/data/a.txt").read() + self.path + " " + str(self.headers.get("Cookie"))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"#;

/// An answer as it came.
struct Answer {
    status: u16,
    head: String,
    body: String,
    connection: TcpStream,
}

/// One request as a browser would send it: the host's name is in a header, whatever the machine's resolver knows.
fn ask(host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let port = host.rsplit(':').next().expect("a port");
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).expect("the address of services answers");
    connection
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a limit");
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    connection.write_all(request.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let length = header(&head, "content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body).expect("a body");
    Answer {
        status: head[9..12].parse().expect("a status"),
        body: String::from_utf8(body).expect("text"),
        head,
        connection,
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
}

/// Says something through a WebSocket, in one masked frame, and reads it again.
fn says_again(connection: &mut TcpStream, text: &str) -> std::io::Result<String> {
    let length = u8::try_from(text.len()).expect("short");
    let mut frame = vec![0x81, 0x80 | length, 1, 2, 3, 4];
    frame.extend(text.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(b, m)| b ^ m));
    connection.write_all(&frame)?;
    let mut answer = vec![0; 2 + text.len()];
    connection.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[2..]).into_owned())
}

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn host_of(url: &str) -> String {
    url.trim_start_matches("http://")
        .split('/')
        .next()
        .expect("a host")
        .to_owned()
}

fn cookie_of(person: &Person<'_>) -> (String, String) {
    let opened = person.json(&["open", "page"]);
    let url = opened["url"].as_str().expect("a link").to_owned();
    let host = host_of(&url);
    let path = url.split_once(&host).expect("its host").1.to_owned();
    let entered = ask(&host, &path, &[]);
    assert_eq!(entered.status, 303, "{}", entered.head);
    assert_eq!(header(&entered.head, "location").as_deref(), Some("/"));
    let cookie = header(&entered.head, "set-cookie").expect("a cookie");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && !cookie.contains("Domain"),
        "{cookie}"
    );
    // The link is good once.
    assert_eq!(ask(&host, &path, &[]).status, 401);
    (host, cookie.split(';').next().expect("its value").to_owned())
}

fn prepare(service: &Service) -> Person<'_> {
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "data"]);
    let file = service.file("a.txt", b"first ");
    ada.run(&["put", "data@main", &file]);
    let spec = json!({
        "pipeline": {"name": "page"},
        "transform": {"cmd": ["/usr/bin/python3", "-c", SERVER]},
        "input": {"pfs": {"repo": "data", "glob": "/*"}},
        "service": {"internal_port": 8000},
    });
    let spec = service.file("page.json", spec.to_string().as_bytes());
    ada.run(&["pipeline", "apply", "-f", &spec]);
    // Nobody waits here: a link asked for at once is answered when the service is being started.
    ada
}

#[test]
fn a_service_is_reached_by_browsers_and_programs_under_the_access_rule() {
    let service = Service::start();
    let ada = prepare(&service);
    let (host, cookie) = cookie_of(&ada);
    let shown = service.operator(["status", "--json"]);
    let status: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let port = host.rsplit(':').next().expect("a port");
    let services = status["service"]["services_url"].as_str().expect("an address");
    assert_eq!(services, format!("http://*.localhost:{port}"));

    let cookies = format!("{cookie}; own=1");
    let page = ask(&host, "/a/b?c=d", &[("Cookie", &cookies)]);
    assert_eq!(
        (page.status, page.body.as_str()),
        (200, "first /a/b?c=d own=1"),
        "{}",
        page.head
    );
    // Not without the cookie, not at another service's host, and not for a page of another origin.
    assert_eq!(ask(&host, "/", &[]).status, 401);
    let other = format!("s-000000000000000000000000.localhost:{port}");
    assert_eq!(ask(&other, "/", &[("Cookie", &cookies)]).status, 401);
    let origin = format!("http://{other}");
    assert_eq!(
        ask(&host, "/", &[("Cookie", &cookies), ("Origin", &origin)]).status,
        403
    );
    let token = ada.json(&["token", "create", "--name", "t"])["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    let bearer = format!("Bearer {token}");

    let mut headers = vec![("Cookie", cookies.as_str())];
    headers.extend(UPGRADE);
    let mut socket = ask(&host, "/ws", &headers);
    assert_eq!(socket.status, 101, "{}", socket.head);
    assert_eq!(
        header(&socket.head, "sec-websocket-accept").as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(says_again(&mut socket.connection, "hello").expect("an answer"), "hello");

    let api = format!("localhost:{port}");
    let page = ask(&api, "/acme/default/page/x", &[("Authorization", &bearer)]);
    assert_eq!(
        (page.status, page.body.as_str()),
        (200, "first /x None"),
        "{}",
        page.head
    );
    assert_eq!(ask(&api, "/acme/default/page/", &[("Cookie", &cookies)]).status, 401);

    strangers_see_nothing(&service, &ada, &api);

    // The end of what the link was made with ends everything that came of it.
    ada.run(&["logout"]);
    assert_eq!(ask(&host, "/", &[("Cookie", &cookies)]).status, 401);
    eventually("the connection to be cut", || {
        says_again(&mut socket.connection, "still there").is_err()
    });
}

fn strangers_see_nothing(service: &Service, ada: &Person<'_>, api: &str) {
    let eve = service.person("eve", None);
    eve.joins(ada, "acme");
    let token = eve.json(&["token", "create", "--name", "t"])["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    let bearer = format!("Bearer {token}");
    let refused = ask(api, "/acme/default/page/", &[("Authorization", &bearer)]);
    let absent = ask(api, "/acme/default/absent/", &[("Authorization", &bearer)]);
    assert_eq!((refused.status, absent.status), (404, 404), "{}", refused.body);
    eve.fails(3, &["open", "page"]);
    eve.fails(3, &["open", "absent"]);
}

#[test]
fn a_service_is_replaced_at_a_new_commit_and_wakes_with_its_plane() {
    let service = Service::start();
    let ada = prepare(&service);
    let (host, cookie) = cookie_of(&ada);
    let body = || ask(&host, "/", &[("Cookie", &cookie)]).body;
    eventually("the first commit's content", || body().starts_with("first"));
    let file = service.file("a.txt", b"second ");
    ada.run(&["put", "data@main", &file]);
    eventually("the second commit's content", || body().starts_with("second"));
    assert!(service.down().status.success());
    service.up();
    let (host, cookie) = cookie_of(&ada);
    let body = || ask(&host, "/", &[("Cookie", &cookie)]).body;
    eventually("the service to be back", || body().starts_with("second"));
    let shown = ada.json(&["pipeline", "show", "page"]);
    assert_eq!(shown["service"]["state"], "answering");
    ada.run(&["pipeline", "stop", "page"]);
    assert!(ada.fails(6, &["open", "page"]).contains("howdah pipeline start"));
}
