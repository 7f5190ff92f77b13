//! Counts of requests by who makes them, as a leaking bucket for each (governor's GCRA).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::{Class, PerMinute, TrafficLimits, slow_down};
use crate::refusal::Refusal;

/// Who takes something of the service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An address; of IPv6 the network that one household or machine gets.
    Address(IpAddr),
    /// A session or API token, by the beginning of its digest.
    Token([u8; 16]),
    /// An account or service account.
    Account(String),
    /// An organization.
    Organization(String),
}

impl Subject {
    /// An address as it is counted.
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & (u128::MAX << 64);
                Self::Address(IpAddr::V6(network.into()))
            }
            v4 => Self::Address(v4),
        }
    }

    fn place(&self) -> usize {
        match self {
            Self::Address(_) => 0,
            Self::Token(_) => 1,
            Self::Account(_) => 2,
            Self::Organization(_) => 3,
        }
    }

    /// What it is called, in headers and refusals.
    pub fn name(&self) -> &'static str {
        ["address", "token", "account", "organization"][self.place()]
    }
}

type Limiter =
    RateLimiter<(Subject, Class), DefaultKeyedStateStore<(Subject, Class)>, DefaultClock, StateInformationMiddleware>;

/// What is left to a subject in a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Whose.
    pub of: &'static str,
    /// What a minute holds.
    pub limit: u32,
    /// What is left now.
    pub left: u32,
    /// Seconds until something is there again; 0 while there is.
    pub wait: u64,
}

/// Counts.
pub struct Meters {
    /// By kind of subject, class, and whether it is on this machine.
    limiters: [[[Limiter; 2]; 5]; 4],
    limits: TrafficLimits,
    clock: DefaultClock,
}

impl Meters {
    /// Begins to count.
    pub fn new(limits: &TrafficLimits) -> Self {
        let of = |PerMinute(counts): PerMinute| {
            counts.map(|n| {
                [n, n.saturating_mul(limits.loopback_factor)].map(|n| {
                    let n = NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
                    RateLimiter::keyed(Quota::per_minute(n)).with_middleware::<StateInformationMiddleware>()
                })
            })
        };
        Self {
            limiters: [limits.address, limits.token, limits.account, limits.organization].map(of),
            limits: limits.clone(),
            clock: DefaultClock::default(),
        }
    }

    fn limit(&self, subject: &Subject, class: Class, here: bool) -> u32 {
        let limits = [
            self.limits.address,
            self.limits.token,
            self.limits.account,
            self.limits.organization,
        ];
        let PerMinute(counts) = limits[subject.place()];
        let factor = if here { self.limits.loopback_factor } else { 1 };
        counts[class as usize].saturating_mul(factor)
    }

    /// Counts one request of a subject in a class; `here`: it comes from this machine. Answers what is left.
    ///
    /// # Errors
    /// `slow-down` when nothing is, with what to tell in the headers.
    pub fn count(&self, subject: &Subject, class: Class, here: bool) -> Result<Spent, (Spent, Refusal)> {
        let limit = self.limit(subject, class, here);
        let spent = |left, wait: Duration| Spent {
            of: subject.name(),
            limit,
            left,
            wait: wait.as_secs() + u64::from(wait.subsec_nanos() > 0),
        };
        let limiter = &self.limiters[subject.place()][class as usize][usize::from(here)];
        match limiter.check_key(&(subject.clone(), class)) {
            Ok(state) => Ok(spent(state.remaining_burst_capacity(), Duration::ZERO)),
            Err(refused) => {
                let spent = spent(0, refused.wait_time_from(self.clock.now()));
                Err((spent, slow_down(class, &format!("this {}", subject.name()))))
            }
        }
    }

    /// Forgets who has not come for long.
    pub fn forget_old(&self) {
        let all = self.limiters.iter().flatten().flatten();
        all.for_each(RateLimiter::retain_recent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_all_of_it_holds_up_nobody_else() {
        let mut limits = TrafficLimits::default();
        limits.address.0 = [2; 5];
        let meters = Meters::new(&limits);
        let (a, b) = (
            Subject::address("192.0.2.1".parse().unwrap()),
            Subject::address("192.0.2.2".parse().unwrap()),
        );
        assert_eq!(meters.count(&a, Class::Read, false).unwrap().left, 1);
        assert_eq!(meters.count(&a, Class::Read, false).unwrap().left, 0);
        let (spent, _) = meters.count(&a, Class::Read, false).unwrap_err();
        assert_eq!((spent.of, spent.limit, spent.left), ("address", 2, 0));
        assert!((1..=30).contains(&spent.wait), "{spent:?}");
        assert!(meters.count(&b, Class::Read, false).is_ok());
        assert!(meters.count(&a, Class::Write, false).is_ok(), "another class");
        assert!(meters.count(&a, Class::Read, true).is_ok(), "this machine counts apart");
    }

    #[test]
    fn a_household_of_many_addresses_is_one() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"]
            .map(|text| Subject::address(text.parse::<IpAddr>().unwrap()));
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
