//! `howdah reproduce`: runs the job of a derived commit again and compares what comes out.

mod deep;

use clap::Args;
use contract::api::{NewReproduction, Reproduction, ReproductionState, WaitAnswer};
use contract::ids::JobId;

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure, Outcome};
use crate::job::counts;
use crate::output::Output;
use crate::references::commit;

/// Run again what made a commit, from its recorded inputs and code, and compare the content.
///
/// All datums run. What comes out is compared and let go of: no branch moves, nothing downstream starts, no result is
/// kept. It needs read on the commit and write on its repo. Exit code 0: identical; 1: different; 5: the job failed.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah reproduce score-red@main
         howdah reproduce score-red@main --deep")]
pub struct Reproduce {
    /// Branch or commit of a pipeline's output
    reference: String,
    /// Everything upstream that a pipeline made too, from what people made on, one commit after the other
    #[arg(long)]
    deep: bool,
    /// Go on with an interrupted `--deep`, by its id: what it has reproduced is not run again
    #[arg(long = "continue", value_name = "ID", requires = "deep")]
    going_on: Option<JobId>,
}

/// `howdah reproduce`.
///
/// # Errors
/// Exit code 1 when something else came out, 5 when the job failed; what the service answers.
pub async fn run(arguments: Reproduce, client: &Client, output: Output) -> Outcome {
    if arguments.deep {
        return deep::run(&arguments.reference, arguments.going_on, client, output).await;
    }
    let reference = commit(&arguments.reference, &client.settings.project)?;
    let spinner = output.spinner(&format!("running {} again", arguments.reference));
    let begun = begin(client, &reference).await?;
    let found = end(client, begun, |told| spinner.set_message(told)).await?;
    spinner.finish_and_clear();
    output.result(&found, || in_words(&arguments.reference, &found))?;
    verdict(&arguments.reference, &found)
}

async fn begin(client: &Client, reference: &str) -> Outcome<Reproduction> {
    let body = NewReproduction {
        reference: reference.to_owned(),
    };
    client.plane(Request::post("/v1/reproductions").body(&body)?).await
}

/// Waits for the end of a reproduction, and tells how far it is.
async fn end(client: &Client, begun: Reproduction, tell: impl Fn(String)) -> Outcome<Reproduction> {
    let mut found = begun;
    while found.state == ReproductionState::Running {
        let wait = Request::get("/v1/wait")
            .query("target", found.id)
            .query("timeout_seconds", 2);
        let answer: WaitAnswer = client.plane(wait).await?;
        if let Some(job) = answer.jobs.first() {
            tell(format!("{} {}: {}", job.pipeline, job.state.as_str(), counts(job)));
        }
        found = client
            .plane(Request::get(format!("/v1/reproductions/{}", found.id)))
            .await?;
    }
    Ok(found)
}

fn in_words(reference: &str, found: &Reproduction) -> String {
    match (&found.state, &found.comparison) {
        (ReproductionState::Identical, Some(same)) => {
            format!("identical: {reference} came out as {} again", same.found)
        }
        _ => String::new(),
    }
}

fn verdict(reference: &str, found: &Reproduction) -> Outcome {
    let difference = found.comparison.as_ref().and_then(|c| c.difference.as_ref());
    match (found.state, difference) {
        (ReproductionState::Different, Some(first)) => Err(Failure::new(
            format!("{reference} is not reproducible: something else came out"),
            format!("the first difference is `{}`, which was {}", first.path, first.change),
            match found.secrets_changed {
                true => "a secret that the code is given was set again since: that may be why",
                false => {
                    "look for time, randomness or order in the code, or for anything that it reads besides its inputs"
                }
            },
        )),
        (ReproductionState::Failed | ReproductionState::Different, _) => Err(Failure::new(
            format!(
                "{reference} was not reproduced: its job ended as {}",
                found.job.state.as_str()
            ),
            found
                .job
                .reason
                .clone()
                .unwrap_or_else(|| "no reason was given".to_owned()),
            format!(
                "see `howdah datum list {} --state failed` and `howdah logs {}`",
                found.id, found.id
            ),
        )
        .with_exit(Exit::JobFailed)),
        _ => Ok(()),
    }
}
