//! Passkeys (WebAuthn): a key on a person's device, which the device uses only after it has verified the person, so it stands for
//! both factors. Challenges are kept here, good once; nobody is asked for an address first, so nothing tells who has an account.

pub mod queries;
mod routes;

use chassis::http::ApiError;
use chrono::Duration;
use contract::ids::AccountId;
use contract::problem::ProblemKind;
pub use queries::delete_expired;
pub use routes::router;
use webauthn_rs::prelude::Uuid;
use webauthn_rs::{Webauthn, WebauthnBuilder};

use crate::refusal::Refusal;

/// For how long a challenge is good.
const PATIENCE: Duration = Duration::minutes(5);
const NAME_LENGTH_MAX: usize = 100;

/// Checks what devices sign, for the service at that address. Keys are bound to a name; a service that is reached by the number of
/// this machine has the name that browsers on it know it by.
///
/// # Errors
/// When the address has no name that keys can be bound to.
pub fn checker(public_url: &str) -> anyhow::Result<Webauthn> {
    let mut origin = url::Url::parse(public_url)?;
    let host = origin
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    if host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        origin.set_host(Some("localhost"))?;
    }
    let name = origin.domain().unwrap_or_default().to_owned();
    let builder = WebauthnBuilder::new(&name, &origin)
        .map_err(|e| anyhow::anyhow!("`{public_url}` has no name that passkeys can be bound to: {e:?}"))?;
    let built = builder.rp_name("Howdah").build();
    built.map_err(|e| anyhow::anyhow!("passkeys: {e:?}"))
}

/// An account as devices know it.
fn handle(account: AccountId) -> Result<Uuid, Refusal> {
    let text = account.to_string();
    let hex = text.rsplit('_').next().unwrap_or_default();
    Ok(Uuid::try_parse(hex).map_err(ApiError::internal)?)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.trim().is_empty() || name.len() > NAME_LENGTH_MAX || name.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            "/name",
            format!("a passkey's name has 1 to {NAME_LENGTH_MAX} characters, so that it is known where it is"),
        ));
    }
    Ok(())
}

/// The one answer for whatever is wrong with what a device sent.
fn refused(why: &dyn std::fmt::Debug) -> Refusal {
    tracing::debug!("a passkey was not taken: {why:?}");
    Refusal::new(
        ProblemKind::SignedOut,
        "that is no passkey of an account here, or the challenge is over",
    )
    .hint("begin again, or log in another way")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bound_to_the_services_name_and_on_this_machine_to_localhost() {
        let origin = |url: &str| checker(url).ok().map(|c| c.get_allowed_origins()[0].to_string());
        assert_eq!(
            origin("http://127.0.0.1:7433").as_deref(),
            Some("http://localhost:7433/")
        );
        assert_eq!(
            origin("https://howdah.example.org").as_deref(),
            Some("https://howdah.example.org/")
        );
        assert_eq!(origin("http://10.0.0.1:7433"), None);
    }

    #[test]
    fn an_account_is_known_by_the_number_of_its_id() {
        let id = AccountId::generate(7, [1; 10]);
        let handle = handle(id).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(id.to_string().ends_with(&handle.simple().to_string()));
    }
}
