//! Tickets and cookies: random, kept as digests, for one service and one session or API token each.

use chrono::{DateTime, Duration, Utc};
use contract::claims::AccessClaims;
use contract::ids::{OrganizationId, TokenId};
use contract::names::{OrganizationName, ProjectName, RepoName};
use sha2::{Digest, Sha256};

use super::queries;
use crate::app::App;
use crate::authz::{self, Actor, System, UsePlane};
use crate::refusal::Refusal;
use crate::{access_tokens, planes};

const ENTRIES: System = System::because("who shows the secret of an entry acts for whom it was made");
/// A link is followed at once.
const TICKET_LASTS: Duration = Duration::minutes(1);
/// A day's work; then `howdah open` again.
const COOKIE_LASTS: Duration = Duration::hours(12);

/// Which service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub organization: OrganizationId,
    pub organization_name: OrganizationName,
    pub project: ProjectName,
    pub name: RepoName,
}

/// The two kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ticket,
    Cookie,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Cookie => "cookie",
        }
    }
}

/// For whom an entry lets whom in where.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub token: TokenId,
    pub place: Place,
}

pub(super) fn digest(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Makes an entry; answers its secret.
pub(super) async fn make(app: &App, kind: Kind, entry: &Entry) -> Result<String, Refusal> {
    let secret = hex::encode(app.environment.random::<32>());
    let lasts = match kind {
        Kind::Ticket => TICKET_LASTS,
        Kind::Cookie => COOKIE_LASTS,
    };
    let until: DateTime<Utc> = app.environment.now() + lasts;
    queries::insert(&app.pool, &ENTRIES, (kind, &digest(&secret)), entry, until).await?;
    Ok(secret)
}

/// Turns a ticket into a cookie, once.
pub(super) async fn redeem(app: &App, ticket: &str) -> Result<Option<(String, Entry)>, Refusal> {
    let now = app.environment.now();
    let Some(entry) = queries::take_ticket(&app.pool, &ENTRIES, &digest(ticket), now).await? else {
        return Ok(None);
    };
    let cookie = make(app, Kind::Cookie, &entry).await?;
    Ok(Some((cookie, entry)))
}

/// The entry of a cookie that is still good.
pub(super) async fn find(app: &App, cookie: &str) -> Result<Option<Entry>, Refusal> {
    let now = app.environment.now();
    Ok(queries::find_cookie(&app.pool, &ENTRIES, &digest(cookie), now).await?)
}

/// Whom an entry acts for, if the session or token is still good.
pub(super) async fn actor(app: &App, entry: &Entry) -> Result<Actor, Refusal> {
    authz::authenticate_again(&app.pool, entry.token, app.environment.now()).await
}

/// An access token for the plane of that organization, and the plane's address: what the client of an API would do.
pub(super) async fn access(app: &App, actor: &Actor, name: &OrganizationName) -> Result<Access, Refusal> {
    let mut tx = app.pool.begin().await?;
    let allowed = authz::authorize::<UsePlane>(&mut tx, actor, name).await?;
    drop(tx);
    let route = planes::wake(app, allowed.organization()).await?;
    let jti = format!("{:032x}", u128::from_be_bytes(app.environment.random()));
    let claims: AccessClaims = access_tokens::claims(&allowed, &app.public_url, app.environment.now(), jti);
    Ok(Access {
        organization: allowed.organization(),
        organization_name: allowed.organization_name().clone(),
        plane_url: route.url,
        token: app.keys.sign(&claims).map_err(chassis::http::ApiError::internal)?,
    })
}

/// A way to a plane.
pub(super) struct Access {
    pub organization: OrganizationId,
    pub organization_name: OrganizationName,
    pub plane_url: String,
    pub token: String,
}
