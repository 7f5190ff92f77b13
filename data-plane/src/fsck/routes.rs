//! `/v1/fsck`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use chassis::http::Query;
use serde::Deserialize;

use super::{Checked, Line, check_commit, queries};
use crate::call::Call;
use crate::commits::CommitRow;
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;

const CHECK: System = System::because("the check sees everything; findings are filtered for who reads them");
const READ_AT_ONCE: i64 = 100;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new().route("/v1/fsck", get(check))
}

#[derive(Deserialize)]
struct CheckQuery {
    /// Reads all content too, and not only trees.
    #[serde(default)]
    deep: bool,
}

struct Run {
    plane: Plane,
    call: Call,
    deep: bool,
    checked: Checked,
    after: i64,
    rows: VecDeque<CommitRow>,
    found: usize,
    ended: bool,
}

async fn check(State(plane): State<Plane>, call: Call, Query(query): Query<CheckQuery>) -> Answer<Response> {
    may_check(&call)?;
    let run = Run {
        checked: Checked::new(&plane),
        plane,
        call,
        deep: query.deep,
        after: 0,
        rows: VecDeque::new(),
        found: 0,
        ended: false,
    };
    let lines = futures::stream::unfold(run, |mut run| async move {
        if run.ended {
            return None;
        }
        let lines = run.step().await;
        Some((Ok::<_, Infallible>(encode(&lines)), run))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response())
}

fn may_check(call: &Call) -> Answer<()> {
    call.manages("check everything that is stored")
}

fn encode(lines: &[Line]) -> Bytes {
    let mut out = Vec::new();
    for line in lines {
        out.extend(serde_json::to_vec(line).unwrap_or_default());
        out.push(b'\n');
    }
    out.into()
}

impl Run {
    /// Checks the next commit; at the end says how it went.
    async fn step(&mut self) -> Vec<Line> {
        match self.next().await {
            Ok(Some(lines)) => {
                self.found += lines.len();
                lines
            }
            Ok(None) => {
                self.ended = true;
                vec![self.summary()]
            }
            Err(failure) => {
                self.ended = true;
                vec![Line {
                    severity: "error",
                    subject: "check".to_owned(),
                    message: format!(
                        "it broke off after {} commits: {}",
                        self.checked.commits,
                        failure.detail()
                    ),
                }]
            }
        }
    }

    async fn next(&mut self) -> Answer<Option<Vec<Line>>> {
        // A check may take hours, and rights may have ended since it began.
        self.call = self.call.renewed()?;
        may_check(&self.call)?;
        if self.rows.is_empty() {
            let mut conn = self.plane.pool.acquire().await?;
            self.rows = queries::list_commits(&mut conn, &CHECK, self.after, READ_AT_ONCE)
                .await?
                .into();
        }
        let Some(commit) = self.rows.pop_front() else {
            return Ok(None);
        };
        self.after = commit.seq;
        check_commit(&self.call, &commit, self.deep, &mut self.checked)
            .await
            .map(Some)
    }

    fn summary(&self) -> Line {
        let (severity, found) = match self.found {
            0 => ("ok", "nothing is wrong".to_owned()),
            1 => ("error", "1 thing is wrong".to_owned()),
            n => ("error", format!("{n} things are wrong")),
        };
        Line {
            severity,
            subject: "all".to_owned(),
            message: format!("{} commits checked, {found}", self.checked.commits),
        }
    }
}
