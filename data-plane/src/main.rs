//! The process of one tenant's data plane: `serve`, `migrate`, `worker`; and `wait`. Its parent passes the configuration as one line
//! of JSON on standard input and keeps the pipe open; when the pipe ends, the process stops. With `--config` it is a file, and
//! a signal stops the process.

use std::path::PathBuf;

use chassis::process::{self, Shutdown, Source};
use chassis::telemetry::Telemetry;
use clap::{Parser, Subcommand};
use contract::config::{DataPlaneConfig, TelemetryConfig};
use data_plane::worker::lending;
use data_plane::worker::protocol::WorkerConfig;

/// A tenant's data plane. Started by the control plane; configuration comes as a line of JSON on standard input.
#[derive(Parser)]
#[command(name = "howdah-data-plane", version)]
struct Arguments {
    /// Read the configuration from a file; then the end of standard input means nothing, and SIGTERM stops the process
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the API.
    Serve,
    /// Runs datums for a plane, which starts it.
    Worker,
    /// Brings the tenant's database to this version's schema and exits.
    Migrate,
    /// Does nothing until a signal stops it: holds room on a node for a plane.
    Wait,
}

fn main() -> anyhow::Result<()> {
    process::install_tls_provider();
    let Arguments { config, command } = Arguments::parse();
    let source = Source::from(config);
    match command {
        Command::Serve => {
            let config: DataPlaneConfig = process::read_config(&source)?;
            let _telemetry = telemetry(&config)?;
            run(async {
                let shutdown = Shutdown::new();
                shutdown.listen(&source)?;
                data_plane::server::serve(config, shutdown).await
            })
        }
        Command::Worker => {
            let config: WorkerConfig = process::read_config(&source)?;
            // What datums took is recorded by the plane, from their reports.
            let _telemetry = chassis::telemetry::init("howdah-worker", &[], &TelemetryConfig::default())?;
            run(async {
                let shutdown = Shutdown::new();
                shutdown.listen(&source)?;
                let storage = lending::open(&config).await?;
                data_plane::worker::process::run(config, storage, shutdown).await
            })
        }
        Command::Migrate => {
            let config: DataPlaneConfig = process::read_config(&source)?;
            let _telemetry = telemetry(&config)?;
            run(data_plane::server::migrate(&config))
        }
        Command::Wait => run(async {
            let shutdown = Shutdown::new();
            shutdown.listen(&Source::Signals)?;
            shutdown.begun().await;
            Ok(())
        }),
    }
}

fn telemetry(config: &DataPlaneConfig) -> anyhow::Result<Telemetry> {
    let of = [("organization.id", config.organization.to_string())];
    chassis::telemetry::init("howdah-data-plane", &of, &config.telemetry)
}

fn run(process: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(process);
    // Blocking tasks of broken-off uploads must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}
