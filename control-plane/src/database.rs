//! The control plane's database: the migrations it needs, typed text columns, and what its failures mean. Queries live in
//! the slices.

use std::str::FromStr;

use contract::ids::OrganizationId;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgTypeInfo, PgValueRef};
use sqlx::{Decode, PgPool, Postgres, Type};

/// A transaction on the control plane's database.
pub type Tx = sqlx::Transaction<'static, Postgres>;

/// The control plane's schema.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/control");

/// How many connections one process holds at most.
const CONNECTIONS_MAX: u32 = 16;

/// Connects and brings the schema up to date, under PostgreSQL's advisory lock, so that several processes may start at
/// once.
///
/// # Errors
/// When the database is away or a migration fails.
pub async fn open(url: &str) -> anyhow::Result<PgPool> {
    use anyhow::Context;
    let options = PgConnectOptions::from_str(url).context("`database_url` is not a PostgreSQL URL")?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(std::time::Duration::from_secs(10))
        .connect_with(options)
        .await
        .context("the control plane's database cannot be reached")?;
    MIGRATIONS
        .run(&pool)
        .await
        .context("the control plane's schema could not be brought up to date")?;
    Ok(pool)
}

/// From here on the transaction sees and changes the rows of one organization only, whatever a statement forgets: it goes on as
/// the role `howdah_tenant`, which the policies of the tables hold (`migrations/control/0131_walls.sql`). It ends with the
/// transaction, and there is no way back before.
///
/// # Errors
/// When the database is away, or its role may not become that role.
pub async fn confine(tx: &mut Tx, organization: OrganizationId) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('howdah.organization', $1, true), set_config('role', 'howdah_tenant', true)")
        .bind(organization.to_string())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// A text column that is parsed into its type when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T> Type<Postgres> for Text<T> {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }

    fn compatible(info: &PgTypeInfo) -> bool {
        <str as Type<Postgres>>::compatible(info)
    }
}

impl<'r, T> Decode<'r, Postgres> for Text<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = <&str as Decode<Postgres>>::decode(value)?;
        Ok(Self(text.parse()?))
    }
}

/// Whether a statement was refused by the named constraint or unique index.
pub fn violates(error: &sqlx::Error, constraint: &str) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.constraint() == Some(constraint))
}

/// A count or number that PostgreSQL keeps signed and that is never negative.
pub fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The signed form of a number that is far below 2^63.
pub fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
