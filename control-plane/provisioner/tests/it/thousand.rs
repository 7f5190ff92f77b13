//! A thousand organizations in one run: each costs the same few calls, and once all are there a round costs next to none.

use chrono::Duration;
use contract::ids::OrganizationId;
use provisioner::pass::Outcome;

use crate::ledger::request;
use crate::runner::{pass, start};
use crate::world::{Shared, advance};

const TENANTS: u64 = 1000;
/// To make a plane and see it serve.
const CALLS_MADE_MAX: u64 = 70;
/// To see that it still does.
const CALLS_SETTLED_MAX: u64 = 4;

#[test]
fn a_thousand_planes_are_made_with_the_same_few_calls_each() {
    let shared = Shared::new(3);
    let leader = start(&shared);
    let ids: Vec<OrganizationId> = (0..TENANTS).map(|n| OrganizationId::generate(n, [3; 10])).collect();
    for id in &ids {
        request(&mut shared.world(), *id);
    }
    let mut open = ids.clone();
    for _ in 0..20 {
        open.retain(|id| pass(&shared, &leader, *id) != Outcome::Settled);
        shared.world().turn();
        advance(&shared, Duration::seconds(3));
    }
    assert!(open.is_empty(), "{} are not ready", open.len());
    let made = shared.world().asked / TENANTS;
    shared.world().asked = 0;
    let before = shared.world().writes;
    for id in &ids {
        assert_eq!(pass(&shared, &leader, *id), Outcome::Settled);
    }
    let settled = shared.world().asked / TENANTS;
    println!("calls of the API server for a tenant: {made} to make its plane, {settled} to see that it is right");
    assert!(made <= CALLS_MADE_MAX, "{made}");
    assert!(settled <= CALLS_SETTLED_MAX, "{settled}");
    assert_eq!(shared.world().writes, before);
}
