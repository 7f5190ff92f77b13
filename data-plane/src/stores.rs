//! Builds the store that a tenant's bytes lie in. The only file that knows which kinds of stores there are.

use std::sync::Arc;

use chassis::Environment;
use contract::config::StoreConfig;
use object_store::aws::AmazonS3Builder;
use storage::{Options, Storage, Store};

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
            let mut builder = AmazonS3Builder::new()
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
