//! One request of a person or service account: who calls, under which policy. Extracting it is the one place where a
//! token is believed, so every handler that takes a [`Call`] is authenticated and every other one is public.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chassis::http::{ApiError, EPOCH, REQUEST_ID, bearer};
use chassis::signed::VerifyError;
use contract::api::Actor;
use contract::claims::AccessClaims;
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use provenance::access::{Policy, Subject};

use crate::failure::{Answer, Failure};
use crate::idempotency::Keyed;
use crate::permissions::Rights;
use crate::plane::Plane;

/// An authenticated request of a member of the organization.
pub struct Call {
    /// The plane it came to.
    pub plane: Plane,
    claims: AccessClaims,
    /// Id of the key that the token is signed with.
    key: Arc<str>,
    rights: Rights,
    request_id: String,
    /// The idempotency key of the request.
    pub(crate) keyed: Option<Keyed>,
}

impl Call {
    /// Lets a token in under the policy that is in force now.
    ///
    /// # Errors
    /// `signed-out`, `token-expired`, `policy-unreachable`, `organization-suspended`, `not-allowed`.
    pub async fn admit(plane: Plane, token: &str, epoch: Option<u64>) -> Answer<Self> {
        let (claims, key) = believed(&plane, token).await?;
        if let Some(epoch) = epoch {
            plane.policy.wait_for_epoch(epoch).await?;
        }
        let policy = plane.policy.current(plane.now())?;
        standing(&policy, &claims)?;
        let rights = Rights {
            subject: Subject::of(&claims),
            policy,
        };
        Ok(Self {
            plane,
            claims,
            key,
            rights,
            request_id: String::new(),
            keyed: None,
        })
    }

    /// The same caller under the policy that is in force now: for requests that take long, before each thing they tell (R6).
    ///
    /// # Errors
    /// As [`Call::admit`], when he would not be let in any more.
    pub fn renewed(&self) -> Answer<Self> {
        let policy = self.plane.policy.current(self.plane.now())?;
        if !self.plane.policy.keys.holds(&self.key) {
            return Err(not_valid());
        }
        standing(&policy, &self.claims)?;
        Ok(Self {
            plane: self.plane.clone(),
            claims: self.claims.clone(),
            key: Arc::clone(&self.key),
            rights: Rights {
                subject: self.rights.subject.clone(),
                policy,
            },
            request_id: self.request_id.clone(),
            keyed: self.keyed.clone(),
        })
    }

    /// What the caller may do.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Who acts, as it is recorded.
    pub fn actor(&self) -> Actor {
        Actor {
            id: self.claims.sub,
            name: self.claims.name.clone(),
            token: self.claims.token,
            ci: self.claims.ci.clone(),
        }
    }

    /// The id of the request, for the audit trail.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The token's claims.
    pub fn claims(&self) -> &AccessClaims {
        &self.claims
    }

    /// What the caller is in the organization, by the policy and not by the token, which may be older.
    pub fn role(&self) -> OrganizationRole {
        self.rights
            .policy
            .member(self.claims.sub)
            .map_or(OrganizationRole::Member, |m| m.role)
    }

    /// Demands a role that manages the organization.
    ///
    /// # Errors
    /// `not-allowed`.
    pub fn manages(&self, what: &str) -> Answer<()> {
        if self.role().manages() && self.claims.scopes.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            ProblemKind::NotAllowed,
            format!("only owners and admins of the organization may {what}"),
        )
        .hint("ask one of them, or use a token without scopes"))
    }
}

/// Verifies the token; a key that is not known yet may be a new one, so the published keys are read once more. Also the id of its key.
async fn believed(plane: &Plane, token: &str) -> Answer<(AccessClaims, Arc<str>)> {
    let (now, keys) = (plane.now(), &plane.policy.keys);
    let mut answer = keys.access(token, now);
    if matches!(answer, Err(VerifyError::UnknownKey))
        && keys.may_ask(now)
        && let Ok(published) = plane.control.keys().await
        && keys.take(&published).is_ok()
    {
        answer = keys.access(token, now);
    }
    let claims = answer.map_err(|error| match error {
        VerifyError::Expired => Failure::new(
            ProblemKind::TokenExpired,
            "the access token has expired, or is not valid yet",
        )
        .hint("exchange the session or API token for a new one"),
        other => {
            // Who forges one is not told how far he got.
            tracing::debug!("an access token is not believed: {other}");
            not_valid()
        }
    })?;
    match chassis::signed::key_id(token) {
        Some(key) if claims.org == plane.organization => Ok((claims, key.into())),
        _ => Err(not_valid()),
    }
}

fn not_valid() -> Failure {
    Failure::new(
        ProblemKind::SignedOut,
        "the access token is not valid for this organization",
    )
    .hint("exchange the session or API token for an access token of this organization")
}

fn standing(policy: &Policy, claims: &AccessClaims) -> Answer<()> {
    if policy.is_revoked(claims.token) {
        return Err(Failure::new(ProblemKind::SignedOut, "the token was revoked").hint("log in again"));
    }
    if policy.member(claims.sub).is_none() {
        return Err(
            Failure::new(ProblemKind::NotAllowed, "you are not a member of this organization")
                .hint("ask an owner of the organization for an invitation"),
        );
    }
    if !policy.is_active() {
        return Err(Failure::new(
            ProblemKind::OrganizationSuspended,
            "the organization is suspended, so nothing in it can be used",
        )
        .hint("ask an owner of the organization"));
    }
    Ok(())
}

impl FromRequestParts<Plane> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, plane: &Plane) -> Result<Self, Failure> {
        let token = bearer(&parts.headers)?.to_owned();
        let epoch =
            match parts.headers.get(&EPOCH) {
                None => None,
                Some(value) => Some(value.to_str().ok().and_then(|v| v.parse::<u64>().ok()).ok_or_else(|| {
                    ApiError::new(ProblemKind::Malformed, "the header `Howdah-Epoch` is not a number")
                })?),
            };
        let request_id = parts.headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
        let call = Self::admit(plane.clone(), &token, epoch).await?;
        Ok(Self {
            request_id: request_id.unwrap_or_default().to_owned(),
            keyed: parts.extensions.get::<Keyed>().cloned(),
            ..call
        })
    }
}

/// The rights of a call that a stream keeps while it runs, to ask again.
#[derive(Clone)]
pub struct Standing {
    plane: Plane,
    claims: Arc<AccessClaims>,
    key: Arc<str>,
}

impl Call {
    /// What an open stream asks again with.
    pub fn keep(&self) -> Standing {
        Standing {
            plane: self.plane.clone(),
            claims: Arc::new(self.claims.clone()),
            key: Arc::clone(&self.key),
        }
    }
}

impl Standing {
    /// Whether the caller may still read what has this origin set, by the policy of this moment.
    pub fn may_still_read(&self, set: &provenance::origins::OriginSet) -> bool {
        let now = self.plane.now();
        let Ok(policy) = self.plane.policy.current(now) else {
            return false;
        };
        if !self.plane.policy.keys.holds(&self.key) {
            return false;
        }
        let subject = Subject::of(&self.claims);
        self.plane.policy.decisions.read(&policy, &subject, set, now).is_ok()
    }

    /// The plane.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }
}
