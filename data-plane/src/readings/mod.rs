//! Who read what (R12): noted before the answer, so that a killed plane forgets no reader. One row for each reader of a commit; what
//! somebody reads again within the hour costs a look into memory.
//!
//! Readers that come at the same time share one statement and one flush of the log: who holds the connection writes for all that wait.
//! It is a connection of its own, since readers wait for it with one of the pool in hand.

pub mod queries;
pub mod routes;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use contract::api::Actor;
use contract::ids::CommitId;
use contract::policy::Principal;
use moka::sync::Cache;
use sqlx::{Connection, PgConnection};

use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

const NOTE: System = System::because("that somebody read something is written down whoever he is");
/// So many readings of the last hour are remembered; others are written again, which changes nothing.
const KNOWN_MOST: u64 = 100_000;
/// How long a reader waits for it to be written down.
const PATIENCE: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

/// That somebody read a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What.
    pub commit: CommitId,
    /// Who.
    pub reader: Principal,
    /// What he is called.
    pub name: String,
    /// When.
    pub at: DateTime<Utc>,
}

type Key = (CommitId, Principal, DateTime<Utc>);

/// The readings of the last hour, and those that wait to be written.
pub struct Readings {
    known: Cache<Key, ()>,
    waiting: Mutex<Vec<Reading>>,
    connection: tokio::sync::Mutex<Option<PgConnection>>,
}

impl Default for Readings {
    fn default() -> Self {
        Self {
            known: Cache::builder().max_capacity(KNOWN_MOST).time_to_live(HOUR).build(),
            waiting: Mutex::default(),
            connection: tokio::sync::Mutex::default(),
        }
    }
}

impl Readings {
    fn waiting(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(reading: &Reading) -> Key {
    let hour = reading.at.duration_trunc(TimeDelta::hours(1)).unwrap_or(reading.at);
    (reading.commit, reading.reader, hour)
}

/// Notes that the commit is read; it may be shown when this has returned.
///
/// # Errors
/// `overloaded` when it cannot be written: then it must not be shown.
pub async fn note(plane: &Plane, actor: &Actor, commit: CommitId) -> Answer<()> {
    let reading = Reading {
        commit,
        reader: actor.id,
        name: actor.name.clone(),
        at: plane.now(),
    };
    let key = key(&reading);
    let readings = &plane.readings;
    if readings.known.contains_key(&key) {
        return Ok(());
    }
    readings.waiting().push(reading.clone());
    // A connection that hangs must not hold up those that come after.
    match tokio::time::timeout(PATIENCE, written(plane, reading, key)).await {
        Ok(done) => done,
        Err(_) => Err(Failure::from(chassis::http::ApiError::overloaded(
            "that something is read could not be written down in time",
        ))),
    }
}

async fn written(plane: &Plane, reading: Reading, key: Key) -> Answer<()> {
    let readings = &plane.readings;
    let mut connection = readings.connection.lock().await;
    // Whoever held the connection before may have written it.
    if readings.known.contains_key(&key) {
        return Ok(());
    }
    let mut batch = std::mem::take(&mut *readings.waiting());
    // It is not there if a batch that held it could not be written.
    if !batch.contains(&reading) {
        batch.push(reading);
    }
    // Taken out while it is used: one that was given up half-way is not used again.
    let mut used = connection.take();
    let mut written = write(plane, &mut used, &batch).await;
    if written.is_err() {
        // The connection may have been cut off while nobody used it.
        used = None;
        written = write(plane, &mut used, &batch).await;
    }
    written?;
    *connection = used;
    for reading in &batch {
        readings.known.insert(self::key(reading), ());
    }
    Ok(())
}

async fn write(plane: &Plane, connection: &mut Option<PgConnection>, batch: &[Reading]) -> Answer<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(PgConnection::connect_with(&plane.pool.connect_options()).await?),
    };
    queries::upsert(connection, &NOTE, batch).await
}
