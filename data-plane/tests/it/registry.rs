//! A registry of container images on this machine, which wants a token as Docker Hub does, and of who asks for what is private that he signs in. Images are made of programs of
//! this machine.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use data_plane::images::Digest;
use serde_json::{Value, json};

const TOKEN: &str = "of-this-registry";
/// For repositories below `private/`, which take who signs in.
const PRIVATE: &str = "of-its-private-part";
const PROGRAMS: [&str; 8] = ["sh", "cat", "id", "ls", "rm", "basename", "mkdir", "sleep"];

#[derive(Default)]
struct Content {
    /// By path below `/v2/`: kind and bytes.
    things: HashMap<String, (String, Vec<u8>)>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Content>>;

pub struct Registry {
    /// `127.0.0.1:5000`
    pub host: String,
    content: Shared,
    server: tokio::task::JoinHandle<()>,
}

impl Registry {
    pub async fn start() -> Self {
        let content = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let app = Router::new()
            .fallback(answer)
            .with_state((host.clone(), Arc::clone(&content)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, content, server }
    }

    /// Nobody answers any more.
    pub fn stop(&self) {
        self.server.abort();
    }

    /// So often was something asked for whose path holds this.
    pub fn asked(&self, part: &str) -> usize {
        self.content
            .lock()
            .unwrap()
            .asked
            .iter()
            .filter(|path| path.contains(part))
            .count()
    }

    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn keep(&self, path: String, kind: &str, bytes: &[u8]) {
        let mut content = self.content.lock().unwrap();
        content.things.insert(path, (kind.to_owned(), bytes.to_vec()));
    }

    /// Puts an image that says `version` in `/data/version`, and is run as `config` says. Answers its digest.
    pub fn push(&self, repository: &str, tag: &str, version: &str, config: &Value) -> Digest {
        let programs = layer(&programs());
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&programs).unwrap();
        let packed = packed.finish().unwrap();
        let data = layer(&[("data/version".to_owned(), 0o644, version.as_bytes().to_vec())]);
        let whole = json!({
            "os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "config": config,
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&programs).as_str(), Digest::of(&data).as_str()] },
        });
        let blob = |kind: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            self.keep(
                format!("{repository}/blobs/{digest}"),
                "application/octet-stream",
                bytes,
            );
            json!({ "mediaType": kind, "digest": digest.as_str(), "size": bytes.len() })
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", whole.to_string().as_bytes()),
            "layers": [
                blob("application/vnd.oci.image.layer.v1.tar+gzip", &packed),
                blob("application/vnd.oci.image.layer.v1.tar", &data),
            ],
        })
        .to_string();
        let digest = Digest::of(manifest.as_bytes());
        for name in [tag, digest.as_str()] {
            let path = format!("{repository}/manifests/{name}");
            self.keep(path, "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        }
        digest
    }

    /// Puts an image like that one, whose manifest says that its layers are so long. Answers its digest.
    pub fn claim(&self, repository: &str, like: &Digest, sizes: [u64; 2]) -> Digest {
        let path = format!("{repository}/manifests/{like}");
        let (kind, bytes) = self.content.lock().unwrap().things[&path].clone();
        let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
        for (layer, size) in manifest["layers"].as_array_mut().unwrap().iter_mut().zip(sizes) {
            layer["size"] = json!(size);
        }
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        self.keep(format!("{repository}/manifests/{digest}"), &kind, &bytes);
        digest
    }

    /// Takes over what another registry tells of an image, without its layers, as somebody could who once saw it there.
    pub fn impersonate(&self, other: &Self, from: &str, to: &str) {
        let things = other.content.lock().unwrap().things.clone();
        let copied = things.into_iter().filter_map(|(path, thing)| {
            let rest = path.strip_prefix(from)?;
            let small = rest.starts_with("/manifests/") || thing.1.first() == Some(&b'{');
            small.then(|| (format!("{to}{rest}"), thing))
        });
        self.content.lock().unwrap().things.extend(copied);
    }

    /// Changes a byte of every layer.
    pub fn damage(&self) {
        let mut content = self.content.lock().unwrap();
        for (path, (_, bytes)) in &mut content.things {
            if path.contains("/blobs/") && bytes.first() != Some(&b'{') {
                let last = bytes.len() / 2;
                bytes[last] ^= 1;
            }
        }
    }
}

async fn answer(State((host, content)): State<(String, Shared)>, uri: Uri, headers: HeaderMap) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    if uri.path() == "/token" {
        let private = uri.query().is_some_and(|query| query.contains("private%2F"));
        return match given {
            // ada:hunter2-registry
            Some("Basic YWRhOmh1bnRlcjItcmVnaXN0cnk=") if private => {
                axum::Json(json!({ "token": PRIVATE })).into_response()
            }
            None if !private => axum::Json(json!({ "token": TOKEN })).into_response(),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        };
    }
    let token = if uri.path().starts_with("/v2/private/") {
        PRIVATE
    } else {
        TOKEN
    };
    let mut content = content.lock().unwrap();
    content.asked.push(uri.path().to_owned());
    if given != Some(&format!("Bearer {token}")) {
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"any\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    match content.things.get(uri.path().trim_start_matches("/v2/")) {
        Some((kind, bytes)) => ([(header::CONTENT_TYPE, kind.clone())], bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Path, permissions and content.
type File = (String, u32, Vec<u8>);

fn layer(files: &[File]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        builder.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Programs of this machine with the libraries that they are linked to.
fn programs() -> Vec<File> {
    let mut paths = BTreeSet::new();
    for program in PROGRAMS {
        let found = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
        let source = found.iter().find(|path| path.exists()).unwrap();
        let linked = Command::new("ldd").arg(source).output().unwrap();
        let said = String::from_utf8_lossy(&linked.stdout).into_owned();
        paths.extend(
            said.split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
        paths.insert(format!("/bin/{program}"));
    }
    let mut files: Vec<File> = paths
        .into_iter()
        .map(|path| {
            let content = std::fs::read(&path)
                .or_else(|_| std::fs::read(format!("/usr{path}")))
                .unwrap();
            (path.trim_start_matches('/').to_owned(), 0o755, content)
        })
        .collect();
    let users = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    files.push(("etc/passwd".to_owned(), 0o644, users.as_bytes().to_vec()));
    files.push(("etc/group".to_owned(), 0o644, b"root:x:0:\nweb:x:33:\n".to_vec()));
    files
}
