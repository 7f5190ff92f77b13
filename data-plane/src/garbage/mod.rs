//! Collection of garbage: packs that no commit, open commit or datum result needs any more are removed, online.
//!
//! A pack goes only when it was found unneeded twice, at least [`GRACE`] apart, and is itself older than that. Whatever
//! could still come to refer to it was begun while it was needed, and nothing that stores references runs that long
//! ([`crate::files::stored::LONGEST`]). So no writer is asked, slowed or locked out, and dying at any point loses nothing: what
//! is removed is unneeded, and a note about a pack that is gone already is dropped by the next run.
//!
//! At the end sparse packs, and those that hold what was purged, are repacked ([`repacking`]): what is needed of them is copied, and the next run finds them unneeded.

pub mod queries;
mod repacking;
pub mod routes;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::api::CollectionReport;
use contract::problem::ProblemKind;
use futures::TryStreamExt;
use sqlx::PgConnection;
use storage::{Digest, Marking, PackInfo, TreeRef, decode_entries};

use crate::audit;
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::samples;
use crate::permissions::System;
use crate::plane::Plane;
use crate::scheduler::{appending, derived, keys};
use crate::uploads;

const COLLECT: System = System::because("the plane looks for what nothing refers to");
/// How long a pack must have been unneeded before it is removed.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// A plane collects by itself when the last time is that long ago.
const EVERY: chrono::Duration = chrono::Duration::hours(24);
/// After the start: a plane that is woken for a moment collects too.
const PAUSE_FIRST: Duration = Duration::from_secs(30);
/// Between two looks whether it is time.
const PAUSE: Duration = Duration::from_secs(600);
/// Packs of which less than half is needed are looked at for repacking.
const SPARSE: u64 = 2;

/// Collects once a day, until shutdown.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    let mut pause = PAUSE_FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.begun() => return,
        }
        pause = PAUSE;
        let collected = tokio::select! {
            collected = collect_when_due(&plane) => collected,
            () = shutdown.begun() => return,
        };
        match collected {
            Ok(None) => {}
            Ok(Some(report)) => tracing::info!(
                freed.bytes = report.freed_bytes,
                copied.bytes = report.copied_bytes,
                "collected garbage: {} packs removed, {} bytes; {} repacked",
                report.freed_packs,
                report.freed_bytes,
                report.repacked_packs
            ),
            Err(error) => tracing::warn!("garbage was not collected: {error}"),
        }
    }
}

async fn collect_when_due(plane: &Plane) -> Answer<Option<CollectionReport>> {
    uploads::forget_abandoned(plane).await?;
    let last = {
        let mut conn = plane.pool.acquire().await?;
        queries::last_collection(&mut conn, &COLLECT).await?
    };
    if last.is_some_and(|at| plane.now() - at < EVERY) {
        return Ok(None);
    }
    collect(plane, GRACE, false).await.map(Some)
}

/// Finds what is not needed any more and removes what has not been for longer than `grace`; `dry_run` changes nothing.
///
/// # Errors
/// `conflict` when a collection is running; `corrupt` when something that is needed cannot be read: what lies behind it
/// is unknown then, and nothing is removed.
pub async fn collect(plane: &Plane, grace: Duration, dry_run: bool) -> Answer<CollectionReport> {
    collect_for(plane, None, grace, dry_run).await
}

/// The same where somebody asks for it.
///
/// # Errors
/// As [`collect`].
pub async fn collect_for(plane: &Plane, by: Option<&Call>, grace: Duration, dry_run: bool) -> Answer<CollectionReport> {
    let Ok(_turn) = plane.collecting.try_lock() else {
        return Err(
            Failure::new(ProblemKind::Conflict, "garbage is being collected already").hint("wait until that is done"),
        );
    };
    // A plane that collects is not idle: stopped in the middle it would begin from the beginning each time.
    let _busy = plane.activity.begin(&plane.environment);
    if !dry_run {
        let mut tx = plane.begin().await?;
        lock_dag(&mut tx).await?;
        queries::forget_deleted(&mut tx, &COLLECT).await?;
        keys::queries::forget_unusable(&mut tx, &COLLECT).await?;
        appending::queries::forget_unusable(&mut tx, &COLLECT).await?;
        samples::forget_deleted(&mut tx, &COLLECT).await?;
        tx.commit().await?;
        derived::clear(plane).await?;
        uploads::forget_abandoned(plane).await?;
    }
    // What is written from here on is younger than every pack that is removed below.
    let now = plane.storage.store_time().await?;
    if !dry_run {
        let abandoned = uploads::KEPT_FOR.to_std().unwrap_or(GRACE);
        let removed = plane.storage.remove_incoming_before(now - abandoned).await?;
        if removed > 0 {
            tracing::info!("removed {removed} bytes that clients had put into the bucket and nobody took over");
        }
    }
    // What was unneeded for long enough must be found so again by a marking that began after that long.
    let began = plane.now();
    let marking = mark(plane).await?;
    let (condemned, purged, commits_bytes) = {
        let mut conn = plane.pool.acquire().await?;
        let condemned = queries::list_condemned(&mut conn, &COLLECT).await?;
        let purged = queries::list_purged(&mut conn, &COLLECT).await?;
        (condemned, purged, queries::sum_commits(&mut conn, &COLLECT).await?)
    };
    let mut sweep = Sweep {
        plane,
        marking: &marking,
        grace,
        dry_run,
        now,
        began,
        condemned,
        purged,
        present: HashSet::new(),
        sparse: Vec::new(),
        report: CollectionReport {
            dry_run,
            grace_seconds: grace.as_secs(),
            needed_bytes: marking.bytes(),
            commits_bytes,
            ..CollectionReport::default()
        },
    };
    let mut packs = plane.storage.packs();
    while let Some(pack) = packs.try_next().await? {
        sweep.pack(pack).await?;
    }
    let report = sweep.finish().await?;
    if !dry_run {
        note(plane, by, &report).await?;
    }
    Ok(report)
}

/// Writes down what a collection did.
async fn note(plane: &Plane, by: Option<&Call>, report: &CollectionReport) -> Answer<()> {
    let mut tx = plane.begin().await?;
    queries::insert_collection(&mut tx, &COLLECT, plane.now(), report).await?;
    let subject = format!("{} bytes freed", report.freed_bytes);
    match by {
        Some(call) => call.record(&mut tx, "garbage.collect", &subject).await?,
        None => audit::record_own(plane, &mut tx, "garbage.collect", &subject).await?,
    }
    tx.commit().await?;
    Ok(())
}

/// Marks everything that any row refers to, as of one moment.
async fn mark(plane: &Plane) -> Answer<Marking> {
    let mut marking = plane.storage.marking().await?;
    let mut tx = plane.begin().await?;
    queries::freeze(&mut tx, &COLLECT).await?;
    mark_commits(&mut tx, &mut marking).await?;
    mark_filesets(&mut tx, &mut marking).await?;
    mark_results(&mut tx, &mut marking).await?;
    mark_uploads(&mut tx, &mut marking).await?;
    tx.rollback().await?;
    Ok(marking)
}

async fn mark_commits(conn: &mut PgConnection, marking: &mut Marking) -> Answer<()> {
    let mut after = 0;
    loop {
        let page = queries::list_roots(conn, &COLLECT, after).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (_, root) in &page {
            marking.tree(&TreeRef::from_bytes(root)?).await?;
        }
    }
}

async fn mark_filesets(conn: &mut PgConnection, marking: &mut Marking) -> Answer<()> {
    let mut after = None;
    loop {
        let page = queries::list_filesets(conn, &COLLECT, after).await?;
        let Some((commit, seq, _)) = page.last() else {
            return Ok(());
        };
        after = Some((*commit, *seq));
        for (.., changes) in &page {
            mark_changes(changes, marking).await?;
        }
    }
}

async fn mark_changes(changes: &[u8], marking: &mut Marking) -> Answer<()> {
    for change in change::decode(changes)? {
        match &change {
            FileChange::Put(_, entry) | FileChange::Append(_, entry) => marking.file(entry).await?,
            FileChange::Tree(tree) => marking.tree(tree).await?,
            FileChange::Delete(_) | FileChange::Clear => {}
        }
    }
    Ok(())
}

async fn mark_uploads(conn: &mut PgConnection, marking: &mut Marking) -> Answer<()> {
    let mut after = None;
    loop {
        let page = uploads::queries::list_changes(conn, &COLLECT, after.as_ref()).await?;
        let Some((upload, key, whole, from, _)) = page.last() else {
            return Ok(());
        };
        after = Some((*upload, key.clone(), *whole, *from));
        for (.., changes) in &page {
            mark_changes(changes, marking).await?;
        }
    }
}

async fn mark_results(conn: &mut PgConnection, marking: &mut Marking) -> Answer<()> {
    let mut after = None;
    loop {
        let page = queries::list_results(conn, &COLLECT, after.as_ref()).await?;
        let Some((pipeline, key, _)) = page.last() else {
            return Ok(());
        };
        after = Some((*pipeline, key.clone()));
        for (.., outputs) in &page {
            for (_, entry) in decode_entries(outputs)? {
                marking.file(&entry).await?;
            }
        }
    }
}

struct Sweep<'a> {
    plane: &'a Plane,
    marking: &'a Marking,
    grace: Duration,
    dry_run: bool,
    /// By the store's clock.
    now: SystemTime,
    /// By the plane's clock, before anything was marked.
    began: DateTime<Utc>,
    /// Notes of earlier runs that were not met yet.
    condemned: HashMap<Digest, DateTime<Utc>>,
    /// Packs that hold what was purged: they go however much of them is needed.
    purged: HashSet<Digest>,
    /// Packs that stay for now.
    present: HashSet<Digest>,
    /// Packs that are old enough and look sparse, or hold what was purged.
    sparse: Vec<PackInfo>,
    report: CollectionReport,
}

impl Sweep<'_> {
    async fn pack(&mut self, pack: PackInfo) -> Answer<()> {
        self.report.packs += 1;
        self.report.size_bytes += pack.size_bytes;
        let condemned_at = self.condemned.remove(&pack.id);
        let needed = self.marking.bytes_of(pack.id);
        let age = self.now.duration_since(pack.modified_at).unwrap_or_default();
        self.present.insert(pack.id);
        if needed > 0 {
            if self.purged.contains(&pack.id) && age >= self.grace {
                self.sparse.push(pack);
            } else if needed < pack.size_bytes / SPARSE {
                if age < self.grace {
                    self.count_sparse(&pack);
                } else {
                    self.sparse.push(pack);
                }
            }
            return match condemned_at {
                Some(_) => self.absolve(pack.id).await,
                None => Ok(()),
            };
        }
        if age < self.grace {
            self.report.young_packs += 1;
            self.report.young_bytes += pack.size_bytes;
            return Ok(());
        }
        let waited = condemned_at.and_then(|at| (self.began - at).to_std().ok());
        if waited.is_some_and(|waited| waited >= self.grace) {
            self.report.freed_packs += 1;
            self.report.freed_bytes += pack.size_bytes;
            if !self.dry_run {
                self.no_sample_leads_to(&[pack.id]).await?;
                self.plane.storage.remove_pack(pack.id).await?;
                self.present.remove(&pack.id);
                self.absolve(pack.id).await?;
            }
            return Ok(());
        }
        self.report.condemned_packs += 1;
        self.report.condemned_bytes += pack.size_bytes;
        if condemned_at.is_none() && !self.dry_run {
            let mut tx = self.plane.begin().await?;
            queries::insert_condemned(&mut tx, &COLLECT, pack.id, self.plane.now()).await?;
            samples::forget(&mut tx, &COLLECT, &[pack.id.as_bytes().to_vec()]).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// From now on no put is led to these packs.
    async fn no_sample_leads_to(&self, packs: &[Digest]) -> Answer<()> {
        let packs: Vec<_> = packs.iter().map(|pack| pack.as_bytes().to_vec()).collect();
        let mut conn = self.plane.pool.acquire().await?;
        samples::forget(&mut conn, &COLLECT, &packs).await
    }

    /// A pack is needed, or gone: it is not condemned any more.
    async fn absolve(&self, pack: Digest) -> Answer<()> {
        if self.dry_run {
            return Ok(());
        }
        let mut conn = self.plane.pool.acquire().await?;
        queries::delete_condemned(&mut conn, &COLLECT, pack).await
    }

    /// Drops notes about packs that are gone: a run may have died between removing one and saying so.
    async fn finish(mut self) -> Answer<CollectionReport> {
        for pack in self.condemned.keys() {
            self.absolve(*pack).await?;
        }
        if let Err(failure) = self.drop_forwards().await {
            // Garbage was removed, and what leads nowhere does no harm: the next run looks at all of it again.
            tracing::warn!(error = %failure, "old forwards were not removed: {failure}");
            self.report.forwards_failed = Some(failure.detail().to_owned());
        }
        self.repack().await;
        Ok(self.report)
    }
}
