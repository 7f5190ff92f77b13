//! Mail: a row that is written in the transaction of what it tells, so that neither is ever without the other. A task hands it to
//! the server that the configuration names; without one it stays in the outbox, which whoever operates the installation reads.
//! Texts hold secrets: they are sealed where they lie and erased once they were sent.

pub(crate) mod operator;
pub mod queries;
mod routes;
mod sending;
mod texts;

use chrono::{DateTime, Duration, Utc};
use contract::config::{MailConfig, PeopleConfig};
use contract::ids::MailId;
use lettre::message::Mailbox;
use lettre::transport::smtp::PoolConfig;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
pub use routes::router;
pub use sending::{send_due, send_due_within, spawn};
pub use texts::Letter;
use tokio::sync::Notify;

use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::refusal::Refusal;

/// For how long a mail that was not sent is kept. What it holds is over by then.
const KEPT: Duration = Duration::days(7);
/// The longest wait for a connection to the server.
const SERVER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Where mail goes, and who reads what stays.
pub struct Post {
    server: Option<Server>,
    operator: Option<[u8; 32]>,
    wake: Notify,
}

struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Post {
    /// Reads the configuration; connects to nothing yet.
    ///
    /// # Errors
    /// What of it is not usable.
    pub fn new(config: &PeopleConfig) -> anyhow::Result<Self> {
        let operator = config.operator_sha256.as_deref().map(|text| {
            let digest = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            digest.ok_or_else(|| anyhow::anyhow!("`operator_sha256` must be 64 hex digits"))
        });
        Ok(Self {
            server: config.mail.as_ref().map(server).transpose()?,
            operator: operator.transpose()?,
            wake: Notify::new(),
        })
    }

    /// Whether mail leaves this installation.
    pub fn sends(&self) -> bool {
        self.server.is_some()
    }

    /// Says that there is something to send: after the commit.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

fn server(config: &MailConfig) -> anyhow::Result<Server> {
    // The URL may hold a password, so no message quotes it.
    let url = url::Url::parse(&config.smtp_url).map_err(|_| anyhow::anyhow!("`smtp_url` is no URL"))?;
    let encrypted = url.scheme() == "smtps"
        || url
            .query_pairs()
            .any(|(name, value)| name == "tls" && value == "required");
    anyhow::ensure!(
        encrypted || is_here(&url),
        "`smtp_url` would send mail in the clear: write `smtps://…`, or `smtp://…?tls=required`"
    );
    let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&config.smtp_url)
        .map_err(|_| anyhow::anyhow!("`smtp_url` is not like `smtps://user:password@mail.example.org:465`"))?
        .timeout(Some(SERVER_PATIENCE))
        // Each mail gets a connection of its own: one that says nothing any more would be used again for ever.
        .pool_config(PoolConfig::new().max_size(0))
        .build();
    let from = config
        .from
        .parse()
        .map_err(|_| anyhow::anyhow!("the sender of mail is not like `Howdah <howdah@example.org>`"))?;
    Ok(Server { transport, from })
}

fn is_here(url: &url::Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// Writes a mail. It leaves once the transaction is committed; call [`Post::wake`] then, for it to leave at once.
///
/// # Errors
/// When the database fails; then what it tells must fail too.
pub async fn write(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    recipient: &str,
    letter: &Letter<'_>,
) -> Result<MailId, Refusal> {
    let id: MailId = app.environment.id();
    let sealed = app
        .vault
        .seal(&app.environment, &purpose(id), letter.text(&app.public_url).as_bytes())
        .map_err(chassis::http::ApiError::internal)?;
    let mail = queries::NewMail {
        id,
        kind: letter.kind(),
        recipient,
        subject: &letter.subject(),
        sealed_text: &sealed,
        now: app.environment.now(),
    };
    queries::insert_mail(tx, proof, &mail).await?;
    Ok(id)
}

fn purpose(id: MailId) -> String {
    format!("mail {id}")
}

/// Forgets mails whose time is over.
///
/// # Errors
/// When the database fails.
pub async fn forget_old(pool: &sqlx::PgPool, proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    queries::delete_old(pool, proof, now - KEPT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(smtp_url: &str, from: &str) -> anyhow::Result<Post> {
        Post::new(&PeopleConfig {
            mail: Some(MailConfig {
                smtp_url: smtp_url.to_owned(),
                from: from.to_owned(),
            }),
            ..PeopleConfig::default()
        })
    }

    // The pool of connections belongs to a runtime.
    #[tokio::test]
    async fn a_server_elsewhere_is_spoken_to_with_encryption_only_and_its_password_is_never_quoted() {
        chassis::process::install_tls_provider();
        let from = "Howdah <howdah@example.org>";
        for good in [
            "smtps://u:secret@mail.example.org",
            "smtp://u:secret@mail.example.org?tls=required",
            "smtp://127.0.0.1:25",
        ] {
            assert!(read(good, from).is_ok(), "{good}");
        }
        for (url, from) in [
            ("smtp://u:secret@mail.example.org", from),
            ("smtp://u:secret@mail.example.org?tls=opportunistic", from),
            ("http://u:secret@mail.example.org?tls=required", from),
            ("u:secret", from),
            ("smtps://u:secret@mail.example.org", "nobody"),
        ] {
            let refused = read(url, from).err().map(|e| format!("{e:?}"));
            assert!(refused.is_some_and(|text| !text.contains("secret")), "{url}");
        }
    }
}
