//! Who gets a new image when. Pure: first a few planes that run, then a share of all, then the rest. Each wave must become ready in
//! time and stay so for a while before the next; the first that does not takes everything back, and stops.

use chrono::{DateTime, Duration, Utc};
use contract::cloud::WavesConfig;
use contract::ids::OrganizationId;

/// The waves after which all have it.
const LAST: u32 = 2;

/// Where a plane stands with the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not been told to have it, and runs.
    Running,
    /// It has not been told to have it, and sleeps.
    Asleep,
    /// It was told to, and does not serve with it yet.
    Moving,
    /// It has it, or will when it wakes.
    Moved,
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
    let told = of(Standing::Moving).count() + of(Standing::Moved).count();
    let wanted = size(rollout.wave, planes.len(), config);
    if told < wanted {
        // Those that run say something about the image; those that sleep will have it when they wake.
        let next = of(Standing::Running).chain(of(Standing::Asleep)).take(wanted - told);
        return Move::Tell(next.collect());
    }
    let moving: Vec<OrganizationId> = of(Standing::Moving).collect();
    let passed = now - rollout.since;
    if !moving.is_empty() {
        let late = passed >= Duration::seconds(i64::from(config.ready_seconds));
        return if late { Move::RollBack(moving) } else { Move::Wait };
    }
    if rollout.wave >= LAST {
        return Move::Done;
    }
    match passed >= Duration::seconds(i64::from(config.watch_seconds)) {
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

    fn at(wave: u32, seconds: i64) -> Rollout {
        Rollout {
            wave,
            since: NOW - Duration::seconds(seconds),
        }
    }

    #[test]
    fn a_canary_that_runs_is_first_then_a_tenth_then_the_rest() {
        let config = WavesConfig::default();
        let mut all = planes(&[Standing::Running; 30]);
        all[0].1 = Standing::Asleep;
        let Move::Tell(first) = next(&at(0, 0), &all, &config, NOW) else {
            panic!()
        };
        assert_eq!(first, [all[1].0]);
        all[1].1 = Standing::Moving;
        assert_eq!(next(&at(0, 599), &all, &config, NOW), Move::Wait);
        all[1].1 = Standing::Moved;
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
        assert_eq!(
            next(&at(2, 0), &planes(&[Standing::Moved; 30]), &config, NOW),
            Move::Done
        );
    }

    #[test]
    fn a_wave_that_is_not_ready_in_time_is_taken_back() {
        let mut all = planes(&[Standing::Moved; 3]);
        all[1].1 = Standing::Moving;
        let config = WavesConfig::default();
        assert_eq!(next(&at(2, 600), &all, &config, NOW), Move::RollBack(vec![all[1].0]));
        assert_eq!(next(&at(2, 599), &all, &config, NOW), Move::Wait);
    }

    #[test]
    fn without_planes_it_is_done_and_few_planes_are_never_more_than_there_are() {
        let config = WavesConfig::default();
        assert_eq!(next(&at(2, 0), &[], &config, NOW), Move::Done);
        assert_eq!(next(&at(0, 60), &[], &config, NOW), Move::Advance);
        let Move::Tell(one) = next(&at(0, 0), &planes(&[Standing::Asleep]), &config, NOW) else {
            panic!()
        };
        assert_eq!(one.len(), 1);
    }
}
