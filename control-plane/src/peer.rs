//! From where a request comes, as its sender's sessions and security log show it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header;
use axum::http::request::Parts;

const USER_AGENT_LENGTH_MAX: usize = 200;

/// The other side of a request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// What its program calls itself; empty when it says nothing.
    pub user_agent: String,
}

impl Peer {
    /// What the request says.
    pub fn of(parts: &Parts) -> Self {
        let connected = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let agent = parts.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        Self {
            // Who is not known is nobody that gets more than others.
            address: connected.map_or(Ipv4Addr::UNSPECIFIED.into(), |info| info.0.ip().to_canonical()),
            user_agent: agent.unwrap_or_default().chars().take(USER_AGENT_LENGTH_MAX).collect(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts))
    }
}
