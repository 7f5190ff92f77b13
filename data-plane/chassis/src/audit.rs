//! How audit trails are searched: both planes keep one, in tables with the same columns, and answer the same questions about it.

use chrono::{DateTime, Utc};
use contract::api::AuditEvent;
use contract::audit::Trail;
use contract::ids::OrganizationId;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::http::ApiError;

const TEXT_LENGTH_MAX: usize = 200;

/// In which order rows come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}

/// Which rows are wanted, as it is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// From that moment on.
    since: Option<DateTime<Utc>>,
    /// Before that moment.
    until: Option<DateTime<Utc>>,
    /// `noun.verb`, or a noun for all that was done with such things.
    #[param(max_length = 200)]
    action: Option<String>,
    /// Id or name of who did it, or the id of his session or token.
    #[param(max_length = 200)]
    actor: Option<String>,
    /// A part of what a row says.
    #[param(max_length = 200)]
    q: Option<String>,
    /// `newest` or `oldest` first.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

impl Wanted {
    /// What was asked, if it can be.
    ///
    /// # Errors
    /// `malformed` for a text that is too long.
    pub fn filter(self) -> Result<Filter, ApiError> {
        for (name, text) in [("action", &self.action), ("actor", &self.actor), ("q", &self.q)] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_LENGTH_MAX) {
                return Err(ApiError::new(
                    ProblemKind::Malformed,
                    format!("`{name}` has at most {TEXT_LENGTH_MAX} bytes"),
                ));
            }
        }
        // An empty text restricts nothing.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Filter {
            since: self.since,
            until: self.until,
            action: given(self.action),
            actor: given(self.actor),
            text: given(self.q),
            oldest_first: self.order == Order::Oldest,
        })
    }
}

/// Which rows are wanted.
#[derive(Debug, Default)]
pub struct Filter {
    /// From that moment on.
    pub since: Option<DateTime<Utc>>,
    /// Before that moment.
    pub until: Option<DateTime<Utc>>,
    /// `noun.verb`, or a noun for all that was done with such things.
    pub action: Option<String>,
    /// Id, name or token.
    pub actor: Option<String>,
    text: Option<String>,
    oldest_first: bool,
}

impl Filter {
    /// All rows, the oldest first.
    #[must_use]
    pub fn all() -> Self {
        Self {
            oldest_first: true,
            ..Self::default()
        }
    }

    /// The number that all rows are behind.
    #[must_use]
    pub fn start(&self) -> i64 {
        if self.oldest_first { 0 } else { i64::MAX }
    }

    /// A pattern that finds the text itself, whatever it holds.
    #[must_use]
    pub fn pattern(&self) -> Option<String> {
        let text = self.text.as_deref()?;
        let literal = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        Some(format!("%{literal}%"))
    }

    /// The statement that reads [`Row`]s in the order that is wanted, of a table of that condition, whose parameters begin with `$8`.
    /// Its own are the number that they are behind, `since`, `until`, `action`, `actor`, the pattern, and how many.
    #[must_use]
    pub fn statement(&self, of: &'static str) -> String {
        let (behind, order) = if self.oldest_first {
            ("seq > $1", "asc")
        } else {
            ("seq < $1", "desc")
        };
        format!(
            "select seq, format, at, actor, actor_name, token, via, action, subject, request_id, address, prev_hash, hash
             from audit_events
             where {of} and {behind} and ($2::timestamptz is null or at >= $2) and ($3::timestamptz is null or at < $3)
               and ($4::text is null or action = $4 or split_part(action, '.', 1) = $4)
               and ($5::text is null or actor = $5 or token = $5 or lower(actor_name) = lower($5))
               and ($6::text is null or subject ilike $6 or action ilike $6 or actor_name ilike $6 or via ilike $6
                    or request_id ilike $6 or address ilike $6)
             order by seq {order} limit $7"
        )
    }
}

/// A row of a trail as it is stored: the columns of [`Filter::statement`].
pub type Row = (
    i64,
    i32,
    DateTime<Utc>,
    String,
    String,
    String,
    String,
    String,
    String,
    String,
    String,
    Vec<u8>,
    Vec<u8>,
);

/// A row as it is told, of that trail of that organization.
#[must_use]
pub fn told(trail: Trail, organization: OrganizationId, row: Row) -> AuditEvent {
    let (seq, format, at, actor, actor_name, token, via, action, subject, request_id, address, prev_hash, hash) = row;
    AuditEvent {
        trail,
        organization,
        seq: seq.unsigned_abs(),
        format: format.unsigned_abs(),
        at,
        actor,
        actor_name,
        token,
        via,
        action,
        subject,
        request_id,
        address,
        prev_hash: hex::encode(prev_hash),
        hash: hex::encode(hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(q: &str) -> Result<Filter, ApiError> {
        let wanted: Wanted = serde_json::from_value(serde_json::json!({ "q": q })).unwrap();
        wanted.filter()
    }

    #[test]
    fn a_text_is_looked_for_as_it_is() {
        assert_eq!(asked("").unwrap().pattern(), None);
        assert_eq!(asked("50%_\\").unwrap().pattern().as_deref(), Some("%50\\%\\_\\\\%"));
        assert!(asked(&"q".repeat(200)).is_ok() && asked(&"q".repeat(201)).is_err());
    }
}
