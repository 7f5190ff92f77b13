//! `howdah-control-plane`: `serve` reads its configuration as one line of JSON from standard input and stops when that
//! ends, or from the file that `--config` names and stops at SIGTERM; `migrate` brings the schema up to date and ends; `rotate-key` changes what secrets are sealed with, `rotate-signing-key` what
//! tokens are signed with.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use chassis::process::{Shutdown, Source, install_tls_provider, read_config};
use chassis::{Environment, telemetry};
use clap::{Parser, Subcommand};
use contract::config::ControlPlaneConfig;

/// Who the customers are, what they may do, where their data planes run.
#[derive(Parser)]
#[command(name = "howdah-control-plane", version)]
struct Arguments {
    /// Read the configuration from a file; then the end of standard input means nothing, and SIGTERM stops the process
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve the API and the gateway and run the planes, until standard input ends or a signal comes.
    Serve,
    /// Bring the schema of the control plane's database up to date.
    Migrate,
    /// Change keys: wrap all data keys with the current master key, and seal anew what is sealed with an older key.
    ///
    /// Before, start the services with the new key as `master_key` and the old one in `previous_master_keys`; afterwards the old one
    /// is needed no more. It can be interrupted and run again, while services run.
    RotateKey {
        /// Make new data keys too, and seal all stored secrets with them
        #[arg(long)]
        data: bool,
    },
    /// Sign with the next key from now on. A service that runs takes it over within seconds.
    RotateSigningKey {
        /// Withdraw this key at once, everywhere, because somebody else has it: all access tokens that it signed end, policies are
        /// signed anew. Sessions and API tokens stay. Ids are in `/.well-known/jwks.json` and in the head of every token
        #[arg(long, value_name = "KID")]
        stolen: Option<String>,
    },
}

fn main() -> anyhow::Result<()> {
    install_tls_provider();
    let arguments = Arguments::parse();
    let source = Source::from(arguments.config);
    let config: ControlPlaneConfig = read_config(&source)?;
    let telemetry = telemetry::init("howdah-control-plane", &[], &config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let ended = runtime.block_on(async {
        match arguments.verb {
            Verb::RotateKey { data } => {
                let environment = Environment::system();
                let rotated = control_plane::process::rotate_key(&config, &environment, data).await?;
                println!("{}", serde_json::to_string(&rotated)?);
                Ok(())
            }
            Verb::Migrate => control_plane::database::open(&config.database_url).await.map(|_| ()),
            Verb::RotateSigningKey { stolen: None } => {
                control_plane::process::rotate_keys(&config, &Environment::system()).await
            }
            Verb::RotateSigningKey { stolen: Some(kid) } => {
                let done = control_plane::process::withdraw_key(&config, &Environment::system(), &kid).await?;
                println!("{}", serde_json::to_string(&done)?);
                Ok(())
            }
            Verb::Serve => {
                let shutdown = Shutdown::new();
                shutdown.listen(&source)?;
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
