//! Names of images as people write them, `ghcr.io/acme/detect:1.2`, and digests.

use std::fmt;
use std::str::FromStr;

/// Docker's own registry, which names without a host mean.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_CHARS_MAX: usize = 255;
const TAG_CHARS_MAX: usize = 128;

/// The SHA-256 of an image's manifest, index or configuration, as `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self::from_hash(&sha2::Sha256::digest(bytes))
    }

    /// From a hash that was computed.
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// `sha256:…`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits, a name of a file.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, ParseImageError> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == 64 && hex.bytes().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseImageError(text.chars().take(100).collect()))
        }
    }
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of an image: write `name:tag`, `registry.example.org/name:tag` or `name@sha256:…`")]
pub struct ParseImageError(String);

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// As written, `ghcr.io` or `127.0.0.1:5000`.
    registry: String,
    /// `library/python`
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Host and port to connect to.
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            DEFAULT_REGISTRY => DEFAULT_REGISTRY_HOST,
            other => other,
        }
    }

    /// The path in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What the registry is asked for: the digest if there is one, else the tag.
    pub fn wanted(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The digest that it names.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same image by that digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for ImageReference {
    type Err = ParseImageError;

    fn from_str(text: &str) -> Result<Self, ParseImageError> {
        let wrong = || ParseImageError(text.chars().take(100).collect());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // Behind a `/` a colon is that of a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_host(first) => (first.to_ascii_lowercase(), rest.to_owned()),
            _ if name.contains('/') => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
            _ => (DEFAULT_REGISTRY.to_owned(), format!("library/{name}")),
        };
        let registry = match registry.as_str() {
            "index.docker.io" | DEFAULT_REGISTRY_HOST => DEFAULT_REGISTRY.to_owned(),
            _ => registry,
        };
        let fits = is_host_and_port(&registry)
            && repository.len() <= NAME_CHARS_MAX
            && repository.split('/').all(is_part)
            && tag.as_deref().is_none_or(is_tag);
        let reference = Self {
            registry,
            repository,
            tag,
            digest,
        };
        if fits { Ok(reference) } else { Err(wrong()) }
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(fits)
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn is_part(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let inner = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || matches!(b, b'.' | b'_' | b'-');
    edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner) && !part.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TAG_CHARS_MAX).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, String, String) {
        let found: ImageReference = text.parse().unwrap_or_else(|e| panic!("{e}"));
        let parts = (found.host(), found.repository(), found.wanted());
        (parts.0.to_owned(), parts.1.to_owned(), parts.2.to_owned())
    }

    #[test]
    fn a_name_is_read_as_engines_read_it() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, host, repository, wanted) in [
            ("python", "registry-1.docker.io", "library/python", "latest"),
            (
                "python:3.12-slim",
                "registry-1.docker.io",
                "library/python",
                "3.12-slim",
            ),
            ("acme/detect", "registry-1.docker.io", "acme/detect", "latest"),
            ("docker.io/acme/detect:1", "registry-1.docker.io", "acme/detect", "1"),
            ("ghcr.io/acme/a/b:1.2_x", "ghcr.io", "acme/a/b", "1.2_x"),
            ("localhost/x", "localhost", "x", "latest"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000", "x", "latest"),
            ("127.0.0.1:5000/x:y", "127.0.0.1:5000", "x", "y"),
            (
                &format!("python:3@{digest}"),
                "registry-1.docker.io",
                "library/python",
                &digest,
            ),
        ] {
            assert_eq!(
                read(text),
                (host.to_owned(), repository.to_owned(), wanted.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for text in [
            "",
            ":",
            "a:",
            "A",
            "a b",
            "a/../b",
            "../a",
            "a//b",
            "/a",
            "a@sha256:1",
            "a@md5:00",
            "a:b:c",
            "host.org:x/a",
            "host.org:99999/a",
            "http://host.org/a",
            "a?b",
            "a#b",
            "-a",
            "a\nb",
            "user@host.org/a",
            "a:-x",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
    }
}
