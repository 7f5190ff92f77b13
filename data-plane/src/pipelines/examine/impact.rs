//! Who would lose read on what a pipeline makes (R4).

use std::collections::HashMap;
use std::sync::Arc;

use contract::ids::DomainId;
use contract::names::{ProjectName, RepoName};
use provenance::access::impact;
use provenance::origins::{OriginSet, required};

use super::{DECIDE, Examination};
use crate::commits::{self, origins};
use crate::failure::Answer;

impl Examination<'_> {
    /// Those of these domains that this request makes and the policy does not know yet: id, project, name.
    fn made(&self, domains: &[DomainId]) -> Vec<(DomainId, ProjectName, RepoName)> {
        let mut found = Vec::new();
        for (earlier, parsed) in self.earlier.iter().zip(self.specs) {
            let spec = &parsed.spec;
            let output = earlier.new_repo.then_some((earlier.id, &spec.name));
            let crons = earlier.crons.iter().filter(|c| c.new).map(|c| (c.id, &c.name));
            found.extend(
                output
                    .into_iter()
                    .chain(crons)
                    .map(|(id, name)| (id, spec.project.clone(), name.clone())),
            );
        }
        let own = self.crons.iter().filter(|c| c.new);
        found.extend(own.map(|c| (c.id, self.spec.project.clone(), c.name.clone())));
        found.retain(|(id, ..)| domains.contains(id) && self.policy.name_of(*id).is_none());
        found
    }

    /// Who can read outputs made so far (or would, by grants on the output alone) and not those to come.
    pub(super) async fn impact(&mut self, id: DomainId, new: &OriginSet) -> Answer<Vec<String>> {
        let active = self.policy.active_releases(self.call.plane.now());
        let head = commits::queries::find_head(self.conn, &DECIDE, id, &self.spec.output_branch)
            .await?
            .flatten();
        let old = match head {
            None => vec![id],
            Some(head) => {
                let set = origins::get(&self.call.plane, self.conn, &DECIDE, head.origin_set).await?;
                required(&set, &active)
            }
        };
        let new = required(new, &active);
        // What is made by this request is its caller's and nobody else's, but for grants on more than a repo.
        let made = self.made(&new);
        let policy = match made.is_empty() {
            true => Arc::clone(self.policy),
            false => Arc::new(self.policy.with_domains(made, self.call.claims().sub)),
        };
        let losses = impact(&policy, &old, &new);
        let mut names: HashMap<DomainId, String> = HashMap::new();
        let mut told = Vec::new();
        for loss in losses {
            let lacking: Vec<String> = loss
                .missing
                .iter()
                .map(|d| {
                    let name = names
                        .entry(*d)
                        .or_insert_with(|| policy.name_of(*d).unwrap_or_else(|| d.to_string()));
                    format!("`{name}` (ask {})", policy.owners(*d).join(", "))
                })
                .collect();
            told.push(format!(
                "{} can't read future outputs: read is missing on {}",
                loss.name,
                lacking.join(", ")
            ));
        }
        Ok(told)
    }
}
