//! `howdah fsck`: checks what is stored.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Check that everything that is stored is whole: commits, open commits, results of datums, and the bytes of all.
///
/// What a repair finds no copy of stays as it is and is listed.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah fsck --deep")]
pub struct Fsck {
    /// Read all content, too, which takes as long as reading everything does
    #[arg(long)]
    deep: bool,
    /// First repair what can be from copies that other packs and the disk cache hold, which reads everything that is stored
    #[arg(long)]
    repair: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Finding {
    severity: String,
    subject: String,
    message: String,
}

/// Runs the command.
///
/// # Errors
/// Exit code 1 when something is damaged.
pub async fn run(arguments: &Fsck, client: &Client, output: Output) -> Outcome {
    let mut damaged = 0_u64;
    let request = match arguments.repair {
        true => Request::post("/v1/fsck"),
        false => Request::get("/v1/fsck"),
    };
    let request = request.query("deep", arguments.deep);
    client
        .lines(&request, |finding: Finding| {
            damaged += u64::from(finding.severity == "error");
            output.streamed(&finding, || {
                format!("{}: {}: {}", finding.severity, finding.subject, finding.message)
            })
        })
        .await?;
    if damaged == 0 {
        output.hint("everything is whole");
        return Ok(());
    }
    Err(Failure::new(
        "stored data is damaged",
        format!("{damaged} findings are errors"),
        "restore what is named from a backup, or put it again",
    ))
}
