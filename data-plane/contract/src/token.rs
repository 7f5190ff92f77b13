//! The text form of API tokens: `hwd_<kind>_<30 base62><6 base62 CRC32>`. The checksum lets a scanner or a typo be told
//! from a token without asking a database; only the SHA-256 of the text is ever stored.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_LENGTH: usize = 30;
const CHECKSUM_LENGTH: usize = 6;

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// `pat`: a person's API token.
    Personal,
    /// `sat`: a service account's API token.
    ServiceAccount,
    /// `ci`: exchanged from the OIDC identity of a CI run.
    Ci,
    /// `inv`: an invitation.
    Invitation,
    /// `agt`: a data plane's own credential at the control plane.
    Agent,
    /// `dev`: a log-in that waits for another device.
    Device,
    /// `ses`: a session of a person who logged in.
    Session,
    /// `cod`: mailed to an address, proves that its holder reads what comes there; good once.
    Code,
    /// `opr`: whoever operates the installation.
    Operator,
}

impl TokenKind {
    const ALL: [Self; 9] = [
        Self::Personal,
        Self::ServiceAccount,
        Self::Ci,
        Self::Invitation,
        Self::Agent,
        Self::Device,
        Self::Session,
        Self::Code,
        Self::Operator,
    ];

    /// The short word in the token's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Personal => "pat",
            Self::ServiceAccount => "sat",
            Self::Ci => "ci",
            Self::Invitation => "inv",
            Self::Agent => "agt",
            Self::Device => "dev",
            Self::Session => "ses",
            Self::Code => "cod",
            Self::Operator => "opr",
        }
    }
}

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// The text does not begin with `hwd_<kind>_`.
    #[error("not a token: it must begin with `hwd_` and a known kind")]
    Prefix,
    /// The part behind the kind has the wrong length.
    #[error("not a token: it is cut off or too long")]
    Length,
    /// A character outside base62.
    #[error("not a token: it has a character that no token has")]
    Alphabet,
    /// The checksum does not fit.
    #[error("not a token: its checksum is wrong, so a character was changed or lost")]
    Checksum,
}

/// A token's whole text: a secret. It has no `Display` and its `Debug` shows the kind only; `expose` is for the one
/// answer that hands it out.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretToken {
    kind: TokenKind,
    text: String,
}

impl SecretToken {
    /// Makes a token from random bytes that the caller supplies (at least 30 are used; bytes above 247 are folded, which
    /// costs less than 0.1 bit each).
    pub fn generate(kind: TokenKind, random: [u8; RANDOM_LENGTH]) -> Self {
        let body: String = random
            .iter()
            .map(|b| char::from(ALPHABET[usize::from(*b) % 62]))
            .collect();
        let checksum = checksum(kind, &body);
        Self {
            kind,
            text: format!("hwd_{}_{body}{checksum}", kind.as_str()),
        }
    }

    /// What the token stands for.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The digest that is stored and looked up.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretToken(hwd_{}_…)", self.kind.as_str())
    }
}

impl FromStr for SecretToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let rest = text.strip_prefix("hwd_").ok_or(ParseTokenError::Prefix)?;
        let (word, body) = rest.split_once('_').ok_or(ParseTokenError::Prefix)?;
        let kind = TokenKind::ALL
            .into_iter()
            .find(|k| k.as_str() == word)
            .ok_or(ParseTokenError::Prefix)?;
        if !body.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(ParseTokenError::Alphabet);
        }
        if body.len() != RANDOM_LENGTH + CHECKSUM_LENGTH {
            return Err(ParseTokenError::Length);
        }
        let (random, found) = body.split_at(RANDOM_LENGTH);
        if checksum(kind, random) != found {
            return Err(ParseTokenError::Checksum);
        }
        Ok(Self {
            kind,
            text: text.to_owned(),
        })
    }
}

fn checksum(kind: TokenKind, body: &str) -> String {
    let mut value = crc32(format!("{}_{body}", kind.as_str()).as_bytes());
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    digits.iter().map(|b| char::from(*b)).collect()
}

/// CRC-32 (IEEE 802.3), bit by bit: a token is 40 bytes, a table would be longer than the loop.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_token_survives_the_round_trip_and_any_changed_character_is_noticed() {
        let token = SecretToken::generate(TokenKind::Personal, [200; 30]);
        assert_eq!(token.expose().parse(), Ok(token.clone()));
        for at in 8..token.expose().len() {
            let mut text = token.expose().to_owned().into_bytes();
            text[at] = if text[at] == b'a' { b'b' } else { b'a' };
            let text = String::from_utf8(text).unwrap();
            assert!(text.parse::<SecretToken>().is_err(), "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let token = SecretToken::generate(TokenKind::Session, [3; 30]);
        assert_eq!(format!("{token:?}"), "SecretToken(hwd_ses_…)");
    }
}
