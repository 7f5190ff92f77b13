//! The executor `kubernetes`: keeps the worker pods that open datums need (crate `pods`). It is woken when there may be work, when
//! something is said of a pod and by a timer, and remembers nothing that matters: what is to be done stands in PostgreSQL, what there
//! is in the cluster. Pods outlive the plane; their agents claim datums as workers do, each those of its pool. A plane that is told to
//! stop takes the pods of services and spouts along: it may have been put to sleep, and without it nobody reaches them.

mod book;
mod queries;

use std::time::Duration;

use anyhow::Context;
use chassis::process::Shutdown;
use contract::config::{DataPlaneConfig, StoreConfig};
use contract::executor::{ExecutorConfig, PodsConfig};
use pods::client::Namespace;
use pods::pass::Rounds;
use tokio::time::Instant;

use crate::plane::Plane;
use book::Ledger;

/// Looks by itself that often.
const TIMER: Duration = Duration::from_secs(5);
/// Datums end in droves: rounds are no closer than this.
const LEAST: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_secs(5);
/// So long a plane that stops takes to remove the pods that go with it, and how often it looks.
const END_WITHIN: Duration = Duration::from_secs(8);
const END_AGAIN: Duration = Duration::from_millis(500);

/// Whether pods can do what the configuration says.
///
/// # Errors
/// When they could not reach the bucket.
pub fn check(config: &DataPlaneConfig) -> anyhow::Result<()> {
    let pods = matches!(config.executor, ExecutorConfig::Kubernetes(_));
    let local = matches!(config.store, StoreConfig::Local { .. });
    anyhow::ensure!(
        !(pods && local),
        "the executor `kubernetes` needs a bucket that pods reach: a directory of this machine is none (`store.kind`: `s3`)"
    );
    Ok(())
}

/// Runs until shutdown.
pub async fn run(plane: Plane, config: PodsConfig, shutdown: Shutdown) {
    let namespace = loop {
        match connect(&config).await {
            Ok(namespace) => break namespace,
            Err(error) => tracing::error!("no code can run, because the cluster cannot be spoken to: {error:#}"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.begun() => return,
        }
    };
    let watched = namespace.clone().follow();
    let kept = async {
        tokio::select! {
            () = rounds(plane, config, namespace.clone()) => {}
            () = shutdown.begun() => {}
        }
        end_lasting(&namespace).await;
    };
    tokio::select! {
        () = watched => tracing::error!("the pods of the cluster are watched no more"),
        () = kept => {}
    }
}

/// Takes the pods of services and spouts along, also one whose making was under way a moment ago.
async fn end_lasting(namespace: &Namespace) {
    let until = tokio::time::Instant::now() + END_WITHIN;
    let mut clear = 0;
    while clear < 2 && tokio::time::Instant::now() < until {
        match pods::pass::end_lasting(namespace).await {
            Ok(true) => clear += 1,
            Ok(false) => clear = 0,
            Err(error) => {
                clear = 0;
                tracing::warn!("pods of services are there still, which is tried again: {error}");
            }
        }
        tokio::time::sleep(END_AGAIN).await;
    }
    if clear < 2 {
        tracing::warn!("pods of services may be there until the plane starts again");
    }
}

async fn connect(config: &PodsConfig) -> anyhow::Result<Namespace> {
    Namespace::connect(&config.namespace, config.kubeconfig.as_deref())
        .await
        .context("neither the process's own cluster nor a kubeconfig says how")
}

async fn rounds(plane: Plane, config: PodsConfig, namespace: Namespace) {
    let (mut work, mut changed) = (plane.signals.work(), namespace.changed());
    let of = pods::manifest::Plane {
        organization: plane.organization,
        config,
    };
    let mut rounds = Rounds::new(of, namespace, Ledger::new(plane.clone()));
    // While there are pods, somebody has to take them away again.
    let mut awake = None;
    loop {
        work.borrow_and_update();
        changed.borrow_and_update();
        let began = Instant::now();
        let mut wait = TIMER;
        match rounds.round(plane.now()).await {
            Ok(outcome) => {
                awake = (outcome.pods > 0)
                    .then(|| awake.take().unwrap_or_else(|| plane.activity.begin(&plane.environment)));
                let again = outcome.again_at.and_then(|at| (at - plane.now()).to_std().ok());
                wait = again.map_or(TIMER, |again| again.min(TIMER));
            }
            Err(error) => tracing::warn!("the pods are looked after again later: {error:#}"),
        }
        tokio::select! {
            _ = work.changed() => {}
            _ = changed.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        tokio::time::sleep_until(began + LEAST).await;
    }
}
