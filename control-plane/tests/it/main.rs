//! The control plane against a real PostgreSQL: slices through HTTP, the reconciler against a cloud that fails, and the
//! real process with a data plane that is a script.
//!
//! Tests run on a runtime with a thread beside their own: the end of a test blocks it while its database is dropped, and
//! PostgreSQL waits with that for connections which the service has only half made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod app;
mod audit;
mod audit_reading;
mod authenticator;
mod authorization;
mod authorization_table;
mod ci;
mod ci_issuer;
mod ci_matrix;
mod cloud;
mod deletion;
mod deletions;
mod device_logins;
mod ec_key;
mod etags;
#[path = "../../../data-plane/tests/it/forged.rs"]
mod forged;
mod gateway;
mod gateway_tokens;
mod idempotency;
mod issuer;
mod keys;
mod mail;
mod members;
mod notices;
mod passkeys;
mod planes;
mod policy;
mod process;
mod proofs;
mod releases;
mod rollouts;
mod scopes;
mod second_factors;
mod single_sign_on;
mod smtp;
mod takeovers;
mod token_life;
mod tokens;
mod traffic;
mod vault;
mod walls;
