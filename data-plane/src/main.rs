//! The process of one tenant's data plane: `serve`, `migrate`, `worker`. Its parent passes the configuration as one line
//! of JSON on standard input and keeps the pipe open; when the pipe ends, the process stops.

use chassis::Environment;
use chassis::process::{self, Shutdown};
use clap::Parser;
use contract::config::DataPlaneConfig;
use data_plane::stores;
use data_plane::worker::protocol::WorkerConfig;

/// A tenant's data plane. Started by the control plane; configuration comes as a line of JSON on standard input.
#[derive(Parser)]
#[command(name = "howdah-data-plane", version)]
enum Command {
    /// Serves the API.
    Serve,
    /// Runs datums for a plane, which starts it.
    Worker,
    /// Brings the tenant's database to this version's schema and exits.
    Migrate,
}

fn main() -> anyhow::Result<()> {
    process::install_tls_provider();
    let command = Command::parse();
    chassis::telemetry::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(command));
    // Blocking tasks of broken-off uploads must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve => {
            let config: DataPlaneConfig = process::read_config()?;
            let shutdown = Shutdown::new();
            shutdown.listen(true)?;
            data_plane::server::serve(config, shutdown).await
        }
        Command::Worker => {
            let config: WorkerConfig = process::read_config()?;
            let shutdown = Shutdown::new();
            shutdown.listen(true)?;
            let storage =
                stores::open_encrypted(&config.store, config.data_key.as_deref(), &Environment::system()).await?;
            data_plane::worker::process::run(config, storage, shutdown).await
        }
        Command::Migrate => {
            let config: DataPlaneConfig = process::read_config()?;
            data_plane::server::migrate(&config).await
        }
    }
}
