//! Who gets a new image when. Pure: first a few planes that run, then a share of all, then the rest. Each plane must become ready in
//! time and stay so for a while before the next wave; the first that does not takes everything back, and stops. Only planes that served
//! before say anything: what kept a plane from serving already is not the image's fault.

use chrono::{DateTime, Duration, Utc};
use contract::cloud::WavesConfig;
use contract::ids::OrganizationId;

/// The waves after which all have it.
const LAST: u32 = 2;

/// What a plane that was told counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It served when it was told: the rollout waits for it to serve again.
    Awaited,
    /// Something kept it from serving already, which is not the image's fault.
    Excused,
    /// It has served with the image for a while, or slept when it was told. It is not waited for, but may still be late.
    Trusted,
}

/// What is known of a plane that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// What it counts for.
    pub part: Part,
    /// Since when it serves without a break.
    pub ready_since: Option<DateTime<Utc>>,
    /// Since when it has not served for a while without a break: one that serves for a moment now and then is no better than none.
    pub unready_since: Option<DateTime<Utc>>,
}

/// What a plane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// It is to run, and serves.
    Serves,
    /// It is to run, and does not.
    Fails,
    /// It is not to run.
    Sleeps,
}

impl Told {
    /// A plane that is told now.
    pub fn begin(now: Now, at: DateTime<Utc>) -> Self {
        Self {
            part: match now {
                Now::Serves => Part::Awaited,
                Now::Fails => Part::Excused,
                Now::Sleeps => Part::Trusted,
            },
            ready_since: None,
            unready_since: (now != Now::Sleeps).then_some(at),
        }
    }

    /// After another look at it.
    #[must_use]
    pub fn seen(self, now: Now, config: &WavesConfig, at: DateTime<Utc>) -> Self {
        match now {
            Now::Sleeps => Self {
                ready_since: None,
                unready_since: None,
                ..self
            },
            Now::Fails => Self {
                ready_since: None,
                unready_since: self.unready_since.or(Some(at)),
                ..self
            },
            Now::Serves => {
                let since = self.ready_since.unwrap_or(at);
                let proven = at - since >= seconds(config.watch_seconds);
                Self {
                    part: if proven { Part::Trusted } else { self.part },
                    ready_since: Some(since),
                    unready_since: self.unready_since.filter(|_| !proven),
                }
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        self.part == Part::Awaited && (self.ready_since.is_some() || self.unready_since.is_some())
    }

    fn is_late(&self, config: &WavesConfig, at: DateTime<Utc>) -> bool {
        let since = self.unready_since.filter(|_| self.ready_since.is_none());
        self.part != Part::Excused && since.is_some_and(|since| at - since >= seconds(config.ready_seconds))
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::seconds(i64::from(seconds))
}

/// Where a plane stands with the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not been told to have it, and runs.
    Running,
    /// It has not been told to have it, and does not serve: it sleeps, or something is in its way.
    Silent,
    /// It was told to.
    Told(Told),
}

/// A new image on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// Which wave, from 0.
    pub wave: u32,
    /// Since when the planes of that wave are told.
    pub since: DateTime<Utc>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Tell these planes too: the wave's time begins.
    Tell(Vec<OrganizationId>),
    /// The next wave.
    Advance,
    /// Nothing yet.
    Wait,
    /// All have it.
    Done,
    /// These did not become ready with it: take it back from all.
    RollBack(Vec<OrganizationId>),
}

/// The next move of a rollout over all planes.
pub fn next(
    rollout: &Rollout,
    planes: &[(OrganizationId, Standing)],
    config: &WavesConfig,
    now: DateTime<Utc>,
) -> Move {
    let of = |standing: Standing| planes.iter().filter(move |(_, s)| *s == standing).map(|(id, _)| *id);
    let (running, silent) = (of(Standing::Running), of(Standing::Silent));
    let told = planes.len() - running.clone().count() - silent.clone().count();
    let wanted = size(rollout.wave, planes.len(), config);
    if told < wanted {
        // Those that run say something about the image; those that sleep will have it when they wake.
        return Move::Tell(running.chain(silent).take(wanted - told).collect());
    }
    let known = planes.iter().filter_map(|(id, standing)| match standing {
        Standing::Told(told) => Some((*id, told)),
        _ => None,
    });
    let late: Vec<OrganizationId> = known
        .clone()
        .filter(|(_, told)| told.is_late(config, now))
        .map(|(id, _)| id)
        .collect();
    if !late.is_empty() {
        return Move::RollBack(late);
    }
    if known.clone().any(|(_, told)| told.is_waited_for()) {
        return Move::Wait;
    }
    if rollout.wave >= LAST {
        return Move::Done;
    }
    match now - rollout.since >= seconds(config.watch_seconds) {
        true => Move::Advance,
        false => Move::Wait,
    }
}

/// How many planes have the image after that wave.
fn size(wave: u32, all: usize, config: &WavesConfig) -> usize {
    let canaries = usize::try_from(config.canaries).unwrap_or(usize::MAX).max(1);
    let percent = usize::try_from(config.percent.min(100)).unwrap_or(100);
    match wave {
        0 => canaries.min(all),
        1 => (all * percent).div_ceil(100).max(canaries).min(all),
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn planes(standings: &[Standing]) -> Vec<(OrganizationId, Standing)> {
        let id = |n: usize| OrganizationId::generate(n as u64, [0; 10]);
        standings
            .iter()
            .enumerate()
            .map(|(n, standing)| (id(n), *standing))
            .collect()
    }

    fn ago(seconds: i64) -> DateTime<Utc> {
        NOW - Duration::seconds(seconds)
    }

    fn at(wave: u32, seconds: i64) -> Rollout {
        Rollout {
            wave,
            since: ago(seconds),
        }
    }

    fn told(now: Now, seconds: i64) -> Standing {
        Standing::Told(Told::begin(now, ago(seconds)))
    }

    fn moved() -> Standing {
        Standing::Told(Told {
            part: Part::Trusted,
            ready_since: Some(ago(100)),
            unready_since: None,
        })
    }

    #[test]
    fn a_canary_that_runs_is_first_then_a_tenth_then_the_rest() {
        let config = WavesConfig::default();
        let mut all = planes(&[Standing::Running; 30]);
        all[0].1 = Standing::Silent;
        let Move::Tell(first) = next(&at(0, 0), &all, &config, NOW) else {
            panic!()
        };
        assert_eq!(first, [all[1].0]);
        all[1].1 = told(Now::Serves, 599);
        assert_eq!(next(&at(0, 599), &all, &config, NOW), Move::Wait);
        all[1].1 = moved();
        assert_eq!(
            next(&at(0, 59), &all, &config, NOW),
            Move::Wait,
            "it is watched for a while"
        );
        assert_eq!(next(&at(0, 60), &all, &config, NOW), Move::Advance);
        let Move::Tell(tenth) = next(&at(1, 0), &all, &config, NOW) else {
            panic!()
        };
        assert_eq!(tenth.len(), 2);
        let Move::Tell(rest) = next(&at(2, 0), &all, &config, NOW) else {
            panic!()
        };
        assert_eq!(rest.len(), 29);
        assert_eq!(next(&at(2, 0), &planes(&[moved(); 30]), &config, NOW), Move::Done);
    }

    #[test]
    fn a_plane_that_is_not_ready_in_time_takes_it_back_from_all_and_one_that_could_not_say_does_not() {
        let mut all = planes(&[moved(); 3]);
        let config = WavesConfig::default();
        all[1].1 = told(Now::Serves, 600);
        all[2].1 = told(Now::Fails, 5_000);
        assert_eq!(next(&at(2, 5), &all, &config, NOW), Move::RollBack(vec![all[1].0]));
        all[1].1 = told(Now::Sleeps, 5_000);
        assert_eq!(next(&at(2, 5), &all, &config, NOW), Move::Done);
    }

    #[test]
    fn a_plane_that_serves_for_a_moment_now_and_then_is_late_all_the_same() {
        let config = WavesConfig::default();
        let mut plane = Told::begin(Now::Serves, ago(600));
        for seconds in (10..600).step_by(10) {
            let now = if seconds % 50 == 0 { Now::Fails } else { Now::Serves };
            plane = plane.seen(now, &config, ago(600 - seconds));
        }
        assert!(plane.is_waited_for() && !plane.is_late(&config, NOW), "it serves now");
        let plane = plane.seen(Now::Fails, &config, NOW);
        assert!(plane.is_late(&config, NOW));
    }

    #[test]
    fn a_plane_that_served_for_a_while_is_waited_for_no_more_and_may_be_late_again() {
        let config = WavesConfig::default();
        let mut plane = Told::begin(Now::Serves, ago(2_000));
        for seconds in [1_900, 1_870, 1_840] {
            plane = plane.seen(Now::Serves, &config, ago(seconds));
        }
        assert_eq!((plane.part, plane.unready_since), (Part::Trusted, None));
        let plane = plane
            .seen(Now::Sleeps, &config, ago(700))
            .seen(Now::Fails, &config, ago(600));
        assert!(!plane.is_waited_for() && plane.is_late(&config, NOW));
        let slept = Told::begin(Now::Sleeps, ago(700)).seen(Now::Fails, &config, ago(599));
        assert!(!slept.is_waited_for() && !slept.is_late(&config, NOW));
    }

    #[test]
    fn without_planes_it_is_done_and_few_planes_are_never_more_than_there_are() {
        let config = WavesConfig::default();
        assert_eq!(next(&at(2, 0), &[], &config, NOW), Move::Done);
        assert_eq!(next(&at(0, 60), &[], &config, NOW), Move::Advance);
        let Move::Tell(one) = next(&at(0, 0), &planes(&[Standing::Silent]), &config, NOW) else {
            panic!()
        };
        assert_eq!(one.len(), 1);
    }
}
