//! Hands mails to the server, and tries again with growing waits. A mail that was handed over by a process that died before it
//! could say so is handed over again under the same Message-ID, so that it arrives once.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lettre::message::header::ContentType;
use lettre::{AsyncTransport, Message};

use super::queries::{self, Due};
use super::{Server, purpose};
use crate::app::App;
use crate::authz::System;

/// The task looks for mail so often when nobody wakes it.
const TICK: Duration = Duration::from_secs(5);
/// The server is waited for so long in all, whatever it says or does not say.
const PATIENCE: Duration = Duration::from_secs(90);
/// For so long a mail belongs to who took it; longer than the server is waited for.
const LEASE: TimeDelta = TimeDelta::minutes(2);
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(10);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);
/// After that nobody waits for the mail any more.
const TRIED_FOR: TimeDelta = TimeDelta::hours(24);
/// A refusal may be about who sends, and an operator's to put right; after that it is about who is written to.
const REFUSED_FOR: TimeDelta = TimeDelta::hours(1);
/// What a server answers to a wrong password or none: never about the mail.
const NOT_LOGGED_IN: [u16; 4] = [530, 534, 535, 538];
const ERROR_LENGTH_MAX: usize = 300;

/// Why a mail was not handed over.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    /// Another try would end like this one.
    #[error("{0}")]
    ForGood(String),
    /// The server says that it would.
    #[error("{0}")]
    Refused(String),
    /// Another try may not.
    #[error("{0}")]
    ForNow(String),
}

/// When to try again; `None` when no more.
fn again(error: &Undelivered, tries: u32, created_at: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let grown = 4_i32.saturating_pow(tries.saturating_sub(1).min(8));
    let at = now
        + FIRST_PAUSE
            .checked_mul(grown)
            .unwrap_or(LONGEST_PAUSE)
            .min(LONGEST_PAUSE);
    match error {
        Undelivered::ForGood(_) => None,
        Undelivered::Refused(_) => (at < created_at + REFUSED_FOR).then_some(at),
        Undelivered::ForNow(_) => (at < created_at + TRIED_FOR).then_some(at),
    }
}

/// Sends what is due; answers how many mails the server took. Without a server all stays where it is.
///
/// # Errors
/// When the database fails.
pub async fn send_due(app: &App) -> Result<u64, sqlx::Error> {
    send_due_within(app, PATIENCE).await
}

/// The same, with another wait for the server.
///
/// # Errors
/// When the database fails.
pub async fn send_due_within(app: &App, patience: Duration) -> Result<u64, sqlx::Error> {
    let Some(server) = &app.post.server else { return Ok(0) };
    let proof = System::because("the service sends its own mail");
    let mut sent = 0;
    loop {
        let now = app.environment.now();
        let Some(due) = queries::take_due(&app.pool, &proof, now, now + LEASE, now - TRIED_FOR).await? else {
            return Ok(sent);
        };
        match deliver(app, server, &due, patience).await {
            Ok(()) => {
                queries::mark_sent(&app.pool, &proof, due.id, app.environment.now()).await?;
                sent += 1;
            }
            Err(error) => {
                let at = again(&error, due.tries, due.created_at, app.environment.now());
                tracing::warn!(mail.id = %due.id, mail.tries = due.tries, "a mail was not taken by the server: {error}");
                let text: String = error.to_string().chars().take(ERROR_LENGTH_MAX).collect();
                queries::mark_failed(&app.pool, &proof, due.id, &text, at).await?;
            }
        }
    }
}

async fn deliver(app: &App, server: &Server, due: &Due, patience: Duration) -> Result<(), Undelivered> {
    let for_good = |e: &dyn std::fmt::Display| Undelivered::ForGood(e.to_string());
    let text = app
        .vault
        .open(&purpose(due.id), &due.sealed_text)
        .map_err(|e| for_good(&e))?;
    let text = String::from_utf8(text).map_err(|e| for_good(&e))?;
    let message = message(server, due, text)?;
    // The transport itself waits for ever once it is connected.
    let Ok(answer) = tokio::time::timeout(patience, server.transport.send(message)).await else {
        return Err(Undelivered::ForNow("the server did not answer in time".to_owned()));
    };
    match answer {
        Ok(_) => Ok(()),
        Err(error) if is_refusal(&error) => Err(Undelivered::Refused(error.to_string())),
        Err(error) => Err(Undelivered::ForNow(innermost(&error))),
    }
}

fn is_refusal(error: &lettre::transport::smtp::Error) -> bool {
    error.is_permanent()
        && !error
            .status()
            .is_some_and(|code| NOT_LOGGED_IN.contains(&u16::from(code)))
}

fn message(server: &Server, due: &Due, text: String) -> Result<Message, Undelivered> {
    let for_good = |e: &dyn std::fmt::Display| Undelivered::ForGood(e.to_string());
    let to = due
        .recipient
        .parse()
        .map_err(|e| Undelivered::ForGood(format!("the address cannot be written to: {e}")))?;
    Message::builder()
        .from(server.from.clone())
        .to(lettre::message::Mailbox::new(None, to))
        .subject(&due.subject)
        .date(due.created_at.into())
        .message_id(Some(format!("<{}@{}>", due.id, server.from.email.domain())))
        .header(ContentType::TEXT_PLAIN)
        .body(text)
        .map_err(|e| for_good(&e))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut at = error;
    while let Some(source) = at.source() {
        parts.push(source.to_string());
        at = source;
    }
    parts.dedup();
    parts.join(": ")
}

/// Sends until the shutdown.
pub fn spawn(app: &Arc<App>) {
    if !app.post.sends() {
        return;
    }
    let (app, shutdown) = (Arc::clone(app), app.shutdown.clone());
    shutdown.clone().spawn("mail", async move {
        let mut timer = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = app.post.wake.notified() => {}
                _ = timer.tick() => {}
            }
            tokio::select! {
                // What is on its way then is sent again, under the same Message-ID.
                () = shutdown.begun() => return,
                done = send_due(&app) => if let Err(error) = done {
                    tracing::warn!("mail waits for the database: {error}");
                },
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_an_hour_and_end_after_a_day() {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let busy = Undelivered::ForNow("busy".to_owned());
        assert_eq!(again(&busy, 1, at(0), at(0)), Some(at(10)));
        assert_eq!(again(&busy, 3, at(0), at(100)), Some(at(260)));
        assert_eq!(again(&busy, 30, at(0), at(7200)), Some(at(10_800)));
        assert_eq!(again(&busy, 30, at(0), at(86_000)), None);
        let refused = Undelivered::Refused("no".to_owned());
        assert_eq!(again(&refused, 1, at(0), at(0)), Some(at(10)));
        assert_eq!(again(&refused, 1, at(0), at(3590)), None);
        assert_eq!(again(&Undelivered::ForGood("no".to_owned()), 1, at(0), at(0)), None);
    }
}
