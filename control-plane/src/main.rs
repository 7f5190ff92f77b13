//! `howdah-control-plane`: `serve` reads its configuration as one line of JSON from standard input and stops when that
//! ends; `migrate` brings the schema up to date and ends.

use std::io::Write;

use anyhow::Context;
use chassis::process::{Shutdown, install_tls_provider, read_config};
use chassis::{Environment, telemetry};
use clap::{Parser, Subcommand};
use contract::config::ControlPlaneConfig;

/// Who the customers are, what they may do, where their data planes run.
#[derive(Parser)]
#[command(name = "howdah-control-plane", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the API and the gateway and run the planes, until standard input ends.
    Serve,
    /// Bring the schema of the control plane's database up to date.
    Migrate,
}

fn main() -> anyhow::Result<()> {
    install_tls_provider();
    let arguments = Arguments::parse();
    let config: ControlPlaneConfig = read_config()?;
    let telemetry = telemetry::init("howdah-control-plane", &[], &config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let ended = runtime.block_on(async {
        match arguments.verb {
            Verb::Migrate => control_plane::database::open(&config.database_url).await.map(|_| ()),
            Verb::Serve => {
                let shutdown = Shutdown::new();
                shutdown.listen(true)?;
                control_plane::process::serve(config, Environment::system(), shutdown, |url| {
                    println!("{}", serde_json::json!({ "url": url }));
                    let _ = std::io::stdout().flush();
                })
                .await
            }
        }
    });
    // Its exporters wait for their receiver, which must not be on a thread of the runtime.
    drop(telemetry);
    ended
}
