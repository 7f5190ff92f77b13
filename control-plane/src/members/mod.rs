//! Members of an organization and their roles. An organization always has an owner: the last one can neither leave nor
//! step down.

pub mod queries;
mod routes;

use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
pub use routes::router;

use crate::refusal::Refusal;

/// Why a membership is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeMember {
    /// Nobody would own the organization.
    #[error("the last owner can neither leave nor step down")]
    LastOwner,
    /// Admins manage everybody but owners.
    #[error("only an owner may make, change or remove an owner")]
    OwnersOnly,
}

/// Whether somebody of role `by` may change a member of role `from` to `to` (`None` = out), where `owners` exist.
///
/// # Errors
/// Why not.
pub fn check_change(
    by: OrganizationRole,
    from: OrganizationRole,
    to: Option<OrganizationRole>,
    owners: u64,
) -> Result<(), ChangeMember> {
    let touches_owner = from == OrganizationRole::Owner || to == Some(OrganizationRole::Owner);
    if touches_owner && by != OrganizationRole::Owner {
        return Err(ChangeMember::OwnersOnly);
    }
    if from == OrganizationRole::Owner && to != Some(OrganizationRole::Owner) && owners <= 1 {
        return Err(ChangeMember::LastOwner);
    }
    Ok(())
}

impl From<ChangeMember> for Refusal {
    fn from(error: ChangeMember) -> Self {
        match error {
            ChangeMember::LastOwner => Self::new(ProblemKind::Conflict, error.to_string())
                .hint("make somebody else an owner first, or delete the organization"),
            ChangeMember::OwnersOnly => Self::not_allowed(&error.to_string(), "ask an owner of the organization"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OrganizationRole::{Admin, Member, Owner};

    #[test]
    fn owners_are_changed_by_owners_and_never_down_to_none() {
        for (by, from, to, owners, expected) in [
            (Owner, Owner, None, 1, Err(ChangeMember::LastOwner)),
            (Owner, Owner, Some(Admin), 1, Err(ChangeMember::LastOwner)),
            (Owner, Owner, Some(Owner), 1, Ok(())),
            (Owner, Owner, None, 2, Ok(())),
            (Owner, Member, Some(Owner), 1, Ok(())),
            (Admin, Member, Some(Owner), 1, Err(ChangeMember::OwnersOnly)),
            (Admin, Owner, None, 2, Err(ChangeMember::OwnersOnly)),
            (Admin, Member, None, 1, Ok(())),
            (Admin, Admin, Some(Member), 1, Ok(())),
        ] {
            assert_eq!(
                check_change(by, from, to, owners),
                expected,
                "{by:?} {from:?} {to:?} {owners}"
            );
        }
    }
}
