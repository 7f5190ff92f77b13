//! How people prove who they are, and where mail goes: from the environment of `howdah up` into the line of configuration, and the
//! secret by which whoever operates the service is known, which stands in its home for its owner alone.

use contract::config::{MailConfig, PeopleConfig, ProviderConfig, Verification};
use sha2::{Digest, Sha256};

use super::home::Home;
use crate::failure::{Failure, Outcome, io};
use crate::files_of_ours::write;
use crate::settings::variable;

const HINT: &str = "write HOWDAH_SMTP_URL=smtps://user:password@mail.example.org:465 and HOWDAH_MAIL_FROM='Howdah <howdah@example.org>'";

/// What the environment says.
///
/// # Errors
/// When a part of it is missing or not valid.
pub(super) fn from_environment(home: &Home) -> Outcome<PeopleConfig> {
    Ok(PeopleConfig {
        mail: mail(variable("HOWDAH_SMTP_URL"), variable("HOWDAH_MAIL_FROM"))?,
        verification: verification(variable("HOWDAH_VERIFICATION").as_deref())?,
        operator_sha256: Some(hex::encode(Sha256::digest(operator_secret(home)?.as_bytes()))),
        providers: providers(PROVIDER.map(variable), variable("HOWDAH_OIDC_TITLE"))?,
    })
}

/// What names a provider of OpenID Connect.
const PROVIDER: [&str; 3] = [
    "HOWDAH_OIDC_ISSUER",
    "HOWDAH_OIDC_CLIENT_ID",
    "HOWDAH_OIDC_CLIENT_SECRET",
];

fn wrong(why: &str, hint: &str) -> Failure {
    Failure::usage("the configuration of accounts is not valid", why, hint)
}

fn mail(smtp_url: Option<String>, from: Option<String>) -> Outcome<Option<MailConfig>> {
    match (smtp_url, from) {
        (None, None) => Ok(None),
        (Some(smtp_url), Some(from)) if smtp_url.starts_with("smtp://") || smtp_url.starts_with("smtps://") => {
            Ok(Some(MailConfig { smtp_url, from }))
        }
        (Some(_), Some(_)) => Err(wrong("HOWDAH_SMTP_URL is not one of SMTP", HINT)),
        _ => Err(wrong(
            "one of HOWDAH_SMTP_URL and HOWDAH_MAIL_FROM is set without the other",
            HINT,
        )),
    }
}

fn verification(text: Option<&str>) -> Outcome<Verification> {
    match text {
        None | Some("with_mail") => Ok(Verification::WithMail),
        Some("required") => Ok(Verification::Required),
        Some(_) => Err(wrong(
            "HOWDAH_VERIFICATION is neither `with_mail` nor `required`",
            "leave it out, or set it to one of them",
        )),
    }
}

fn providers(named: [Option<String>; 3], title: Option<String>) -> Outcome<Vec<ProviderConfig>> {
    match named {
        [None, None, None] => Ok(Vec::new()),
        [Some(issuer), Some(client_id), Some(client_secret)] => Ok(vec![ProviderConfig {
            name: "oidc".to_owned(),
            title: title.unwrap_or_else(|| issuer.clone()),
            issuer,
            client_id,
            client_secret,
        }]),
        _ => Err(wrong(
            "some of HOWDAH_OIDC_ISSUER, HOWDAH_OIDC_CLIENT_ID and HOWDAH_OIDC_CLIENT_SECRET are set without the others",
            "set all three, or none; the provider has to know URL/v1/log-in/oidc/callback as where it leads back to",
        )),
    }
}

/// The secret of whoever operates the service: made once, in a file that nobody else reads.
///
/// # Errors
/// When it can be neither read nor made.
pub(crate) fn operator_secret(home: &Home) -> Outcome<String> {
    use contract::token::{SecretToken, TokenKind};
    let path = home.path.join("keys/operator.secret");
    match std::fs::read_to_string(&path) {
        Ok(text)
            if text
                .trim()
                .parse::<SecretToken>()
                .is_ok_and(|t| t.kind() == TokenKind::Operator) =>
        {
            Ok(text.trim().to_owned())
        }
        Ok(_) => Err(Failure::new(
            "the operator's secret is damaged",
            format!("{} does not hold `hwd_opr_…`", path.display()),
            "remove the file; `howdah up` makes another one",
        )),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0; 30];
            rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
            let secret = SecretToken::generate(TokenKind::Operator, bytes);
            write(&path, format!("{}\n", secret.expose()).as_bytes())?;
            Ok(secret.expose().to_owned())
        }
        Err(e) => Err(io("read", &path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_configured_is_refused_without_quoting_a_password() {
        let text = |t: &str| Some(t.to_owned());
        let url = "smtps://me:secret@mail.example.org";
        assert!(mail(None, None).is_ok_and(|m| m.is_none()));
        assert!(mail(text(url), text("me@example.org")).is_ok_and(|m| m.is_some()));
        for refused in [
            mail(text(url), None),
            mail(None, text("me@example.org")),
            mail(text("http://me:secret@mail.example.org"), text("me@example.org")),
        ] {
            let failure = format!("{:?}", refused.err());
            assert!(
                failure.contains("HOWDAH_SMTP_URL") && !failure.contains("secret"),
                "{failure}"
            );
        }
        assert!(verification(Some("never")).is_err() && verification(Some("required")).is_ok());
        assert!(providers([text("https://i"), text("c"), None], None).is_err());
        let one = providers([text("https://i"), text("c"), text("s")], None).unwrap_or_default();
        assert_eq!((one[0].name.as_str(), one[0].title.as_str()), ("oidc", "https://i"));
    }

    #[test]
    fn the_operators_secret_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.prepare().unwrap_or_else(|e| panic!("{e:?}"));
        let secret = operator_secret(&home).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(operator_secret(&home).unwrap_or_else(|e| panic!("{e:?}")), secret);
        let path = directory.path().join("keys/operator.secret");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "cut off").unwrap();
        assert!(operator_secret(&home).is_err());
    }
}
