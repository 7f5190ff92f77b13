//! One HTTP request as it goes over the wire: for what the command line would not ask, and for what is timed.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// An answer, read to its end; status 0: the connection was cut before there was one.
pub struct Wired {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Wired {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The body of an answer that must be a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}\n{}", self.head, self.body);
        self.json()
    }
}

/// Asks the service at `host:port` with a bearer, on a connection of its own.
pub fn ask(address: &str, method: &str, path: &str, bearer: &str, body: Option<&Value>) -> Wired {
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).expect("the service listens");
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it answers");
    if bytes.is_empty() {
        return Wired {
            status: 0,
            head: "the connection was cut before an answer".to_owned(),
            body: String::new(),
        };
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Wired {
        status: head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"),
        head: head.to_owned(),
        body: if chunked { joined(body) } else { body.to_owned() },
    }
}

/// The chunks of a body, put together.
fn joined(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        whole.push_str(&more[..length]);
        rest = &more[length + 2..];
    }
    whole
}
