//! A web server that does what a test wants: each request is answered by a script of bytes, breaks and silence.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HashMap<String, String>,
    /// How many requests for this path came before.
    pub before: usize,
}

impl Asked {
    /// The first byte that is wanted.
    pub fn from(&self) -> Option<usize> {
        let range = self.headers.get("range")?;
        range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// How it is answered: these bytes, then the connection is closed, or nothing more comes.
pub struct Reply {
    pub bytes: Vec<u8>,
    pub hangs: bool,
}

impl Reply {
    /// A head with these lines, and a body.
    pub fn new(status: &str, headers: &[(&str, String)], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, hangs: false }
    }

    /// A file, or what was asked for of it, of which only so many bytes are sent.
    pub fn file(asked: &Asked, content: &[u8], etag: &str, sent: usize) -> Self {
        let tag = ("etag", format!("\"{etag}\""));
        let date = ("last-modified", "Tue, 01 Sep 2026 12:00:00 GMT".to_owned());
        let wanted = asked
            .from()
            .filter(|_| asked.headers.get("if-range").is_none_or(|given| *given == tag.1));
        match wanted {
            None => {
                let length = ("content-length", content.len().to_string());
                Self::new("200 OK", &[tag, date, length], &content[..sent.min(content.len())])
            }
            Some(from) => {
                let rest = &content[from..];
                let length = ("content-length", rest.len().to_string());
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                Self::new(
                    "206 Partial Content",
                    &[tag, date, length, ("content-range", range)],
                    &rest[..sent.min(rest.len())],
                )
            }
        }
    }

    pub fn redirect(to: &str) -> Self {
        let none = ("content-length", "0".to_owned());
        Self::new("302 Found", &[("location", to.to_owned()), none], b"")
    }

    pub fn silence() -> Self {
        Self {
            bytes: Vec::new(),
            hangs: true,
        }
    }

    pub fn hangs(self) -> Self {
        Self { hangs: true, ..self }
    }
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A running server; gone when dropped.
pub struct Web {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Web {
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Script, _) = (Arc::new(script), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { address, asked, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// By a name instead of an address.
    pub fn named(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.address.port())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, script: Script, seen: Arc<Mutex<Vec<Asked>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = socket.read_u8().await else { return };
        head.push(byte);
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let asked = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|a| a.path == path).count();
        let asked = Asked { path, headers, before };
        seen.push(asked.clone());
        asked
    };
    let reply = script(&asked);
    let _ = socket.write_all(&reply.bytes).await;
    let _ = socket.flush().await;
    if reply.hangs {
        // Until the other side gives up.
        let _ = socket.read_u8().await;
    }
    let _ = socket.shutdown().await;
}
