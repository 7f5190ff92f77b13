//! Invitations: single use, seven days, bound to an address. The secret is shown to whoever invites, once.

pub mod queries;
mod routes;

use chrono::{DateTime, Duration, Utc};
use contract::problem::ProblemKind;
pub use routes::router;

use crate::refusal::Refusal;

/// How long an invitation is good.
pub const LIFETIME: Duration = Duration::days(7);

/// Where an invitation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvitationState {
    /// It can be accepted.
    Pending,
    /// It was.
    Accepted,
    /// It was taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl InvitationState {
    /// Works out the state.
    pub fn of(
        accepted_at: Option<DateTime<Utc>>,
        revoked_at: Option<DateTime<Utc>>,
        expires_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Self {
        if accepted_at.is_some() {
            Self::Accepted
        } else if revoked_at.is_some() {
            Self::Revoked
        } else if now >= expires_at {
            Self::Expired
        } else {
            Self::Pending
        }
    }

    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// Why an invitation is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptInvitation {
    /// It was used, taken back or is too old.
    #[error("the invitation is {state}, it can be used no more")]
    Over {
        /// Its state's word.
        state: &'static str,
        /// The organization.
        organization: String,
    },
    /// It is somebody else's.
    #[error("the invitation is for another address than yours")]
    OtherAddress,
}

/// Whether the holder of that address may accept it.
///
/// # Errors
/// Why not.
pub fn check_accept(
    state: InvitationState,
    invited_key: &str,
    own_key: &str,
    organization: &str,
) -> Result<(), AcceptInvitation> {
    if invited_key != own_key {
        return Err(AcceptInvitation::OtherAddress);
    }
    match state {
        InvitationState::Pending => Ok(()),
        over => Err(AcceptInvitation::Over {
            state: over.as_str(),
            organization: organization.to_owned(),
        }),
    }
}

impl From<AcceptInvitation> for Refusal {
    fn from(error: AcceptInvitation) -> Self {
        let text = error.to_string();
        match error {
            AcceptInvitation::Over { organization, .. } => Self::new(ProblemKind::InvitationExpired, text)
                .hint(format!("ask an owner of `{organization}` for a new invitation")),
            AcceptInvitation::OtherAddress => {
                Self::not_allowed(&text, "log in with the address that the invitation was made for")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_good_once_for_its_address_until_its_time_is_over() {
        let at = |days| DateTime::UNIX_EPOCH + Duration::days(days);
        let state = |accepted, revoked, now| InvitationState::of(accepted, revoked, at(7), now);
        assert_eq!(state(None, None, at(6)), InvitationState::Pending);
        assert_eq!(state(None, None, at(7)), InvitationState::Expired);
        assert_eq!(state(Some(at(1)), None, at(2)), InvitationState::Accepted);
        assert_eq!(state(None, Some(at(1)), at(2)), InvitationState::Revoked);
        assert_eq!(check_accept(InvitationState::Pending, "a@x", "a@x", "acme"), Ok(()));
        assert_eq!(
            check_accept(InvitationState::Pending, "a@x", "b@x", "acme"),
            Err(AcceptInvitation::OtherAddress)
        );
        assert!(check_accept(InvitationState::Accepted, "a@x", "a@x", "acme").is_err());
    }
}
