//! Logs as a stream of JSON lines, read from the database in pages, so that a long one takes no memory. Following ends
//! with the job; the right to read is asked again for each page (R6).

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::{Path, Query};
use chrono::{DateTime, Utc};
use contract::api::{JobState, LogLine};
use contract::ids::JobId;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::IntoParams;

use super::datums::{self, DatumRow};
use super::{queries, retention, state_of};
use crate::call::{Call, Standing};
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

const READABLE: System = System::because("the caller may read the job's output; asked again for each page");
const PAGE: i64 = 1000;
/// A shorter beginning of a datum's id could be of several.
const PREFIX_LEAST: usize = 8;
/// How long a follower waits for a signal before it looks by itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines of a job that was cut off are on their way for so long after its end: a worker sends them twice a second. Those
/// of a job that succeeded are there before it ends.
const AFTERMATH: Duration = Duration::from_secs(2);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// Only of this datum: its id, or 8 digits of its beginning at the least.
    datum: Option<String>,
    /// Goes on until the job ends.
    #[serde(default)]
    follow: bool,
    /// Printed at that time or later.
    since: Option<DateTime<Utc>>,
    /// The last so many of those that are there, and what follows.
    tail: Option<u32>,
    /// At most so many.
    limit: Option<u32>,
}

struct Reading {
    plane: Plane,
    standing: Standing,
    job: JobId,
    wanted: queries::WantedLines,
    follow: bool,
    after: i64,
    /// So many lines are known to be gone: they were told, or are none that were wanted.
    gone: i64,
    /// When the last line was printed that was sent.
    sent: Option<DateTime<Utc>>,
    /// Lines that may be sent still.
    left: i64,
    over: bool,
}

/// Streams what the code of a job printed.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/logs",
    tag = "jobs",
    operation_id = "logs",
    params(("id" = JobId, Path), LogsQuery),
    responses(
        (status = 200, body = LogLine, content_type = "application/x-ndjson", description = "lines of JSON, one `LogLine` each"),
    ),
)]
pub(super) async fn stream(
    State(plane): State<Plane>,
    call: Call,
    Path(id): Path<JobId>,
    Query(query): Query<LogsQuery>,
) -> Answer<Response> {
    let mut conn = plane.pool.acquire().await?;
    call.job(&mut conn, id).await?;
    let datum = match &query.datum {
        None => None,
        Some(text) => Some(find_datum(&mut conn, id, text).await?.key),
    };
    let wanted = queries::WantedLines {
        datum,
        since: query.since,
    };
    let after = match query.tail {
        None => 0,
        Some(count) => queries::find_tail(&mut conn, &READABLE, id, &wanted, count.into()).await?,
    };
    let left = query.limit.map_or(i64::MAX, i64::from);
    // What is gone is not told to who wants the last ones, and finds them.
    let gone = match after {
        0 => 0,
        _ => queries::find_gone(&mut conn, &READABLE, id)
            .await?
            .map_or(0, |(count, _)| count),
    };
    let reading = Reading {
        standing: call.keep(),
        job: id,
        wanted,
        follow: query.follow,
        after,
        gone,
        sent: None,
        left,
        over: left == 0,
        plane: plane.clone(),
    };
    let pages = futures::stream::try_unfold(reading, |mut reading| async move {
        match reading.next().await {
            Ok(Some(page)) => Ok(Some((page, reading))),
            Ok(None) => Ok(None),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        }
    });
    Ok((
        [(http::header::CONTENT_TYPE, "application/jsonl")],
        Body::from_stream(pages),
    )
        .into_response())
}

/// The datum of a job whose id begins like that.
pub(super) async fn find_datum(conn: &mut sqlx::PgConnection, job: JobId, text: &str) -> Answer<DatumRow> {
    let digits = text.to_ascii_lowercase();
    if !(PREFIX_LEAST..=64).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Failure::invalid(format!(
            "`{text}` is no datum id: it has {PREFIX_LEAST} to 64 hexadecimal digits"
        )));
    }
    let mut found = datums::find(conn, &READABLE, job, &digits).await?;
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Failure::invalid(format!(
            "several datums of the job begin with `{text}`: write more of the id"
        ))),
        (None, _) => Err(Failure::new(
            ProblemKind::NotFound,
            format!("the job has no datum whose id begins with `{text}`"),
        )
        .hint("see `howdah datum list JOB`; a datum that an earlier job ran has its logs there")),
    }
}

impl Reading {
    /// Whether all lines of the job have come.
    fn is_complete(&self, job: &queries::JobRow) -> bool {
        let state = state_of(&job.state);
        let since = job
            .finished_at
            .map(|ended| (self.plane.now() - ended).to_std().unwrap_or_default());
        state == JobState::Success || state.is_terminal() && since.is_none_or(|since| since >= AFTERMATH)
    }

    /// What is told of lines that went before they were sent, if that is new.
    async fn missed(&mut self, conn: &mut sqlx::PgConnection) -> Answer<Option<LogLine>> {
        let gone = queries::find_gone(conn, &READABLE, self.job).await?;
        let Some((count, until)) = gone.filter(|(count, _)| *count > self.gone) else {
            return Ok(None);
        };
        self.gone = count;
        let wanted = self.wanted.since.is_none_or(|since| since <= until);
        Ok((wanted && self.sent.is_none_or(|sent| sent < until)).then(|| LogLine {
            at: until,
            datum: String::new(),
            stream: "system".to_owned(),
            text: retention::told(&self.plane.config.logs, count, self.wanted.datum.is_some()),
        }))
    }

    async fn next(&mut self) -> Answer<Option<Bytes>> {
        let mut changes = self.plane.signals.commits();
        loop {
            if self.over {
                return Ok(None);
            }
            changes.borrow_and_update();
            let mut conn = self.plane.pool.acquire().await?;
            // The state first: what was printed before the end is there then.
            let job = queries::find(&mut conn, &READABLE, self.job).await?;
            let ended = job.is_none_or(|job| self.is_complete(&job));
            let last = match self.wanted.is_everything() {
                true => 0,
                false => queries::last_line(&mut conn, &READABLE, self.job).await?,
            };
            let most = self.left.min(PAGE);
            let rows = queries::list_lines(&mut conn, &READABLE, self.job, &self.wanted, self.after, most).await?;
            // After the lines: what went before they were read is told before them.
            let note = self.missed(&mut conn).await?;
            // After the lines: a job that started in between may have more origins than when this began.
            let job = queries::find(&mut conn, &READABLE, self.job)
                .await?
                .ok_or_else(Failure::not_found)?;
            let origins = origins::get(&self.plane, &mut conn, &READABLE, job.origin_set_id).await?;
            drop(conn);
            if !self.standing.may_still_read(&origins) {
                return Ok(None);
            }
            let mut rows = rows;
            if note.is_some() && rows.len() as i64 == self.left {
                // It is one of those that may be sent, too.
                rows.pop();
            }
            let count = rows.len() as i64;
            self.sent = rows.last().map(|row| row.at).or(self.sent);
            self.left = self.left.saturating_sub(count + i64::from(note.is_some()));
            self.over = self.left == 0 || count < most && (ended || !self.follow);
            self.after = rows.last().map_or(self.after, |row| row.seq);
            if count < most {
                // Behind what is not wanted, too: it is not read again.
                self.after = self.after.max(last);
            }
            if count > 0 || note.is_some() {
                return Ok(Some(lines(note, rows)));
            }
            if !self.over {
                let _ = tokio::time::timeout(PATIENCE, changes.changed()).await;
            }
        }
    }
}

fn lines(note: Option<LogLine>, rows: Vec<queries::LineRow>) -> Bytes {
    let mut out = Vec::new();
    let line = |row: queries::LineRow| LogLine {
        at: row.at,
        datum: hex::encode(row.datum_key),
        stream: row.stream,
        text: row.text,
    };
    for line in note.into_iter().chain(rows.into_iter().map(line)) {
        // A struct of texts and a time always serializes.
        if serde_json::to_writer(&mut out, &line).is_ok() {
            out.push(b'\n');
        }
    }
    out.into()
}
