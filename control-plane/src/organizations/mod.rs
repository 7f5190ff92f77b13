//! Organizations: the tenants. Making one also enqueues its data plane in the same transaction; deleting one only states
//! the wish, and the reconciler takes the tenant apart and writes the receipt.

pub mod queries;
mod routes;

use contract::api::Organization;
use contract::ids::AccountId;
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
pub use routes::router;

use crate::app::App;
use crate::audit::{self, Event, Source, SystemIn, Who};
use crate::authz::System;
use crate::database::Tx;
use crate::planes;
use crate::refusal::Refusal;

/// Names that would be mistaken for parts of the service.
const RESERVED: [&str; 6] = ["admin", "api", "howdah", "internal", "root", "system"];

/// Whether an organization may be called that.
///
/// # Errors
/// When the name would be mistaken for a part of the service.
pub(crate) fn check_name(name: &OrganizationName) -> Result<(), Refusal> {
    if RESERVED.contains(&name.as_str().to_lowercase().as_str()) {
        return Err(Refusal::invalid(
            "/name",
            format!("`{name}` is reserved: choose another name"),
        ));
    }
    Ok(())
}

/// Who founds an organization, and by what request.
pub(crate) struct Founder<'a> {
    /// The account.
    pub id: AccountId,
    /// Its address.
    pub email: &'a str,
    /// The session in use; empty while signing up.
    pub token: String,
    /// The request.
    pub source: &'a Source,
}

/// Makes an organization whose first owner is that account, and enqueues its plane.
pub(crate) async fn found(
    app: &App,
    tx: &mut Tx,
    founder: Founder<'_>,
    name: OrganizationName,
) -> Result<Organization, Refusal> {
    check_name(&name)?;
    let proof = System::because("anybody may found an organization");
    let organization = Organization {
        id: app.environment.id(),
        name,
        role: OrganizationRole::Owner,
        created_at: app.environment.now(),
    };
    if !queries::insert_organization(tx, &proof, &organization, founder.id).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("the name `{}` is taken", organization.name),
        )
        .hint("choose another name"));
    }
    planes::enqueue(app, tx, &proof, organization.id).await?;
    let acting = SystemIn {
        system: &proof,
        organization: organization.id,
        who: Who {
            id: founder.id.to_string(),
            name: founder.email.to_owned(),
            token: founder.token,
        },
    };
    let event = Event {
        action: "organization.create",
        subject: organization.name.to_string(),
        at: organization.created_at,
    };
    audit::record_from(tx, &acting, founder.source, &event).await?;
    Ok(organization)
}
