//! A second S3 server, written by others in another language: moto, in a process of its own. What both servers and the client
//! agree on is more likely to be what S3 does than what one of them does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use object_store::ObjectStore;

use crate::s3;

/// Serves until its input ends, so it ends with this process whatever becomes of that.
const SERVE: &str = r#"
import logging, sys, urllib.request
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
address = f"http://{host}:{port}"
urllib.request.urlopen(urllib.request.Request(f"{address}/{sys.argv[1]}", method="PUT")).read()
print(address, flush=True)
sys.stdin.read()
"#;

/// A running server with one empty bucket; gone when dropped.
pub struct Server {
    process: Child,
    endpoint: String,
}

impl Server {
    /// Starts one; installs it if this machine has none yet.
    pub fn start() -> Self {
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/setup");
        let installed = Command::new(&setup).arg("s3").output().unwrap();
        assert!(
            installed.status.success(),
            "the S3 server to test against is not there: {}",
            String::from_utf8_lossy(&installed.stderr)
        );
        let packages = String::from_utf8(installed.stdout).unwrap();
        let mut process = Command::new("python3")
            .args(["-c", SERVE, s3::BUCKET])
            .env("PYTHONPATH", packages.trim())
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut endpoint = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut endpoint).unwrap();
        let endpoint = endpoint.trim().to_owned();
        assert!(endpoint.starts_with("http://"), "moto did not start; it says why above");
        Self { process, endpoint }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A client of the bucket.
    pub fn client(&self) -> Arc<dyn ObjectStore> {
        s3::client(&self.endpoint)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
