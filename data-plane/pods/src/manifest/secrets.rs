//! The secrets of a pool: what its agents are configured by, and what its image is pulled with. They are whole objects, so that applying
//! one twice changes nothing.

use serde_json::{Value, json};

use super::{Plane, pool_labels};
use crate::pool::{Kind, Pool};

/// The key of an agent's configuration, and the name of its file.
pub const CONFIG_KEY: &str = "config.json";

fn secret(plane: &Plane, pool: Pool, name: &str, kind: &str, key: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": plane.config.namespace, "labels": pool_labels(plane, pool, Kind::Worker) },
        "type": kind,
        "stringData": { key: value },
    })
}

/// What agents are configured by: only their containers mount it.
pub fn config_secret(plane: &Plane, pool: Pool, config: &str) -> Value {
    secret(plane, pool, &pool.secret(), "Opaque", CONFIG_KEY, config)
}

/// What the user's image is pulled with, as `docker login` writes it.
pub fn pull_secret(plane: &Plane, pool: Pool, docker_config: &str) -> Value {
    let kind = "kubernetes.io/dockerconfigjson";
    secret(
        plane,
        pool,
        &pool.pull_secret(),
        kind,
        ".dockerconfigjson",
        docker_config,
    )
}
