//! `spout`: a command that reads nothing, runs until it is stopped and makes commits of what it receives from outside.

use contract::names::RepoName;

use super::fields::{Errors, Fields, join};
use super::{PathCollision, PipelineSpec, Spout};

/// What the repo's name ends in whose readers may read what was received and not attested.
const OUTSIDE: &str = "_unattested";

pub(super) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Spout> {
    let (value, pointer) = fields.take("spout")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let overwrite = inner.bool("overwrite", errors).unwrap_or(false);
    inner.finish(errors);
    Some(Spout { overwrite })
}

/// What a spout cannot have besides. `has_input` = the spec has a field `input`.
pub(super) fn check(spec: &PipelineSpec, has_input: bool, errors: &mut Errors) {
    if spec.spout.is_none() {
        return;
    }
    let lasts = "a spout runs until it is stopped or replaced";
    for (given, pointer, message) in [
        (has_input, "/input", "a spout reads nothing, it receives from outside: remove `input`, or `spout`".to_owned()),
        (spec.transform.code.is_some(), "/transform/code", "would be an input, and a spout reads nothing: put the code into the image or the command".to_owned()),
        (spec.service.is_some(), "/service", "a pipeline is a spout or a service: remove one of them, and make two pipelines".to_owned()),
        (spec.egress.is_some(), "/egress", "a spout's commits are made by its code, not by a job that ends: give `egress` to a pipeline that reads them".to_owned()),
        (!spec.transform.err_cmd.is_empty(), "/transform/err_cmd", "a spout that exits is started again: remove `err_cmd`".to_owned()),
        (spec.datum_timeout.is_some(), "/datum_timeout", format!("{lasts}: remove `datum_timeout`")),
        (spec.job_timeout.is_some(), "/job_timeout", format!("{lasts}: remove `job_timeout`")),
        (spec.path_collision == PathCollision::Append, "/path_collision", "a spout's later file takes the place of the earlier one at its path: remove `path_collision`".to_owned()),
    ] {
        if given {
            errors.add(pointer, message);
        }
    }
    if let Err(error) = outside_of(&spec.name) {
        let message = format!(
            "makes the repo `{}{OUTSIDE}`, which can't be named so: {error}; give the spout a shorter name",
            spec.name
        );
        errors.add(&join("/pipeline", "name"), message);
    }
}

fn outside_of(name: &RepoName) -> Result<RepoName, String> {
    format!("{name}{OUTSIDE}").parse().map_err(|error| format!("{error}"))
}

impl PipelineSpec {
    /// The repo whose readers may read what a spout received before that is attested; `None` of other pipelines.
    pub fn outside(&self) -> Option<RepoName> {
        self.spout.and_then(|_| outside_of(&self.name).ok())
    }
}
