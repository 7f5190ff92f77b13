//! What belongs to nobody goes after its grace; what does not say whose it is, and what somebody has, stays.

use std::collections::BTreeSet;

use chrono::Duration;
use contract::ids::OrganizationId;
use provisioner::kit::names::namespace;
use provisioner::pass::Outcome;
use provisioner::sweep::{GRACE, Grounds, Sweeper, Swept};
use serde_json::json;

use crate::api_server::{ApiServer, has_namespace, key};
use crate::ledger::request;
use crate::runner::{block, pass, start};
use crate::stores::{ObjectStore, Postgres};
use crate::world::{Shared, advance};

fn sweep(shared: &Shared, sweeper: &mut Sweeper) -> Swept {
    let (cluster, databases, buckets) = (
        ApiServer(shared.clone()),
        Postgres(shared.clone()),
        ObjectStore(shared.clone()),
    );
    let grounds = Grounds {
        installation: "i1",
        cluster: &cluster,
        databases: &databases,
        buckets: &buckets,
    };
    let known: BTreeSet<OrganizationId> = shared.world().rows.keys().copied().collect();
    let now = shared.world().now;
    block(shared, sweeper.sweep(&grounds, |_| async { Ok(known) }, now)).unwrap()
}

#[test]
fn what_is_left_of_an_organization_that_nobody_knows_goes_after_its_grace_and_nothing_else() {
    let shared = Shared::new(1);
    let ids = [1_u8, 2].map(|n| OrganizationId::generate(1, [n; 10]));
    let leader = start(&shared);
    for id in ids {
        request(&mut shared.world(), id);
        while pass(&shared, &leader, id) != Outcome::Settled {
            shared.world().turn();
            advance(&shared, Duration::seconds(3));
        }
    }
    let lost = ids[1];
    shared.world().rows.remove(&lost);
    let stranger = json!({ "kind": "Namespace", "metadata": { "name": "howdah-x", "uid": "x", "labels": {
        "app.kubernetes.io/managed-by": "howdah" } } });
    shared
        .world()
        .objects
        .insert(key("Namespace", None, "howdah-x"), stranger);
    let mut sweeper = Sweeper::default();
    let listed = shared.world().listed;
    assert_eq!(sweep(&shared, &mut sweeper).waiting, [lost]);
    assert_eq!(shared.world().listed, listed + 1);
    advance(&shared, GRACE - Duration::seconds(1));
    assert_eq!(sweep(&shared, &mut sweeper).removed, []);
    advance(&shared, Duration::seconds(1));
    let listed = shared.world().listed;
    for _ in 0..20 {
        sweep(&shared, &mut sweeper);
        shared.world().turn();
    }
    // Whatever there is to be removed, it is looked through everything once.
    assert_eq!(shared.world().listed, listed + 20);
    let world = shared.world();
    assert!(!has_namespace(&world, &namespace(lost)) && has_namespace(&world, "howdah-x"));
    assert!(has_namespace(&world, &namespace(ids[0])));
    assert_eq!((world.databases.len(), world.buckets.len()), (1, 1));
    drop(world);
    assert_eq!(sweep(&shared, &mut sweeper), Swept::default());
}

#[test]
fn what_is_claimed_again_in_its_grace_waits_anew_when_it_is_lost_again() {
    let shared = Shared::new(2);
    let id = OrganizationId::generate(1, [1; 10]);
    shared.world().databases.insert(id.to_string(), String::new());
    let mut sweeper = Sweeper::default();
    assert_eq!(sweep(&shared, &mut sweeper).waiting, [id]);
    advance(&shared, Duration::hours(20));
    request(&mut shared.world(), id);
    assert_eq!(sweep(&shared, &mut sweeper), Swept::default());
    shared.world().rows.clear();
    advance(&shared, Duration::hours(20));
    assert_eq!(sweep(&shared, &mut sweeper).waiting, [id]);
    assert_eq!(sweep(&shared, &mut sweeper).removed, []);
}
