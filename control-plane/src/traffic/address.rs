//! Whose address a request comes from, where proxies of the operator's stand before the service.

use std::net::IpAddr;

use axum::http::HeaderMap;
use contract::reach::Reach;

/// The operator's own proxies: what they say of whom they speak for is believed, and nobody else's word is.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<Reach>);

impl Proxies {
    /// The networks that they are in.
    pub fn new(networks: Vec<Reach>) -> Self {
        Self(networks)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(address))
    }

    /// The address of the client: the last one on the way that is not a proxy's. What stands before it in `X-Forwarded-For` anybody
    /// may have written.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.has(client) {
            return client;
        }
        let lines: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        for hop in lines.join(",").split(',').rev() {
            let Ok(address) = hop.trim().parse::<IpAddr>() else {
                break;
            };
            let address = address.to_canonical();
            // Nobody comes from there by way of a proxy: it would be taken for the operator himself.
            if address.is_loopback() || address.is_unspecified() {
                break;
            }
            client = address;
            if !self.has(client) {
                break;
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_proxies_of_the_operator_say_is_believed() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let client = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            proxies.client(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            client("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["127.0.0.1"]), "10.0.0.1");
    }
}
