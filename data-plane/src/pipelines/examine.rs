//! Everything that is checked before a pipeline is saved: names, rights on every domain that its inputs require (R4),
//! cycles, and who would lose read on future outputs. Changes nothing, so a dry run is the same code.

mod diff;
mod impact;
mod outside;

use std::sync::Arc;

use contract::api::SpecChange;
use contract::ids::{DomainId, ProjectId};
use contract::names::{BranchName, ProjectName, RepoName};
use contract::policy::Permission;
use contract::problem::{FieldError, Problem, ProblemKind};
use provenance::access::{Policy, required_for_egress, required_for_new_pipeline};
use provenance::origins::{Edge, OriginSet, matching_releases};
use provenance::propagation::{BranchOf, Dag, PipelineNode, would_cycle};
use provenance::spec::{CronInput, PfsInput, PipelineSpec, TriggerInput};
use provenance::ticks::{BACKLOG_MOST, Ticks};
use provenance::triggers::would_circle;
use sqlx::PgConnection;

use super::conditions;
use super::followers::{self, Follower};
use super::queries::{self, PipelineRow};
use super::released;
use crate::branches;
use crate::call::Call;
use crate::commits::{self, origins};
use crate::cron::{self, CronRepo};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::projects;
use crate::repos;
use crate::secrets;
use crate::spouts::{self, Outside};

const DECIDE: System = System::because("rows are read in order to decide whether the caller may apply the pipeline");

/// A spec that was read.
pub struct Parsed {
    /// As applied.
    pub value: serde_json::Value,
    /// As understood.
    pub spec: PipelineSpec,
    /// What `transform.image` stands for now; nothing before that was asked: releases are not found then.
    pub image_digest: Option<String>,
    /// The domains of cron inputs' repos that are not there yet, one for each leaf, used or not.
    pub cron_ids: Vec<DomainId>,
    /// The domain of what a spout receives, used if it has none yet.
    pub outside_id: DomainId,
}

/// A spec whose surroundings were looked at.
pub struct Examined {
    /// The domain of its output repo; of a new one the one that was given for it.
    pub id: DomainId,
    /// The project.
    pub project: ProjectId,
    /// Whether the output repo has to be made.
    pub new_repo: bool,
    /// The version that it has, if it was applied before.
    pub before: Option<PipelineRow>,
    /// The highest version that it ever had, 0 when there was none.
    pub last_version: i32,
    /// Whether something differs.
    pub changed: bool,
    /// What differs.
    pub changes: Vec<SpecChange>,
    /// Name, repo and branch of each leaf.
    pub inputs: Vec<(String, DomainId, String)>,
    /// The branches of its own that inputs with triggers read.
    pub followers: Vec<Follower>,
    /// The repos of its cron inputs.
    pub crons: Vec<CronRepo>,
    /// Of a spout, the repo that stands for what it receives.
    pub outside: Option<Outside>,
    /// Who loses read, in words.
    pub impact: Vec<String>,
    /// The origins of what it will make.
    origins: OriginSet,
}

/// A field that is wrong.
pub fn field(index: usize, pointer: &str, message: impl Into<String>) -> FieldError {
    FieldError {
        pointer: format!("/specs/{index}{pointer}"),
        message: message.into(),
    }
}

/// The answer to specs that make no sense.
pub fn invalid(errors: Vec<FieldError>) -> Failure {
    let count = errors.len();
    let first = errors
        .first()
        .map(|e| format!("{}: {}", e.pointer, e.message))
        .unwrap_or_default();
    let detail = match count {
        1 => format!("the pipeline spec is not valid at {first}"),
        n => format!("the pipeline specs have {n} mistakes, the first at {first}"),
    };
    let mut problem =
        Problem::new(ProblemKind::Invalid, detail).with_hint("nothing was applied; correct them and apply again");
    problem.errors = errors;
    problem.into()
}

/// Looks at all specs in order; a later one may read what an earlier one makes. `ids` are the domains of the outputs
/// that are not there yet, one for each spec, used or not.
pub async fn examine(
    call: &Call,
    conn: &mut PgConnection,
    specs: &[Parsed],
    ids: &[DomainId],
    code_revision: Option<&str>,
    dag: &Dag,
) -> Answer<Vec<Examined>> {
    let policy = call.plane.policy.current(call.plane.now())?;
    let mut dag = dag.clone();
    let mut done: Vec<Examined> = Vec::new();
    for (index, parsed) in specs.iter().enumerate() {
        let mut one = Examination {
            call,
            conn: &mut *conn,
            policy: &policy,
            index,
            spec: &parsed.spec,
            earlier: &done,
            specs,
            crons: Vec::new(),
            followers: Vec::new(),
        };
        let examined = one.run(parsed, ids[index], code_revision, &mut dag).await?;
        done.push(examined);
    }
    Ok(done)
}

struct Examination<'a> {
    call: &'a Call,
    conn: &'a mut PgConnection,
    policy: &'a Arc<Policy>,
    index: usize,
    spec: &'a PipelineSpec,
    earlier: &'a [Examined],
    specs: &'a [Parsed],
    /// The repos of cron inputs found so far.
    crons: Vec<CronRepo>,
    /// The branches of its own found so far.
    followers: Vec<Follower>,
}

impl Examination<'_> {
    async fn run(
        &mut self,
        parsed: &Parsed,
        fresh: DomainId,
        code_revision: Option<&str>,
        dag: &mut Dag,
    ) -> Answer<Examined> {
        let project = projects::queries::find_project(self.conn, &DECIDE, &self.spec.project).await?;
        let project = project.ok_or_else(|| {
            let message = format!(
                "there is no project `{}`; make it with `howdah project create`",
                self.spec.project
            );
            invalid(vec![field(self.index, "/pipeline/project", message)])
        })?;
        let (id, new_repo, before) = self.output(fresh).await?;
        let (inputs, heads) = self.inputs(id).await?;
        self.check_cycle(id, &inputs, dag)?;
        self.check_rights(&inputs, &heads)?;
        let digest = self.release_digest(parsed, &inputs).await?;
        let own: Vec<(&OriginSet, _)> = {
            let digest = hex::encode(digest);
            let edge = matching_releases(self.policy, id, &digest, self.call.plane.now());
            heads.iter().map(|set| (set.as_ref(), edge.clone())).collect()
        };
        let outside = self.outside(id, project.id, parsed.outside_id).await?;
        let received = outside.as_ref().map(|outside| OriginSet::own(outside.id));
        let own: Vec<_> = own
            .into_iter()
            .chain(received.iter().map(|set| (set, Edge::plain())))
            .collect();
        let origins = OriginSet::combine(id, &own);
        if parsed.image_digest.is_some() || parsed.spec.transform.image.is_none() {
            let made = outside.as_ref().filter(|o| o.new).map(|o| o.id);
            self.check_network(&heads, &origins, made)?;
        }
        self.check_secrets().await?;
        let impact = self.impact(id, &origins).await?;
        let mut changed = Vec::new();
        if let Some(row) = &before {
            changed = self.differences(row, parsed, code_revision, &inputs).await?;
        }
        let last_version = if new_repo {
            0
        } else {
            queries::last_version(self.conn, &DECIDE, id).await?
        };
        Ok(Examined {
            id,
            last_version,
            project: project.id,
            new_repo,
            changed: before.is_none() || !changed.is_empty(),
            changes: changed,
            before,
            inputs,
            crons: std::mem::take(&mut self.crons),
            outside,
            followers: std::mem::take(&mut self.followers),
            impact,
            origins,
        })
    }

    /// What a release of what it would make now has to name.
    async fn release_digest(&mut self, parsed: &Parsed, inputs: &[(String, DomainId, String)]) -> Answer<Vec<u8>> {
        let digest = self.spec.spec_digest(parsed.image_digest.as_deref());
        let code = self.spec.input.leaves().iter().position(|leaf| leaf.is_code);
        let commit = match code.and_then(|leaf| inputs.get(leaf)) {
            None => return Ok(digest.to_vec()),
            Some((_, repo, branch)) => commits::queries::find_head(self.conn, &DECIDE, *repo, &branch.parse()?).await?,
        };
        let commit = commit.flatten().map(|head| head.id);
        let with_code = released::digest(
            &self.call.plane,
            self.conn,
            (self.spec, &digest),
            commit,
            released::Look::InStorage,
        )
        .await?;
        Ok(with_code.unwrap_or_else(|| digest.to_vec()))
    }

    /// The repo that the pipeline writes, and the pipeline that is there.
    async fn output(&mut self, fresh: DomainId) -> Answer<(DomainId, bool, Option<PipelineRow>)> {
        let (project, name) = (&self.spec.project, &self.spec.name);
        let twice = |at: &Parsed| at.spec.project == *project && at.spec.name == *name;
        if self.specs[..self.index].iter().any(twice) {
            let message = format!("the pipeline `{project}/{name}` stands in this request twice");
            return Err(invalid(vec![field(self.index, "/pipeline/name", message)]));
        }
        let Some(row) = repos::queries::find_repo(self.conn, &DECIDE, project, name).await? else {
            self.call.may_create(project, name)?;
            return Ok((fresh, true, None));
        };
        let (id, is_pipeline) = (row.id, row.pipeline);
        let Some(visible) = self.call.rights().visible(row) else {
            return Err(repos::queries::taken(name));
        };
        if cron::queries::find_pipeline(self.conn, &DECIDE, id).await?.is_some()
            || spouts::queries::find_pipeline(self.conn, &DECIDE, id).await?.is_some()
        {
            return Err(repos::queries::taken(name));
        }
        if !is_pipeline {
            return Err(Failure::new(
                ProblemKind::AlreadyExists,
                format!("`{visible}` is a repo that people write to, so no pipeline can write to it"),
            )
            .hint("give the pipeline another name"));
        }
        self.call.allowed(&visible, Permission::Write)?;
        Ok((id, false, queries::find(self.conn, &DECIDE, id, false).await?))
    }

    /// Domain and branch of each leaf, with the origins of what is there now.
    async fn inputs(&mut self, own: DomainId) -> Answer<(Vec<(String, DomainId, String)>, Vec<Arc<OriginSet>>)> {
        let (mut inputs, mut heads) = (Vec::new(), Vec::new());
        for (position, leaf) in self.spec.input.leaves().into_iter().enumerate() {
            let read = match &leaf.trigger {
                Some(_) => followers::branch_of(own, &leaf.name)?,
                None => leaf.branch.clone(),
            };
            let (domain, set) = match &leaf.cron {
                Some(cron) => self.cron(position, leaf, cron, own).await?,
                None => self.leaf(leaf, &read, own).await?,
            };
            inputs.push((leaf.name.to_string(), domain, read.to_string()));
            heads.push(set);
            if let Some(trigger) = &leaf.trigger {
                heads.push(self.follower(leaf, trigger, (domain, read), own).await?);
            }
        }
        Ok((inputs, heads))
    }

    /// The branch that an input with a trigger reads; answers the origins of what it would bring now (R4).
    async fn follower(
        &mut self,
        leaf: &PfsInput,
        trigger: &TriggerInput,
        (domain, branch): (DomainId, BranchName),
        own: DomainId,
    ) -> Answer<Arc<OriginSet>> {
        let watched = branches::queries::list_watched(self.conn, &DECIDE, domain).await?;
        if would_circle(&watched, &branch, &trigger.source) {
            let message = format!(
                "has a `trigger` on `{}/{}@{}`, which comes to follow what this input reads: follow another branch",
                leaf.project, leaf.repo, trigger.source
            );
            return Err(invalid(vec![field(self.index, "/input", message)]));
        }
        let follower = Follower {
            repo: domain,
            branch,
            on: trigger.clone(),
        };
        followers::is_free(self.conn, own, &follower).await?;
        self.followers.push(follower);
        let head = commits::queries::find_head(self.conn, &DECIDE, domain, &trigger.source).await?;
        match head.flatten() {
            None => Ok(Arc::new(OriginSet::own(domain))),
            Some(head) => origins::get(&self.call.plane, self.conn, &DECIDE, head.origin_set).await,
        }
    }

    /// The repo of a cron input, which is made with the pipeline.
    async fn cron(
        &mut self,
        position: usize,
        leaf: &PfsInput,
        input: &CronInput,
        own: DomainId,
    ) -> Answer<(DomainId, Arc<OriginSet>)> {
        if self.crons.iter().any(|c| c.name == leaf.repo) {
            let message = format!(
                "there are two cron inputs `{}`: give one of them another `name`",
                leaf.name
            );
            return Err(invalid(vec![field(self.index, "/input", message)]));
        }
        let found = repos::queries::find_repo(self.conn, &DECIDE, &leaf.project, &leaf.repo).await?;
        let id = match &found {
            None => {
                self.call.may_create(&leaf.project, &leaf.repo)?;
                self.specs[self.index].cron_ids[position]
            }
            Some(repo) if self.is_ours(repo.id, own).await? => repo.id,
            Some(_) => return Err(repos::queries::taken(&leaf.repo)),
        };
        self.check_backlog(id, leaf, input).await?;
        self.crons.push(CronRepo {
            id,
            name: leaf.repo.clone(),
            new: found.is_none(),
            input: input.clone(),
        });
        Ok((id, Arc::new(OriginSet::own(id))))
    }

    /// Whether the ticks of a repo are those of this pipeline, or of a deleted one and the caller owns what it left.
    async fn is_ours(&mut self, repo: DomainId, own: DomainId) -> Answer<bool> {
        Ok(match cron::queries::find_pipeline(self.conn, &DECIDE, repo).await? {
            None => false,
            Some(of) if of == own => true,
            Some(of) => {
                self.call.rights().can(Permission::Admin, repo)
                    && queries::is_deleted(self.conn, &DECIDE, of).await? == Some(true)
            }
        })
    }

    /// A schedule that begins long ago would be caught up for days.
    async fn check_backlog(&mut self, repo: DomainId, leaf: &PfsInput, input: &CronInput) -> Answer<()> {
        let Some(start) = input.start.filter(|_| !input.overwrite) else {
            return Ok(());
        };
        let before = cron::queries::find(self.conn, &DECIDE, repo).await?;
        let from = before.as_ref().map_or(start, |row| start.max(row.counted_to));
        let goes_on = before.is_some_and(|row| row.spec == input.spec && row.start_at == input.start);
        let ticks = input.spec.parse::<Ticks>().map_err(Failure::internal)?;
        if goes_on || ticks.newest(from, self.call.plane.now(), BACKLOG_MOST) <= from {
            return Ok(());
        }
        let message = format!(
            "the cron input `{}` has ticked more than {BACKLOG_MOST} times since its `start`, too often to be caught up: \
             begin later, tick more seldom, or keep the last file alone with `overwrite: true`",
            leaf.name
        );
        Err(invalid(vec![field(self.index, "/input", message)]))
    }

    async fn leaf(&mut self, leaf: &PfsInput, read: &BranchName, own: DomainId) -> Answer<(DomainId, Arc<OriginSet>)> {
        let is = |project: &ProjectName, name: &RepoName| leaf.project == *project && leaf.repo == *name;
        let made = |parsed: &Parsed| is(&parsed.spec.project, &parsed.spec.name);
        if leaf.trigger.is_some() && self.specs[..=self.index].iter().any(made) {
            return Err(self.not_an_output(leaf));
        }
        if is(&self.spec.project, &self.spec.name) {
            return Ok((own, Arc::new(OriginSet::own(own))));
        }
        let earlier = self.specs[..self.index]
            .iter()
            .position(|p| is(&p.spec.project, &p.spec.name));
        if let Some(at) = earlier {
            let made = &self.earlier[at];
            if self.specs[at].spec.output_branch == *read {
                return Ok((made.id, Arc::new(made.origins.clone())));
            }
        }
        let row = repos::queries::find_repo(self.conn, &DECIDE, &leaf.project, &leaf.repo).await?;
        let visible = row.and_then(|row| self.call.rights().visible(row));
        let Some(repo) = visible else {
            let mut problem = Problem::new(
                ProblemKind::NotFound,
                format!("there is no repo `{}/{}` that you may know of", leaf.project, leaf.repo),
            )
            .with_hint("check the input's project and repo, or ask its owner for access");
            problem.errors = vec![field(self.index, "/input", &problem.detail)];
            return Err(problem.into());
        };
        if leaf.trigger.is_some() && repo.pipeline {
            return Err(self.not_an_output(leaf));
        }
        let head = commits::queries::find_head(self.conn, &DECIDE, repo.id, read)
            .await?
            .flatten();
        let set = match head {
            None => Arc::new(OriginSet::own(repo.id)),
            Some(head) => origins::get(&self.call.plane, self.conn, &DECIDE, head.origin_set).await?,
        };
        Ok((repo.id, set))
    }

    /// Outputs fire no triggers: their pipelines could wait for each other in a circle.
    fn not_an_output(&self, leaf: &PfsInput) -> Failure {
        let message = format!(
            "has a `trigger` on `{}/{}`, which a pipeline writes: put it on an input that people write to",
            leaf.project, leaf.repo
        );
        invalid(vec![field(self.index, "/input", message)])
    }

    fn check_cycle(&self, id: DomainId, inputs: &[(String, DomainId, String)], dag: &mut Dag) -> Answer<()> {
        let mut branches = Vec::new();
        for (_, repo, branch) in inputs {
            branches.push(BranchOf {
                repo: *repo,
                branch: branch.parse()?,
            });
        }
        let stopped = dag.pipelines.iter().any(|n| n.pipeline == id && n.stopped);
        let node = PipelineNode {
            pipeline: id,
            output_branch: self.spec.output_branch.clone(),
            inputs: branches,
            stopped,
        };
        if let Some(cycle) = would_cycle(dag, &node) {
            let name = |d: &DomainId| {
                if *d == id {
                    return format!("{}/{}", self.spec.project, self.spec.name);
                }
                let known = self
                    .call
                    .rights()
                    .can(Permission::Discover, *d)
                    .then(|| self.policy.name_of(*d))
                    .flatten();
                known.unwrap_or_else(|| "another pipeline".to_owned())
            };
            let round: Vec<String> = cycle.pipelines.iter().map(name).collect();
            let message = match round.as_slice() {
                [one] => format!("`{one}` would read its own output; read another repo"),
                many => format!("the pipelines would feed each other in a cycle: {}", many.join(" <- ")),
            };
            return Err(invalid(vec![field(self.index, "/input", message)]));
        }
        dag.pipelines.retain(|n| n.pipeline != id);
        dag.pipelines.push(node);
        Ok(())
    }

    fn makes(&self, domain: DomainId) -> bool {
        let mut crons = self.earlier.iter().flat_map(|e| &e.crons).chain(&self.crons);
        let mut outside = self.earlier.iter().flat_map(|e| &e.outside);
        self.earlier.iter().any(|e| e.new_repo && e.id == domain)
            || crons.any(|c| c.new && c.id == domain)
            || outside.any(|o| o.new && o.id == domain)
    }

    /// R4: `derive` on every required domain of each input. Repos that this very request makes are the caller's.
    fn check_rights(&self, inputs: &[(String, DomainId, String)], heads: &[Arc<OriginSet>]) -> Answer<()> {
        let sets: Vec<&OriginSet> = heads.iter().map(AsRef::as_ref).collect();
        let subject = &self.call.rights().subject;
        let mut missing = required_for_new_pipeline(self.policy, subject, &sets, self.call.plane.now());
        missing.retain(|domain| !self.makes(*domain));
        if missing.is_empty() {
            return Ok(());
        }
        let direct: Vec<&str> = inputs
            .iter()
            .filter(|i| missing.contains(&i.1))
            .map(|i| i.0.as_str())
            .collect();
        let through = if direct.is_empty() {
            " (the inputs were made from it)"
        } else {
            ""
        };
        let what = "a pipeline with these inputs";
        let mut problem = conditions::lacks_derive(self.call, self.policy, what, &missing, through);
        problem.errors = vec![field(self.index, "/input", problem.detail.clone())];
        Err(problem.into())
    }

    /// R10: code that reaches the network may send away what it reads. Repos that this very request makes are the caller's.
    fn check_network(&self, heads: &[Arc<OriginSet>], origins: &OriginSet, made: Option<DomainId>) -> Answer<()> {
        let ways = self.spec.ways_out();
        if ways.is_empty() {
            return Ok(());
        }
        if let Some(egress) = &self.spec.egress
            && let Err(refused) = crate::egress::check(&self.call.plane.importer, egress)
        {
            return Err(invalid(vec![field(self.index, "/egress", refused.detail())]));
        }
        let subject = &self.call.rights().subject;
        let inputs: Vec<&OriginSet> = heads.iter().map(AsRef::as_ref).collect();
        let mut missing = required_for_egress(self.policy, subject, &inputs, origins, self.call.plane.now());
        missing.retain(|domain| !self.makes(*domain) && Some(*domain) != made);
        if missing.is_empty() {
            return Ok(());
        }
        let mut problem = conditions::lacks_declassify(self.call, self.policy, &missing, &ways);
        let pointer = |way: &&str| format!("/{}", way.split(':').next().unwrap_or(way));
        let errors = ways
            .iter()
            .map(|way| field(self.index, &pointer(way), problem.detail.clone()));
        problem.errors = errors.collect();
        Err(problem.into())
    }

    /// Whoever says what code runs with a secret has it: it takes the right to use those of the project.
    async fn check_secrets(&mut self) -> Answer<()> {
        let transform = &self.spec.transform;
        if !self.spec.uses_secrets() && transform.image_pull_secrets.is_empty() {
            return Ok(());
        }
        let place = match (transform.secrets.is_empty(), transform.image_pull_secrets.is_empty()) {
            (false, _) => "/transform/secrets",
            (true, false) => "/transform/image_pull_secrets",
            (true, true) => "/egress",
        };
        let project = &self.spec.project;
        if !secrets::may_use(self.policy, &self.call.rights().subject, project) {
            let detail =
                format!("a pipeline that uses secrets of project `{project}` needs write on the whole project");
            let mut problem = Problem::new(ProblemKind::NotAllowed, detail)
                .with_hint(format!("ask for the role contributor on `project:{project}`"));
            problem.errors = vec![field(self.index, place, problem.detail.clone())];
            return Err(problem.into());
        }
        let mut absent = Vec::new();
        for (number, name) in transform.image_pull_secrets.iter().enumerate() {
            if !secrets::exists(self.conn, project, name).await? {
                let place = format!("/transform/image_pull_secrets/{number}");
                absent.push(field(self.index, &place, secrets::absent(project, name)));
            }
        }
        if !absent.is_empty() {
            return Err(invalid(absent));
        }
        if let Err(error) = secrets::of_egress(self.conn, self.spec).await {
            return Err(match error.kind() {
                ProblemKind::Invalid => invalid(vec![field(self.index, "/egress", error.detail())]),
                _ => error,
            });
        }
        match secrets::versions(self.conn, self.spec).await {
            Err(error) if error.kind() == ProblemKind::Invalid => {
                Err(invalid(vec![field(self.index, "/transform/secrets", error.detail())]))
            }
            found => found.map(drop),
        }
    }
}
