//! What an address names: where it leads, what its file is called, and how it may be shown. Pure.

use percent_encoding::percent_decode_str;
use reqwest::Url;
use storage::FilePath;

use crate::failure::{Answer, Failure};

const ADDRESS_BYTES_MAX: usize = 8 << 10;

/// Where something is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `https://…`, `http://…`
    Web(Url),
    /// `s3://bucket/key`; everything below the key, when that ends in `/` or is empty.
    Bucket {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

impl Location {
    /// Reads an address.
    ///
    /// # Errors
    /// `invalid` when it is none.
    pub fn parse(text: &str) -> Answer<Self> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(Failure::invalid(format!(
                "the address has {} bytes, at most {ADDRESS_BYTES_MAX} are allowed",
                text.len()
            )));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if !is_bucket(bucket) {
                return Err(Failure::invalid("the address names no bucket").hint("write `s3://bucket/key`"));
            }
            return Ok(Self::Bucket {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            });
        }
        // What cannot be read is not shown: it may hold a secret.
        let mut url =
            Url::parse(text).map_err(|e| Failure::invalid(format!("the address of a source cannot be read: {e}")))?;
        url.set_fragment(None);
        Ok(Self::Web(url))
    }

    /// Whether everything below it is meant.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Bucket { key, .. } if key.is_empty() || key.ends_with('/'))
    }

    /// The name of its file: the last part of the path.
    ///
    /// # Errors
    /// `invalid` when that is no name of a file.
    pub fn file_name(&self) -> Answer<String> {
        let (last, decoded) = match self {
            Self::Web(url) => {
                let last = url.path().rsplit('/').next().unwrap_or_default();
                (last, percent_decode_str(last).decode_utf8().ok())
            }
            Self::Bucket { key, .. } => {
                let last = key.rsplit('/').next().unwrap_or_default();
                (last, Some(last.into()))
            }
        };
        let name = decoded.filter(|name| !name.contains(['/', '\\']) && !name.chars().any(char::is_control));
        match name.and_then(|name| FilePath::parse(&name).ok()) {
            Some(name) if !last.is_empty() => Ok(name.to_string()),
            _ => Err(
                Failure::invalid(format!("`{}` does not end in the name of a file", self.shown()))
                    .hint("name it: `howdah put REPO@BRANCH:/PATH ADDRESS`"),
            ),
        }
    }

    /// The address as it may be shown and kept: a query may hold a signature or a token.
    pub fn shown(&self) -> String {
        match self {
            Self::Web(url) => {
                let mut shown = url.clone();
                shown.set_query(None);
                // Both are refused where they are; neither may get into a message.
                let _ = shown.set_username("");
                let _ = shown.set_password(None);
                let query = if url.query().is_some() { "?…" } else { "" };
                format!("{shown}{query}")
            }
            Self::Bucket { bucket, key } => format!("s3://{bucket}/{key}"),
        }
    }
}

/// A name becomes part of an address, so it holds nothing that could change that.
fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_')
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Location {
        Location::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_file_is_called_what_its_address_ends_in() {
        for (text, expected) in [
            ("https://a.org/b/tile%201.tif?sig=1#x", Some("tile 1.tif")),
            ("https://a.org/%C3%BC", Some("\u{fc}")),
            ("https://a.org/u%CC%88", Some("\u{fc}")),
            ("https://a.org/..%2Fup", None),
            ("https://a.org/..%5Cup", None),
            ("https://a.org/%2e%2e", None),
            ("https://a.org/x%00y", None),
            ("https://a.org/x%0ay", None),
            ("https://a.org/%ff", None),
            ("https://a.org/b/", None),
            ("https://a.org", None),
            ("s3://bucket/a/b c%20d", Some("b c%20d")),
            ("s3://bucket/a/..", None),
        ] {
            assert_eq!(of(text).file_name().ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        assert_eq!(of("https://a.org/f?X-Sig=abc").shown(), "https://a.org/f?…");
        assert_eq!(of("https://u:p@a.org/f#frag").shown(), "https://a.org/f");
        assert_eq!(of("s3://bucket/k/f").shown(), "s3://bucket/k/f");
        let unreadable = Location::parse("https://u:p@[/").unwrap_err();
        assert!(!unreadable.detail().contains("u:p"), "{unreadable}");
    }

    #[test]
    fn a_bucket_is_a_name_and_a_slash_at_the_end_means_what_is_below() {
        for (text, directory) in [
            ("s3://abc", true),
            ("s3://abc/", true),
            ("s3://abc/d/", true),
            ("s3://abc/d", false),
        ] {
            assert_eq!(of(text).is_directory(), directory, "{text}");
        }
        for text in [
            "s3://",
            "s3://a",
            "s3:///k",
            "s3://a@b.c/k",
            "s3://a:80/k",
            "s3://..../k",
            "nothing",
            "s3://-ab/k",
        ] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }
}
