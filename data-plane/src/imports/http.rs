//! Files by HTTP: redirects that we follow ourselves, each looked at as the first address was, and ranges for what broke.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::StreamExt;
use http::{HeaderMap, HeaderName, StatusCode, header};
use reqwest::{Response, Url};

use super::address::{Reachable, Refused};
use super::location::Location;
use super::resume::{Identity, Opened};
use super::{Importer, Trouble, find, innermost, source_failed};
use crate::failure::Failure;

const REDIRECTS_MAX: usize = 5;
/// A tag is kept in the commit, so it is as short as tags are.
const TAG_BYTES_MAX: usize = 200;

/// A file behind an address.
#[derive(Clone)]
pub(super) struct Web {
    client: reqwest::Client,
    reachable: Arc<Reachable>,
    idle: Duration,
    url: Url,
    shown: String,
}

impl Web {
    pub(super) fn new(importer: &Importer, url: Url) -> Result<Self, Failure> {
        let shown = Location::Web(url.clone()).shown();
        importer.reachable.check(&url).map_err(|e| refused(&shown, &e))?;
        Ok(Self {
            client: importer.client.clone(),
            reachable: Arc::clone(&importer.reachable),
            idle: importer.patience.idle,
            url,
            shown,
        })
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The file from that byte on, if it is still the one that is known.
    pub(super) async fn open(&self, at: u64, known: &Identity) -> Result<Opened, Trouble> {
        // A tag that was given for this version, or its date: without either nobody can say that it is the same.
        let validator = known.etag.as_ref().filter(|tag| !tag.starts_with("W/"));
        let validator = validator.or(known.version.as_ref());
        let range = match (at, validator) {
            (0, _) => None,
            (_, None) => return Err(Trouble::Changed),
            (at, Some(validator)) => Some((format!("bytes={at}-"), validator.clone())),
        };
        let response = self.follow(range.as_ref()).await?;
        let status = response.status();
        let identity = Identity {
            etag: text(response.headers(), header::ETAG),
            version: text(response.headers(), header::LAST_MODIFIED),
            size: response.content_length(),
        };
        let identity = match (status, at) {
            (StatusCode::OK, 0) => identity,
            (StatusCode::PARTIAL_CONTENT, at) if at > 0 => {
                let (from, size) = content_range(response.headers()).ok_or(Trouble::Changed)?;
                // A server may know ranges and not the condition that they were asked for under.
                let dated = identity.version.is_none() || identity.version == known.version;
                let same = from == at && identity.etag == known.etag && dated;
                if !same {
                    return Err(Trouble::Changed);
                }
                Identity { size, ..identity }
            }
            // It has changed, or ranges are not known there.
            (StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE, _) => return Err(Trouble::Changed),
            (status, _) if may_pass(status) => return Err(Trouble::Broken(format!("it answered {status}"))),
            (status, _) => {
                return Err(Trouble::Final(source_failed(format!(
                    "`{}` answered {status}",
                    self.shown
                ))));
            }
        };
        if !has_end(&response) {
            let why = format!(
                "`{}` does not say where it ends, so a part could be taken for the whole",
                self.shown
            );
            return Err(Trouble::Final(
                source_failed(why).hint("fetch it yourself: `curl ADDRESS | howdah put REPO@BRANCH:/PATH -`"),
            ));
        }
        let bytes = response.bytes_stream();
        Ok(Opened {
            identity,
            bytes: bytes
                .map(|part| part.map_err(|e| Trouble::Broken(innermost(&e))))
                .boxed(),
        })
    }

    /// The answer at the end of the redirects.
    async fn follow(&self, range: Option<&(String, String)>) -> Result<Response, Trouble> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let Some((range, validator)) = range {
                request = request.header(header::RANGE, range).header(header::IF_RANGE, validator);
            }
            let response = match tokio::time::timeout(self.idle, request.send()).await {
                Err(_) => return Err(Trouble::Broken(format!("no answer came for {} s", self.idle.as_secs()))),
                Ok(Err(error)) => return Err(self.failed(&error)),
                Ok(Ok(response)) => response,
            };
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let next = response
                .headers()
                .get(header::LOCATION)
                .and_then(|to| to.to_str().ok())
                .and_then(|to| url.join(to).ok())
                .ok_or_else(|| Trouble::Final(source_failed(format!("`{}` redirects to nowhere", self.shown))))?;
            self.reachable
                .check_redirect(&url, &next)
                .map_err(|e| Trouble::Final(refused(&self.shown, &e)))?;
            url = next;
        }
        Err(Trouble::Final(source_failed(format!(
            "`{}` redirects more than {REDIRECTS_MAX} times",
            self.shown
        ))))
    }

    fn failed(&self, error: &reqwest::Error) -> Trouble {
        match find::<Refused>(error) {
            Some(why) => Trouble::Final(refused(&self.shown, why)),
            None => Trouble::Broken(innermost(error)),
        }
    }
}

/// Whether the end of an answer differs from a connection that broke.
fn has_end(response: &Response) -> bool {
    response.content_length().is_some()
        || response.version() > http::Version::HTTP_11
        || response.headers().contains_key(header::TRANSFER_ENCODING)
}

/// What may not be fetched.
pub(super) fn refused(shown: &str, why: &Refused) -> Failure {
    Failure::invalid(format!("`{shown}` can't be fetched: {why}"))
        .hint("who operates the service can allow hosts and networks; see `howdah up --help`")
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether another try may get another answer.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= TAG_BYTES_MAX && !value.is_empty()).then(|| value.to_owned())
}

/// `bytes 5-9/10`: where it begins, and the size of the whole.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, size.parse().ok()))
}
