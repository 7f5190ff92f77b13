//! Notices: what people should know of, written in the transaction of what they tell. All of them pass through [`tell`], which
//! decides who is told and with which words: nobody hears of his own doings, and nobody is given the name of what he may not
//! discover (R15), when it is written nor when it is shown. The words and the readers of each occasion stand in `occasions`.

pub(crate) mod occasions;
mod queries;
mod routes;

use contract::ids::{AccountId, NoticeId};
use contract::policy::{Permission, Principal, Role};
pub use routes::router;

use crate::authz::{Action, Allowed};
use crate::call::Call;
use crate::database::Tx;

/// Who is told.
pub(crate) enum Readers {
    /// Him, if he is a person.
    Principal(Principal),
    /// The subject of a grant, as it is stored: a person, or those who are in a team.
    Grantee(String),
    /// Those who hold the permission on these resources, in their stored form.
    Holders(Permission, Vec<String>),
    /// Those who manage the organization.
    Managers,
}

/// What is told.
pub(crate) struct News {
    /// As the audit trail calls it.
    pub kind: &'static str,
    /// One sentence.
    pub text: String,
    /// The domains that the sentence names.
    pub about: Vec<String>,
    /// The sentence for whom may not discover all of them; he is not told without one.
    pub without_names: Option<String>,
}

/// Tells it.
///
/// # Errors
/// When the database fails; then what was to be told must fail too.
pub(crate) async fn tell<A: Action>(
    call: &Call,
    tx: &mut Tx,
    allowed: &Allowed<A>,
    readers: &Readers,
    news: &News,
) -> Result<(), sqlx::Error> {
    let mut told: Vec<AccountId> = match readers {
        Readers::Principal(Principal::Account(account)) => vec![*account],
        Readers::Principal(Principal::ServiceAccount(_)) => Vec::new(),
        Readers::Grantee(grantee) => queries::list_people_behind(tx, allowed, grantee).await?,
        Readers::Holders(permission, resources) => {
            queries::list_holders(tx, allowed, &roles_with(*permission), resources).await?
        }
        Readers::Managers => queries::list_managers(tx, allowed).await?,
    };
    told.retain(|account| Principal::Account(*account) != allowed.actor().principal());
    if told.is_empty() {
        return Ok(());
    }
    let ids: Vec<NoticeId> = told.iter().map(|_| call.id()).collect();
    queries::insert_notices(tx, allowed, &told, &ids, news, call.now()).await
}

fn roles_with(permission: Permission) -> Vec<String> {
    Role::ALL
        .into_iter()
        .filter(|role| role.permissions().contains(&permission))
        .map(|role| role.as_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_grant_and_who_can_release_are_owners() {
        assert_eq!(roles_with(Permission::Admin), ["owner"]);
        assert_eq!(roles_with(Permission::Declassify), ["owner"]);
    }
}
