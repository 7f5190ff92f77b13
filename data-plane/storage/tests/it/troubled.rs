//! An S3 server that throttles, breaks connections and loses answers, as a real one does on a bad day.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::ObjectStore;
use s3s::service::S3Service;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::s3;
use crate::samples::Chance;

/// A running server; gone when dropped.
pub struct Server {
    endpoint: String,
    trouble: Arc<Trouble>,
    _task: AbortOnDropHandle<()>,
    _directory: tempfile::TempDir,
}

/// What a server does to its clients.
struct Trouble {
    chance: Mutex<Option<Chance>>,
    struck: AtomicUsize,
}

impl Trouble {
    /// Whether something happens to a request and, if so, whether it is served before that and what the client sees.
    fn strike(&self) -> Option<(bool, Seen)> {
        let mut chance = self.chance.lock().unwrap();
        let struck = match chance.as_mut()?.below(16) {
            0 | 1 => (false, Seen::Throttled),
            2 => (true, Seen::Throttled),
            3 => (false, Seen::Nothing),
            4 | 5 => (true, Seen::Nothing),
            _ => return None,
        };
        self.struck.fetch_add(1, Ordering::SeqCst);
        Some(struck)
    }
}

enum Seen {
    /// `503 SlowDown`, with the time to wait.
    Throttled,
    /// The end of the connection.
    Nothing,
}

impl Server {
    /// Starts a server with one empty bucket.
    pub async fn start(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let service = s3::service(directory.path());
        let trouble = Arc::new(Trouble {
            chance: Mutex::new(Some(Chance::new(seed))),
            struck: AtomicUsize::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let struck = Arc::clone(&trouble);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, trouble) = (service.clone(), Arc::clone(&struck));
                let serve = service_fn(move |request| answer(service.clone(), Arc::clone(&trouble), request));
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), serve)
                        .await;
                });
            }
        });
        Self {
            endpoint,
            trouble,
            _task: AbortOnDropHandle::new(task),
            _directory: directory,
        }
    }

    /// A client of the bucket.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        s3::client(&self.endpoint)
    }

    /// From now on all is well.
    pub fn calm(&self) {
        *self.trouble.chance.lock().unwrap() = None;
    }

    /// What it has done to its clients so far.
    pub fn troubles(&self) -> usize {
        self.trouble.struck.load(Ordering::SeqCst)
    }
}

async fn answer(
    service: S3Service,
    trouble: Arc<Trouble>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<s3s::Body>, std::io::Error> {
    let strike = trouble.strike();
    if !matches!(strike, Some((false, _))) {
        let answer = hyper::service::Service::call(&service, request).await;
        if strike.is_none() {
            return answer.map_err(|error| std::io::Error::other(format!("{error:?}")));
        }
    }
    match strike {
        Some((_, Seen::Throttled)) => {
            let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
            Ok(hyper::Response::builder()
                .status(503)
                .header("retry-after", "1")
                .body(s3s::Body::from(body.to_owned()))
                .unwrap())
        }
        _ => Err(std::io::Error::other("the connection breaks")),
    }
}
