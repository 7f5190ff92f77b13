//! What an identity that was shown leads to.

use contract::api::{Account, SessionMade};
use contract::ids::{AccountId, OrganizationId};
use contract::policy::Principal;
use contract::problem::ProblemKind;

use super::{Identity, queries};
use crate::account_events::{self, Happening};
use crate::accounts::{self, EmailAddress};
use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::mailed_codes::{self, Meaning, Purpose};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{policy, second_factors, sessions};

/// Where somebody who comes from a provider gets to.
pub(super) enum Arrived {
    /// He is logged in.
    Session(Box<SessionMade>),
    /// His account asks for a second factor too.
    SecondFactor(AccountId),
    /// There is an account of that address: its holder is asked by mail.
    Asked,
}

/// One request from a provider's log-in.
pub(super) struct Arrival<'a> {
    pub app: &'a App,
    pub proof: &'a System,
    pub peer: &'a Peer,
    pub title: &'a str,
}

impl Arrival<'_> {
    pub(super) async fn log_in(&self, tx: &mut Tx, identity: &Identity) -> Result<Arrived, Refusal> {
        let now = self.app.environment.now();
        if let Some(id) = queries::find_account(tx, self.proof, identity, now).await? {
            if second_factors::is_asked_for(tx, self.proof, id).await? {
                return Ok(Arrived::SecondFactor(id));
            }
            return self.session(tx, id).await;
        }
        let email = identity.verified_email.as_deref().ok_or_else(|| {
            Refusal::not_allowed(
                &format!("`{}` does not say that your address there is verified", self.title),
                "verify it there, or sign up with `howdah signup`",
            )
        })?;
        let email: EmailAddress = email.parse()?;
        match accounts::queries::find_account_by_email(tx, self.proof, &email.key()).await? {
            Some((account, _)) => self.ask_holder(tx, identity, &account, &email).await,
            None => self.sign_up(tx, identity, &email).await,
        }
    }

    /// A session of an account whose holder was shown to be there.
    pub(super) async fn session(&self, tx: &mut Tx, id: AccountId) -> Result<Arrived, Refusal> {
        let found = accounts::queries::find_account(tx, self.proof, id).await?;
        let (account, _) = found.ok_or_else(Refusal::not_found)?;
        let organizations = sessions::queries::list_organizations_of(tx, self.proof, id).await?;
        let made = sessions::begin(self.app, tx, self.proof, account, organizations, self.peer).await?;
        Ok(Arrived::Session(Box::new(made)))
    }

    async fn sign_up(&self, tx: &mut Tx, identity: &Identity, email: &EmailAddress) -> Result<Arrived, Refusal> {
        self.app.limiters.sign_up(self.peer.address)?;
        let account = Account {
            id: self.app.environment.id(),
            email: email.as_str().to_owned(),
            created_at: self.app.environment.now(),
        };
        let (id, now) = (account.id, account.created_at);
        if !accounts::queries::insert_account(tx, self.proof, &account, email, None).await? {
            return Err(
                Refusal::new(ProblemKind::Conflict, "an account of that address was made just now").hint("begin again"),
            );
        }
        accounts::queries::mark_verified(tx, self.proof, id, now).await?;
        self.happened(
            tx,
            id,
            "account.create",
            format!("{}, by {}", account.email, self.title),
        )
        .await?;
        queries::insert_identity(tx, self.proof, id, &identity.issuer, &identity.subject, now).await?;
        let made = sessions::begin(self.app, tx, self.proof, account, Vec::new(), self.peer).await?;
        Ok(Arrived::Session(Box::new(made)))
    }

    /// The account may be anybody's: its holder is asked, at its address. Where he has second factors a mail is not enough.
    async fn ask_holder(
        &self,
        tx: &mut Tx,
        identity: &Identity,
        account: &Account,
        email: &EmailAddress,
    ) -> Result<Arrived, Refusal> {
        self.app.limiters.mail(&email.key(), self.peer.address)?;
        let guarded = second_factors::is_asked_for(tx, self.proof, account.id).await?;
        if guarded {
            let what = format!(
                "Somebody with your address logged in with {}. To let that log in to your account, link it while you are logged in",
                self.title
            );
            mail::write(
                self.app,
                tx,
                self.proof,
                &account.email,
                &Letter::LogInChanged { what: &what },
            )
            .await?;
            return Ok(Arrived::Asked);
        }
        let meaning = Meaning {
            purpose: Purpose::LinkIdentity,
            account: Some(account.id),
            email: email.clone(),
            identity: Some((identity.issuer.clone(), identity.subject.clone())),
        };
        let code = mailed_codes::make(self.app, tx, self.proof, &meaning).await?;
        let letter = Letter::LinkIdentity {
            provider: self.title,
            code: code.expose(),
        };
        mail::write(self.app, tx, self.proof, &account.email, &letter).await?;
        Ok(Arrived::Asked)
    }

    /// Links an identity to the account of whoever began that in a session of his.
    pub(super) async fn link(&self, tx: &mut Tx, account: AccountId, identity: &Identity) -> Result<(), Refusal> {
        let now = self.app.environment.now();
        if !queries::insert_identity(tx, self.proof, account, &identity.issuer, &identity.subject, now).await? {
            return Err(Refusal::new(
                ProblemKind::Conflict,
                format!("that identity at `{}` logs in to an account already", self.title),
            )
            .hint("unlink it there first"));
        }
        self.tell_linked(tx, account).await
    }

    async fn tell_linked(&self, tx: &mut Tx, id: AccountId) -> Result<(), Refusal> {
        let found = accounts::queries::find_account(tx, self.proof, id).await?;
        let (account, _) = found.ok_or_else(Refusal::not_found)?;
        let what = format!("{} logs in to your account from now on", self.title);
        mail::write(
            self.app,
            tx,
            self.proof,
            &account.email,
            &Letter::LogInChanged { what: &what },
        )
        .await?;
        self.happened(tx, id, "identity.link", self.title.to_owned()).await
    }

    /// Links an identity by the code that was mailed to the account's address; answers the policies that have changed.
    pub(super) async fn link_by_mail(
        &self,
        tx: &mut Tx,
        account: AccountId,
        (issuer, subject): (String, String),
    ) -> Result<Vec<(OrganizationId, u64)>, Refusal> {
        let now = self.app.environment.now();
        if second_factors::is_asked_for(tx, self.proof, account).await?
            || !queries::insert_identity(tx, self.proof, account, &issuer, &subject, now).await?
        {
            return Err(mailed_codes::wrong());
        }
        self.tell_linked(tx, account).await?;
        // Whoever made an account of an address that he never showed to read may be anybody.
        if accounts::queries::mark_verified(tx, self.proof, account, now).await? {
            sessions::end_all(tx, self.proof, account, None, now).await?;
            accounts::queries::end_other_log_ins(tx, self.proof, account, now).await?;
            accounts::queries::forget_password(tx, self.proof, account).await?;
            queries::insert_identity(tx, self.proof, account, &issuer, &subject, now).await?;
            return policy::bump_of(tx, self.proof, Principal::Account(account)).await;
        }
        Ok(Vec::new())
    }

    async fn happened(
        &self,
        tx: &mut Tx,
        account: AccountId,
        action: &'static str,
        subject: String,
    ) -> Result<(), Refusal> {
        let happening = Happening {
            account,
            action,
            subject,
            token: None,
            peer: self.peer,
            at: self.app.environment.now(),
        };
        Ok(account_events::record(tx, self.proof, &happening).await?)
    }
}
