//! `howdah defaults`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome, io};
use crate::output::Output;
use crate::references::project;
use crate::template;

/// What pipeline specs begin with: organization, then project, then the spec itself
#[derive(Debug, Subcommand)]
pub enum Defaults {
    /// Set them, for the organization or a project; they count for what is applied from then on
    #[command(
        after_help = "Example: echo '{datum_tries: 1, resource_limits: {memory: 4Gi}}' > defaults.yaml; \
                            howdah defaults set --project vision -f defaults.yaml\n\
                            They say with what means code runs (tries, timeouts, resources, parallelism, metadata), never what runs.\n\
                            An empty object, `{}`, takes them away. In a spec, `null` takes a default away."
    )]
    Set {
        /// The project; without it, the organization
        #[arg(long)]
        project: Option<String>,
        /// Fields of a pipeline spec, in YAML or JSON
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Show them
    #[command(after_help = "Example: howdah defaults show --project vision")]
    Show {
        /// The project; without it, the organization
        #[arg(long)]
        project: Option<String>,
    },
}

/// Runs a command on defaults.
///
/// # Errors
/// What the service answers; wrong usage when the file is none.
pub async fn run(command: Defaults, client: &Client, output: Output) -> Outcome {
    let of = |request: Request, named: Option<String>| -> Outcome<Request> {
        let named = named.map(|name| project(&name)).transpose()?;
        Ok(request.query_if("project", named))
    };
    let shown: Value = match command {
        Defaults::Set { project, file } => {
            let text = std::fs::read_to_string(&file).map_err(io("cannot read the file", &file))?;
            let mut specs = template::specs(&file.display().to_string(), &text, &[])?;
            let (Some(spec), true) = (specs.pop(), specs.is_empty()) else {
                return Err(Failure::usage(
                    "there is not one object in the file",
                    "it has none or several",
                    "write one",
                ));
            };
            client
                .plane(of(Request::put("/v1/defaults"), project)?.body(&spec)?)
                .await?
        }
        Defaults::Show { project } => client.plane(of(Request::get("/v1/defaults"), project)?).await?,
    };
    output.result(&shown, || serde_json::to_string_pretty(&shown).unwrap_or_default())
}
