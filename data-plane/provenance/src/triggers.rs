//! When a branch with a trigger follows the one that it watches: by how much that has grown, by how many commits it is
//! ahead, by a schedule, any or all of them. And which triggers would follow each other in a circle.

use chrono::{DateTime, Utc};
use contract::names::BranchName;

use crate::ticks::Ticks;

/// What makes a branch follow another one. Without any condition it never does.
#[derive(Debug, Clone, Default)]
pub struct Trigger {
    /// The branch has grown by so many bytes.
    pub size_bytes: Option<u64>,
    /// It is ahead by so many commits.
    pub commits: Option<u64>,
    /// A tick of this schedule has passed.
    pub schedule: Option<Ticks>,
    /// All conditions have to hold, and not one of them.
    pub all: bool,
}

/// What happened on the watched branch since it was followed.
#[derive(Debug, Clone, Copy)]
pub struct Since {
    /// Commits that came.
    pub commits: u64,
    /// Bytes by which it has grown.
    pub size_bytes: u64,
    /// When it was followed, or the trigger was made.
    pub at: DateTime<Utc>,
}

impl Trigger {
    /// Whether the branch follows now. It never does while there is nothing new.
    pub fn fires(&self, since: &Since, now: DateTime<Utc>) -> bool {
        let ticked = |schedule: &Ticks| schedule.next(since.at).is_some_and(|tick| tick <= now);
        let conditions = [
            self.size_bytes.map(|size| since.size_bytes >= size),
            self.commits.map(|commits| since.commits >= commits),
            self.schedule.as_ref().map(ticked),
        ];
        let mut conditions = conditions.into_iter().flatten().peekable();
        if since.commits == 0 || conditions.peek().is_none() {
            return false;
        }
        if self.all {
            conditions.all(|holds| holds)
        } else {
            conditions.any(|holds| holds)
        }
    }
}

/// Whether a branch would come to follow itself if it watched `source`; each branch watches one at most. `watched` has the
/// pairs (branch, the one that it watches) that are there.
pub fn would_circle(watched: &[(BranchName, BranchName)], branch: &BranchName, source: &BranchName) -> bool {
    let mut at = source;
    // No line without a circle is longer.
    for _ in 0..=watched.len() {
        if at == branch {
            return true;
        }
        match watched.iter().find(|(follower, _)| follower == at) {
            Some((_, next)) => at = next,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        format!("2026-11-01T{text}:00Z").parse().unwrap()
    }

    fn trigger(size_bytes: Option<u64>, commits: Option<u64>, schedule: Option<&str>, all: bool) -> Trigger {
        Trigger {
            size_bytes,
            commits,
            schedule: schedule.map(|text| text.parse().unwrap()),
            all,
        }
    }

    #[test]
    fn a_branch_follows_when_one_or_all_conditions_hold_and_something_is_new() {
        let hourly = Some("0 * * * *");
        // Size, commits, schedule, all; commits, bytes, from, to; whether it follows.
        let table = [
            (trigger(None, None, None, false), (9, 9, "00:10", "09:00"), false),
            (trigger(None, Some(3), None, false), (2, 0, "00:10", "00:20"), false),
            (trigger(None, Some(3), None, false), (3, 0, "00:10", "00:20"), true),
            (trigger(Some(10), None, None, false), (1, 9, "00:10", "00:20"), false),
            (trigger(Some(10), None, None, false), (1, 10, "00:10", "00:20"), true),
            (trigger(None, None, hourly, false), (1, 0, "00:10", "00:59"), false),
            (trigger(None, None, hourly, false), (1, 0, "00:10", "01:00"), true),
            (trigger(None, None, hourly, false), (1, 0, "01:00", "01:59"), false),
            (trigger(None, None, hourly, false), (0, 0, "00:10", "09:00"), false),
            (trigger(Some(0), Some(0), hourly, true), (0, 0, "00:10", "09:00"), false),
            (
                trigger(Some(10), Some(3), hourly, false),
                (3, 0, "00:10", "00:20"),
                true,
            ),
            (
                trigger(Some(10), Some(3), hourly, true),
                (3, 10, "00:10", "00:20"),
                false,
            ),
            (
                trigger(Some(10), Some(3), hourly, true),
                (3, 9, "00:10", "01:20"),
                false,
            ),
            (
                trigger(Some(10), Some(3), hourly, true),
                (3, 10, "00:10", "01:20"),
                true,
            ),
        ];
        for (at, (trigger, (commits, size_bytes, from, to), follows)) in table.iter().enumerate() {
            let since = Since {
                commits: *commits,
                size_bytes: *size_bytes,
                at: time(from),
            };
            assert_eq!(trigger.fires(&since, time(to)), *follows, "row {at}: {trigger:?}");
        }
    }

    #[test]
    fn circles_are_found_and_lines_are_not_taken_for_them() {
        let name = |text: &str| text.parse::<BranchName>().unwrap();
        let watched = [(name("b"), name("a")), (name("c"), name("b"))];
        let circles = |branch, source| would_circle(&watched, &name(branch), &name(source));
        assert!(circles("a", "a") && circles("a", "b") && circles("a", "c"));
        assert!(!circles("d", "c") && !circles("d", "a") && !circles("d", "elsewhere"));
    }
}
