//! Builds the store that a tenant's bytes lie in. The only file that knows which kinds of stores there are.

use std::sync::Arc;
use std::time::Duration;

use chassis::Environment;
use contract::config::StoreConfig;
use object_store::aws::AmazonS3Builder;
use object_store::{ClientOptions, RetryConfig};
use storage::{Options, Storage, Store};

const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// For one request with its body, tries included: 24 MiB at 1 Mbit/s.
const REQUEST_WAIT: Duration = Duration::from_secs(240);
const RETRIES: usize = 8;

/// Opens the bucket of the configuration.
///
/// # Errors
/// When the directory cannot be made or the bucket's settings make no sense.
pub fn open(config: &StoreConfig, environment: &Environment) -> anyhow::Result<Storage> {
    let store = match config {
        StoreConfig::Local { directory } => Store::local(directory)?,
        StoreConfig::S3 {
            bucket,
            endpoint,
            region,
            access_key_id,
            secret_access_key,
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
                builder = builder
                    .with_endpoint(endpoint)
                    .with_allow_http(endpoint.starts_with("http://"));
            }
            Store::from_object_store(Arc::new(builder.build()?))
        }
    };
    let options = Options {
        seed: Some(environment.random()),
        ..Options::default()
    };
    Ok(Storage::new(store, options))
}
