//! References to commits as people type them: `[project/]repo[@branch | @commit][^…|^n|.n][@time][:/path]`.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, NaiveDate, Utc};

use crate::ids::CommitId;
use crate::names::{BranchName, ProjectName, RepoName};

/// Which line of commits a reference starts at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The head of a branch.
    Branch(BranchName),
    /// A commit, or the commit of this repo in the commit set of that id.
    Commit(CommitId),
}

/// How to go on from the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `^n`: the n-th ancestor.
    Ancestor(u32),
    /// `.n`: the n-th commit counted from the root of the branch, the first is 1.
    FromRoot(u32),
    /// `@2026-11-01`, `@2026-11-01T10:00:00Z`: the last commit finished by that time.
    AsOf(DateTime<Utc>),
    /// `@7d`: the last commit finished that long ago.
    Ago(Duration),
}

/// A repo, with the project only if it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRef {
    /// The project, `None` = the caller's default.
    pub project: Option<ProjectName>,
    /// The repo.
    pub repo: RepoName,
}

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRef {
    /// The repo.
    pub repo: RepoRef,
    /// Where to start, `main` when nothing was named.
    pub base: Base,
    /// How to go on.
    pub step: Option<Step>,
}

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a reference: {why}; write `repo@branch`, `repo@commit`, `project/repo@branch^2` or `repo@branch@2026-11-01`"
)]
pub struct ParseRefError {
    text: String,
    why: String,
}

impl FromStr for RepoRef {
    type Err = ParseRefError;

    fn from_str(text: &str) -> Result<Self, ParseRefError> {
        let wrong = |why: String| ParseRefError {
            text: text.chars().take(120).collect(),
            why,
        };
        let (project, repo) = match text.split_once('/') {
            Some((project, repo)) => (Some(project.parse().map_err(|e| wrong(format!("{e}")))?), repo),
            None => (None, text),
        };
        Ok(Self {
            project,
            repo: repo.parse().map_err(|e| wrong(format!("{e}")))?,
        })
    }
}

impl fmt::Display for RepoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.project {
            Some(project) => write!(f, "{project}/{}", self.repo),
            None => write!(f, "{}", self.repo),
        }
    }
}

impl FromStr for CommitRef {
    type Err = ParseRefError;

    fn from_str(text: &str) -> Result<Self, ParseRefError> {
        let wrong = |why: &str| ParseRefError {
            text: text.chars().take(120).collect(),
            why: why.to_owned(),
        };
        let (repo, rest) = text
            .split_once('@')
            .map_or((text, None), |(repo, rest)| (repo, Some(rest)));
        let repo = repo.parse()?;
        let Some(rest) = rest else {
            return Ok(Self {
                repo,
                base: Base::Branch(BranchName::main()),
                step: None,
            });
        };
        if let Some((base, time)) = rest.split_once('@') {
            let step = parse_time(time).ok_or_else(|| wrong("what stands behind the second `@` is no time"))?;
            return Ok(Self {
                repo,
                base: parse_base(base).ok_or_else(|| wrong("no such branch name"))?,
                step: Some(step),
            });
        }
        let at = rest.find(['^', '.']).unwrap_or(rest.len());
        let (base, step) = rest.split_at(at);
        let base =
            parse_base(base).ok_or_else(|| wrong("what stands behind `@` is neither a branch name nor a commit"))?;
        let step = parse_step(step).map_err(|()| wrong("what stands behind the branch is neither `^n` nor `.n`"))?;
        Ok(Self { repo, base, step })
    }
}

fn parse_base(text: &str) -> Option<Base> {
    if text.len() == 32
        && let Ok(commit) = text.parse()
    {
        return Some(Base::Commit(commit));
    }
    text.parse().ok().map(Base::Branch)
}

fn parse_step(text: &str) -> Result<Option<Step>, ()> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|b| b == b'^') {
        return u32::try_from(text.len())
            .map(|n| Some(Step::Ancestor(n)))
            .map_err(|_| ());
    }
    if let Some(n) = text.strip_prefix('^') {
        return n.parse().map(|n| Some(Step::Ancestor(n))).map_err(|_| ());
    }
    let n: u32 = text.strip_prefix('.').ok_or(())?.parse().map_err(|_| ())?;
    if n == 0 { Err(()) } else { Ok(Some(Step::FromRoot(n))) }
}

fn parse_time(text: &str) -> Option<Step> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(Step::AsOf(at.to_utc()));
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        // A day means its end: "what it looked like on that day".
        return day
            .succ_opt()?
            .and_hms_opt(0, 0, 0)
            .map(|t| Step::AsOf(t.and_utc() - Duration::milliseconds(1)));
    }
    let unit = text.chars().last()?;
    let n: i64 = text
        .strip_suffix(unit)?
        .parse()
        .ok()
        .filter(|n| (0..=1_000_000).contains(n))?;
    match unit {
        's' => Some(Duration::seconds(n)),
        'm' => Some(Duration::minutes(n)),
        'h' => Some(Duration::hours(n)),
        'd' => Some(Duration::days(n)),
        'w' => Some(Duration::weeks(n)),
        _ => None,
    }
    .map(Step::Ago)
}

impl fmt::Display for CommitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            Base::Branch(branch) => write!(f, "{}@{branch}", self.repo)?,
            Base::Commit(commit) => write!(f, "{}@{commit}", self.repo)?,
        }
        match &self.step {
            None => Ok(()),
            Some(Step::Ancestor(n)) => write!(f, "^{n}"),
            Some(Step::FromRoot(n)) => write!(f, ".{n}"),
            Some(Step::AsOf(at)) => write!(f, "@{}", at.to_rfc3339()),
            Some(Step::Ago(ago)) => write!(f, "@{}s", ago.num_seconds()),
        }
    }
}

/// Splits `REF:/path` as the command line has it; the path is `None` when there is no `:`.
pub fn split_path(text: &str) -> (&str, Option<&str>) {
    // A time holds colons too, so the separator is the first `:/` or a `:` at the end.
    if let Some(at) = text.find(":/") {
        return (&text[..at], Some(&text[at + 1..]));
    }
    match text.strip_suffix(':') {
        Some(reference) => (reference, Some("/")),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> CommitRef {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_bare_repo_means_its_main_branch() {
        assert_eq!(check("images").base, Base::Branch(BranchName::main()));
        assert_eq!(check("p/images@main").repo.project, Some("p".parse().unwrap()));
    }

    #[test]
    fn steps_are_read_as_documented() {
        assert_eq!(check("r@main^").step, Some(Step::Ancestor(1)));
        assert_eq!(check("r@main^^^").step, Some(Step::Ancestor(3)));
        assert_eq!(check("r@main^12").step, Some(Step::Ancestor(12)));
        assert_eq!(check("r@main.3").step, Some(Step::FromRoot(3)));
        assert_eq!(check("r@main@7d").step, Some(Step::Ago(Duration::days(7))));
        assert!(matches!(check("r@main@2026-11-01").step, Some(Step::AsOf(_))));
        assert!(matches!(check("r@main@2026-11-01T10:00:00Z").step, Some(Step::AsOf(_))));
        assert!(matches!(
            check("r@0190c0de0190c0de0190c0de0190c0de").base,
            Base::Commit(_)
        ));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "@main",
            "a/b/c",
            "r@",
            "r@main^x",
            "r@main.0",
            "r@main@soon",
            "r@m!",
            "a b@main",
        ] {
            assert!(bad.parse::<CommitRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_path_is_split_off_behind_times_too() {
        assert_eq!(split_path("r@main:/a/b"), ("r@main", Some("/a/b")));
        assert_eq!(
            split_path("r@main@2026-11-01T10:00:00Z:/a"),
            ("r@main@2026-11-01T10:00:00Z", Some("/a"))
        );
        assert_eq!(split_path("r@main"), ("r@main", None));
        assert_eq!(split_path("r@main:"), ("r@main", Some("/")));
    }
}
