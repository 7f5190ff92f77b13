//! API tokens: for scripts and CI. A token's secret is shown once, when it is made.

use std::path::PathBuf;

use clap::Subcommand;
use contract::api::{ApiToken, RevokeSecret, RotateToken};

use crate::client::{Client, Request, segment};
use crate::failure::{Exit, Outcome};
use crate::organization::path;
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
        /// End it when it was not used for that long
        #[arg(long, value_name = "DAYS", value_parser = days)]
        idle: Option<u32>,
    },
    /// List your tokens
    #[command(after_help = "Example: howdah token list
         howdah token list --all")]
    List {
        /// Every token that works in the organization in use, for its admins and auditors
        #[arg(long)]
        all: bool,
    },
    /// Make a new secret for a token, which is printed once; the old one stays good for a while
    #[command(after_help = "Example: howdah token rotate tok_… --overlap 24
         howdah token rotate tok_… --overlap 0 (the old secret ends at once)")]
    Rotate {
        /// Its id
        id: String,
        /// How long the old secret stays good, 0 to 72
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        overlap: u32,
    },
    /// Let a token work in the organization in use, for its admins
    #[command(after_help = "Example: howdah token approve tok_…")]
    Approve {
        /// Its id
        id: String,
    },
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
    /// Revoke a token: yours, or, for admins, any that works in the organization in use
    #[command(after_help = "Example: howdah token revoke tok_…
         printf %s \"$FOUND\" | howdah token revoke --secret-stdin")]
    Revoke {
        /// Its id
        #[arg(required_unless_present = "secret_stdin")]
        id: Option<String>,
        /// Read the secret of a token that was found somewhere; needs no login
        #[arg(long, conflicts_with = "id")]
        secret_stdin: bool,
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
            idle,
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
                "organization": organization, "service_account": service_account, "idle_days": idle,
            });
            let made: ApiToken = client.control(Request::post("/v1/tokens").body(&body)?).await?;
            output.hint("this is the only time that the token is shown; use it as HOWDAH_TOKEN");
            output.result(&made, || made.secret.clone().unwrap_or_default())
        }
        Token::List { all: true } => list_all(client, output).await,
        Token::List { all: false } => {
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
        Token::Rotate { id, overlap } => {
            let wish = RotateToken {
                overlap_hours: Some(overlap),
            };
            let request = Request::post(format!("/v1/tokens/{}/rotate", segment(&id))).body(&wish)?;
            let made: ApiToken = client.control(request).await?;
            output.hint(&format!(
                "{} takes the place of {id}; this is the only time that the token is shown",
                made.id
            ));
            output.result(&made, || made.secret.clone().unwrap_or_default())
        }
        Token::Approve { id } => {
            let organization = client.organization().await?;
            let address = path(&organization, &format!("/tokens/{}/approval", segment(&id)));
            client.control_done(Request::post(address)).await?;
            output.result(&serde_json::json!({ "approved": id }), || format!("approved {id}"))
        }
        Token::Revoke { id: Some(id), .. } => revoke(&id, client, output).await,
        Token::Revoke { id: None, .. } => revoke_found(client, output).await,
    }
}

/// One of the caller's own, else one that works in the organization in use.
async fn revoke(id: &str, client: &Client, output: Output) -> Outcome {
    let own = client
        .control_done(Request::delete(format!("/v1/tokens/{}", segment(id))))
        .await;
    match own {
        Err(failure) if failure.exit == Exit::NotFound => {
            let organization = client.organization().await?;
            let address = path(&organization, &format!("/tokens/{}", segment(id)));
            client.control_done(Request::delete(address)).await?;
        }
        done => done?,
    }
    output.result(&serde_json::json!({ "revoked": id }), || format!("revoked {id}"))
}

/// The service does not say whether it knew the secret.
async fn revoke_found(client: &Client, output: Output) -> Outcome {
    let secret = crate::account::secret_from_stdin()?;
    let request = Request::post("/v1/tokens/revoke").body(&RevokeSecret { token: secret })?;
    client.control_anonymous_done(request).await?;
    output.result(&serde_json::json!({ "revoked": true }), || {
        "whatever it was, it is good for nothing now".to_owned()
    })
}

async fn list_all(client: &Client, output: Output) -> Outcome {
    let organization = client.organization().await?;
    let items: Vec<ApiToken> = client
        .control_list(Request::get(path(&organization, "/tokens")))
        .await?;
    output.list(
        &items,
        &["id", "name", "of", "stands", "scopes", "expires", "last used"],
        |t| {
            vec![
                t.id.to_string(),
                t.name.clone(),
                t.principal_name.clone(),
                t.standing.clone().unwrap_or_default(),
                t.scopes.join(" "),
                time(&t.expires_at),
                or_dash(t.last_used_at.as_ref().map(time)),
            ]
        },
    )
}
