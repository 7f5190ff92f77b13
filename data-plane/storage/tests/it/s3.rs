//! An S3 server in this process: s3s over a directory, spoken to over HTTP as any S3 would be.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

pub const BUCKET: &str = "packs";
pub const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret";

/// A running server; gone when dropped.
pub struct Server {
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts a server with one empty bucket.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let service = service(directory.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self {
            address,
            task,
            _directory: directory,
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of the bucket.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        client(&self.endpoint())
    }
}

/// S3 over a directory, with one empty bucket.
pub fn service(directory: &std::path::Path) -> S3Service {
    std::fs::create_dir(directory.join(BUCKET)).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    builder.build()
}

/// A client of the bucket at a server.
pub fn client(endpoint: &str) -> Arc<dyn ObjectStore> {
    amazon(endpoint)
}

/// The same, which can sign requests too.
pub fn amazon(endpoint: &str) -> Arc<AmazonS3> {
    // The HTTP client wants one, even where nothing is encrypted; a second installation is refused, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(KEY)
        .with_secret_access_key(SECRET)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(1),
                max_backoff: Duration::from_millis(20),
                base: 2.0,
            },
            ..RetryConfig::default()
        })
        .build()
        .unwrap();
    Arc::new(client)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
