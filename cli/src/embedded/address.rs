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
