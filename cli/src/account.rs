//! Accounts: sign up, log in, log out, and who one is.

use std::io::{IsTerminal, Read};

use clap::Args;
use contract::api::{
    CodeMailed, ForAddress, LogIn, MailedCode, Organization, ProveIdentity, Proved, SessionMade, SignUp, VerifySignUp,
    WhoAmI,
};
use contract::problem::ProblemKind;

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, table};

/// Make an account and log in.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: echo \"$PASSWORD\" | howdah signup --email me@example.org --password-stdin --org acme"
)]
pub struct Signup {
    /// The address
    #[arg(long)]
    email: String,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// An organization to make at once
    #[arg(long, value_name = "NAME")]
    org: Option<String>,
}

/// Log in.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a password somebody who is logged in approves it: the browser opens, or a code is shown to be typed elsewhere.

Example: howdah login
         howdah login --email me@example.org
         howdah login approve WDJB-MJHT"
)]
pub struct Login {
    /// The address: log in by its password
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// A code of your authenticator, or a recovery code; asked for when it is needed
    #[arg(long, value_name = "CODE")]
    second_factor: Option<String>,
    #[command(subcommand)]
    decision: Option<crate::device::Decision>,
}

/// Finish a sign-up by the code that was mailed, or show that mail to your address is yours.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah account verify hwd_cod_…\n         echo \"$PASSWORD\" | howdah account verify hwd_cod_… --password-stdin\n         howdah account verify\n\nWithout a code another one is mailed to the address that you are logged in with."
)]
pub struct Verify {
    /// The code of the mail
    code: Option<String>,
    /// Finish a sign-up, and read its password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

/// `howdah signup`.
///
/// # Errors
/// What the service answers.
pub async fn signup(arguments: Signup, client: &Client, output: Output) -> Outcome {
    let organization = arguments
        .org
        .map(|name| name.parse())
        .transpose()
        .map_err(|e| Failure::usage("wrong usage", e, "choose another name for --org"))?;
    let password = password(arguments.password_stdin, true)?;
    let request = Request::post("/v1/accounts").body(&SignUp {
        email: arguments.email,
        password: password.clone(),
        organization,
    })?;
    match client.control_anonymous(request).await? {
        SignedUp::Made(made) => remember(client, output, &made, "signed up and logged in"),
        SignedUp::Mailed(mailed) if std::io::stdin().is_terminal() && !output.json => {
            output.hint(&format!("a code was mailed to {}", mailed.email));
            let code = ask("Code: ")?;
            finish(VerifySignUp { code, password }, client, output).await
        }
        SignedUp::Mailed(mailed) => {
            output.hint("finish with `howdah account verify CODE`, and the same password");
            output.result(&mailed, || format!("a code was mailed to {}", mailed.email))
        }
    }
}

/// What a sign-up is answered: the session at once, or a mail first.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum SignedUp {
    Made(Box<SessionMade>),
    Mailed(CodeMailed),
}

async fn finish(body: VerifySignUp, client: &Client, output: Output) -> Outcome {
    let request = Request::post("/v1/accounts/verify").body(&body)?;
    let made: SessionMade = client.control_anonymous(request).await?;
    remember(client, output, &made, "signed up and logged in")
}

/// `howdah account verify`.
///
/// # Errors
/// What the service answers.
pub async fn verify(arguments: Verify, client: &Client, output: Output) -> Outcome {
    let Some(code) = arguments.code else {
        let mailed: CodeMailed = client.control(Request::post("/v1/account/email/verification")).await?;
        return output.result(&mailed, || format!("a code was mailed to {}", mailed.email));
    };
    if !arguments.password_stdin && client.token().is_ok() {
        let request = Request::post("/v1/account/email/confirm").body(&MailedCode { code: code.clone() })?;
        match client.control::<ForAddress>(request).await {
            // It may be the code of a sign-up, and the login another one's.
            Err(failure) if failure.is(ProblemKind::Invalid) && std::io::stdin().is_terminal() => {
                output.hint("that is no code of the account that you are logged in with; to finish a sign-up:");
            }
            done => {
                let address = done?;
                client
                    .credentials
                    .change(|login| login.email = Some(address.email.clone()))?;
                return output.result(&address, || format!("{} is verified", address.email));
            }
        }
    }
    let password = password(arguments.password_stdin, false)?;
    finish(VerifySignUp { code, password }, client, output).await
}

/// `howdah login`.
///
/// # Errors
/// What the service answers.
pub async fn login(arguments: Login, client: &Client, output: Output) -> Outcome {
    if let Some(decision) = arguments.decision {
        return crate::device::decide(decision, client, output).await;
    }
    let email = match arguments.email {
        Some(email) => email,
        None if arguments.password_stdin => ask("E-mail: ")?,
        None => {
            let made = crate::device::log_in(client).await?;
            return remember(client, output, &made, "logged in");
        }
    };
    let mut body = LogIn {
        email,
        password: password(arguments.password_stdin, false)?,
        second_factor: arguments.second_factor,
    };
    let made: SessionMade = loop {
        match client
            .control_anonymous(Request::post("/v1/sessions").body(&body)?)
            .await
        {
            Err(failure) if needs_second_factor(&failure, body.second_factor.as_ref()) => {
                body.second_factor = Some(ask("Code of your authenticator, or a recovery code: ")?);
            }
            done => break done?,
        }
    };
    remember(client, output, &made, "logged in")
}

fn needs_second_factor(failure: &Failure, given: Option<&String>) -> bool {
    failure.is(ProblemKind::SecondFactorRequired) && given.is_none() && std::io::stdin().is_terminal()
}

/// Proves again who holds the session.
///
/// # Errors
/// When that is not the password, or the second factor is missing.
pub async fn prove(client: &Client, password: String, second_factor: Option<String>) -> Outcome<Proved> {
    let mut body = ProveIdentity {
        password,
        second_factor,
    };
    loop {
        match client.control(Request::post(PROOF).body(&body)?).await {
            Err(failure) if needs_second_factor(&failure, body.second_factor.as_ref()) => {
                body.second_factor = Some(ask("Code of your authenticator, or a recovery code: ")?);
            }
            done => return done,
        }
    }
}

/// Where that is done.
pub const PROOF: &str = "/v1/sessions/current/proof";

/// Asks at the terminal for the proof that the service wants. `false` where nobody can be asked.
///
/// # Errors
/// When that is not the password.
pub async fn prove_at_terminal(client: &Client) -> Outcome<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    client.hint("this needs a proof of who you are");
    prove(client, ask_secret("Password: ")?, None).await?;
    Ok(true)
}

/// Keeps the session; of several organizations, the one in use before stays in use.
fn remember(client: &Client, output: Output, made: &SessionMade, what: &str) -> Outcome {
    let names: Vec<String> = made.organizations.iter().map(|o| o.name.to_string()).collect();
    client.credentials.change(|login| {
        let same = login.email.as_deref() == Some(&made.account.email);
        let kept = login.organization.take().filter(|name| same && names.contains(name));
        login.organization = kept.or_else(|| (names.len() == 1).then(|| names[0].clone()));
        login.session_token = Some(made.session_token.clone());
        login.email = Some(made.account.email.clone());
        login.forget_seen();
    })?;
    let shown = serde_json::json!({
        "account": made.account, "organizations": made.organizations, "expires_at": made.expires_at,
    });
    output.result(&shown, || {
        let of = if names.is_empty() {
            String::new()
        } else {
            format!(" ({})", names.join(", "))
        };
        format!("{what} as {}{of}", made.account.email)
    })
}

/// `howdah logout`.
///
/// # Errors
/// When the stored login cannot be removed.
pub async fn logout(client: &Client, output: Output) -> Outcome {
    let known = client.credentials.read().session_token.is_some();
    if known && client.settings.token.is_none() {
        // A session that the service does not know any more is as good as ended.
        let _ = client.control_done(Request::delete("/v1/sessions/current")).await;
    }
    client
        .credentials
        .change(|login| *login = crate::credentials::Login::default())?;
    output.result(&serde_json::json!({ "logged_out": known }), || {
        if known { "logged out" } else { "was not logged in" }.to_owned()
    })
}

/// `howdah whoami`.
///
/// # Errors
/// Exit code 4 when not logged in.
pub async fn whoami(client: &Client, output: Output) -> Outcome {
    let who: WhoAmI = client.control(Request::get("/v1/account")).await?;
    let in_use = client.credentials.read().organization;
    output.result(&who, || {
        let unverified = if who.email_verified == Some(false) {
            " (not verified: `howdah account verify`)"
        } else {
            ""
        };
        let rows: Vec<Vec<String>> = who.organizations.iter().map(|o| row(o, in_use.as_deref())).collect();
        format!(
            "{}{unverified} at {}\n{}",
            who.name,
            client.settings.url,
            table(&["organization", "role", ""], &rows)
        )
    })
}

fn row(organization: &Organization, in_use: Option<&str>) -> Vec<String> {
    let mark = if in_use == Some(organization.name.as_str()) {
        "in use"
    } else {
        ""
    };
    vec![
        organization.name.to_string(),
        organization.role.as_str().to_owned(),
        mark.to_owned(),
    ]
}

/// Reads a password from standard input, or asks for it, twice where it is a new one.
///
/// # Errors
/// When there is neither.
pub fn password(from_stdin: bool, twice: bool) -> Outcome<String> {
    if from_stdin {
        return secret_from_stdin();
    }
    let first = ask_secret("Password: ")?;
    if twice && ask_secret("The same again: ")? != first {
        return Err(Failure::usage(
            "the password was not taken",
            "the two passwords differ",
            "try again",
        ));
    }
    Ok(first)
}

/// A password or token that is sent to standard input, without the end of its line.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn secret_from_stdin() -> Outcome<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Failure::new("cannot read standard input", e, "send it as text to standard input"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn needs_terminal() -> Failure {
    Failure::usage(
        "cannot ask for the password",
        "standard input is no terminal",
        "give --email and send the password with --password-stdin",
    )
    .with_exit(Exit::Usage)
}

fn ask_secret(prompt: &str) -> Outcome<String> {
    if !std::io::stdin().is_terminal() {
        return Err(needs_terminal());
    }
    rpassword::prompt_password(prompt)
        .map_err(|e| Failure::new("cannot ask for the password", e, "use --password-stdin"))
}

/// Asks for a line.
///
/// # Errors
/// When nobody can be asked.
pub fn ask(prompt: &str) -> Outcome<String> {
    if !std::io::stdin().is_terminal() {
        return Err(needs_terminal());
    }
    eprint!("{prompt}");
    let mut text = String::new();
    std::io::stdin()
        .read_line(&mut text)
        .map_err(|e| Failure::new("cannot read the address", e, "use --email"))?;
    Ok(text.trim().to_owned())
}
