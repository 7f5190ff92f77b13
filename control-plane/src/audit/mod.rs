//! One row for each change in an organization, written in the change's own transaction and chained by hash, so that a row
//! that is removed or altered later shows. The row of the organization is the lock under which a chain grows. The format is
//! `contract::audit`; whoever may read the trail can take all of it along, with a signed checkpoint, and check it elsewhere.

mod checkpoints;
mod export;
mod queries;
mod routes;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use contract::api::AuditEvent;
use contract::audit::{Entry, FORMAT, Trail};
use contract::ids::OrganizationId;
pub use routes::router;

use crate::authz::{Action, Allowed, AsPlane, System};
use crate::database::{Tx, unsigned};

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

impl Who {
    /// A part of the service, or whoever operates it: no session or token is used.
    pub(crate) fn without_token(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: id.to_owned(),
            token: String::new(),
        }
    }
}

/// By what credential, in which request and from where; empty where the service acts by itself.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `session`, `api token`, or a run of CI.
    pub via: String,
    /// Id of the request.
    pub request_id: String,
    /// The address that it came from.
    pub address: String,
}

impl Source {
    /// What a request says of itself, before anybody has asked whose it is.
    pub fn of(parts: &Parts) -> Self {
        let request_id = parts.headers.get(&chassis::http::REQUEST_ID);
        let peer = parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>();
        Self {
            via: String::new(),
            request_id: request_id
                .and_then(|id| id.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            address: peer.map_or_else(String::new, |peer| peer.0.ip().to_canonical().to_string()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Source {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts))
    }
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

/// Writes the row of a change that the service makes by itself.
///
/// # Errors
/// When the database fails; then the change must fail too.
pub async fn record(tx: &mut Tx, proof: &impl Acting, event: &Event<'_>) -> Result<(), sqlx::Error> {
    record_from(tx, proof, &Source::default(), event).await
}

/// Writes the row of a change that a request asks for.
///
/// # Errors
/// When the database fails; then the change must fail too.
pub async fn record_from(
    tx: &mut Tx,
    proof: &impl Acting,
    source: &Source,
    event: &Event<'_>,
) -> Result<(), sqlx::Error> {
    let (seq, prev_hash) = queries::lock_chain(tx, proof).await?;
    let (seq, who) = (unsigned(seq), proof.who());
    let entry = Entry {
        trail: Trail::Control,
        organization: proof.organization(),
        seq,
        at: event.at,
        actor: &who.id,
        actor_name: &who.name,
        token: &who.token,
        via: &source.via,
        action: event.action,
        subject: &event.subject,
        request_id: &source.request_id,
        address: &source.address,
    };
    let row = row(&entry, &prev_hash);
    queries::insert_event(tx, proof, &row).await?;
    tracing::info!(
        organization.id = %proof.organization(), actor.id = %who.id, audit.action = event.action,
        "{} {}: {}", who.name, event.action, event.subject
    );
    Ok(())
}

fn row(entry: &Entry<'_>, prev_hash: &[u8]) -> AuditEvent {
    AuditEvent {
        trail: entry.trail,
        organization: entry.organization,
        seq: entry.seq,
        format: FORMAT,
        at: entry.at,
        actor: entry.actor.to_owned(),
        actor_name: entry.actor_name.to_owned(),
        token: entry.token.to_owned(),
        via: entry.via.to_owned(),
        action: entry.action.to_owned(),
        subject: entry.subject.to_owned(),
        request_id: entry.request_id.to_owned(),
        address: entry.address.to_owned(),
        prev_hash: hex::encode(prev_hash),
        hash: hex::encode(entry.link(prev_hash)),
    }
}
