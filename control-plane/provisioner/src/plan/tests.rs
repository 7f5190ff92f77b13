use super::*;

fn seen() -> Seen {
    Seen {
        database: true,
        bucket: true,
        home: true,
        kit: Kit::Unneeded,
        schema: Schema::Current,
        process: Process::Absent,
        outdated: None,
        idle: false,
        next_try_at: None,
        receipt: false,
        wake_at: None,
    }
}

fn nothing() -> Seen {
    Seen {
        database: false,
        bucket: false,
        home: false,
        schema: Schema::Outdated,
        ..seen()
    }
}

fn running() -> Process {
    Process::Running {
        url: "http://127.0.0.1:1".to_owned(),
    }
}

fn crashed() -> Process {
    Process::Crashed {
        how: "signal 9".to_owned(),
    }
}

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[test]
fn a_new_plane_gets_all_its_parts_in_order() {
    let steps = [Step::CreateDatabase, Step::CreateBucket, Step::Migrate, Step::Start];
    assert_eq!(plan(Wanted::Running, &nothing(), NOW), steps);
    assert_eq!(plan(Wanted::Asleep, &nothing(), NOW), steps[..3]);
}

#[test]
fn a_wake_only_starts() {
    assert_eq!(plan(Wanted::Running, &seen(), NOW), [Step::Start]);
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    let runs = Seen {
        process: running(),
        ..seen()
    };
    assert_eq!(plan(Wanted::Running, &runs, NOW), []);
    assert_eq!(plan(Wanted::Asleep, &seen(), NOW), []);
    let gone = Seen {
        receipt: true,
        ..nothing()
    };
    assert_eq!(plan(Wanted::Deleted, &gone, NOW), []);
}

#[test]
fn a_new_binary_migrates_before_it_starts_but_never_under_a_running_plane() {
    let old = Seen {
        schema: Schema::Outdated,
        ..seen()
    };
    assert_eq!(plan(Wanted::Running, &old, NOW), [Step::Migrate, Step::Start]);
    let runs = Seen {
        process: running(),
        ..old
    };
    assert_eq!(plan(Wanted::Running, &runs, NOW), []);
}

#[test]
fn a_sleeping_plane_is_woken_when_it_has_something_to_do_and_does_not_sleep_shortly_before() {
    let due = Seen {
        wake_at: Some(NOW),
        ..seen()
    };
    assert_eq!(plan(Wanted::Asleep, &due, NOW), [Step::WakeUp]);
    assert_eq!(plan(Wanted::Running, &due, NOW), [Step::Start]);
    assert_eq!(plan(Wanted::Asleep, &due, NOW - Duration::seconds(1)), []);
    let soon = Seen {
        process: running(),
        idle: true,
        wake_at: Some(NOW + Duration::seconds(30)),
        ..seen()
    };
    assert_eq!(plan(Wanted::Running, &soon, NOW), []);
    assert_eq!(
        plan(Wanted::Running, &soon, NOW - Duration::seconds(1)),
        [Step::FallAsleep]
    );
}

#[test]
fn an_idle_plane_falls_asleep_and_then_stops() {
    let idle = Seen {
        process: running(),
        idle: true,
        ..seen()
    };
    assert_eq!(plan(Wanted::Running, &idle, NOW), [Step::FallAsleep]);
    assert_eq!(plan(Wanted::Asleep, &idle, NOW), [Step::Stop]);
}

#[test]
fn a_crash_is_noted_first_and_the_next_start_waits() {
    let fallen = Seen {
        process: crashed(),
        ..seen()
    };
    assert_eq!(
        plan(Wanted::Running, &fallen, NOW),
        [Step::NoteCrash {
            how: "signal 9".to_owned()
        }]
    );
    let waiting = Seen {
        next_try_at: Some(NOW + Duration::seconds(1)),
        ..seen()
    };
    assert_eq!(plan(Wanted::Running, &waiting, NOW), []);
    assert_eq!(
        plan(Wanted::Running, &waiting, NOW + Duration::seconds(1)),
        [Step::Start]
    );
}

#[test]
fn a_deletion_takes_everything_apart_and_then_writes_the_receipt() {
    let all = Seen {
        process: running(),
        ..seen()
    };
    let steps = [
        Step::Stop,
        Step::RemoveDatabase,
        Step::RemoveBucket,
        Step::RemoveHome,
        Step::WriteReceipt,
    ];
    assert_eq!(plan(Wanted::Deleted, &all, NOW), steps);
    assert_eq!(plan(Wanted::Deleted, &nothing(), NOW), steps[4..]);
}

#[test]
fn a_kit_is_made_between_the_stores_and_the_start_and_goes_after_them() {
    let bare = Seen {
        kit: Kit::Absent,
        home: false,
        ..nothing()
    };
    let steps = [
        Step::CreateDatabase,
        Step::CreateBucket,
        Step::ApplyKit,
        Step::Migrate,
        Step::Start,
    ];
    assert_eq!(plan(Wanted::Running, &bare, NOW), steps);
    let all = Seen {
        kit: Kit::Outdated,
        home: false,
        process: running(),
        ..seen()
    };
    let steps = [
        Step::Stop,
        Step::RemoveDatabase,
        Step::RemoveBucket,
        Step::RemoveKit,
        Step::WriteReceipt,
    ];
    assert_eq!(plan(Wanted::Deleted, &all, NOW), steps);
}

#[test]
fn what_takes_its_time_is_waited_for_and_never_begun_twice() {
    let waits = |steps: Vec<Step>| matches!(steps.as_slice(), [Step::Wait { .. }]);
    let stopping = Seen {
        process: Process::Stopping,
        ..seen()
    };
    for wanted in [Wanted::Running, Wanted::Asleep, Wanted::Suspended, Wanted::Deleted] {
        // Two of a plane at once would be two writers, and a store that goes must have none.
        assert!(waits(plan(wanted, &stopping, NOW)), "{wanted:?}");
    }
    let starting = Seen {
        process: Process::Starting { why: None },
        ..seen()
    };
    assert!(waits(plan(Wanted::Running, &starting, NOW)));
    assert_eq!(plan(Wanted::Asleep, &starting, NOW), [Step::Stop]);
    let leaving = Seen {
        kit: Kit::Leaving {
            what: "namespace".to_owned(),
        },
        home: false,
        ..nothing()
    };
    assert!(waits(plan(
        Wanted::Running,
        &Seen {
            database: true,
            bucket: true,
            ..leaving.clone()
        },
        NOW
    )));
    assert_eq!(plan(Wanted::Deleted, &leaving, NOW).len(), 2);
    assert!(
        waits(plan(Wanted::Deleted, &leaving, NOW)[..1].to_vec()),
        "no receipt while something is there"
    );
}

#[test]
fn a_drift_is_repaired_also_under_a_plane_that_sleeps_and_an_outdated_one_is_started_again() {
    let what = vec!["ResourceQuota `plan` is gone".to_owned()];
    let drifted = Seen {
        kit: Kit::Drifted { what: what.clone() },
        ..seen()
    };
    assert_eq!(plan(Wanted::Suspended, &drifted, NOW), [Step::RepairKit { what }]);
    let outdated = Seen {
        process: running(),
        outdated: Some("image".to_owned()),
        ..seen()
    };
    assert!(matches!(
        plan(Wanted::Running, &outdated, NOW).as_slice(),
        [Step::Restart { .. }]
    ));
    let idle = Seen { idle: true, ..outdated };
    assert_eq!(plan(Wanted::Running, &idle, NOW), [Step::FallAsleep]);
}

#[test]
fn a_suspended_plane_is_not_woken() {
    let due = Seen {
        wake_at: Some(NOW),
        ..seen()
    };
    assert_eq!(plan(Wanted::Suspended, &due, NOW), []);
    let runs = Seen {
        process: running(),
        ..due
    };
    assert_eq!(plan(Wanted::Suspended, &runs, NOW), [Step::Stop]);
}

#[test]
fn every_step_leads_on_and_no_state_plans_for_ever() {
    let all = [false, true];
    for wanted in [Wanted::Running, Wanted::Asleep, Wanted::Suspended, Wanted::Deleted] {
        for process in [Process::Absent, running(), crashed(), Process::Stopping] {
            for (database, bucket) in all.iter().flat_map(|a| all.map(|b| (*a, b))) {
                for (schema, idle) in [Schema::Outdated, Schema::Current]
                    .iter()
                    .flat_map(|s| all.map(|i| (*s, i)))
                {
                    let start = Seen {
                        database,
                        bucket,
                        schema,
                        idle,
                        process: process.clone(),
                        ..seen()
                    };
                    converges(wanted, start.clone());
                    let wake_at = Some(NOW);
                    converges(
                        wanted,
                        Seen {
                            wake_at,
                            ..start.clone()
                        },
                    );
                    let kit = Kit::Outdated;
                    let outdated = Some("image".to_owned());
                    converges(wanted, Seen { kit, outdated, ..start });
                }
            }
        }
    }
}

/// Takes first steps as a perfect cloud would, until nothing is planned.
fn converges(mut wanted: Wanted, mut seen: Seen) {
    let before = format!("{wanted:?} {seen:?}");
    for _ in 0..10 {
        let Some(step) = plan(wanted, &seen, NOW).into_iter().next() else {
            return;
        };
        match step {
            Step::WakeUp => wanted = Wanted::Running,
            Step::CreateDatabase => seen.database = true,
            Step::CreateBucket => seen.bucket = true,
            Step::Migrate => seen.schema = Schema::Current,
            Step::ApplyKit | Step::RepairKit { .. } => seen.kit = Kit::Current,
            Step::Start | Step::Restart { .. } => (seen.process, seen.outdated) = (running(), None),
            Step::Wait { .. } if seen.process == Process::Stopping => seen.process = Process::Absent,
            Step::Wait { .. } => seen.kit = Kit::Absent,
            Step::RemoveKit => {
                let what = "namespace".to_owned();
                seen.kit = Kit::Leaving { what };
            }
            Step::Stop | Step::NoteCrash { .. } => seen.process = Process::Absent,
            Step::FallAsleep => wanted = Wanted::Asleep,
            Step::RemoveDatabase => seen.database = false,
            Step::RemoveBucket => seen.bucket = false,
            Step::RemoveHome => seen.home = false,
            Step::WriteReceipt => seen.receipt = true,
        }
    }
    panic!("does not converge from {before}");
}

#[test]
fn back_off_doubles_up_to_a_minute_and_a_half_at_most() {
    assert_eq!(back_off(1, 0), Duration::milliseconds(200));
    assert_eq!(back_off(2, 0), Duration::milliseconds(400));
    assert_eq!(back_off(1, 255), Duration::milliseconds(300));
    assert_eq!(back_off(60, 0), Duration::seconds(60));
    assert_eq!(back_off(60, 255), Duration::seconds(90));
}
