//! How people prove who they are, and where mail goes: from the environment of `howdah up` into the line of configuration, and the
//! secret by which whoever operates the service is known, which stands in its home for its owner alone.

use contract::config::{MailConfig, PeopleConfig, Verification};
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
    let wrong = |why: &str, hint: &str| Err(Failure::usage("the configuration of mail is not valid", why, hint));
    let mail = match (variable("HOWDAH_SMTP_URL"), variable("HOWDAH_MAIL_FROM")) {
        (None, None) => None,
        (Some(smtp_url), Some(from)) if smtp_url.starts_with("smtp://") || smtp_url.starts_with("smtps://") => {
            Some(MailConfig { smtp_url, from })
        }
        (Some(_), Some(_)) => return wrong("HOWDAH_SMTP_URL is not one of SMTP", HINT),
        _ => {
            return wrong(
                "one of HOWDAH_SMTP_URL and HOWDAH_MAIL_FROM is set without the other",
                HINT,
            );
        }
    };
    let verification = match variable("HOWDAH_VERIFICATION").as_deref() {
        None | Some("with_mail") => Verification::WithMail,
        Some("required") => Verification::Required,
        Some(_) => {
            return wrong(
                "HOWDAH_VERIFICATION is neither `with_mail` nor `required`",
                "leave it out, or set it to one of them",
            );
        }
    };
    Ok(PeopleConfig {
        mail,
        verification,
        operator_sha256: Some(hex::encode(Sha256::digest(operator_secret(home)?.as_bytes()))),
        providers: Vec::new(),
    })
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
