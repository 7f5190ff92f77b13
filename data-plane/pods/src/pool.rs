//! Pools: the pods of one version of a pipeline, what they do, and the names of what belongs to one.

use std::fmt;

use provenance::spec::PipelineSpec;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The pods that run one version of a pipeline: their workers claim its datums, and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The pipeline.
    pub pipeline: Uuid,
    /// Its version.
    pub version: i32,
}

impl Pool {
    /// The name of the pod of that slot.
    pub fn pod(&self, slot: u32) -> String {
        format!("w-{self}-{slot}")
    }

    /// The name of the secret that its agents are configured by.
    pub fn secret(&self) -> String {
        format!("w-{self}")
    }

    /// The name of the secret by which its image is pulled.
    pub fn pull_secret(&self) -> String {
        format!("w-{self}-pull")
    }

    /// The pool and slot of a pod of that name.
    pub fn of_pod(name: &str) -> Option<(Self, u32)> {
        let (rest, slot) = name.strip_prefix("w-")?.rsplit_once('-')?;
        let pool: Self = rest.parse().ok()?;
        let slot = slot.parse().ok()?;
        (pool.pod(slot) == name).then_some((pool, slot))
    }
}

/// What the pods of a pool do: what policies and people tell them apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They run datums.
    Worker,
    /// One runs a command that answers at a port, for as long as its plane is up.
    Service,
    /// One runs a command that makes commits.
    Spout,
}

impl Kind {
    /// What pods of that spec do.
    pub fn of(spec: &PipelineSpec) -> Self {
        match (&spec.service, &spec.spout) {
            (Some(_), _) => Self::Service,
            (None, Some(_)) => Self::Spout,
            (None, None) => Self::Worker,
        }
    }

    /// The value of its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Service => "service",
            Self::Spout => "spout",
        }
    }

    /// That of a label.
    pub fn parse(label: &str) -> Option<Self> {
        [Self::Worker, Self::Service, Self::Spout]
            .into_iter()
            .find(|kind| kind.as_str() == label)
    }

    /// Its command has no end of its own.
    pub const fn lasts(self) -> bool {
        !matches!(self, Self::Worker)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pipeline.simple(), self.version)
    }
}

impl std::str::FromStr for Pool {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pipeline, version) = text.split_once('-').ok_or(())?;
        Ok(Self {
            pipeline: Uuid::try_parse(pipeline).map_err(drop)?,
            version: version.parse().map_err(drop)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_pod_it_is_and_fits_everywhere() {
        let pool = Pool {
            pipeline: Uuid::from_u128(u128::MAX),
            version: i32::MAX,
        };
        let name = pool.pod(u32::MAX);
        assert!(name.len() <= 63, "{name}");
        assert_eq!(Pool::of_pod(&name), Some((pool, u32::MAX)));
        for other in [
            "plane-7c5f",
            "w-1-2-3",
            "w-ffffffffffffffffffffffffffffffff-1-01",
            "w-ffffffffffffffffffffffffffffffff-1",
            "w-",
        ] {
            assert_eq!(Pool::of_pod(other), None, "{other}");
        }
    }
}
