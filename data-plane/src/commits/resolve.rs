//! From a reference as people type it to a commit that the caller may know of. Reading it needs a further proof.

use contract::api::CommitState;
use contract::ids::CommitSetId;
use contract::names::ProjectName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef, RepoRef, Step};
use provenance::access::Readable;
use sqlx::PgConnection;

use super::{CommitRow, origins, queries};
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::permissions::{System, Visible};
use crate::readings;
use crate::repos;

const DECIDE: System = System::because("rows are read in order to decide whether the caller may know of them");

/// A commit that a reference names, in a repo that the caller may know of.
pub struct Located {
    /// The repo.
    pub repo: Visible,
    /// The commit.
    pub commit: CommitRow,
    /// The reference with its project, as messages show it.
    pub name: String,
}

/// A commit that the caller may read, with the proof.
pub struct ReadableCommit {
    /// The repo.
    pub repo: Visible,
    /// The commit.
    pub commit: CommitRow,
    /// The reference as messages show it.
    pub name: String,
    /// The origins that were decided on.
    pub origins: std::sync::Arc<provenance::origins::OriginSet>,
    /// The proof.
    pub proof: Readable,
}

impl Call {
    /// The repo of that name, if the caller may know of it.
    ///
    /// # Errors
    /// The same 404 for what does not exist and for what may not be known.
    pub async fn repo(&self, conn: &mut PgConnection, reference: &RepoRef) -> Answer<Visible> {
        let default = ProjectName::default_project();
        let project = reference.project.as_ref().unwrap_or(&default);
        let row = repos::queries::find_repo(conn, &DECIDE, project, &reference.repo).await?;
        row.and_then(|row| self.rights().visible(row))
            .ok_or_else(Failure::not_found)
    }

    /// The commit that a reference names; `repo@branch` is the newest finished commit there.
    ///
    /// # Errors
    /// 404 as for [`Call::repo`]; `not-found` with words when the caller may read the repo; else `not-allowed`.
    pub async fn locate(&self, conn: &mut PgConnection, reference: &CommitRef) -> Answer<Located> {
        let repo = self.repo(conn, &reference.repo).await?;
        let name = name(&repo, reference);
        match self.walk(conn, &repo, reference).await? {
            Ok(commit) => Ok(Located { repo, commit, name }),
            // Which branches and commits there are is told only to who may read the repo.
            Err(why) if self.rights().can(Permission::Read, repo.id) => Err(Failure::new(
                ProblemKind::NotFound,
                format!("`{name}` names nothing: {why}"),
            )
            .hint(format!("howdah log {repo}, howdah branch list {repo}"))),
            Err(_) => Err(crate::permissions::denied(
                &provenance::access::Denial {
                    cause: provenance::access::Cause::Missing,
                    missing: vec![repo.id],
                    discoverable: true,
                },
                &name,
            )),
        }
    }

    /// The commit that a reference names, to be read.
    ///
    /// # Errors
    /// As [`Call::locate`], and `not-allowed` when something it was made from may not be read.
    pub async fn locate_readable(&self, conn: &mut PgConnection, reference: &CommitRef) -> Answer<ReadableCommit> {
        let located = self.locate(conn, reference).await?;
        self.read(conn, located).await
    }

    /// Asks for the proof to read a commit.
    ///
    /// # Errors
    /// `not-allowed` when something it was made from may not be read.
    pub async fn read(&self, conn: &mut PgConnection, located: Located) -> Answer<ReadableCommit> {
        let origins = origins::get(&self.plane, conn, &DECIDE, located.commit.origin_set).await?;
        let proof = self.readable(&origins, &located.name)?;
        readings::note(&self.plane, &self.actor(), located.commit.id).await?;
        Ok(ReadableCommit {
            repo: located.repo,
            commit: located.commit,
            name: located.name,
            origins,
            proof,
        })
    }

    async fn walk(
        &self,
        conn: &mut PgConnection,
        repo: &Visible,
        reference: &CommitRef,
    ) -> Answer<Result<CommitRow, String>> {
        let time = match &reference.step {
            Some(Step::AsOf(at)) => Some(*at),
            Some(Step::Ago(ago)) => Some(self.plane.now() - *ago),
            _ => None,
        };
        if let (Base::Branch(branch), Some(at)) = (&reference.base, time) {
            let found = match queries::find_head_at(conn, &DECIDE, repo.id, branch, at)
                .await?
                .flatten()
            {
                Some(head) => queries::find_finished_at(conn, &DECIDE, head, at).await?,
                None => None,
            };
            return Ok(found.ok_or_else(|| format!("branch `{branch}` had no finished commit at that time")));
        }
        let start = match &reference.base {
            Base::Branch(branch) => match queries::find_head(conn, &DECIDE, repo.id, branch).await? {
                None => return Ok(Err(format!("`{repo}` has no branch `{branch}`"))),
                Some(None) => return Ok(Err(format!("branch `{branch}` has no commit yet"))),
                Some(Some(head)) if head.state == CommitState::Finished => head,
                Some(Some(head)) => match queries::find_finished(conn, &DECIDE, head.id).await? {
                    Some(finished) => finished,
                    None => return Ok(Err(format!("branch `{branch}` has no finished commit yet"))),
                },
            },
            Base::Commit(id) => {
                let found = queries::find_commit(conn, &DECIDE, *id)
                    .await?
                    .filter(|c| c.repo == repo.id);
                let found = match found {
                    Some(found) => Some(found),
                    None => queries::find_in_set(conn, &DECIDE, repo.id, CommitSetId::from_uuid(id.uuid())).await?,
                };
                match found {
                    Some(found) => found,
                    None => return Ok(Err(format!("`{repo}` has no commit `{id}`"))),
                }
            }
        };
        let found = match (time, &reference.step) {
            (Some(at), _) => queries::find_finished_at(conn, &DECIDE, start.id, at).await?,
            (None, Some(Step::Ancestor(n))) => queries::find_ancestor(conn, &DECIDE, start.id, *n).await?,
            (None, Some(Step::FromRoot(n))) => queries::find_from_root(conn, &DECIDE, start.id, *n).await?,
            (None, _) => Some(start),
        };
        Ok(found.ok_or_else(|| "its history does not go back that far".to_owned()))
    }
}

fn name(repo: &Visible, reference: &CommitRef) -> String {
    let full = CommitRef {
        repo: RepoRef {
            project: Some(repo.project.clone()),
            repo: repo.name.clone(),
        },
        base: reference.base.clone(),
        step: reference.step.clone(),
    };
    full.to_string()
}
