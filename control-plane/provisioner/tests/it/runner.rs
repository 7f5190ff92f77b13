//! Runs processes against the world: whose turn it is, is random, and so is who dies in the middle.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use contract::cloud::{KubernetesConfig, Target};
use contract::config::{ImportConfig, LogsConfig, TelemetryConfig};
use contract::ids::OrganizationId;
use futures::task::noop_waker;
use provisioner::kit::Targets;
use provisioner::kubernetes::{KubernetesCloud, Settings};
use provisioner::pass::{Outcome, Pass};
use serde_json::json;

use crate::api_server::ApiServer;
use crate::ledger::Tables;
use crate::stores::{ObjectStore, Postgres};
use crate::world::{Clock, Shared};

/// A control plane that reconciles.
pub struct Process {
    pub pass: Pass,
    pub cloud: Arc<KubernetesCloud>,
}

pub fn config() -> KubernetesConfig {
    serde_json::from_value(json!({
        "plane_image": "howdah/data-plane:1",
        "control_url": "http://howdah.howdah-system.svc:7433",
        "databases": { "host": "10.77.0.1" },
        "buckets": {
            "endpoint": "http://10.77.0.1:9000", "region": "eu-1",
            "credentials": { "kind": "static", "access_key_id": "a", "secret_access_key": "b" },
        },
        "gpu": { "backend": "karpenter", "classes": [{ "name": "a100" }] },
    }))
    .unwrap()
}

pub fn start(shared: &Shared) -> Process {
    start_with(shared, config())
}

pub fn start_with(shared: &Shared, config: KubernetesConfig) -> Process {
    let api = Target {
        cidr: "10.77.0.2/32".to_owned(),
        ports: vec![6443],
    };
    let settings = Settings {
        targets: Targets::of(&config, &[api]).unwrap(),
        config,
        issuer: "https://howdah.test".to_owned(),
        jwks: Arc::new(|| json!({ "keys": [] })),
        imports: ImportConfig::default(),
        logs: LogsConfig::default(),
        telemetry: TelemetryConfig::default(),
        installation: "i1".to_owned(),
    };
    let environment = Arc::new(Clock(shared.clone()));
    let cloud = Arc::new(KubernetesCloud::new(
        settings,
        Arc::new(ApiServer(shared.clone())),
        Arc::new(Postgres(shared.clone())),
        Arc::new(ObjectStore(shared.clone())),
        environment.clone(),
    ));
    let pass = Pass {
        ledger: Arc::new(Tables::new(shared.clone())),
        cloud: cloud.clone(),
        environment,
        idle_seconds: 300,
    };
    Process { pass, cloud }
}

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Outcome>> + 'a>>;

/// Runs all of them at once, in random steps; while there is trouble, some die in the middle.
pub fn interleave(shared: &Shared, mut running: Vec<Running<'_>>) {
    let waker = noop_waker();
    let mut context = Context::from_waker(&waker);
    while !running.is_empty() {
        let next = shared.world().pick(running.len());
        let ended = running[next].as_mut().poll(&mut context).is_ready();
        let mut world = shared.world();
        let dies = world.trouble > 0 && world.one_in(80);
        if world.one_in(3) {
            world.turn();
        }
        drop(world);
        if ended || dies {
            drop(running.swap_remove(next));
        }
    }
}

/// Runs one to its end, with the cluster working beside it.
pub fn block<T>(shared: &Shared, future: impl Future<Output = T>) -> T {
    let waker = noop_waker();
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
        let mut world = shared.world();
        if world.rows.len() < 100 && world.one_in(8) {
            world.turn();
        }
    }
}

/// One pass to its end.
pub fn pass(shared: &Shared, process: &Process, organization: OrganizationId) -> Outcome {
    block(shared, process.pass.run(organization)).unwrap()
}
