//! Brings results and lines to the plane, in requests of a size that it takes. What may pass is tried again for as long as
//! it takes; a request that is refused for what it holds is taken apart until the datum at fault stands alone, and that
//! one is reported as failed with the reason. So nothing that user code makes can hold up the results of others.

use std::collections::VecDeque;
use std::time::Duration;

use super::execute::Bench;
use super::plane::{Plane, Refusal};
use super::protocol::{CompleteRequest, DatumReport, Ending, HeartbeatRequest, SentLine};

/// So many bytes of results go into one request, unless a single one has more.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// What a result takes in a request besides its outputs.
const REPORT_OVERHEAD: usize = 1024;
/// After a failed request.
const RETRY: Duration = Duration::from_millis(200);
/// A request that makes the plane fail is sent so often before it is taken apart, or given up when it cannot be.
const TRIES_TOGETHER: u32 = 5;
const TRIES_ALONE: u32 = 50;

/// Sends what a worker has to say.
pub struct Reporter<'a> {
    /// Who sends, and its lines.
    pub bench: &'a Bench,
    /// Where to.
    pub plane: &'a Plane,
}

impl Reporter<'_> {
    /// Reports datums, after what they printed.
    pub async fn send(&self, reports: Vec<DatumReport>) {
        if reports.is_empty() {
            return;
        }
        let sending = self.bench.outbox.begin().await;
        let mut waiting: VecDeque<CompleteRequest> = VecDeque::new();
        let mut parts = split(reports, REQUEST_BYTES_MAX).into_iter();
        loop {
            let logs = sending.take();
            let last = self.bench.outbox.is_empty();
            let datums = if last {
                parts.next().unwrap_or_default()
            } else {
                Vec::new()
            };
            waiting.push_back(self.request(datums, logs));
            if last {
                break;
            }
        }
        waiting.extend(parts.map(|datums| self.request(datums, Vec::new())));
        while let Some(request) = waiting.pop_front() {
            if let Err(refusal) = self.insist(&request).await {
                for part in take_apart(request, &refusal).into_iter().rev() {
                    waiting.push_front(part);
                }
            }
        }
    }

    /// Sends lines of datums that run still.
    pub async fn send_lines(&self) {
        if self.bench.outbox.is_empty() {
            return;
        }
        let sending = self.bench.outbox.begin().await;
        let request = HeartbeatRequest {
            worker: self.bench.config.worker,
            leases: Vec::new(),
            jobs: Vec::new(),
            logs: sending.take(),
        };
        if request.logs.is_empty() {
            return;
        }
        match self.plane.heartbeat(&request).await {
            Ok(_) => {}
            // Those of an internal failure are dropped by `send`, which tries longer.
            Err(refusal) if refusal.is_final() => dropped(request.logs.len(), &refusal),
            Err(refusal) => {
                tracing::debug!("sending lines failed: {refusal}");
                sending.put_back(request.logs);
            }
        }
    }

    fn request(&self, datums: Vec<DatumReport>, logs: Vec<SentLine>) -> CompleteRequest {
        CompleteRequest {
            worker: self.bench.config.worker,
            datums,
            logs,
        }
    }

    /// Sends a request until it is taken or it is clear that it will not be.
    async fn insist(&self, request: &CompleteRequest) -> Result<(), Refusal> {
        let alone = request.datums.len() + usize::from(!request.logs.is_empty()) <= 1;
        let most = if alone { TRIES_ALONE } else { TRIES_TOGETHER };
        let mut failures = 0;
        loop {
            let refusal = match self.plane.complete(request).await {
                Ok(_) => return Ok(()),
                Err(refusal) => refusal,
            };
            failures += u32::from(refusal.is_internal());
            if refusal.is_final() || failures >= most {
                return Err(refusal);
            }
            tracing::debug!("reporting failed: {refusal}");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn dropped(lines: usize, refusal: &Refusal) {
    tracing::error!("{lines} lines of logs are dropped, because the plane does not take them: {refusal}");
}

/// Parts of at most so many bytes, in order; a larger report stands alone.
fn split(reports: Vec<DatumReport>, bytes_max: usize) -> Vec<Vec<DatumReport>> {
    let mut parts: Vec<Vec<DatumReport>> = Vec::new();
    let mut bytes = 0;
    for report in reports {
        let size = size(&report);
        match parts.last_mut() {
            Some(part) if bytes + size <= bytes_max => part.push(report),
            _ => {
                bytes = 0;
                parts.push(vec![report]);
            }
        }
        bytes += size;
    }
    parts
}

fn size(report: &DatumReport) -> usize {
    REPORT_OVERHEAD
        + match &report.ending {
            Ending::Succeeded { outputs } => outputs.len(),
            Ending::Recovered => 0,
            Ending::Failed { reason } | Ending::Lost { reason } => reason.len(),
        }
}

/// What to send instead of a request that was refused; nothing when there is no use in it.
fn take_apart(mut request: CompleteRequest, refusal: &Refusal) -> Vec<CompleteRequest> {
    if request.datums.is_empty() {
        dropped(request.logs.len(), refusal);
        return Vec::new();
    }
    if !request.logs.is_empty() {
        let lines = CompleteRequest {
            datums: Vec::new(),
            logs: std::mem::take(&mut request.logs),
            ..request
        };
        return vec![lines, request];
    }
    let half = request.datums.len() / 2;
    if half > 0 {
        let rest = CompleteRequest {
            datums: request.datums.split_off(half),
            logs: Vec::new(),
            ..request
        };
        return vec![request, rest];
    }
    for report in &mut request.datums {
        let Ending::Succeeded { .. } = report.ending else {
            // Its lease runs out, so it is claimed again, and that is bounded.
            tracing::error!("a result is given up, because the plane does not take it: {refusal}");
            return Vec::new();
        };
        tracing::error!("a result is refused by the plane: {refusal}");
        let reason = format!("its result could not be kept: {refusal}");
        report.ending = if refusal.is_final() {
            Ending::Failed { reason }
        } else {
            Ending::Lost { reason }
        };
    }
    vec![request]
}

#[cfg(test)]
mod tests {
    use contract::ids::{JobId, LeaseId};
    use uuid::Uuid;

    use super::*;

    fn report(position: i64, outputs: usize) -> DatumReport {
        DatumReport {
            job: JobId::from_uuid(Uuid::nil()),
            position,
            lease: LeaseId::from_uuid(Uuid::nil()),
            ending: Ending::Succeeded {
                outputs: "0".repeat(outputs),
            },
            exit_code: Some(0),
            download_ms: 0,
            process_ms: 0,
            upload_ms: 0,
            started_at: chrono::DateTime::UNIX_EPOCH,
            memory_bytes: 0,
            cpu_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    fn line(text: &str) -> SentLine {
        SentLine {
            job: JobId::from_uuid(Uuid::nil()),
            key: String::new(),
            run: 1,
            line: 0,
            at: chrono::DateTime::UNIX_EPOCH,
            stream: "stdout".to_owned(),
            text: text.to_owned(),
        }
    }

    fn positions(parts: &[Vec<DatumReport>]) -> Vec<Vec<i64>> {
        parts.iter().map(|p| p.iter().map(|r| r.position).collect()).collect()
    }

    #[test]
    fn a_request_holds_what_fits_and_a_larger_result_stands_alone() {
        let sizes = [10, 10, 5000, 10, 2000, 2000];
        let reports = sizes.iter().zip(0..).map(|(size, at)| report(at, *size)).collect();
        let parts = split(reports, 5 * REPORT_OVERHEAD);
        assert_eq!(positions(&parts), [vec![0, 1], vec![2], vec![3, 4], vec![5]]);
        assert!(split(Vec::new(), 1).is_empty());
    }

    /// What is taken in the end by a plane that refuses with that status whatever holds this position as a success.
    fn taken(status: u16, poison: i64) -> Vec<(i64, &'static str)> {
        let request = CompleteRequest {
            worker: Uuid::nil(),
            datums: (0..5).map(|at| report(at, 10)).collect(),
            logs: vec![line("x")],
        };
        let mut waiting = VecDeque::from([request]);
        let mut taken = Vec::new();
        while let Some(request) = waiting.pop_front() {
            let bad = |r: &DatumReport| r.position == poison && matches!(r.ending, Ending::Succeeded { .. });
            if request.datums.iter().any(bad) {
                for part in take_apart(request, &Refusal::with(status)).into_iter().rev() {
                    waiting.push_front(part);
                }
                continue;
            }
            taken.extend(request.logs.iter().map(|_| (-1, "line")));
            taken.extend(request.datums.iter().map(|r| match r.ending {
                Ending::Succeeded { .. } => (r.position, "succeeded"),
                Ending::Failed { .. } => (r.position, "failed"),
                _ => (r.position, "lost"),
            }));
        }
        taken
    }

    #[test]
    fn one_result_that_is_not_taken_fails_alone_and_the_others_and_all_lines_arrive_in_order() {
        let others = |word| {
            vec![
                (-1, "line"),
                (0, "succeeded"),
                (1, "succeeded"),
                (2, word),
                (3, "succeeded"),
                (4, "succeeded"),
            ]
        };
        assert_eq!(taken(413, 2), others("failed"));
        assert_eq!(taken(500, 2), others("lost"));
    }

    #[test]
    fn only_what_the_request_is_to_blame_for_is_final() {
        for (status, is_final) in [
            (400, true),
            (413, true),
            (422, true),
            (401, false),
            (429, false),
            (503, false),
        ] {
            assert_eq!(Refusal::with(status).is_final(), is_final, "{status}");
        }
        assert!(Refusal::with(500).is_internal() && !Refusal::with(500).is_final());
    }

    #[test]
    fn lines_and_failures_that_are_not_taken_are_given_up() {
        let lines = CompleteRequest {
            worker: Uuid::nil(),
            datums: Vec::new(),
            logs: vec![line("x")],
        };
        assert!(take_apart(lines, &Refusal::with(413)).is_empty());
        let mut failed = report(0, 0);
        failed.ending = Ending::Failed { reason: String::new() };
        let failed = CompleteRequest {
            worker: Uuid::nil(),
            datums: vec![failed],
            logs: Vec::new(),
        };
        assert!(take_apart(failed, &Refusal::with(413)).is_empty());
    }
}
