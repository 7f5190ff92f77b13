//! `pipeline apply`: several specs, all or none. The domains of new outputs are registered first, because the control
//! plane cannot take part in our transaction; then everything is looked at again and written under the plane's lock.

use contract::api::{AppliedPipeline, ApplyPipelines, RegisterDomain};
use contract::ids::{CommitSetId, DomainId};
use contract::names::ProjectName;
use contract::problem::ProblemKind;
use http::StatusCode;
use provenance::spec::{PathCollision, PipelineSpec};
use serde::Serialize;
use utoipa::ToSchema;

use super::examine::{Examined, Parsed, examine, field, invalid};
use super::propagate::{self, Begun};
use super::queries::{self, NewVersion};
use super::{MovedHead, followers, sponsors};
use crate::branches::triggers;
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::cron;
use crate::defaults::{self, Defaults};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::{Plane, Tx};
use crate::repos;
use crate::spouts;
use crate::worker::executor::refused_by_policy;

const APPLY: System = System::because("the rights on inputs and output were checked by `examine` in this transaction");
const NO_USER: &str = "is a user of an image, and there is none: code runs as a process of this machine under a user id of the \
                       organization's own; remove it, or name an `image`";
/// At most so many specs in one request.
const SPECS_MAX: usize = 1000;

/// What happened to each pipeline.
#[derive(Serialize, ToSchema)]
pub struct Applied {
    /// One for each spec, in order.
    items: Vec<AppliedPipeline>,
}

/// Applies specs.
///
/// # Errors
/// `invalid` with every mistake at its place, `not-found` for inputs that may not be known, `not-allowed` naming what is
/// missing, `already-exists`. Then nothing was applied.
pub async fn apply(call: &Call, body: ApplyPipelines) -> Answer<Applied> {
    let plane = &call.plane;
    let defaults = defaults::load(&mut *plane.pool.acquire().await?).await?;
    let mut specs = parse(plane, &defaults, &body)?;
    let mut ids: Vec<DomainId> = specs.iter().map(|_| plane.id()).collect();
    if specs.iter().any(|parsed| parsed.spec.transform.image.is_some()) {
        // Who may not apply them makes us ask nobody for their images.
        let before = look(call, &specs, &ids, &body).await?;
        super::images::resolve(plane, &mut specs, &before).await?;
    }
    let mut first = look(call, &specs, &ids, &body).await?;
    if body.dry_run {
        let told = super::dry_run::look(call, &specs, &first, body.reprocess).await?;
        let shown = first
            .iter()
            .zip(&specs)
            .zip(told)
            .map(|((examined, parsed), told)| AppliedPipeline {
                dry_run: Some(told),
                ..shown(plane, examined, parsed, None)
            });
        return Ok(Applied { items: shown.collect() });
    }
    call.unanswered_yet().await?;
    let naming = if first.iter().any(makes_repo) {
        let naming = plane.naming.lock().await;
        // Somebody may have made them meanwhile.
        first = look(call, &specs, &ids, &body).await?;
        Some(naming)
    } else {
        None
    };
    let (mut registered, mut last_epoch) = (Vec::new(), None);
    for (at, examined) in first.iter().enumerate() {
        let spec = &specs[at].spec;
        let own = examined.new_repo.then_some((examined.id, &spec.name));
        ids[at] = examined.id;
        let crons = examined.crons.iter().filter(|c| c.new).map(|c| (c.id, &c.name));
        let outside = examined.outside.iter().filter(|o| o.new).map(|o| (o.id, &o.name));
        for (id, name) in own.into_iter().chain(crons).chain(outside) {
            let domain = RegisterDomain {
                id,
                project: spec.project.clone(),
                name: name.clone(),
                owner: call.claims().sub,
            };
            registered.push(id);
            last_epoch = Some(plane.control.register_domain(&domain).await?);
        }
    }
    if let Some(epoch) = last_epoch {
        plane.policy.wait_for_epoch(epoch).await?;
    }
    let applied = write(call, &specs, (&ids, &registered), &body).await;
    drop(naming);
    if applied.is_err() {
        for id in registered {
            let _ = plane.control.bury_domain(id).await;
        }
    }
    let applied = applied?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(applied)
}

async fn look(call: &Call, specs: &[Parsed], ids: &[DomainId], body: &ApplyPipelines) -> Answer<Vec<Examined>> {
    let mut tx = call.plane.begin().await?;
    let dag = propagate::load_dag(&mut tx).await?;
    examine(call, &mut tx, specs, ids, body.code_revision.as_deref(), &dag).await
}

fn makes_repo(examined: &Examined) -> bool {
    examined.new_repo || examined.crons.iter().any(|c| c.new) || examined.outside.iter().any(|o| o.new)
}

fn parse(plane: &Plane, defaults: &Defaults, body: &ApplyPipelines) -> Answer<Vec<Parsed>> {
    if body.specs.is_empty() || body.specs.len() > SPECS_MAX {
        return Err(Failure::invalid(format!(
            "send 1 to {SPECS_MAX} pipeline specs at once, not {}",
            body.specs.len()
        )));
    }
    let mut errors = Vec::new();
    let mut specs = Vec::new();
    for (index, value) in body.specs.iter().enumerate() {
        let mut value = value.clone();
        if let (Some(image), Some(object)) = (&body.image, value.as_object_mut()) {
            let transform = object.entry("transform").or_insert_with(|| serde_json::json!({}));
            if let Some(transform) = transform.as_object_mut() {
                transform.insert("image".to_owned(), serde_json::json!(image));
            }
        }
        value = defaults.below(&value);
        match PipelineSpec::parse(&value, &ProjectName::default_project()) {
            Ok(spec) if spec.transform.user.is_some() && spec.transform.image.is_none() => {
                errors.push(field(index, "/transform/user", NO_USER));
            }
            Ok(spec) => {
                let executor = plane.executor();
                let refused = executor.refuses(&spec).into_iter().chain(executor.misses(&spec));
                errors.extend(refused.map(|(at, message)| field(index, at, message)));
                let unfit = refused_by_policy(&plane.config.executor, plane.organization, &spec);
                errors.extend(
                    unfit
                        .into_iter()
                        .map(|unfit| field(index, &unfit.pointer, unfit.message)),
                );
                specs.push(Parsed {
                    cron_ids: spec.input.leaves().iter().map(|_| plane.id()).collect(),
                    outside_id: plane.id(),
                    image_digest: None,
                    spec,
                    value,
                });
            }
            Err(found) => errors.extend(found.into_iter().map(|e| field(index, &e.pointer, e.message))),
        }
    }
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    if specs.len() != body.specs.len() {
        return Err(Failure::internal("a spec was neither read nor refused"));
    }
    Ok(specs)
}

async fn write(
    call: &Call,
    specs: &[Parsed],
    (ids, registered): (&[DomainId], &[DomainId]),
    body: &ApplyPipelines,
) -> Answer<Applied> {
    let plane = &call.plane;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let dag = propagate::load_dag(&mut tx).await?;
    let examined = examine(call, &mut tx, specs, ids, body.code_revision.as_deref(), &dag).await?;
    let unregistered = |e: &Examined| {
        let crons = e.crons.iter().filter(|c| c.new).map(|c| c.id);
        let mut made = crons.chain(e.outside.iter().filter(|o| o.new).map(|o| o.id));
        e.new_repo && !registered.contains(&e.id) || made.any(|id| !registered.contains(&id))
    };
    if examined.iter().any(unregistered) {
        let detail = "an output repo was deleted while the specs were looked at; nothing was applied";
        return Err(Failure::new(ProblemKind::Conflict, detail).hint("apply them again"));
    }
    let mut started = Vec::new();
    for (one, parsed) in examined.iter().zip(specs) {
        if one.changed {
            save(call, &mut tx, one, parsed, body.code_revision.as_deref()).await?;
        }
        if one.changed || body.reprocess {
            started.push(one.id);
        }
    }
    let saved: Vec<_> = examined
        .iter()
        .filter(|one| one.changed)
        .map(|one| one.id.uuid())
        .collect();
    sponsors::note(plane, &mut tx, &saved, true).await?;
    let set: CommitSetId = plane.id();
    let watched = examined.iter().filter(|one| one.changed).flat_map(|one| &one.followers);
    let watched: Vec<_> = watched.map(|f| (f.repo, f.on.source.clone())).collect();
    let fired = triggers::fire(plane, &mut tx, &watched).await?;
    let moved: Vec<_> = fired.iter().map(MovedHead::at).collect();
    let begun = propagate::begin(plane, &mut tx, set, &moved, &started, body.reprocess).await?;
    record(call, &mut tx, (&examined, specs), body).await?;
    let items = examined.iter().zip(specs).map(|(one, parsed)| {
        let job = begun.iter().find(|b| b.pipeline == one.id);
        shown(plane, one, parsed, job.map(|job| (*job, set)))
    });
    let applied = Applied { items: items.collect() };
    call.keep_answer(&mut tx, StatusCode::OK, &applied).await?;
    tx.commit().await?;
    Ok(applied)
}

/// Writes a row for each pipeline that another version was saved of, and for each that is made to run anew as it is.
async fn record(
    call: &Call,
    tx: &mut Tx,
    (examined, specs): (&[Examined], &[Parsed]),
    body: &ApplyPipelines,
) -> Answer<()> {
    for (one, parsed) in examined.iter().zip(specs) {
        let name = format!("{}/{}", parsed.spec.project, parsed.spec.name);
        if one.changed {
            let revision = body
                .code_revision
                .as_deref()
                .map_or_else(String::new, |sha| format!(" of {sha}"));
            let subject = format!("{name} version {}{revision}", one.last_version + 1);
            call.record(tx, "pipeline.apply", &subject).await?;
        } else if body.reprocess {
            call.record(tx, "pipeline.run", &format!("{name} anew")).await?;
        }
    }
    Ok(())
}

async fn save(call: &Call, tx: &mut Tx, one: &Examined, parsed: &Parsed, code_revision: Option<&str>) -> Answer<()> {
    let now = call.plane.now();
    let actor = call.actor();
    let spec = &parsed.spec;
    if one.new_repo {
        let repo = repos::queries::NewRepo {
            id: one.id,
            project: one.project,
            name: &spec.name,
            description: &spec.description,
            pipeline: true,
            created_at: now,
            created_by: &actor,
        };
        repos::queries::insert_repo(tx, &APPLY, &repo).await?;
    }
    cron::make(&call.plane, tx, one.project, &one.crons, &actor).await?;
    let image = parsed.image_digest.as_deref();
    let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let code_digest = spec.code_digest(image);
    let version = NewVersion {
        id: one.id,
        version: one.last_version + 1,
        output_branch: spec.output_branch.as_str(),
        spec: &parsed.value,
        spec_digest: spec.spec_digest(image),
        code_digest,
        plan_digest: plan_digest(spec, &code_digest, &one.inputs),
        image_digest: image,
        code_revision,
        actor: &actor,
        at: now,
        datum_tries: i32::try_from(spec.datum_tries).unwrap_or(i32::MAX),
        parallelism: spec.parallelism.map(|n| i32::try_from(n).unwrap_or(i32::MAX)),
        every_job: spec.reprocess == provenance::spec::Reprocess::EveryJob,
        job_timeout_ms: spec.job_timeout.map(millis),
        datum_set: spec.datum_set,
        inputs: &one.inputs,
    };
    queries::insert_version(tx, &APPLY, &version).await?;
    cron::save(&call.plane, tx, one.id, &one.crons).await?;
    if let Some(outside) = &one.outside {
        spouts::begin::save(&call.plane, tx, one.id, outside, &actor).await?;
    }
    followers::save(&call.plane, tx, one.id, &one.followers, &actor).await
}

/// Jobs with equal ones have datums and outputs that can be compared: the same code over the same globs of the same repos.
fn plan_digest(spec: &PipelineSpec, code: &[u8; 32], inputs: &[(String, DomainId, String)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("howdah plan v1");
    hasher.update(code);
    for (_, domain, _) in inputs {
        hasher.update(domain.uuid().as_bytes());
    }
    hasher.update(provenance::spec::canonical_json(&spec.read_input()).as_bytes());
    // The same repo may have the code elsewhere.
    if let Some(code) = &spec.transform.code {
        hasher.update(code.path.as_bytes());
    }
    if spec.path_collision == PathCollision::Append {
        hasher.update(b"append");
    }
    *hasher.finalize().as_bytes()
}

fn shown(plane: &Plane, one: &Examined, parsed: &Parsed, begun: Option<(Begun, CommitSetId)>) -> AppliedPipeline {
    let version = if one.changed {
        one.last_version + 1
    } else {
        one.last_version
    };
    let change = match (&one.before, one.changed) {
        (None, _) => "created",
        (Some(_), true) => "updated",
        (Some(_), false) => "unchanged",
    };
    AppliedPipeline {
        name: parsed.spec.name.clone(),
        project: parsed.spec.project.clone(),
        change: change.to_owned(),
        version: u32::try_from(version).unwrap_or(0),
        differences: one.changes.iter().map(|change| change.pointer.clone()).collect(),
        changes: one.changes.clone(),
        job: begun.map(|(job, _)| job.job),
        commit_set: begun.map(|(_, set)| set),
        impact: one.impact.clone(),
        warnings: plane.executor().ignores(&parsed.spec),
        dry_run: None,
    }
}
