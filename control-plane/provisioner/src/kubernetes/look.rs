//! What is seen of an organization in a cluster.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::drift::first_difference;
use super::write::{called, digest, digest_of_all, same};
use super::{KubernetesCloud, LOOK_AGAIN, words};
use crate::cloud::{CloudSeen, Order};
use crate::kit::names::{self, COMPLETE, DEPLOYMENT, DIGEST, NAMESPACE, PART, POD, PORT, SECRET, SERVICE, namespace};
use crate::plan::{Kit, Process};

impl KubernetesCloud {
    pub(super) async fn look(&self, order: &Order) -> anyhow::Result<CloudSeen> {
        let organization = order.identity.organization;
        let name = namespace(organization);
        let space = self.read(&NAMESPACE, &name, &name).await?;
        let space = space.filter(|space| names::owner(space) == Some(organization));
        let (kit, verified) = self.look_at_kit(order, space.as_ref()).await?;
        let (process, outdated) = match &space {
            Some(_) => self.look_at_process(order, verified).await?,
            None => (Process::Absent, None),
        };
        // Next time the namespace alone tells whether all is right.
        if kit == Kit::Current && outdated.is_none() && !verified {
            let complete = space.as_ref().and_then(|space| names::annotation(space, COMPLETE));
            self.note_verified(order, complete.unwrap_or_default());
        }
        Ok(CloudSeen {
            database: self.databases.exists(organization).await?,
            bucket: self.buckets.exists(organization).await?,
            home: false,
            kit,
            process,
            outdated,
        })
    }

    /// How the kit is, and whether that is known from before.
    async fn look_at_kit(&self, order: &Order, space: Option<&Value>) -> anyhow::Result<(Kit, bool)> {
        let name = namespace(order.identity.organization);
        let Some(space) = space else {
            let pools = self.read_node_pools(order).await?;
            let kit = match pools.iter().find(|pool| is_leaving(pool)) {
                Some(pool) => Kit::Leaving { what: called(pool) },
                None if pools.is_empty() => Kit::Absent,
                None => Kit::Outdated,
            };
            return Ok((kit, false));
        };
        if is_leaving(space) {
            let what = format!("namespace `{name}`{}", words::what_holds(space));
            return Ok((Kit::Leaving { what }, false));
        }
        let kit = self.kit(order);
        let wanted = kit.objects();
        let complete = digest_of_all(&wanted);
        let marked = names::annotation(space, COMPLETE) == Some(&complete);
        let right_before = first_difference(&kit.namespace(), space).is_none() && marked;
        let known = self.table().get(&order.identity.organization).cloned();
        let fresh = known.is_some_and(|(kit, at)| kit == complete && (self.environment.now() - at).abs() < LOOK_AGAIN);
        if right_before && fresh {
            return Ok((Kit::Current, true));
        }
        let there = self.read_kit(order).await?;
        let changed = self.changes(&kit.namespace(), space, &wanted, &there);
        Ok(match (marked, changed.is_empty()) {
            (true, true) => (Kit::Current, false),
            (true, false) => (Kit::Drifted { what: changed }, false),
            (false, _) => (Kit::Outdated, false),
        })
    }

    fn changes(&self, wanted_space: &Value, space: &Value, wanted: &[Value], there: &[Value]) -> Vec<String> {
        let mut changed: Vec<String> = first_difference(wanted_space, space)
            .map(|path| format!("{}: {path}", called(wanted_space)))
            .into_iter()
            .collect();
        for object in wanted {
            match there.iter().find(|found| same(object, found)) {
                None => changed.push(format!("{} was removed", called(object))),
                Some(found) => {
                    let path = first_difference(object, found);
                    let unmarked = names::annotation(found, DIGEST) != Some(&digest(object));
                    if let Some(path) = path.or_else(|| unmarked.then(|| "metadata.annotations".to_owned())) {
                        changed.push(format!("{}: {path}", called(object)));
                    }
                }
            }
        }
        changed
    }

    async fn look_at_process(&self, order: &Order, verified: bool) -> anyhow::Result<(Process, Option<String>)> {
        let space = namespace(order.identity.organization);
        let deployment = self.read(&DEPLOYMENT, &space, "plane").await?;
        if deployment.as_ref().is_some_and(is_leaving) {
            return Ok((Process::Stopping, None));
        }
        let Some(deployment) = deployment.filter(|deployment| deployment["spec"]["replicas"].as_u64() != Some(0))
        else {
            self.forget_session(order.identity.organization);
            // Nothing asks for pods; those from before may still be ending.
            let process = if self.pods(&space).await?.is_empty() {
                Process::Absent
            } else {
                Process::Stopping
            };
            return Ok((process, None));
        };
        let outdated = self.outdated(order, &space, &deployment, verified).await?;
        if is_ready(&deployment) {
            let service = self.read(&SERVICE, &space, "plane").await?;
            let address = service.as_ref().and_then(|s| s["spec"]["clusterIP"].as_str());
            let process = match address {
                Some(address) => Process::Running { url: url(address) },
                None => Process::Starting { why: None },
            };
            return Ok((process, outdated));
        }
        let why = words::why(&deployment, &self.pods(&space).await?);
        Ok((Process::Starting { why }, outdated))
    }

    async fn pods(&self, space: &str) -> anyhow::Result<Vec<Value>> {
        Ok(self.cluster.list(&POD, Some(space), &format!("{PART}=plane")).await?)
    }

    /// Why the plane has to be started again.
    async fn outdated(
        &self,
        order: &Order,
        space: &str,
        deployment: &Value,
        verified: bool,
    ) -> anyhow::Result<Option<String>> {
        let config = self.config(order).await?;
        let wanted = self.deployment(order, &config, 1);
        let difference = first_difference(&wanted, deployment);
        // Also of one that has to be started again: something else may hold that up for longer than its session lasts.
        if difference.is_some() || !verified {
            self.note_session(order.identity.organization).await?;
        }
        if let Some(path) = difference {
            return Ok(Some(format!("{}: {path}", called(&wanted))));
        }
        if verified {
            return Ok(None);
        }
        let secret = self.read(&SECRET, space, "plane-config").await?;
        let right = secret.is_some_and(|secret| holds(&secret, &config, order.agent_sha256.as_deref()));
        Ok((!right).then(|| "Secret `plane-config` was changed or removed".to_owned()))
    }
}

/// Whether the secret holds that configuration and the credential of that digest.
fn holds(secret: &Value, config: &Value, agent_sha256: Option<&[u8]>) -> bool {
    use base64::Engine;
    let text = secret["data"]["config.json"].as_str().unwrap_or_default();
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(text) else {
        return false;
    };
    let Ok(mut found) = serde_json::from_slice::<Value>(&bytes) else {
        return false;
    };
    let token = found["agent_token"].as_str().unwrap_or_default().to_owned();
    found["agent_token"] = config["agent_token"].clone();
    found["jwks"] = config["jwks"].clone();
    found == *config && Some(Sha256::digest(token.as_bytes()).as_slice()) == agent_sha256
}

fn is_leaving(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether the one pod of the newest template serves.
fn is_ready(deployment: &Value) -> bool {
    let status = |field: &str| deployment["status"][field].as_i64().unwrap_or(0);
    let current = status("observedGeneration") >= deployment["metadata"]["generation"].as_i64().unwrap_or(0);
    current && status("updatedReplicas") >= 1 && status("availableReplicas") >= 1 && status("replicas") == 1
}

fn url(address: &str) -> String {
    match address.contains(':') {
        true => format!("http://[{address}]:{PORT}"),
        false => format!("http://{address}:{PORT}"),
    }
}
