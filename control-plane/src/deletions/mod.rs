//! Deleted organizations. Deleting ends all access at once and keeps everything for a while, in which an owner may have it back;
//! then the reconciler takes the tenant apart, and what was erased is told store by store in a receipt that the service signs
//! and that those who owned it can read for good.

pub mod queries;
mod routes;

use chrono::{DateTime, Utc};
use contract::api::DeletionReceipt;
pub(crate) use routes::erase_now;
pub use routes::router;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::audit::{self, Event, SystemIn, Who};
use crate::authz::System;
use crate::planes::queries::PlaneRow;

/// Where a deleted organization stands.
pub fn state(erased: bool, erasing: bool, kept_until: DateTime<Utc>, now: DateTime<Utc>) -> &'static str {
    if erased {
        "erased"
    } else if erasing || now >= kept_until {
        "erasing"
    } else {
        "kept"
    }
}

/// What the signature under a receipt says.
#[derive(Serialize)]
struct ReceiptClaims<'a> {
    iss: &'a str,
    aud: String,
    iat: i64,
    digest: &'a str,
    receipt: &'a DeletionReceipt,
}

/// Removes what the control plane knows of an organization whose stores are gone, all but its audit trail, and writes the
/// receipt: one transaction, so there is no receipt of something that is still there.
///
/// # Errors
/// When the database is away.
pub(crate) async fn erase(app: &App, proof: &System, row: &PlaneRow, stores: &[(&str, String)]) -> anyhow::Result<()> {
    let (organization, now) = (row.record.identity.organization, app.environment.now());
    let mut tx = app.pool.begin().await?;
    queries::delete_rows(&mut tx, proof, organization, stores, now).await?;
    let acting = SystemIn {
        system: proof,
        organization,
        who: Who::without_token("reconciler"),
    };
    let event = Event {
        action: "organization.erase",
        subject: format!("{} with all of its data", row.record.name),
        at: now,
    };
    audit::record(&mut tx, &acting, &event).await?;
    let receipt = queries::get_receipt(&mut tx, proof, organization, now).await?;
    let document = serde_json::to_string(&receipt)?;
    let digest = hex::encode(Sha256::digest(document.as_bytes()));
    let signed = app.keys.sign(&ReceiptClaims {
        iss: &app.public_url,
        aud: format!("receipt:{organization}"),
        iat: now.timestamp(),
        digest: &digest,
        receipt: &receipt,
    })?;
    queries::insert_document(&mut tx, proof, organization, &document, &digest, &signed).await?;
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_is_kept_until_its_time_is_over_or_somebody_says_so() {
        let at = |days| DateTime::UNIX_EPOCH + chrono::Duration::days(days);
        assert_eq!(state(false, false, at(14), at(13)), "kept");
        assert_eq!(state(false, false, at(14), at(14)), "erasing");
        assert_eq!(state(false, true, at(14), at(1)), "erasing");
        assert_eq!(state(true, true, at(14), at(15)), "erased");
    }
}
