//! What a data plane may fetch from besides the public Internet, as whoever operates it writes it down.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A host, a domain with everything below it, or a network, on any port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// `data.example.org`
    Host(String),
    /// `*.example.org`: every name below it.
    Below(String),
    /// `10.1.0.0/16`, or one address.
    Network(IpAddr, u8),
}

/// A text that is none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host, `*.domain`, address or network such as `10.1.0.0/16`")]
pub struct ParseReachError(String);

impl Reach {
    /// Whether a host is meant by its name, whatever addresses it has. Names are compared in lower case.
    pub fn names(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        match self {
            Self::Host(name) => host == *name,
            Self::Below(domain) => host
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
            Self::Network(..) => false,
        }
    }

    /// Whether an address lies in the network.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Network(IpAddr::V4(network), bits), IpAddr::V4(address)) => same_bits(
                network.to_bits().into(),
                address.to_bits().into(),
                32 - u32::from(*bits),
            ),
            (Self::Network(IpAddr::V6(network), bits), IpAddr::V6(address)) => {
                same_bits(network.to_bits(), address.to_bits(), 128 - u32::from(*bits))
            }
            _ => false,
        }
    }
}

/// Whether two addresses are the same but for so many bits at the end.
fn same_bits(a: u128, b: u128, but: u32) -> bool {
    a.checked_shr(but).unwrap_or(0) == b.checked_shr(but).unwrap_or(0)
}

fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl FromStr for Reach {
    type Err = ParseReachError;

    fn from_str(text: &str) -> Result<Self, ParseReachError> {
        let wrong = || ParseReachError(text.chars().take(80).collect());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?;
            return Ok(Self::Network(address, bits));
        }
        let name = text.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(domain) if is_name(domain) => Ok(Self::Below(domain.to_owned())),
            None if is_name(&name) => Ok(Self::Host(name)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Network(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

impl Serialize for Reach {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_what_was_written_and_nothing_beside_it() {
        for (text, host, expected) in [
            ("data.example.org", "data.example.org", true),
            ("data.example.org", "DATA.example.org.", true),
            ("data.example.org", "x.data.example.org", false),
            ("data.example.org", "example.org", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "badexample.org", false),
            ("10.0.0.0/8", "10.0.0.1", false),
        ] {
            assert_eq!(text.parse::<Reach>().unwrap().names(host), expected, "{text} {host}");
        }
        for (text, address, expected) in [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "192.168.1.1", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fc00::1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
        ] {
            let reach: Reach = text.parse().unwrap();
            assert_eq!(reach.holds(address.parse().unwrap()), expected, "{text} {address}");
            assert_eq!(reach.to_string().parse::<Reach>().unwrap(), reach);
        }
        for text in [
            "",
            "a b",
            "*",
            "*.",
            "10.0.0.0/33",
            "::/129",
            "x/8",
            "http://a",
            "a:80",
            "a..b",
            "a/b",
        ] {
            assert!(text.parse::<Reach>().is_err(), "{text}");
        }
    }
}
