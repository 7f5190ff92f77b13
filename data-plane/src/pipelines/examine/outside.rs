//! The repo that stands for what a spout receives and nobody attested.

use contract::ids::{DomainId, ProjectId};

use super::{DECIDE, Examination};
use crate::failure::Answer;
use crate::repos;
use crate::spouts::{self, Outside};

impl Examination<'_> {
    /// The repo that stands for what a spout receives, which is made with the pipeline.
    pub(super) async fn outside(
        &mut self,
        own: DomainId,
        project: ProjectId,
        fresh: DomainId,
    ) -> Answer<Option<Outside>> {
        let Some(name) = self.spec.outside() else {
            return Ok(None);
        };
        let found = repos::queries::find_repo(self.conn, &DECIDE, &self.spec.project, &name).await?;
        let id = match &found {
            None => {
                self.call.may_create(&self.spec.project, &name)?;
                fresh
            }
            Some(repo) if spouts::queries::find_pipeline(self.conn, &DECIDE, repo.id).await? == Some(own) => repo.id,
            Some(_) => return Err(repos::queries::taken(&name)),
        };
        Ok(Some(Outside {
            id,
            project,
            new: found.is_none(),
            name,
        }))
    }
}
