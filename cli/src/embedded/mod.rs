//! The embedded service: `up`, `down`, `status`. The supervisor lives in this binary; the planes are processes of their own.

mod address;
mod control_plane;
mod database;
mod detach;
pub mod home;
pub(crate) mod people;
mod processes;
mod supervisor;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

pub(crate) use control_plane::{Programs, answers};
pub(crate) use database::External;

use crate::failure::{Failure, Outcome};
use crate::output::{Output, time};
use crate::settings::Settings;
use address::Addresses;
use home::{Home, Service, State};

const LONGEST_STOP: Duration = Duration::from_secs(90);

/// Start the service on this machine.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah up --detach\n         howdah up --listen 127.0.0.1:8000\n\nHOWDAH_IMPORT_ALLOW=HOST,NETWORK,… lets `howdah put … https://…` and `s3://…` reach these hosts (`*.example.org`: all below it)\nand networks (`10.1.0.0/16`) on any port. Without it only public addresses on ports 80 and 443 are fetched from.\n\nHOWDAH_SERVICES_URL=https://*.services.example.org says by what browsers reach services (`howdah open`), each at a host of its own\nin the place of the star, where that is not this machine: a wildcard name that leads to --services-listen.\n\nHOWDAH_LOG_DAYS=30 and HOWDAH_LOG_JOB_MIB=1024 say for how long lines of logs are kept, and how much of those of one job.\n\nHOWDAH_SMTP_URL=smtps://user:password@mail.example.org and HOWDAH_MAIL_FROM='Howdah <howdah@example.org>' name the server that takes\nmail; addresses are verified at sign-up then. Without them mail stays in the outbox (`howdah outbox`). HOWDAH_VERIFICATION=required asks\nfor verification there too. HOWDAH_OIDC_ISSUER, HOWDAH_OIDC_CLIENT_ID, HOWDAH_OIDC_CLIENT_SECRET and HOWDAH_OIDC_TITLE name a provider\nof OpenID Connect that people may log in with.\n\nHOWDAH_OTLP_ENDPOINT=http://otel:4318 sends traces, metrics and logs by OTLP over HTTP; with HOWDAH_METRICS_TOKEN metrics can be scraped at\n/metrics. HOWDAH_PROXIES=10.0.0.0/8 names the proxies whose X-Forwarded-For is believed."
)]
pub struct Up {
    /// Return as soon as the service answers, and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7433")]
    pub listen: String,
    /// Where services of pipelines (`howdah open`) listen [default: the port behind that of --listen, or any free one]
    #[arg(long, value_name = "ADDR")]
    pub services_listen: Option<String>,
    /// The detached process itself
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// What `status` prints.
#[derive(Debug, Serialize)]
struct Status {
    running: bool,
    healthy: bool,
    url: String,
    home: String,
    service: Option<Service>,
}

/// `howdah up`.
///
/// # Errors
/// When the service cannot be started; says what to do.
pub async fn up(arguments: &Up, settings: &Settings, output: Output) -> Outcome {
    let home = Home::new(&settings.home);
    home.prepare()?;
    // Said before anything is started.
    supervisor::import_allow()?;
    supervisor::logs_kept()?;
    supervisor::proxies()?;
    people::from_environment(&home)?;
    let at = Addresses {
        listen: arguments.listen.clone(),
        services_listen: arguments.services_listen.clone(),
    };
    if arguments.detached {
        return supervisor::run_detached(&home, &at).await;
    }
    if home.is_supervised() {
        let service = detach::wait_until_running(&home, None, output).await?;
        return output.result(&service, || format!("already running at {}", service.url));
    }
    if arguments.detach {
        let service = detach::start(&home, &at, output).await?;
        return output.result(&service, || format!("running at {}", service.url));
    }
    supervisor::run(&home, &at, output).await
}

/// `howdah down`.
///
/// # Errors
/// When something does not stop.
pub async fn down(settings: &Settings, output: Output) -> Outcome {
    let home = Home::new(&settings.home);
    let spinner = output.spinner("stopping the service");
    let was_running = home.is_supervised();
    if was_running {
        stop_supervisor(&home).await?;
    }
    let left_over = clean_up(&home).await?;
    spinner.finish_and_clear();
    let stopped = was_running || left_over;
    output.result(&serde_json::json!({ "stopped": stopped }), || {
        if stopped { "stopped" } else { "was not running" }.to_owned()
    })
}

async fn stop_supervisor(home: &Home) -> Outcome {
    let began = Instant::now();
    while home.is_supervised() {
        // Repeated: the supervisor may be so young that it has not written its process id yet.
        // And what is written may be of an earlier one, whose number is another process's now.
        if let Some(service) = home.service().filter(|s| processes::holds(s.pid, &home.lock())) {
            processes::terminate(service.pid);
        }
        if began.elapsed() > LONGEST_STOP {
            let log = home.log("supervisor");
            return Err(Failure::new(
                "the service did not stop",
                format!("it was asked to {} s ago and still runs", LONGEST_STOP.as_secs()),
                format!("look into {}", log.display()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Stops what a killed supervisor left behind. The control plane and the data planes stop by themselves when the pipe to
/// their parent breaks; PostgreSQL does not.
async fn clean_up(home: &Home) -> Outcome<bool> {
    let Some(lock) = home
        .path
        .join("run")
        .is_dir()
        .then(|| home.try_lock())
        .transpose()?
        .flatten()
    else {
        return Ok(false);
    };
    let mut found = false;
    if let Some(pid) = home.service().and_then(|s| s.control_plane) {
        found |= processes::stop_left_over(&[pid]).await;
    }
    // Data planes whose control plane was killed too may not have noticed yet.
    found |= processes::stop_left_over(&processes::working_in(&home.path)).await;
    let directory = home.postgres();
    found |= tokio::task::spawn_blocking(move || private_postgres::Cluster::stop_at(&directory))
        .await
        .map_err(|e| Failure::new("PostgreSQL was not stopped", e, "run `howdah down` again"))??;
    home.forget_service();
    drop(lock);
    Ok(found)
}

/// Whether nobody listens at the port of a loopback address; nothing for other addresses.
pub(crate) fn port_is_free(url: &str) -> Option<bool> {
    let address: std::net::SocketAddr = url.strip_prefix("http://")?.parse().ok()?;
    address
        .ip()
        .is_loopback()
        .then(|| std::net::TcpListener::bind(address).is_ok())
}

/// `howdah status`.
///
/// # Errors
/// Exit code 3 when nothing runs, 1 when it runs and does not answer.
pub async fn status(settings: &Settings, output: Output) -> Outcome {
    let home = Home::new(&settings.home);
    let running = home.is_supervised();
    let service = home.service().filter(|_| running);
    let url = service.as_ref().map_or_else(|| settings.url.clone(), |s| s.url.clone());
    let healthy = control_plane::answers(&url).await;
    let status = Status {
        running,
        healthy,
        url,
        home: home.path.display().to_string(),
        service,
    };
    output.result(&status, || describe(&status))?;
    match (running, healthy) {
        (_, true) => Ok(()),
        (true, false) => Err(Failure::new(
            "the service runs but does not answer",
            "it is starting, stopping, or its database is away",
            format!("look into {}", home.path.join("log").display()),
        )),
        (false, false) => Err(Failure::new(
            "the service does not run",
            format!("nothing answers at {}", status.url),
            "start it with `howdah up --detach`",
        )
        .with_exit(crate::failure::Exit::NotFound)),
    }
}

fn describe(status: &Status) -> String {
    let word = match (status.running, status.healthy) {
        (_, true) => "running",
        (true, false) => "not answering",
        (false, false) => "not running",
    };
    let mut lines = vec![
        format!("{word}  {}", status.url),
        format!("home           {}", status.home),
    ];
    if let Some(service) = &status.service {
        lines.push(format!("services       {}", service.services_url));
        lines.push(format!("since          {}", time(&service.started_at)));
        lines.push(format!("supervisor     process {}", service.pid));
        if let Some(pid) = service.control_plane {
            lines.push(format!("control plane  process {pid}"));
        }
        lines.push(match service.postgres {
            Some(pid) => format!("PostgreSQL     process {pid}"),
            None => "PostgreSQL     DATABASE_URL".to_owned(),
        });
        if service.state != State::Running {
            lines.push(format!("state          {:?}", service.state).to_lowercase());
        }
    }
    lines.join("\n")
}
