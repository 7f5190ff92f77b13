//! Second factors: codes of an authenticator (TOTP, RFC 6238), each good once, and ten recovery codes that take their place. They are
//! asked for only after the right password, so that nobody learns without it that there are any, and wrong ones are counted for the
//! account wherever they come from: who sends them knows the password already.

pub mod queries;
mod routes;

use chassis::http::ApiError;
use contract::ids::AccountId;
use contract::problem::ProblemKind;
pub use routes::router;
use totp_rs::{Algorithm, Builder, Totp};

use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::mac;
use crate::refusal::Refusal;

/// How many recovery codes there are.
const RECOVERY_CODES: usize = 10;
const RECOVERY_CODE_LENGTH: usize = 12;
/// Digits and letters that are not taken for each other: 5 bits each.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: u8 = 6;
const STEP_SECONDS: u64 = 30;
/// A clock may be one step off.
const SKEW_STEPS: u16 = 1;
const SECRET_LENGTH: usize = 20;

/// What somebody sends as a second factor.
#[derive(Debug, PartialEq, Eq)]
enum Given {
    /// What an authenticator shows.
    Digits(String),
    /// A recovery code in the form that its digest is of.
    Recovery(String),
}

impl Given {
    fn parse(text: &str) -> Self {
        let plain: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        if plain.len() == usize::from(DIGITS) && plain.bytes().all(|b| b.is_ascii_digit()) {
            Self::Digits(plain)
        } else {
            Self::Recovery(plain.to_lowercase())
        }
    }
}

fn totp(secret: &[u8], account_name: &str) -> Result<Totp, Refusal> {
    let built = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_skew(SKEW_STEPS)
        .with_step_duration(STEP_SECONDS)
        .with_secret(secret.to_vec())
        .with_account_name(account_name)
        .with_issuer(Some("Howdah"))
        .build();
    Ok(built.map_err(ApiError::internal)?)
}

fn purpose(account: AccountId) -> String {
    format!("authenticator {account}")
}

/// Makes recovery codes: what is shown, and what is kept.
fn recovery_codes(app: &App, account: AccountId) -> (Vec<String>, Vec<[u8; 32]>) {
    let codes: Vec<String> = (0..RECOVERY_CODES)
        .map(|_| recovery_code(app.environment.random()))
        .collect();
    let kept = codes
        .iter()
        .map(|code| digest(app, account, &code.replace('-', "")))
        .collect();
    (codes, kept)
}

fn recovery_code(random: [u8; RECOVERY_CODE_LENGTH]) -> String {
    let letters: Vec<char> = random
        .iter()
        .map(|b| char::from(ALPHABET[usize::from(b % 32)]))
        .collect();
    let parts: Vec<String> = letters.chunks(4).map(|part| part.iter().collect()).collect();
    parts.join("-")
}

fn digest(app: &App, account: AccountId, plain: &str) -> [u8; 32] {
    let key = app.vault.derive("recovery codes");
    mac::sha256(&key, &[account.to_string().as_bytes(), plain.as_bytes()])
}

/// Whether an account asks for a second factor.
///
/// # Errors
/// When the database fails.
pub async fn is_asked_for(tx: &mut Tx, proof: &System, account: AccountId) -> Result<bool, sqlx::Error> {
    let found = queries::find_authenticator(tx, proof, account).await?;
    Ok(found.is_some_and(|authenticator| authenticator.confirmed))
}

/// Asks for the second factor of an account whose password was right, and uses up what was given.
///
/// # Errors
/// `second-factor-required` when there is one and it was not given, or is wrong; `slow-down` after too many.
pub async fn check(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    given: Option<&str>,
) -> Result<(), Refusal> {
    let Some(authenticator) = queries::find_authenticator(tx, proof, account).await? else {
        return Ok(());
    };
    if !authenticator.confirmed {
        return Ok(());
    }
    let required = |detail| {
        Refusal::new(ProblemKind::SecondFactorRequired, detail)
            .hint("send the six digits that your authenticator shows now, or a recovery code, as `second_factor`")
    };
    let Some(given) = given else {
        return Err(required(
            "the password is right; the account asks for a second factor too",
        ));
    };
    app.limiters.second_factor(account)?;
    let fits = match Given::parse(given) {
        Given::Digits(digits) => use_step(app, tx, proof, account, &authenticator, &digits).await?,
        Given::Recovery(plain) => {
            queries::delete_recovery_code(tx, proof, account, &digest(app, account, &plain)).await?
        }
    };
    if fits {
        return Ok(());
    }
    Err(required("that code is wrong, or was used already"))
}

/// Whether the digits are of a step that was not used yet; it is from now on.
async fn use_step(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    authenticator: &queries::Authenticator,
    digits: &str,
) -> Result<bool, Refusal> {
    let secret = app
        .vault
        .open(&purpose(account), &authenticator.sealed_secret)
        .map_err(ApiError::internal)?;
    let time = u64::try_from(app.environment.now().timestamp()).unwrap_or(0);
    match totp(&secret, "x")?.check(digits, time) {
        Some(step) => Ok(queries::use_step(tx, proof, account, step).await?),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        assert_eq!(Given::parse("123 456"), Given::Digits("123456".to_owned()));
        assert_eq!(
            Given::parse(" ABCD-efgh-1234 "),
            Given::Recovery("abcdefgh1234".to_owned())
        );
        assert_eq!(Given::parse("1234567"), Given::Recovery("1234567".to_owned()));
    }

    #[test]
    fn a_recovery_code_is_easy_to_type_and_hard_to_guess() {
        let code = recovery_code(std::array::from_fn(|at| u8::try_from(at * 21).unwrap_or(0)));
        assert_eq!(code.len(), 14);
        assert_eq!(Given::parse(&code), Given::Recovery(code.replace('-', "")));
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, cut to six digits.
        let totp = totp(b"12345678901234567890", "x").unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(totp.check("287082", 59), Some(1));
        assert_eq!(totp.check("287082", 59 + 30), Some(1));
        assert_eq!(totp.check("287082", 59 + 60), None);
    }
}
