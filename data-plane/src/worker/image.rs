//! The image that a datum's code runs in: brought to this machine before the code starts, which costs the datum no try.

use std::sync::Arc;

use sandbox::{Image, Isolation};

use super::execute::{Bench, RunEnd};
use super::inputs::Place;
use super::output::RunLog;
use super::protocol::{ImageTask, JobTask};
use crate::images::{Digest, ImageError, ImageReference, Unpacked, User, credentials};

/// What one datum needs of its image.
pub struct InImage {
    unpacked: Arc<Unpacked>,
    user: User,
    /// What is run.
    pub cmd: Vec<String>,
}

impl InImage {
    /// The image's variables, and the home of its user.
    pub fn env(&self) -> Vec<(String, String)> {
        let home = ("HOME".to_owned(), self.user.home.clone());
        std::iter::once(home).chain(self.unpacked.settings.env()).collect()
    }

    /// Where the image starts its command.
    pub fn working_dir(&self) -> String {
        self.unpacked.settings.working_dir().to_owned()
    }

    /// The image as the sandbox wants it.
    pub fn root(&self, place: &Place) -> Image {
        Image {
            rootfs: self.unpacked.rootfs.clone(),
            writes: place.writes.clone(),
            user: self.user.ids,
        }
    }
}

/// Brings the image, and finds in it who runs what. Says in the log when that takes a while.
pub async fn prepare(bench: &Bench, job: &JobTask, task: &ImageTask, log: &RunLog<'_>) -> Result<InImage, RunEnd> {
    if !matches!(bench.isolation, Isolation::Root | Isolation::UserNamespace) {
        return Err(RunEnd::Failed(format!(
            "an image needs namespaces, and this machine allows isolation `{}` only: look at `howdah doctor`",
            bench.isolation.as_str()
        )));
    }
    let unpacked = bring(bench, task, log).await.map_err(|error| {
        let reason = format!("the image `{}` could not be fetched: {error}", task.name);
        log.line("system", &reason);
        match error.may_pass() {
            true => RunEnd::Lost(reason),
            false => RunEnd::Failed(reason),
        }
    })?;
    let user = unpacked.user(task.user.as_deref()).map_err(|name| {
        RunEnd::Failed(format!(
            "the image knows no user or group `{name}`: correct `transform.user`, or USER of the image"
        ))
    })?;
    let cmd = if job.cmd.is_empty() {
        unpacked.settings.command()
    } else {
        job.cmd.clone()
    };
    if cmd.is_empty() {
        let reason = "the image says no command to run: give `transform.cmd`";
        return Err(RunEnd::Failed(reason.to_owned()));
    }
    Ok(InImage { unpacked, user, cmd })
}

async fn bring(bench: &Bench, task: &ImageTask, log: &RunLog<'_>) -> Result<Arc<Unpacked>, ImageError> {
    let digest: Digest = task.digest.parse()?;
    let reference: ImageReference = task.name.parse()?;
    let who = credentials(&task.logins, &reference);
    if let Some(found) = bench.images.ready(&reference, &digest, who.as_ref()).await {
        return Ok(found);
    }
    log.line("system", &format!("fetching the image {} ({digest})", task.name));
    let found = bench.images.get(&reference, &digest, who.as_ref()).await?;
    if let Some((bytes, took)) = found.fetched {
        let (mebibytes, seconds) = (bytes >> 20, took.as_secs_f64());
        log.line(
            "system",
            &format!("fetched and unpacked the image: {mebibytes} MiB in {seconds:.1} s"),
        );
    }
    Ok(found)
}
