//! Who is let in at the workers' API, and what for. The plane's own worker shows a secret of this boot, and is told everything;
//! workers of a pool show a capability, which is good over restarts of the plane, and are told of their pool's jobs and nothing
//! else, whatever they name.

use axum::http::HeaderMap;
use contract::problem::ProblemKind;
use uuid::Uuid;

use super::protocol::{POOL_HEADER, Pool, SECRET_HEADER};
use super::queries;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::{Plane, Tx};

/// What a worker was let in as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// One that the plane started itself.
    Own,
    /// One of a pool.
    Pool(Pool),
}

impl Admitted {
    /// The pool that it is confined to.
    pub fn pool(&self) -> Option<Pool> {
        match self {
            Self::Own => None,
            Self::Pool(pool) => Some(*pool),
        }
    }

    /// What it is called in leases. A pool's workers have names of that pool: none of another one can speak for them, even if it
    /// knew theirs.
    pub fn worker(&self, named: Uuid) -> Uuid {
        match self {
            Self::Own => named,
            Self::Pool(pool) => {
                let digest = blake3::hash(format!("{pool} {named}").as_bytes());
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest.as_bytes()[..16]);
                Uuid::from_bytes(bytes)
            }
        }
    }

    /// Whether it may name these jobs. Those that are not there any more anybody may.
    ///
    /// # Errors
    /// `not-found` when one is another pool's; when the database is away.
    pub async fn may_name(&self, tx: &mut Tx, proof: &System, jobs: &[Uuid]) -> Answer<()> {
        match self {
            Self::Pool(pool) if queries::is_any_elsewhere(tx, proof, jobs, *pool).await? => Err(Failure::new(
                ProblemKind::NotFound,
                "a job that was named is none of this worker's pool",
            )),
            Self::Own | Self::Pool(_) => Ok(()),
        }
    }
}

/// Lets a worker in.
///
/// # Errors
/// `signed-out` for everybody else.
pub fn admit(plane: &Plane, headers: &HeaderMap) -> Answer<Admitted> {
    let given = headers.get(SECRET_HEADER).map_or(&b""[..], |v| v.as_bytes());
    let Some(pool) = headers.get(POOL_HEADER) else {
        // Digests are compared, so that the time tells nothing of the secret.
        return match blake3::hash(given) == blake3::hash(plane.worker_secret.as_bytes()) {
            true => Ok(Admitted::Own),
            false => Err(signed_out("this is no worker of this boot of the plane")),
        };
    };
    let pool: Option<Pool> = pool.to_str().ok().and_then(|text| text.parse().ok());
    let capability = std::str::from_utf8(given).unwrap_or_default();
    match pool {
        Some(pool) if plane.capabilities.is_of(capability, pool) => Ok(Admitted::Pool(pool)),
        _ => Err(signed_out("this is no worker of that pool")),
    }
}

fn signed_out(detail: &str) -> Failure {
    Failure::new(ProblemKind::SignedOut, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_in_two_pools_is_two_workers() {
        let of = |version| {
            let pipeline = Uuid::from_u128(1);
            Admitted::Pool(Pool { pipeline, version }).worker(Uuid::from_u128(7))
        };
        assert_eq!(Admitted::Own.worker(Uuid::from_u128(7)), Uuid::from_u128(7));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_ne!(of(1), Uuid::from_u128(7));
    }
}
