//! A server that answers each request as a test says, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use clusters::buckets::TenantBuckets;
use contract::cloud::BucketsConfig;
use provisioner::pass::Environment;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: String,
    pub body: String,
}

/// A clock that stands still until it is set on.
#[derive(Clone, Default)]
pub struct Clock(Arc<Mutex<DateTime<Utc>>>);

impl Clock {
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }
}

impl Environment for Clock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }

    fn random(&self) -> [u8; 30] {
        [7; 30]
    }
}

type Script = Arc<dyn Fn(&Asked) -> (u16, String) + Send + Sync>;

pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        chassis::process::install_tls_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Script, _) = (Arc::new(script), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { url, asked, task }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The object store of planes that get these credentials.
    pub async fn buckets(&self, credentials: Value, clock: &Clock) -> anyhow::Result<TenantBuckets> {
        let text = json!({ "endpoint": self.url, "region": "eu-1", "credentials": credentials });
        let config: BucketsConfig = serde_json::from_value(text)?;
        TenantBuckets::open(config, "i1".to_owned(), Arc::new(clock.clone())).await
    }
}

impl Drop for Server {
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
    let head = String::from_utf8(head).unwrap();
    let header = |wanted: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    socket.read_exact(&mut body).await.unwrap();
    let mut first = head.split(' ');
    let asked = Asked {
        method: first.next().unwrap().to_owned(),
        path: first.next().unwrap().to_owned(),
        authorization: header("authorization"),
        body: String::from_utf8(body).unwrap(),
    };
    let (status, answer) = script(&asked);
    seen.lock().unwrap().push(asked);
    let text = format!(
        "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.shutdown().await;
}
