//! Time and randomness as values. They are arguments everywhere, so that tests decide what time it is and a failing
//! random test can be run again from its seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Duration, Utc};
use contract::ids::GenerateId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Where a process takes time and randomness from. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    clock: Clock,
    entropy: Entropy,
}

#[derive(Clone)]
enum Clock {
    System,
    Manual(Arc<Mutex<DateTime<Utc>>>),
}

#[derive(Clone)]
enum Entropy {
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Environment {
    /// The real clock and the operating system's randomness.
    pub fn system() -> Self {
        Self {
            clock: Clock::System,
            entropy: Entropy::System,
        }
    }

    /// A clock that stands until it is advanced, and randomness from a seed.
    pub fn simulated(now: DateTime<Utc>, seed: u64) -> Self {
        Self {
            clock: Clock::Manual(Arc::new(Mutex::new(now))),
            entropy: Entropy::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))),
        }
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the real clock")]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.clock {
            // PostgreSQL keeps microseconds: a time that was stored and read again equals itself.
            Clock::System => {
                let now = Utc::now();
                DateTime::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
            }
            Clock::Manual(now) => *locked(now),
        }
    }

    /// Moves a simulated clock; the real one cannot be moved, which is a mistake of the test that tries.
    pub fn advance(&self, by: Duration) {
        match &self.clock {
            Clock::System => panic!("the system clock cannot be advanced"),
            Clock::Manual(now) => *locked(now) += by,
        }
    }

    /// Random bytes, fit for secrets when the environment is the system's.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.entropy {
            Entropy::System => rand::rng().fill_bytes(&mut bytes),
            Entropy::Seeded(rng) => locked(rng).fill_bytes(&mut bytes),
        }
        bytes
    }

    /// A new id of any kind.
    pub fn id<T: GenerateId>(&self) -> T {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or(0);
        T::generate_id(millis, self.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ids::JobId;

    #[test]
    fn one_seed_gives_the_same_ids_again() {
        let make = || Environment::simulated(DateTime::UNIX_EPOCH, 7).id::<JobId>();
        assert_eq!(make(), make());
    }

    #[test]
    fn a_simulated_clock_moves_only_when_told() {
        let environment = Environment::simulated(DateTime::UNIX_EPOCH, 7);
        environment.advance(Duration::days(1));
        assert_eq!(environment.now(), DateTime::UNIX_EPOCH + Duration::days(1));
    }
}
