//! When a cron input gets a file and a trigger looks, as Pachyderm reads it: a cron expression of five fields (six with seconds in front), a
//! shorthand as `@daily`, an interval as `@every 90s`, or never by itself. All in UTC and in whole seconds.

use std::str::FromStr;

use chrono::{DateTime, Duration, SecondsFormat, SubsecRound, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use crate::spec::duration;

/// So many missed ticks are caught up, the newest ones.
pub const BACKLOG_MOST: usize = 100_000;

/// The ticks of a cron input or of a trigger's schedule.
#[derive(Debug, Clone)]
pub struct Ticks(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Never,
    Every(Duration),
    Cron(Box<Cron>),
}

/// A text that says no ticks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no schedule: {why}; write a cron expression of five fields (`0 * * * *`), `@hourly`, `@daily`, `@weekly`, \
     `@monthly`, `@yearly`, `@every 90s`, or `never`"
)]
pub struct ParseTicksError {
    text: String,
    why: String,
}

impl FromStr for Ticks {
    type Err = ParseTicksError;

    fn from_str(text: &str) -> Result<Self, ParseTicksError> {
        let wrong = |why: String| ParseTicksError {
            text: text.chars().take(120).collect(),
            why,
        };
        let text = text.trim();
        if let Some(interval) = text.strip_prefix("@every ") {
            let interval = duration(interval.trim()).map_err(wrong)?;
            // Files are named by whole seconds.
            if interval.subsec_nanos() != 0 || interval.is_zero() {
                return Err(wrong("an interval is of one or more whole seconds".to_owned()));
            }
            let interval = Duration::from_std(interval).map_err(|error| wrong(error.to_string()))?;
            return Ok(Self(Kind::Every(interval)));
        }
        let expression = match text {
            "never" | "@never" => return Ok(Self(Kind::Never)),
            other => written_out(other),
        };
        if expression.starts_with('@') {
            return Err(wrong("no such shorthand is known".to_owned()));
        }
        if !matches!(expression.split_whitespace().count(), 5 | 6) {
            return Err(wrong("it does not have five or six fields".to_owned()));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(expression).map_err(|error| wrong(error.to_string()))?;
        // What comes at all comes within some years of any day: 29 February in eight at most.
        if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, false).is_err() {
            return Err(wrong("that moment never comes".to_owned()));
        }
        Ok(Self(Kind::Cron(Box::new(cron))))
    }
}

impl Ticks {
    /// The first tick behind a time; `None` when there is none.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.trunc_subsecs(0);
        match &self.0 {
            Kind::Never => None,
            Kind::Every(interval) => after.checked_add_signed(*interval),
            Kind::Cron(cron) => cron.find_next_occurrence(&after, false).ok(),
        }
    }

    /// Whether it never ticks by itself.
    pub fn is_never(&self) -> bool {
        matches!(self.0, Kind::Never)
    }

    /// Where counting has to begin so that no more than `most` ticks lie behind it and not behind `until`: at `after`
    /// (in whole seconds), else at the tick in front of the newest ones.
    pub fn newest(&self, after: DateTime<Utc>, until: DateTime<Utc>, most: usize) -> DateTime<Utc> {
        let after = after.trunc_subsecs(0);
        let seconds = (until - after).num_seconds();
        let wanted = i64::try_from(most).unwrap_or(i64::MAX);
        // None ticks more than once a second.
        if seconds <= wanted {
            return after;
        }
        match &self.0 {
            Kind::Never => after,
            Kind::Every(interval) => {
                let left_out = (seconds / interval.num_seconds() - wanted).max(0);
                let left_out = Duration::seconds(left_out * interval.num_seconds());
                after.checked_add_signed(left_out).unwrap_or(after)
            }
            Kind::Cron(cron) => {
                let mut at = cron.find_previous_occurrence(&until.trunc_subsecs(0), true).ok();
                for _ in 0..most {
                    at = at.filter(|tick| *tick > after);
                    let Some(tick) = at else { return after };
                    at = cron.find_previous_occurrence(&tick, false).ok();
                }
                at.filter(|tick| *tick > after).unwrap_or(after)
            }
        }
    }

    /// The last tick behind `after` and not behind `until`.
    pub fn last(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.trunc_subsecs(0);
        let last = match &self.0 {
            Kind::Never => None,
            Kind::Every(interval) => {
                let seconds = (until - after).num_seconds() / interval.num_seconds() * interval.num_seconds();
                after.checked_add_signed(Duration::seconds(seconds))
            }
            Kind::Cron(cron) => cron.find_previous_occurrence(&until.trunc_subsecs(0), true).ok(),
        };
        last.filter(|tick| *tick > after && *tick <= until)
    }

    /// The ticks behind `after` and not behind `until`, in order, the first `most` of them.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        let next = |tick: &DateTime<Utc>| self.next(*tick).filter(|tick| *tick <= until);
        std::iter::successors(next(&after), next).take(most).collect()
    }
}

/// The cron expression of five fields that a shorthand stands for; what is none stays as it is.
pub fn written_out(text: &str) -> &str {
    match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    }
}

/// The name of a tick's file.
pub fn file_name(tick: DateTime<Utc>) -> String {
    tick.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The name of the file of a tick that was made by hand: no scheduled tick has one like it.
pub fn file_name_by_hand(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn ticks_come_where_pachyderm_has_them() {
        // Schedule, from, the next three.
        let table = [
            (
                "@every 10s",
                "2026-11-01T00:00:03.7Z",
                ["00:00:13", "00:00:23", "00:00:33"],
            ),
            (
                "@every 1h30m",
                "2026-11-01T00:00:00Z",
                ["01:30:00", "03:00:00", "04:30:00"],
            ),
            (
                "0 * * * *",
                "2026-11-01T00:00:00Z",
                ["01:00:00", "02:00:00", "03:00:00"],
            ),
            ("@hourly", "2026-11-01T00:59:59Z", ["01:00:00", "02:00:00", "03:00:00"]),
            (
                "*/20 * * * * *",
                "2026-11-01T00:00:01Z",
                ["00:00:20", "00:00:40", "00:01:00"],
            ),
        ];
        for (schedule, from, next) in table {
            let ticks: Ticks = schedule.parse().unwrap();
            let found = ticks.between(time(from), time("2026-11-02T00:00:00Z"), 3);
            let names: Vec<String> = found.into_iter().map(file_name).collect();
            assert_eq!(names, next.map(|t| format!("2026-11-01T{t}Z")), "{schedule}");
        }
        let days: Ticks = "@daily".parse().unwrap();
        assert_eq!(
            days.next(time("2026-11-01T00:00:00Z")),
            Some(time("2026-11-02T00:00:00Z"))
        );
        let sundays: Ticks = "@weekly".parse().unwrap();
        assert_eq!(
            sundays.next(time("2026-11-01T00:00:00Z")),
            Some(time("2026-11-08T00:00:00Z"))
        );
        let never: Ticks = "never".parse().unwrap();
        assert_eq!(never.next(time("2026-11-01T00:00:00Z")), None);
    }

    #[test]
    fn the_last_tick_of_a_time_is_the_last_of_all_of_them() {
        for schedule in ["@every 7s", "*/7 * * * * *", "5 * * * *", "@every 1h", "never"] {
            let ticks: Ticks = schedule.parse().unwrap();
            let from = time("2026-11-01T00:00:03.2Z");
            for until in [
                "2026-11-01T00:00:03.9Z",
                "2026-11-01T00:00:10Z",
                "2026-11-01T03:04:05.6Z",
            ]
            .map(time)
            {
                let all = ticks.between(from, until, usize::MAX);
                assert_eq!(ticks.last(from, until), all.last().copied(), "{schedule} until {until}");
            }
        }
    }

    #[test]
    fn of_too_many_ticks_the_newest_are_counted() {
        let (from, until) = (time("2026-11-01T00:00:03.2Z"), time("2026-11-01T03:04:05.6Z"));
        for schedule in ["@every 7s", "*/7 * * * * *", "5 * * * *", "@every 1h", "never"] {
            let ticks: Ticks = schedule.parse().unwrap();
            let all = ticks.between(from, until, usize::MAX);
            for most in [0, 1, 2, 3, 50, 20_000] {
                let counted = ticks.between(ticks.newest(from, until, most), until, usize::MAX);
                let wanted = &all[all.len().saturating_sub(most)..];
                assert_eq!(counted, wanted, "{schedule}: {most}");
            }
        }
    }

    #[test]
    fn what_says_no_ticks_is_refused() {
        for bad in [
            "",
            "hourly",
            "@often",
            "* * * *",
            "61 * * * *",
            "@every",
            "@every 0s",
            "@every 500ms",
            "@every x",
            "0 0 30 2 *",
        ] {
            assert!(bad.parse::<Ticks>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tick_by_hand_is_named_like_no_other() {
        let at = time("2026-11-01T00:00:00Z");
        assert_eq!(file_name(at), "2026-11-01T00:00:00Z");
        assert_eq!(file_name_by_hand(at), "2026-11-01T00:00:00.000Z");
    }
}
