//! What is asked of origins around pipelines: whether the caller may have one read something (R4), and what an output
//! commit needs before its job runs, the spec's own guard (R5) and `declassify` where its code reaches the network (R10).
//! Stored reasons name domains by their ids; whoever shows them puts the names that the reader may know.

use std::sync::Arc;

use contract::ids::DomainId;
use contract::names::BranchName;
use contract::problem::{Problem, ProblemKind};
use provenance::access::{Policy, Subject, guard, required_for_egress, required_for_new_pipeline, shown_name};
use provenance::origins::OriginSet;
use provenance::spec::PipelineSpec;
use sqlx::PgConnection;

use super::queries::{self, RunRow};
use crate::call::Call;
use crate::failure::Answer;
use crate::permissions::{System, Visible};
use crate::plane::Plane;
use crate::secrets;

const DECIDE: System =
    System::because("whether a pipeline reads the branch is asked in order to decide who may move it");

/// Names of domains as the caller may know them, and whom he asks for more.
fn told(call: &Call, policy: &Policy, domains: &[DomainId]) -> (String, Vec<String>) {
    let viewer = &call.rights().subject;
    let known = |d: &&DomainId| call.rights().can(contract::policy::Permission::Discover, **d);
    let mut names: Vec<String> = domains
        .iter()
        .filter(known)
        .map(|d| format!("`{}`", shown_name(policy, viewer, *d)))
        .collect();
    // Behind the others and in the order of their numbers: the place must not tell when a hidden domain was made.
    let hidden = domains.iter().filter(|d| !known(d));
    let mut hidden: Vec<String> = hidden.map(|d| shown_name(policy, viewer, *d)).collect();
    hidden.sort();
    names.extend(hidden);
    let mut whom: Vec<String> = domains.iter().filter(known).flat_map(|d| policy.owners(*d)).collect();
    whom.sort();
    whom.dedup();
    (names.join(", "), whom)
}

/// The answer to who wants a pipeline to read something and lacks `derive` on these domains; `what` begins the sentence.
pub fn lacks_derive(call: &Call, policy: &Policy, what: &str, missing: &[DomainId], through: &str) -> Problem {
    let (names, whom) = told(call, policy, missing);
    Problem::new(
        ProblemKind::NotAllowed,
        format!("{what} needs `derive` on {names}{through}"),
    )
    .with_hint(if whom.is_empty() {
        "ask the owners of the inputs".to_owned()
    } else {
        format!("ask for the role deriver: {}", whom.join(", "))
    })
}

/// The answer to who wants code to reach the network with what it reads, and lacks `declassify` on these domains.
pub fn lacks_declassify(call: &Call, policy: &Policy, missing: &[DomainId], ways: &[&str]) -> Problem {
    let (names, whom) = told(call, policy, missing);
    let (mut whats, mut instead) = (Vec::new(), Vec::new());
    for way in ways {
        let (what, other) = match *way {
            "egress" => ("sends away what was made of the inputs", "remove `egress`"),
            _ => ("lets the code send away what it reads", "use `network: none`"),
        };
        whats.push(format!("`{way}` {what}"));
        instead.push(other);
    }
    let instead = instead.join(" and ");
    let it = if ways.len() > 1 { "each" } else { "it" };
    Problem::new(
        ProblemKind::NotAllowed,
        format!("{}, so {it} needs `declassify` on {names}", whats.join(" and ")),
    )
    .with_hint(if whom.is_empty() {
        format!("{instead}, or ask the owners of the inputs")
    } else {
        format!(
            "{instead}, or ask for the role owner or a release to this pipeline: {}",
            whom.join(", ")
        )
    })
}

/// Demands that the caller may let pipelines read what has these origins, if one reads the branch that it is put on:
/// pointing a branch at a commit makes it an input as applying a pipeline does (R4).
///
/// # Errors
/// `not-allowed`, as `apply` would answer.
pub async fn may_feed(
    call: &Call,
    conn: &mut PgConnection,
    repo: &Visible,
    branch: &BranchName,
    set: &OriginSet,
) -> Answer<()> {
    if !queries::is_branch_read(conn, &DECIDE, repo.id, branch.as_str()).await? {
        return Ok(());
    }
    let policy = call.plane.policy.current(call.plane.now())?;
    let missing = required_for_new_pipeline(&policy, &call.rights().subject, &[set], call.plane.now());
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("a pipeline reads `{repo}@{branch}`, and what it may read");
    Err(lacks_derive(call, &policy, &what, &missing, " (the commit was made from it)").into())
}

/// A spec that an earlier release took, and this one refuses.
const OUTDATED: &str =
    "SpecNotValid: this version of the spec is not valid any more; apply it again, and what is wrong with it is said";

/// What comes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An output, which is published, and sent to where its spec says.
    Output,
    /// A comparison (a reproduction): nothing of it is sent or published, but its code runs.
    Comparison,
}

impl Purpose {
    /// That of a job.
    pub fn of(reproduces: bool) -> Self {
        if reproduces { Self::Comparison } else { Self::Output }
    }
}

/// Why a job may not run whose output would have these origins, if it may not.
///
/// # Errors
/// When the stored name of its project is damaged.
pub fn refusal(
    plane: &Plane,
    run: &RunRow,
    purpose: Purpose,
    inputs: &[Arc<OriginSet>],
    output: &OriginSet,
) -> Answer<Option<String>> {
    let Ok(mut spec) = PipelineSpec::parse(&run.spec.0, &run.project.parse()?) else {
        return Ok(Some(OUTDATED.to_owned()));
    };
    if purpose == Purpose::Comparison {
        spec.egress = None;
    }
    let Some(policy) = plane.policy.last_known() else {
        return Ok(None);
    };
    let list = |domains: &[DomainId]| {
        let names: Vec<String> = domains.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    if spec.uses_secrets() || !spec.transform.image_pull_secrets.is_empty() {
        let sponsor = Subject::unlimited(run.actor.0.id);
        if !secrets::may_use(&policy, &sponsor, &spec.project) {
            return Ok(Some(format!(
                "SecretNotAllowed: {} may not use the secrets of project `{}` any more; let somebody apply the pipeline who has a role on `project:{}` that allows write",
                run.actor.0.name, spec.project, spec.project
            )));
        }
    }
    if let Some(pin) = &spec.max_origins {
        let foreign = guard(&policy, pin, output, plane.now());
        if !foreign.is_empty() {
            return Ok(Some(format!(
                "OriginGuardViolated: max_origins does not admit {}; change the inputs, the guard, or release them",
                list(&foreign)
            )));
        }
    }
    let ways = spec.ways_out();
    if !ways.is_empty() {
        // The sponsor is who applied this version; the limits of the token in use were looked at then.
        let sponsor = Subject::unlimited(run.actor.0.id);
        let inputs: Vec<&OriginSet> = inputs.iter().map(AsRef::as_ref).collect();
        let missing = required_for_egress(&policy, &sponsor, &inputs, output, plane.now());
        if !missing.is_empty() {
            return Ok(Some(format!(
                "EgressNotAllowed: {} `declassify` on {}, which {} does not hold; do without it, or let an owner of that apply the pipeline or release it",
                match ways.as_slice() {
                    [way] => format!("`{way}` needs"),
                    ways => format!("`{}` need", ways.join("` and `")),
                },
                list(&missing),
                run.actor.0.name
            )));
        }
    }
    Ok(None)
}
