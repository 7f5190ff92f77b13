//! Lineage: what a commit was made from, and what was made from it. An edge leads from a commit to what it was made of; a
//! commit that people made has its own sources and those of the commits before it on its branch, because their content is
//! in it; upstream, these are named too. A pipeline's output has its job's inputs alone. Walks go level by level, two
//! queries each.

mod evidence;
pub mod queries;
pub mod routes;

use std::collections::{HashMap, HashSet};

use contract::api;
use contract::ci::CiIdentity;
use contract::ids::CommitId;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use sqlx::PgConnection;

use crate::call::Call;
use crate::commits::{CommitRow, origins};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::repos;

/// So many of the commits before one on its branch are named.
const EARLIER_MAX: i32 = 1000;
const WALK: System = System::because("the walk sees everything, what is shown of it is filtered");

/// The way to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To what it was made from.
    Up,
    /// To what was made from it.
    Down,
}

/// What a walk found, nearest first; the commit that it began at is not in it.
pub struct Found {
    /// The commits.
    pub commits: Vec<CommitRow>,
    /// The sources of each commit, that of the beginning too.
    pub inputs: HashMap<CommitId, Vec<CommitId>>,
    /// Those that are there only because they come before others on their branches.
    pub earlier: HashSet<CommitId>,
}

/// Of which commits those before them on their branches are named too, where people made them. What these were made from is named
/// in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// Of none.
    OfNone,
    /// Of the sources.
    OfSources,
    /// Of the sources and of the commit that the walk begins at.
    OfAll,
}

/// How far a walk goes.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Which commits are named that others stand on.
    pub earlier: Earlier,
    /// More commits than that are refused.
    pub commits_max: usize,
}

/// Walks everything up- or downstream of a commit.
///
/// # Errors
/// When the database is away.
pub async fn walk(conn: &mut PgConnection, from: CommitId, direction: Direction) -> Answer<Found> {
    let extent = Extent {
        earlier: Earlier::OfSources,
        commits_max: usize::MAX,
    };
    walk_within(conn, from, direction, extent).await
}

/// The same within bounds.
///
/// # Errors
/// `too-large` beyond them; when the database is away.
pub async fn walk_within(
    conn: &mut PgConnection,
    from: CommitId,
    direction: Direction,
    extent: Extent,
) -> Answer<Found> {
    let mut found = Found {
        commits: Vec::new(),
        inputs: HashMap::new(),
        earlier: HashSet::new(),
    };
    let mut seen = HashSet::from([from]);
    let mut level = vec![from];
    while !level.is_empty() {
        let edges = match direction {
            Direction::Up => queries::list_sources(conn, &WALK, &level).await?,
            Direction::Down => queries::list_results(conn, &WALK, &level).await?,
        };
        let mut next = Vec::new();
        for (made, source) in edges {
            let inputs = found.inputs.entry(made).or_default();
            if !inputs.contains(&source) {
                inputs.push(source);
            }
            let reached = if direction == Direction::Up { source } else { made };
            if seen.insert(reached) {
                next.push(reached);
            }
        }
        if direction == Direction::Up && extent.earlier != Earlier::OfNone {
            // Of the sources only: what comes with one of them has been named with all before it.
            let mut heads = next.clone();
            if extent.earlier == Earlier::OfAll && level == [from] {
                heads.push(from);
            }
            for (commit, before) in queries::list_earlier(conn, &WALK, &heads, EARLIER_MAX).await? {
                found.inputs.entry(commit).or_default().push(before);
                if seen.insert(before) {
                    found.earlier.insert(before);
                    next.push(before);
                }
            }
        }
        if found.commits.len() + next.len() > extent.commits_max {
            return Err(too_large(extent.commits_max));
        }
        found.commits.extend(queries::list_commits(conn, &WALK, &next).await?);
        level = next;
    }
    Ok(found)
}

fn too_large(most: usize) -> Failure {
    Failure::new(
        ProblemKind::TooLarge,
        format!("records are told of {most} commits at most, and the commit's lineage has more"),
    )
    .hint("name a commit that was made from less, or, for impact, that less was made from")
}

/// What the caller may see of a walk. Hidden commits are left out; several in a row count as one step.
///
/// # Errors
/// When the database is away.
pub async fn shown(
    conn: &mut PgConnection,
    call: &Call,
    commit: &CommitRow,
    direction: Direction,
    found: &Found,
) -> Answer<api::Lineage> {
    let (from, rights) = (commit.id, call.rights());
    let mut domains: Vec<_> = found.commits.iter().map(|c| c.repo).collect();
    let makers = found.commits.iter().chain([commit]);
    domains.extend(makers.filter_map(|c| c.pipeline.as_ref().map(|p| p.id)));
    let names = repos::queries::names_of(conn, &WALK, &domains).await?;
    let visible: HashSet<CommitId> = found
        .commits
        .iter()
        .filter(|c| rights.can(Permission::Discover, c.repo))
        .map(|c| c.id)
        .chain([from])
        .collect();
    let depths = depths(from, direction, found, &visible);
    let mut upstream: Vec<api::UpstreamCommit> = Vec::new();
    for commit in found.commits.iter().filter(|c| visible.contains(&c.id)) {
        let Some((project, repo)) = names.get(&commit.repo) else {
            continue;
        };
        let stamp = commit.pipeline.as_ref();
        let inputs = found.inputs.get(&commit.id).into_iter().flatten();
        upstream.push(api::UpstreamCommit {
            repo: repo.clone(),
            project: project.clone(),
            commit: commit.id,
            pipeline: stamp.and_then(|s| names.get(&s.id)).map(|(_, name)| name.clone()),
            pipeline_version: stamp.and_then(|s| u32::try_from(s.version).ok()),
            image_digest: stamp.and_then(|s| s.image_digest.clone()),
            code_revision: stamp.and_then(|s| s.code_revision.clone()),
            depth: depths.get(&commit.id).copied().unwrap_or(0),
            earlier: found.earlier.contains(&commit.id),
            removed: commit.is_removed(),
            inputs: inputs.filter(|i| visible.contains(i)).copied().collect(),
            sources: sources(conn, call, commit).await?,
            ci: ci(conn, call, commit).await?,
        });
    }
    upstream.sort_by(|a, b| (a.depth, &a.project, &a.repo, a.commit).cmp(&(b.depth, &b.project, &b.repo, b.commit)));
    let stamp = commit.pipeline.as_ref();
    Ok(api::Lineage {
        commit: from,
        pipeline: stamp.and_then(|s| names.get(&s.id)).map(|(_, name)| name.clone()),
        pipeline_version: stamp.and_then(|s| u32::try_from(s.version).ok()),
        image_digest: stamp.and_then(|s| s.image_digest.clone()),
        code_revision: stamp.and_then(|s| s.code_revision.clone()),
        sources: commit.sources.clone(),
        ci: commit.actor.ci.clone(),
        // That a readable commit has hidden sources follows from a release; that others made something of it follows from nothing that
        // its reader may know (R15).
        restricted: direction == Direction::Up && upstream.len() < found.commits.len(),
        upstream,
    })
}

/// The run of a CI system behind a commit: told to whom the commit's actor is told, its readers.
async fn ci(conn: &mut PgConnection, call: &Call, commit: &CommitRow) -> Answer<Option<Box<CiIdentity>>> {
    if commit.actor.ci.is_none() {
        return Ok(None);
    }
    let set = origins::get(&call.plane, conn, &WALK, commit.origin_set).await?;
    Ok(commit.actor.ci.clone().filter(|_| call.readable(&set, "").is_ok()))
}

/// Where files of a commit were fetched from, which tells of its content: for its readers.
async fn sources(conn: &mut PgConnection, call: &Call, commit: &CommitRow) -> Answer<Vec<api::ImportedSource>> {
    if commit.sources.is_empty() {
        return Ok(Vec::new());
    }
    let set = origins::get(&call.plane, conn, &WALK, commit.origin_set).await?;
    let readable = call.readable(&set, "").is_ok();
    Ok(if readable { commit.sources.clone() } else { Vec::new() })
}

/// How many steps away each commit is, at the least; a step from one hidden commit to another is none.
fn depths(from: CommitId, direction: Direction, found: &Found, visible: &HashSet<CommitId>) -> HashMap<CommitId, u32> {
    let mut neighbours: HashMap<CommitId, Vec<CommitId>> = HashMap::new();
    for (made, sources) in &found.inputs {
        for source in sources {
            let (near, far) = match direction {
                Direction::Up => (*made, *source),
                Direction::Down => (*source, *made),
            };
            neighbours.entry(near).or_default().push(far);
        }
    }
    let mut depths = HashMap::from([(from, 0)]);
    let mut queue = std::collections::VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        let depth = depths[&at];
        for far in neighbours.get(&at).into_iter().flatten() {
            let free = !visible.contains(&at) && !visible.contains(far);
            let reached = depth + u32::from(!free);
            if depths.get(far).is_none_or(|known| *known > reached) {
                depths.insert(*far, reached);
                if free {
                    queue.push_front(*far);
                } else {
                    queue.push_back(*far);
                }
            }
        }
    }
    depths
}
