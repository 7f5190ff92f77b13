//! Builds the store that a tenant's bytes lie in. The only file that knows which kinds of stores there are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chassis::Environment;
use contract::config::{CacheConfig, StoreConfig};
use object_store::aws::{AmazonS3, AmazonS3Builder};
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
    Ok(storage(connect(config, environment)?, environment))
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
    let key = match data_key {
        Some(text) => Some(DataKey::from_hex(text).context("`data_key` must be 32 bytes as 64 hex digits")?),
        None => None,
    };
    let store = connect(config, environment)?.unlocked(key).await?;
    Ok(storage(store, environment))
}

fn connect(config: &StoreConfig, environment: &Environment) -> anyhow::Result<Store> {
    Ok(match config {
        StoreConfig::Local { directory } => Store::local(directory)?,
        StoreConfig::S3 {
            bucket,
            endpoint,
            region,
            access_key_id,
            secret_access_key,
            cache,
            public_endpoint,
            direct,
        } => {
            // A pack may take its time on a slow line; what does not move at all is tried again.
            let client = ClientOptions::new()
                .with_connect_timeout(CONNECT_WAIT)
                .with_timeout(REQUEST_WAIT);
            let mut builder = AmazonS3Builder::new()
                .with_client_options(client)
                .with_retry(RetryConfig {
                    max_retries: RETRIES,
                    retry_timeout: REQUEST_WAIT,
                    ..RetryConfig::default()
                })
                .with_bucket_name(bucket)
                .with_region(region)
                .with_access_key_id(access_key_id)
                .with_secret_access_key(secret_access_key);
            if let Some(endpoint) = endpoint {
                builder = at(builder, endpoint);
            }
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
                     "access_key_id": "", "secret_access_key": "" {more}}}"#
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
