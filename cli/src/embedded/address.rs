//! Where the service listens: the address is tried before anything is started, so that a port in use is a clear message and
//! not a crash loop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::failure::{Exit, Failure, Outcome};

/// Parses `--listen`: `host:port`, `:port` or a port.
///
/// # Errors
/// When it is none of them.
pub(super) fn parse(text: &str) -> Outcome<SocketAddr> {
    let text = text.trim();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if let Ok(port) = text.trim_start_matches(':').parse() {
        return Ok(SocketAddr::new(loopback, port));
    }
    text.replace("localhost", "127.0.0.1").parse().map_err(|_| {
        Failure::usage(
            format!("cannot listen at `{text}`"),
            "that is no address and port",
            "write `--listen 127.0.0.1:7433`",
        )
    })
}

/// Tries to listen there; answers the address with its real port.
///
/// # Errors
/// Exit code 6 when the port is in use.
pub(super) fn probe(address: SocketAddr) -> Outcome<SocketAddr> {
    TcpListener::bind(address)
        .and_then(|l| l.local_addr())
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::AddrInUse {
                Failure::new(
                    format!("cannot listen at {address}"),
                    "another process uses this port",
                    "stop it, or choose another with `howdah up --listen 127.0.0.1:0`",
                )
                .with_exit(Exit::Conflict)
            } else {
                Failure::new(
                    format!("cannot listen at {address}"),
                    error,
                    "choose another address with `howdah up --listen ADDR`",
                )
            }
        })
}

/// Where the service listens.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    /// The API.
    pub(super) listen: String,
    /// Services of pipelines; `None`: beside the API.
    pub(super) services_listen: Option<String>,
}

/// From here on ports are handed out by the system.
const EPHEMERAL_LEAST: u16 = 32_768;

/// The address of services: the port behind that of the API, or any free one.
///
/// # Errors
/// When there is none.
pub(super) fn beside(api: SocketAddr) -> Outcome<SocketAddr> {
    let next = (api.port() < EPHEMERAL_LEAST).then(|| SocketAddr::new(api.ip(), api.port() + 1));
    match next.map(probe) {
        Some(Ok(address)) => Ok(address),
        _ => probe(SocketAddr::new(api.ip(), 0)),
    }
}

/// By what browsers on this machine reach services: they know that names below `localhost` are this machine.
pub(super) fn services_url(address: SocketAddr) -> String {
    format!("http://*.localhost:{}", address.port())
}

/// What people on this machine reach that address by.
pub(super) fn public_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("http://127.0.0.1:{}", address.port());
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let text = |t| parse(t).map(|a| a.to_string()).ok();
        assert_eq!(text("127.0.0.1:8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(text(":8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(text("8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(text("localhost:0").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(text("somewhere"), None);
    }

    #[test]
    fn a_port_in_use_is_a_conflict_that_says_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = probe(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(failure.exit, Exit::Conflict);
        assert!(failure.hint.contains("--listen"), "{}", failure.hint);
    }
}
