//! What differs between a spec and the version before.

use contract::api::SpecChange;
use contract::ids::DomainId;
use contract::policy::Permission;
use provenance::spec::{PipelineSpec, differences};

use super::{DECIDE, Examination, Parsed};
use crate::failure::Answer;
use crate::pipelines::queries::{self, PipelineRow};
use crate::pipelines::sponsors;

impl Examination<'_> {
    /// The fields, as they were and are; what they were only where the caller may know of all that the version before read.
    pub(super) async fn differences(
        &mut self,
        row: &PipelineRow,
        parsed: &Parsed,
        code_revision: Option<&str>,
        inputs: &[(String, DomainId, String)],
    ) -> Answer<Vec<SpecChange>> {
        let old = PipelineSpec::parse(&row.spec.0, &self.spec.project);
        let old = old.map_or_else(|_| row.spec.0.clone(), |spec| spec.to_value());
        let new = parsed.spec.to_value();
        let mut found = differences(&old, &new);
        let same_image = row.image_digest == parsed.image_digest && row.in_image == parsed.image_digest.is_some();
        if !same_image && !found.iter().any(|p| p.starts_with("/transform/image")) {
            found.push("/transform/image".to_owned());
        }
        if code_revision.is_some() && row.code_revision.as_deref() != code_revision {
            found.push("/code_revision".to_owned());
        }
        let stored = queries::inputs(self.conn, &DECIDE, Some(&[row.id])).await?;
        let same = stored.len() == inputs.len() && stored.iter().zip(inputs).all(|(s, i)| s.3 == i.1.uuid());
        let mut followed = true;
        for made in &self.followers {
            let owner = queries::follower_of(self.conn, &DECIDE, made.repo, &made.branch).await?;
            followed &= owner.map(DomainId::uuid) == Some(row.id);
        }
        if !(same && followed) && found.is_empty() {
            // The repo of that name is another one now, or the branch that follows another one for it was deleted.
            found.push("/input".to_owned());
        }
        if found.is_empty() && sponsors::is_lost(&self.call.plane, self.conn, self.policy, row.id).await? {
            // The caller may derive from all of it: it goes on by his grants.
            found.push("/sponsor".to_owned());
        }
        let known = stored
            .iter()
            .all(|s| self.call.rights().can(Permission::Discover, DomainId::from_uuid(s.3)));
        let known = known && row.version == row.newest;
        let changes = found.into_iter().map(|pointer| {
            let (before, after) = match pointer.as_str() {
                "/code_revision" => (row.code_revision.clone().map(Into::into), code_revision.map(Into::into)),
                "/transform/image" if old.pointer(&pointer) == new.pointer(&pointer) => (
                    row.image_digest.clone().map(Into::into),
                    parsed.image_digest.clone().map(Into::into),
                ),
                field => (old.pointer(field).cloned(), new.pointer(field).cloned()),
            };
            SpecChange {
                before: before.filter(|_| known),
                after,
                pointer,
            }
        });
        Ok(changes.collect())
    }
}
