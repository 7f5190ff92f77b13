//! Whom an import may speak to: public addresses on the usual ports, and what the configuration names. Pure: addresses and
//! texts in, a decision out. It is asked for every request and for every address that a name stands for, at the moment of
//! connecting, so that neither a redirect nor a name that changes its address leads inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contract::reach::Reach;
use reqwest::Url;

/// Networks that are not public, or not what they seem to be, with why.
const CLOSED_V4: &[(Ipv4Addr, u32)] = &[
    // "This" network, and the unspecified address.
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    // Private.
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Carrier-grade NAT; some clouds' metadata.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    // Loopback.
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // A cloud's agent on its virtual machines.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // Link-local; most clouds' metadata.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Private.
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    // Protocol assignments; a cloud's metadata.
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    // Documentation.
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    // Relays to IPv6.
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    // Private.
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Benchmarks.
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Documentation.
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast.
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    // Reserved, and broadcast.
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Parts of what is given out for unicast (2000::/3) that are not public or stand for an IPv4 address.
const CLOSED_V6: &[(Ipv6Addr, u32)] = &[
    // Protocol assignments, Teredo among them.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    // 6to4.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    // Documentation.
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is somebody's on the public Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !CLOSED_V4
            .iter()
            .any(|(network, bits)| network.to_bits() >> (32 - bits) == v4.to_bits() >> (32 - bits)),
        // Everything else is loopback, mapped, translated, local, multicast or not given out.
        IpAddr::V6(v6) => {
            v6.segments()[0] & 0xe000 == 0x2000
                && !CLOSED_V6
                    .iter()
                    .any(|(network, bits)| network.to_bits() >> (128 - bits) == v6.to_bits() >> (128 - bits))
        }
    }
}

/// Why an address is not fetched from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Neither `http` nor `https`.
    #[error("`{0}:` is no way to fetch something: use `https:`, `http:` or `s3:`")]
    Scheme(String),
    /// A name or password in the address.
    #[error("the address holds a user name or password, which would have to be kept somewhere; leave it out")]
    UserInfo,
    /// No host.
    #[error("the address names no host")]
    NoHost,
    /// A port that is not for the web.
    #[error("port {0} of `{1}` may not be fetched from: only 80 and 443 may")]
    Port(u16, String),
    /// Not public.
    #[error("`{0}` has no public address, so it may not be fetched from")]
    NotPublic(String),
    /// From an encrypted to an open connection.
    #[error("it redirects from `https:` to `http:`")]
    Downgrade,
}

/// Who may be spoken to.
#[derive(Debug, Clone)]
pub struct Reachable(Vec<Reach>);

impl Reachable {
    /// Public addresses, and these.
    pub fn new(allow: &[Reach]) -> Self {
        Self(allow.to_vec())
    }

    /// Whether an address that this name stands for may be connected to.
    pub fn admits(&self, host: &str, address: IpAddr) -> bool {
        is_public(address) || self.0.iter().any(|reach| reach.names(host) || reach.holds(address))
    }

    /// Whether the configuration names this host or, where it is written out, its address: then any port of it may be
    /// connected to.
    pub fn names(&self, host: &str) -> bool {
        let literal = host.parse::<IpAddr>().ok();
        self.0
            .iter()
            .any(|reach| reach.names(host) || literal.is_some_and(|address| reach.holds(address)))
    }

    /// Whether a request may be made, as far as its address tells: what a name stands for is looked at when it is
    /// connected to.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::UserInfo);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Refused::NoHost)?;
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if let Some(address) = literal
            && !self.admits(host, address)
        {
            return Err(Refused::NotPublic(host.to_owned()));
        }
        let named = self
            .0
            .iter()
            .any(|reach| reach.names(host) || literal.is_some_and(|address| reach.holds(address)));
        match url.port() {
            Some(port) if !named && port != 80 && port != 443 => Err(Refused::Port(port, host.to_owned())),
            _ => Ok(()),
        }
    }

    /// Whether a redirect may be followed.
    ///
    /// # Errors
    /// Why not.
    pub fn check_redirect(&self, from: &Url, to: &Url) -> Result<(), Refused> {
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(Refused::Downgrade);
        }
        self.check(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(address: &str) -> bool {
        is_public(address.parse().unwrap_or_else(|_| panic!("{address}")))
    }

    #[test]
    fn what_is_on_the_public_internet_may_be_reached() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2a00:1450::1",
            "3ffe::1",
        ] {
            assert!(public(address), "{address}");
        }
    }

    #[test]
    fn what_leads_inside_may_not() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }

    fn refusal(allow: &[&str], url: &str) -> Option<Refused> {
        let allow: Vec<Reach> = allow.iter().map(|a| a.parse().unwrap()).collect();
        Reachable::new(&allow).check(&url.parse().unwrap()).err()
    }

    #[test]
    fn an_address_is_looked_at_before_anything_is_sent() {
        let not_public = |host: &str| Some(Refused::NotPublic(host.to_owned()));
        for (url, expected) in [
            ("https://example.org/a", None),
            ("http://example.org/a", None),
            ("http://example.org:443/", None),
            ("https://1.1.1.1/", None),
            ("http://127.0.0.1/", not_public("127.0.0.1")),
            // However it is spelled.
            ("http://0x7f.1/", not_public("127.0.0.1")),
            ("http://2130706433/", not_public("127.0.0.1")),
            ("http://017700000001/", not_public("127.0.0.1")),
            ("http://127.1./", not_public("127.0.0.1")),
            ("http://[::1]/", not_public("[::1]")),
            ("http://[::ffff:7f00:1]/", not_public("[::ffff:7f00:1]")),
            ("https://169.254.169.254/latest/", not_public("169.254.169.254")),
            (
                "https://example.org:8080/",
                Some(Refused::Port(8080, "example.org".to_owned())),
            ),
            (
                "https://example.org:22/",
                Some(Refused::Port(22, "example.org".to_owned())),
            ),
            ("https://user@example.org/", Some(Refused::UserInfo)),
            ("https://:secret@example.org/", Some(Refused::UserInfo)),
            ("ftp://example.org/", Some(Refused::Scheme("ftp".to_owned()))),
            ("file:///etc/passwd", Some(Refused::Scheme("file".to_owned()))),
        ] {
            assert_eq!(refusal(&[], url), expected, "{url}");
        }
    }

    #[test]
    fn what_the_configuration_names_may_be_reached_on_any_port_and_nothing_else() {
        let allow = ["127.0.0.1", "10.0.0.0/8", "store.corp"];
        assert_eq!(refusal(&allow, "http://127.0.0.1:9000/"), None);
        assert_eq!(refusal(&allow, "http://10.1.2.3:9000/"), None);
        assert_eq!(refusal(&allow, "http://store.corp:9000/"), None);
        for url in [
            "http://127.0.0.2/",
            "http://192.168.0.1/",
            "http://[::1]/",
            "http://other.corp:9000/",
        ] {
            assert!(refusal(&allow, url).is_some(), "{url}");
        }
        let reachable = Reachable::new(&[Reach::Host("store.corp".to_owned())]);
        let inside = "192.168.1.1".parse().unwrap();
        assert!(reachable.admits("store.corp", inside));
        assert!(!reachable.admits("other.corp", inside));
        assert!(reachable.admits("other.corp", "1.1.1.1".parse().unwrap()));
    }

    #[test]
    fn a_redirect_leads_neither_inside_nor_out_of_encryption() {
        let reachable = Reachable::new(&[]);
        let check = |from: &str, to: &str| reachable.check_redirect(&from.parse().unwrap(), &to.parse().unwrap());
        assert_eq!(check("http://a.org/", "https://b.org/"), Ok(()));
        assert_eq!(check("https://a.org/", "https://b.org/"), Ok(()));
        assert_eq!(check("https://a.org/", "http://a.org/"), Err(Refused::Downgrade));
        for to in [
            "http://127.0.0.1/",
            "http://[::1]/",
            "file:///etc/passwd",
            "http://x@b.org/",
            "http://b.org:6379/",
        ] {
            assert!(check("http://a.org/", to).is_err(), "{to}");
        }
    }
}
