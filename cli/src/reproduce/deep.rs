//! `howdah reproduce --deep`: every derived commit upstream is made again from its recorded inputs, inputs first, and compared.
//! Where each came out as it was, the last one comes out so from data that people made alone. One runs at a time. The
//! service keeps what came of each, and ids are in the order of time: the id of the first one is that of the whole, and
//! whoever goes on takes what was begun since.

use std::collections::{HashMap, HashSet};

use contract::api::{Evidence, EvidenceCommit, EvidenceWay, Page, Reproduction, ReproductionState};
use contract::ids::{CommitId, JobId};
use serde::Serialize;

use super::{begin, end, verdict};
use crate::client::{Client, Request};
use crate::evidence;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::references::commit;

/// What came of one commit.
#[derive(Debug, Serialize)]
struct Step {
    commit: CommitId,
    name: String,
    /// Nothing where it could not be run again.
    state: Option<ReproductionState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reproduction: Option<Box<Reproduction>>,
    /// Why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// What came of all.
#[derive(Debug, Serialize)]
struct Whole {
    /// By which it is gone on with.
    id: Option<JobId>,
    /// There is something upstream that the caller may not know of.
    restricted: bool,
    steps: Vec<Step>,
}

/// Reproduces everything upstream.
///
/// # Errors
/// Exit code 1 when something else came out or something could not be run again, 5 when a job failed; what the service answers.
pub(super) async fn run(reference: &str, going_on: Option<JobId>, client: &Client, output: Output) -> Outcome {
    let named = commit(reference, &client.settings.project)?;
    let spinner = output.spinner("looking upstream");
    let evidence = evidence::ask(client, &named, EvidenceWay::Up).await?;
    let derived = in_order(&evidence);
    if derived.is_empty() {
        return Err(Failure::usage(
            format!("{reference} cannot be reproduced"),
            "no pipeline made it, nor anything that it was made from",
            "name a commit of a pipeline's output",
        ));
    }
    let mut whole = Whole {
        id: going_on,
        restricted: evidence.restricted,
        steps: Vec::new(),
    };
    for (at, step) in derived.iter().enumerate() {
        let name = format!("{}/{}@{}", step.project, step.repo, step.commit);
        let place = format!("{} of {}", at + 1, derived.len());
        spinner.set_message(format!("{place}: {name}"));
        let begun = match known(client, &name, whole.id).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => begin(client, &name).await,
            Err(failure) => Err(failure),
        };
        let found = match begun {
            Ok(begun) => {
                if whole.id.is_none() {
                    whole.id = Some(begun.id);
                    output.hint(&format!(
                        "when it is interrupted: howdah reproduce {named} --deep --continue {}",
                        begun.id
                    ));
                }
                end(client, begun, |told| spinner.set_message(format!("{place}: {told}"))).await?
            }
            // That this one cannot be run again is its own; that the service is away is not.
            Err(failure) if failure.problem.is_some() && failure.exit != Exit::Failed => {
                whole.steps.push(Step::left_out(step.commit, name, &failure));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let ended = found.state;
        whole.steps.push(Step {
            commit: step.commit,
            name,
            state: Some(ended),
            reproduction: Some(Box::new(found)),
            why: None,
        });
        if ended != ReproductionState::Identical {
            break;
        }
    }
    spinner.finish_and_clear();
    output.result(&whole, || in_words(&whole))?;
    judge(reference, &whole)
}

impl Step {
    fn left_out(commit: CommitId, name: String, failure: &Failure) -> Self {
        Self {
            commit,
            name,
            state: None,
            reproduction: None,
            why: Some(failure.why.clone()),
        }
    }
}

/// The newest reproduction of a commit that was begun since, and did not fail.
async fn known(client: &Client, name: &str, since: Option<JobId>) -> Outcome<Option<Reproduction>> {
    let Some(since) = since else { return Ok(None) };
    let request = Request::get("/v1/reproductions").query("ref", name).query("limit", 1);
    let page: Page<Reproduction> = client.plane(request).await?;
    let newest = page.items.into_iter().next();
    Ok(newest.filter(|found| found.id >= since && found.state != ReproductionState::Failed))
}

/// What pipelines made, each behind what it was made from, the subject last.
fn in_order(evidence: &Evidence) -> Vec<&EvidenceCommit> {
    let known: HashMap<CommitId, &EvidenceCommit> = evidence.commits.iter().map(|c| (c.commit, c)).collect();
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    // The second time that one is met, all below it are through.
    let mut left = vec![(evidence.subject, false)];
    while let Some((id, below)) = left.pop() {
        let Some(commit) = known.get(&id) else { continue };
        if below {
            order.extend(commit.pipeline.is_some().then_some(*commit));
            continue;
        }
        if seen.insert(id) {
            left.push((id, true));
            left.extend(commit.inputs.iter().map(|input| (*input, false)));
        }
    }
    order
}

fn in_words(whole: &Whole) -> String {
    let word = |step: &Step| match (step.state, &step.why) {
        (Some(ReproductionState::Identical), _) => "identical".to_owned(),
        (Some(ReproductionState::Different), _) => "different".to_owned(),
        (Some(_), _) => "failed".to_owned(),
        (None, why) => format!("not run again: {}", why.as_deref().unwrap_or("it cannot be")),
    };
    let lines = whole.steps.iter().map(|step| format!("{}  {}", step.name, word(step)));
    lines.collect::<Vec<_>>().join("\n")
}

fn judge(reference: &str, whole: &Whole) -> Outcome {
    if let Some(Step {
        name,
        reproduction: Some(found),
        ..
    }) = whole.steps.last()
    {
        verdict(name, found)?;
    }
    if let Some(step) = whole.steps.iter().find(|step| step.state.is_none()) {
        return Err(Failure::new(
            format!("not all of {reference} could be reproduced"),
            format!(
                "{}: {}",
                step.name,
                step.why.as_deref().unwrap_or("it cannot be run again")
            ),
            "what was run again came out as it was; the rest is as its records say: `howdah provenance`",
        ));
    }
    if whole.restricted {
        return Err(Failure::new(
            format!("not all of {reference} could be reproduced"),
            "there is something upstream that you may not know of",
            "what was run again came out as it was; whoever may read all of it can go further",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use contract::ids::{DomainId, OrganizationId};
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> CommitId {
        CommitId::from_uuid(Uuid::from_u128(n))
    }

    fn commit(n: u128, derived: bool, inputs: &[u128]) -> EvidenceCommit {
        EvidenceCommit {
            commit: id(n),
            project: "default".parse().unwrap(),
            repo: "r".parse().unwrap(),
            pipeline: derived.then(|| DomainId::from_uuid(Uuid::from_u128(n))),
            pipeline_version: derived.then_some(1),
            image_digest: None,
            code_revision: None,
            earlier: false,
            removed: None,
            inputs: inputs.iter().map(|n| id(*n)).collect(),
            digest: None,
            purged_digest: None,
            content: None,
            files: 0,
            size_bytes: 0,
            restricted: false,
            record: None,
        }
    }

    #[test]
    fn what_was_made_comes_behind_what_it_was_made_from() {
        // A diamond: 1 is data, 2 and 3 read it, 4 reads 2 and 3, 5 reads 4 and 2.
        let evidence = Evidence {
            organization: OrganizationId::from_uuid(Uuid::nil()),
            subject: id(5),
            way: EvidenceWay::Up,
            restricted: false,
            commits: vec![
                commit(5, true, &[2, 4]),
                commit(4, true, &[2, 3]),
                commit(3, true, &[1]),
                commit(2, true, &[1]),
                commit(1, false, &[]),
            ],
            versions: Vec::new(),
        };
        let order: Vec<CommitId> = in_order(&evidence).iter().map(|c| c.commit).collect();
        let place = |n: u128| order.iter().position(|found| *found == id(n)).unwrap();
        assert_eq!(order.len(), 4);
        for (made, from) in [(5, 4), (5, 2), (4, 2), (4, 3)] {
            assert!(place(made) > place(from), "{made} behind {from}: {order:?}");
        }
    }
}
