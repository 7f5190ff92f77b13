//! `POST /v1/tokens/{id}/rotate`: another secret for the same rights. It is a token of its own, so that what is done with the old one
//! shows until it ends, and ending it at once ends all that came of it. What an organization decided of the old one holds for the new
//! one too. A token that rotates itself gains no time by it.

use axum::http::StatusCode;
use chassis::http::{Json, Path};
use chassis::idempotency::KeyHeader;
use chrono::{DateTime, Duration, Utc};
use contract::api::{ApiToken, RotateToken};
use contract::ids::TokenId;
use contract::problem::ProblemKind;
use contract::token::SecretToken;

use super::{DAYS_MAX, is_powerful, kind_of, parse_scopes, queries, routes};
use crate::authz::{self, Credential};
use crate::call::Call;
use crate::refusal::Refusal;

const OVERLAP_HOURS_DEFAULT: u32 = 24;
const OVERLAP_HOURS_MAX: u32 = 72;

/// When the new token ends, and the old one.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    new: DateTime<Utc>,
    old: DateTime<Utc>,
}

/// `by_itself`: the old token asks; `at_most`: when the token that asks ends.
fn ends(
    old: &ApiToken,
    overlap: Duration,
    by_itself: bool,
    at_most: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Ends {
    let life = (old.expires_at - old.created_at).min(Duration::days(i64::from(DAYS_MAX)));
    let new = if by_itself { old.expires_at } else { now + life };
    Ends {
        new: at_most.map_or(new, |limit| new.min(limit)),
        old: old.expires_at.min(now + overlap),
    }
}

fn overlap(wish: &RotateToken) -> Result<Duration, Refusal> {
    let hours = wish.overlap_hours.unwrap_or(OVERLAP_HOURS_DEFAULT);
    if hours > OVERLAP_HOURS_MAX {
        return Err(Refusal::invalid(
            "/overlap_hours",
            format!("the old secret stays good for {OVERLAP_HOURS_MAX} hours at most, not {hours}"),
        ));
    }
    Ok(Duration::hours(i64::from(hours)))
}

/// Makes another secret for a token; the old one ends after the overlap.
#[utoipa::path(post, path = "/v1/tokens/{id}/rotate", tag = "tokens", params(("id" = TokenId, Path), KeyHeader), request_body = RotateToken,
    responses((status = 201, body = ApiToken)))]
pub(super) async fn rotate(
    call: Call,
    Path(id): Path<TokenId>,
    Json(wish): Json<RotateToken>,
) -> Result<(StatusCode, Json<ApiToken>), Refusal> {
    let by_itself = id == call.actor.token();
    if !by_itself {
        call.actor.unlimited()?;
    }
    let overlap = overlap(&wish)?;
    let now = call.now();
    let mut tx = call.begin().await?;
    let by_session = call.actor.credential() == Credential::Session;
    if by_session {
        authz::still_stands(&mut tx, &call.actor, now).await?;
    }
    call.unanswered(&mut tx).await?;
    let old = queries::find_visible(&mut tx, &call.actor, id, now)
        .await?
        .filter(|token| token.revoked_at.is_none() && token.expires_at > now)
        .ok_or_else(Refusal::not_found)?;
    // Another secret is like another token.
    if by_session && is_powerful(&parse_scopes(&old.scopes)?) {
        call.actor.proven(now)?;
    }
    if old.ci.is_some() || call.actor.ci().is_some() {
        return Err(Refusal::not_allowed(
            "the token of a CI run is not rotated",
            "exchange another OIDC token of the run",
        ));
    }
    if old.replaced_by.is_some() {
        return Err(
            Refusal::new(ProblemKind::Conflict, "the token was rotated before").hint("rotate the one that replaced it")
        );
    }
    let limit = (!by_session).then(|| call.actor.expires_at());
    let ends = ends(&old, overlap, by_itself, limit, now);
    let secret = SecretToken::generate(kind_of(old.principal), call.app.environment.random());
    let new = ApiToken {
        id: call.id(),
        created_at: now,
        expires_at: ends.new,
        last_used_at: None,
        secret: Some(secret.expose().to_owned()),
        ..old.clone()
    };
    queries::insert_token(&mut tx, &call.actor, &new, new.organization, &secret).await?;
    queries::replace(&mut tx, &call.actor, (old.id, new.id), ends.old, by_itself).await?;
    let changed = if overlap.is_zero() {
        routes::revoke_in(&call, &mut tx, old.id).await?
    } else {
        routes::record_own(
            &call,
            &mut tx,
            old.organization,
            "token.rotate",
            format!("{} to {}", old.id, new.id),
        )
        .await?;
        Vec::new()
    };
    let answer = call.commit(tx, StatusCode::CREATED, new).await?;
    call.app.policy.announce_all(&changed);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_rotates_itself_lives_no_longer() {
        let at = |days| DateTime::UNIX_EPOCH + Duration::days(days);
        let old = ApiToken {
            id: TokenId::generate(1, [1; 10]),
            name: "x".to_owned(),
            principal: contract::policy::Principal::Account(contract::ids::AccountId::generate(1, [1; 10])),
            scopes: Vec::new(),
            created_at: at(0),
            expires_at: at(90),
            last_used_at: None,
            revoked_at: None,
            kind: "pat".to_owned(),
            principal_name: String::new(),
            organization: None,
            idle_days: None,
            replaced_by: None,
            standing: None,
            ci: None,
            secret: None,
        };
        let (day, found) = (Duration::days(1), |by_itself, limit| {
            ends(&old, Duration::days(1), by_itself, limit, at(80))
        });
        assert_eq!(
            found(false, None),
            Ends {
                new: at(170),
                old: at(81)
            }
        );
        assert_eq!(
            found(true, Some(at(90))),
            Ends {
                new: at(90),
                old: at(81)
            }
        );
        assert_eq!(
            found(false, Some(at(100))),
            Ends {
                new: at(100),
                old: at(81)
            }
        );
        assert_eq!(ends(&old, day * 3, false, None, at(89)).old, at(90));
    }

    #[test]
    fn the_old_secret_stays_good_for_three_days_at_most() {
        let hours = |hours| overlap(&RotateToken { overlap_hours: hours });
        assert_eq!(hours(None).unwrap(), Duration::hours(24));
        assert_eq!(hours(Some(72)).unwrap(), Duration::hours(72));
        assert!(hours(Some(73)).is_err());
    }
}
