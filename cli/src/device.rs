//! Logging in without a password: this command line shows a code, and somebody who is logged in elsewhere approves it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Subcommand;
use contract::api::{
    DecideDeviceLogin, DeviceAnswer, DeviceLogin, DeviceQuestion, DeviceRequest, DeviceState, NewDeviceLogin,
    SessionMade,
};

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Output, time};

/// What is decided of a log-in that waits elsewhere.
#[derive(Debug, Subcommand)]
pub enum Decision {
    /// Approve the log-in of another command line, which shows a code: it will act as you
    #[command(after_help = "Example: howdah login approve WDJB-MJHT")]
    Approve {
        /// The code that it shows
        code: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Refuse the log-in of another command line
    #[command(after_help = "Example: howdah login refuse WDJB-MJHT")]
    Refuse {
        /// The code that it shows
        code: String,
    },
}

/// Waits until somebody approves this command line.
///
/// # Errors
/// Exit code 4 when he refuses, or nobody does it in time.
pub async fn log_in(client: &Client) -> Outcome<SessionMade> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let name = format!("howdah {} on {}", env!("CARGO_PKG_VERSION"), host.unwrap_or_default());
    let request = Request::post("/v1/device-logins").body(&NewDeviceLogin { client: Some(name) })?;
    let login: DeviceLogin = client.control_anonymous(request).await?;
    // Also with `--json`: it is no result, and nobody could approve what he is not told.
    eprintln!(
        "open {} and type the code {}\nor, where you are logged in: howdah login approve {}",
        login.verification_url, login.user_code, login.user_code
    );
    if std::io::stderr().is_terminal() {
        // A browser that does not start is no reason to give up: the address stands above.
        let _ = crate::open::browse(&format!("{}#{}", login.verification_url, login.user_code));
    }
    let until = Instant::now() + Duration::from_secs(login.expires_in);
    let mut interval = login.interval;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(interval)).await;
        let question = DeviceQuestion {
            device_code: login.device_code.clone(),
        };
        let request = Request::post("/v1/device-logins/answer").body(&question)?;
        let answer: DeviceAnswer = client.control_anonymous(request).await?;
        interval = answer.interval;
        match answer.state {
            DeviceState::Pending | DeviceState::SlowDown => {}
            DeviceState::Denied => return Err(not_logged_in("somebody has refused it")),
            DeviceState::Approved => return session(answer),
        }
    }
    Err(not_logged_in("nobody has approved it in time"))
}

fn session(answer: DeviceAnswer) -> Outcome<SessionMade> {
    let made = answer.account.zip(answer.session_token).zip(answer.expires_at);
    let ((account, session_token), expires_at) = made.ok_or_else(|| not_logged_in("the service told no session"))?;
    Ok(SessionMade {
        account,
        organizations: answer.organizations,
        session_token,
        expires_at,
    })
}

fn not_logged_in(why: &str) -> Failure {
    Failure::new("not logged in", why, "begin again with `howdah login`").with_exit(Exit::Denied)
}

/// `howdah login approve`, `howdah login refuse`.
///
/// # Errors
/// Exit code 3 when no log-in with that code waits.
pub async fn decide(decision: Decision, client: &Client, output: Output) -> Outcome {
    let (code, approve, yes) = match decision {
        Decision::Approve { code, yes } => (code, true, yes),
        Decision::Refuse { code } => (code, false, true),
    };
    let body = DecideDeviceLogin {
        user_code: code,
        approve,
    };
    let request = Request::post("/v1/device-logins/request").body(&body)?;
    let waiting: DeviceRequest = client.control(request).await?;
    let who = format!(
        "{} from {}, since {}",
        waiting.client,
        waiting.address,
        time(&waiting.requested_at)
    );
    if !yes && std::io::stdin().is_terminal() && !confirmed(&who)? {
        return Err(Failure::usage(
            "nothing was approved",
            "it was not confirmed",
            "answer `yes`, or use `--yes`",
        ));
    }
    let request = Request::post("/v1/device-logins/decision").body(&body)?;
    client.control_done(request).await?;
    let word = if approve { "approved" } else { "refused" };
    let shown = serde_json::json!({ "request": waiting, "approved": approve });
    output.result(&shown, || format!("{word} {who}"))
}

fn confirmed(who: &str) -> Outcome<bool> {
    eprint!("{who}\nwill act as you. Approve? [yes/no] ");
    let _ = std::io::stderr().flush();
    let mut text = String::new();
    std::io::stdin()
        .read_line(&mut text)
        .map_err(|e| Failure::new("cannot read the answer", e, "use `--yes`"))?;
    Ok(matches!(text.trim(), "y" | "yes"))
}
