//! Services on this machine: runs those that the plane wants, kills those that it does not want any more, and says how they
//! are. Beside the datums, whose slots they do not take: a service has no end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::ids::JobId;
use sandbox::{Exit, Port, Run};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::desk::JobShared;
use super::execute::{Bench, RunEnd, attend, failure, is_code, sandbox_run, shown};
use super::image::{self, InImage};
use super::inputs::{self, Place};
use super::lazy::Mounts;
use super::output::RunLog;
use super::plane::Plane;
use super::protocol::{DatumTask, ServiceReport, ServiceStanding, ServiceTask, ServicesRequest};
use super::spouting::{Pipes, Spout};

/// How long the plane may hold its answer back while nothing else is wanted.
const WAIT: Duration = Duration::from_secs(20);
/// After a failed request.
const RETRY: Duration = Duration::from_millis(200);
/// So often it is tried whether a service answers yet.
const KNOCK_EVERY: Duration = Duration::from_millis(100);

/// The services of a worker.
#[derive(Default)]
pub struct Services {
    known: Mutex<HashMap<JobId, Known>>,
    changed: Notify,
}

struct Known {
    run: i32,
    standing: ServiceStanding,
    stop: CancellationToken,
}

impl Services {
    fn known(&self) -> MutexGuard<'_, HashMap<JobId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> Vec<ServiceReport> {
        let known = self.known();
        let report = |(job, known): (&JobId, &Known)| ServiceReport {
            job: *job,
            run: known.run,
            standing: known.standing.clone(),
        };
        known.iter().map(report).collect()
    }

    fn stands(&self, job: JobId, run: i32, standing: ServiceStanding) {
        if let Some(known) = self.known().get_mut(&job).filter(|known| known.run == run) {
            known.standing = standing;
            self.changed.notify_one();
        }
    }

    /// Stops what is not wanted any more and answers what is to be started.
    fn settle(&self, wanted: Vec<ServiceTask>) -> Vec<(ServiceTask, CancellationToken)> {
        let mut known = self.known();
        known.retain(|job, known| {
            let keep = wanted.iter().any(|w| w.datum.job == *job && w.datum.run == known.run);
            if !keep {
                known.stop.cancel();
            }
            keep
        });
        let mut fresh = Vec::new();
        for task in wanted {
            if known.contains_key(&task.datum.job) {
                continue;
            }
            let stop = CancellationToken::new();
            let new = Known {
                run: task.datum.run,
                standing: ServiceStanding::Starting,
                stop: stop.clone(),
            };
            known.insert(task.datum.job, new);
            fresh.push((task, stop));
        }
        fresh
    }
}

/// Keeps what the plane wants running, until the worker ends.
pub async fn keep(bench: Arc<Bench>, plane: Plane) {
    let services = Arc::new(Services::default());
    loop {
        let request = ServicesRequest {
            worker: bench.config.worker,
            services: services.reports(),
            isolation: bench.isolation_word().to_owned(),
            wait_ms: u64::try_from(WAIT.as_millis()).unwrap_or(0),
        };
        let answer = tokio::select! {
            answer = plane.services(&request) => answer,
            // Said at once; what was asked for is asked for again.
            () = services.changed.notified() => continue,
        };
        match answer {
            Ok(answer) => {
                for (task, stop) in services.settle(answer.services) {
                    tokio::spawn(run(
                        (Arc::clone(&bench), plane.clone()),
                        Arc::clone(&services),
                        task,
                        stop,
                    ));
                }
            }
            Err(error) => {
                tracing::debug!("services could not be asked for: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn run((bench, plane): (Arc<Bench>, Plane), services: Arc<Services>, task: ServiceTask, stop: CancellationToken) {
    let (job, run) = (task.datum.job, task.datum.run);
    let place = Place::below(&bench.datums, &format!("service-{}-{run}", job.uuid().simple()));
    let (reason, exit_code) = serve((&bench, &plane), &services, task, &place, &stop).await;
    let root = place.root;
    // What stays is removed when the next worker starts.
    let _ = tokio::task::spawn_blocking(move || sandbox::discard(&root)).await;
    services.stands(job, run, ServiceStanding::Ended { reason, exit_code });
}

/// The image that it runs in, if the spec names one.
async fn in_image(bench: &Bench, job: &JobShared, log: &RunLog<'_>) -> Result<Option<InImage>, String> {
    let Some(task) = &job.task.image else { return Ok(None) };
    match image::prepare(bench, &job.task, task, log).await {
        Ok(image) => Ok(Some(image)),
        Err(RunEnd::Failed(reason) | RunEnd::Lost(reason)) => Err(reason),
        Err(RunEnd::Succeeded | RunEnd::Recovered) => Err("its image could not be prepared".to_owned()),
    }
}

/// Runs it to its end; answers why it ended.
async fn serve(
    (bench, plane): (&Bench, &Plane),
    services: &Services,
    task: ServiceTask,
    place: &Place,
    stop: &CancellationToken,
) -> (String, Option<i32>) {
    let ServiceTask {
        job,
        datum,
        port,
        last_key,
    } = task;
    let lost = |error: &dyn std::fmt::Display| (format!("it could not be started: {error}"), None);
    let trees = match inputs::trees(&job) {
        Ok(trees) => trees,
        Err(error) => return lost(&error),
    };
    let shared = JobShared::new(job, trees);
    if let Some(reason) = &shared.task.refused {
        return (reason.clone(), None);
    }
    let log = RunLog::lasting(&bench.outbox, &bench.environment, &datum, &shared.masks);
    let laid_out = tokio::select! {
        () = stop.cancelled() => return lost(&super::execute::OVER),
        laid_out = lay_out(bench, (&shared, &datum, place), &log) => laid_out,
    };
    let (names, elsewhere, lazy) = match laid_out {
        Ok(laid_out) => laid_out,
        Err(error) => return lost(&error),
    };
    let image = match in_image(bench, &shared, &log).await {
        Ok(image) => image,
        Err(reason) => return (reason, None),
    };
    let cmd = image.as_ref().map_or(&shared.task.cmd, |image| &image.cmd).clone();
    let stdin = shared.task.stdin.clone();
    let mut run = sandbox_run(bench, (&shared, &datum, place), image.as_ref(), cmd, &stdin);
    run.inputs = names;
    run.shown = elsewhere;
    let way = match Way::open(place, &mut run, port, last_key) {
        Ok(way) => way,
        Err(error) => return lost(&error),
    };
    let (binary, isolation) = (bench.config.sandbox_binary.clone(), bench.isolation);
    let spawned = tokio::task::spawn_blocking(move || sandbox::spawn(&binary, isolation, &run)).await;
    let running = match spawned {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => return lost(&error),
        Err(error) => return lost(&error),
    };
    let attended = attend(running, &log, lazy.end_after(stop.cancelled()));
    let stands = |standing| services.stands(datum.job, datum.run, standing);
    let spout = Spout {
        bench,
        plane,
        job: &shared,
        datum: &datum,
        place,
        stop,
    };
    let ended = ended_first(attended, way.serve(&spout, stands)).await;
    lazy.unmount().await;
    log.close();
    match ended {
        Ok(outcome) => said(&outcome.exit, &shared),
        Err(error) => lost(&error),
    }
}

/// How a command and the rest of the world come together.
enum Way {
    /// It listens at a port, which is reached through this socket.
    Door(PathBuf),
    /// It asks for commits.
    Pipes(Box<Pipes>),
}

impl Way {
    fn open(place: &Place, run: &mut Run, port: Option<u16>, last_key: Option<String>) -> std::io::Result<Self> {
        let Some(port) = port else {
            return Ok(Self::Pipes(Box::new(Pipes::make(place, run, last_key)?)));
        };
        let door = place.root.join("door");
        run.port = Some(Port {
            number: port,
            socket: door.clone(),
        });
        run.env.push(("HOWDAH_SERVICE_PORT".to_owned(), port.to_string()));
        run.env.push(("HOWDAH_SERVICE_BASE".to_owned(), "/".to_owned()));
        Ok(Self::Door(door))
    }

    async fn serve(self, spout: &Spout<'_>, stands: impl Fn(ServiceStanding)) {
        match self {
            Self::Door(door) => knock(&door, || stands(ServiceStanding::Answering { door: door.clone() })).await,
            Self::Pipes(pipes) => {
                stands(ServiceStanding::Running);
                spout.commit_when_asked(*pipes).await;
            }
        }
    }
}

/// What is shown elsewhere than below `/pfs`, and where.
type Elsewhere = Vec<(PathBuf, String)>;

/// Lays out all inputs, those without a match too; answers the names below `/pfs` and what is shown elsewhere.
async fn lay_out(
    bench: &Bench,
    (job, datum, place): (&JobShared, &DatumTask, &Place),
    log: &RunLog<'_>,
) -> Result<(Vec<String>, Elsewhere, Mounts), inputs::InputError> {
    let seen = inputs::seen(&bench.storage, &job.trees, datum).await?;
    let mut names: Vec<String> = job.trees.iter().map(|tree| tree.name.clone()).collect();
    names.sort();
    names.dedup();
    let mut lazy = Mounts::default();
    let rest = lazy.mount(&bench.blocks, place, &seen, log).await;
    let laid_out: Vec<String> = names.iter().filter(|name| !lazy.has(name)).cloned().collect();
    inputs::lay_out(&bench.cache, place, &laid_out, &rest, false).await?;
    names.retain(|name| !is_code(job, name));
    Ok((names, shown(job, place), lazy))
}

/// The first, beside which the second goes on until it is done.
async fn ended_first<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> T {
    tokio::pin!(first, second);
    tokio::select! {
        done = &mut first => return done,
        () = &mut second => {}
    }
    first.await
}

/// Tries until somebody answers.
async fn knock(door: &Path, answers: impl FnOnce()) {
    loop {
        let door: PathBuf = door.to_owned();
        let connected = tokio::task::spawn_blocking(move || sandbox::connect(&door).is_ok()).await;
        if connected.unwrap_or(false) {
            return answers();
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

fn said(exit: &Exit, job: &JobShared) -> (String, Option<i32>) {
    let code = match exit {
        Exit::Code(code) => Some(*code),
        _ => None,
    };
    match failure(exit, job) {
        Ok(reason) if code == Some(0) => (format!("{reason}: a service or spout must not end by itself"), code),
        Ok(reason) | Err(reason) => (reason, code),
    }
}
