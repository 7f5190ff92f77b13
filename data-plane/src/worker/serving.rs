//! Services and spouts: runs those that the plane wants, kills those that it does not want any more, and says how they
//! are. On a machine beside the datums, whose slots they do not take: a service has no end. In a pod there is one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::ids::JobId;
use sandbox::{Exit, Outcome, Port};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::desk::JobShared;
use super::execute::{Bench, OVER, RunEnd, Runner, attend, failure, is_code, sandbox_run, shown};
use super::image::{self, InImage};
use super::inputs::{self, Place};
use super::lazy::Mounts;
use super::output::RunLog;
use super::plane::Plane;
use super::pod::{self, Door, Ordered, Pod};
use super::protocol::{DatumTask, Entrance, ServiceReport, ServiceStanding, ServiceTask, ServicesRequest};
use super::spouting::{self, Pipes, Spout};

/// How long the plane may hold its answer back while nothing else is wanted.
const WAIT: Duration = Duration::from_secs(20);
/// The same in a pod, which holds what it keeps under leases: asking renews them.
const WAIT_IN_POD: Duration = Duration::from_secs(3);
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
    let wait = match bench.runner {
        Runner::Sandbox => WAIT,
        Runner::Pod(_) => WAIT_IN_POD,
    };
    loop {
        let request = ServicesRequest {
            worker: bench.config.worker,
            services: services.reports(),
            isolation: bench.isolation_word().to_owned(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
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
    let place = bench.place(&format!("service-{}-{run}", job.uuid().simple()));
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

/// A run that was not begun.
fn lost(error: impl std::fmt::Display) -> String {
    format!("it could not be started: {error}")
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
    let trees = match inputs::trees(&job) {
        Ok(trees) => trees,
        Err(error) => return (lost(error), None),
    };
    let shared = JobShared::new(job, trees);
    if let Some(reason) = &shared.task.refused {
        return (reason.clone(), None);
    }
    let log = RunLog::lasting(&bench.outbox, &bench.environment, &datum, &shared.masks);
    let stands = |standing| services.stands(datum.job, datum.run, standing);
    let wanted = Lasting {
        run: Spout {
            bench,
            plane,
            job: &shared,
            datum: &datum,
            place,
            stop,
        },
        port,
        last_key,
        log: &log,
        stands: &stands,
    };
    let ended = match &bench.runner {
        Runner::Sandbox => wanted.in_sandbox().await,
        Runner::Pod(pod) => wanted.in_pod(pod).await,
    };
    log.close();
    match ended {
        Ok(outcome) => said(&outcome.exit, &shared),
        Err(reason) => (reason, None),
    }
}

/// A command that has no end, about to run.
struct Lasting<'a> {
    /// What it is, and what makes its commits if it is a spout.
    run: Spout<'a>,
    /// Where it listens; a spout has no port.
    port: Option<u16>,
    last_key: Option<String>,
    log: &'a RunLog<'a>,
    stands: &'a (dyn Fn(ServiceStanding) + Sync),
}

impl Lasting<'_> {
    /// The variables that only it has.
    fn variables(&self) -> Vec<(String, String)> {
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        match (self.port, &self.last_key) {
            (Some(port), _) => vec![
                named("HOWDAH_SERVICE_PORT", &port.to_string()),
                named("HOWDAH_SERVICE_BASE", "/"),
            ],
            (None, Some(key)) => vec![named("HOWDAH_LAST_KEY", key)],
            (None, None) => Vec::new(),
        }
    }

    /// In a sandbox of this machine.
    ///
    /// # Errors
    /// In words, when it was not begun.
    async fn in_sandbox(&self) -> Result<Outcome, String> {
        let Spout {
            bench,
            job,
            datum,
            place,
            stop,
            ..
        } = self.run;
        let (names, elsewhere, lazy) = tokio::select! {
            () = stop.cancelled() => return Err(lost(OVER)),
            laid_out = lay_out(bench, (job, datum, place), self.log) => laid_out.map_err(lost)?,
        };
        let image = in_image(bench, job, self.log).await?;
        let cmd = image.as_ref().map_or(&job.task.cmd, |image| &image.cmd).clone();
        let mut run = sandbox_run(bench, (job, datum, place), image.as_ref(), cmd, &job.task.stdin);
        run.inputs = names;
        run.shown = elsewhere;
        run.env.extend(self.variables());
        let way = match self.port {
            Some(number) => {
                let socket = place.root.join("door");
                run.port = Some(Port {
                    number,
                    socket: socket.clone(),
                });
                Way::Socket(socket)
            }
            None => {
                run.inputs.extend(spouting::PIPES.map(str::to_owned));
                Way::Pipes(Box::new(Pipes::make(place).map_err(lost)?))
            }
        };
        let (binary, isolation) = (bench.config.sandbox_binary.clone(), bench.isolation);
        let spawned = tokio::task::spawn_blocking(move || sandbox::spawn(&binary, isolation, &run)).await;
        let running = spawned.map_err(lost)?.map_err(lost)?;
        let attended = attend(running, self.log, lazy.end_after(stop.cancelled()));
        let ended = ended_first(attended, self.serve(way)).await;
        lazy.unmount().await;
        ended.map_err(lost)
    }

    /// In the other container of this pod.
    ///
    /// # Errors
    /// In words, when it was not begun, or nobody knows how it ended.
    async fn in_pod(&self, pod: &Pod) -> Result<Outcome, String> {
        let Spout {
            bench,
            job,
            datum,
            place,
            stop,
            ..
        } = self.run;
        if let Some(reason) = pod::refusal(job) {
            return Err(reason.to_owned());
        }
        let begun = async {
            let turn = pod.turn().await;
            // Whatever ran there is gone then.
            pod.ready().await;
            let seen = inputs::seen(&bench.storage, &job.trees, datum).await.map_err(lost)?;
            let laid_out = pod.lay_out(&bench.cache, job, &all_names(job), &seen).await;
            laid_out.map_err(lost)?;
            let way = match self.port {
                Some(port) => {
                    let capability = bench.config.capability.as_deref().unwrap_or_default();
                    Way::Door(pod.open_door(port, capability).await.map_err(lost)?)
                }
                None => Way::Pipes(Box::new(Pipes::make(place).map_err(lost)?)),
            };
            Ok::<_, String>((turn, way))
        };
        let (_turn, way) = tokio::select! {
            () = stop.cancelled() => return Err(lost(OVER)),
            begun = begun => begun?,
        };
        let ordered = Ordered {
            argv: job.task.cmd.clone(),
            stdin: &job.task.stdin,
            env: self.variables(),
            lasts: true,
        };
        let attended = pod.run((job, datum), ordered, self.log, stop.cancelled());
        ended_first(attended, self.serve(way)).await
    }

    async fn serve(&self, way: Way) {
        let stands = self.stands;
        let answers = |door| stands(ServiceStanding::Answering { door });
        match way {
            Way::Socket(door) => {
                knock(|| {
                    let door = door.clone();
                    async move {
                        tokio::task::spawn_blocking(move || sandbox::connect(&door).is_ok())
                            .await
                            .unwrap_or(false)
                    }
                })
                .await;
                answers(Entrance::Socket(door));
            }
            Way::Door(door) => {
                let known = async {
                    knock(|| door.answers()).await;
                    answers(Entrance::Agent(door.address()));
                };
                tokio::join!(known, door.serve());
            }
            Way::Pipes(pipes) => {
                stands(ServiceStanding::Running);
                self.run.commit_when_asked(*pipes).await;
            }
        }
    }
}

/// How a command and the rest of the world come together.
enum Way {
    /// It listens at a port, which is reached through this socket.
    Socket(PathBuf),
    /// The same, through a port of this pod.
    Door(Door),
    /// It asks for commits.
    Pipes(Box<Pipes>),
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
    Ok((all_names(job), shown(job, place), lazy))
}

/// The names of all inputs below `/pfs`.
fn all_names(job: &JobShared) -> Vec<String> {
    let names = job.trees.iter().map(|tree| tree.name.clone());
    let mut names: Vec<String> = names.filter(|name| !is_code(job, name)).collect();
    names.sort();
    names.dedup();
    names
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
async fn knock<T: Future<Output = bool>>(answers: impl Fn() -> T) {
    while !answers().await {
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
