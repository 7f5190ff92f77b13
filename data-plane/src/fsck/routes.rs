//! `/v1/fsck`.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::Query;
use futures::TryStreamExt;
use serde::Deserialize;
use storage::Digest;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::others::{FilesetPlace, ResultPlace, check_filesets, check_forward, check_results, check_uploads};
use super::repair::{repair_forward, repair_pack};
use super::{CHECK, Checked, Line, check_commit, queries};
use crate::call::Call;
use crate::commits::CommitRow;
use crate::failure::Answer;
use crate::plane::Plane;
use crate::uploads::queries::PartPosition;

const READ_AT_ONCE: i64 = 100;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(check, repair))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
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
    stage: Stage,
    found: usize,
    repaired: usize,
    ended: bool,
}

/// What is looked at next.
enum Stage {
    RepairForwards(Vec<Digest>),
    RepairPacks(Vec<Digest>),
    Commits { after: i64, rows: VecDeque<CommitRow> },
    Filesets(Option<FilesetPlace>),
    Uploads(Option<PartPosition>),
    Results(Option<ResultPlace>),
    Forwards(Vec<Digest>),
}

impl Stage {
    fn commits() -> Self {
        Self::Commits {
            after: 0,
            rows: VecDeque::new(),
        }
    }
}

/// Checks everything that is stored.
#[utoipa::path(
    get,
    path = "/v1/fsck",
    tag = "storage",
    params(CheckQuery),
    responses(
        (status = 200, body = Line, content_type = "application/x-ndjson", description = "lines of JSON, one `Line` each; the last is the sum"),
    ),
)]
async fn check(State(plane): State<Plane>, call: Call, Query(query): Query<CheckQuery>) -> Answer<Response> {
    may_check(&call)?;
    let checked = Checked::new(&plane);
    Ok(answer(plane, call, query.deep, Stage::commits(), checked))
}

/// Checks everything that is stored and repairs what can be.
///
/// Sent again it repairs what is damaged still.
#[utoipa::path(
    post,
    path = "/v1/fsck",
    tag = "storage",
    params(CheckQuery),
    responses(
        (status = 200, body = Line, content_type = "application/x-ndjson", description = "lines of JSON, one `Line` each; the last is the sum"),
    ),
)]
async fn repair(State(plane): State<Plane>, call: Call, Query(query): Query<CheckQuery>) -> Answer<Response> {
    may_check(&call)?;
    let forwards = plane.storage.forwards().await?;
    let mut tx = plane.begin().await?;
    call.record(
        &mut tx,
        "storage.repair",
        if query.deep { "all content" } else { "what is damaged" },
    )
    .await?;
    tx.commit().await?;
    let checked = Checked::new(&plane).repairing();
    let stage = Stage::RepairForwards(forwards);
    Ok(answer(plane, call, query.deep, stage, checked))
}

fn answer(plane: Plane, call: Call, deep: bool, stage: Stage, checked: Checked) -> Response {
    let run = Run {
        checked,
        plane,
        call,
        deep,
        stage,
        found: 0,
        repaired: 0,
        ended: false,
    };
    let lines = futures::stream::unfold(run, |mut run| async move {
        if run.ended {
            return None;
        }
        let lines = run.step().await;
        Some((Ok::<_, Infallible>(encode(&lines)), run))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
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
    /// Looks at the next thing; at the end says how it went.
    async fn step(&mut self) -> Vec<Line> {
        let next = self.next().await;
        let mut lines = self.checked.take_repairs();
        match next {
            Ok(Some(found)) => {
                lines.extend(found);
                self.found += lines.iter().filter(|line| line.severity == "error").count();
                self.repaired += lines.iter().filter(|line| line.severity == "repaired").count();
                lines
            }
            Ok(None) => {
                self.ended = true;
                vec![self.summary()]
            }
            Err(failure) => {
                self.ended = true;
                lines.push(Line {
                    severity: "error",
                    subject: "check".to_owned(),
                    message: format!(
                        "it broke off after {} commits: {}",
                        self.checked.commits,
                        failure.detail()
                    ),
                });
                lines
            }
        }
    }

    async fn next(&mut self) -> Answer<Option<Vec<Line>>> {
        // A check may take hours, and rights may have ended since it began.
        self.call = self.call.renewed()?;
        may_check(&self.call)?;
        let (plane, deep) = (&self.plane, self.deep);
        match &mut self.stage {
            Stage::RepairForwards(left) => {
                if let Some(name) = left.pop() {
                    return Ok(Some(repair_forward(plane, name).await?.into_iter().collect()));
                }
                let packs = plane.storage.packs().map_ok(|pack| pack.id).try_collect().await?;
                self.stage = Stage::RepairPacks(packs);
            }
            Stage::RepairPacks(left) => {
                if let Some(pack) = left.pop() {
                    self.checked.was_tried(pack);
                    return Ok(Some(repair_pack(plane, pack).await?.into_iter().collect()));
                }
                self.stage = Stage::commits();
            }
            Stage::Commits { after, rows } => {
                if rows.is_empty() {
                    let mut conn = plane.pool.acquire().await?;
                    let page = queries::list_commits(&mut conn, &CHECK, *after, READ_AT_ONCE).await?;
                    rows.extend(page);
                }
                if let Some(commit) = rows.pop_front() {
                    *after = commit.seq;
                    let lines = check_commit(&self.call, &commit, deep, &mut self.checked).await?;
                    return Ok(Some(lines));
                }
                self.stage = Stage::Filesets(None);
            }
            Stage::Filesets(after) => {
                if let Some((last, lines)) = check_filesets(plane, *after, deep, &mut self.checked).await? {
                    *after = Some(last);
                    return Ok(Some(lines));
                }
                self.stage = Stage::Uploads(None);
            }
            Stage::Uploads(after) => {
                if let Some((last, lines)) = check_uploads(plane, after.as_ref(), deep, &mut self.checked).await? {
                    *after = Some(last);
                    return Ok(Some(lines));
                }
                self.stage = Stage::Results(None);
            }
            Stage::Results(after) => {
                if let Some((last, lines)) = check_results(plane, after.as_ref(), deep, &mut self.checked).await? {
                    *after = Some(last);
                    return Ok(Some(lines));
                }
                self.stage = Stage::Forwards(plane.storage.forwards().await?);
            }
            Stage::Forwards(left) => match left.pop() {
                Some(name) => return Ok(Some(check_forward(&self.checked, name).await?.into_iter().collect())),
                None => return Ok(None),
            },
        }
        Ok(Some(Vec::new()))
    }

    fn summary(&self) -> Line {
        let (severity, found) = match self.found {
            0 => ("ok", "nothing is wrong".to_owned()),
            1 => ("error", "1 thing is wrong".to_owned()),
            n => ("error", format!("{n} things are wrong")),
        };
        let repaired = match self.repaired {
            0 => String::new(),
            n => format!("{n} things repaired, "),
        };
        Line {
            severity,
            subject: "all".to_owned(),
            message: format!("{repaired}{} commits checked, {found}", self.checked.commits),
        }
    }
}
