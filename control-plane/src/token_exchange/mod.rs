//! CI without secrets: a run shows the OIDC token that its issuer made for it and gets a token of ours (`hwd_ci_…`) that acts as a
//! service account, under a trust of the organization. It lives as long as the trust says, at most a quarter of an hour and not as
//! long as the OIDC token may: that of GitHub ends after minutes, that of GitLab with the job, and neither says for how long work
//! here may go on; a run that takes longer shows another one. Every refusal is answered alike; the organization's audit trail says
//! why.

mod fitting;
pub mod issuers;
mod queries;
mod routes;
pub mod verify;

use chrono::{DateTime, Duration, Utc};
use contract::api::{ExchangedToken, TokenExchange};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};
pub use routes::router;
use sqlx::PgPool;

use crate::app::App;
use crate::audit::{self, Event, SystemIn, Who};
use crate::authz::System;
use crate::ci_trusts::{self, Trusted};
use crate::refusal::Refusal;
use fitting::{Misfit, choose, identity};
use issuers::NoKey;
use verify::{Claims, Doubt};

const EXCHANGE: System = System::because("an issuer that the operator allows vouches for the run");
const TELL: System = System::because("who was refused is told nothing, the organization is told why");

/// Why there is no token.
enum Refused {
    /// It is not believed.
    Doubt(Doubt),
    /// Its issuer made it, but no trust lets it in.
    Misfit(Claims, Misfit),
    /// It was used before; the trust that lets it in.
    Used(Claims, String),
    /// Nothing of the token: we cannot tell now.
    Unable(Refusal),
}

impl From<Doubt> for Refused {
    fn from(doubt: Doubt) -> Self {
        Self::Doubt(doubt)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Unable(refusal)
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Unable(error.into())
    }
}

/// The one answer to whatever is wrong.
fn refused() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "the token of the CI run is not accepted for that organization",
    )
    .hint("the organization's audit trail says why: one of its admins can look there (`howdah org audit`)")
}

/// Exchanges a run's token.
async fn exchange(app: &App, wish: &TokenExchange) -> Result<ExchangedToken, Refused> {
    let now = app.environment.now();
    let claims = believe(app, &wish.token, now).await?;
    let issuer = claims.text("iss").unwrap_or_default();
    let provider = app.ci_issuers.find(&issuer).map(|i| i.provider).ok_or(Doubt::Issuer)?;
    let wanted = wish.trust.as_deref();
    let place = (issuer.as_str(), provider);
    let mut tx = app.pool.begin().await?;
    // Whom nothing lets in must not hold up the organization, so its row is locked only for who fits; what he fits is
    // looked at again then, because a trust that is deleted takes only those tokens along that are there.
    let trusts = ci_trusts::queries::list_trusts_in(&mut tx, &EXCHANGE, &wish.organization, place, false).await?;
    if let Err(misfit) = choose(&trusts, &claims, wanted) {
        return Err(Refused::Misfit(claims, misfit));
    }
    let trusts = ci_trusts::queries::list_trusts_in(&mut tx, &EXCHANGE, &wish.organization, place, true).await?;
    let trusted = match choose(&trusts, &claims, wanted) {
        Ok(trusted) => trusted,
        Err(misfit) => return Err(Refused::Misfit(claims, misfit)),
    };
    if !queries::spend(&mut tx, &EXCHANGE, &claims).await? {
        return Err(Refused::Used(claims, trusted.trust.name.clone()));
    }
    let secret = SecretToken::generate(TokenKind::Ci, app.environment.random());
    let made = made(app, wish, trusted, &claims, &secret, now);
    queries::insert_token(&mut tx, &EXCHANGE, trusted, &made, &secret, now).await?;
    let acting = SystemIn {
        system: &EXCHANGE,
        organization: trusted.organization,
        who: Who {
            id: trusted.service_account.to_string(),
            name: trusted.trust.service_account.to_string(),
            token: made.id.to_string(),
        },
    };
    let event = Event {
        action: "token.exchange",
        subject: format!("by the trust {}: {}", trusted.trust.name, made.identity),
        at: now,
    };
    audit::record(&mut tx, &acting, &event).await?;
    tx.commit().await?;
    Ok(made)
}

fn made(
    app: &App,
    wish: &TokenExchange,
    trusted: &Trusted,
    claims: &Claims,
    secret: &SecretToken,
    now: DateTime<Utc>,
) -> ExchangedToken {
    ExchangedToken {
        id: app.environment.id(),
        token: secret.expose().to_owned(),
        expires_at: now + Duration::minutes(i64::from(trusted.trust.life_minutes)),
        organization: wish.organization.clone(),
        service_account: trusted.trust.service_account.clone(),
        scopes: trusted.trust.scopes.clone(),
        identity: identity(trusted.trust.provider, trusted.trust.id, claims),
    }
}

/// The claims of a token that its issuer signed.
async fn believe(app: &App, token: &str, now: DateTime<Utc>) -> Result<Claims, Refused> {
    let peek = verify::peek(token)?;
    let key = app
        .ci_issuers
        .key(&peek.issuer, &peek.kid, peek.algorithm, now)
        .await
        .map_err(|error| match error {
            NoKey::Issuer => Refused::Doubt(Doubt::Issuer),
            NoKey::Unknown => Refused::Doubt(Doubt::Key),
            NoKey::Unreachable => Refused::Unable(
                Refusal::new(
                    ProblemKind::Overloaded,
                    "the keys of the token's issuer cannot be read at the moment",
                )
                .hint("repeat the request in a few seconds"),
            ),
        })?;
    Ok(verify::verify(token, &peek, &key, now)?)
}

/// Writes down why a run was refused, where an organization of that name trusts any. Strangers can make it write: so it is done
/// beside the answer, and a few times a minute at most: of tokens that a known issuer has signed for each issuer and trust apart (`near`),
/// of all others together.
fn tell(app: &std::sync::Arc<App>, organization: &OrganizationName, subject: String, near: String) {
    let (app, name) = (std::sync::Arc::clone(app), organization.clone());
    app.shutdown.clone().spawn("a refused CI run", async move {
        if let Err(refusal) = write_down(&app, &name, subject, near).await {
            tracing::warn!(
                "why a CI run was refused could not be written down: {}",
                refusal.0.0.detail
            );
        }
    });
}

async fn write_down(app: &App, name: &OrganizationName, subject: String, near: String) -> Result<(), Refusal> {
    let mut tx = app.pool.begin().await?;
    let Some(organization) = ci_trusts::queries::find_trusting(&mut tx, &TELL, name).await? else {
        return Ok(());
    };
    if !app.limiters.refused_run(organization, near) {
        tracing::warn!(organization.id = %organization, "a CI run was refused: {subject}");
        return Ok(());
    }
    let acting = SystemIn {
        system: &TELL,
        organization,
        who: nobody(),
    };
    let event = Event {
        action: "token.exchange_refused",
        subject,
        at: app.environment.now(),
    };
    audit::record(&mut tx, &acting, &event).await?;
    tx.commit().await?;
    Ok(())
}

fn nobody() -> Who {
    Who {
        id: "ci".to_owned(),
        name: "a CI run".to_owned(),
        token: String::new(),
    }
}

/// Forgets what is over.
///
/// # Errors
/// When the database fails.
pub async fn forget_expired(pool: &PgPool, proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    queries::forget(pool, proof, now).await
}
