//! API tokens: for scripts and CI. A token's secret is shown once, when it is made.

use std::path::PathBuf;

use clap::Subcommand;
use contract::api::ApiToken;

use crate::client::{Client, Request, segment};
use crate::failure::Outcome;
use crate::output::{Output, or_dash, time};
use crate::references::{days, scope};

/// API tokens
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; its secret is printed once
    #[command(
        after_help = "Example: howdah token create --name ci --scope read:images --scope write:results --expires 30d"
    )]
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// All that it may do: discover, read, write, derive, declassify, admin or * with `[project/]repo`, `project:NAME`
        /// or *, like `read:images`; may be repeated; without any it may do all that you may
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it ends
        #[arg(long, value_name = "DAYS", value_parser = days, default_value = "90d")]
        expires: u32,
        /// Make it for a service account of the organization in use
        #[arg(long, value_name = "NAME")]
        service_account: Option<String>,
    },
    /// List your tokens
    #[command(after_help = "Example: howdah token list")]
    List,
    /// Exchange the OIDC token of a CI run for a token of the service, which is printed; needs no login
    #[command(
        after_help = "Example: export HOWDAH_ORG=acme HOWDAH_TOKEN=\"$(howdah token exchange --oidc-token-file run.jwt)\""
    )]
    Exchange {
        /// Where the run's token is; the CI system makes it for the audience that `howdah ci-trust list` shows
        #[arg(long, value_name = "FILE")]
        oidc_token_file: PathBuf,
        /// Name of the trust, where several fit
        #[arg(long, value_name = "NAME")]
        trust: Option<String>,
    },
    /// Revoke a token
    #[command(after_help = "Example: howdah token revoke tok_…")]
    Revoke {
        /// Its id
        id: String,
    },
}

/// Runs the command.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Token, client: &Client, output: Output) -> Outcome {
    match command {
        Token::Create {
            name,
            scopes,
            expires,
            service_account,
        } => {
            let organization = match &service_account {
                Some(_) => Some(client.organization().await?),
                None => client.settings.organization.clone(),
            };
            let project = &client.settings.project;
            let scopes: Outcome<Vec<String>> = scopes.iter().map(|s| scope(s, project)).collect();
            let scopes = scopes?;
            let body = serde_json::json!({
                "name": name, "scopes": scopes, "expires_in_days": expires,
                "organization": organization, "service_account": service_account,
            });
            let made: ApiToken = client.control(Request::post("/v1/tokens").body(&body)?).await?;
            output.hint("this is the only time that the token is shown; use it as HOWDAH_TOKEN");
            output.result(&made, || made.secret.clone().unwrap_or_default())
        }
        Token::List => {
            let items: Vec<ApiToken> = client.control_list(Request::get("/v1/tokens")).await?;
            output.list(
                &items,
                &["id", "name", "scopes", "expires", "last used", "revoked"],
                |t| {
                    vec![
                        t.id.to_string(),
                        t.name.clone(),
                        t.scopes.join(" "),
                        time(&t.expires_at),
                        or_dash(t.last_used_at.as_ref().map(time)),
                        or_dash(t.revoked_at.as_ref().map(time)),
                    ]
                },
            )
        }
        Token::Exchange { oidc_token_file, trust } => {
            crate::ci_trust::exchange(oidc_token_file, trust, client, output).await
        }
        Token::Revoke { id } => {
            client
                .control_done(Request::delete(format!("/v1/tokens/{}", segment(&id))))
                .await?;
            output.result(&serde_json::json!({ "revoked": id }), || format!("revoked {id}"))
        }
    }
}
