//! What belongs to nobody: namespaces, node pools, databases and buckets that say they are an organization's of ours that is not
//! there any more, as a restored backup or a lost transaction leaves them. It is removed after a while, in which it can be
//! claimed; what does not say whose it is, is never touched.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use contract::ids::OrganizationId;
use serde_json::Value;

use crate::kit::names::{self, INSTALLATION, Kind, NAMESPACE, NODE_POOL, OURS};
use crate::kubernetes::ports::{Buckets, Cluster, ClusterError, Databases, Place};

/// So long something must have been nobody's before it goes.
pub const GRACE: Duration = Duration::hours(24);

/// Remembers since when things are nobody's. Only memory: who starts anew, waits anew.
#[derive(Default)]
pub struct Sweeper {
    since: BTreeMap<OrganizationId, DateTime<Utc>>,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Nobody's, and not for long enough.
    pub waiting: Vec<OrganizationId>,
    /// Nobody's, and (begun to be) removed.
    pub removed: Vec<OrganizationId>,
}

/// The ports that the sweeper looks through.
pub struct Grounds<'a> {
    /// Names this installation: what another one made is its own business.
    pub installation: &'a str,
    /// The cluster.
    pub cluster: &'a dyn Cluster,
    /// PostgreSQL.
    pub databases: &'a dyn Databases,
    /// The object store.
    pub buckets: &'a dyn Buckets,
}

impl Sweeper {
    /// Looks through everything. `known` says of which of these organizations the ledger has a plane that is not gone, asked
    /// *after* everything was listed, so that what is just being made is known.
    ///
    /// # Errors
    /// When something cannot be listed or removed; nothing is removed on half a look.
    pub async fn sweep<F, R>(&mut self, grounds: &Grounds<'_>, known: F, now: DateTime<Utc>) -> anyhow::Result<Swept>
    where
        F: FnOnce(Vec<OrganizationId>) -> R,
        R: Future<Output = anyhow::Result<BTreeSet<OrganizationId>>>,
    {
        let there = Found::of(grounds).await?;
        let found = there.organizations();
        let known = known(found.iter().copied().collect()).await?;
        let orphans: BTreeSet<OrganizationId> = found.difference(&known).copied().collect();
        self.since.retain(|organization, _| orphans.contains(organization));
        let mut swept = Swept::default();
        for organization in orphans {
            let since = *self.since.entry(organization).or_insert(now);
            if now - since < GRACE {
                swept.waiting.push(organization);
                continue;
            }
            remove(grounds, &there, organization).await?;
            swept.removed.push(organization);
        }
        Ok(swept)
    }
}

/// Everything that says whose it is: of everybody, in one look.
struct Found {
    /// What runs goes before what it writes to: pools of nodes, then namespaces.
    objects: [(&'static Kind, BTreeMap<OrganizationId, Vec<Value>>); 2],
    databases: BTreeSet<OrganizationId>,
    buckets: BTreeSet<OrganizationId>,
}

impl Found {
    async fn of(grounds: &Grounds<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            objects: [
                (&NODE_POOL, owned(grounds, &NODE_POOL).await?),
                (&NAMESPACE, owned(grounds, &NAMESPACE).await?),
            ],
            databases: grounds.databases.list().await?.into_iter().collect(),
            buckets: grounds.buckets.list().await?.into_iter().collect(),
        })
    }

    fn organizations(&self) -> BTreeSet<OrganizationId> {
        let objects = self.objects.iter().flat_map(|(_, owned)| owned.keys());
        objects.chain(&self.databases).chain(&self.buckets).copied().collect()
    }
}

/// The objects of a kind that say whose they are.
async fn owned(grounds: &Grounds<'_>, kind: &Kind) -> anyhow::Result<BTreeMap<OrganizationId, Vec<Value>>> {
    let ours = format!("{OURS},{INSTALLATION}={}", grounds.installation);
    let objects = match grounds.cluster.list(kind, None, &ours).await {
        Ok(objects) => objects,
        // A cluster without Karpenter does not know the kind.
        Err(ClusterError::Refused(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut owned: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for object in objects {
        if let Some(owner) = names::owner(&object) {
            owned.entry(owner).or_default().push(object);
        }
    }
    Ok(owned)
}

/// Removes what was found, each thing as it was found: what is another one by now, stays.
async fn remove(grounds: &Grounds<'_>, there: &Found, organization: OrganizationId) -> anyhow::Result<()> {
    for (kind, owned) in &there.objects {
        for object in owned.get(&organization).into_iter().flatten() {
            let place = Place {
                kind,
                namespace: None,
                name: names::name(object),
            };
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            grounds.cluster.delete(&place, uid).await?;
        }
    }
    if there.databases.contains(&organization) {
        grounds.databases.remove(organization).await?;
    }
    if there.buckets.contains(&organization) {
        grounds.buckets.remove(organization).await?;
    }
    Ok(())
}
