//! What a cluster says of a pod, read into what the planner needs of it.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::manifest::{AGENT, PART, SHIM, TEMPLATE, USER};
use crate::pool::{Kind, Pool};

/// A word of the cluster and what it says to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// `ErrImagePull`
    pub reason: String,
    /// The rest, which may be empty.
    pub message: String,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does not run yet.
    Pending,
    /// It runs.
    Running,
    /// It ended, and will not run again.
    Ended,
    /// The cluster has lost sight of it.
    Unknown,
}

/// A container of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The code's.
    User,
    /// The one that copies the shim.
    Shim,
    /// Ours.
    Agent,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub told: Told,
    /// With which code.
    pub exit_code: i64,
    /// When.
    pub at: Option<DateTime<Utc>>,
}

/// What is said of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// Which.
    pub part: Part,
    /// How often it was started again.
    pub restarts: u64,
    /// It runs and is ready.
    pub ready: bool,
    /// Why it waits.
    pub waiting: Option<Told>,
    /// How it ended, or its run before.
    pub ended: Option<End>,
}

/// What is said of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Tells it from others that had the name before; its agent's name as a worker too.
    pub uid: Uuid,
    /// Whose it is.
    pub pool: Pool,
    /// What it does.
    pub kind: Kind,
    /// Which of those.
    pub slot: u32,
    /// What it was made from.
    pub template: String,
    /// How far it is.
    pub phase: Phase,
    /// What is said of it as a whole.
    pub told: Told,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// It is being removed, and ought to be gone by then.
    pub gone_by: Option<DateTime<Utc>>,
    /// Why no node was found for it.
    pub unplaced: Option<Told>,
    /// Why it is taken away from its node.
    pub disrupted: Option<Told>,
    /// Its containers.
    pub containers: Vec<ContainerSeen>,
}

fn text(value: &Value, pointer: &str) -> String {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn time(value: &Value, pointer: &str) -> Option<DateTime<Utc>> {
    text(value, pointer).parse().ok()
}

fn told(value: &Value) -> Told {
    Told {
        reason: text(value, "/reason"),
        message: text(value, "/message"),
    }
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.map(Vec::as_slice).unwrap_or_default()
}

/// The condition of that type, if it has that status.
fn condition(pod: &Value, kind: &str, status: &str) -> Option<Told> {
    let found = items(pod, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == kind && text(c, "/status") == status);
    found.map(told)
}

fn container(value: &Value) -> Option<ContainerSeen> {
    let part = match text(value, "/name").as_str() {
        USER => Part::User,
        SHIM => Part::Shim,
        AGENT => Part::Agent,
        _ => return None,
    };
    let end = |value: &Value| End {
        told: told(value),
        exit_code: value.pointer("/exitCode").and_then(Value::as_i64).unwrap_or(0),
        at: time(value, "/finishedAt"),
    };
    let now = value.pointer("/state/terminated");
    Some(ContainerSeen {
        part,
        restarts: value.pointer("/restartCount").and_then(Value::as_u64).unwrap_or(0),
        ready: value.pointer("/ready").and_then(Value::as_bool).unwrap_or(false),
        waiting: value.pointer("/state/waiting").map(told),
        ended: now.or_else(|| value.pointer("/lastState/terminated")).map(end),
    })
}

impl PodSeen {
    /// Reads a pod; `None` when it is no worker's of ours.
    pub fn read(pod: &Value) -> Option<Self> {
        let name = text(pod, "/metadata/name");
        let (pool, slot) = Pool::of_pod(&name)?;
        let phase = match text(pod, "/status/phase").as_str() {
            "Running" => Phase::Running,
            "Succeeded" | "Failed" => Phase::Ended,
            "Unknown" => Phase::Unknown,
            _ => Phase::Pending,
        };
        let part = pod.pointer("/metadata/labels").and_then(|labels| labels.get(PART));
        let template = pod.pointer("/metadata/annotations").and_then(|a| a.get(TEMPLATE));
        let containers = ["/status/initContainerStatuses", "/status/containerStatuses"];
        Some(Self {
            uid: Uuid::try_parse(&text(pod, "/metadata/uid")).ok()?,
            pool,
            kind: part
                .and_then(Value::as_str)
                .and_then(Kind::parse)
                .unwrap_or(Kind::Worker),
            slot,
            template: template.and_then(Value::as_str).unwrap_or_default().to_owned(),
            phase,
            told: pod.get("status").map(told).unwrap_or_default(),
            created_at: time(pod, "/metadata/creationTimestamp")?,
            gone_by: time(pod, "/metadata/deletionTimestamp"),
            unplaced: condition(pod, "PodScheduled", "False"),
            disrupted: condition(pod, "DisruptionTarget", "True"),
            containers: containers
                .iter()
                .flat_map(|pointer| items(pod, pointer))
                .filter_map(container)
                .collect(),
            name,
        })
    }

    /// Its code could run now.
    pub fn is_ready(&self) -> bool {
        let ready = |part| self.containers.iter().any(|c| c.part == part && c.ready);
        self.phase == Phase::Running && self.gone_by.is_none() && ready(Part::User) && ready(Part::Agent)
    }
}
