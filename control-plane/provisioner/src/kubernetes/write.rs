//! What is changed in a cluster. Each write names the version of the object that it was decided on, so that of two writers one is
//! refused; what a newer instruction made is left alone; what does not say that it is ours is never touched.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::drift::first_difference;
use super::ports::Place;
use super::{Cluster, ClusterError, Expected, KubernetesCloud, of};
use crate::cloud::{Order, Outranked};
use crate::kit;
use crate::kit::names::{
    self, ADMISSION_BINDING, COMPLETE, DEPLOYMENT, DIGEST, GENERATION, IN_NAMESPACE, NAMESPACE, NODE_POOL, SECRET,
    namespace,
};

/// What names what is wanted of an object.
pub(super) fn digest(object: &Value) -> String {
    hex::encode(&Sha256::digest(object.to_string())[..16])
}

/// What names a whole kit.
pub(super) fn digest_of_all(objects: &[Value]) -> String {
    let mut hasher = Sha256::new();
    for object in objects {
        hasher.update(object.to_string());
    }
    hex::encode(&hasher.finalize()[..16])
}

/// `NetworkPolicy plane`.
pub(super) fn called(object: &Value) -> String {
    format!(
        "{} `{}`",
        object["kind"].as_str().unwrap_or_default(),
        names::name(object)
    )
}

fn expected(there: Option<&Value>) -> Expected {
    match there.and_then(|object| object["metadata"]["resourceVersion"].as_str()) {
        Some(version) => Expected::Version(version.to_owned()),
        None => Expected::Absent,
    }
}

/// Refuses to touch what a newer instruction made, or what is not this organization's.
pub(super) fn check(order: &Order, wanted: &Value, there: Option<&Value>) -> anyhow::Result<()> {
    let Some(there) = there else { return Ok(()) };
    // What Kubernetes itself puts into every namespace has no labels yet.
    let made_by_cluster = wanted["kind"] == "ServiceAccount" && names::name(wanted) == "default";
    let owner = names::owner(there);
    anyhow::ensure!(
        owner == Some(order.identity.organization) || owner.is_none() && made_by_cluster,
        "{} is there and does not say that it is {}'s: it is left alone; remove it, or label it, if it is not needed",
        called(wanted),
        order.identity.organization
    );
    match names::generation(there) {
        Some(theirs) if theirs > order.generation => Err(Outranked {
            what: called(wanted),
            theirs,
            ours: order.generation,
        }
        .into()),
        _ => Ok(()),
    }
}

/// Applies an object over what was read of it.
async fn put(
    cluster: &dyn Cluster,
    order: &Order,
    wanted: &Value,
    there: Option<&Value>,
    complete: Option<&str>,
) -> anyhow::Result<Value> {
    check(order, wanted, there)?;
    put_as(cluster, order.generation, wanted, there, complete).await
}

/// The same as of an instruction of that generation, without a look at whose what is there is.
pub(super) async fn put_as(
    cluster: &dyn Cluster,
    generation: i64,
    wanted: &Value,
    there: Option<&Value>,
    complete: Option<&str>,
) -> anyhow::Result<Value> {
    let mut object = wanted.clone();
    let annotations = &mut object["metadata"]["annotations"];
    annotations[GENERATION] = generation.to_string().into();
    annotations[DIGEST] = digest(wanted).into();
    if let Some(complete) = complete {
        annotations[COMPLETE] = complete.into();
    }
    cluster
        .apply(&object, &expected(there))
        .await
        .map_err(ClusterError::or_raced)
}

fn shared_place(object: &Value) -> Place<'_> {
    Place {
        kind: names::kind_of(object).unwrap_or(&ADMISSION_BINDING),
        namespace: object["metadata"]["namespace"].as_str(),
        name: names::name(object),
    }
}

/// Removes an object that no organization owns, if it is there and this installation's.
pub(super) async fn remove_shared(cluster: &dyn Cluster, unwanted: &Value) -> anyhow::Result<()> {
    let place = shared_place(unwanted);
    let Some(there) = cluster.get(&place).await? else {
        return Ok(());
    };
    let leaves = there["metadata"]["deletionTimestamp"].is_string();
    let labels = &unwanted["metadata"]["labels"];
    if leaves || first_difference(labels, &there["metadata"]["labels"]).is_some() {
        return Ok(());
    }
    let uid = there["metadata"]["uid"].as_str().unwrap_or_default();
    cluster.delete(&place, uid).await.map_err(ClusterError::or_raced)
}

/// Applies an object that no organization owns, where it is not as it ought to be.
pub(super) async fn apply_shared(cluster: &dyn Cluster, wanted: &Value) -> anyhow::Result<()> {
    let there = cluster.get(&shared_place(wanted)).await?;
    if there
        .as_ref()
        .is_some_and(|there| first_difference(wanted, there).is_none())
    {
        return Ok(());
    }
    cluster
        .apply(wanted, &expected(there.as_ref()))
        .await
        .map_err(ClusterError::or_raced)?;
    Ok(())
}

impl KubernetesCloud {
    pub(super) async fn read(&self, kind: &names::Kind, space: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let place = Place {
            kind,
            namespace: kind.namespaced.then_some(space),
            name,
        };
        Ok(self.cluster.get(&place).await?)
    }

    /// Everything of the kit that is there.
    pub(super) async fn read_kit(&self, order: &Order) -> anyhow::Result<Vec<Value>> {
        let space = namespace(order.identity.organization);
        let ours = of(order.identity.organization);
        let mut there = Vec::new();
        for kind in &IN_NAMESPACE {
            let found = self.cluster.list(kind, Some(&space), &ours).await?;
            there.extend(found.into_iter().map(|object| named(kind, object)));
        }
        there.extend(self.read_node_pools(order).await?);
        Ok(there)
    }

    pub(super) async fn read_node_pools(&self, order: &Order) -> anyhow::Result<Vec<Value>> {
        if self.settings.config.gpu.backend != contract::cloud::GpuBackend::Karpenter {
            return Ok(Vec::new());
        }
        let ours = of(order.identity.organization);
        let found = self.cluster.list(&NODE_POOL, None, &ours).await?;
        Ok(found.into_iter().map(|object| named(&NODE_POOL, object)).collect())
    }

    /// Makes the kit be as it ought to; what is right is not written.
    pub(super) async fn write_kit(&self, order: &Order) -> anyhow::Result<()> {
        let (kit, cluster) = (self.kit(order), &*self.cluster);
        let (space, objects) = (kit.namespace(), kit.objects());
        let complete = digest_of_all(&objects);
        let name = namespace(order.identity.organization);
        let before = self.read(&NAMESPACE, &name, &name).await?;
        // Until all of it is there, it does not say so.
        let is_marked = before
            .as_ref()
            .and_then(|space| names::annotation(space, COMPLETE))
            .is_some();
        let now = match &before {
            Some(there) if !is_marked && first_difference(&space, there).is_none() => {
                check(order, &space, Some(there))?;
                there.clone()
            }
            there => put(cluster, order, &space, there.as_ref(), None).await?,
        };
        let there = match before {
            Some(_) => self.read_kit(order).await?,
            None => self.read_node_pools(order).await?,
        };
        for wanted in &objects {
            let mut found = there.iter().find(|object| same(wanted, object)).cloned();
            if found.is_none() && wanted["kind"] == "ServiceAccount" {
                // The namespace's own one is there without our labels.
                let kind = &names::SERVICE_ACCOUNT;
                found = self.read(kind, &name, names::name(wanted)).await?;
            }
            let right = found.as_ref().is_some_and(|found| {
                first_difference(wanted, found).is_none() && names::annotation(found, DIGEST) == Some(&digest(wanted))
            });
            if right {
                continue;
            }
            put(cluster, order, wanted, found.as_ref(), None).await?;
        }
        // Node pools of classes that are no more; whatever else is in the namespace goes with it.
        for left in there.iter().filter(|object| object["kind"] == NODE_POOL.kind) {
            if !objects.iter().any(|wanted| same(wanted, left)) {
                remove(cluster, order, &NODE_POOL, left).await?;
            }
        }
        put(cluster, order, &space, Some(&now), Some(&complete)).await?;
        // Whoever changed something may have changed the secret too, which only a full look looks at.
        self.touched(order.identity.organization);
        Ok(())
    }

    /// Writes the plane's configuration and lets one pod of it run.
    pub(super) async fn write_workload(&self, order: &Order) -> anyhow::Result<()> {
        let space = namespace(order.identity.organization);
        let config = self.config(order).await?;
        let mut whole = config.clone();
        whole["agent_token"] = {
            use secrecy::ExposeSecret;
            order.secrets.agent_token.expose_secret().into()
        };
        whole["jwks"] = (self.settings.jwks)();
        let secret = kit::secret(&self.kit(order), &whole.to_string());
        let deployment = self.deployment(order, &config, 1);
        let there = self.read(&DEPLOYMENT, &space, "plane").await?;
        // Asked before anything is written: a secret without its pods would be half an instruction.
        check(order, &deployment, there.as_ref())?;
        self.write_session(order).await?;
        let secret_there = self.read(&SECRET, &space, "plane-config").await?;
        put(&*self.cluster, order, &secret, secret_there.as_ref(), None).await?;
        put(&*self.cluster, order, &deployment, there.as_ref(), None).await?;
        Ok(())
    }

    /// Lets no pod of the plane run.
    pub(super) async fn scale_down(&self, order: &Order) -> anyhow::Result<()> {
        let space = namespace(order.identity.organization);
        self.forget_session(order.identity.organization);
        let Some(there) = self.read(&DEPLOYMENT, &space, "plane").await? else {
            return Ok(());
        };
        // All of it is said again but the number: what would not be said any more, server-side apply takes away.
        let config = self.config(order).await?;
        let wanted = self.deployment(order, &config, 0);
        put(&*self.cluster, order, &wanted, Some(&there), None).await?;
        Ok(())
    }

    pub(super) fn note_verified(&self, order: &Order, complete: &str) {
        let now = self.environment.now();
        self.table()
            .insert(order.identity.organization, (complete.to_owned(), now));
    }
}

/// Objects of a list do not name their kind.
fn named(kind: &names::Kind, mut object: Value) -> Value {
    object["kind"] = kind.kind.into();
    object["apiVersion"] = kind.api_version.into();
    object
}

/// Whether both are one object.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a["kind"] == b["kind"] && names::name(a) == names::name(b)
}

async fn remove(cluster: &dyn Cluster, order: &Order, kind: &names::Kind, there: &Value) -> anyhow::Result<()> {
    check(order, there, Some(there))?;
    if there["metadata"]["deletionTimestamp"].is_string() {
        return Ok(());
    }
    let place = Place {
        kind,
        namespace: there["metadata"]["namespace"].as_str(),
        name: names::name(there),
    };
    let uid = there["metadata"]["uid"].as_str().unwrap_or_default();
    cluster.delete(&place, uid).await.map_err(ClusterError::or_raced)
}

/// Begins to remove all that an organization has in the cluster: its nodes, then its namespace with all in it.
pub(super) async fn remove_cluster_objects(cluster: &dyn Cluster, order: &Order) -> anyhow::Result<()> {
    let organization = order.identity.organization;
    let pools = match cluster.list(&NODE_POOL, None, &of(organization)).await {
        Ok(pools) => pools,
        // A cluster without Karpenter does not know the kind.
        Err(ClusterError::Refused(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for pool in pools {
        remove(cluster, order, &NODE_POOL, &named(&NODE_POOL, pool)).await?;
    }
    let name = namespace(organization);
    let place = Place {
        kind: &NAMESPACE,
        namespace: None,
        name: &name,
    };
    match cluster.get(&place).await? {
        Some(space) => remove(cluster, order, &NAMESPACE, &named(&NAMESPACE, space)).await,
        None => Ok(()),
    }
}
