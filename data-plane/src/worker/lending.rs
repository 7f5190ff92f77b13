//! Keys of the bucket that do not last, for workers: the plane has them and lends them to who is let in. So no worker's
//! configuration holds them, and nobody has to hand newer ones around.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::http::HeaderMap;
use chassis::Environment;
use chassis::http::{ApiError, Json};
use object_store::aws::AwsCredential;
use storage::Storage;

use super::admission::admit;
use super::plane as client;
use super::protocol::{Hidden, LentKeys, WorkerConfig};
use crate::failure::{Answer, Failure};
use crate::plane::Plane;
use crate::stores;
use crate::stores::keys::Source;

/// A plane that is not there yet is asked again after that.
const AGAIN: Duration = Duration::from_secs(1);

/// `POST /internal/v1/worker/keys`.
pub async fn keys(State(plane): State<Plane>, headers: HeaderMap) -> Answer<Json<LentKeys>> {
    admit(&plane, &headers)?;
    let Some(keys) = &plane.bucket_keys else {
        return Err(Failure::not_found());
    };
    let keys = keys
        .get_credential()
        .await
        .map_err(|error| Failure::from(ApiError::overloaded(&error)))?;
    Ok(Json(LentKeys {
        access_key_id: keys.key_id.clone(),
        secret_access_key: Hidden(keys.secret_key.clone()),
        session_token: keys.token.clone().map(Hidden),
    }))
}

/// Opens the bucket of a worker.
///
/// # Errors
/// As [`stores::open_encrypted`].
pub async fn open(config: &WorkerConfig) -> anyhow::Result<Storage> {
    let plane = Arc::new(Lender(client::Plane::new(config)?));
    let key = config.data_key.as_deref();
    stores::open_lent(&config.store, key, &Environment::system(), plane).await
}

/// The plane that a worker works for.
struct Lender(client::Plane);

impl std::fmt::Debug for Lender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the worker's plane")
    }
}

#[async_trait]
impl Source for Lender {
    /// Waits for a plane that is away; whoever asks says for how long.
    async fn read(&self) -> anyhow::Result<AwsCredential> {
        loop {
            match self.0.keys().await {
                Ok(lent) => {
                    return Ok(AwsCredential {
                        key_id: lent.access_key_id,
                        secret_key: lent.secret_access_key.0,
                        token: lent.session_token.map(|token| token.0),
                    });
                }
                Err(refusal) if refusal.is_final() => {
                    anyhow::bail!("the plane lends no keys of its bucket: {refusal}")
                }
                Err(refusal) => tracing::info!("the plane is asked for keys of its bucket again: {refusal}"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
