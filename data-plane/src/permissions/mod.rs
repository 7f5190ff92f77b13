//! Proofs. A query or storage function that shows or changes something takes one as an argument, and only the checks in
//! this module (and `provenance::access`, for reading) make them; so a route that forgot to ask does not compile.

pub mod routes;
pub mod what_if;

use std::ops::Deref;
use std::sync::Arc;

use contract::ids::DomainId;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use provenance::access::{Denial, Policy, Readable, Subject, can};
use provenance::origins::OriginSet;

use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::repos::RepoRow;

/// Proof that it is the plane itself that acts, or that a row is read in order to decide about it.
#[derive(Debug, Clone, Copy)]
pub struct System(());

impl System {
    /// States why no person's rights are asked for; the reason stands where a reader looks for it.
    pub const fn because(_reason: &'static str) -> Self {
        Self(())
    }
}

/// Proof that the caller may know of this repo.
#[derive(Debug, Clone)]
pub struct Visible(RepoRow);

impl Visible {
    /// The row.
    pub fn row(&self) -> &RepoRow {
        &self.0
    }
}

impl std::fmt::Display for Visible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Deref for Visible {
    type Target = RepoRow;

    fn deref(&self) -> &RepoRow {
        &self.0
    }
}

/// Proof that the caller has a permission on a repo's domain.
#[derive(Debug)]
pub struct Allowed {
    domain: DomainId,
    permission: Permission,
}

impl Allowed {
    /// On which domain.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// What.
    pub fn permission(&self) -> Permission {
        self.permission
    }
}

/// What one caller may do under one policy; the core of [`Call`], usable without a request (open streams keep it).
#[derive(Clone)]
pub struct Rights {
    /// Who, with the limits of the token.
    pub subject: Subject,
    /// The policy of the moment the request was let in.
    pub policy: Arc<Policy>,
}

impl Rights {
    /// Whether the caller has that permission on that one domain.
    pub fn can(&self, permission: Permission, domain: DomainId) -> bool {
        can(&self.policy, &self.subject, permission, domain)
    }

    /// Lets the repo through if the caller may know of it.
    pub fn visible(&self, repo: RepoRow) -> Option<Visible> {
        self.can(Permission::Discover, repo.id).then_some(Visible(repo))
    }
}

impl Call {
    /// Demands a permission on a repo that the caller may know of.
    ///
    /// # Errors
    /// `not-allowed`, saying whom to ask.
    pub fn allowed(&self, repo: &Visible, permission: Permission) -> Answer<Allowed> {
        if self.rights().can(permission, repo.id) {
            return Ok(Allowed {
                domain: repo.id,
                permission,
            });
        }
        let owners = self.rights().policy.owners(repo.id).join(", ");
        Err(Failure::new(
            ProblemKind::NotAllowed,
            format!("you may not {} `{repo}`", permission.as_str()),
        )
        .hint(format!("ask for a grant that allows it: {owners}")))
    }

    /// Whether the caller has a permission by the policy of this moment, not of the one the request began with.
    ///
    /// # Errors
    /// `policy-unreachable`.
    pub fn may_still(&self, permission: Permission, domain: DomainId) -> Answer<bool> {
        let policy = self.plane.policy.current(self.plane.now())?;
        Ok(can(&policy, &self.rights().subject, permission, domain))
    }

    /// Demands write on a repo that people may write to.
    ///
    /// # Errors
    /// `not-allowed`; `conflict` for the output of a pipeline.
    pub fn writable(&self, repo: &Visible) -> Answer<Allowed> {
        let allowed = self.allowed(repo, Permission::Write)?;
        if repo.pipeline {
            return Err(Failure::new(
                ProblemKind::Conflict,
                match repo.ticks {
                    true => format!("`{repo}` holds {}: only its schedule writes to it", repo.made_of()),
                    false => format!("`{repo}` holds {}: only its jobs write to it", repo.made_of()),
                },
            )
            .hint(match repo.ticks {
                true => "`howdah pipeline run` makes a tick of this moment; put files into a repo of your own",
                false => "put the files into an input of the pipeline, or into a repo of your own",
            }));
        }
        Ok(allowed)
    }

    /// Asks whether the caller may read what has this origin set.
    ///
    /// # Errors
    /// 404 if the caller may not know of the repo, otherwise `not-allowed` with the way to an explanation.
    pub fn readable(&self, set: &OriginSet, reference: &str) -> Answer<Readable> {
        let rights = self.rights();
        self.plane
            .policy
            .decisions
            .read(&rights.policy, &rights.subject, set, self.plane.now())
            .map_err(|denial| denied(&denial, reference))
    }
}

/// What a denied reader is told.
pub fn denied(denial: &Denial, reference: &str) -> Failure {
    if !denial.discoverable {
        return Failure::not_found();
    }
    Failure::new(
        ProblemKind::NotAllowed,
        format!("you may not read `{reference}`: that needs read on everything it was made from"),
    )
    .hint(format!("howdah access explain {reference}"))
}
