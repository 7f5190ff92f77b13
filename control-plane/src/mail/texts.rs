//! What mails say. Plain text: what happened, what to type, and what to do if it was somebody else.

/// A mail, by what it tells.
#[derive(Debug)]
pub enum Letter<'a> {
    /// Finishes a sign-up.
    SignUp {
        /// The code.
        code: &'a str,
    },
    /// Somebody signs up with an address that has an account.
    SignUpAgain,
    /// Verifies the address of an account that is there already.
    VerifyAddress {
        /// The code.
        code: &'a str,
    },
    /// Invites into an organization.
    Invitation {
        /// The organization.
        organization: &'a str,
        /// Who invites.
        by: &'a str,
        /// As what.
        role: &'a str,
        /// The secret.
        secret: &'a str,
    },
    /// Sets a new password.
    PasswordReset {
        /// The code.
        code: &'a str,
    },
    /// A reset was asked for, and there is no account.
    PasswordResetOfNobody,
    /// The password was changed.
    PasswordChanged,
    /// Makes an address an account's.
    NewAddress {
        /// The code.
        code: &'a str,
    },
    /// Somebody wants an address for his account that has one.
    NewAddressTaken,
    /// To the address of before.
    AddressChanged {
        /// The address of now.
        to: &'a str,
        /// Takes it back.
        code: &'a str,
    },
    /// To both addresses.
    AddressTakenBack {
        /// The address of now.
        to: &'a str,
    },
    /// Something about how the account is logged in to was changed.
    LogInChanged {
        /// What, as a sentence without its end.
        what: &'a str,
    },
    /// Links an identity at a provider.
    LinkIdentity {
        /// The provider.
        provider: &'a str,
        /// The code.
        code: &'a str,
    },
    /// The account was deleted.
    AccountDeleted,
}

impl Letter<'_> {
    /// A fixed word for what it is about.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::SignUp { .. } | Self::SignUpAgain => "sign-up",
            Self::VerifyAddress { .. } => "verification",
            Self::Invitation { .. } => "invitation",
            Self::PasswordReset { .. } | Self::PasswordResetOfNobody => "password-reset",
            Self::PasswordChanged => "password-changed",
            Self::NewAddress { .. } | Self::NewAddressTaken => "new-address",
            Self::AddressChanged { .. } | Self::AddressTakenBack { .. } => "address-changed",
            Self::LogInChanged { .. } => "log-in-changed",
            Self::LinkIdentity { .. } => "link-identity",
            Self::AccountDeleted => "account-deleted",
        }
    }

    /// Its subject. Where a stranger can make us write, it does not tell whether there is an account.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::SignUp { .. } | Self::SignUpAgain => "Your sign-up at Howdah".to_owned(),
            Self::VerifyAddress { .. } => "Your address at Howdah".to_owned(),
            Self::Invitation { organization, .. } => format!("You are invited to {organization} at Howdah"),
            Self::PasswordReset { .. } | Self::PasswordResetOfNobody => "A new password at Howdah".to_owned(),
            Self::PasswordChanged => "Your password at Howdah was changed".to_owned(),
            Self::NewAddress { .. } | Self::NewAddressTaken => "Your new address at Howdah".to_owned(),
            Self::AddressChanged { .. } | Self::AddressTakenBack { .. } => {
                "Your address at Howdah was changed".to_owned()
            }
            Self::LogInChanged { .. } => "How you log in at Howdah was changed".to_owned(),
            Self::LinkIdentity { provider, .. } => format!("Log in at Howdah with {provider}"),
            Self::AccountDeleted => "Your account at Howdah was deleted".to_owned(),
        }
    }

    /// Its text, for the service at that address.
    pub(super) fn text(&self, url: &str) -> String {
        let body = match self {
            Self::SignUp { code } => format!(
                "This address was given to sign up. To finish it, type within 24 hours\n\n    howdah account verify {code}\n\nand the password that was chosen. \
                 If that was not you, do nothing: without this code there is no account."
            ),
            Self::SignUpAgain => "This address was given to sign up, and it has an account already. If that was you, log in with\n\n    howdah login\n\n\
                 or set a new password with `howdah account reset-password --email ADDRESS`. If it was not, do nothing."
                .to_owned(),
            Self::VerifyAddress { code } => format!(
                "To show that mail to this address is yours, log in and type within 24 hours\n\n    howdah account verify {code}\n\nIf you have no account here, do nothing."
            ),
            Self::Invitation { organization, by, role, secret } => format!(
                "{by} invites you to the organization {organization} as {role}. Sign up with this address if you have no account yet, then type \
                 within 7 days\n\n    howdah org accept {secret}"
            ),
            Self::PasswordReset { code } => format!(
                "A new password was asked for. To set one, type within an hour\n\n    howdah account reset-password --code {code}\n\n\
                 It ends all sessions of the account. If that was not you, do nothing."
            ),
            Self::PasswordResetOfNobody => "A new password was asked for, but there is no account of this address. If that was you, you may have signed up with \
                 another one. If it was not, do nothing."
                .to_owned(),
            Self::PasswordChanged => {
                format!("The password of your account was changed, and all other sessions were ended. API tokens go on: `howdah token list` shows them. {OTHERWISE}")
            }
            Self::NewAddress { code } => format!(
                "An account is to have this address from now on. To agree, type within 24 hours, logged in to that account,\n\n    howdah account verify {code}\n\n\
                 If that was not you, do nothing."
            ),
            Self::NewAddressTaken => "Somebody wants this address for an account, and there is one of this address already. If that was you, log in to it, or delete \
                 it first. If it was not, do nothing."
                .to_owned(),
            Self::AddressChanged { to, code } => format!(
                "The address of your account is {to} now. If that was not you, take it back within 7 days with\n\n    howdah account undo-email {code}\n\n\
                 which ends the password, all sessions and tokens too, and then set a new password."
            ),
            Self::AddressTakenBack { to } => format!(
                "By a code that was mailed to {to}, that is the address of your account again. The password, all sessions, API tokens and other ways to log \
                 in ended. Set a new password with\n\n    howdah account reset-password --email {to}\n\nand look at `howdah account events`."
            ),
            Self::LogInChanged { what } => format!("{what}. {OTHERWISE}"),
            Self::LinkIdentity { provider, code } => format!(
                "Somebody with this address logged in with {provider}, and there is an account of this address already. To let {provider} log in to it, \
                 type within an hour\n\n    howdah account link {code}\n\nIf that was not you, do nothing."
            ),
            Self::AccountDeleted => "Your account was deleted, as you asked. Its sessions and tokens have ended, and the address is free again.".to_owned(),
        };
        format!("{body}\n\n-- \nHowdah at {url}\n")
    }
}

const OTHERWISE: &str = "If that was not you, set a new password with\n\n    howdah account reset-password --email ADDRESS\n\nand look at `howdah account events`.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_do_not_tell_whether_an_address_has_an_account() {
        let code = "hwd_cod_x";
        for (known, unknown) in [
            (Letter::SignUpAgain, Letter::SignUp { code }),
            (Letter::PasswordReset { code }, Letter::PasswordResetOfNobody),
            (Letter::NewAddressTaken, Letter::NewAddress { code }),
        ] {
            assert_eq!(known.subject(), unknown.subject());
            assert_eq!(known.kind(), unknown.kind());
        }
        assert!(
            Letter::SignUp { code }
                .text("http://x")
                .contains("howdah account verify hwd_cod_x")
        );
    }
}
