//! Which host is whose: each service has a label below the address of all services, so browsers keep their pages apart.

use chassis::http::ApiError;
use sha2::{Digest, Sha256};

use super::entries::Place;

/// Characters of the digest in a label.
const LABEL_DIGITS: usize = 24;

/// The address of services: `http://*.localhost:7434`.
#[derive(Debug, Clone)]
pub struct Hosts {
    scheme: String,
    /// What follows the label and its dot, port included.
    suffix: String,
}

impl Hosts {
    /// Reads `scheme://*.host[:port]`.
    ///
    /// # Errors
    /// When it is not written so.
    pub fn parse(url: &str) -> Result<Self, ApiError> {
        let read = || {
            let (scheme, rest) = url.trim_end_matches('/').split_once("://")?;
            let suffix = rest.strip_prefix("*.")?;
            let known = matches!(scheme, "http" | "https");
            (known && !suffix.is_empty() && !suffix.contains(['/', '*'])).then(|| Self {
                scheme: scheme.to_owned(),
                suffix: suffix.to_ascii_lowercase(),
            })
        };
        read().ok_or_else(|| {
            ApiError::internal(format!(
                "`{url}` is no address of services: write `https://*.services.example.org`"
            ))
        })
    }

    /// Whether what goes there is encrypted.
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    /// The scheme.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The origin of a service in browsers.
    pub(super) fn origin(&self, place: &Place) -> String {
        format!("{}://{}.{}", self.scheme, label(place), self.suffix)
    }

    /// The address for programs.
    pub(super) fn programs(&self, place: &Place) -> String {
        let Place {
            organization_name,
            project,
            name,
            ..
        } = place;
        format!(
            "{}://{}/{organization_name}/{project}/{name}/",
            self.scheme, self.suffix
        )
    }

    /// The label of a request's host; `None` for the address itself, and for what is below something else.
    pub(super) fn label_of<'a>(&self, host: &'a str) -> Option<&'a str> {
        let at = host.len().checked_sub(self.suffix.len() + 1)?;
        let (label, rest) = host.split_at_checked(at)?;
        let ours = rest.strip_prefix('.')?.eq_ignore_ascii_case(&self.suffix);
        (ours && !label.is_empty() && !label.contains('.')).then_some(label)
    }
}

/// The label of a service: tells nothing of its name.
pub(super) fn label(place: &Place) -> String {
    let mut digest = Sha256::new();
    for part in [
        place.organization.to_string().as_str(),
        place.project.as_str(),
        place.name.as_str(),
    ] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    let digits = hex::encode(digest.finalize());
    format!("s-{}", digits.get(..LABEL_DIGITS).unwrap_or(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_stands_right_below_the_address() {
        let hosts = Hosts::parse("http://*.localhost:7434").unwrap();
        assert_eq!(hosts.label_of("s-1.localhost:7434"), Some("s-1"));
        assert_eq!(hosts.label_of("S-1.LOCALHOST:7434"), Some("S-1"));
        for other in [
            "localhost:7434",
            ".localhost:7434",
            "a.b.localhost:7434",
            "s-1.localhost:1",
            "s-1.evil",
            "",
        ] {
            assert_eq!(hosts.label_of(other), None, "{other}");
        }
        assert!(Hosts::parse("http://localhost:1").is_err() && Hosts::parse("ftp://*.x").is_err());
    }
}
