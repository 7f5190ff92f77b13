//! Reading the input of a spec.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use chrono::{DateTime, Datelike, Utc};
use contract::names::{BranchName, ProjectName, RepoName};
use serde_json::Value;

use super::fields::{Errors, Fields, join, kind};
use super::read::no_gateway;
use super::{CodeInput, CronInput, InputSpec, PfsInput, TriggerInput, quantity};
use crate::glob::{Glob, highest_group};
use crate::ticks::{Ticks, written_out};

const MAX_NESTING: usize = 16;
const MAX_LEAVES: usize = 256;
/// Years in which a cron input may begin.
const STARTS: std::ops::RangeInclusive<i32> = 1970..=9999;

/// Reads the whole input and checks what concerns several leaves. `pipeline` is the pipeline's name, if it has a proper one.
pub(super) fn read(
    value: &Value,
    pointer: &str,
    project: &ProjectName,
    pipeline: Option<&RepoName>,
    errors: &mut Errors,
) -> Option<InputSpec> {
    let mut reader = Reader {
        project,
        pipeline,
        leaves: 0,
        errors,
    };
    let spec = reader.node(value, pointer, 0, Under::default())?;
    if reader.leaves > MAX_LEAVES {
        errors.add(pointer, format!("has more than {MAX_LEAVES} inputs"));
        return None;
    }
    unique_names(&spec, pointer, errors);
    unique_triggers(&spec, pointer, errors);
    Some(spec)
}

/// What an input stands under, at any depth.
#[derive(Clone, Copy, Default)]
struct Under {
    group: bool,
    join: bool,
}

struct Reader<'a> {
    project: &'a ProjectName,
    pipeline: Option<&'a RepoName>,
    leaves: usize,
    errors: &'a mut Errors,
}

impl Reader<'_> {
    fn node(&mut self, value: &Value, pointer: &str, nesting: usize, under: Under) -> Option<InputSpec> {
        if nesting > MAX_NESTING {
            self.errors
                .add(pointer, format!("is nested more than {MAX_NESTING} deep"));
            return None;
        }
        let mut fields = Fields::open(value, pointer, self.errors)?;
        let taken = ["pfs", "cron", "cross", "union", "join", "group"].map(|k| (k, fields.take(k)));
        fields.finish(self.errors);
        let mut given = taken.into_iter().filter_map(|(k, found)| found.map(|(v, p)| (k, v, p)));
        let Some((what, value, at)) = given.next() else {
            self.errors.add(
                pointer,
                "must have one of `pfs`, `cron`, `cross`, `union`, `join` or `group`",
            );
            return None;
        };
        if let Some((other, _, second)) = given.next() {
            let message = format!("stands beside `{what}`; put both into one `cross` or `union`, or remove `{other}`");
            self.errors.add(&second, message);
            return None;
        }
        match what {
            "pfs" => self.leaf(value, &at, under).map(|leaf| InputSpec::Pfs(Box::new(leaf))),
            "cron" => self.cron(value, &at, under).map(|leaf| InputSpec::Pfs(Box::new(leaf))),
            "cross" => self.parts(value, &at, nesting, under).map(InputSpec::Cross),
            "union" => self.parts(value, &at, nesting, under).map(InputSpec::Union),
            "join" => self
                .parts(value, &at, nesting, Under { join: true, ..under })
                .map(InputSpec::Join),
            _ => {
                let parts = self.parts(value, &at, nesting, Under { group: true, ..under })?;
                for (i, part) in parts.iter().enumerate() {
                    if !is_keyed(part) {
                        self.errors.add(
                            &join(&at, &i.to_string()),
                            "has no `group_by`: say which capture of its glob is the key, for example `group_by: $1`",
                        );
                    }
                }
                Some(InputSpec::Group(parts))
            }
        }
    }

    fn parts(&mut self, value: &Value, pointer: &str, nesting: usize, under: Under) -> Option<Vec<InputSpec>> {
        let Value::Array(items) = value else {
            self.errors
                .add(pointer, format!("must be a list of inputs, not {}", kind(value)));
            return None;
        };
        if items.is_empty() {
            self.errors.add(pointer, "must have at least one input");
            return None;
        }
        let read = items.iter().enumerate();
        let read: Vec<_> = read
            .map(|(i, v)| self.node(v, &join(pointer, &i.to_string()), nesting + 1, under))
            .collect();
        read.into_iter().collect()
    }

    fn leaf(&mut self, value: &Value, pointer: &str, under: Under) -> Option<PfsInput> {
        self.leaves += 1;
        let errors = &mut *self.errors;
        let mut fields = Fields::open(value, pointer, errors)?;
        let project = fields.parsed::<ProjectName>("project", errors);
        let has_repo = value.get("repo").is_some_and(|v| !v.is_null());
        let repo = fields.parsed::<RepoName>("repo", errors);
        if !has_repo {
            errors.add(pointer, "must name a `repo`");
        }
        let branch = fields.parsed::<BranchName>("branch", errors);
        let name = fields.parsed::<RepoName>("name", errors);
        let has_glob = value.get("glob").is_some_and(|v| !v.is_null());
        let glob = fields.parsed::<Glob>("glob", errors);
        if !has_glob {
            errors.add(
                pointer,
                "must have a `glob`: `/` for the whole repo as one datum, `/*` for one datum per entry",
            );
        }
        let empty_files = fields.bool("empty_files", errors).unwrap_or(false);
        let join_on = fields.string("join_on", errors);
        let outer_join = fields.bool("outer_join", errors).unwrap_or(false);
        let group_by = fields.string("group_by", errors);
        no_gateway(&mut fields, "s3", "read the files below `/pfs`", errors);
        let lazy = fields.bool("lazy", errors).unwrap_or(false);
        let trigger = trigger(&mut fields, branch.as_ref(), errors);
        fields.not_yet(&["commit", "repo_type"], errors);
        let at = fields.pointer().to_owned();
        fields.finish(errors);
        let (repo, glob) = (repo?, glob?);
        let name = name.unwrap_or_else(|| repo.clone());
        if name.as_str() == "out" {
            errors.add(
                &join(&at, "name"),
                "may not be `out`, which is where the output goes; give the input another `name`",
            );
        }
        let keys = [
            ("group_by", "group", &group_by, under.group),
            ("join_on", "join", &join_on, under.join),
        ];
        check_keys(keys, &glob, &at, errors);
        check_join(join_on.is_some(), outer_join, under, &at, errors);
        Some(PfsInput {
            project: project.unwrap_or_else(|| self.project.clone()),
            repo,
            branch: match &trigger {
                Some(trigger) => trigger.source.clone(),
                None => branch.unwrap_or_else(BranchName::main),
            },
            name,
            glob,
            empty_files,
            lazy,
            join_on,
            outer_join,
            group_by,
            cron: None,
            trigger,
            is_code: false,
        })
    }

    /// A cron input is a leaf on a repo of its own, whose files are the ticks.
    fn cron(&mut self, value: &Value, pointer: &str, under: Under) -> Option<PfsInput> {
        self.leaves += 1;
        let errors = &mut *self.errors;
        if under.join {
            errors.add(
                pointer,
                "stands under a `join` and has no key: put it beside the join in a `cross`",
            );
        }
        let mut fields = Fields::open(value, pointer, errors)?;
        if value.get("name").is_none_or(Value::is_null) {
            errors.add(pointer, "must have a `name`: its files are at `/pfs/<name>`");
        }
        let name = fields.parsed::<RepoName>("name", errors);
        let spec = fields.string("spec", errors);
        let has_spec = spec.is_some();
        let spec = spec.filter(|spec| {
            let read = spec.parse::<Ticks>();
            if let Err(error) = &read {
                errors.add(&join(pointer, "spec"), error.to_string());
            }
            read.is_ok()
        });
        if !has_spec {
            errors.add(pointer, "must have a `spec`: when it ticks, for example `@daily`");
        }
        let overwrite = fields.bool("overwrite", errors).unwrap_or(false);
        let start = fields.parsed::<DateTime<Utc>>("start", errors);
        if start.is_some_and(|start| !STARTS.contains(&start.year())) {
            let (from, to) = STARTS.into_inner();
            errors.add(
                &join(pointer, "start"),
                format!("must be in a year from {from} to {to}"),
            );
        }
        fields.finish(errors);
        let (name, spec) = (name?, spec?);
        if name.as_str() == "out" {
            let message = "may not be `out`, which is where the output goes";
            errors.add(&join(pointer, "name"), message);
        }
        let repo = format!("{}_{name}", self.pipeline?);
        let named = |error| {
            let message = format!(
                "makes the repo `{repo}`, which can't be named so: {error}; give the input or the pipeline a shorter name"
            );
            errors.add(&join(pointer, "name"), message);
        };
        let glob = Glob::from_str("/*").ok()?;
        Some(PfsInput {
            project: self.project.clone(),
            repo: RepoName::from_str(&repo).map_err(named).ok()?,
            branch: BranchName::main(),
            name,
            glob,
            empty_files: false,
            lazy: false,
            join_on: None,
            outer_join: false,
            group_by: None,
            cron: Some(CronInput { spec, overwrite, start }),
            trigger: None,
            is_code: false,
        })
    }
}

/// A trigger makes the pipeline read a branch of its own that follows the one that the input names.
fn trigger(fields: &mut Fields<'_>, named: Option<&BranchName>, errors: &mut Errors) -> Option<TriggerInput> {
    let (value, pointer) = fields.take("trigger")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let source = inner.parsed::<BranchName>("branch", errors);
    let size_bytes = inner.string("size", errors).and_then(|text| {
        let read = quantity::bytes(&text);
        read.map_err(|error| errors.add(&join(&pointer, "size"), error)).ok()
    });
    let commits = inner.number("commits", 1, errors).map(u64::from);
    let all = inner.bool("all", errors).unwrap_or(false);
    if let (Some(source), Some(named)) = (&source, named.filter(|named| source.as_ref() != Some(*named))) {
        let message = format!(
            "names `{source}` as the branch to follow, and the input's `branch` names `{named}`: remove one of them"
        );
        errors.add(&join(&pointer, "branch"), message);
    }
    let cron = schedule(&mut inner, &pointer, errors);
    inner.finish(errors);
    if size_bytes.is_none() && commits.is_none() && cron.is_none() {
        errors.add(
            &pointer,
            "has no condition, so it would never fire: give `size`, `commits` or `cron_spec`",
        );
    }
    Some(TriggerInput {
        source: source.or_else(|| named.cloned()).unwrap_or_else(BranchName::main),
        size_bytes,
        commits,
        cron,
        all,
    })
}

/// The schedule of a trigger. Pachyderm's older name is read too.
fn schedule(fields: &mut Fields<'_>, pointer: &str, errors: &mut Errors) -> Option<String> {
    let [(cron, _), (rate, rate_at)] =
        ["cron_spec", "rate_limit_spec"].map(|name| (fields.string(name, errors), join(pointer, name)));
    if cron.is_some() && rate.is_some() {
        errors.add(
            &rate_at,
            "is the older name of `cron_spec`, which stands beside it: remove it",
        );
    }
    let at = if cron.is_some() {
        join(pointer, "cron_spec")
    } else {
        rate_at
    };
    let text = cron.or(rate)?;
    match text.parse::<Ticks>() {
        Err(error) => errors.add(&at, error.to_string()),
        Ok(ticks) if ticks.is_never() => errors.add(&at, "never comes: remove it, or write when the branch follows"),
        Ok(_) => {}
    }
    Some(written_out(text.trim()).to_owned())
}

/// The branches that inputs with triggers read are named by the inputs.
fn unique_triggers(spec: &InputSpec, pointer: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for leaf in spec.leaves().into_iter().filter(|leaf| leaf.trigger.is_some()) {
        if !seen.insert(&leaf.name) {
            let name = &leaf.name;
            let message = format!("has two inputs `{name}` with a `trigger`: give one of them another `name`");
            errors.add(pointer, message);
        }
    }
}

/// `transform.code`.
pub(super) fn code(fields: &mut Fields<'_>, project: &ProjectName, errors: &mut Errors) -> Option<CodeInput> {
    let (value, pointer) = fields.take("code")?;
    let mut inner = Fields::open(value, &pointer, errors)?;
    let of = inner.parsed::<ProjectName>("project", errors);
    if value.get("repo").is_none_or(Value::is_null) {
        errors.add(&pointer, "must name a `repo`");
    }
    let repo = inner.parsed::<RepoName>("repo", errors);
    let branch = inner.parsed::<BranchName>("branch", errors);
    let path = inner.string("path", errors).unwrap_or_default();
    inner.finish(errors);
    let path = path.trim_matches('/');
    let wrong = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    if !path.is_empty() && path.split('/').any(wrong) {
        errors.add(
            &join(&pointer, "path"),
            "is no path in a repo: it may have no empty part, `.` or `..`",
        );
        return None;
    }
    Some(CodeInput {
        project: of.unwrap_or_else(|| project.clone()),
        repo: repo?,
        branch: branch.unwrap_or_else(BranchName::main),
        path: format!("/{path}"),
    })
}

/// Code is an input as data is, so that a new commit of it makes jobs, whose datums are all new.
pub(super) fn with_code(input: InputSpec, code: &CodeInput, errors: &mut Errors) -> Option<InputSpec> {
    let name = RepoName::from_str("code").ok()?;
    if input.leaves().iter().any(|leaf| leaf.name == name) {
        errors.add(
            "/input",
            "may have no input named `code` beside `transform.code`: give it another `name`",
        );
        return None;
    }
    let special = |c: char| "\\*?[]{}()!@+".contains(c);
    let mut literal = String::new();
    for c in code.path.chars() {
        literal.extend(special(c).then_some('\\'));
        literal.push(c);
    }
    let glob = Glob::from_str(&literal).map_err(|error| errors.add("/transform/code/path", error.to_string()));
    let leaf = PfsInput {
        project: code.project.clone(),
        repo: code.repo.clone(),
        branch: code.branch.clone(),
        name,
        glob: glob.ok()?,
        empty_files: false,
        lazy: false,
        join_on: None,
        outer_join: false,
        group_by: None,
        cron: None,
        trigger: None,
        is_code: true,
    };
    Some(InputSpec::Cross(vec![input, InputSpec::Pfs(Box::new(leaf))]))
}

fn check_keys(keys: [(&str, &str, &Option<String>, bool); 2], glob: &Glob, at: &str, errors: &mut Errors) {
    for (field, kind, key, meant) in keys {
        let Some(key) = key else { continue };
        let at = join(at, field);
        if !meant {
            let message = format!("has a meaning under `{kind}` only: put the input into a `{kind}` or remove it");
            errors.add(&at, message);
        }
        check_key(key, glob, &at, errors);
    }
}

fn check_key(key: &str, glob: &Glob, pointer: &str, errors: &mut Errors) {
    match highest_group(key) {
        None => errors.add(
            pointer,
            "names no capture of the glob: write `$1` for its first parentheses",
        ),
        Some(n) if n == 0 || n > glob.groups() => {
            let has = glob.groups();
            errors.add(
                pointer,
                format!("names `${n}`, but the glob `{glob}` has {has} captures, numbered from 1"),
            );
        }
        Some(_) => {}
    }
}

fn check_join(keyed: bool, outer: bool, under: Under, pointer: &str, errors: &mut Errors) {
    if under.join && !keyed {
        errors.add(
            pointer,
            "has no `join_on`: say which captures of its glob are the key, for example `join_on: $1`",
        );
    }
    if outer && !under.join {
        errors.add(
            &join(pointer, "outer_join"),
            "has a meaning under `join` only: put the input into a `join` or remove it",
        );
    }
}

/// Whether every datum of it has a key of its group.
fn is_keyed(spec: &InputSpec) -> bool {
    match spec {
        InputSpec::Pfs(leaf) => leaf.group_by.is_some(),
        InputSpec::Union(parts) | InputSpec::Group(parts) => parts.iter().all(is_keyed),
        InputSpec::Cross(parts) => parts.iter().any(is_keyed),
        // What an outer join keeps may be any of its outer inputs alone.
        InputSpec::Join(parts) => parts.iter().any(is_keyed) && parts.iter().all(|p| is_keyed(p) || !has_outer(p)),
    }
}

fn has_outer(spec: &InputSpec) -> bool {
    spec.leaves().iter().any(|leaf| leaf.outer_join)
}

/// What is in one datum must have different names: under cross, join and group.
fn unique_names(spec: &InputSpec, pointer: &str, errors: &mut Errors) -> Vec<RepoName> {
    let (kind, parts, exclusive) = match spec {
        InputSpec::Pfs(leaf) => return vec![leaf.name.clone()],
        InputSpec::Cross(parts) => ("cross", parts, true),
        InputSpec::Join(parts) => ("join", parts, true),
        InputSpec::Group(parts) => ("group", parts, true),
        InputSpec::Union(parts) => ("union", parts, false),
    };
    let mut seen: BTreeMap<RepoName, usize> = BTreeMap::new();
    for (i, part) in parts.iter().enumerate() {
        let at = join(&join(pointer, kind), &i.to_string());
        let mut names = unique_names(part, &at, errors);
        names.sort();
        names.dedup();
        for name in names {
            let first = seen.insert(name.clone(), i);
            if let (Some(first), true) = (first, exclusive) {
                let message = format!(
                    "the name `{name}` is used by input {first} of this {kind} too: give one of them another `name`"
                );
                errors.add(&at, message);
            }
        }
    }
    seen.into_keys().collect()
}
