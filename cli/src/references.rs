//! References as people type them, made complete: the project of the environment is added where none was named, and what
//! cannot be a reference is refused before anything is sent.

use contract::names::{BranchName, ProjectName};
use contract::reference::{Base, CommitRef, RepoRef, split_path};

use crate::failure::{Exit, Failure, Outcome};

fn wrong(error: &dyn std::fmt::Display) -> Failure {
    let text = error.to_string();
    let (why, hint) = text.split_once("; ").unwrap_or((&text, "see `howdah --help`"));
    Failure::usage("wrong usage", why, hint)
}

/// The project of the environment.
///
/// # Errors
/// When it is no name.
pub fn project(text: &str) -> Outcome<ProjectName> {
    text.parse().map_err(|e| wrong(&e))
}

/// `[project/]repo` with its project.
///
/// # Errors
/// When it is no repo.
pub fn repo(text: &str, default_project: &str) -> Outcome<(ProjectName, String)> {
    let parsed: RepoRef = text.parse().map_err(|e| wrong(&e))?;
    let project = match parsed.project {
        Some(project) => project,
        None => project(default_project)?,
    };
    Ok((project, parsed.repo.to_string()))
}

/// `project/repo` of `[project/]repo`.
///
/// # Errors
/// When it is no repo.
pub fn full_repo(text: &str, default_project: &str) -> Outcome<String> {
    let (project, repo) = repo(text, default_project)?;
    Ok(format!("{project}/{repo}"))
}

/// A reference with its project.
///
/// # Errors
/// When it is no reference.
pub fn commit(text: &str, default_project: &str) -> Outcome<String> {
    let parsed: CommitRef = text.parse().map_err(|e| wrong(&e))?;
    if parsed.repo.project.is_some() {
        return Ok(text.to_owned());
    }
    Ok(format!("{}/{text}", project(default_project)?))
}

/// A reference and a path.
///
/// # Errors
/// When it is no reference.
pub fn commit_and_path(text: &str, default_project: &str) -> Outcome<(String, Option<String>)> {
    let (reference, path) = split_path(text);
    Ok((commit(reference, default_project)?, path.map(str::to_owned)))
}

/// Where something is written: repo, branch, and the path if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// `project/repo`.
    pub repo: String,
    /// The branch.
    pub branch: BranchName,
    /// `/path`.
    pub path: Option<String>,
}

/// `REPO@BRANCH[:/PATH]`.
///
/// # Errors
/// When it is none; exit code 6 when it names a commit, which never changes.
pub fn place(text: &str, default_project: &str) -> Outcome<Place> {
    let (reference, path) = split_path(text);
    let parsed: CommitRef = reference.parse().map_err(|e| wrong(&e))?;
    let repo = match &parsed.repo.project {
        Some(project) => format!("{project}/{}", parsed.repo.repo),
        None => format!("{}/{}", project(default_project)?, parsed.repo.repo),
    };
    match (parsed.base, parsed.step) {
        (Base::Branch(branch), None) => Ok(Place {
            repo,
            branch,
            path: path.map(str::to_owned),
        }),
        _ => Err(Failure::usage(
            "cannot write to a commit",
            format!("`{reference}` names a commit, and a finished commit never changes"),
            "name a branch: `REPO@BRANCH`",
        )
        .with_exit(Exit::Conflict)),
    }
}

/// A resource of a grant: `org`, `project:NAME` or `[project/]repo`.
///
/// # Errors
/// When it is none of them.
pub fn resource(text: &str, default_project: &str) -> Outcome<String> {
    if text == "org" || text.starts_with("project:") {
        return Ok(text.to_owned());
    }
    full_repo(text, default_project)
}

/// What a token may do: `verb:*`, `verb:project:NAME` or `verb:[project/]repo`.
///
/// # Errors
/// When the repo is none.
pub fn scope(text: &str, default_project: &str) -> Outcome<String> {
    match text.split_once(':') {
        Some((verb, of)) if of != "*" && !of.starts_with("project:") => {
            Ok(format!("{verb}:{}", full_repo(of, default_project)?))
        }
        _ => Ok(text.to_owned()),
    }
}

/// A number of days: `90d`, `2w`, `1y` or a plain number.
///
/// # Errors
/// When it is none.
pub fn days(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['d', 'w', 'y']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "d"),
    };
    let factor = match unit {
        "w" => 7,
        "y" => 365,
        _ => 1,
    };
    let days = number
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .filter(|n| *n > 0);
    days.ok_or_else(|| format!("`{text}` is no number of days; write `90d`, `2w` or `1y`"))
}

/// A duration: `10m`, `30s`, `2h` or seconds.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, "s"),
    };
    let factor = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 1,
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    seconds
        .map(std::time::Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no duration; write `30s`, `10m` or `2h`"))
}

/// An amount of bytes: `1GiB`, `500MB`, `64k` or a plain number.
///
/// # Errors
/// When it is none.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no amount of bytes; write `1GiB`, `500MB` or a number");
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = unit.to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (unit, base) = unit.strip_suffix('i').map_or((unit, 1000_u64), |unit| (unit, 1024));
    let power = ["", "k", "m", "g", "t"]
        .iter()
        .position(|u| *u == unit)
        .ok_or_else(wrong)?;
    if power == 0 && base == 1024 {
        return Err(wrong());
    }
    let factor = base.pow(u32::try_from(power).map_err(|_| wrong())?);
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_added_where_none_was_named() {
        assert_eq!(commit("images@main", "p").unwrap(), "p/images@main");
        assert_eq!(commit("q/images@main^", "p").unwrap(), "q/images@main^");
        let (reference, path) = commit_and_path("images@main@7d:/a/b", "p").unwrap();
        assert_eq!(
            (reference.as_str(), path.as_deref()),
            ("p/images@main@7d", Some("/a/b"))
        );
    }

    #[test]
    fn only_branches_are_written_to() {
        let found = place("images@main:/a", "p").unwrap();
        assert_eq!((found.repo.as_str(), found.path.as_deref()), ("p/images", Some("/a")));
        assert_eq!(place("images", "p").unwrap().branch, BranchName::main());
        let failure = place("images@0190c0de0190c0de0190c0de0190c0de", "p").unwrap_err();
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(place("im ages@main", "p").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn resources_of_grants_keep_their_kind() {
        assert_eq!(resource("org", "p").unwrap(), "org");
        assert_eq!(resource("project:x", "p").unwrap(), "project:x");
        assert_eq!(resource("images", "p").unwrap(), "p/images");
    }

    #[test]
    fn scopes_of_tokens_may_leave_out_the_project() {
        assert_eq!(scope("read:images", "p").unwrap(), "read:p/images");
        for whole in ["read:q/images", "read:*", "*:project:vision"] {
            assert_eq!(scope(whole, "p").unwrap(), whole);
        }
        assert!(scope("read:im ages", "p").is_err());
    }

    #[test]
    fn spans_of_time_are_read() {
        assert_eq!(days("90d"), Ok(90));
        assert_eq!(days("2w"), Ok(14));
        assert_eq!(days("30"), Ok(30));
        assert!(days("soon").is_err() && days("0d").is_err());
        assert_eq!(duration("10m").unwrap().as_secs(), 600);
        assert_eq!(duration("90").unwrap().as_secs(), 90);
        assert!(duration("later").is_err());
    }

    #[test]
    fn amounts_of_bytes_are_read() {
        for (text, expected) in [
            ("1GiB", 1 << 30),
            ("500MB", 500_000_000),
            ("64k", 64_000),
            ("2Ki", 2048),
            ("7", 7),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "GiB", "1 GiB", "1.5G", "1X", "1i", "99999999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
