//! One row for each change in an organization, written in the change's own transaction and chained by hash, so that a row
//! that is removed or altered later shows. The row of the organization is the lock under which a chain grows.

mod queries;

use chrono::{DateTime, Utc};
use contract::ids::OrganizationId;
use sha2::{Digest, Sha256};

use crate::authz::{Action, Allowed, AsPlane, System};
use crate::database::Tx;

/// Who did something, as the audit trail names him.
#[derive(Debug, Clone)]
pub struct Who {
    /// The principal, or the part of the service.
    pub id: String,
    /// Address or name at that time.
    pub name: String,
    /// The session or token that was used, empty for the service itself.
    pub token: String,
}

/// A proof that names an organization and who acts in it.
pub trait Acting: Sync {
    /// The organization.
    fn organization(&self) -> OrganizationId;
    /// Who acts.
    fn who(&self) -> Who;
}

impl<A: Action> Acting for Allowed<A> {
    fn organization(&self) -> OrganizationId {
        Allowed::organization(self)
    }

    fn who(&self) -> Who {
        Who {
            id: self.actor().principal().to_string(),
            name: self.actor().name().to_owned(),
            token: self.actor().token().to_string(),
        }
    }
}

impl Acting for AsPlane {
    fn organization(&self) -> OrganizationId {
        AsPlane::organization(self)
    }

    fn who(&self) -> Who {
        Who {
            id: "data-plane".to_owned(),
            name: "data plane".to_owned(),
            token: String::new(),
        }
    }
}

/// The service itself, or a caller that is no member yet, acting in one organization.
pub struct SystemIn<'a> {
    /// Why no caller's rights are in question.
    pub system: &'a System,
    /// The organization.
    pub organization: OrganizationId,
    /// Who acts.
    pub who: Who,
}

impl Acting for SystemIn<'_> {
    fn organization(&self) -> OrganizationId {
        self.organization
    }

    fn who(&self) -> Who {
        self.who.clone()
    }
}

/// One change.
#[derive(Debug)]
pub struct Event<'a> {
    /// `noun.verb`.
    pub action: &'a str,
    /// What was changed, in words or ids; never a secret.
    pub subject: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Writes the row of a change.
///
/// # Errors
/// When the database fails; then the change must fail too.
pub async fn record(tx: &mut Tx, proof: &impl Acting, event: &Event<'_>) -> Result<(), sqlx::Error> {
    let (seq, prev_hash) = queries::lock_chain(tx, proof).await?;
    let who = proof.who();
    let hash = link(&prev_hash, proof.organization(), seq, &who, event);
    queries::insert_event(tx, proof, seq, &who, event, &prev_hash, &hash).await?;
    tracing::info!(
        organization.id = %proof.organization(), actor.id = %who.id, audit.action = event.action,
        "{} {}: {}", who.name, event.action, event.subject
    );
    Ok(())
}

/// The hash of a row: of the one before it and of everything the row says, each part with its length.
fn link(prev_hash: &[u8], organization: OrganizationId, seq: i64, who: &Who, event: &Event<'_>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let at = event.at.timestamp_micros().to_be_bytes();
    let (seq, organization) = (seq.to_be_bytes(), organization.to_string());
    for part in [
        prev_hash,
        organization.as_bytes(),
        &seq,
        &at,
        who.id.as_bytes(),
        who.name.as_bytes(),
        who.token.as_bytes(),
        event.action.as_bytes(),
        event.subject.as_bytes(),
    ] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
