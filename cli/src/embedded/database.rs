//! Which database the service is on: a private cluster in its home, or the server that `DATABASE_URL` names. A home belongs to
//! the one that it was first started on, since the other one would look like a service that forgot everything.

use std::time::Duration;

use private_postgres::{Cluster, Options};

use super::home::Home;
use crate::failure::{Exit, Failure, Outcome};
use crate::settings::variable;

const PATIENCE: Duration = Duration::from_secs(5);

/// The server that `DATABASE_URL` names.
pub(crate) struct External {
    /// With its password: for the control plane alone.
    url: String,
    /// Server and database, for people.
    pub(crate) shown: String,
    /// Where it listens, unless at a socket.
    address: Option<(String, u16)>,
}

impl External {
    /// What the environment says.
    ///
    /// # Errors
    /// When it is no URL of a PostgreSQL server.
    pub(crate) fn from_environment() -> Outcome<Option<Self>> {
        variable("DATABASE_URL").map(Self::parse).transpose()
    }

    fn parse(url: String) -> Outcome<Self> {
        let wrong = |why: &str| {
            Failure::usage(
                "the database cannot be used",
                format!("DATABASE_URL {why}"),
                "set it to `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or unset it to have a database of the service's own",
            )
        };
        // The parser's own message may quote a password.
        let parsed = reqwest::Url::parse(&url).map_err(|_| wrong("is no URL"))?;
        if !["postgres", "postgresql"].contains(&parsed.scheme()) {
            return Err(wrong("is not one of PostgreSQL"));
        }
        let elsewhere = parsed
            .query_pairs()
            .any(|(name, _)| name == "host" || name == "hostaddr");
        let host = parsed
            .host_str()
            .filter(|host| !host.is_empty() && !host.contains('%') && !elsewhere);
        let address = host.map(|host| (host.trim_matches(['[', ']']).to_owned(), parsed.port().unwrap_or(5432)));
        let server = address
            .as_ref()
            .map_or_else(|| "a local socket".to_owned(), |(host, port)| format!("{host}:{port}"));
        Ok(Self {
            shown: format!("{server}{}", parsed.path()),
            address,
            url,
        })
    }

    /// Tries to connect.
    ///
    /// # Errors
    /// When nobody listens there, named without the password.
    pub(crate) async fn probe(&self) -> Outcome {
        let Some(address) = &self.address else { return Ok(()) };
        let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await;
        let why = match connected {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        Err(Failure::new(
            "the database cannot be reached",
            format!("{}: {why}", self.shown),
            "check DATABASE_URL and the server that it names, or unset it to have a database of the service's own",
        ))
    }
}

/// Starts the private cluster, or finds the server that `DATABASE_URL` names.
///
/// # Errors
/// When it does not run, or the home belongs to another database.
pub(super) async fn start(home: &Home) -> Outcome<(Option<Cluster>, String)> {
    let external = External::from_environment()?;
    check(home, external.as_ref())?;
    if let Some(external) = external {
        external.probe().await?;
        return Ok((None, external.url));
    }
    let directory = home.postgres();
    let cluster = tokio::task::spawn_blocking(move || Cluster::ensure_started(&directory, &Options::SERVICE))
        .await
        .map_err(|e| Failure::new("PostgreSQL was not started", e, "run `howdah up` again"))??;
    let url = cluster.url().expose().to_owned();
    Ok((Some(cluster), url))
}

/// A service that ran on one database is not started on another one by an environment that changed.
fn check(home: &Home, external: Option<&External>) -> Outcome {
    let refuse = |why: String, hint: &str| {
        Err(Failure::new("this home belongs to another database", why, hint).with_exit(Exit::Conflict))
    };
    match (home.external_database(), external) {
        (Some(known), None) => refuse(
            format!(
                "{} was started on {known}, and DATABASE_URL is not set",
                home.path.display()
            ),
            "set DATABASE_URL as it was then, or choose another HOWDAH_HOME",
        ),
        (Some(known), Some(given)) if known != given.shown => refuse(
            format!(
                "{} was started on {known}, and DATABASE_URL names {}",
                home.path.display(),
                given.shown
            ),
            "set DATABASE_URL as it was then, or choose another HOWDAH_HOME",
        ),
        (None, Some(_)) if home.postgres().join("data").is_dir() => refuse(
            format!(
                "{} has a database of its own, and DATABASE_URL is set",
                home.path.display()
            ),
            "unset DATABASE_URL, or choose another HOWDAH_HOME",
        ),
        _ => Ok(()),
    }
}

/// Notes, once the service has run on it, that it is on an external database.
///
/// # Errors
/// When it cannot be written.
pub(super) fn remember(home: &Home) -> Outcome {
    match External::from_environment()? {
        Some(external) => home.write_external_database(&external.shown),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> External {
        External::parse(url.to_owned()).unwrap_or_else(|e| panic!("{e:?}"))
    }

    #[test]
    fn a_server_is_shown_without_its_password() {
        assert_eq!(
            parse("postgres://me:secret@db.example.org/howdah").shown,
            "db.example.org:5432/howdah"
        );
        assert_eq!(parse("postgresql://me@[::1]:6000/x").shown, "::1:6000/x");
        let socket = parse("postgres://me@localhost/x?host=/run/postgresql");
        assert!(socket.address.is_none() && socket.shown.starts_with("a local socket"));
        let refused = External::parse("mysql://me:secret@db/x".to_owned())
            .err()
            .map(|f| format!("{f:?}"));
        assert!(refused.is_some_and(|text| !text.contains("secret") && text.contains("DATABASE_URL")));
    }

    #[test]
    fn a_home_stays_with_the_database_that_it_was_first_started_on() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.prepare().unwrap_or_else(|e| panic!("{e:?}"));
        let (one, two) = (parse("postgres://me:a@one/x"), parse("postgres://me:a@two/x"));
        assert!(check(&home, None).is_ok() && check(&home, Some(&one)).is_ok());
        home.write_external_database(&one.shown)
            .unwrap_or_else(|e| panic!("{e:?}"));
        assert!(check(&home, Some(&parse("postgres://me:changed@one/x"))).is_ok());
        for other in [None, Some(&two)] {
            let failure = check(&home, other).unwrap_err();
            assert_eq!(failure.exit, Exit::Conflict);
            assert!(failure.hint.contains("DATABASE_URL"), "{}", failure.hint);
        }

        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("postgres/data")).unwrap();
        assert!(check(&Home::new(directory.path()), Some(&one)).is_err());
    }
}
