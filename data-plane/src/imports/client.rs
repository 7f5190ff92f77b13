//! The HTTP client of imports. Names are resolved by us and addresses that may not be reached are left out before any is
//! connected to; it follows no redirect by itself, asks no proxy, decodes nothing, and keeps no cookies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::{Reachable, Refused};

struct Resolver(Arc<Reachable>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reachable = Arc::clone(&self.0);
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            let open: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| reachable.admits(host, address.ip()))
                .collect();
            if open.is_empty() {
                return Err(Refused::NotPublic(host.to_owned()).into());
            }
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// Makes the client. It gives up where nothing comes for `idle`: what asks for several pages at once has no other time-out.
pub fn client(reachable: &Arc<Reachable>, connect: Duration, idle: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .dns_resolver(Arc::new(Resolver(Arc::clone(reachable))))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(connect)
        .read_timeout(idle)
        .user_agent(concat!("howdah/", env!("CARGO_PKG_VERSION")))
        .build()
}
