//! One round of the executor: look, plan, act. Whatever fails is told and left to the next round.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Duration, Utc};
use futures::StreamExt;

use crate::manifest::{self, Plane, TEMPLATE};
use crate::plan::{self, Action, Hold, Known, Limits};
use crate::pool::{Kind, Pool};
use crate::ports::{Blueprint, Book, Cluster, ClusterError, Demand};
use crate::trouble::Trouble;

/// So many pods are made at the same time.
const AT_ONCE: usize = 16;

/// What carries out rounds.
pub struct Rounds<C, B> {
    plane: Plane,
    cluster: C,
    book: B,
    holds: HashMap<Pool, Hold>,
    /// What pools are made of, and the template of their pods.
    blueprints: HashMap<Pool, (Blueprint, String)>,
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Pods that somebody has to take away again. Those of services go with the plane, and keep it from nothing.
    pub pods: usize,
    /// Another look by then is worth it, whatever happens.
    pub again_at: Option<DateTime<Utc>>,
}

/// Removes the pods of services and spouts, whose plane stops. `false`: some are there still, or not all can be known; once more, then.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn end_lasting<C: Cluster>(cluster: &C) -> Result<bool, ClusterError> {
    let pods = cluster.pods().await?;
    let lasting: Vec<_> = pods
        .iter()
        .filter(|pod| pod.kind.lasts() && pod.gone_by.is_none())
        .collect();
    let requests = lasting.iter().map(|pod| cluster.delete(&pod.name, pod.uid, false));
    let removed: Vec<Result<(), ClusterError>> = futures::future::join_all(requests).await;
    removed.into_iter().collect::<Result<(), _>>()?;
    Ok(lasting.is_empty())
}

impl<C: Cluster, B: Book> Rounds<C, B> {
    /// Nothing is asked yet.
    pub fn new(plane: Plane, cluster: C, book: B) -> Self {
        Self {
            plane,
            cluster,
            book,
            holds: HashMap::new(),
            blueprints: HashMap::new(),
        }
    }

    fn limits(&self) -> Limits {
        let config = &self.plane.config;
        Limits {
            pods: config.pods_max,
            parallelism: config.parallelism,
            idle: Duration::seconds(i64::try_from(config.idle_seconds).unwrap_or(i64::MAX / 1_000)),
        }
    }

    /// One round.
    ///
    /// # Errors
    /// When the cluster or the database cannot be asked at all; the next round begins anew.
    pub async fn round(&mut self, now: DateTime<Utc>) -> anyhow::Result<Outcome> {
        let pods = self.cluster.pods().await?;
        let seen: BTreeSet<Pool> = pods.iter().map(|pod| pod.pool).collect();
        let seen: Vec<Pool> = seen.into_iter().collect();
        let demands = self.book.demands(&seen).await?;
        let busy = self.book.busy(&pods).await?;
        self.holds.retain(|pool, _| demands.contains_key(pool));
        self.blueprints
            .retain(|pool, _| demands.contains_key(pool) || seen.contains(pool));
        let (templates, unfit) = self.templates(&demands).await?;
        let mut actions = plan::plan(&Known {
            now,
            limits: self.limits(),
            demands: &demands,
            pods: &pods,
            busy: &busy,
            holds: &self.holds,
            templates: &templates,
        });
        actions.retain(|action| match action {
            Action::Create { pool, .. } | Action::Tell(pool, _) => !unfit.contains(pool),
            _ => true,
        });
        let resting = actions.iter().filter_map(|action| match action {
            Action::Rest(pool, uid) => Some((*pool, *uid)),
            _ => None,
        });
        self.book.rest(&resting.collect::<Vec<_>>()).await?;
        let ready: BTreeSet<Pool> = pods.iter().filter(|pod| pod.is_ready()).map(|pod| pod.pool).collect();
        self.holds
            .retain(|pool, hold| hold.until > now || !ready.contains(pool));
        let mut failed = BTreeSet::new();
        for action in actions {
            let pool = action.pool();
            // What comes after a step of a pool that failed may need it.
            if failed.contains(&pool) {
                continue;
            }
            if let Err(error) = self.act(action, now).await {
                tracing::warn!("the pods of a pool are looked after again later: {error:#}");
                failed.insert(pool);
            }
        }
        Ok(Outcome {
            pods: pods.iter().filter(|pod| pod.kind != Kind::Service).count(),
            again_at: self
                .holds
                .values()
                .map(|hold| hold.until)
                .filter(|until| *until > now)
                .min(),
        })
    }

    /// What the pods of each pool with something to do are made from now. Pools of which none can be made are given up.
    async fn templates(
        &mut self,
        demands: &BTreeMap<Pool, Demand>,
    ) -> anyhow::Result<(HashMap<Pool, String>, BTreeSet<Pool>)> {
        let (mut templates, mut unfit) = (HashMap::new(), BTreeSet::new());
        for (pool, _) in demands.iter().filter(|(_, demand)| demand.open > 0) {
            match self.template(*pool).await? {
                Ok(template) => {
                    templates.insert(*pool, template);
                }
                Err(why) => {
                    self.book.give_up(*pool, &why).await?;
                    unfit.insert(*pool);
                }
            }
        }
        Ok((templates, unfit))
    }

    /// What its pods are made from. It is kept: neither the version nor the configuration changes while the plane runs.
    async fn template(&mut self, pool: Pool) -> anyhow::Result<Result<String, String>> {
        if let Some((_, template)) = self.blueprints.get(&pool) {
            return Ok(Ok(template.clone()));
        }
        let blueprint = match self.book.blueprint(pool).await? {
            Ok(blueprint) => blueprint,
            Err(why) => return Ok(Err(why)),
        };
        let pod = match manifest::pod(&self.plane, &blueprint, pool, 0) {
            Ok(pod) => pod,
            Err(unfit) => return Ok(Err(unfit.to_string())),
        };
        let template = &pod["metadata"]["annotations"][TEMPLATE];
        let template = template.as_str().unwrap_or_default().to_owned();
        self.blueprints.insert(pool, (blueprint, template.clone()));
        Ok(Ok(template))
    }

    /// Carries out one step.
    async fn act(&mut self, action: Action, now: DateTime<Utc>) -> anyhow::Result<()> {
        match action {
            Action::Lost { uid, pool, trouble } => {
                self.book
                    .lost(pool, uid, trouble.as_ref().map(Trouble::to_string).as_deref())
                    .await?;
                if let Some(trouble) = trouble {
                    self.hold(pool, trouble.to_string(), now);
                }
                Ok(())
            }
            Action::DeleteSecrets(pool) => {
                self.cluster.delete_secret(&pool.secret()).await?;
                self.cluster.delete_secret(&pool.pull_secret()).await?;
                self.book.forget_secrets(pool).await?;
                Ok(())
            }
            Action::Delete { name, uid, now, .. } => {
                self.cluster.delete(&name, uid, now).await?;
                Ok(())
            }
            Action::Rest(..) => Ok(()),
            Action::Create { pool, slots } => self.create(pool, &slots, now).await,
            Action::Tell(pool, why) => {
                self.book.tell(pool, why.as_deref()).await?;
                Ok(())
            }
            Action::GiveUp(pool, why) => {
                self.book.give_up(pool, &why).await?;
                Ok(())
            }
        }
    }

    fn hold(&mut self, pool: Pool, why: String, now: DateTime<Utc>) {
        let hold = Hold::after(self.holds.get(&pool), why, now);
        self.holds.insert(pool, hold);
    }

    /// The secrets come first: a pod waits long for one that is not there.
    async fn create(&mut self, pool: Pool, slots: &[u32], now: DateTime<Utc>) -> anyhow::Result<()> {
        let secrets = match self.book.secrets(pool).await? {
            Ok(secrets) => secrets,
            Err(why) => {
                self.hold(pool, why, now);
                return Ok(());
            }
        };
        let mut objects = vec![manifest::config_secret(&self.plane, pool, &secrets.config)];
        objects.extend(
            secrets
                .docker_config
                .map(|config| manifest::pull_secret(&self.plane, pool, &config)),
        );
        // So that they are removed although everything may be forgotten from here on.
        self.book.note_secrets(pool).await?;
        for object in &objects {
            if let Err(error) = self.cluster.apply_secret(object).await {
                self.hold(pool, error.to_string(), now);
                return Ok(());
            }
        }
        // Pods are made of pools that have something to do, whose template this round has seen.
        let Some((blueprint, _)) = self.blueprints.get(&pool) else {
            return Ok(());
        };
        let mut pods = Vec::new();
        for slot in slots {
            match manifest::pod(&self.plane, blueprint, pool, *slot) {
                Ok(pod) => pods.push(pod),
                Err(unfit) => {
                    self.book.give_up(pool, &unfit.to_string()).await?;
                    return Ok(());
                }
            }
        }
        let cluster = &self.cluster;
        let requests: Vec<_> = pods.iter().map(|pod| cluster.create(pod)).collect();
        let made: Vec<Result<(), ClusterError>> = futures::stream::iter(requests).buffered(AT_ONCE).collect().await;
        let Some(error) = made.into_iter().find_map(Result::err) else {
            return Ok(());
        };
        if let ClusterError::Invalid(_) = &error {
            self.book.give_up(pool, &error.to_string()).await?;
        }
        self.hold(pool, error.to_string(), now);
        Ok(())
    }
}
