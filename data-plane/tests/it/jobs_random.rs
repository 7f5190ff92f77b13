//! Random graphs of pipelines under random changes, against an evaluator that works everything out from scratch after each
//! change: the same outputs, the same failures, and never a datum run that had succeeded before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

use contract::api::{Commit, Job, JobState};
use contract::ids::CommitSetId;
use provenance::glob::Glob;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::jobs_rig::{Person, Rig};

/// Files by path, without a leading `/`.
type Files = BTreeMap<String, String>;

const REPOS: [&str; 2] = ["r0", "r1"];
const PATHS: [&str; 8] = ["a1", "a2", "b1", "b2", "c", "d/x", "d/y", "e/x"];
const GLOBS: [&str; 5] = ["/*", "/", "/*/*", "/(?)*", "/[a-d]*"];
const PIPELINES: usize = 5;
const STEPS: usize = 14;
const BAD: &str = "bad\n";

/// What each datum does: it lists what it sees, with digests, and writes the list to a path made of the list's digest. It
/// fails when it sees a bad file.
const SCRIPT: &str = r#"cd /pfs
find . -path ./out -prune -o -type f -print | LC_ALL=C sort > /tmp/names
while read -r f; do
    read -r first < "$f"
    [ "$first" != bad ] || exit 3
    echo "$f $(sha256sum < "$f" | cut -c1-16)"
done < /tmp/names > /tmp/list
echo "$CODE" >> /tmp/list
name=$(sha256sum < /tmp/list)
mkdir -p /pfs/out/"$(echo "$name" | cut -c1)"
cp /tmp/list /pfs/out/"$(echo "$name" | cut -c1)"/"$(echo "$name" | cut -c2-10)"
"#;

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// An input as the evaluator sees it.
#[derive(Debug, Clone)]
enum Input {
    Leaf { repo: String, name: String, glob: String },
    Cross(Vec<Input>),
    Union(Vec<Input>),
    Group(Vec<Input>),
}

/// What a datum sees: files by their path below `/pfs`. With each of them the key that its glob captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    files: Files,
    keys: BTreeSet<String>,
}

impl Input {
    /// Made so that no two datums of a pipeline can see the same.
    fn random(rng: &mut StdRng, repos: &[String], depth: usize, grouped: bool, next: &mut usize) -> Self {
        let kind = if depth == 0 { 0 } else { rng.random_range(0..6) };
        let parts = |rng: &mut StdRng, next: &mut usize, grouped| {
            (0..2)
                .map(|_| Self::random(rng, repos, depth - 1, grouped, next))
                .collect()
        };
        match kind {
            3 => Self::Cross(parts(rng, next, grouped)),
            4 => Self::Union(parts(rng, next, grouped)),
            5 if !grouped => Self::Group(parts(rng, next, true)),
            _ => {
                *next += 1;
                Self::Leaf {
                    repo: repos.choose(rng).unwrap().clone(),
                    name: format!("n{next}"),
                    glob: (if grouped { "/(?)*" } else { GLOBS.choose(rng).unwrap() }).to_owned(),
                }
            }
        }
    }

    fn spec(&self, grouped: bool) -> Value {
        let all = |parts: &[Self], grouped| parts.iter().map(|p| p.spec(grouped)).collect::<Vec<_>>();
        match self {
            Self::Leaf { repo, name, glob } => {
                let mut leaf = json!({ "repo": repo, "name": name, "glob": glob });
                if grouped {
                    leaf["group_by"] = json!("$1");
                }
                json!({ "pfs": leaf })
            }
            Self::Cross(parts) => json!({ "cross": all(parts, grouped) }),
            Self::Union(parts) => json!({ "union": all(parts, grouped) }),
            Self::Group(parts) => json!({ "group": all(parts, true) }),
        }
    }

    fn repos(&self) -> BTreeSet<&str> {
        match self {
            Self::Leaf { repo, .. } => BTreeSet::from([repo.as_str()]),
            Self::Cross(parts) | Self::Union(parts) | Self::Group(parts) => {
                parts.iter().flat_map(Self::repos).collect()
            }
        }
    }

    /// All datums, by the definitions alone.
    fn datums(&self, heads: &BTreeMap<String, Files>) -> Vec<Seen> {
        let empty = Files::new();
        match self {
            Self::Leaf { repo, name, glob } => leaf(heads.get(repo).unwrap_or(&empty), name, glob),
            Self::Union(parts) => parts.iter().flat_map(|p| p.datums(heads)).collect(),
            Self::Cross(parts) => parts.iter().fold(vec![Seen::default()], |made, part| {
                let others = part.datums(heads);
                made.iter()
                    .flat_map(|a| others.iter().map(|b| a.clone().with(b)))
                    .collect()
            }),
            Self::Group(parts) => {
                let mut groups: BTreeMap<BTreeSet<String>, Seen> = BTreeMap::new();
                for datum in parts.iter().flat_map(|p| p.datums(heads)) {
                    let group = groups.entry(datum.keys.clone()).or_default();
                    *group = group.clone().with(&datum);
                }
                groups.into_values().collect()
            }
        }
    }
}

impl Seen {
    fn with(mut self, other: &Self) -> Self {
        self.files.extend(other.files.clone());
        self.keys.extend(other.keys.clone());
        self
    }

    /// What it writes: its list.
    fn list(&self, code: u32) -> String {
        let lines = self
            .files
            .iter()
            .map(|(path, text)| format!("./{path} {}\n", &digest(text)[..16]));
        // As `sort` orders them: the digests follow the paths.
        let mut lines: Vec<String> = lines.collect();
        lines.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
        format!("{}{code}\n", lines.concat())
    }

    fn is_bad(&self) -> bool {
        self.files.values().any(|text| text == BAD)
    }
}

fn leaf(files: &Files, name: &str, glob: &str) -> Vec<Seen> {
    let glob: Glob = glob.parse().unwrap();
    let mut places: BTreeSet<(String, bool)> = files.keys().map(|path| (format!("/{path}"), false)).collect();
    for path in files.keys() {
        places.insert(("/".to_owned(), true));
        places.extend(
            path.match_indices('/')
                .map(|(at, _)| (format!("/{}", &path[..at]), true)),
        );
    }
    let found = places.into_iter().filter_map(|(place, is_dir)| {
        let captures = glob.matches(&place, is_dir)?;
        let below = format!("{}/", place.trim_end_matches('/'));
        let seen = files.iter().filter(|(path, _)| {
            let path = format!("/{path}");
            path == place || is_dir && path.starts_with(&below)
        });
        Some(Seen {
            files: seen
                .map(|(path, text)| (format!("{name}/{path}"), text.clone()))
                .collect(),
            keys: captures.get(1).map(str::to_owned).into_iter().collect(),
        })
    });
    found.collect()
}

/// A pipeline and what it has done.
struct Pipeline {
    name: String,
    input: Input,
    code: u32,
    /// Lists of datums that succeeded before.
    done: HashSet<String>,
    /// Its last job did not succeed.
    errored: bool,
}

impl Pipeline {
    fn spec(&self) -> Value {
        json!({
            "pipeline": { "name": self.name },
            "transform": { "cmd": ["/bin/sh", "-eu", "-c", SCRIPT], "env": { "CODE": self.code.to_string() } },
            "input": self.input.spec(false),
            "datum_tries": 1,
        })
    }
}

struct World {
    rig: Rig,
    ada: Person,
    rng: StdRng,
    /// The newest finished content of every repo.
    heads: BTreeMap<String, Files>,
    pipelines: Vec<Pipeline>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let rig = Rig::start().await;
        let ada = rig.member("ada").await;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut repos: Vec<String> = REPOS.map(str::to_owned).to_vec();
        for repo in REPOS {
            rig.repo(&ada, repo).await;
        }
        let mut pipelines = Vec::new();
        for n in 0..PIPELINES {
            let name = format!("p{n}");
            pipelines.push(Pipeline {
                input: Input::random(&mut rng, &repos, 2, false, &mut 0),
                name: name.clone(),
                code: 0,
                done: HashSet::new(),
                errored: false,
            });
            repos.push(name);
        }
        let mut world = Self {
            rig,
            ada,
            rng,
            heads: BTreeMap::new(),
            pipelines,
        };
        for repo in REPOS {
            world.put(repo).await;
        }
        world
    }

    fn random_files(&mut self) -> Vec<(&'static str, String)> {
        let count = self.rng.random_range(1..4);
        let mut files = BTreeMap::new();
        for _ in 0..count {
            let text = match self.rng.random_range(0..12) {
                0 => BAD.to_owned(),
                n => format!("{}\n", n % 4),
            };
            files.insert(*PATHS.choose(&mut self.rng).unwrap(), text);
        }
        files.into_iter().collect()
    }

    /// One commit with some files; the pipelines that it reaches.
    async fn put(&mut self, repo: &str) -> CommitSetId {
        let files = self.random_files();
        let sent: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let commit = self.rig.put(&self.ada, repo, &sent).await;
        let head = self.heads.entry(repo.to_owned()).or_default();
        head.extend(files.into_iter().map(|(path, text)| (path.to_owned(), text)));
        commit.commit_set
    }

    async fn remove(&mut self, repo: &str) -> Option<CommitSetId> {
        let head = self.heads.get_mut(repo)?;
        let path = head
            .keys()
            .collect::<Vec<_>>()
            .choose(&mut self.rng)
            .map(|p| (*p).clone())?;
        head.remove(&path);
        Some(self.rig.remove(&self.ada, repo, &format!("/{path}")).await.commit_set)
    }

    /// Both repos in one transaction.
    async fn together(&mut self) -> CommitSetId {
        let mut refs = Vec::new();
        for repo in REPOS {
            let body = json!({ "repo": format!("default/{repo}"), "branch": "main" });
            let open: Commit = self.rig.post(&self.ada, "/v1/commits", body).await;
            refs.push(format!("{repo}@{}", open.id));
            self.put(repo).await;
        }
        let answer: Value = self
            .rig
            .post(&self.ada, "/v1/commits/finish-together", json!({ "refs": refs }))
            .await;
        let commits: Vec<Commit> = serde_json::from_value(answer["items"].clone()).unwrap();
        assert_eq!(commits[0].commit_set, commits[1].commit_set);
        commits[0].commit_set
    }

    /// Other code, or code of before.
    async fn recode(&mut self) -> (CommitSetId, String) {
        let at = self.rng.random_range(0..self.pipelines.len());
        let code = (self.pipelines[at].code + self.rng.random_range(1..3)) % 3;
        self.pipelines[at].code = code;
        let spec = self.pipelines[at].spec();
        let applied = self.rig.apply(&self.ada, vec![spec]).await;
        (applied[0].commit_set.unwrap(), self.pipelines[at].name.clone())
    }

    /// Works out what a change must have led to, and compares it with what is there.
    async fn check(&mut self, set: CommitSetId, moved: &[&str]) {
        let answer = self.rig.settle(&self.ada, set).await;
        let mut reached: BTreeSet<String> = moved.iter().map(|m| (*m).to_owned()).collect();
        for at in 0..self.pipelines.len() {
            let pipeline = &self.pipelines[at];
            let name = pipeline.name.clone();
            if !reached.contains(&name) && !pipeline.input.repos().iter().any(|r| reached.contains(*r)) {
                let job = answer.jobs.iter().find(|j| j.pipeline.as_str() == name);
                assert!(job.is_none(), "{name} was not reached: {job:?}");
                continue;
            }
            reached.insert(name.clone());
            let job = answer.jobs.iter().find(|j| j.pipeline.as_str() == name);
            let job = job.unwrap_or_else(|| panic!("no job of {name}: {answer:?}"));
            self.evaluate(at, job);
            self.compare(&name).await;
        }
    }

    fn evaluate(&mut self, at: usize, job: &Job) {
        let upstream: Vec<&str> = self.pipelines[at].input.repos().into_iter().collect();
        let broken = self
            .pipelines
            .iter()
            .any(|p| p.errored && upstream.contains(&p.name.as_str()));
        if broken {
            assert_eq!(job.state, JobState::Unrunnable, "{job:?}");
            self.pipelines[at].errored = true;
            return;
        }
        let pipeline = &mut self.pipelines[at];
        let datums = pipeline.input.datums(&self.heads);
        let mut output = Files::new();
        let (mut ran, mut known, mut failed) = (0, 0, 0);
        for datum in &datums {
            let list = datum.list(pipeline.code);
            if datum.is_bad() {
                failed += 1;
                continue;
            }
            if pipeline.done.insert(list.clone()) {
                ran += 1;
            } else {
                known += 1;
            }
            let name = digest(&list);
            output.insert(format!("{}/{}", &name[..1], &name[1..10]), list);
        }
        let found = (
            job.datums.total,
            job.datums.succeeded,
            job.datums.skipped,
            job.datums.failed,
        );
        let wanted = (datums.len() as u64, ran, known, failed);
        assert_eq!(found, wanted, "total, ran, known, failed of {}: {job:?}", pipeline.name);
        pipeline.errored = failed > 0;
        let state = if failed > 0 {
            JobState::Failure
        } else {
            JobState::Success
        };
        assert_eq!(job.state, state, "{job:?}");
        if failed == 0 {
            self.heads.insert(pipeline.name.clone(), output);
        }
    }

    /// The newest finished output is the one that the evaluator has.
    async fn compare(&self, name: &str) {
        let Some(wanted) = self.heads.get(name) else { return };
        let path = format!("/v1/archive?ref={name}@main&path=/&format=tar");
        let answer = self.rig.open(&self.ada, &path).await;
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let bytes = answer.bytes().await.unwrap();
        let mut found = Files::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.header().entry_type().is_file() {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                found.insert(entry.path().unwrap().to_str().unwrap().to_owned(), text);
            }
        }
        assert_eq!(&found, wanted, "output of {name}");
    }
}

async fn run(seed: u64, steps: usize) {
    let mut world = World::new(seed).await;
    let specs = world.pipelines.iter().map(Pipeline::spec).collect();
    let applied = world.rig.apply(&world.ada, specs).await;
    let mut jobs = BTreeMap::new();
    for set in applied.iter().filter_map(|a| a.commit_set).collect::<BTreeSet<_>>() {
        for job in world.rig.settle(&world.ada, set).await.jobs {
            jobs.insert(job.pipeline.to_string(), job);
        }
    }
    for at in 0..PIPELINES {
        let name = format!("p{at}");
        world.evaluate(at, &jobs[&name]);
        world.compare(&name).await;
    }
    for _ in 0..steps {
        let repo = *REPOS.choose(&mut world.rng).unwrap();
        let (set, moved) = match world.rng.random_range(0..10) {
            0..5 => (Some(world.put(repo).await), vec![repo.to_owned()]),
            5..7 => (world.remove(repo).await, vec![repo.to_owned()]),
            7 => (Some(world.together().await), REPOS.map(str::to_owned).to_vec()),
            _ => {
                let (set, name) = world.recode().await;
                (Some(set), vec![name])
            }
        };
        if let Some(set) = set {
            let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
            world.check(set, &moved).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_graphs_of_pipelines_give_what_working_everything_out_again_gives() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = number("SEED").unwrap_or_else(|| rand::rng().random());
    let steps = number("STEPS").map_or(STEPS, |n| usize::try_from(n).unwrap());
    println!("replay: SEED={seed} STEPS={steps} cargo test --workspace --locked --test it random_graphs");
    run(seed, steps).await;
}
