//! Random graphs of pipelines under random changes, against an evaluator that works everything out from scratch after each
//! change: the same outputs, the same failures, and never a datum run that had succeeded before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;

use contract::api::{AppliedPipeline, Commit, Job, JobState};
use contract::ids::CommitSetId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::jobs_random_inputs::{Above, Files, Input, Seen};
use crate::jobs_rig::{Person, Rig};

const REPOS: [&str; 2] = ["r0", "r1"];
const PATHS: [&str; 8] = ["a1", "a2", "b1", "b2", "c", "d/x", "d/y", "e/x"];
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

/// What a datum writes: its list.
fn list(datum: &Seen, code: u32) -> String {
    let files = datum.files();
    let mut lines: Vec<String> = files
        .iter()
        .map(|(path, text)| format!("./{path} {}\n", &digest(text)[..16]))
        .collect();
    // As `sort` orders them: the digests follow the paths.
    lines.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
    format!("{}{code}\n", lines.concat())
}

fn is_bad(datum: &Seen) -> bool {
    datum.files().values().any(|text| text == BAD)
}

/// A pipeline and what it has done.
struct Pipeline {
    name: String,
    input: Input,
    code: u32,
    /// Datums that succeeded before, and with which code.
    done: HashSet<(u32, Seen)>,
    /// Its last job did not succeed.
    errored: bool,
    stopped: bool,
}

impl Pipeline {
    fn spec(&self) -> Value {
        json!({
            "pipeline": { "name": self.name },
            "transform": { "cmd": ["/bin/sh", "-eu", "-c", SCRIPT], "env": { "CODE": self.code.to_string() } },
            "input": self.input.spec(Above::default()),
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
                input: Input::random(&mut rng, &repos, 2, Above::default(), &mut 0),
                name: name.clone(),
                code: 0,
                done: HashSet::new(),
                errored: false,
                stopped: false,
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

    /// A pipeline that runs, or one that is stopped.
    fn pick(&mut self, stopped: bool) -> Option<usize> {
        let all: Vec<usize> = (0..PIPELINES)
            .filter(|at| self.pipelines[*at].stopped == stopped)
            .collect();
        all.choose(&mut self.rng).copied()
    }

    /// Other code, or code of before; other inputs; or the same, and all datums again. The commit set, if there is anything
    /// to do.
    async fn apply(&mut self, at: usize) -> (Option<CommitSetId>, bool) {
        let reprocess = match self.rng.random_range(0..4) {
            0 => true,
            1 => {
                let mut repos: Vec<String> = REPOS.map(str::to_owned).to_vec();
                repos.extend((0..at).map(|n| format!("p{n}")));
                self.pipelines[at].input = Input::random(&mut self.rng, &repos, 2, Above::default(), &mut 0);
                false
            }
            _ => {
                self.pipelines[at].code = (self.pipelines[at].code + self.rng.random_range(1..3)) % 3;
                false
            }
        };
        let body = json!({ "specs": [self.pipelines[at].spec()], "reprocess": reprocess });
        let applied: Value = self.rig.post(&self.ada, "/v1/pipelines", body).await;
        let applied: AppliedPipeline = serde_json::from_value(applied["items"][0].clone()).unwrap();
        (applied.commit_set, reprocess)
    }

    async fn say(&mut self, at: usize, what: &str) {
        let path = format!("/v1/pipelines/default/p{at}/{what}");
        let _: Value = self.rig.post(&self.ada, &path, json!({})).await;
        self.pipelines[at].stopped = what == "stop";
    }

    /// One job for the heads of now.
    async fn start(&mut self, at: usize) -> CommitSetId {
        let name = format!("p{at}");
        let before = self.rig.jobs(&self.ada, &name).await.first().map(|job| job.id);
        self.say(at, "start").await;
        let jobs = self.rig.jobs(&self.ada, &name).await;
        assert_ne!(jobs.first().map(|job| job.id), before, "a job of {name}");
        assert_eq!(jobs.get(1).map(|job| job.id), before, "one job of {name}");
        jobs[0].commit_set
    }

    /// Works out what a change must have led to, and compares it with what is there.
    /// Of `again` all datums run.
    async fn check(&mut self, set: CommitSetId, moved: &[String], again: Option<usize>) {
        let answer = self.rig.settle(&self.ada, set).await;
        let mut reached: BTreeSet<String> = moved.iter().cloned().collect();
        for at in 0..self.pipelines.len() {
            let pipeline = &self.pipelines[at];
            let name = pipeline.name.clone();
            let is_reached = reached.contains(&name) || pipeline.input.repos().iter().any(|r| reached.contains(*r));
            if pipeline.stopped || !is_reached {
                let job = answer.jobs.iter().find(|j| j.pipeline.as_str() == name);
                assert!(job.is_none(), "{name} was not reached: {job:?}");
                continue;
            }
            reached.insert(name.clone());
            let job = answer.jobs.iter().find(|j| j.pipeline.as_str() == name);
            let job = job.unwrap_or_else(|| panic!("no job of {name}: {answer:?}"));
            self.evaluate(at, job, again == Some(at));
            self.compare(&name).await;
        }
    }

    fn evaluate(&mut self, at: usize, job: &Job, again: bool) {
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
        let datums = pipeline.input.datums(&self.heads, Above::default());
        let mut output = Files::new();
        let (mut ran, mut known, mut failed) = (0, 0, 0);
        for datum in &datums {
            if is_bad(datum) {
                failed += 1;
                continue;
            }
            let list = list(datum, pipeline.code);
            if pipeline.done.insert((pipeline.code, datum.key())) || again {
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
        world.evaluate(at, &jobs[&name], false);
        world.compare(&name).await;
    }
    for _ in 0..steps {
        world.step().await;
    }
}

impl World {
    async fn step(&mut self) {
        let repo = *REPOS.choose(&mut self.rng).unwrap();
        let (running, stopped) = (self.pick(false), self.pick(true));
        match (self.rng.random_range(0..14), running, stopped) {
            (0..3, ..) => {
                if let Some(set) = self.remove(repo).await {
                    self.check(set, &[repo.to_owned()], None).await;
                }
            }
            (3, ..) => {
                let set = self.together().await;
                self.check(set, &REPOS.map(str::to_owned), None).await;
            }
            (4..8, Some(at), _) => {
                let (set, reprocess) = self.apply(at).await;
                if let Some(set) = set {
                    self.check(set, &[format!("p{at}")], Some(at).filter(|_| reprocess))
                        .await;
                }
            }
            (8, Some(at), _) => self.say(at, "stop").await,
            (9 | 10, _, Some(at)) => {
                let set = self.start(at).await;
                self.check(set, &[format!("p{at}")], None).await;
            }
            _ => {
                let set = self.put(repo).await;
                self.check(set, &[repo.to_owned()], None).await;
            }
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
