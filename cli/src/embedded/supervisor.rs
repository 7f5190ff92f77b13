//! The supervisor: starts PostgreSQL and the control plane, starts them again when they die, and stops them in order. What it
//! needs to know after it was killed is in files; what it starts either notices its death or is adopted by the next one.

use std::fs::File;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use contract::ci::CiIssuer;
use contract::cloud::CloudConfig;
use contract::config::{ControlPlaneConfig, ImportConfig, LogsConfig, ServicesConfig, TelemetryConfig};
use contract::reach::Reach;
use private_postgres::Cluster;
use tokio::process::{Child, ChildStdin};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::address::{self, Addresses};
use super::control_plane::{self, Programs, answers, tail};
use super::detach::Refusal;
use super::home::{Home, Service, State};
use super::{database, people, processes};
use crate::clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::files_of_ours::write_json;
use crate::output::Output;
use crate::settings::variable;

const TICK: Duration = Duration::from_millis(500);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_START: Duration = Duration::from_secs(120);
const LONGEST_STOP: Duration = Duration::from_secs(30);

/// `up` in the foreground.
///
/// # Errors
/// When the service cannot be started.
pub(super) async fn run(home: &Home, at: &Addresses, output: Output) -> Outcome {
    let signals = Signals::listen()?;
    let spinner = output.spinner("starting PostgreSQL (the first start makes its cluster)");
    let supervisor = Supervisor::start(home, at).await;
    spinner.finish_and_clear();
    let mut supervisor = supervisor?;
    let ready = supervisor.wait_until_ready().await;
    if let Err(failure) = ready {
        supervisor.stop().await;
        return Err(failure);
    }
    let service = supervisor.service.clone();
    output.result(&service, || format!("running at {} (Ctrl-C stops it)", service.url))?;
    supervisor.watch(signals).await;
    supervisor.stop().await;
    Ok(())
}

/// `up --detached`: the same without a terminal; failures go to a file that `up --detach` reads.
///
/// # Errors
/// When the service cannot be started.
pub(super) async fn run_detached(home: &Home, at: &Addresses) -> Outcome {
    let _ = nix::unistd::setsid();
    let done = run(home, at, Output { json: true }).await;
    if let Err(failure) = &done {
        let refusal = Refusal {
            what: failure.what.clone(),
            why: failure.why.clone(),
            hint: failure.hint.clone(),
            conflict: failure.exit == Exit::Conflict,
        };
        let _ = write_json(&home.failure(), &refusal);
    }
    done
}

/// The signals that stop us, and the hang-up of a terminal, which does not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> Outcome<Self> {
        let listen = |kind| signal(kind).map_err(|e| Failure::new("signals cannot be handled", e, "report this"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn stop_asked(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {}
            }
        }
    }
}

struct Supervisor {
    home: Home,
    service: Service,
    config: ControlPlaneConfig,
    programs: Programs,
    cluster: Option<Cluster>,
    control_plane: Child,
    pipe: Option<ChildStdin>,
    restarts: u32,
    // Held while we live; the kernel releases it when we are killed.
    _lock: File,
}

impl Supervisor {
    async fn start(home: &Home, at: &Addresses) -> Outcome<Self> {
        let lock = home.try_lock()?.ok_or_else(|| {
            Failure::new(
                "the service is running already",
                format!("another process holds {}", home.lock().display()),
                "see `howdah status`",
            )
            .with_exit(Exit::Conflict)
        })?;
        processes::adopt_orphans();
        let programs = Programs::find()?;
        let wanted = address::parse(&at.listen)?;
        if let Some(pid) = home.service().and_then(|s| s.control_plane) {
            processes::stop_left_over(&[pid]).await;
        }
        processes::stop_left_over(&processes::working_in(&home.path)).await;
        let address = free_soon(wanted).await?;
        let services = match at.services_listen.as_deref() {
            Some(wanted) => free_soon(address::parse(wanted)?).await?,
            None => address::beside(address)?,
        };
        let mut service = Service {
            url: address::public_url(address),
            listen: address.to_string(),
            services_url: variable("HOWDAH_SERVICES_URL").unwrap_or_else(|| address::services_url(services)),
            services_listen: services.to_string(),
            state: State::Starting,
            pid: std::process::id(),
            control_plane: None,
            postgres: None,
            started_at: clock::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        home.write_service(&service)?;
        let (cluster, database_url) = match database::start(home).await {
            Ok(started) => started,
            Err(failure) => {
                home.forget_service();
                return Err(failure);
            }
        };
        service.postgres = cluster.as_ref().and_then(Cluster::process_id);
        let launched = launch(home, &programs, &mut service, database_url).await;
        let (config, control_plane, pipe) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                stop_database(cluster).await;
                home.forget_service();
                return Err(failure);
            }
        };
        Ok(Self {
            home: home.clone(),
            service,
            config,
            programs,
            cluster,
            control_plane,
            pipe: Some(pipe),
            restarts: 0,
            _lock: lock,
        })
    }

    /// The first start must succeed: restarting what cannot work would only hide why.
    async fn wait_until_ready(&mut self) -> Outcome {
        let began = Instant::now();
        let log = self.home.log("control-plane");
        let hint = match self.cluster {
            Some(_) => format!("look into {}", log.display()),
            None => format!(
                "check DATABASE_URL (server, user, password, database), and look into {}",
                log.display()
            ),
        };
        while !answers(&self.service.url).await {
            if let Ok(Some(status)) = self.control_plane.try_wait() {
                return Err(Failure::new(
                    "the control plane did not start",
                    format!("it ended ({status}): {}", tail(&log)),
                    hint,
                ));
            }
            if began.elapsed() > LONGEST_START {
                return Err(Failure::new(
                    "the control plane does not answer",
                    format!("it was started {} s ago: {}", LONGEST_START.as_secs(), tail(&log)),
                    hint,
                ));
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        database::remember(&self.home)?;
        self.service.state = State::Running;
        self.home.write_service(&self.service)
    }

    async fn watch(&mut self, mut signals: Signals) {
        let mut tick = tokio::time::interval(TICK);
        let mut steady_since = Instant::now();
        loop {
            tokio::select! {
                () = signals.stop_asked() => return,
                status = self.control_plane.wait() => {
                    if steady_since.elapsed() > LONGEST_BACK_OFF * 3 {
                        self.restarts = 0;
                    }
                    eprintln!("{} the control plane ended ({status:?}); starting it again", clock::now());
                    let pause = back_off(self.restarts);
                    self.restarts = self.restarts.saturating_add(1);
                    tokio::select! {
                        () = signals.stop_asked() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    self.restart_control_plane().await;
                    steady_since = Instant::now();
                }
                _ = tick.tick() => {
                    processes::bury_orphans(&self.control_plane.id().into_iter().collect::<Vec<_>>());
                    self.keep_database_running().await;
                }
            }
        }
    }

    async fn restart_control_plane(&mut self) {
        let log = self.home.log("control-plane");
        match control_plane::start(&self.programs.control_plane, &self.config, &log).await {
            Ok((child, pipe)) => {
                self.control_plane = child;
                self.pipe = Some(pipe);
                self.service.control_plane = self.control_plane.id();
                if let Err(failure) = self.home.write_service(&self.service) {
                    failure.print(false);
                }
            }
            // The old child stays: waiting for it again ends at once and leads here again, after the pause.
            Err(failure) => failure.print(false),
        }
    }

    async fn keep_database_running(&mut self) {
        let Some(cluster) = self.cluster.clone() else { return };
        let mut revived = cluster.clone();
        let work = tokio::task::spawn_blocking(move || {
            if cluster.process_id().is_some() {
                return None;
            }
            eprintln!("{} PostgreSQL is gone; starting it again", clock::now());
            Some(revived.start().map(|()| revived))
        });
        match work.await {
            Ok(Some(Ok(revived))) => {
                self.service.postgres = revived.process_id();
                self.cluster = Some(revived);
                let _ = self.home.write_service(&self.service);
            }
            Ok(Some(Err(error))) => eprintln!("{} {error}", clock::now()),
            Ok(None) => {}
            Err(error) => eprintln!("{} {error}", clock::now()),
        }
    }

    /// The control plane first (it stops its data planes), then what is left of those, then PostgreSQL.
    async fn stop(&mut self) {
        self.service.state = State::Stopping;
        let _ = self.home.write_service(&self.service);
        drop(self.pipe.take());
        if let Some(pid) = self.control_plane.id() {
            processes::terminate(pid);
        }
        if tokio::time::timeout(LONGEST_STOP, self.control_plane.wait())
            .await
            .is_err()
        {
            let _ = self.control_plane.kill().await;
        }
        // Adopted children other than PostgreSQL are data planes.
        processes::stop_orphans().await;
        stop_database(self.cluster.clone()).await;
        self.home.forget_service();
    }
}

/// Starts the control plane and writes down where everything is.
async fn launch(
    home: &Home,
    programs: &Programs,
    service: &mut Service,
    database_url: String,
) -> Outcome<(ControlPlaneConfig, Child, ChildStdin)> {
    let idle = variable("HOWDAH_IDLE_SECONDS").and_then(|v| v.parse().ok());
    let grace = variable("HOWDAH_DELETION_GRACE_DAYS").and_then(|v| v.parse().ok());
    let imports = ImportConfig {
        allow: import_allow()?,
        ..ImportConfig::default()
    };
    let config = ControlPlaneConfig {
        database_url,
        listen: service.listen.clone(),
        public_url: service.url.clone(),
        home: home.path.clone(),
        master_key: home.master_key()?,
        previous_master_keys: Vec::new(),
        data_plane_binary: programs.data_plane.clone(),
        sandbox_binary: programs.sandbox.clone(),
        cloud: CloudConfig::Local,
        idle_seconds: idle.unwrap_or(300),
        deletion_grace_days: grace.unwrap_or(14),
        imports,
        logs: logs_kept()?,
        proxies: proxies()?,
        telemetry: TelemetryConfig {
            otlp_endpoint: variable("HOWDAH_OTLP_ENDPOINT"),
            metrics_token: variable("HOWDAH_METRICS_TOKEN"),
        },
        services: Some(ServicesConfig {
            listen: service.services_listen.clone(),
            url: service.services_url.clone(),
        }),
        people: people::from_environment(home)?,
        ci_issuers: ci_issuers()?,
    };
    let (child, pipe) = control_plane::start(&programs.control_plane, &config, &home.log("control-plane")).await?;
    service.control_plane = child.id();
    home.write_service(service)?;
    Ok((config, child, pipe))
}

/// Whose OIDC tokens of CI runs organizations may trust: `HOWDAH_CI_ISSUERS`, else the public issuers of GitHub and GitLab; `none` for
/// nobody's.
fn ci_issuers() -> Outcome<Vec<CiIssuer>> {
    let Some(text) = variable("HOWDAH_CI_ISSUERS") else {
        return Ok(CiIssuer::public());
    };
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty() && *part != "none");
    parts
        .map(|part| {
            part.parse()
                .map_err(|e| Failure::usage("HOWDAH_CI_ISSUERS cannot be used", e, "write it with commas in between"))
        })
        .collect()
}

/// What imports may reach besides the public Internet: `HOWDAH_IMPORT_ALLOW`.
///
/// # Errors
/// When it cannot be read.
pub(super) fn import_allow() -> Outcome<Vec<Reach>> {
    parse_allow(&variable("HOWDAH_IMPORT_ALLOW").unwrap_or_default())
}

/// A list with commas in between.
fn parse_allow(text: &str) -> Outcome<Vec<Reach>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            part.parse().map_err(|e| {
                Failure::usage(
                    "HOWDAH_IMPORT_ALLOW is not valid",
                    e,
                    "list hosts and networks with commas in between: `data.example.org,10.1.0.0/16`",
                )
            })
        })
        .collect()
}

/// The operator's own proxies: `HOWDAH_PROXIES=10.0.0.0/8,…`.
///
/// # Errors
/// What is none.
pub(super) fn proxies() -> Outcome<Vec<Reach>> {
    let text = variable("HOWDAH_PROXIES").unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.parse() {
            Ok(network @ Reach::Network(..)) => Ok(network),
            _ => Err(Failure::usage(
                "a proxy is not valid",
                format!("`{part}` in HOWDAH_PROXIES is no address or network"),
                "write networks such as `10.0.0.0/8`, with commas between them",
            )),
        })
        .collect()
}

/// How much of logs is kept: `HOWDAH_LOG_DAYS` and `HOWDAH_LOG_JOB_MIB`.
///
/// # Errors
/// When one of them is no number from 1, or there are more days than count.
pub(super) fn logs_kept() -> Outcome<LogsConfig> {
    let usual = LogsConfig::default();
    let (days, mebibytes) = ("HOWDAH_LOG_DAYS", "HOWDAH_LOG_JOB_MIB");
    Ok(LogsConfig {
        keep_days: parse_least_one(days, LogsConfig::DAYS_MAX, variable(days).as_deref())?.unwrap_or(usual.keep_days),
        job_bytes_max: parse_least_one(mebibytes, u32::MAX, variable(mebibytes).as_deref())?
            .map_or(usual.job_bytes_max, |mebibytes| u64::from(mebibytes) << 20),
    })
}

fn parse_least_one(name: &str, most: u32, value: Option<&str>) -> Outcome<Option<u32>> {
    let Some(text) = value.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<u32>() {
        Ok(number @ 1..) if number <= most => Ok(Some(number)),
        _ => Err(Failure::usage(
            "a limit of logs is not valid",
            format!("{name} is `{text}`"),
            format!("write a whole number from 1, or leave {name} out"),
        )),
    }
}

async fn stop_database(cluster: Option<Cluster>) {
    let Some(cluster) = cluster else { return };
    match tokio::task::spawn_blocking(move || cluster.stop()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{} {error}", clock::now()),
        Err(error) => eprintln!("{} {error}", clock::now()),
    }
}

/// What a killed service left behind may hold the port for another moment.
async fn free_soon(wanted: SocketAddr) -> Outcome<SocketAddr> {
    let began = Instant::now();
    loop {
        match address::probe(wanted) {
            Err(failure) if failure.exit == Exit::Conflict && began.elapsed() < Duration::from_secs(3) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done,
        }
    }
}

fn back_off(restarts: u32) -> Duration {
    (Duration::from_millis(200) * 2_u32.saturating_pow(restarts.min(16))).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_reached_is_a_list() {
        assert_eq!(parse_allow("").unwrap_or_default(), []);
        let two = parse_allow(" a.example.org, 10.0.0.0/8,").unwrap_or_default();
        assert_eq!(two.len(), 2);
        assert!(parse_allow("http://a").is_err());
    }

    #[test]
    fn a_limit_of_logs_is_a_number_from_1() {
        let read = |text| parse_least_one("HOWDAH_LOG_DAYS", 36_500, text).ok();
        assert_eq!(
            (read(None), read(Some("")), read(Some(" 7 "))),
            (Some(None), Some(None), Some(Some(7)))
        );
        assert_eq!(
            [Some("0"), Some("-1"), Some("a week"), Some("999999999")].map(read),
            [None, None, None, None]
        );
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        assert_eq!(back_off(0), Duration::from_millis(200));
        assert_eq!(back_off(2), Duration::from_millis(800));
        assert_eq!(back_off(40), LONGEST_BACK_OFF);
    }
}
