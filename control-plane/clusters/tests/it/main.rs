//! The stores of tenants, against small servers that speak as theirs do.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod credentials;
mod emptying;
mod server;
