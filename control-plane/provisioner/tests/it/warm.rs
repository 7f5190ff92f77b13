//! Room for planes that wake is held as the configuration says, put right when somebody changes it, and given up when none is
//! wanted any more; what only has its name is left alone.

use provisioner::kit::names::INSTALLATION;
use serde_json::json;

use crate::api_server::key;
use crate::runner::{Process, block, config, start_with};
use crate::world::Shared;

const SPACE: &str = "howdah-system";

fn leader(shared: &Shared, planes: u32) -> Process {
    let mut config = config();
    config.warm.planes = planes;
    start_with(shared, config)
}

fn keep(shared: &Shared, leader: &Process) {
    // The cluster works on them meanwhile, which is a conflict now and then.
    let mut tries = (0..20).map(|_| block(shared, leader.cloud.apply_system()));
    assert!(tries.any(|done| done.is_ok()));
}

fn deployment() -> crate::world::Key {
    key("Deployment", Some(SPACE), "warm-planes")
}

#[test]
fn room_is_held_put_right_and_given_up() {
    let shared = Shared::new(1);
    let space = json!({ "kind": "Namespace", "metadata": { "name": SPACE, "uid": "s", "resourceVersion": "1" } });
    shared.world().objects.insert(key("Namespace", None, SPACE), space);
    let three = leader(&shared, 3);
    keep(&shared, &three);
    let class = key("PriorityClass", None, "howdah-system-warm-planes");
    assert!(shared.world().objects.contains_key(&class));
    assert_eq!(shared.world().objects[&deployment()]["spec"]["replicas"], 3);
    let writes = shared.world().writes;
    keep(&shared, &three);
    assert_eq!(shared.world().writes, writes);

    shared.world().objects.get_mut(&deployment()).unwrap()["spec"]["replicas"] = 0.into();
    shared.world().objects.remove(&class);
    keep(&shared, &three);
    assert!(shared.world().objects.contains_key(&class));
    assert_eq!(shared.world().objects[&deployment()]["spec"]["replicas"], 3);

    let none = leader(&shared, 0);
    keep(&shared, &none);
    let world = shared.world();
    let leaves = |key: &_| match world.objects.get(key) {
        Some(object) => object["metadata"]["deletionTimestamp"].is_string(),
        None => true,
    };
    assert!(leaves(&class) && leaves(&deployment()));
}

#[test]
fn another_installations_room_is_left_alone() {
    let shared = Shared::new(2);
    let labels =
        json!({ "app.kubernetes.io/managed-by": "howdah", INSTALLATION: "another", "howdah.dev/part": "warm" });
    let theirs = json!({ "kind": "Deployment", "metadata": {
        "name": "warm-planes", "namespace": SPACE, "uid": "d", "resourceVersion": "1", "labels": labels } });
    shared.world().objects.insert(deployment(), theirs.clone());
    keep(&shared, &leader(&shared, 0));
    assert_eq!(shared.world().objects[&deployment()], theirs);
}
