//! Who gets a new image when. Pure: first a few planes that run, then a share of all, then the rest. Each plane must become ready in
//! time and stay so for a while before the next wave; the first that does not takes everything back, and stops. Only planes that served
//! before say anything: what kept a plane from serving already is not the image's fault.

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
    /// It has not been told to have it, and does not serve: it sleeps, or something is in its way.
    Silent,
    /// It was told to, and does not serve.
    Moving {
        /// Since when: it was told, or has woken, or served with it until then.
        since: DateTime<Utc>,
    },
    /// It has it, or will when it wakes, or says nothing about it.
    Moved,
}

/// A new image on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollout {
    /// Which wave, from 0.
    pub wave: u32,
    /// Since when all planes that were told serve.
    pub since: DateTime<Utc>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Tell these planes too: the wave's time begins.
    Tell(Vec<OrganizationId>),
    /// The next wave.
    Advance,
    /// Some are on their way: the time in which all must serve begins anew.
    Hold,
    /// All serve, and are watched for a while.
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
    let moving = planes.iter().filter_map(|(id, standing)| match standing {
        Standing::Moving { since } => Some((*id, now - *since)),
        _ => None,
    });
    let patience = Duration::seconds(i64::from(config.ready_seconds));
    let late: Vec<OrganizationId> = moving
        .clone()
        .filter(|(_, passed)| *passed >= patience)
        .map(|(id, _)| id)
        .collect();
    if !late.is_empty() {
        return Move::RollBack(late);
    }
    if moving.count() > 0 {
        return Move::Hold;
    }
    if rollout.wave >= LAST {
        return Move::Done;
    }
    match now - rollout.since >= Duration::seconds(i64::from(config.watch_seconds)) {
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

    fn moving(seconds: i64) -> Standing {
        Standing::Moving { since: ago(seconds) }
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
        all[1].1 = moving(599);
        assert_eq!(next(&at(0, 599), &all, &config, NOW), Move::Hold);
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
    fn a_plane_that_is_not_ready_in_time_takes_it_back_from_all_and_one_that_just_woke_does_not() {
        let mut all = planes(&[Standing::Moved; 3]);
        let config = WavesConfig::default();
        all[1].1 = moving(600);
        all[2].1 = moving(3);
        assert_eq!(next(&at(2, 5), &all, &config, NOW), Move::RollBack(vec![all[1].0]));
        all[1].1 = Standing::Moved;
        assert_eq!(next(&at(2, 100_000), &all, &config, NOW), Move::Hold);
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
