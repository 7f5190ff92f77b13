//! How often a stranger may try. Counted by address, and for log-ins by account and address, so that nobody can lock
//! somebody else out from elsewhere. Loopback is the embedded service and gets more.

use std::net::IpAddr;
use std::num::NonZeroU32;

use contract::ids::{AccountId, OrganizationId};
use contract::problem::ProblemKind;
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::refusal::Refusal;
use crate::traffic::TrafficLimits;

/// The limits, per minute.
#[derive(Debug, Clone)]
pub struct RateLimits {
    /// Log-ins of one account from one address.
    pub log_ins: u32,
    /// New accounts from one address.
    pub sign_ups: u32,
    /// Mails to one address that are asked for from one address, per hour. From everywhere together: four times as many.
    pub mails: u32,
    /// New passwords that are asked for from one address, for whomever, per hour.
    pub resets: u32,
    /// Codes that are tried from one address.
    pub codes: u32,
    /// Exchanges of CI tokens from one address: runners of a whole company may share one.
    pub exchanges: u32,
    /// Log-ins by another device that begin from one address.
    pub device_logins: u32,
    /// Codes of such log-ins that one account types.
    pub device_codes: u32,
    /// Refused CI runs that one organization's audit trail tells of: of each trust, and of what no issuer signed.
    pub refused_runs: u32,
    /// Second factors of one account, per hour, wherever they come from.
    pub second_factors: u32,
    /// How many times as much a loopback address may do.
    pub loopback_factor: u32,
    /// Requests of every kind.
    pub traffic: TrafficLimits,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            log_ins: 10,
            sign_ups: 5,
            mails: 10,
            resets: 20,
            codes: 20,
            exchanges: 120,
            device_logins: 10,
            device_codes: 10,
            refused_runs: 3,
            second_factors: 10,
            loopback_factor: 60,
            traffic: TrafficLimits::default(),
        }
    }
}

/// Counts.
pub struct Limiters {
    log_ins: [DefaultKeyedRateLimiter<(String, IpAddr)>; 2],
    sign_ups: [DefaultKeyedRateLimiter<IpAddr>; 2],
    mails: [DefaultKeyedRateLimiter<(String, IpAddr)>; 2],
    mails_in_all: [DefaultKeyedRateLimiter<String>; 2],
    resets: [DefaultKeyedRateLimiter<IpAddr>; 2],
    codes: [DefaultKeyedRateLimiter<IpAddr>; 2],
    exchanges: [DefaultKeyedRateLimiter<IpAddr>; 2],
    refused_runs: DefaultKeyedRateLimiter<(OrganizationId, String)>,
    second_factors: DefaultKeyedRateLimiter<AccountId>,
    device_logins: [DefaultKeyedRateLimiter<IpAddr>; 2],
    device_codes: DefaultKeyedRateLimiter<String>,
}

fn per_minute(count: u32) -> Quota {
    Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN))
}

fn per_hour(count: u32) -> Quota {
    Quota::per_hour(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN))
}

impl Limiters {
    /// Begins to count.
    pub fn new(limits: &RateLimits) -> Self {
        let more = limits.loopback_factor;
        Self {
            log_ins: [limits.log_ins, limits.log_ins.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_minute(n))),
            sign_ups: [limits.sign_ups, limits.sign_ups.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_minute(n))),
            mails: [limits.mails, limits.mails.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_hour(n))),
            mails_in_all: [limits.mails, limits.mails.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_hour(n.saturating_mul(4)))),
            resets: [limits.resets, limits.resets.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_hour(n))),
            second_factors: DefaultKeyedRateLimiter::keyed(per_hour(limits.second_factors)),
            codes: [limits.codes, limits.codes.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_minute(n))),
            exchanges: [limits.exchanges, limits.exchanges.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_minute(n))),
            refused_runs: DefaultKeyedRateLimiter::keyed(per_minute(limits.refused_runs)),
            device_logins: [limits.device_logins, limits.device_logins.saturating_mul(more)]
                .map(|n| DefaultKeyedRateLimiter::keyed(per_minute(n))),
            device_codes: DefaultKeyedRateLimiter::keyed(per_minute(limits.device_codes)),
        }
    }

    /// Counts a log-in.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn log_in(&self, email_key: &str, address: IpAddr) -> Result<(), Refusal> {
        self.log_ins[usize::from(address.is_loopback())]
            .check_key(&(email_key.to_owned(), network(address)))
            .map_err(|_| slow_down("log-ins for this account"))
    }

    /// Counts a sign-up.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn sign_up(&self, address: IpAddr) -> Result<(), Refusal> {
        self.sign_ups[usize::from(address.is_loopback())]
            .check_key(&network(address))
            .map_err(|_| slow_down("new accounts"))
    }

    /// Counts a mail that somebody asks for. By whom it is for and who asks, so that a stranger does not use it up for others; and more
    /// loosely by whom it is for alone, so that nobody's mailbox is filled.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn mail(&self, email_key: &str, address: IpAddr) -> Result<(), Refusal> {
        let here = usize::from(address.is_loopback());
        self.mails[here]
            .check_key(&(email_key.to_owned(), address))
            .and_then(|()| self.mails_in_all[here].check_key(&email_key.to_owned()))
            .map_err(|_| {
                Refusal::new(ProblemKind::SlowDown, "too many mails to this address were asked for")
                    .hint("look for the last one, or wait some minutes")
            })
    }

    /// Counts a new password that somebody asks for, whosever it is.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn reset(&self, address: IpAddr) -> Result<(), Refusal> {
        self.resets[usize::from(address.is_loopback())]
            .check_key(&address)
            .map_err(|_| slow_down("new passwords"))
    }

    /// Counts a code that is tried.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn code(&self, address: IpAddr) -> Result<(), Refusal> {
        self.codes[usize::from(address.is_loopback())]
            .check_key(&network(address))
            .map_err(|_| slow_down("codes"))
    }

    /// Counts an exchange of a CI token.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn exchange(&self, address: IpAddr) -> Result<(), Refusal> {
        self.exchanges[usize::from(address.is_loopback())]
            .check_key(&network(address))
            .map_err(|_| slow_down("exchanges of tokens"))
    }

    /// Counts a log-in by another device.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn device_login(&self, address: IpAddr) -> Result<(), Refusal> {
        self.device_logins[usize::from(address.is_loopback())]
            .check_key(&address)
            .map_err(|_| slow_down("log-ins by another device"))
    }

    /// Counts a code that an account types.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn device_code(&self, account: &str) -> Result<(), Refusal> {
        self.device_codes
            .check_key(&account.to_owned())
            .map_err(|_| slow_down("codes"))
    }

    /// Counts a refused CI run of an organization by what it came near to, which must be one of few; whether it is still to be told.
    pub fn refused_run(&self, organization: OrganizationId, near: String) -> bool {
        self.refused_runs.check_key(&(organization, near)).is_ok()
    }

    /// Counts a second factor that is tried. Who tries knows the password already, so neither address nor machine gets more.
    ///
    /// # Errors
    /// `slow-down` when there were too many.
    pub fn second_factor(&self, account: AccountId) -> Result<(), Refusal> {
        self.second_factors.check_key(&account).map_err(|_| {
            Refusal::new(
                ProblemKind::SlowDown,
                "too many second factors were tried for this account",
            )
            .hint("wait some minutes; if that was not you, change the password")
        })
    }

    /// Forgets addresses that have not tried for long.
    pub fn forget_old(&self) {
        self.log_ins.iter().for_each(governor::RateLimiter::retain_recent);
        self.sign_ups.iter().for_each(governor::RateLimiter::retain_recent);
        self.mails.iter().for_each(governor::RateLimiter::retain_recent);
        self.mails_in_all.iter().for_each(governor::RateLimiter::retain_recent);
        self.resets.iter().for_each(governor::RateLimiter::retain_recent);
        self.codes.iter().for_each(governor::RateLimiter::retain_recent);
        self.exchanges.iter().for_each(governor::RateLimiter::retain_recent);
        self.refused_runs.retain_recent();
        self.second_factors.retain_recent();
        self.device_logins.iter().for_each(governor::RateLimiter::retain_recent);
        self.device_codes.retain_recent();
    }
}

/// As whom an address counts: who has one of IPv6 has the 2^64 beside it too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn slow_down(what: &str) -> Refusal {
    Refusal::new(ProblemKind::SlowDown, format!("too many {what} from this address"))
        .hint("wait a minute before the next try")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn another_address_is_not_held_up_by_the_first_one() {
        let limiters = Limiters::new(&RateLimits {
            log_ins: 2,
            ..RateLimits::default()
        });
        let [here, there]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        assert!(limiters.log_in("ada", here).is_ok() && limiters.log_in("ada", here).is_ok());
        assert!(limiters.log_in("ada", here).is_err());
        assert!(limiters.log_in("ada", there).is_ok());
        assert!(limiters.log_in("bob", here).is_ok());
    }

    #[test]
    fn mails_are_counted_by_who_asks_and_more_loosely_by_whom_they_are_for() {
        let limiters = Limiters::new(&RateLimits {
            mails: 1,
            resets: 2,
            ..RateLimits::default()
        });
        let at = |n: u8| IpAddr::from([192, 0, 2, n]);
        assert!(limiters.mail("ada", at(1)).is_ok() && limiters.mail("ada", at(1)).is_err());
        assert!((2..=4).all(|n| limiters.mail("ada", at(n)).is_ok()));
        assert!(limiters.mail("ada", at(5)).is_err());
        assert!(limiters.reset(at(1)).is_ok() && limiters.reset(at(1)).is_ok());
        assert!(limiters.reset(at(1)).is_err() && limiters.reset(at(2)).is_ok());
    }
}
