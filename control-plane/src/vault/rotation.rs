//! Changing keys: `howdah-control-plane rotate-key`. Every data key that another key-encryption key wraps is wrapped anew by the current
//! one, and with `--data` there are new data keys, and every stored secret is sealed anew. Row by row, each by itself, what is done is
//! passed by: it can be killed and begun again at any point, while services run and open both the old and the new.

use std::time::Duration;

use chassis::Environment;
use sqlx::PgPool;

use super::{DERIVATION, PROOF, PURPOSES, Vault, context, queries};

/// A running service reads the data keys again so often.
pub const REFRESH: Duration = Duration::from_secs(10);
/// Before anything is sealed with new data keys, every running service must have read them.
pub const HEARD_AFTER: Duration = Duration::from_secs(30);
const PIECE: i64 = 200;

/// A column of sealed values.
pub struct Sealed {
    /// The table.
    pub table: &'static str,
    /// Its primary key.
    pub key: &'static str,
    /// The column.
    pub column: &'static str,
    /// What the value of a row is sealed for.
    pub purpose: fn(&str) -> String,
}

/// All columns of sealed values. A column whose name says that it is one and that is missing here fails a test.
pub const SEALED: &[Sealed] = &[
    Sealed {
        table: "signing_keys",
        key: "kid",
        column: "secret_encrypted",
        purpose: |_| "signing-key".to_owned(),
    },
    Sealed {
        table: "planes",
        key: "organization_id",
        column: "database_password_encrypted",
        purpose: |organization| format!("plane-database:{organization}"),
    },
    Sealed {
        table: "planes",
        key: "organization_id",
        column: "data_key_encrypted",
        purpose: |organization| format!("plane-data:{organization}"),
    },
    Sealed {
        table: "mails",
        key: "id",
        column: "sealed_text",
        purpose: |id| format!("mail {id}"),
    },
    Sealed {
        table: "authenticators",
        key: "account_id",
        column: "sealed_secret",
        purpose: |account| format!("authenticator {account}"),
    },
];

/// Tables whose sealed values are gone after a day at the latest: the data keys that they were sealed with stay as long.
pub const SHORT_LIVED: [&str; 2] = ["kept_answers", "provider_log_ins"];

/// What was done.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rotated {
    /// Data keys that the current key-encryption key wraps since then.
    pub data_keys_wrapped: usize,
    /// Data keys that were made.
    pub data_keys_made: usize,
    /// Stored secrets that were sealed anew.
    pub secrets_sealed: usize,
    /// Stored secrets that no key of this service opens; they are left as they are.
    pub secrets_unopened: usize,
}

/// Makes everything depend on the current key-encryption key alone: after that the one before is needed no more. With `data`, new
/// data keys too; `heard_after` is how long running services have to hear of them.
///
/// # Errors
/// When the database or a key service is away; what was done stays done.
pub async fn rotate(
    pool: &PgPool,
    environment: &Environment,
    vault: &Vault,
    data: bool,
    heard_after: Duration,
) -> anyhow::Result<Rotated> {
    let mut rotated = Rotated::default();
    let keys = queries::list_keys(pool, &PROOF).await?;
    let current = vault.services.current();
    for stored in keys.iter().filter(|key| key.key_service != current.id()) {
        let key = vault.unwrap(stored).await?;
        let wrapped = current.wrap(&key, &context(&stored.id, &stored.purpose)).await?;
        let done = queries::update_wrapped(pool, &PROOF, stored, current.id(), &wrapped).await?;
        rotated.data_keys_wrapped += usize::from(done);
    }
    if data {
        for purpose in PURPOSES.into_iter().filter(|purpose| *purpose != DERIVATION) {
            let newest = keys
                .iter()
                .filter(|key| key.purpose == purpose)
                .map(|key| key.version)
                .max();
            let next = newest.unwrap_or(0) + 1;
            vault
                .insert(pool, environment, (purpose, next), environment.random())
                .await?;
            rotated.data_keys_made += 1;
        }
        tokio::time::sleep(heard_after).await;
    }
    vault.refresh(pool).await?;
    for of in SEALED {
        seal_anew(pool, environment, vault, of, &mut rotated).await?;
    }
    Ok(rotated)
}

/// Seals every value of a column with the newest data key that is not sealed with it.
async fn seal_anew(
    pool: &PgPool,
    environment: &Environment,
    vault: &Vault,
    of: &Sealed,
    rotated: &mut Rotated,
) -> anyhow::Result<()> {
    let mut after = String::new();
    loop {
        let rows = queries::list_sealed(pool, &PROOF, of, &after, PIECE).await?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after.clone_from(last);
        for (row, sealed) in &rows {
            let purpose = (of.purpose)(row);
            if vault.is_current(&purpose, sealed) {
                continue;
            }
            let Ok(secret) = vault.open(&purpose, sealed) else {
                tracing::error!("a sealed value of `{}` in {} cannot be opened", row, of.table);
                rotated.secrets_unopened += 1;
                continue;
            };
            let anew = vault.seal(environment, &purpose, &secret)?;
            let done = queries::update_sealed(pool, &PROOF, of, row, (sealed, &anew)).await?;
            rotated.secrets_sealed += usize::from(done);
        }
    }
}
