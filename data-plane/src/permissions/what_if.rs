//! `POST /v1/access/what-if`: who would gain and lose reading by a change of grants, members, releases or a pipeline's inputs (R12).
//! Nothing is changed. Answers tell of others' rights, so one asks only about what one could do oneself, and they name only repos
//! that the caller may know of (R15).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::State;
use chassis::http::{Json, Query};
use chrono::{DateTime, Utc};
use contract::api::{NewGrant, Page, ReadingShift, ShiftedRepo, WhatIf};
use contract::ids::{CommitId, DomainId};
use contract::policy::{Grantee, OrganizationRole, Permission, Principal, Release, Resource};
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef, RepoRef};
use provenance::access::{Change, Pair, Policy, Shift, shifts};
use provenance::origins::{Edge, OriginSet, matching_releases};
use provenance::propagation::{BranchOf, Dag, next_origins};
use serde::Deserialize;
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::routes::principal;
use super::{System, Visible};
use crate::call::Call;
use crate::commits::origins;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::lineage;
use crate::pipelines;
use crate::plane::Plane;

const ASK: System =
    System::because("what would change is told of repos that the caller may know of, and of nothing else");
/// A release that is asked about ends so far from now; until when does not matter to the answer.
const RELEASE_DAYS: i64 = 1;
/// So many questions are weighed at once.
static AT_ONCE: Semaphore = Semaphore::const_new(1);

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(what_if))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// How many people at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Answers who would gain and who would lose reading by a change, which is not made.
///
/// It changes nothing, so it can be sent again.
#[utoipa::path(post, path = "/v1/access/what-if", tag = "access", params(PageQuery), responses((status = 200, body = Page<ReadingShift>)))]
async fn what_if(
    State(plane): State<Plane>,
    call: Call,
    Query(page): Query<PageQuery>,
    Json(body): Json<WhatIf>,
) -> Answer<Json<Page<ReadingShift>>> {
    let limit = cursor::limit(page.limit)?;
    let list = format!("what-if {}", serde_json::to_string(&body).map_err(Failure::internal)?);
    let skip: usize = call.position(&list, page.cursor.as_deref())?.unwrap_or(0);
    let mut tx = plane.begin().await?;
    let question = Question::of(&call, &mut tx, &body).await?;
    let weighing = question.prepared(&call, &mut tx).await?;
    drop(tx);
    // It takes as long as there are people times sets: beside the threads of requests, and one at a time.
    let _turn = AT_ONCE.acquire().await.map_err(Failure::internal)?;
    let (weighing, shifted) = tokio::task::spawn_blocking(move || {
        let shifted = weighing.shifts();
        (weighing, shifted)
    })
    .await
    .map_err(Failure::internal)?;
    let found = shown(&call, shifted, &weighing.things);
    let rest: Vec<ReadingShift> = found.into_iter().skip(skip).take(limit + 1).collect();
    Ok(Json(call.page(&list, rest, limit, |_| skip + limit)?))
}

/// A question whose asker may ask it.
enum Question {
    /// What becomes of the commits that there are.
    Now(Change),
    /// What becomes of outputs to come by a release.
    AfterRelease(Change),
    /// What becomes of outputs to come when this pipeline reads that branch too.
    WithInput(DomainId, BranchOf),
}

impl Question {
    async fn of(call: &Call, conn: &mut PgConnection, body: &WhatIf) -> Answer<Self> {
        let policy = &call.rights().policy;
        Ok(match body {
            WhatIf::Grant(grant) => Self::Now(granted(call, conn, grant).await?),
            WhatIf::Revoke { grant } => {
                let known = policy.snapshot().grants.iter().find(|g| g.id == *grant);
                let known = known.ok_or_else(Failure::not_found)?;
                if !administers(call, &known.resource) {
                    return Err(Failure::not_found());
                }
                Self::Now(Change::Revoke(*grant))
            }
            WhatIf::Leave { subject } => {
                call.manages("ask what the departure of a member changes")?;
                let principal = principal(call, subject).ok_or_else(Failure::not_found)?;
                Self::Now(Change::Leave(principal))
            }
            WhatIf::Release { domains, pipeline } => {
                let pipeline = repo(call, conn, pipeline).await?;
                let mut released = Vec::new();
                for name in domains {
                    let domain = repo(call, conn, name).await?;
                    call.allowed(&domain, Permission::Declassify)?;
                    released.push(domain.id);
                }
                Self::AfterRelease(release(call, conn, &pipeline, released).await?)
            }
            WhatIf::RevokeRelease { release } => {
                let known = policy.release(*release).ok_or_else(Failure::not_found)?;
                let holds = |d: &DomainId| call.rights().can(Permission::Declassify, *d);
                if !known.domains.iter().all(holds) {
                    return Err(Failure::not_found());
                }
                Self::Now(Change::RevokeRelease(*release))
            }
            WhatIf::Input { pipeline, input } => {
                let pipeline = repo(call, conn, pipeline).await?;
                call.allowed(&pipeline, Permission::Write)?;
                let input: CommitRef = input.parse()?;
                let (Base::Branch(branch), None) = (input.base, input.step) else {
                    return Err(Failure::invalid("an input is a branch: `[project/]repo@branch`"));
                };
                let input = call.repo(conn, &input.repo).await?;
                call.allowed(&input, Permission::Read)?;
                Self::WithInput(pipeline.id, BranchOf { repo: input.id, branch })
            }
        })
    }

    /// Everything that is needed to weigh it.
    async fn prepared(&self, call: &Call, tx: &mut crate::plane::Tx) -> Answer<Weighing> {
        let now = call.plane.now();
        let before = Arc::clone(&call.rights().policy);
        let changed = |change: &Change| before.changed(change, now).map(Arc::new).ok_or_else(Failure::not_found);
        let (after, things) = match self {
            Self::Now(change) => (changed(change)?, commits_of(call, tx).await?),
            Self::AfterRelease(change) => {
                let after = changed(change)?;
                let graph = Graph::load(call, tx).await?;
                let things = to_come(call, &graph.next(&before, call)?, &graph.next(&after, call)?);
                (after, things)
            }
            Self::WithInput(pipeline, branch) => {
                let graph = Graph::load(call, tx).await?;
                let with = graph.with_input(call, tx, *pipeline, branch).await?;
                let things = to_come(call, &graph.next(&before, call)?, &with.next(&before, call)?);
                (Arc::clone(&before), things)
            }
        };
        Ok(Weighing {
            before,
            after,
            things,
            now,
        })
    }
}

/// Origins of something in a repo, as they are and as they would be, and how many commits have them; `None`: outputs to come.
struct Thing {
    before: Arc<OriginSet>,
    after: Arc<OriginSet>,
    commits: Option<u64>,
}

/// A question with all that its answer follows from.
struct Weighing {
    before: Arc<Policy>,
    after: Arc<Policy>,
    things: Vec<Thing>,
    now: DateTime<Utc>,
}

impl Weighing {
    fn shifts(&self) -> Vec<Shift> {
        let pairs: Vec<Pair<'_>> = self
            .things
            .iter()
            .map(|thing| Pair {
                before: &thing.before,
                after: &thing.after,
            })
            .collect();
        shifts(&self.before, &self.after, &pairs, self.now)
    }
}

/// Whether the caller may be told who reads what is in the repo: as of who can read it, that is for who manages it or the organization.
fn may_be_told(call: &Call, repo: DomainId) -> bool {
    let rights = call.rights();
    let manages = call.role().manages() && rights.subject.scopes.is_empty();
    rights.can(Permission::Discover, repo) && (manages || rights.can(Permission::Admin, repo))
}

/// Whether the caller could give and take grants on it.
fn administers(call: &Call, resource: &Resource) -> bool {
    let rights = call.rights();
    let (policy, who) = (&rights.policy, rights.subject.principal);
    if call.role() == OrganizationRole::Owner && rights.subject.scopes.is_empty() {
        return true;
    }
    match resource {
        Resource::Organization => {
            let org = policy.rights_in_organization(who);
            rights.subject.scopes.is_empty() && org.has(Permission::Admin)
        }
        Resource::Project(project) => {
            provenance::access::can_in_project(policy, &rights.subject, Permission::Admin, project)
        }
        Resource::Domain(id) => rights.can(Permission::Admin, *id),
    }
}

async fn repo(call: &Call, conn: &mut PgConnection, text: &str) -> Answer<Visible> {
    call.repo(conn, &text.parse::<RepoRef>()?).await
}

async fn granted(call: &Call, conn: &mut PgConnection, grant: &NewGrant) -> Answer<Change> {
    let role = grant.role.parse().map_err(|e| Failure::invalid(format!("{e}")))?;
    let resource = match grant.resource.split_once(':') {
        None if grant.resource == "org" => Resource::Organization,
        Some(("project", name)) => Resource::Project(name.parse().map_err(|e| Failure::invalid(format!("{e}")))?),
        _ => Resource::Domain(repo(call, conn, &grant.resource).await?.id),
    };
    if !administers(call, &resource) {
        return Err(Failure::new(
            ProblemKind::NotAllowed,
            format!(
                "only who could give grants on `{}` may ask what they change",
                grant.resource
            ),
        )
        .hint("ask its owners"));
    }
    let team = grant.subject.strip_prefix("team:").map(|name| {
        let teams = &call.rights().policy.snapshot().teams;
        teams
            .iter()
            .find(|t| t.name.as_str() == name)
            .map(|t| Grantee::Team(t.id))
    });
    let grantee = team.unwrap_or_else(|| {
        principal(call, &grant.subject).map(|found| match found {
            Principal::Account(id) => Grantee::Account(id),
            Principal::ServiceAccount(id) => Grantee::ServiceAccount(id),
        })
    });
    Ok(Change::Grant {
        grantee: grantee.ok_or_else(Failure::not_found)?,
        role,
        resource,
    })
}

/// The release of these domains to the pipeline as it is now.
async fn release(call: &Call, conn: &mut PgConnection, pipeline: &Visible, domains: Vec<DomainId>) -> Answer<Change> {
    let digests = digests(conn, &[pipeline.id]).await?;
    let digest = digests.get(&pipeline.id).ok_or_else(|| {
        Failure::invalid(format!(
            "`{pipeline}` is not made by a pipeline, so nothing is released to it"
        ))
    })?;
    let now = call.plane.now();
    Ok(Change::Release(Release {
        id: call.plane.id(),
        domains,
        pipeline: pipeline.id,
        spec_digest: digest.clone(),
        purpose: String::new(),
        approvers: Vec::new(),
        retroactive: false,
        created_at: now,
        expires_at: now + chrono::TimeDelta::days(RELEASE_DAYS),
        revoked_at: None,
    }))
}

/// What a release of each of these pipelines must name now, hex.
async fn digests(conn: &mut PgConnection, ids: &[DomainId]) -> Answer<HashMap<DomainId, String>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let runs = pipelines::queries::runs(conn, &ASK, &ids).await?;
    let mut digests: HashMap<DomainId, String> = runs
        .into_iter()
        .map(|run| (DomainId::from_uuid(run.id), hex::encode(run.spec_digest)))
        .collect();
    // Where the code stands in a repo, that of the newest output says what it was.
    let heads = pipelines::queries::heads(conn, &ASK).await?;
    let outputs: HashMap<CommitId, DomainId> = heads
        .into_iter()
        .filter(|(repo, ..)| ids.contains(repo))
        .map(|(repo, _, commit)| (CommitId::from_uuid(commit), DomainId::from_uuid(repo)))
        .collect();
    let commits: Vec<CommitId> = outputs.keys().copied().collect();
    for (commit, digest) in lineage::queries::list_release_digests(conn, &ASK, &commits).await? {
        digests.insert(outputs[&commit], digest);
    }
    Ok(digests)
}

/// The origins of finished commits.
async fn commits_of(call: &Call, conn: &mut PgConnection) -> Answer<Vec<Thing>> {
    let mut found = Vec::new();
    for (id, count) in crate::readings::queries::count_by_origins(conn, &ASK).await? {
        let set = origins::get(&call.plane, conn, &ASK, id).await?;
        if may_be_told(call, set.home()) {
            found.push(Thing {
                before: Arc::clone(&set),
                after: set,
                commits: Some(u64::try_from(count).unwrap_or(0)),
            });
        }
    }
    Ok(found)
}

/// The pipelines with what their inputs' heads were made from.
#[derive(Clone)]
struct Graph {
    dag: Dag,
    heads: BTreeMap<BranchOf, Arc<OriginSet>>,
    digests: HashMap<DomainId, String>,
}

impl Graph {
    async fn load(call: &Call, tx: &mut crate::plane::Tx) -> Answer<Self> {
        let dag = pipelines::propagate::load_dag(tx).await?;
        let rows = pipelines::queries::heads(tx, &ASK).await?;
        let commits: Vec<Uuid> = rows.iter().map(|(.., commit)| *commit).collect();
        let sets: HashMap<Uuid, i64> = pipelines::queries::origin_sets_of(tx, &ASK, &commits)
            .await?
            .into_iter()
            .collect();
        let mut heads = BTreeMap::new();
        for (repo, branch, commit) in rows {
            if let Some(set) = sets.get(&commit) {
                let branch = BranchOf {
                    repo: DomainId::from_uuid(repo),
                    branch: branch.parse()?,
                };
                heads.insert(branch, origins::get(&call.plane, tx, &ASK, *set).await?);
            }
        }
        let ids: Vec<DomainId> = dag.pipelines.iter().map(|n| n.pipeline).collect();
        let digests = digests(tx, &ids).await?;
        Ok(Self { dag, heads, digests })
    }

    /// As it would be if the pipeline read that branch too.
    async fn with_input(
        &self,
        call: &Call,
        conn: &mut PgConnection,
        pipeline: DomainId,
        branch: &BranchOf,
    ) -> Answer<Self> {
        let mut with = self.clone();
        let node = with.dag.pipelines.iter_mut().find(|n| n.pipeline == pipeline);
        let node =
            node.ok_or_else(|| Failure::invalid("only a pipeline has inputs, and that repo is not made by one"))?;
        node.inputs.push(branch.clone());
        let head = crate::commits::queries::find_head(conn, &ASK, branch.repo, &branch.branch).await?;
        if let Some(head) = head.flatten() {
            let set = origins::get(&call.plane, conn, &ASK, head.origin_set).await?;
            with.heads.insert(branch.clone(), set);
        }
        Ok(with)
    }

    /// The origins of the next output of each pipeline.
    fn next(&self, policy: &Policy, call: &Call) -> Answer<BTreeMap<DomainId, Arc<OriginSet>>> {
        let now = call.plane.now();
        let edge = |pipeline: DomainId| match self.digests.get(&pipeline) {
            Some(digest) => matching_releases(policy, pipeline, digest, now),
            None => Edge::plain(),
        };
        next_origins(&self.dag, &self.heads, &edge)
            .map_err(|_| Failure::invalid("pipelines would feed each other in a cycle"))
    }
}

/// The next outputs of pipelines, as they would be by now and then.
fn to_come(
    call: &Call,
    old: &BTreeMap<DomainId, Arc<OriginSet>>,
    new: &BTreeMap<DomainId, Arc<OriginSet>>,
) -> Vec<Thing> {
    let told = old.iter().filter(|(domain, _)| may_be_told(call, **domain));
    told.filter_map(|(domain, before)| {
        Some(Thing {
            before: Arc::clone(before),
            after: Arc::clone(new.get(domain)?),
            commits: None,
        })
    })
    .collect()
}

/// Names and counts by repo.
fn shown(call: &Call, found: Vec<Shift>, things: &[Thing]) -> Vec<ReadingShift> {
    let policy = &call.rights().policy;
    let repos = |places: &[usize]| {
        let mut counts: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for thing in places.iter().map(|at| &things[*at]) {
            // A domain that the caller may discover has a name.
            let name = policy.name_of(thing.before.home()).unwrap_or_default();
            let sum = counts.entry(name).or_insert(thing.commits.map(|_| 0));
            *sum = sum.zip(thing.commits).map(|(sum, n)| sum + n);
        }
        counts
            .into_iter()
            .map(|(repo, commits)| ShiftedRepo { repo, commits })
            .collect()
    };
    found
        .into_iter()
        .map(|shift| ReadingShift {
            id: shift.principal,
            gains: repos(&shift.gains),
            loses: repos(&shift.loses),
            name: shift.name,
        })
        .collect()
}
