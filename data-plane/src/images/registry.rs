//! Speaks to registries (OCI distribution, as Docker Hub, GHCR and others serve it). Every address, that of the registry, of
//! whoever gives its tokens and of whatever it redirects to, is looked at as those of imports are. Registries on this
//! machine's loopback speak HTTP, all others HTTPS.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::config::ImportConfig;
use futures::StreamExt;
use http::{StatusCode, header};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::manifest::{self, ACCEPTED, Blob, Found, Manifest};
use super::{Digest, ImageError, ImageReference};
use crate::imports::address::{Reachable, Refused};
use crate::imports::client::client;

const REDIRECTS_MAX: usize = 5;
/// Bytes of a manifest, configuration or token.
const SMALL_MAX: usize = 4 << 20;
/// Lists may lead to lists; nobody needs more.
const LISTS_MAX: usize = 3;
const WRITE_BYTES: usize = 1 << 20;
/// So often it is looked whether there is room for a layer.
const ROOM_EVERY: u64 = 16 << 20;
const MOMENT: Duration = Duration::from_secs(1);

/// Who signs in at a registry.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

impl Credentials {
    /// What tells two of them apart.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("howdah credentials of a registry v1");
        hasher.update(self.username.as_bytes());
        hasher.update(&[0]);
        hasher.update(self.password.expose_secret().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Says when no more may be kept.
pub(super) type Room<'a> = dyn Fn() -> Result<(), ImageError> + Sync + 'a;

/// Speaks to registries.
#[derive(Clone)]
pub struct Registry {
    client: reqwest::Client,
    reachable: Arc<Reachable>,
    idle: Duration,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Registry {
    /// Makes it under the rules of imports.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(imports: &ImportConfig) -> anyhow::Result<Self> {
        let reachable = Arc::new(Reachable::new(&imports.allow));
        let idle = Duration::from_secs(imports.idle_seconds);
        Ok(Self {
            client: client(&reachable, Duration::from_secs(imports.connect_seconds), idle + MOMENT)?,
            reachable,
            idle,
        })
    }

    /// The image for this machine that the name stands for now, and the digest of what the name stands for, which may be a
    /// list of images.
    pub(super) async fn manifest(
        &self,
        reference: &ImageReference,
        who: Option<&Credentials>,
    ) -> Result<(Digest, Manifest), ImageError> {
        let mut wanted = reference.clone();
        let mut first = None;
        for _ in 0..LISTS_MAX {
            let answer = self
                .get(&wanted, &format!("manifests/{}", wanted.wanted()), who)
                .await?;
            let bytes = self.small(&wanted, answer).await?;
            let digest = Digest::of(&bytes);
            if wanted.digest().is_some_and(|asked| *asked != digest) {
                return Err(differs(&format!("the manifest of `{wanted}`"), &digest));
            }
            let outer = first.get_or_insert(digest).clone();
            match manifest::read(&bytes)? {
                Found::Image(manifest) => return Ok((outer, manifest)),
                Found::Leads(digest) => wanted = wanted.at(digest),
            }
        }
        Err(ImageError::Damaged(format!("`{reference}` leads from list to list")))
    }

    /// A configuration, verified.
    pub(super) async fn small_blob(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        who: Option<&Credentials>,
    ) -> Result<Vec<u8>, ImageError> {
        let answer = self.get(reference, &format!("blobs/{}", blob.digest), who).await?;
        let bytes = self.small(reference, answer).await?;
        match Digest::of(&bytes) {
            digest if digest == blob.digest => Ok(bytes),
            digest => Err(differs(&format!("the configuration of `{reference}`"), &digest)),
        }
    }

    /// Whether the registry gives that layer, without fetching it.
    pub(super) async fn shows(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        who: Option<&Credentials>,
    ) -> Result<(), ImageError> {
        self.get(reference, &format!("blobs/{}", blob.digest), who).await?;
        Ok(())
    }

    /// A layer into a file, verified. `room` is asked now and then whether there is any left.
    pub(super) async fn blob(
        &self,
        reference: &ImageReference,
        blob: &Blob,
        who: Option<&Credentials>,
        (into, room): (&mut tokio::fs::File, &Room<'_>),
    ) -> Result<(), ImageError> {
        use sha2::Digest as _;
        let disk =
            |error: std::io::Error| ImageError::Disk(format!("a layer of `{reference}` could not be kept: {error}"));
        let answer = self.get(reference, &format!("blobs/{}", blob.digest), who).await?;
        let mut bytes = answer.bytes_stream();
        let mut into = tokio::io::BufWriter::with_capacity(WRITE_BYTES, into);
        let (mut hash, mut so_far, mut looked) = (sha2::Sha256::new(), 0_u64, 0_u64);
        while let Some(part) = bytes.next().await {
            let part = part.map_err(|error| broken(reference, &error))?;
            so_far += part.len() as u64;
            if so_far > blob.size {
                return Err(ImageError::Damaged(format!(
                    "a layer of `{reference}` is longer than its manifest says"
                )));
            }
            if so_far - looked >= ROOM_EVERY {
                looked = so_far;
                room()?;
            }
            hash.update(&part);
            into.write_all(&part).await.map_err(disk)?;
        }
        into.flush().await.map_err(disk)?;
        match Digest::from_hash(&hash.finalize()) {
            digest if digest == blob.digest => Ok(()),
            digest if so_far < blob.size => Err(ImageError::Unreachable(format!(
                "a layer of `{reference}` broke off after {so_far} of {} bytes ({digest})",
                blob.size
            ))),
            digest => Err(differs(&format!("a layer of `{reference}`"), &digest)),
        }
    }

    /// Asks the registry for something of a repository, with a token when it wants one.
    async fn get(
        &self,
        reference: &ImageReference,
        what: &str,
        who: Option<&Credentials>,
    ) -> Result<Response, ImageError> {
        let host = reference.host();
        let scheme = if is_loopback(host) { "http" } else { "https" };
        let address = format!("{scheme}://{host}/v2/{}/{what}", reference.repository());
        let url: Url = address
            .parse()
            .map_err(|_| ImageError::Unreachable(format!("`{address}` is no address")))?;
        let mut answer = self.follow(reference, url.clone(), None).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let asked = answer.headers().get(header::WWW_AUTHENTICATE);
            let asked = asked
                .and_then(|asked| asked.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let allowed = self.sign_in(reference, &url, &asked, who).await?;
            answer = self.follow(reference, url, Some(&allowed)).await?;
        }
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::NotFound(reference.to_string()))
            }
            status => Err(ImageError::Unreachable(format!(
                "the registry `{host}` answered {status} for `{reference}`: try again later"
            ))),
        }
    }

    /// What to send along, as the registry asks for it.
    async fn sign_in(
        &self,
        reference: &ImageReference,
        registry: &Url,
        asked: &str,
        who: Option<&Credentials>,
    ) -> Result<String, ImageError> {
        let basic = who.map(|who| {
            use base64::Engine as _;
            let pair = format!("{}:{}", who.username, who.password.expose_secret());
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let not_found = || ImageError::NotFound(reference.to_string());
        let (scheme, parameters) = asked.split_once(' ').unwrap_or((asked, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(not_found);
        }
        let realm = parameter(parameters, "realm").ok_or_else(not_found)?;
        let mut url: Url = realm.parse().map_err(|_| not_found())?;
        self.reachable
            .check_redirect(registry, &url)
            .map_err(|why| refused(reference, &why))?;
        let scope = format!("repository:{}:pull", reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = parameter(parameters, "service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let answer = self.follow(reference, url, basic.as_deref()).await?;
        if !answer.status().is_success() {
            return Err(not_found());
        }
        let token: Token = serde_json::from_slice(&self.small(reference, answer).await?).map_err(|_| not_found())?;
        let token = token.token.or(token.access_token).ok_or_else(not_found)?;
        Ok(format!("Bearer {token}"))
    }

    /// The answer at the end of the redirects; what allows the request goes to the first address only.
    async fn follow(
        &self,
        reference: &ImageReference,
        url: Url,
        allowed: Option<&str>,
    ) -> Result<Response, ImageError> {
        let mut url = url;
        self.reachable.check(&url).map_err(|why| refused(reference, &why))?;
        let first = url.origin();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.get(url.clone()).header(header::ACCEPT, ACCEPTED);
            if let Some(allowed) = allowed.filter(|_| url.origin() == first) {
                request = request.header(header::AUTHORIZATION, allowed);
            }
            let answer = tokio::time::timeout(self.idle, request.send()).await;
            let answer = answer
                .map_err(|_| ImageError::Unreachable(format!("no answer came for `{reference}`: try again later")))?
                .map_err(|error| broken(reference, &error))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let next = to.and_then(|to| url.join(to).ok());
            let next = next.ok_or_else(|| {
                ImageError::Unreachable(format!("the registry redirects from `{reference}` to nowhere"))
            })?;
            self.reachable
                .check_redirect(&url, &next)
                .map_err(|why| refused(reference, &why))?;
            url = next;
        }
        Err(ImageError::Unreachable(format!(
            "the registry redirects from `{reference}` more than {REDIRECTS_MAX} times"
        )))
    }

    async fn small(&self, reference: &ImageReference, answer: Response) -> Result<Vec<u8>, ImageError> {
        let mut bytes = answer.bytes_stream();
        let mut all = Vec::new();
        while let Some(part) = bytes.next().await {
            let part = part.map_err(|error| broken(reference, &error))?;
            if all.len() + part.len() > SMALL_MAX {
                return Err(ImageError::Damaged(format!(
                    "the registry's answer about `{reference}` has more than {SMALL_MAX} bytes"
                )));
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}

/// A host on this machine's own loopback.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The value of `name="…"` in a challenge.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']);
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = after;
    }
    None
}

fn differs(what: &str, digest: &Digest) -> ImageError {
    ImageError::Damaged(format!(
        "{what} is not what its digest says, but {digest}: the registry is damaged"
    ))
}

fn refused(reference: &ImageReference, why: &Refused) -> ImageError {
    ImageError::NotAllowed(format!("the registry of `{reference}` may not be spoken to: {why}"))
}

fn broken(reference: &ImageReference, error: &reqwest::Error) -> ImageError {
    let mut inner: &(dyn Error + 'static) = error;
    loop {
        if let Some(why) = inner.downcast_ref::<Refused>() {
            return refused(reference, why);
        }
        match inner.source() {
            Some(source) => inner = source,
            None => break,
        }
    }
    ImageError::Unreachable(format!("the registry of `{reference}` cannot be reached: {inner}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_asks_for_is_read() {
        let asked =
            r#"realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parameter(asked, "realm").as_deref(),
            Some("https://auth.docker.io/token")
        );
        assert_eq!(parameter(asked, "Service").as_deref(), Some("registry.docker.io"));
        assert_eq!(parameter(asked, "scope").as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(parameter(asked, "error"), None);
        assert_eq!(parameter("realm=x, service=y", "service").as_deref(), Some("y"));
        assert_eq!(parameter("", "realm"), None);
    }

    #[test]
    fn only_loopback_is_spoken_to_without_encryption() {
        for (host, loopback) in [
            ("127.0.0.1:5000", true),
            ("localhost:5000", true),
            ("localhost", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.org", false),
            ("registry-1.docker.io", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
