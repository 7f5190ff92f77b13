//! How one proves who one is: the password, the address, second factors, sessions, and what happened to the account.

use std::io::IsTerminal;

use clap::{Args, Subcommand};
use contract::api::{
    AccountEvent, CodeMailed, ForAddress, LinkedIdentity, MailedCode, NewPassword, PasskeyView, Proved, RecoveryCodes,
    ResetPassword, SecondFactors, SessionView, SessionsEnded, TotpBegun, TotpCode, WhoAmI,
};
use contract::policy::Principal;

use crate::account::{self, password, prove};
use crate::client::{Client, Request, segment};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, or_dash, time};

/// Your account: password, address, and what happened to it
#[derive(Debug, Subcommand)]
pub enum Account {
    Verify(account::Verify),
    /// Prove again who you are, for things that are dangerous in the wrong hands; good for 15 minutes
    #[command(after_help = "Example: echo \"$PASSWORD\" | howdah account prove --password-stdin")]
    Prove {
        #[command(flatten)]
        from: PasswordFrom,
        /// A code of your authenticator, or a recovery code; asked for when it is needed
        #[arg(long, value_name = "CODE")]
        second_factor: Option<String>,
    },
    /// Change the password; all other sessions end
    #[command(after_help = "Example: howdah account change-password")]
    ChangePassword(PasswordFrom),
    /// Set a new password by a code that is mailed; all sessions end
    #[command(
        after_help = "Example: howdah account reset-password --email me@example.org\n         howdah account reset-password --code hwd_cod_…"
    )]
    ResetPassword {
        /// Have a code mailed to this address
        #[arg(long, required_unless_present = "code", conflicts_with = "code")]
        email: Option<String>,
        /// The code that was mailed
        #[arg(long)]
        code: Option<String>,
        #[command(flatten)]
        from: PasswordFrom,
    },
    /// Change the address: a code is mailed to the new one, for `howdah account verify`
    #[command(after_help = "Example: howdah account change-email new@example.org")]
    ChangeEmail {
        /// The new address
        email: String,
    },
    /// Take a change of the address back, by the code that was mailed to the one of before
    #[command(after_help = "Example: howdah account undo-email hwd_cod_…")]
    UndoEmail {
        /// The code that was mailed
        code: String,
    },
    /// Let an identity at a provider log in to your account, by the code that was mailed
    #[command(after_help = "Example: howdah account link hwd_cod_…")]
    Link {
        /// The code that was mailed
        code: String,
    },
    /// List the identities at providers that log in to your account
    #[command(after_help = "Example: howdah account identities")]
    Identities,
    /// Let an identity at a provider log in no more
    #[command(after_help = "Example: howdah account unlink https://accounts.example.org 12345")]
    Unlink {
        /// The provider's issuer
        issuer: String,
        /// Who it is there
        subject: String,
    },
    /// Passkeys: keys on your devices that log in to your account
    #[command(subcommand)]
    Passkey(Passkey),
    /// Codes of an authenticator as a second factor
    #[command(subcommand)]
    Totp(Totp),
    /// Make new recovery codes; those of before are good for nothing then
    #[command(after_help = "Example: howdah account recovery-codes")]
    RecoveryCodes,
    /// Delete your account, and organizations that nobody else belongs to, with all that is in them
    #[command(after_help = "Example: howdah account delete --yes")]
    Delete {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List what happened to your account, newest first, and check that nothing of it was changed or removed
    #[command(after_help = "Example: howdah account events")]
    Events,
}

/// Passkeys of your account; a browser registers them
#[derive(Debug, Subcommand)]
pub enum Passkey {
    /// List them
    #[command(after_help = "Example: howdah account passkey list")]
    List,
    /// Remove one
    #[command(after_help = "Example: howdah account passkey remove pky_…")]
    Remove {
        /// Its id
        id: String,
    },
}

/// Codes of an authenticator
#[derive(Debug, Subcommand)]
pub enum Totp {
    /// Show which second factors the account has
    #[command(after_help = "Example: howdah account totp status")]
    Status,
    /// Enrol an authenticator; prints recovery codes when its first code was right
    #[command(after_help = "Example: howdah account totp enable")]
    Enable,
    /// Send the first code, where `enable` could not ask for it
    #[command(after_help = "Example: howdah account totp confirm 123456")]
    Confirm {
        /// What the authenticator shows
        code: String,
    },
    /// Ask for codes no more
    #[command(after_help = "Example: howdah account totp disable")]
    Disable,
}

/// Where a password comes from.
#[derive(Debug, Args)]
pub struct PasswordFrom {
    /// Read it from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

/// Your sessions: where you are logged in
#[derive(Debug, Subcommand)]
pub enum Session {
    /// List them
    #[command(after_help = "Example: howdah session list")]
    List,
    /// End one, or all others
    #[command(after_help = "Example: howdah session revoke tok_…\n         howdah session revoke --others")]
    Revoke {
        /// Its id
        #[arg(required_unless_present = "others", conflicts_with = "others")]
        id: Option<String>,
        /// All but the one in use
        #[arg(long)]
        others: bool,
    },
}

/// Runs `howdah account`.
///
/// # Errors
/// What the service answers.
pub async fn run(command: Account, client: &Client, output: Output) -> Outcome {
    match command {
        Account::Verify(arguments) => account::verify(arguments, client, output).await,
        Account::Prove { from, second_factor } => {
            let proved: Proved = prove(client, password(from.password_stdin, false)?, second_factor).await?;
            output.result(&proved, || format!("proved until {}", time(&proved.until)))
        }
        Account::ChangePassword(from) => {
            let body = NewPassword {
                password: password(from.password_stdin, true)?,
            };
            client
                .control_done(Request::put("/v1/account/password").body(&body)?)
                .await?;
            output.result(&serde_json::json!({ "changed": "password" }), || {
                "the password was changed; all other sessions ended".to_owned()
            })
        }
        Account::ResetPassword { email, code, from } => reset(email, code, &from, client, output).await,
        Account::ChangeEmail { email } => change_email(email, client, output).await,
        Account::UndoEmail { code } => undo_email(code, client, output).await,
        Account::Link { code } => {
            let request = Request::post("/v1/accounts/link").body(&MailedCode { code })?;
            client.control_done(request.anonymous()).await?;
            output.result(&serde_json::json!({ "linked": true }), || "it is linked".to_owned())
        }
        Account::Identities => identities(client, output).await,
        Account::Unlink { issuer, subject } => {
            let request = Request::delete("/v1/account/identities")
                .query("issuer", &issuer)
                .query("subject", &subject);
            client.control_done(request).await?;
            output.result(&serde_json::json!({ "unlinked": subject }), || {
                format!("{subject} logs in no more")
            })
        }
        Account::Passkey(command) => passkey(command, client, output).await,
        Account::Totp(command) => totp(command, client, output).await,
        Account::RecoveryCodes => {
            let codes = client.control(Request::post("/v1/account/recovery-codes")).await?;
            show_codes(&codes, output)
        }
        Account::Delete { yes } => delete(yes, client, output).await,
        Account::Events => events(client, output).await,
    }
}

async fn change_email(email: String, client: &Client, output: Output) -> Outcome {
    let request = Request::post("/v1/account/email").body(&ForAddress { email })?;
    let mailed: CodeMailed = client.control(request).await?;
    output.hint("type the code with `howdah account verify CODE`");
    output.result(&mailed, || format!("a code was mailed to {}", mailed.email))
}

async fn undo_email(code: String, client: &Client, output: Output) -> Outcome {
    let request = Request::post("/v1/accounts/undo-email").body(&MailedCode { code })?;
    let address: ForAddress = client.control_anonymous(request).await?;
    output.result(&address, || {
        format!(
            "the address is {} again and all sessions ended; set a new password now: `howdah account reset-password --email {}`",
            address.email, address.email
        )
    })
}

async fn identities(client: &Client, output: Output) -> Outcome {
    let items: Vec<LinkedIdentity> = client.control_list(Request::get("/v1/account/identities")).await?;
    output.list(&items, &["issuer", "subject", "since"], |i| {
        vec![i.issuer.clone(), i.subject.clone(), time(&i.created_at)]
    })
}

async fn passkey(command: Passkey, client: &Client, output: Output) -> Outcome {
    match command {
        Passkey::List => {
            let items: Vec<PasskeyView> = client.control_list(Request::get("/v1/account/passkeys")).await?;
            output.list(&items, &["id", "name", "since", "last used"], |p| {
                vec![
                    p.id.to_string(),
                    p.name.clone(),
                    time(&p.created_at),
                    or_dash(p.last_used_at.as_ref().map(time)),
                ]
            })
        }
        Passkey::Remove { id } => {
            client
                .control_done(Request::delete(format!("/v1/account/passkeys/{}", segment(&id))))
                .await?;
            output.result(&serde_json::json!({ "removed": id }), || format!("removed {id}"))
        }
    }
}

async fn reset(
    email: Option<String>,
    code: Option<String>,
    from: &PasswordFrom,
    client: &Client,
    output: Output,
) -> Outcome {
    if let Some(email) = email {
        let request = Request::post("/v1/password-resets").body(&ForAddress { email })?;
        let mailed: CodeMailed = client.control_anonymous(request).await?;
        output.hint("type the code with `howdah account reset-password --code CODE`");
        return output.result(&mailed, || format!("a mail was written to {}", mailed.email));
    }
    let body = ResetPassword {
        code: code.unwrap_or_default(),
        password: password(from.password_stdin, true)?,
    };
    let request = Request::post("/v1/password-resets/redeem").body(&body)?;
    client.control_done(request.anonymous()).await?;
    output.result(&serde_json::json!({ "changed": "password" }), || {
        "the password was changed and all sessions ended; log in with `howdah login`".to_owned()
    })
}

async fn totp(command: Totp, client: &Client, output: Output) -> Outcome {
    match command {
        Totp::Status => {
            let factors: SecondFactors = client.control(Request::get("/v1/account/second-factors")).await?;
            output.result(&factors, || match factors.totp {
                true => format!(
                    "codes are asked for; {} recovery codes are left",
                    factors.recovery_codes_left
                ),
                false => "no second factor".to_owned(),
            })
        }
        Totp::Enable => {
            let begun: TotpBegun = client.control(Request::post("/v1/account/totp")).await?;
            if output.json || !std::io::stdin().is_terminal() {
                output.hint("add it to an authenticator, then type `howdah account totp confirm CODE`");
                return output.result(&begun, || format!("{}\n{}", begun.secret, begun.url));
            }
            output.hint(&format!(
                "add this to your authenticator: {}\n{}",
                begun.secret, begun.url
            ));
            confirm(account::ask("Code that it shows: ")?, client, output).await
        }
        Totp::Confirm { code } => confirm(code, client, output).await,
        Totp::Disable => {
            client.control_done(Request::delete("/v1/account/totp")).await?;
            output.result(&serde_json::json!({ "totp": false }), || {
                "codes are asked for no more".to_owned()
            })
        }
    }
}

async fn confirm(code: String, client: &Client, output: Output) -> Outcome {
    let request = Request::post("/v1/account/totp/confirm").body(&TotpCode { code })?;
    show_codes(&client.control(request).await?, output)
}

fn show_codes(codes: &RecoveryCodes, output: Output) -> Outcome {
    output.hint("keep these recovery codes; each takes the place of a code once, and they are not shown again");
    output.result(codes, || codes.recovery_codes.join("\n"))
}

async fn delete(yes: bool, client: &Client, output: Output) -> Outcome {
    if !yes {
        return Err(Failure::usage(
            "the account was not deleted",
            "this ends it for good, with the organizations that nobody else belongs to and all their data",
            "repeat with --yes: `howdah account delete --yes`",
        ));
    }
    client.control_done(Request::delete("/v1/account")).await?;
    client
        .credentials
        .change(|login| *login = crate::credentials::Login::default())?;
    output.result(&serde_json::json!({ "deleted": true }), || {
        "the account was deleted".to_owned()
    })
}

async fn events(client: &Client, output: Output) -> Outcome {
    let events: Vec<AccountEvent> = client.control_list(Request::get("/v1/account/events")).await?;
    let who: WhoAmI = client.control(Request::get("/v1/account")).await?;
    output.list(&events, &["nr", "when", "what", "about", "from", "by"], |e| {
        vec![
            e.seq.to_string(),
            time(&e.at),
            e.action.clone(),
            e.subject.clone(),
            e.address.clone(),
            or_dash(Some(e.token.clone()).filter(|t| !t.is_empty())),
        ]
    })?;
    let Principal::Account(id) = who.id else { return Ok(()) };
    AccountEvent::check(&events, id).map_err(|seq| {
        Failure::new(
            "the account's events are not what they were",
            format!("event {seq} does not fit the one before it, or is not as it was written"),
            "report this to whoever operates the service",
        )
    })
}

/// Runs `howdah session`.
///
/// # Errors
/// What the service answers.
pub async fn run_session(command: Session, client: &Client, output: Output) -> Outcome {
    match command {
        Session::List => {
            let items: Vec<SessionView> = client.control_list(Request::get("/v1/sessions")).await?;
            output.list(&items, &["id", "since", "last used", "from", "by", ""], |s| {
                vec![
                    s.id.to_string(),
                    time(&s.created_at),
                    or_dash(s.last_used_at.as_ref().map(time)),
                    s.address.clone(),
                    s.user_agent.clone(),
                    if s.current { "in use" } else { "" }.to_owned(),
                ]
            })
        }
        Session::Revoke { id: Some(id), .. } => {
            client
                .control_done(Request::delete(format!("/v1/sessions/{}", segment(&id))))
                .await?;
            output.result(&serde_json::json!({ "revoked": id }), || format!("ended {id}"))
        }
        Session::Revoke { id: None, .. } => {
            let ended: SessionsEnded = client.control(Request::delete("/v1/sessions")).await?;
            output.result(&ended, || format!("ended {} other sessions", ended.ended))
        }
    }
}
