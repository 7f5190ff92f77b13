//! What rounds ask of the database, and what they write there.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::PoisonError;

use async_trait::async_trait;
use contract::api::JobState;
use contract::config::{CacheConfig, StoreConfig};
use contract::executor::{ExecutorConfig, NodeCache, SERVICE_PORT};
use contract::names::ProjectName;
use contract::problem::ProblemKind;
use pods::ports::Demand;
use pods::{Blueprint, Book, Kind, PodSeen, Pool, Secrets, manifest};
use provenance::spec::PipelineSpec;
use uuid::Uuid;

use super::queries;
use crate::failure::Failure;
use crate::images::{Digest, ImageReference, docker_config};
use crate::jobs;
use crate::permissions::System;
use crate::plane::Plane;
use crate::secrets;
use crate::serving;
use crate::worker::admission::Admitted;
use crate::worker::protocol::{RunnerConfig, WorkerConfig};
use crate::worker::queries::{self as leases, Gone};

const SELF: System =
    System::because("the executor acts for the plane; the rights were checked when the pipeline was applied");

/// The tenant's database.
pub struct Ledger {
    plane: Plane,
}

impl Ledger {
    /// That of this plane.
    pub fn new(plane: Plane) -> Self {
        Self { plane }
    }

    /// What the agents of a pool are told. It opens that pool, and the bucket.
    fn worker(&self, pool: Pool, lasting: bool) -> anyhow::Result<String> {
        let config = &self.plane.config;
        let ExecutorConfig::Kubernetes(pods) = &config.executor else {
            anyhow::bail!("this plane runs no pods");
        };
        let mut store = config.store.for_worker();
        if let StoreConfig::S3 { cache, .. } = &mut store {
            *cache = pods.node_cache.as_ref().map(|shared| CacheConfig {
                directory: PathBuf::from(manifest::CACHE),
                most_bytes: Some(match shared {
                    NodeCache::HostPath { bytes, .. } | NodeCache::Claim { bytes, .. } => *bytes,
                }),
            });
        }
        let worker = WorkerConfig {
            plane_url: pods.workers_url.clone(),
            secret: String::new(),
            pool: Some(pool),
            capability: Some(self.plane.capabilities.of(pool)),
            lasting,
            worker: Uuid::nil(),
            store,
            data_key: config.data_key.clone(),
            home: PathBuf::from(manifest::HOME),
            runner: RunnerConfig::Pod {
                socket: PathBuf::from(manifest::SOCKET),
                pfs: PathBuf::from(manifest::PFS),
                code: PathBuf::from(manifest::CODE),
                door: SERVICE_PORT,
            },
            sandbox_binary: PathBuf::new(),
            masked: Vec::new(),
            slots: 1,
            sandbox_uid: 0,
            cache_bytes_max: pods.agent.disk_bytes / 2,
            imports: config.imports.clone(),
        };
        Ok(serde_json::to_string(&worker)?)
    }

    async fn spec(&self, pool: Pool) -> anyhow::Result<Result<(PipelineSpec, Option<String>), String>> {
        let mut conn = self.plane.pool.acquire().await?;
        let Some(row) = queries::find_version(&mut conn, &SELF, pool).await? else {
            return Ok(Err("its pipeline is not there any more".to_owned()));
        };
        let project: ProjectName = row.project.parse()?;
        Ok(match PipelineSpec::parse(&row.spec.0, &project) {
            Ok(spec) => Ok((spec, row.image_digest)),
            Err(errors) => Err(format!("its spec cannot be read any more: {errors:?}")),
        })
    }
}

/// What the agent of a pod is called in leases.
fn worker_of(pool: Pool, pod: Uuid) -> Uuid {
    Admitted::Pool(pool).worker(pod)
}

/// What may go another time is an error; what will not is said in words.
fn in_words<T>(answer: Result<T, Failure>) -> anyhow::Result<Result<T, String>> {
    match answer {
        Ok(found) => Ok(Ok(found)),
        Err(error) if matches!(error.kind(), ProblemKind::Overloaded | ProblemKind::StorageFull) => Err(error.into()),
        Err(error) => Ok(Err(error.detail().to_owned())),
    }
}

/// The image by its digest.
fn pinned(spec: &PipelineSpec, digest: Option<&str>) -> Result<String, String> {
    let again = "name an image in `transform.image` and apply the pipeline again";
    let name = spec.transform.image.as_deref();
    let (Some(name), Some(digest)) = (name, digest) else {
        return Err(format!(
            "code runs in pods here, and this version has no image: {again}"
        ));
    };
    let reference: ImageReference = name.parse().map_err(|error| format!("{error}: {again}"))?;
    let digest: Digest = digest.parse().map_err(|error| format!("{error}: {again}"))?;
    Ok(reference.at(digest).to_string())
}

#[async_trait]
impl Book for Ledger {
    async fn demands(&self, seen: &[Pool]) -> anyhow::Result<BTreeMap<Pool, Demand>> {
        let mut conn = self.plane.pool.acquire().await?;
        let rows = queries::demands(&mut conn, &SELF, seen).await?;
        let demand = |row: queries::DemandRow| {
            let pool = Pool {
                pipeline: row.pipeline_id,
                version: row.version,
            };
            let demand = Demand {
                open: u64::try_from(row.open).unwrap_or(0),
                parallelism: row.parallelism.and_then(|n| u32::try_from(n).ok()),
                stays: row.stays,
                active_at: row.active_at,
                has_secrets: row.has_secrets,
            };
            (pool, demand)
        };
        Ok(rows.into_iter().map(demand).collect())
    }

    async fn busy(&self, pods: &[PodSeen]) -> anyhow::Result<HashSet<Uuid>> {
        let mut conn = self.plane.pool.acquire().await?;
        let good_after = self.plane.leases_good_after(self.plane.now());
        let workers: HashSet<Uuid> = queries::busy(&mut conn, &SELF, good_after).await?.into_iter().collect();
        let busy = pods
            .iter()
            .filter(|pod| workers.contains(&worker_of(pod.pool, pod.uid)));
        Ok(busy.map(|pod| pod.uid).collect())
    }

    async fn rest(&self, pods: &[(Pool, Uuid)]) -> anyhow::Result<()> {
        let workers = pods.iter().map(|(pool, uid)| worker_of(*pool, *uid)).collect();
        *self.plane.resting.lock().unwrap_or_else(PoisonError::into_inner) = workers;
        Ok(())
    }

    async fn blueprint(&self, pool: Pool) -> anyhow::Result<Result<Blueprint, String>> {
        let found = self.spec(pool).await?;
        Ok(found.and_then(|(spec, digest)| {
            Ok(Blueprint {
                image: pinned(&spec, digest.as_deref())?,
                spec,
            })
        }))
    }

    async fn secrets(&self, pool: Pool) -> anyhow::Result<Result<Secrets, String>> {
        let spec = match self.spec(pool).await? {
            Ok((spec, _)) => spec,
            Err(why) => return Ok(Err(why)),
        };
        let config = self.worker(pool, Kind::of(&spec).lasts())?;
        let names = &spec.transform.image_pull_secrets;
        if names.is_empty() {
            return Ok(Ok(Secrets {
                config,
                docker_config: None,
            }));
        }
        let mut conn = self.plane.pool.acquire().await?;
        let logins = in_words(secrets::of_registries(&self.plane, &mut conn, &spec.project, names).await)?;
        Ok(logins.map(|logins| Secrets {
            config,
            docker_config: Some(docker_config(&logins)),
        }))
    }

    async fn note_secrets(&self, pool: Pool) -> anyhow::Result<()> {
        let mut conn = self.plane.pool.acquire().await?;
        Ok(queries::insert_secrets(&mut conn, &SELF, pool, self.plane.now()).await?)
    }

    async fn forget_secrets(&self, pool: Pool) -> anyhow::Result<()> {
        let mut conn = self.plane.pool.acquire().await?;
        Ok(queries::delete_secrets(&mut conn, &SELF, pool).await?)
    }

    async fn lost(&self, pool: Pool, pod: Uuid, reason: Option<&str>) -> anyhow::Result<()> {
        let worker = worker_of(pool, pod);
        let mut conn = self.plane.pool.acquire().await?;
        let gone = match reason {
            Some(reason) => Gone::Pod { worker, reason },
            None => Gone::Left(worker),
        };
        if leases::free(&mut conn, &SELF, gone, self.plane.now()).await? > 0 {
            self.plane.signals.work_changed();
        }
        drop(conn);
        Ok(serving::desk::gone(&self.plane, worker, reason).await?)
    }

    async fn tell(&self, pool: Pool, reason: Option<&str>) -> anyhow::Result<()> {
        let mut conn = self.plane.pool.acquire().await?;
        if queries::update_reason(&mut conn, &SELF, pool, reason).await? {
            self.plane.signals.commits_changed();
        }
        Ok(())
    }

    async fn give_up(&self, pool: Pool, reason: &str) -> anyhow::Result<()> {
        let mut tx = self.plane.begin().await?;
        for job in queries::running(&mut tx, &SELF, pool).await? {
            jobs::end::end(&self.plane, &mut tx, job, JobState::Failure, Some(reason)).await?;
        }
        tx.commit().await?;
        self.plane.signals.work_changed();
        self.plane.signals.commits_changed();
        Ok(())
    }
}
