//! The file system against a `BTreeMap`: random programs over the API, every commit compared with what it should hold,
//! all earlier ones again at the end.

use std::collections::BTreeMap;

use contract::api::{Commit, CommitState, RemovedCommits};
use contract::ids::CommitId;
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::app::{App, Person, Reply, escape};

type Files = BTreeMap<String, Vec<u8>>;

const PATHS: [&str; 9] = ["a", "b", "d", "d/x", "d/y", "d/e/z", "d/e", "\u{fc}", "long name"];
const STEPS: usize = 80;

#[derive(Clone, Default)]
struct Branch {
    files: Files,
    /// What an open commit will hold.
    open: Option<Files>,
    /// Its finished commits that are left, the newest last.
    line: Vec<CommitId>,
}

impl Branch {
    fn target(&mut self) -> &mut Files {
        self.open.as_mut().unwrap_or(&mut self.files)
    }
}

/// A path is a file and a directory at once.
fn conflicts(files: &Files) -> bool {
    files
        .keys()
        .any(|p| files.range(format!("{p}/")..format!("{p}0")).next().is_some())
}

fn delete(files: &mut Files, path: &str) -> bool {
    let before = files.len();
    files.retain(|p, _| p != path && !p.starts_with(&format!("{path}/")));
    files.len() < before
}

struct Run {
    app: App,
    ada: Person,
    rng: StdRng,
    branches: BTreeMap<&'static str, Branch>,
    history: Vec<(CommitId, Files)>,
    repacked: u64,
}

impl Run {
    fn path(&mut self) -> &'static str {
        PATHS[self.rng.random_range(0..PATHS.len())]
    }

    fn branch(&mut self) -> &'static str {
        if self.rng.random_bool(0.7) { "main" } else { "side" }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = match self.rng.random_range(0..10) {
            0 => 0,
            1 => self.rng.random_range(100_000..400_000),
            _ => self.rng.random_range(1..2000),
        };
        let mut bytes = vec![0; size];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    /// What a change that would give `wanted` must answer, and the model after it.
    fn settle(&mut self, name: &'static str, reply: &Reply, wanted: Files) {
        let branch = self.branches.entry(name).or_default();
        if branch.open.is_some() {
            reply.ok();
            *branch.target() = wanted;
            return;
        }
        if conflicts(&wanted) {
            reply.refused(ProblemKind::Conflict);
            return;
        }
        let commit: Commit = reply.json();
        assert_eq!(commit.state, CommitState::Finished);
        assert_eq!(commit.files, wanted.len() as u64);
        branch.files = wanted.clone();
        branch.line.push(commit.id);
        self.history.push((commit.id, wanted));
    }

    async fn put(&mut self, append: bool) {
        let name = self.branch();
        let count = self.rng.random_range(1..4);
        let files: Vec<(&str, Vec<u8>)> = (0..count).map(|_| (self.path(), self.bytes())).collect();
        let mut wanted = self.branches.entry(name).or_default().target().clone();
        for (path, bytes) in &files {
            let file = wanted.entry((*path).to_owned()).or_default();
            if !append {
                file.clear();
            }
            file.extend(bytes);
        }
        // An open commit finds a conflict when it is finished; the model keeps out of that.
        if self.branches[name].open.is_some() && conflicts(&wanted) {
            return;
        }
        let files: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (*p, b.as_slice())).collect();
        let query = format!("repo=r&branch={name}&append={append}");
        let reply = self.app.put_with(&self.ada, &query, &files).await;
        self.settle(name, &reply, wanted);
    }

    async fn delete(&mut self) {
        let (name, path) = (self.branch(), self.path());
        let mut wanted = self.branches.entry(name).or_default().target().clone();
        let was_there = delete(&mut wanted, path);
        let uri = format!("/v1/files?repo=r&branch={name}&path={}", escape(path));
        let reply = self.app.delete(&self.ada, &uri).await;
        if !was_there && self.branches[name].open.is_none() {
            reply.refused(ProblemKind::NotFound);
            return;
        }
        self.settle(name, &reply, wanted);
    }

    async fn clear(&mut self) {
        let name = self.branch();
        self.branches.entry(name).or_default();
        let uri = format!("/v1/files?repo=r&branch={name}&path=/");
        let reply = self.app.delete(&self.ada, &uri).await;
        self.settle(name, &reply, Files::new());
    }

    /// Nothing that is there is ever taken for garbage.
    async fn collect(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            let report = data_plane::garbage::collect(&self.app.plane, std::time::Duration::ZERO, false)
                .await
                .unwrap();
            self.repacked += report.repacked_packs;
        }
    }

    async fn copy(&mut self) {
        if self.history.is_empty() {
            return;
        }
        let (commit, files) = self.history[self.rng.random_range(0..self.history.len())].clone();
        let (name, from, to) = (self.branch(), self.path(), self.path());
        let mut wanted = self.branches.entry(name).or_default().target().clone();
        let below = format!("{from}/");
        let copied: Files = files
            .iter()
            .filter(|(p, _)| **p == from || p.starts_with(&below))
            .map(|(p, b)| (format!("{to}{}", &p[from.len()..]), b.clone()))
            .collect();
        wanted.extend(copied.clone());
        if self.branches[name].open.is_some() && conflicts(&wanted) {
            return;
        }
        let body = json!({"from_ref": format!("r@{commit}"), "from_path": format!("/{from}"), "repo": "r",
            "branch": name, "path": format!("/{to}")});
        let reply = self.app.post(&self.ada, "/v1/copies", body).await;
        if copied.is_empty() {
            reply.refused(ProblemKind::NotFound);
            return;
        }
        self.settle(name, &reply, wanted);
    }

    /// Takes over some of what another repo holds, which then goes away: of its packs little is needed any more.
    async fn inherit(&mut self) {
        let (name, to) = (self.branch(), self.path());
        let mut wanted = self.branches.entry(name).or_default().target().clone();
        let files: Vec<(String, Vec<u8>)> = (0..6).map(|n| (format!("f{n}"), self.large())).collect();
        wanted.insert(to.to_owned(), files[3].1.clone());
        if self.branches[name].open.is_some() && conflicts(&wanted) {
            return;
        }
        self.app.repo(&self.ada, "old").await;
        let files: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (p.as_str(), b.as_slice())).collect();
        self.app.put(&self.ada, "old", &files).await.ok();
        let body =
            json!({"from_ref": "old", "from_path": "/f3", "repo": "r", "branch": name, "path": format!("/{to}")});
        let reply = self.app.post(&self.ada, "/v1/copies", body).await;
        self.settle(name, &reply, wanted);
        let uri = "/v1/projects/default/repos/old?force=true";
        self.app.delete(&self.ada, uri).await.ok();
    }

    fn large(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(20_000..80_000)];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    async fn start_or_finish(&mut self) {
        let name = self.branch();
        let branch = self.branches.entry(name).or_default();
        match branch.open.take() {
            None => {
                branch.open = Some(branch.files.clone());
                let body = json!({"repo": "r", "branch": name});
                self.app.post(&self.ada, "/v1/commits", body).await.ok();
            }
            Some(wanted) => {
                let uri = format!("/v1/commits/finish?ref=r@{name}");
                let reply = self.app.call(&self.ada, "POST", &uri, "".into()).await;
                self.settle(name, &reply, wanted);
            }
        }
    }

    async fn remove(&self, way: &str, commit: CommitId) -> Reply {
        let body = json!({"ref": format!("r@{commit}"), "force": true});
        self.app.post(&self.ada, &format!("/v1/commits/{way}"), body).await
    }

    /// Some commit that is left: its branch and its place there.
    fn some(&mut self) -> Option<(&'static str, usize, CommitId)> {
        let name = self.branch();
        let length = self.branches.entry(name).or_default().line.len();
        let at = (length > 0).then(|| self.rng.random_range(0..length))?;
        Some((name, at, self.branches[name].line[at]))
    }

    async fn squash(&mut self) {
        let Some((name, at, commit)) = self.some() else { return };
        let reply = self.remove("squash", commit).await;
        let branch = self.branches.get_mut(name).unwrap();
        if at + 1 == branch.line.len() {
            reply.refused(ProblemKind::Conflict);
            return;
        }
        reply.ok();
        branch.line.remove(at);
        self.history.retain(|(c, _)| *c != commit);
    }

    async fn drop_some(&mut self) {
        let Some((name, at, commit)) = self.some() else { return };
        let done: RemovedCommits = self.remove("drop", commit).await.json();
        let gone = &done.repos[0].commits;
        let behind = &self.branches[name].line[at..];
        assert!(behind.iter().all(|c| gone.contains(c)), "{behind:?} {done:?}");
        self.history.retain(|(c, _)| !gone.contains(c));
        for branch in self.branches.values_mut() {
            branch.line.retain(|c| !gone.contains(c));
        }
        for moved in &done.repos[0].branches {
            let branch = self.branches.get_mut(moved.branch.as_str()).unwrap();
            assert_eq!(moved.head, branch.line.last().copied());
            branch.open = None;
            let files = self.history.iter().find(|(c, _)| Some(*c) == moved.head);
            branch.files = files.map(|(_, files)| files.clone()).unwrap_or_default();
        }
    }

    async fn check(&self, reference: &str, files: &Files) {
        let mut expected: Vec<String> = files.keys().map(|p| format!("/{p}")).collect();
        expected.sort();
        let query = format!("ref={}&recursive=true&limit=3", escape(reference));
        assert_eq!(self.app.ls(&self.ada, &query).await, expected, "{reference}");
        for (path, bytes) in files {
            let found = self.app.cat(&self.ada, reference, path).await.body;
            assert!(
                found == *bytes,
                "{reference} {path}: {} bytes, not {}",
                found.len(),
                bytes.len()
            );
        }
    }
}

#[tokio::test]
async fn random_programs_give_what_a_map_gives() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random::<u32>);
    println!("again with: SEED={seed}");
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let mut run = Run {
        app,
        ada,
        rng: StdRng::seed_from_u64(seed.into()),
        branches: BTreeMap::new(),
        history: Vec::new(),
        repacked: 0,
    };
    for _ in 0..STEPS {
        match run.rng.random_range(0..19) {
            0..=3 => run.put(false).await,
            4 | 10 => run.put(true).await,
            5 | 6 => run.delete().await,
            7 => run.copy().await,
            11 => run.clear().await,
            12 | 13 => run.collect().await,
            14 => run.inherit().await,
            15 => run.squash().await,
            16 => run.drop_some().await,
            _ => run.start_or_finish().await,
        }
        if let Some((commit, files)) = run.history.last() {
            run.check(&format!("r@{commit}"), files).await;
        }
    }
    run.inherit().await;
    for _ in 0..3 {
        run.collect().await;
    }
    assert!(run.repacked > 0, "of `old` one file of six is needed at the most");
    for (commit, files) in &run.history {
        run.check(&format!("r@{commit}"), files).await;
    }
    for (name, branch) in &run.branches {
        for (n, commit) in branch.line.iter().rev().enumerate() {
            let uri = format!("/v1/commits?ref={}", escape(&format!("r@{name}^{n}")));
            let found: Commit = run.app.get(&run.ada, &uri).await.json();
            assert_eq!(found.id, *commit, "{name}^{n}");
        }
    }
    let owner = run.app.member_as("owner", OrganizationRole::Owner).await;
    let checked = run.app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(checked.lines().count() == 1, "{checked}");
}
