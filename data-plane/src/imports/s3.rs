//! Objects of S3 buckets. The keys come with the request, are used for it and forgotten; without keys the bucket is read as
//! anybody may. The endpoint is reached by the client that reaches public addresses only.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, RetryConfig};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use utoipa::ToSchema;

use super::address::Refused;
use super::http::refused;
use super::resume::{Identity, Opened};
use super::{Importer, Trouble, find, innermost, source_failed};
use crate::failure::{Answer, Failure};

/// One request is tried so often by the client itself; what goes on longer is our own patience.
const RETRIES: usize = 2;
const RETRY_WAIT: Duration = Duration::from_secs(30);

/// How a bucket is reached. Never stored, never shown.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The key's id.
    pub access_key_id: Option<String>,
    /// The key.
    #[schema(value_type = Option<String>)]
    pub secret_access_key: Option<SecretString>,
    /// What goes with a temporary key.
    #[schema(value_type = Option<String>)]
    pub session_token: Option<SecretString>,
    /// The bucket's region.
    pub region: Option<String>,
    /// What serves it; `None` = AWS.
    pub endpoint: Option<String>,
}

#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// A bucket.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    name: String,
    idle: Duration,
}

impl Bucket {
    /// The bucket of that name. Nothing is asked of it yet.
    ///
    /// # Errors
    /// `invalid` when it may not be reached or the settings make no sense.
    pub fn new(importer: &Importer, name: &str, access: &Access) -> Answer<Self> {
        let region = access.region.as_deref().unwrap_or("us-east-1");
        // It becomes part of a host's name.
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Failure::invalid("the region is not a name such as `eu-central-1`"));
        }
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector(importer.client.clone()))
            .with_retry(RetryConfig {
                max_retries: RETRIES,
                retry_timeout: RETRY_WAIT,
                ..RetryConfig::default()
            })
            .with_bucket_name(name)
            .with_region(region);
        if let Some(endpoint) = &access.endpoint {
            let url = endpoint_url(importer, endpoint)?;
            builder = builder.with_allow_http(url.scheme() == "http");
            builder = builder.with_endpoint(url.as_str().trim_end_matches('/'));
        }
        builder = match (&access.access_key_id, &access.secret_access_key) {
            (Some(id), Some(secret)) => builder
                .with_access_key_id(id)
                .with_secret_access_key(secret.expose_secret()),
            (None, None) => builder.with_skip_signature(true),
            _ => {
                return Err(Failure::invalid(
                    "an access key has an id and a secret; one of them is missing",
                ));
            }
        };
        if let Some(token) = &access.session_token {
            builder = builder.with_token(token.expose_secret());
        }
        // What the builder says may quote what it was given.
        let store = builder
            .build()
            .map_err(|_| Failure::invalid(format!("bucket `{name}` can't be reached with these settings")))?;
        Ok(Self {
            store: Arc::new(store),
            name: name.to_owned(),
            idle: importer.patience.idle,
        })
    }

    /// What speaks to it.
    pub fn store(&self) -> &Arc<AmazonS3> {
        &self.store
    }

    /// One object.
    pub(super) fn object(&self, key: &str) -> Answer<Object> {
        let shown = format!("s3://{}/{key}", self.name);
        let path =
            Path::parse(key).map_err(|_| Failure::invalid(format!("`{shown}` is no key that can be fetched")))?;
        Ok(Object {
            bucket: self.clone(),
            path,
            shown,
            may_be_marker: false,
        })
    }

    /// All objects below a key that ends in `/` or is empty, in the order of their names, each with its name below that.
    pub(super) fn list(&self, key: &str) -> Answer<BoxStream<'static, Answer<(Object, String)>>> {
        let shown = format!("s3://{}/{key}", self.name);
        let prefix = match key.trim_end_matches('/') {
            "" => None,
            text => Some(
                Path::parse(text)
                    .map_err(|_| Failure::invalid(format!("`{shown}` is no prefix that can be fetched")))?,
            ),
        };
        let bucket = self.clone();
        let found = self.store.list(prefix.as_ref());
        let listed = found.map(move |item| {
            let meta = item.map_err(|e| match trouble(&shown, &e) {
                Trouble::Final(failure) => failure,
                other => source_failed(format!("`{shown}` can't be listed: {other}")),
            })?;
            let name = relative(&meta, prefix.as_ref());
            let object = Object {
                shown: format!("s3://{}/{}", bucket.name, meta.location),
                bucket: bucket.clone(),
                may_be_marker: meta.size == 0,
                path: meta.location,
            };
            Ok((object, name))
        });
        // The object that marks the prefix itself as a directory has no name below it.
        let named = |item: &Answer<(Object, String)>| !item.as_ref().is_ok_and(|(_, name)| name.is_empty());
        Ok(listed.filter(move |item| std::future::ready(named(item))).boxed())
    }
}

/// The address of what serves a bucket.
///
/// # Errors
/// `invalid` when it may not be reached.
pub fn endpoint_url(importer: &Importer, endpoint: &str) -> Answer<Url> {
    let url = Url::parse(endpoint)
        .ok()
        .filter(|url| url.query().is_none() && url.fragment().is_none())
        .ok_or_else(|| Failure::invalid("the endpoint is not an address such as `https://s3.example.org`"))?;
    let shown = url.host_str().unwrap_or_default();
    importer.reachable.check(&url).map_err(|e| refused(shown, &e))?;
    Ok(url)
}

fn relative(meta: &ObjectMeta, prefix: Option<&Path>) -> String {
    let whole = meta.location.as_ref();
    let below = prefix.and_then(|prefix| whole.strip_prefix(prefix.as_ref()));
    below.unwrap_or(whole).trim_start_matches('/').to_owned()
}

/// An object of a bucket.
#[derive(Clone)]
pub(super) struct Object {
    bucket: Bucket,
    path: Path,
    shown: String,
    /// It was listed as empty. The `/` at the end of a name is not told, and without it a directory's marker is not there.
    may_be_marker: bool,
}

impl Object {
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// The object from that byte on, if it is still the one that is known.
    pub(super) async fn open(&self, at: u64, known: &Identity) -> Result<Opened, Trouble> {
        if at > 0 && known.etag.is_none() {
            return Err(Trouble::Changed);
        }
        let options = GetOptions {
            range: (at > 0).then_some(GetRange::Offset(at)),
            if_match: known.etag.clone().filter(|_| at > 0),
            ..GetOptions::default()
        };
        let idle = self.bucket.idle;
        let got = tokio::time::timeout(idle, self.bucket.store.get_opts(&self.path, options))
            .await
            .map_err(|_| Trouble::Broken(format!("no answer came for {} s", idle.as_secs())))?
            .map_err(|e| match e {
                object_store::Error::NotFound { .. } if self.may_be_marker => Trouble::Marker,
                e => trouble(&self.shown, &e),
            })?;
        let identity = Identity {
            etag: got.meta.e_tag.clone(),
            version: got
                .meta
                .version
                .clone()
                .or_else(|| Some(got.meta.last_modified.to_rfc3339())),
            size: Some(got.meta.size),
        };
        if at > 0 && identity.etag != known.etag {
            return Err(Trouble::Changed);
        }
        let shown = self.shown.clone();
        let bytes = got.into_stream().map(move |part| part.map_err(|e| trouble(&shown, &e)));
        Ok(Opened {
            identity,
            bytes: bytes.boxed(),
        })
    }
}

fn trouble(shown: &str, error: &object_store::Error) -> Trouble {
    use object_store::Error as E;
    if let Some(why) = find::<Refused>(error) {
        return Trouble::Final(refused(shown, why));
    }
    match error {
        E::NotFound { .. } => Trouble::Final(
            source_failed(format!("there is no `{shown}`"))
                .hint("check bucket and key; everything below a prefix is put by `-r` and a `/` at the end"),
        ),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Trouble::Final(
            source_failed(format!("`{shown}` may not be read with these keys"))
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither for a bucket that anybody may read"),
        ),
        E::Precondition { .. } | E::NotModified { .. } => Trouble::Changed,
        other => Trouble::Broken(innermost(other)),
    }
}
