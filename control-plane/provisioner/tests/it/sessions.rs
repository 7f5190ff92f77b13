//! Planes that reach their buckets by sessions: whoever runs has one with enough time before it, whatever goes wrong, and is not
//! started anew for another; who sleeps gets none.

use base64::Engine;
use chrono::{DateTime, Duration, Utc};
use contract::cloud::KubernetesConfig;
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use provisioner::kit::names::namespace;
use provisioner::pass::Outcome;
use provisioner::plan::Wanted;
use serde_json::{Value, json};

use crate::api_server::key;
use crate::ledger::{request, wish};
use crate::runner::{Process, block, config, pass, start_with};
use crate::world::{Shared, advance};

/// Less time than that no plane ever has before it: what is signed with a session is to be good for a while.
const LEFT: Duration = Duration::minutes(20);

fn with_sessions() -> KubernetesConfig {
    let mut config = config();
    config.buckets.credentials =
        serde_json::from_value(json!({ "kind": "session", "role_arn": "arn:aws:iam::1:role/r" })).unwrap();
    config
}

fn world(seed: u64) -> (Shared, Process) {
    let shared = Shared::new(seed);
    shared.world().sessions = true;
    let leader = start_with(&shared, with_sessions());
    (shared, leader)
}

fn object(shared: &Shared, kind: &str, organization: OrganizationId, name: &str) -> Option<Value> {
    let key = key(kind, Some(&namespace(organization)), name);
    shared.world().objects.get(&key).cloned()
}

fn session(shared: &Shared, organization: OrganizationId) -> Option<BucketSession> {
    let secret = object(shared, "Secret", organization, "bucket-keys")?;
    let text = secret["data"]["keys.json"].as_str()?;
    serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(text).ok()?).ok()
}

fn left(shared: &Shared, organization: OrganizationId) -> Duration {
    let now: DateTime<Utc> = shared.world().now;
    session(shared, organization).map_or(Duration::zero(), |session| session.expires_at - now)
}

fn settle(shared: &Shared, leader: &Process, organization: OrganizationId) {
    for _ in 0..60 {
        if pass(shared, leader, organization) == Outcome::Settled {
            return;
        }
        shared.world().turn();
        advance(shared, Duration::seconds(3));
    }
    panic!("it does not settle");
}

/// What the leader does beside its passes.
fn renew(shared: &Shared, leader: &Process) {
    for organization in leader.cloud.sessions_due() {
        // What fails is due again.
        let _ = block(shared, leader.cloud.renew_session(organization));
    }
}

/// Lets time go by, with a look at all planes every five minutes.
fn live(shared: &Shared, leader: &Process, organizations: &[OrganizationId], minutes: i64) {
    for minute in 0..minutes {
        advance(shared, Duration::minutes(1));
        renew(shared, leader);
        if minute % 5 == 0 {
            for organization in organizations {
                // The ledger fails too, while anything does.
                let _ = block(shared, leader.pass.run(*organization));
            }
        }
    }
}

#[test]
fn a_plane_that_runs_has_a_session_and_is_not_started_anew_for_another() {
    let (shared, leader) = world(1);
    let id = OrganizationId::generate(1, [1; 10]);
    request(&mut shared.world(), id);
    settle(&shared, &leader, id);
    let first = session(&shared, id).unwrap();
    let config = object(&shared, "Secret", id, "plane-config").unwrap();
    let text = base64::engine::general_purpose::STANDARD
        .decode(config["data"]["config.json"].as_str().unwrap())
        .unwrap();
    let told: Value = serde_json::from_slice(&text).unwrap();
    let place = json!({ "kind": "file", "path": "/etc/howdah-bucket/keys.json" });
    assert_eq!(told["store"]["temporary"], place);
    assert!(told["store"].get("access_key_id").is_none());
    let deployment = object(&shared, "Deployment", id, "plane").unwrap();
    for _ in 0..300 {
        live(&shared, &leader, &[id], 1);
        assert!(left(&shared, id) >= LEFT, "{}", left(&shared, id));
    }
    assert_ne!(session(&shared, id).unwrap().access_key_id, first.access_key_id);
    let now = object(&shared, "Deployment", id, "plane").unwrap();
    assert_eq!(now["spec"], deployment["spec"]);
    // Each does for a third of its time, and no look asks for another.
    let given = shared.world().given;
    assert!((14..=17).contains(&given), "{given}");

    // Who sleeps needs none; who wakes has a new one.
    wish(&mut shared.world(), id, Wanted::Asleep);
    settle(&shared, &leader, id);
    let given = shared.world().given;
    live(&shared, &leader, &[id], 120);
    assert_eq!(shared.world().given, given);
    wish(&mut shared.world(), id, Wanted::Running);
    settle(&shared, &leader, id);
    assert!(left(&shared, id) > Duration::minutes(50));
}

#[test]
fn what_somebody_does_to_a_session_is_put_right_at_the_next_full_look() {
    let (shared, leader) = world(2);
    let id = OrganizationId::generate(1, [1; 10]);
    request(&mut shared.world(), id);
    settle(&shared, &leader, id);
    for change in ["removed", "edited"] {
        let key = key("Secret", Some(&namespace(id)), "bucket-keys");
        let before = session(&shared, id).unwrap().access_key_id;
        match change {
            "removed" => drop(shared.world().objects.remove(&key)),
            _ => shared.world().objects.get_mut(&key).unwrap()["data"]["keys.json"] = "e30=".into(),
        }
        live(&shared, &leader, &[id], 16);
        let now = session(&shared, id).map(|session| session.access_key_id);
        assert!(now.is_some_and(|now| now != before), "{change}");
    }
}

#[test]
fn whoever_leads_and_whatever_fails_sessions_are_renewed_once_that_stops() {
    for seed in 0..32 {
        let (shared, first) = world(seed);
        let ids = [1, 2, 3].map(|n| OrganizationId::generate(1, [n; 10]));
        for id in ids {
            request(&mut shared.world(), id);
            settle(&shared, &first, id);
        }
        shared.world().trouble = 30;
        live(&shared, &first, &ids, 60);
        // Somebody else leads, who knows nothing of what was done; and after it the first one again, who knows old things.
        let second = start_with(&shared, with_sessions());
        live(&shared, &second, &ids, 60);
        shared.world().trouble = 0;
        for leader in [&first, &second] {
            live(&shared, leader, &ids, 31);
            for id in ids {
                assert!(left(&shared, id) >= LEFT, "seed {seed}: {}", left(&shared, id));
            }
        }
    }
}
