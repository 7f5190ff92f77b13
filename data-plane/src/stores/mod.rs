//! Builds the store that a tenant's bytes lie in. The only file that knows which kinds of stores there are.

pub mod keys;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chassis::Environment;
use contract::config::{CacheConfig, StoreConfig, TemporaryKeys};
use keys::{Renewed, SessionFile, Source};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::{ClientOptions, RetryConfig};
use storage::{DataKey, DiskCache, Options, Storage, Store};

const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// For one request with its body, tries included: 24 MiB at 1 Mbit/s.
const REQUEST_WAIT: Duration = Duration::from_secs(240);
const RETRIES: usize = 8;
/// What a cache on local disk may take when its configuration does not say.
const CACHE_BYTES: u64 = 10 << 30;
/// And no more than this part of the disk.
const CACHE_PART: u64 = 10;

/// Opens the bucket of the configuration, whose packs are not encrypted.
///
/// # Errors
/// When the directory cannot be made or the bucket's settings make no sense.
pub fn open(config: &StoreConfig, environment: &Environment) -> anyhow::Result<Storage> {
    Ok(storage(connect(config, environment, None)?, environment))
}

/// Opens the bucket of the configuration with the key of its packs, 32 bytes in hex. An empty one is encrypted from its first pack
/// on; one that holds packs without encryption goes on without, and without a key.
///
/// # Errors
/// As [`open`]; when the key is none, or not that of the bucket, or the store does not answer.
pub async fn open_encrypted(
    config: &StoreConfig,
    data_key: Option<&str>,
    environment: &Environment,
) -> anyhow::Result<Storage> {
    unlock(connect(config, environment, None)?, data_key, environment).await
}

/// The same for a worker, whose plane has the keys of the bucket if they do not last.
///
/// # Errors
/// As [`open_encrypted`].
pub async fn open_lent(
    config: &StoreConfig,
    data_key: Option<&str>,
    environment: &Environment,
    plane: Arc<dyn Source>,
) -> anyhow::Result<Storage> {
    unlock(connect(config, environment, Some(plane))?, data_key, environment).await
}

async fn unlock(store: Store, data_key: Option<&str>, environment: &Environment) -> anyhow::Result<Storage> {
    let key = match data_key {
        Some(text) => Some(DataKey::from_hex(text).context("`data_key` must be 32 bytes as 64 hex digits")?),
        None => None,
    };
    Ok(storage(store.unlocked(key).await?, environment))
}

/// The keys of the bucket, where they do not last and workers ask for them.
///
/// # Errors
/// When the bucket's settings make no sense.
pub fn lent_keys(config: &StoreConfig, environment: &Environment) -> anyhow::Result<Option<AwsCredentialProvider>> {
    let StoreConfig::S3 { temporary, .. } = config else {
        return Ok(None);
    };
    Ok(match temporary.as_deref() {
        Some(TemporaryKeys::File { .. } | TemporaryKeys::WebIdentity { .. }) => {
            Some(Arc::clone(client(config, environment, None)?.build()?.credentials()))
        }
        Some(TemporaryKeys::Plane) | None => None,
    })
}

/// A client of the bucket.
fn client(
    config: &StoreConfig,
    environment: &Environment,
    plane: Option<Arc<dyn Source>>,
) -> anyhow::Result<AmazonS3Builder> {
    let StoreConfig::S3 {
        bucket,
        endpoint,
        region,
        access_key_id,
        secret_access_key,
        temporary,
        ..
    } = config
    else {
        anyhow::bail!("this store is no bucket");
    };
    // A pack may take its time on a slow line; what does not move at all is tried again.
    let client = ClientOptions::new()
        .with_connect_timeout(CONNECT_WAIT)
        .with_timeout(REQUEST_WAIT);
    let builder = AmazonS3Builder::new()
        .with_client_options(client)
        .with_retry(RetryConfig {
            max_retries: RETRIES,
            retry_timeout: REQUEST_WAIT,
            ..RetryConfig::default()
        })
        .with_bucket_name(bucket)
        .with_region(region);
    let builder = match endpoint {
        Some(endpoint) => at(builder, endpoint),
        None => builder,
    };
    let of = |source: Arc<dyn Source>| Arc::new(Renewed::new(source, environment.clone()));
    Ok(match (temporary.as_deref(), plane) {
        (None, _) => {
            let said = !access_key_id.is_empty() && !secret_access_key.is_empty();
            anyhow::ensure!(
                said,
                "`store` has neither keys of its bucket nor `temporary`, which says where they are"
            );
            builder
                .with_access_key_id(access_key_id)
                .with_secret_access_key(secret_access_key)
        }
        (Some(TemporaryKeys::File { path }), _) => builder.with_credentials(of(Arc::new(SessionFile(path.clone())))),
        (Some(TemporaryKeys::Plane), Some(plane)) => builder.with_credentials(of(plane)),
        (Some(TemporaryKeys::Plane), None) => anyhow::bail!("only a worker has a plane that lends it keys"),
        (
            Some(TemporaryKeys::WebIdentity {
                role_arn,
                token_file,
                sts_endpoint,
            }),
            _,
        ) => as_role(builder, role_arn, token_file, sts_endpoint.as_deref()),
    })
}

/// A client that is given that role for the token in that file.
fn as_role(builder: AmazonS3Builder, role: &str, token: &Path, endpoint: Option<&str>) -> AmazonS3Builder {
    let builder = builder
        .with_config(AmazonS3ConfigKey::RoleArn, role)
        .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token.display().to_string())
        .with_config(AmazonS3ConfigKey::RoleSessionName, "howdah");
    match endpoint {
        Some(endpoint) => builder.with_config(AmazonS3ConfigKey::StsEndpoint, endpoint),
        None => builder,
    }
}

fn connect(config: &StoreConfig, environment: &Environment, plane: Option<Arc<dyn Source>>) -> anyhow::Result<Store> {
    Ok(match config {
        StoreConfig::Local { directory } => Store::local(directory)?,
        StoreConfig::S3 {
            endpoint,
            cache,
            public_endpoint,
            direct,
            ..
        } => {
            let builder = client(config, environment, plane)?;
            let bucket = Arc::new(builder.clone().build()?);
            let mut store = Store::from_object_store(Arc::<AmazonS3>::clone(&bucket));
            let public = public_endpoint.as_deref().or(endpoint.as_deref());
            if direct.unwrap_or_else(|| is_for_clients(public)) {
                store = store.with_signer(match public_endpoint {
                    Some(public) => Arc::new(at(builder, public).build()?),
                    None => bucket,
                });
            }
            match cache {
                Some(cache) => with_cache(store, cache, environment),
                None => store,
            }
        }
    })
}

fn at(builder: AmazonS3Builder, endpoint: &str) -> AmazonS3Builder {
    builder
        .with_endpoint(endpoint)
        .with_allow_http(endpoint.starts_with("http://"))
}

/// Whether clients reach this endpoint, as far as can be told: a loopback address is that of another machine to most of them.
fn is_for_clients(endpoint: Option<&str>) -> bool {
    let Some(endpoint) = endpoint else { return true };
    let host = reqwest::Url::parse(endpoint)
        .ok()
        .and_then(|url| url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned()));
    host.is_some_and(|host| {
        !host.eq_ignore_ascii_case("localhost") && !host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn storage(store: Store, environment: &Environment) -> Storage {
    let options = Options {
        seed: Some(environment.random()),
        ..Options::default()
    };
    Storage::new(store, options)
}

/// Where a plane's cache is when its configuration does not say: everything that opens the bucket uses the same one.
pub fn settle(config: &mut StoreConfig, home: &Path) {
    if let StoreConfig::S3 { cache, .. } = config {
        cache.get_or_insert_with(|| CacheConfig {
            directory: home.join("packs"),
            most_bytes: None,
        });
    }
}

/// Whatever is wrong with the cache, the plane works without it.
fn with_cache(store: Store, config: &CacheConfig, environment: &Environment) -> Store {
    let most_bytes = config.most_bytes.unwrap_or_else(|| default_bytes(&config.directory));
    if most_bytes == 0 {
        return store;
    }
    let environment = environment.clone();
    match DiskCache::open(&config.directory, most_bytes, move || environment.now().into()) {
        Ok(cache) => store.with_cache(cache),
        Err(error) => {
            let directory = config.directory.display();
            tracing::warn!("packs are not kept on local disk: `{directory}` cannot be made: {error}");
            store
        }
    }
}

fn default_bytes(directory: &Path) -> u64 {
    // The directory may not be there yet.
    let disk = directory
        .ancestors()
        .find_map(|above| nix::sys::statvfs::statvfs(above).ok());
    let size = disk.map_or(0, |disk| disk.blocks() * disk.fragment_size());
    CACHE_BYTES.min(size / CACHE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_to_no_bucket_on_a_loopback_address_unless_the_configuration_says_so() {
        let environment = Environment::simulated(chrono::DateTime::UNIX_EPOCH, 1);
        chassis::process::install_tls_provider();
        let takes = |endpoint: &str, more: &str| {
            let text = format!(
                r#"{{"kind": "s3", "bucket": "b", "region": "r", "endpoint": {endpoint},
                     "access_key_id": "a", "secret_access_key": "b" {more}}}"#
            );
            let config: StoreConfig = serde_json::from_str(&text).unwrap();
            open(&config, &environment).unwrap().takes_packs()
        };
        for (endpoint, more, expected) in [
            ("null", "", true),
            ("\"https://s3.example.org\"", "", true),
            ("\"https://s3.example.org\"", r#", "direct": false"#, false),
            ("\"http://127.0.0.1:9000\"", "", false),
            ("\"http://[::1]:9000\"", "", false),
            ("\"http://localhost:9000\"", "", false),
            ("\"http://localhost:9000\"", r#", "direct": true"#, true),
            (
                "\"http://localhost:9000\"",
                r#", "public_endpoint": "https://s3.example.org""#,
                true,
            ),
            (
                "\"http://10.0.0.1\"",
                r#", "public_endpoint": "http://127.0.0.1""#,
                false,
            ),
        ] {
            assert_eq!(takes(endpoint, more), expected, "{endpoint}{more}");
        }
    }

    #[test]
    fn a_bucket_without_keys_says_so_and_keys_that_do_not_last_are_lent_by_who_has_them() {
        let environment = Environment::simulated(chrono::DateTime::UNIX_EPOCH, 1);
        chassis::process::install_tls_provider();
        let of = |temporary: &str| -> StoreConfig {
            let text = format!(r#"{{"kind": "s3", "bucket": "b", "region": "r", "endpoint": null {temporary}}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let bare = of("");
        assert!(open(&bare, &environment).is_err_and(|error| error.to_string().contains("neither keys")));
        for temporary in [
            r#"{"kind": "file", "path": "/keys.json"}"#,
            r#"{"kind": "web_identity", "role_arn": "arn:aws:iam::1:role/r", "token_file": "/token"}"#,
        ] {
            let config = of(&format!(r#", "temporary": {temporary}"#));
            open(&config, &environment).unwrap();
            assert!(lent_keys(&config, &environment).unwrap().is_some());
            // A worker asks its plane; without one it has nothing, and lends nothing on.
            let worker = config.for_worker();
            assert!(lent_keys(&worker, &environment).unwrap().is_none());
            assert!(open(&worker, &environment).is_err());
            let text = serde_json::to_string(&worker).unwrap();
            assert!(
                text.contains(r#""temporary":{"kind":"plane"}"#) && !text.contains("access_key_id"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bucket_without_a_word_about_a_cache_gets_one_below_the_home_and_a_directory_none() {
        let text = r#"{"kind": "s3", "bucket": "b", "region": "r", "endpoint": null, "access_key_id": "", "secret_access_key": ""}"#;
        let mut config: StoreConfig = serde_json::from_str(text).unwrap();
        settle(&mut config, Path::new("/home-of-the-plane"));
        let StoreConfig::S3 { cache: Some(cache), .. } = config else {
            panic!("no cache")
        };
        assert_eq!(cache.directory, Path::new("/home-of-the-plane/packs"));
        let bytes = default_bytes(&cache.directory);
        assert!(bytes > 0 && bytes <= CACHE_BYTES);
        let mut config = StoreConfig::Local { directory: "/d".into() };
        settle(&mut config, Path::new("/home-of-the-plane"));
        assert!(matches!(config, StoreConfig::Local { .. }));
    }
}
