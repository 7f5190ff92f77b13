//! Grants: a role on the organization, a project or a repo, for a person, a team or a service account. Whoever holds
//! `admin` on the resource manages its grants; so do the organization's admins and owners, who are no readers by that
//! (R14). Owners may give themselves a grant, which is said loudly.

pub mod queries;
mod routes;

pub use routes::router;

use contract::api::GrantView;
use contract::ids::GrantId;
use contract::policy::{OrganizationRole, Permission, Role};

use crate::authz::{Action, Allowed};
use crate::call::Call;
use crate::refusal::Refusal;

/// A grant as it is stored, with names.
#[derive(Debug, Clone)]
pub struct StoredGrant {
    /// Its id.
    pub id: GrantId,
    /// As people see it.
    pub view: GrantView,
    /// The stored form of its resource.
    pub resource: String,
    /// The stored form of its subject.
    pub grantee: String,
}

/// Whether somebody may give himself that role, where he manages by his organization role only. What is given to a team he
/// is in or to a service account he can make tokens for is given to himself.
///
/// # Errors
/// Admins manage others' grants, not their own.
pub fn check_self_grant(role: OrganizationRole, own: bool, holds_admin: bool) -> Result<(), Refusal> {
    if own && !holds_admin && role != OrganizationRole::Owner {
        return Err(Refusal::not_allowed(
            "admins manage the grants of others; only an owner of the organization may give one to himself, to his teams and to \
             service accounts",
            "ask an owner of the organization, or an owner of the repo",
        ));
    }
    Ok(())
}

/// What the audit trail calls it when somebody who manages the organization gives himself what nobody gave him.
pub const SELF_GRANT: &str = "grant.create_for_oneself";

/// Says it in the log too.
pub(crate) fn tell_self_grant<A: Action>(call: &Call, allowed: &Allowed<A>, what: &str) {
    tracing::warn!(
        organization.id = %allowed.organization(), actor.id = %call.actor.principal(),
        "{} gave himself {what}", call.actor.name()
    );
}

/// Whether a holder of `held` may give the role: nobody gives more than he has, but who manages the organization.
pub fn may_give(held: &std::collections::BTreeSet<Permission>, role: Role, manages: bool) -> bool {
    manages || held.contains(&Permission::Admin) && role.permissions().iter().all(|p| held.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_may_give_himself_a_grant_and_an_admin_may_not() {
        assert!(check_self_grant(OrganizationRole::Owner, true, false).is_ok());
        assert!(check_self_grant(OrganizationRole::Admin, true, false).is_err());
        assert!(check_self_grant(OrganizationRole::Admin, true, true).is_ok());
        assert!(check_self_grant(OrganizationRole::Admin, false, false).is_ok());
    }

    #[test]
    fn nobody_gives_more_than_he_holds() {
        let owner = Role::Owner.permissions().iter().copied().collect();
        let viewer = Role::Viewer.permissions().iter().copied().collect();
        for role in Role::ALL {
            assert!(may_give(&owner, role, false));
            assert!(!may_give(&viewer, role, false));
            assert!(may_give(&viewer, role, true));
        }
    }
}
