//! What CI systems are trusted with: their runs exchange the OIDC token of their own system for one of the service, so no secret has
//! to be kept there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use contract::api::{CiConditions, CiTrust, ExchangedToken, NewCiTrust, TokenExchange};
use contract::ci::CiProvider;

use crate::client::{Client, Request, segment};
use crate::failure::{Failure, Outcome, io};
use crate::organization::path;
use crate::output::{Output, time};
use crate::references::scope;

/// Trust in runs of CI systems, which then need no secret
#[derive(Debug, Subcommand)]
pub enum Trust {
    Create(Box<Create>),
    /// List what CI systems are trusted with
    #[command(after_help = "Example: howdah ci-trust list")]
    List,
    /// Delete a trust; the tokens that came of it end at once
    #[command(after_help = "Example: howdah ci-trust delete tiles-main")]
    Delete {
        /// Its name or id
        name: String,
    },
}

/// Trust runs of a CI system: those that prove all of this act as a service account
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah ci-trust create tiles-main --service-account ci --owner-id 65 --repository-id 74 \\
             --workflow 'acme/tiles/.github/workflows/*@refs/heads/main' --environment production --ref refs/heads/main
         howdah ci-trust create site --issuer gitlab --service-account ci --owner-id 9970 --repository-id 278964 --ref 'refs/heads/**'
A trust names the owner, the repository (--repository-id, or --claim repository=acme/tiles, of GitLab project_path), and which of its runs:
--environment, --ref below refs/heads/ or refs/tags/, --workflow with its file or its ref in full, or --claim ref_protected=true.
In patterns, * stands for characters other than / and @, ** for characters other than @."
)]
pub struct Create {
    /// What it is called
    name: String,
    /// What runs act as
    #[arg(long, value_name = "NAME")]
    service_account: String,
    /// Who makes the tokens: `github`, `gitlab`, or the address of an issuer that the operator of the service allows
    #[arg(long, default_value = "github")]
    issuer: String,
    /// For whom the tokens are made; the service's address and the organization when it is missing
    #[arg(long)]
    audience: Option<String>,
    /// Id of who owns the repository: `repository_owner_id` of GitHub, `namespace_id` of GitLab
    #[arg(long, value_name = "ID")]
    owner_id: Option<String>,
    /// Id of the repository or project
    #[arg(long, value_name = "ID")]
    repository_id: Option<String>,
    /// Pattern for the file that says what runs, with its ref: `job_workflow_ref`, `ci_config_ref_uri`
    #[arg(long, value_name = "PATTERN")]
    workflow: Option<String>,
    /// The environment
    #[arg(long)]
    environment: Option<String>,
    /// Pattern for the branch or tag, like `refs/heads/main`
    #[arg(long = "ref", value_name = "PATTERN")]
    reference: Option<String>,
    /// Pattern for another claim; may be repeated
    #[arg(long = "claim", value_name = "NAME=PATTERN", value_parser = pair)]
    claims: Vec<(String, String)>,
    /// All that runs may do, as in `howdah token create`; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// How long their tokens live, 1 to 15
    #[arg(long, value_name = "MINUTES", default_value_t = 15)]
    life: u32,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=PATTERN")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Trust, client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let all = path(&organization, "/ci-trusts");
    match command {
        Trust::Create(arguments) => {
            let body = wished(*arguments, &client.settings.project)?;
            let made: CiTrust = client.control(Request::post(all).body(&body)?).await?;
            output.hint(&format!(
                "runs ask their CI system for a token with the audience `{}` and send it with `howdah token exchange`",
                made.audience
            ));
            output.result(&made, || {
                format!("trusts runs as sa:{} ({})", made.service_account, made.name)
            })
        }
        Trust::List => {
            let items: Vec<CiTrust> = client.control_list(Request::get(all)).await?;
            output.list(
                &items,
                &["name", "issuer", "audience", "acts as", "demands", "scopes", "minutes"],
                |t| {
                    vec![
                        t.name.clone(),
                        t.issuer.clone(),
                        t.audience.clone(),
                        format!("sa:{}", t.service_account),
                        demands(&t.conditions),
                        t.scopes.join(" "),
                        t.life_minutes.to_string(),
                    ]
                },
            )
        }
        Trust::Delete { name } => {
            client
                .control_done(Request::delete(format!("{all}/{}", segment(&name))))
                .await?;
            output.result(&serde_json::json!({ "deleted": name }), || format!("deleted {name}"))
        }
    }
}

fn wished(arguments: Create, project: &str) -> Outcome<NewCiTrust> {
    let known = arguments.issuer.parse::<CiProvider>().ok();
    let issuer = known.and_then(CiProvider::public_issuer).map(str::to_owned);
    let service_account = arguments
        .service_account
        .parse()
        .map_err(|e| Failure::usage("wrong usage", e, "name a service account of the organization"))?;
    let scopes: Outcome<Vec<String>> = arguments.scopes.iter().map(|s| scope(s, project)).collect();
    Ok(NewCiTrust {
        name: arguments.name,
        issuer: issuer.unwrap_or(arguments.issuer),
        audience: arguments.audience,
        service_account,
        conditions: CiConditions {
            owner_id: arguments.owner_id,
            repository_id: arguments.repository_id,
            workflow: arguments.workflow,
            environment: arguments.environment,
            reference: arguments.reference,
            claims: BTreeMap::from_iter(arguments.claims),
        },
        scopes: scopes?,
        life_minutes: Some(arguments.life),
    })
}

fn demands(conditions: &CiConditions) -> String {
    let named = [
        ("owner", &conditions.owner_id),
        ("repository", &conditions.repository_id),
        ("workflow", &conditions.workflow),
        ("environment", &conditions.environment),
        ("ref", &conditions.reference),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)));
    let claims = conditions.claims.iter().map(|(name, value)| format!("{name}={value}"));
    named.chain(claims).collect::<Vec<_>>().join(" ")
}

/// `howdah token exchange`: needs no login, the organization comes from HOWDAH_ORG or `howdah org use`.
///
/// # Errors
/// Exit code 4 when the service does not accept the run's token.
pub async fn exchange(file: PathBuf, trust: Option<String>, client: &Client, output: Output) -> Outcome {
    let remembered = || client.credentials.read().organization;
    let organization = client
        .settings
        .organization
        .clone()
        .or_else(remembered)
        .ok_or_else(|| {
            Failure::usage(
                "cannot exchange the token",
                "no organization is named",
                "set HOWDAH_ORG to the organization that trusts the run",
            )
        })?;
    let organization = organization
        .parse()
        .map_err(|e| Failure::usage("wrong usage", e, "set HOWDAH_ORG to an organization's name"))?;
    let token = std::fs::read_to_string(&file).map_err(io("read", &file))?;
    let body = TokenExchange {
        organization,
        token: token.trim().to_owned(),
        trust,
    };
    let request = Request::post("/v1/token-exchange").body(&body)?;
    let made: ExchangedToken = client.control_anonymous(request).await?;
    output.hint(&format!(
        "acts as sa:{} until {}; use it as HOWDAH_TOKEN",
        made.service_account,
        time(&made.expires_at)
    ));
    output.result(&made, || made.token.clone())
}
