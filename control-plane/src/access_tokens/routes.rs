//! `POST /v1/access-tokens`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use chassis::http::{ApiError, Json};
use contract::api::{AccessTokenMade, AccessTokenRequest, Organization};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authz::UsePlane;
use crate::call::Call;
use crate::database::Tx;
use crate::refusal::Refusal;
use crate::{organizations, planes, policy};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Exchanges a session or API token for an access token of an organization's data plane, and wakes that.
///
/// Nothing is kept of it: sent again it answers another access token.
#[utoipa::path(post, path = "/v1/access-tokens", tag = "access-tokens", responses((status = 200, body = AccessTokenMade)))]
async fn create(
    call: Call,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(body): Json<AccessTokenRequest>,
) -> Result<Json<AccessTokenMade>, Refusal> {
    let mut tx = call.begin().await?;
    let name = match body.organization {
        Some(name) => name,
        None => only_organization(&call, &mut tx).await?,
    };
    let allowed = call.authorize::<UsePlane>(&mut tx, &name).await?;
    drop(tx);
    let app = &call.app;
    let route = planes::wake(app, allowed.organization()).await?;
    // Read after the wake: the epoch that the caller must see is the newest one that there is when he gets the token.
    let mut tx = call.begin_in(&allowed).await?;
    let epoch = policy::queries::get_epoch(&mut tx, &allowed).await?;
    drop(tx);
    let jti = format!("{:032x}", u128::from_be_bytes(app.environment.random()));
    let claims = super::claims(&allowed, &app.public_url, call.now(), jti);
    Ok(Json(AccessTokenMade {
        access_token: app.keys.sign(&claims).map_err(ApiError::internal)?,
        expires_in: u64::try_from(claims.exp - claims.iat).unwrap_or(0),
        plane_url: format!("{}/o/{}", app.public_url, allowed.organization_name()),
        direct_url: direct_url(peer, route.url),
        epoch,
        organization: Organization {
            id: allowed.organization(),
            name: allowed.organization_name().clone(),
            role: allowed.role(),
            created_at: allowed.created_at(),
        },
    }))
}

/// Planes listen on this machine's loopback: elsewhere that address is another machine's, which must not see the token.
fn direct_url(peer: SocketAddr, url: String) -> Option<String> {
    peer.ip().to_canonical().is_loopback().then_some(url)
}

async fn only_organization(call: &Call, tx: &mut Tx) -> Result<OrganizationName, Refusal> {
    let mut own = organizations::queries::list_own(tx, &call.actor).await?;
    let names: Vec<String> = own.iter().map(|o| o.name.to_string()).collect();
    match (own.pop(), own.is_empty()) {
        (Some(only), true) => Ok(only.name),
        (Some(_), false) => Err(Refusal::new(
            ProblemKind::Invalid,
            format!("you belong to several organizations: {}", names.join(", ")),
        )
        .hint("name one: `organization` in the body, HOWDAH_ORG or `howdah org use NAME`")),
        (None, _) => Err(Refusal::new(ProblemKind::Invalid, "you belong to no organization yet")
            .hint("make one with `howdah org create NAME`, or accept an invitation")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_told_the_own_address_of_a_plane() {
        let told = |peer: &str| direct_url(peer.parse().unwrap(), "http://127.0.0.1:4000".to_owned()).is_some();
        assert!(told("127.0.0.1:50000") && told("[::1]:50000") && told("[::ffff:127.0.0.1]:50000"));
        assert!(!told("192.168.1.2:50000") && !told("[2001:db8::1]:50000"));
    }
}
